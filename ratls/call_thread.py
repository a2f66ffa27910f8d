"""Runs calls that wait inside a library in another thread, so that signals are handled.

    with CallThread() as thread:
        found = thread.run(lambda: socket.getaddrinfo(host, port), seconds=10)

Python handles Ctrl-C and SIGTERM between two steps of its main thread. While a library waits for
a peer there is no such step: the peer would decide when the command ends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from math import inf
from typing import Any, Self, TypeVar

WAKE_SECONDS = 0.5
T = TypeVar("T")


def pause(seconds: float) -> bool:
    """Sleep in short pieces, so that a signal that arrives at another thread is heard. False."""
    while seconds > 0:
        time.sleep(min(seconds, WAKE_SECONDS))
        seconds -= WAKE_SECONDS
    return False


class CallThread:
    """One thread that makes one call after another. Used by one thread.

    A call that was not waited for to its end goes on, and nothing waits for it: not the block,
    and not the end of the process.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._calls = queue.SimpleQueue()
        self._last: Future[Any] | None = None
        threading.Thread(target=self._run, name="call", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    @property
    def busy(self) -> bool:
        """Does a call still run that was not waited for?"""
        return self._last is not None and not self._last.done()

    def run(self, call: Callable[[], T], seconds: float | None = None) -> T:
        """What the call returns, or raises.

        Raises:
            TimeoutError: It did not end within so many seconds; it goes on.
        """
        done: Future[T] = Future()
        self._last = done
        self._calls.put((call, done))
        left = inf if seconds is None else seconds
        # In short waits: a signal that arrives at another thread is handled as this one wakes.
        while not wait([done], min(left, WAKE_SECONDS)).done:
            left -= WAKE_SECONDS
            if left <= 0:
                raise TimeoutError
        return done.result()

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            call, done = given
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - `run` raises it
                done.set_exception(error)
            del given, call, done  # an exception holds its frames, and those what was sent
