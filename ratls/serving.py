"""What every long-running command shares: where it listens, and how it is told to stop."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import typer

from ratls.address import Address
from verifier.errors import Exit


def listen_address(text: str) -> Address:
    """`HOST:PORT`, as other addresses but for port 0, which means any free one.

    Raises:
        AddressMalformed: Another form.
    """
    if text.endswith(":0"):
        return Address(Address.parse(f"{text[:-1]}1").host, 0)
    return Address.parse(text)


def stop_signals() -> Callable[[], int]:
    """From now on SIGINT and SIGTERM are awaited; the function returned waits for either.

    Its value is the exit status: 130 for Ctrl-C, 0 for an orderly stop.
    """
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: int(Exit.INTERRUPTED if came.get() == signal.SIGINT else Exit.YES)


def leave(status: int, *, finished: bool) -> NoReturn:
    """End the command; at once, where a call still runs after the server was stopped.

    Raises:
        typer.Exit: With this status.
    """
    if not finished:
        # A client that is silent holds its call, and with it an orderly end, for hours.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise typer.Exit(status)
