"""Hard caps of the enclave, the counter of bytes that enforces some of them, and buckets."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from policy.computations import DECLARED
from policy.errors import ResourceLimitError
from verifier.files import MEBIBYTE

WAIT_SECONDS = 1.0  # between two looks at whether a task that waits for memory must end


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured defaults; tests use smaller ones. No command or variable changes them."""

    # Each has a thread from its start: the manifest's `max_threads`, less those of the process
    # itself, is how many there can be.
    calls: int = 80
    exchanges: int = 64
    exchanges_per_party: int = 8  #       a stalled client keeps its thread: only its own share
    tasks: int = 256  #                   unexpired
    tasks_per_submitter: int = 64
    # Rows of all tasks and all running releases, and what computing with them needs.
    held_bytes: int = 8192 * MEBIBYTE
    party_bytes: int = 6144 * MEBIBYTE  # of it, rows of one provider
    # Rows that wait in files, where the operator has a folder for them.
    waiting_bytes: int = 65536 * MEBIBYTE
    party_waiting_bytes: int = 32768 * MEBIBYTE
    resident_bytes: int = 256 * MEBIBYTE  # of one release; more may wait in a file, if there is one
    batches: int = 100_000  #             of one release
    exchange_seconds: float = 3600.0
    hello_seconds: float = 15.0  #        from the start of a call to its first frame
    silent_seconds: float = 120.0  #      between two frames of a call
    kept_seconds: float = 600.0  #        rows of a release whose connection broke
    compute_seconds: float = 3600.0  #    of one computation
    round_wait_seconds: float = 20.0  #   of one call, for the updates of others
    computations: int = 3  #              at once; of one submitter at most one fewer
    # An outcome is handed out when one of these times has passed since the last commit.
    buckets: tuple[float, ...] = (1.0, 10.0, 60.0, 600.0, 3600.0)

    def padded(self, elapsed: float) -> float:
        """`elapsed` seconds up to the end of its bucket; above the last, up to a multiple of it."""
        last = self.buckets[-1]
        longer = last * max(1, math.ceil(elapsed / last))
        return next((bucket for bucket in self.buckets if elapsed <= bucket), longer)


@dataclass(frozen=True, slots=True)
class Need:
    """What a computation needs beside the rows that it is given, measured and rounded up."""

    per_row: int  #  bytes
    copies: int = 0  # of all that was received, such as texts that become Python's
    fixed: int = 0  #  bytes of the computation itself, counted with each input

    def bytes(self, rows: int, received: int) -> int:
        """For so many rows, which are `received` bytes as they came."""
        return rows * self.per_row + received * self.copies


def declared(run: str, features: int = 0, mebibytes: int = 0) -> Need:
    """What the policy's declarations say that a computation needs.

    Args:
        features: How many columns of numbers a model is made of.
        mebibytes: The agreed memory of its engine.
    """
    said = DECLARED[run].memory
    assert said is not None
    return Need(
        per_row=said.per_row + said.per_feature * features,
        copies=said.copies,
        fixed=mebibytes * MEBIBYTE if said.engine else 0,
    )


class MemoryExhausted(ResourceLimitError):
    """The enclave cannot hold more rows."""

    code = "memory-exhausted"
    default_fix = "wait until running tasks are finished, then release again with the same task"


class MemoryBudget:
    """Bytes that rows may take, in all and of one party; computing with them included."""

    def __init__(self, limit: int, party_limit: int) -> None:
        self._free, self._lock = limit, threading.Condition()  # notified when bytes are given back
        self._party_limit = party_limit
        self._held: Counter[str] = Counter()

    def of(self, party: str) -> MemoryShare:
        """What one provider may take of it."""
        return MemoryShare(self, party)

    @property
    def free(self) -> int:
        """Bytes that may still be taken."""
        return self._free

    def take(self, party: str, size: int) -> None:
        """Account for `size` bytes.

        Raises:
            MemoryExhausted: They do not fit.
        """
        with self._lock:
            if size > self._room(party):
                raise _exhausted()
            self._take(party, size)

    def _room(self, party: str) -> int:
        return min(self._free, self._party_limit - self._held[party])

    def _take(self, party: str, size: int) -> None:
        self._free -= size
        self._held[party] += size

    def wait(self, party: str, size: int, check: Callable[[], None]) -> None:
        """Account for `size` bytes as soon as they fit. `check`: may raise, meanwhile."""
        with self._lock:
            while size > self._room(party):
                check()
                self._lock.wait(WAIT_SECONDS)
            self._take(party, size)

    def give(self, party: str, size: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._free += size
            self._held[party] -= size
            self._lock.notify_all()


def _exhausted() -> MemoryExhausted:
    return MemoryExhausted("rows held", expected="room", found="none for this batch")


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """One provider's part of the budget: no provider leaves the others without room."""

    budget: MemoryBudget
    party: str

    def take(self, size: int) -> None:
        """As `MemoryBudget.take`."""
        self.budget.take(self.party, size)

    def wait(self, size: int, check: Callable[[], None]) -> None:
        """As `MemoryBudget.wait`."""
        self.budget.wait(self.party, size, check)

    def give(self, size: int) -> None:
        """As `MemoryBudget.give`."""
        self.budget.give(self.party, size)


@dataclass(frozen=True, slots=True)
class Shares:
    """What the rows of one provider for one task may take."""

    memory: MemoryShare  # of what all tasks hold now
    task: MemoryShare  #   of what this task will hold at once, when it is computed
    files: MemoryShare  #  of what waits on the disk, for all tasks


class Budgets:
    """The budgets of an enclave, and one for each task that has rows."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self.memory = MemoryBudget(limits.held_bytes, limits.party_bytes)
        self.files = MemoryBudget(limits.waiting_bytes, limits.party_waiting_bytes)
        # Each lasts as long as somebody has a share of it.
        self._tasks: WeakValueDictionary[bytes, MemoryBudget] = WeakValueDictionary()

    def of(self, party: str, task: bytes) -> Shares:
        """A provider's shares. `task`: its digest."""
        with self._lock:
            all_of_it = self._tasks.get(task)
            if all_of_it is None:
                # Rows that could never be there at once would be waited for in vain.
                all_of_it = MemoryBudget(self._limits.held_bytes, self._limits.party_bytes)
                self._tasks[task] = all_of_it
        return Shares(self.memory.of(party), all_of_it.of(party), self.files.of(party))
