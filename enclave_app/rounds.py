"""The rounds of each task: which one is open, whose updates it has, and what came of it.

    open (updates of the quorum, or all) -> closed, the next is open -> … -> finished
    open (fewer at its deadline)         -> ended, without an answer

A round opens when the one before it closes; the first, when a party first asks. It closes with the
update of the last party, or at its deadline with those that have come, if they are enough. An
update counts for the open round alone, once for each party. Nothing here knows keys or streams.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from enclave_app.errors import ComputeDeniedError, InputCommittedError
from enclave_app.limits import Limits, MemoryBudget
from enclave_app.rounds_aggregate import ITEM, Numbers, aggregated
from enclave_app.session import Released, TasksExhausted, Ticket
from policy.round_receipt import Participant
from policy.rounds import SALT_SIZE, Series, model_digest
from policy.values import Digest
from ratls.errors import StreamIntegrityError

WAIT_SECONDS = 0.5  # between two looks of a party that waits for the others


class RoundClosed(StreamIntegrityError):
    """The update is for a round that is over."""

    code = "round-closed"
    default_fix = "fetch the model that came of it, and train from that; `provider train` does"


class RoundNotOpen(StreamIntegrityError):
    """The update is for a round that has not begun, or the series is finished."""

    code = "round-not-open"
    default_fix = "ask which round is open: `ratls provider train` does"


class UpdateDoubled(InputCommittedError):
    """The party's update of this round counts already, and this is another one."""

    code = "update-doubled"
    default_fix = "wait for the next round: the first update of a round counts"


class UpdateOfAnotherModel(StreamIntegrityError):
    """The update was trained from another model than the one that this round began with."""

    code = "update-of-another-model"
    default_fix = "fetch the model of this round, and train from it"


class RoundBelowQuorum(ComputeDeniedError):
    """Fewer parties than agreed sent an update in time: the series ended without an answer."""

    code = "round-below-quorum"
    default_fix = "have a new task signed when enough parties can take part"


class RoundFailed(ComputeDeniedError):
    """Joining the updates of a round failed: the series ended without an answer."""

    code = "round-failed"
    default_fix = "reproduce it with made-up updates, and report it to the authors"


class RoundsStopped(ComputeDeniedError):
    """The enclave was told to stop before the last round: the series ended without an answer."""

    code = "rounds-stopped"
    default_fix = "have a new task signed: an enclave that starts again knows nothing of this one"


@dataclass(frozen=True, slots=True)
class Model:
    """The joint model after a round; number 0 is where the first one starts."""

    number: int
    numbers: Numbers
    salt: bytes  # 32, of the series
    digest: Digest


@dataclass(frozen=True, slots=True)
class Closed:
    """What a receipt says of a round."""

    number: int
    previous: Digest
    model: Digest
    participants: tuple[Participant, ...]  # in the policy's order


@dataclass(frozen=True, slots=True)
class _Counted:
    signed: Participant
    numbers: Numbers


