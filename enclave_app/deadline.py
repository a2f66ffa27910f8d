"""Lets a computation be stopped between its steps.

    with asking(ask):                  # around `run`
        ...
        go_on()                        # in `run`, between columns or iterations

A thread cannot be ended from outside, and an enclave under Gramine has no child process that
could be. So a computation calls a check, which raises once the deadline has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ask: ContextVar[Callable[[], None]] = ContextVar("ask")


@contextmanager
def asking(ask: Callable[[], None]) -> Iterator[None]:
    """In this thread, `go_on` calls `ask` while the block runs."""
    before = _ask.set(ask)
    try:
        yield
    finally:
        _ask.reset(before)


def go_on() -> None:
    """Raises: what the `ask` of the block raises, where the computation must end."""
    _ask.get(lambda: None)()
