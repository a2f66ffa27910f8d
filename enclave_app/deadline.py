"""Lets a computation be stopped between its steps.

    with checking(check):          # around `run`
        ...
        check_deadline()           # in `run`, between columns or iterations

A thread cannot be ended from outside, and an enclave under Gramine has no child process that
could be. So `run` calls a check, which raises once the deadline has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None]] = ContextVar("check")


@contextmanager
def checking(check: Callable[[], None]) -> Iterator[None]:
    """In this thread, `check_deadline` calls `check` while the block runs."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


def check_deadline() -> None:
    """Raises: what the `check` of the block raises, where the computation must end."""
    _check.get(lambda: None)()
