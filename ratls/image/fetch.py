"""Downloads what the locks name, by the user's own `pip` and `apt-get`, from where these look.

    fetch_wheels(folder, wheels)
    fetch_debs(folder, debs)

What comes is not believed: `ratls.image.parts` compares each file with the lock.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ratls.image.errors import ImageError
from ratls.image.locks import Locked
from verifier.text import cause

# Of CPython 3.11 on Debian 12, the interpreter of the image and not the one that runs this.
PLATFORM = (
    *("--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"),
    *("--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"),
)


class DownloadFailed(ImageError):
    """pip or apt-get brought no package."""

    code = "image-download-failed"
    default_fix = (
        "run the same command by hand; offline, give folders with the files: --wheels and --debs"
    )


def fetch_wheels(folder: Path, locked: Sequence[Locked]) -> None:
    """Into an existing folder. Raises: DownloadFailed."""
    lock = folder / "lock.txt"
    lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in locked]
    lock.write_text("".join(lines), "ascii")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    options = ("--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(lock))
    _run([*pip, *options, *PLATFORM], folder)


def fetch_debs(folder: Path, locked: Sequence[Locked]) -> None:
    """Into an existing folder. Raises: DownloadFailed."""
    names = [f"{one.name}:amd64={one.version}" for one in locked]
    _run(["apt-get", "download", "-q", *names], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise DownloadFailed(command[0], expected="to run", found=cause(error)) from error
    if done.returncode:
        # pip names the package of a wrong hash some lines before its end.
        last = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        shown = " ".join(command[:2]) if command[0] == "apt-get" else "pip download"
        raise DownloadFailed(shown, expected="status 0", found=f"status {done.returncode}: {last}")
