"""How tests wait: one limit against hangs, and one way to ask again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

HANG_LIMIT = 600.0  # seconds; a test that takes as long hangs, however busy the machine is
T = TypeVar("T")


def threads_named(start: str) -> list[str]:
    """The threads whose names start so. All threads would be too many: those that another test
    left to end by themselves come and go."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(start)]


def eventually(ask: Callable[[], T | None], *not_yet: type[BaseException]) -> T:
    """What `ask` returns, once that is true. For what nothing signals.

    Args:
        ask: Called again and again.
        not_yet: Errors after which it is called again, too.
    """
    pause, ends = threading.Event(), time.monotonic() + HANG_LIMIT
    while True:
        try:
            if found := ask():
                return found
        except not_yet:
            if time.monotonic() > ends:
                raise
        assert time.monotonic() < ends, "it never came to that"
        pause.wait(0.005)


def given_time(attempt: Callable[[float], T], seconds: float, *too_slow: type[BaseException]) -> T:
    """What `attempt` returns in so many seconds. Where the machine is too busy, in twice as many.

    For time limits that are under test, and in which a peer has to answer nevertheless.
    """
    while seconds < HANG_LIMIT:
        try:
            return attempt(seconds)
        except too_slow:
            seconds *= 2
    return attempt(seconds)