class Running:
    """The series of one task. Any thread may ask; `now` is always by the monotonic clock."""

    def __init__(self, ticket: Ticket, series: Series, memory: MemoryBudget, now: float) -> None:
        """Begin the first round.

        Raises: MemoryExhausted.
        """
        self.ticket, self.series = ticket, series
        self._memory, self._changed = memory, threading.Condition(threading.RLock())
        memory.take(ticket.submitter, self._size)
        self._model = self._starting(np.zeros(series.size, np.float32))
        self._updates: dict[str, _Counted] = {}
        self._closed: list[Closed] = []
        self._until = now + series.seconds
        self._ended: type[ComputeDeniedError] | None = None
        self._outcome: Released | None = None

    @property
    def _size(self) -> int:
        return self.series.size * ITEM

    def _starting(self, numbers: Numbers) -> Model:
        salt = os.urandom(SALT_SIZE)
        return Model(0, numbers, salt, model_digest(self.series, salt, numbers.tobytes()))

    @property
    def _open(self) -> int:
        """The number of the open round; one more than the last where all are closed."""
        return len(self._closed) + 1

    @property
    def finished(self) -> bool:
        """Are all rounds closed?"""
        return self._open > self.series.rounds

    def standing(self, now: float) -> tuple[Model, int]:
        """The newest model, and the number of the open round.

        Raises: RoundBelowQuorum, RoundFailed.
        """
        with self._changed:
            self._tick(now)
            self._require_going_on()
            return self._model, self._open

    def closed(self, after: int, to: int) -> list[Closed]:
        """The rounds after one, and up to another."""
        with self._changed:
            return self._closed[max(after, 0) : to]

    def due(self, dataset: str, number: int, signed: Digest | None, now: float) -> bool:
        """May an update of this party for this round come now? False: it counts already.

        Args:
            signed: Digest of what the party signed for this round before, if it did.

        Raises:
            RoundClosed, RoundNotOpen, UpdateDoubled: By number.
            RoundBelowQuorum, RoundFailed: The series has ended.
        """
        with self._changed:
            self._tick(now)
            self._require_going_on()
            if 0 < number < self._open:
                of_then = self._closed[number - 1].participants
                if signed in [p.update_digest for p in of_then if p.dataset == dataset]:
                    return False
                raise RoundClosed("update", expected=f"round {self._open}", found=str(number))
            if number != self._open or self.finished:
                raise RoundNotOpen("update", expected=f"round {self._open}", found=str(number))
            counted = self._updates.get(dataset)
            if counted is None:
                return True
            if counted.signed.update_digest != signed:
                raise UpdateDoubled("update", expected="the one that counts", found="another")
            return False

    def count(
        self, signed: Participant, number: int, previous: Digest, numbers: Numbers, now: float
    ) -> None:
        """Let an update count, and close the round if it was the last one.

        Raises: As `due`; UpdateOfAnotherModel; MemoryExhausted.
        """
        with self._changed:
            if not self.due(signed.dataset, number, None, now):
                raise AssertionError("nothing was signed before")
            if previous != self._model.digest:
                raise UpdateOfAnotherModel(
                    "update", expected="the model of this round", found="another"
                )
            self._memory.take(signed.provider, self._size)
            self._updates[signed.dataset] = _Counted(signed, numbers)
            if len(self._updates) == len(self.series.inputs):
                self._close(now)

    def wait(self, number: int, seconds: float, waits: Callable[[], float]) -> bool:
        """Wait until a round is closed; False where it still is not.

        Args:
            waits: Called before each look; the time now.

        Raises: RoundBelowQuorum, RoundFailed.
        """
        looks = max(1, int(seconds / WAIT_SECONDS))
        for look in range(looks + 1):
            now = waits()
            with self._changed:
                self._tick(now)
                self._require_going_on()
                if self._open > number:
                    return True
                if look < looks and seconds:
                    self._changed.wait(WAIT_SECONDS)
        return False

    def outcome(self, now: float, release: Callable[[Model], Released]) -> Released | None:
        """What recipients get, made once, with the updates of the last round; None before that.

        Raises: RoundBelowQuorum, RoundFailed.
        """
        with self._changed:
            self._tick(now)
            self._require_going_on()
            if self._outcome is None and self.finished:
                commits = {p.dataset: p.update_digest for p in self._closed[-1].participants}
                self._outcome = replace(release(self._model), commits=commits)
            return self._outcome

    def sweep(self, now: float) -> None:
        """Close the round, or end the series, if its deadline has passed."""
        with self._changed:
            self._tick(now)

    def end(self, leaf: type[ComputeDeniedError] = RoundFailed) -> None:
        """Drop everything that came in."""
        with self._changed:
            self._ended = self._ended or leaf
            self._forget_updates()
            self._changed.notify_all()

    def stop(self) -> bool:
        """The process ends; is that why the series has no answer?"""
        with self._changed:
            if not self.finished:
                self.end(RoundsStopped)
            return self._ended is RoundsStopped

    def close(self) -> None:
        """Give all memory back; comes last."""
        self.end()
        self._memory.give(self.ticket.submitter, self._size)

    def _forget_updates(self) -> None:
        for counted in self._updates.values():
            self._memory.give(counted.signed.provider, self._size)
        self._updates = {}

    def _require_going_on(self) -> None:
        if self._ended is not None:
            raise self._ended("rounds", expected="an open one", found="none")

    def _tick(self, now: float) -> None:
        if self._ended or self.finished or now < self._until:
            return
        if len(self._updates) >= self.series.quorum:
            self._close(now)
        else:
            self.end(RoundBelowQuorum)

    def _close(self, now: float) -> None:
        """Make the next model of the updates that are here; called under the lock."""
        before, counted = self._model, self._updates
        try:
            updates: Mapping[str, Numbers] = {i: c.numbers for i, c in counted.items()}
            numbers = aggregated(self.series, before.numbers, updates)
            digest = model_digest(self.series, before.salt, numbers.tobytes())
        except BaseException:
            self.end()
            raise
        named = tuple(counted[i].signed for i in self.series.inputs if i in counted)
        self._closed.append(Closed(self._open, before.digest, digest, named))
        self._model = Model(before.number + 1, numbers, before.salt, digest)
        self._until = now + self.series.seconds
        self._forget_updates()
        self._changed.notify_all()


class Rounds:
    """All series of this start of the enclave."""

    def __init__(self, limits: Limits, memory: MemoryBudget) -> None:
        self._limits, self._memory, self._lock = limits, memory, threading.Lock()
        self._running: dict[Digest, Running] = {}

    def open(self, ticket: Ticket, series: Series, at: datetime, now: float) -> Running:
        """The series of a task; its first round opens with the first call.

        Raises: TasksExhausted, MemoryExhausted.
        """
        with self._lock:
            running = self._running.get(ticket.digest)
            if running is None:
                self._forget_expired(at)
                self._require_room(ticket)
                running = self._running[ticket.digest] = Running(ticket, series, self._memory, now)
            return running

    def find(self, ticket: Ticket) -> Running | None:
        """The series of a task; asking begins none."""
        with self._lock:
            return self._running.get(ticket.digest)

    def sweep(self, at: datetime, now: float) -> None:
        """Once a second: what is over its time ends."""
        with self._lock:
            self._forget_expired(at)
            running = list(self._running.values())
        for one in running:
            one.sweep(now)

    def end_tasks(self, ended: Callable[[Ticket], bool]) -> None:
        """Drop series at once, with all updates."""
        with self._lock:
            for digest, running in list(self._running.items()):
                if ended(running.ticket):
                    self._running.pop(digest).close()

    def stop(self) -> list[Ticket]:
        """The process ends: who waits for a round is told so. The series that have no answer."""
        with self._lock:
            return [running.ticket for running in self._running.values() if running.stop()]

    def _forget_expired(self, at: datetime) -> None:
        for digest, running in list(self._running.items()):
            if running.ticket.expires <= at:
                self._running.pop(digest).close()

    def _require_room(self, ticket: Ticket) -> None:
        of_submitter = sum(r.ticket.submitter == ticket.submitter for r in self._running.values())
        most, mine = self._limits.tasks, self._limits.tasks_per_submitter
        if len(self._running) >= most or of_submitter >= mine:
            raise TasksExhausted(
                "open tasks",
                expected=f"at most {mine} of a submitter",
                found=f"{of_submitter} of this submitter, {len(self._running)} in all",
            )
