"""A PostgreSQL server of our own: a new cluster in a temporary folder, on a unix socket only.

    with cluster() as url: ...   # postgresql+psycopg://postgres@/postgres?host=…

It never runs as root, which the server refuses. Absent binaries are told aloud: `binaries` is
None then, and `require_binaries` skips, or fails under RATLS_REQUIRE_POSTGRESQL=1.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest


def binaries() -> Path | None:
    """The folder of the newest installed server."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((p.parent for p in found), key=lambda p: int(p.parent.name), default=None)


def require_binaries() -> Path:
    folder = binaries()
    if folder is None:
        if os.environ.get("RATLS_REQUIRE_POSTGRESQL") == "1":
            pytest.fail("RATLS_REQUIRE_POSTGRESQL=1 and no PostgreSQL server is installed")
        pytest.skip("POSTGRESQL ABSENT: install the server of your distribution")
    return folder


@contextmanager
def cluster() -> Iterator[str]:
    """A running server with one superuser `postgres`, trusted on its socket; its URL."""
    tools, folder = require_binaries(), Path(mkdtemp(prefix="ratls-pg-"))
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(tool: str, *arguments: str) -> None:
        subprocess.run(
            [tools / tool, "-D", folder / "data", *arguments],
            user=user,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    try:
        run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "start", "--wait", "--log", str(folder / "log"), "--options", options)
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--mode", "immediate")
    finally:
        shutil.rmtree(folder)
