"""Limits of what one party may ask of the scheduler, so that others can use it too."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from policy.errors import ResourceLimitError

RATE_WINDOW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a submitter has in the queue."""

    open: int  #    unexpired tasks
    recent: int  #  tasks that came within `RATE_WINDOW`, expired or not


class OpenTasksExhausted(ResourceLimitError):
    """A submitter has too many unexpired tasks in the queue."""

    code = "open-tasks-exhausted"
    default_fix = "wait until earlier tasks have expired, and sign tasks with a shorter validity"


class SubmissionsTooFast(ResourceLimitError):
    """A submitter submits tasks faster than it may."""

    code = "submissions-too-fast"
    default_fix = "wait a minute, then submit again"


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults; tests use smaller ones. No command or variable changes them."""

    open_tasks: int = 1000  #        of a submitter
    tasks_per_minute: int = 120  #   of a submitter
    reports: int = 16  #             changes of state of one dataset of one task
    calls: int = 256  #              at once, of all parties: each has a thread
    calls_per_party: int = 8
    watches_per_party: int = 4  #    fewer than calls: a party that watches must be able to report
    watch_seconds: float = 900.0  #  afterwards a watch ends, and its party watches again

    def admit(self, usage: Usage) -> None:
        """May the submitter add one more task?

        Raises:
            OpenTasksExhausted, SubmissionsTooFast.
        """
        if usage.open >= self.open_tasks:
            raise OpenTasksExhausted(
                "unexpired tasks of the submitter",
                expected=f"fewer than {self.open_tasks}",
                found=str(usage.open),
            )
        if usage.recent >= self.tasks_per_minute:
            raise SubmissionsTooFast(
                "tasks of the submitter within a minute",
                expected=f"fewer than {self.tasks_per_minute}",
                found=str(usage.recent),
            )


class CallsExhausted(ResourceLimitError):
    """Too many calls run at once."""

    code = "calls-exhausted"
    default_fix = "wait until your other calls have ended, then try again"


class Calls:
    """Who runs how many calls, and how many of them watch. A peer is 32 bytes, its key's digest."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._running: Counter[bytes] = Counter()
        self._watching: Counter[bytes] = Counter()

    @contextmanager
    def hold(self, peer: bytes, *, watch: bool) -> Iterator[None]:
        """One call for the block.

        Raises:
            CallsExhausted: The party's share is in use.
        """
        with self._lock:
            calls, watches = self._running[peer], self._watching[peer]
            if calls >= self._limits.calls_per_party or (
                watch and watches >= self._limits.watches_per_party
            ):
                raise CallsExhausted(
                    "calls of the party at once",
                    expected=f"at most {self._limits.calls_per_party}, "
                    f"{self._limits.watches_per_party} of them watching",
                    found=f"{calls} and {watches}",
                )
            self._running[peer] += 1
            self._watching[peer] += watch
        try:
            yield
        finally:
            with self._lock:
                self._running[peer] -= 1
                self._watching[peer] -= watch
                self._running += Counter()  # drops peers without a call
                self._watching += Counter()
