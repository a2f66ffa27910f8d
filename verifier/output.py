"""The process's standard streams. Output that cannot be written is a refusal or a count.

    prepare_streams()                          # first thing in a command
    Lines(sys.stderr).put(lambda lost: "…")   # never raises, waits for no reader

An answer that cannot be written is a refusal. A report of what has happened must never stop the
work: it is dropped and counted, and the next line that can be written says how many were dropped.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from verifier.errors import ConfigError, Exit
from verifier.text import cause

READER_SECONDS = 0.2  # for a reader that is slow; one that was too slow gets none until it reads


def prepare_streams() -> None:
    """Replace the three standard streams by safe ones. A second call changes nothing.

    Characters that an output cannot encode are escaped; what stdout does not take is a refusal;
    what stderr does not take is dropped. A stream that was replaced is left alone.
    """
    if sys.stdin is None:
        sys.stdin = open(_occupied(0), closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.__stdout__, _refuse)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.__stderr__, lambda error: None)


def _occupied(number: int) -> int:
    """A handle that reads nothing and takes nothing, in the place of a stream that is closed.

    The next file opened would have its number: a library's complaint would be written into the
    journal. Where another file has the number already, that file is not a standard stream.
    """
    handle = os.open(os.devnull, os.O_RDONLY)
    if handle == number:
        os.set_inheritable(handle, True)
    return handle


def _stream(
    number: int, before: TextIO | None, failed: Callable[[OSError], None]
) -> io.TextIOWrapper:
    handle = number if before else _occupied(number)
    return io.TextIOWrapper(
        _Descriptor(handle, failed),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",
        write_through=True,
    )


class _Descriptor(io.RawIOBase):
    """Writes at once and whole. Nothing is left for the end of the interpreter, which would fail
    with a status of its own.
    """

    def __init__(self, handle: int, failed: Callable[[OSError], None]) -> None:
        self._handle, self._failed = handle, failed
        self.name = f"<descriptor {handle}>"

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._handle, rest) :]
                except BlockingIOError:  # another program set it so, for all that share it
                    select.select([], [self._handle], [])
        except OSError as error:
            self._failed(error)
        return size


class OutputReaderGone(ConfigError):
    """The reader of the answer has closed the pipe, as `head` does."""

    code = "output-reader-gone"
    exit_status = Exit.BROKEN_PIPE
    default_fix = "read the whole output; what was done before remains done"
    says = "the reader of {thing} closed it"


class OutputNotWritten(ConfigError):
    """The answer could not be written. What the command did before it answered remains done."""

    code = "output-not-written"
    default_fix = "make room, or send the output elsewhere; what was done before remains done"
    says = "the answer could not be written to {thing}: {found}"


def _refuse(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise OutputReaderGone("stdout", expected="a reader", found="none") from error
    raise OutputNotWritten(
        "stdout", expected="a place that takes the answer", found=cause(error)
    ) from error


class Lines:
    """Where reports go, one line each. Threads may share it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._lost = 0
        self._torn = False  # a part of a line was written, and not its end

    def put(self, line: Callable[[int], str]) -> None:
        """Write a line, or count it as dropped. Never raises; waits at most `READER_SECONDS`.

        Args:
            line: Makes the text, without a line end, from the number of lines dropped before it.
        """
        with self._lock:
            try:
                text = line(self._lost)
                self._write(("\n" if self._torn else "") + text + "\n")
            except Exception:  # noqa: BLE001 - also what cannot be rendered: the work goes on
                self._lost += 1
            else:
                self._lost = 0

    def _write(self, text: str) -> None:
        try:
            handle = self._stream.fileno()
        except (OSError, ValueError, AttributeError):  # in memory
            self._stream.write(text)
            self._stream.flush()
            return
        with suppress(OSError, ValueError):
            self._stream.flush()  # what others wrote before this line
        rest = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while rest:
            self._await_reader(handle)
            # No larger than a pipe takes without waiting, once it takes anything.
            rest = rest[os.write(handle, rest[: select.PIPE_BUF]) :]
            self._torn = bool(rest)

    def _await_reader(self, handle: int) -> None:
        ready = select.poll()
        ready.register(handle, select.POLLOUT)
        if not ready.poll(0 if self._lost else READER_SECONDS * 1000):
            raise TimeoutError  # L08: a reader that stopped would hold every call that reports
