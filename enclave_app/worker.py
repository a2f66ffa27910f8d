"""Threads that continue after an error in them, and the threads that compute.

supervised("keeper", step, report)       # calls step() again and again
workers = Workers(3, report)
workers.submit("carol-lab", job)         # no acknowledgement waits for a training
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

# Called with the name of the thread and the error. What it raises is dropped.
Report = Callable[[str, BaseException], None]


def supervised(name: str, step: Callable[[], bool], report: Report) -> None:
    """Call `step` in a thread of its own until it returns False; an exception is only reported.

    Args:
        step: Waits for something to do, does it, says whether to go on.
    """

    def run() -> None:
        again = True
        while again:
            try:
                again = step()
            except BaseException as bug:  # noqa: BLE001 - the thread must go on
                with suppress(BaseException):
                    report(name, bug)

    # A daemon: the process may end in the middle of a computation, which then releases nothing.
    threading.Thread(target=run, name=name, daemon=True).start()


class Workers:
    """Runs jobs in `count` threads, two or more. Owners take turns, and no owner has all threads:
    one that submits long trainings leaves a thread to the others."""

    def __init__(self, count: int, report: Report) -> None:
        self._share = count - 1
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}  # in the order of their turns
        self._running: Counter[str] = Counter()
        self._stopped = False
        for number in range(count):
            supervised(f"computation-{number}", self._step, report)

    def submit(self, owner: str, job: Callable[[], None]) -> None:
        """Run `job` later."""
        with self._changed:
            self._waiting.setdefault(owner, deque()).append(job)
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin no other job."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _step(self) -> bool:
        with self._changed:
            while (owner := self._next()) is None and not self._stopped:
                self._changed.wait()
            if owner is None or self._stopped:
                return False
            jobs = self._waiting.pop(owner)
            job = jobs.popleft()
            if jobs:
                self._waiting[owner] = jobs  # behind the others
            self._running[owner] += 1
        try:
            job()
        finally:
            with self._changed:
                self._running[owner] -= 1
                self._changed.notify_all()
        return True

    def _next(self) -> str | None:
        return next((o for o in self._waiting if self._running[o] < self._share), None)
