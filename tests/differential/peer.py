"""The other verifier, asked through pipes, and started again whenever it ends.

with Peer() as peer:
    peer.ask(question)
    peer.answer()  # between the two calls it works, and so can we
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.differential.peer_process import FRAME
from tests.differential.question import Answer, Question

_COMMAND = [sys.executable, str(Path(__file__).with_name("peer_process.py"))]


class Peer:
    """One process of the other verifier."""

    def __init__(self) -> None:
        self._process = self._start()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        # Its panics write traces to stderr, which say nothing that the answer does not.
        return subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=-1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _open(pipe).close()

    def ask(self, question: Question) -> None:
        """Send a question; `answer` must follow."""
        root = question.root.der or b""
        sizes = len(root), len(question.quote), len(question.bundle)
        pipe = _open(self._process.stdin)
        pipe.write(FRAME.pack(question.at, *sizes) + root + question.quote + question.bundle)
        pipe.flush()

    def answer(self) -> Answer:
        """What it says to the last question. Ended by it: refused, and a new one is started."""
        line = _open(self._process.stdout).readline()
        if not line:
            self._end()
            self._process = self._start()
            return Answer(False, "its process ended", crashed=True)
        said = json.loads(line)
        if "status" in said:
            return Answer(True, said["status"], advisories=frozenset(said["advisories"]))
        return Answer(False, said["reason"], crashed="crashed" in said)


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "both pipes were asked for"
    return pipe
