"""What every long-running command shares: where it listens, and how it is told to stop."""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from ratls.address import Address
from verifier.errors import Exit

WAKE_SECONDS = 0.5


def open_many_files() -> None:
    """Let this process have as many connections as its hard limit permits, up to 65,536.

    A stranger's connection holds a file descriptor until its handshake is given up. The usual
    soft limit is 1024: so many idle sockets, and no party would be let in.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # refused here: the limit stays as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen_address(text: str) -> Address:
    """`HOST:PORT`, as other addresses but for port 0, which means any free one.

    Raises:
        AddressMalformed: Another form.
    """
    if text.endswith(":0"):
        return Address(Address.parse(f"{text[:-1]}1").host, 0)
    return Address.parse(text)


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """In this block SIGINT and SIGTERM are awaited; the function yielded waits for either.

    Its value is the exit status: 130 for Ctrl-C, 0 for an orderly stop.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    def wait() -> int:
        while True:
            try:
                number = came.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                # A signal that arrives at another thread is handled as this one wakes.
                continue
            return int(Exit.INTERRUPTED if number == signal.SIGINT else Exit.YES)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        # A server that could not start must leave Ctrl-C to whoever asked for it.
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def leave(status: int) -> NoReturn:
    """End the command with this status, at once: its server was stopped, and nothing is left.

    A client that is silent would hold its call, and with it an orderly end, for hours; and the
    end of an interpreter waits for whatever threads the libraries still have.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
