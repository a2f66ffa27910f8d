"""Shared by the long-running commands: the address, the stop signals, the log of errors."""

from __future__ import annotations

import logging
import os
import queue
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from ratls.address import Address
from ratls.log import Log, place_of
from verifier.errors import Exit, RatlsError

WAKE_SECONDS = 0.5
# SIGHUP too: a terminal that is closed must not leave half of an orderly end undone.
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def open_many_files() -> None:
    """Let this process have as many connections as its hard limit permits, up to 65,536.

    A stranger's connection holds a file descriptor until its handshake times out. The usual soft
    limit is 1024: so many idle sockets would shut out the parties.
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
    """In this block SIGINT, SIGTERM and SIGHUP are awaited; the function yielded waits for one.

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

    with on_stop(note):
        yield wait


@contextmanager
def on_stop(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """`handler` is called for each signal that stops a long-running command, in this block.

    SIGHUP stays ignored where it was, as under `nohup`. SIGINT does not: a shell that starts a
    command in the background makes it ignored, and a SIGINT sent there is meant.
    """
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    wanted = [n for n in _STOPPING if n != signal.SIGHUP or not hangup_ignored]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        # Also if the server could not start: Ctrl-C must then work as before.
        for number, was in before.items():
            signal.signal(number, was or signal.SIG_DFL)


@contextmanager
def errors_logged(log: Log) -> Iterator[None]:
    """Log errors that no code handles, and warnings: one line each, with kind and place.

    They come from threads, destructors, callbacks and libraries. Python would write their texts
    to stderr, which may hold cell values (L01). An error of the block itself ends the process with
    status 1.
    """
    hooks = sys.unraisablehook, threading.excepthook, warnings.showwarning
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [_Relay(log)]

    def escaped(args: Any) -> None:
        bug = args.exc_value
        log.error("internal", bug=args.exc_type.__name__ if bug is None else place_of(bug))

    def warned(
        message: object,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: object = None,
    ) -> None:
        log.warning("warning", kind=category.__name__, at=f"{filename}:{lineno}")

    sys.unraisablehook = threading.excepthook = escaped
    warnings.showwarning = warned
    try:
        yield
    except (RatlsError, OSError, MemoryError):
        raise  # refusals, and what becomes one
    except Exception as bug:  # noqa: BLE001 - shown without its text
        log.error("internal", bug=place_of(bug))
        raise SystemExit(int(Exit.BUG)) from None
    finally:
        sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
        root.handlers = handlers


class _Relay(logging.Handler):
    """Logs that a library logged something, such as gRPC a callback that raised; never its text."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        bug = record.exc_info and record.exc_info[1]
        place = place_of(bug) if bug else None
        self._log.warning("library", name=record.name, severity=record.levelname, bug=place)


def leave(status: int) -> NoReturn:
    """End the process with this status at once. Its server was stopped before.

    An orderly end would wait for hours for the call of a silent client, and for the threads of
    libraries.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
