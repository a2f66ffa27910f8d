"""The state of each task: which inputs are committed, and what became of it.

    collecting -> (every input committed) -> computing -> Released

Rows belong to the attempt that streams them until its commit is accepted, under one lock. The
first accepted commit of a dataset counts; the same commit again gets the same acknowledgement,
byte for byte; any other is refused. Nothing here knows Arrow, Flight, keys or files.

`sweep` drops tasks that have expired, and the rows of releases that are over their time. A host
that then turns the clock back could have a task collected anew, without any rows: providers
release once per task.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from enclave_app.errors import AttemptClosed, InputCommittedError
from enclave_app.limits import Limits
from policy.errors import ResourceLimitError
from policy.values import Digest


class Closable(Protocol):
    """What a session knows of rows."""

    until: float  #     when their release must have ended, by the monotonic clock
    connections: int  # that bring them now

    @property
    def chunks(self) -> int:
        """How many have come."""

    @property
    def release(self) -> bytes:
        """The provider's name for their release."""

    def close(self) -> None:
        """Drop them."""


R = TypeVar("R", bound=Closable)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a session knows of a verified task."""

    digest: Digest  #            32, of the task
    inputs: tuple[str, ...]  #   dataset ids, in the policy's order
    submitter: str
    expires: datetime  #         first instant at which it no longer holds
    parties: frozenset[str]  #   without which it ends


@dataclass(frozen=True, slots=True)
class Committed:
    """A dataset that counts."""

    commit_digest: Digest
    acknowledgement: bytes  # as it was first given


@dataclass(frozen=True, slots=True)
class NoOutcomeYet:
    """No outcome yet; `missing` is empty while the computation runs."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """The outcome, encrypted to each recipient: the result, or that there is none.

    Only the recipient that decrypts it learns which. The plaintext is not kept.
    """

    ciphertexts: Mapping[str, bytes]  # by party id
    # Dataset id to what its rows alone break, as a code; "" for nothing.
    reasons: Mapping[str, str] = field(default_factory=dict)
    # The commits that it rests on, by dataset id, in the policy's order; `finish` adds them.
    commits: Mapping[str, Digest] = field(default_factory=dict)
    # Of the salted plaintext, 32 bytes: what receipts name.
    digest: Digest = Digest(b"")  # noqa: RUF009 - no call: bytes with a type


@dataclass(frozen=True, slots=True)
class Denied:
    """There is no result, and why. The reason depends on rows, so it stays in the enclave."""

    code: str


@dataclass(slots=True)
class _Session(Generic[R]):
    ticket: Ticket
    attempts: dict[str, R] = field(default_factory=dict)
    committed: dict[str, Committed] = field(default_factory=dict)
    rows: dict[str, R] = field(default_factory=dict)
    queued: bool = False
    outcome: Released | None = None
    due: float = math.inf  # by the monotonic clock: until then the outcome is not shown
    announced: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(i for i in self.ticket.inputs if i not in self.committed)

    @property
    def computing(self) -> bool:
        return self.outcome is None and not self.missing

    def forget_rows(self) -> None:
        for rows in (*self.attempts.values(), *self.rows.values()):
            rows.close()
        self.attempts, self.rows = {}, {}


class TasksExhausted(ResourceLimitError):
    """Too many unexpired tasks are open in this enclave."""

    code = "tasks-exhausted"
    default_fix = "wait until earlier tasks have expired, and sign tasks with a shorter validity"


class Sessions(Generic[R]):
    """All tasks of this start of the enclave."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._open: dict[Digest, _Session[R]] = {}

    def begin(self, ticket: Ticket, dataset: str, rows: R, at: datetime) -> R:
        """A provider is about to stream `dataset`, or to ask about a commit; where rows go.

        That is `rows`, or, where the release of that name is under way, or its connection broke,
        what it has brought. A release of another name takes the place of the one before, and its
        memory. Called before the provider gets its evidence, so that attempts begin in the order
        in which a provider makes them.

        Raises:
            TasksExhausted: Too many tasks are open.
        """
        with self._lock:
            session = self._open.get(ticket.digest) or self._make_room(ticket, at)
            if dataset in session.committed:
                return rows  # `require_open` refuses, unless the provider asks about that commit
            before = session.attempts.get(dataset)
            if before is not None and before.release == rows.release:
                before.connections += 1
                return before
            session.attempts[dataset] = rows
            rows.connections += 1
        if before is not None:
            before.close()
        return rows

    def require_open(self, ticket: Ticket, dataset: str, rows: R) -> None:
        """Rows may come in: nothing counts yet, and this attempt is the newest.

        Raises:
            AnotherCommitCounts, AttemptClosed: It is otherwise.
        """
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is not None and dataset in session.committed:
                raise _another(dataset)
            _require_attempt(session, dataset, rows)

    def _make_room(self, ticket: Ticket, at: datetime) -> _Session[R]:
        self._forget_expired(at)
        of_submitter = sum(s.ticket.submitter == ticket.submitter for s in self._open.values())
        if (
            len(self._open) >= self._limits.tasks
            or of_submitter >= self._limits.tasks_per_submitter
        ):
            raise TasksExhausted(
                "open tasks",
                expected=f"at most {self._limits.tasks_per_submitter} of a submitter",
                found=f"{of_submitter} of this submitter, {len(self._open)} in all",
            )
        session: _Session[R] = _Session(ticket)
        self._open[ticket.digest] = session
        return session

    def _forget_expired(self, at: datetime) -> None:
        for digest, old in list(self._open.items()):
            if old.ticket.expires <= at and not old.computing:
                old.forget_rows()
                del self._open[digest]

    def sweep(self, at: datetime, now: float) -> list[Ticket]:
        """Drop what is over its time; the tasks whose outcome is due and was not announced.

        Rows of a release, and what they take of the memory budget, do not outlive the limit (F10).

        Args:
            at: For the tasks.
            now: By the monotonic clock, for releases and outcomes.
        """
        with self._lock:
            self._forget_expired(at)
            announced = []
            for digest, session in list(self._open.items()):
                for dataset, rows in list(session.attempts.items()):
                    if rows.until <= now:
                        self._drop(digest, session, dataset)
                if session.due <= now and not session.announced:
                    session.announced = True
                    announced.append(session.ticket)
            return announced

    def end_tasks(self, ended: Callable[[Ticket], bool]) -> None:
        """Drop tasks at once, with all rows. Of one that is computed now, the rows are dropped
        where it next checks that it may go on."""
        with self._lock:
            for digest, session in list(self._open.items()):
                if ended(session.ticket):
                    taken = session.computing and not session.rows
                    session.forget_rows()
                    if not taken:
                        del self._open[digest]

    def end_unfinished(self) -> list[Ticket]:
        """The tasks whose outcome was not announced; all rows are dropped.

        One that is computed and not due is like one that is being computed (R20).
        """
        with self._lock:
            for session in self._open.values():
                session.forget_rows()
            return [s.ticket for s in self._open.values() if not s.announced]

    def _drop(self, digest: Digest, session: _Session[R], dataset: str) -> None:
        session.attempts.pop(dataset).close()
        if not session.attempts and not session.committed:
            del self._open[digest]  # asking costs no place among the open tasks

    def known(self, ticket: Ticket, dataset: str, commit_digest: Digest) -> bytes | None:
        """The acknowledgement of exactly this commit; None when the dataset does not count yet.

        Raises:
            AnotherCommitCounts: It counts by another commit.
        """
        with self._lock:
            session = self._open.get(ticket.digest)
            committed = session.committed.get(dataset) if session else None
            return None if committed is None else _same(committed, dataset, commit_digest)

    def commit(
        self,
        ticket: Ticket,
        dataset: str,
        rows: R,
        commit_digest: Digest,
        acknowledge: Callable[[], bytes],
    ) -> bytes:
        """Let `rows` count; the acknowledgement.

        Args:
            acknowledge: Signs the acknowledgement. Called only if the commit is accepted: one
                that was signed and then refused would prove a release that never counted.

        Raises:
            AnotherCommitCounts: Another commit was first.
            AttemptClosed: A later attempt took its place, or the task has expired.
        """
        with self._lock:
            session = self._open.get(ticket.digest)
            committed = session.committed.get(dataset) if session else None
            if committed is not None:
                return _same(committed, dataset, commit_digest)
            session = _require_attempt(session, dataset, rows)
            acknowledgement = acknowledge()
            session.rows[dataset] = session.attempts.pop(dataset)
            session.committed[dataset] = Committed(commit_digest, acknowledgement)
            return acknowledgement

    def end(self, ticket: Ticket, dataset: str, rows: R) -> None:
        """The release has ended without a commit: its rows are dropped."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or session.attempts.get(dataset) is not rows:
                return  # they count, or were closed before
            self._drop(ticket.digest, session, dataset)

    def leave(self, ticket: Ticket, dataset: str, rows: R, until: float) -> None:
        """A connection of the release is over.

        After the last one, what has come is kept until then, by the monotonic clock: another
        connection may go on.
        """
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or session.attempts.get(dataset) is not rows:
                return  # they count, or were closed before
            rows.connections -= 1
            if not rows.connections:
                rows.until = min(rows.until, until)
                if not rows.chunks:
                    self._drop(ticket.digest, session, dataset)

    def queue(self, ticket: Ticket, submit: Callable[[], None]) -> None:
        """Call `submit` if every input counts and no call of it has succeeded.

        What it queues may run at once. If it raises, the next commit or resume tries again: an
        acknowledgement promises that the rows are computed with.
        """
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or not session.computing or session.queued:
                return
            session.queued = True
        try:
            submit()
        except BaseException:
            session.queued = False
            raise

    def take_complete(self, ticket: Ticket) -> tuple[R, ...] | None:
        """All rows in the policy's order, once, when every input counts; None otherwise."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or not session.computing or not session.rows:
                return None
            taken, session.rows = session.rows, {}
            return tuple(taken[i] for i in ticket.inputs)

    def finish(self, ticket: Ticket, outcome: Released, due: float) -> None:
        """Keep the outcome of the task. It is not shown before `due`, by the monotonic clock."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or not session.computing:
                raise AssertionError("a task is finished once, after it is complete")
            commits = {i: session.committed[i].commit_digest for i in ticket.inputs}
            session.outcome, session.due = replace(outcome, commits=commits), due

    def outcome(self, ticket: Ticket, now: float) -> Released | NoOutcomeYet:
        """What a recipient may fetch now; asking opens nothing."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None:
                return NoOutcomeYet(ticket.inputs)
            if session.outcome is None or now < session.due:
                return NoOutcomeYet(session.missing)
            return session.outcome


def _require_attempt(session: _Session[R] | None, dataset: str, rows: R) -> _Session[R]:
    if session is None or session.attempts.get(dataset) is not rows:
        raise AttemptClosed(f"release of {dataset!r}", expected="open", found="closed")
    return session


def _same(committed: Committed, dataset: str, commit_digest: Digest) -> bytes:
    if committed.commit_digest != commit_digest:
        raise _another(dataset)
    return committed.acknowledgement


class AnotherCommitCounts(InputCommittedError):
    """The dataset was committed for this task before, by another commit."""

    code = "another-commit-counts"
    default_fix = "use a new task to release other rows: the first commit counts"


def _another(dataset: str) -> AnotherCommitCounts:
    return AnotherCommitCounts(
        f"dataset {dataset!r}", expected="the commit that counts", found="another release"
    )
