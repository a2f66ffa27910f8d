"""Commands that stay, each in a process of its own, and ports for them.

enclave, scheduler = free_ports()
with staying(["ratls", "scheduler", "serve", …], folder, env, "ready"):
    ...   # it has said the word, and is told to end afterwards
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit


def free_ports() -> tuple[int, int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]


@contextmanager
def staying(script: list[str], folder: Path, env: dict[str, str], word: str) -> Iterator[None]:
    """A terminal whose command goes on; entered once it has said the word."""
    child = subprocess.Popen(
        script, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        said: list[str] = []
        while not said or word not in said[-1].split():
            line = lines.get(timeout=HANG_LIMIT)
            assert line is not None, "".join(said)
            said.append(line)
        yield
    finally:
        child.terminate()
        assert child.wait(timeout=HANG_LIMIT) == Exit.YES
        reader.join(timeout=HANG_LIMIT)
