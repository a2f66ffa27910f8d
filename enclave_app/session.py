"""What has come in for each task, and what became of it: the enclave's memory, as plain states.

    collecting -> (every input committed) -> computing -> Released | Denied

Rows belong to the attempt that streams them until its commit is accepted, under one lock. The
first accepted commit of a dataset counts; the same commit again gets the same acknowledgement,
byte for byte; any other is refused. Nothing here knows Arrow, Flight, keys or files.

A task that has expired is forgotten when room is needed. A host that then turns the clock back
could have it collected anew, with nothing in it: providers release once per task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from enclave_app.errors import AnotherCommitCounts, AttemptClosed, TasksExhausted
from enclave_app.limits import Limits


class Closable(Protocol):
    """Rows, as far as a session knows them."""

    def close(self) -> None:
        """Forget them."""


R = TypeVar("R", bound=Closable)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A verified task, as far as a session knows it."""

    digest: bytes  #             32, of the task
    inputs: tuple[str, ...]  #   dataset ids, in the policy's order
    submitter: str
    expires: datetime  #         first instant at which it no longer holds


@dataclass(frozen=True, slots=True)
class Committed:
    """A dataset that counts."""

    commit_digest: bytes
    acknowledgement: bytes  # as it was first given


@dataclass(frozen=True, slots=True)
class Pending:
    """No outcome yet; `missing` is empty while the computation runs."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """The result, encrypted once to each recipient. The plaintext exists nowhere any more."""

    ciphertexts: Mapping[str, bytes]  # by party id
    # The commits that it rests on, by dataset id, in the policy's order; `finish` adds them.
    commits: Mapping[str, bytes] = field(default_factory=dict)
    digest: bytes = b""  # 32, of the salted plaintext: what receipts name


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing was released, and this is why."""

    code: str


Outcome = Released | Denied


@dataclass(slots=True)
class _Session(Generic[R]):
    ticket: Ticket
    attempts: dict[str, R] = field(default_factory=dict)
    committed: dict[str, Committed] = field(default_factory=dict)
    rows: dict[str, R] = field(default_factory=dict)
    outcome: Outcome | None = None

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


class Sessions(Generic[R]):
    """All tasks of this start of the enclave."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._open: dict[bytes, _Session[R]] = {}

    def begin(self, ticket: Ticket, dataset: str, rows: R, at: datetime) -> None:
        """A provider is about to stream `dataset` into `rows`, or to ask about a commit.

        A release that was cut off may linger here for hours, because a server cannot end a
        silent stream: the newest attempt takes the place of the one before, and its memory.
        Called before the provider gets its evidence, so that attempts begin in the order in
        which a provider makes them.

        Raises:
            TasksExhausted: Too many tasks are open.
        """
        with self._lock:
            session = self._open.get(ticket.digest) or self._make_room(ticket, at)
            if dataset in session.committed:
                return  # `require_open` says so, unless the provider asks about that commit
            before = session.attempts.get(dataset)
            session.attempts[dataset] = rows
        if before is not None:
            before.close()

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
        for digest, old in list(self._open.items()):
            if old.ticket.expires <= at and not old.computing:
                old.forget_rows()
                del self._open[digest]
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

    def known(self, ticket: Ticket, dataset: str, commit_digest: bytes) -> bytes | None:
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
        commit_digest: bytes,
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
        """The stream has ended, however it did. Rows that were not committed are forgotten."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or session.attempts.get(dataset) is not rows:
                return  # they count, or were closed before
            del session.attempts[dataset]
            if not session.attempts and not session.committed:
                del self._open[ticket.digest]  # asking costs no place among the open tasks
        rows.close()

    def take_complete(self, ticket: Ticket) -> tuple[R, ...] | None:
        """All rows in the policy's order, to whoever asks first once every input counts."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or not session.computing or not session.rows:
                return None
            taken, session.rows = session.rows, {}
            return tuple(taken[i] for i in ticket.inputs)

    def finish(self, ticket: Ticket, outcome: Outcome) -> None:
        """Keep what became of the task."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None or not session.computing:
                raise AssertionError("a task is finished once, after it is complete")
            if isinstance(outcome, Released):
                commits = {i: session.committed[i].commit_digest for i in ticket.inputs}
                outcome = replace(outcome, commits=commits)
            session.outcome = outcome

    def outcome(self, ticket: Ticket) -> Outcome | Pending:
        """What a recipient may know; asking opens nothing."""
        with self._lock:
            session = self._open.get(ticket.digest)
            if session is None:
                return Pending(ticket.inputs)
            return Pending(session.missing) if session.outcome is None else session.outcome


def _require_attempt(session: _Session[R] | None, dataset: str, rows: R) -> _Session[R]:
    if session is None or session.attempts.get(dataset) is not rows:
        raise AttemptClosed(f"release of {dataset!r}", expected="open", found="closed")
    return session


def _same(committed: Committed, dataset: str, commit_digest: bytes) -> bytes:
    if committed.commit_digest != commit_digest:
        raise _another(dataset)
    return committed.acknowledgement


def _another(dataset: str) -> AnotherCommitCounts:
    return AnotherCommitCounts(
        f"dataset {dataset!r}", expected="the commit that counts", found="another release"
    )
