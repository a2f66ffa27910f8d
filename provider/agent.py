"""An unattended provider: a scheduler wakes it, and it decides by itself.

    agent = Agent(releaser, client.report, say)
    agent.offer(queued)   # a task from the scheduler, not verified yet
    agent.work()          # at most one release or report; `agent.due_in()` says when next

For each task the agent calls `provider.release`, which does all checks, and reports one line. What
may be tried again is tried again, with growing pauses; a refusal is final until the agent is
restarted. Open tasks are not kept on disk: the journal has what was released, and the scheduler
offers everything else again.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random as randomness
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from policy.errors import AuditError
from policy.journal import Journal, StateCopied
from policy.journal_entries import ReleasedEntry
from policy.task import Task
from provider.agent_tasks import AgentTask, TaskReleaser
from provider.mailbox import PASSING
from provider.release import Release
from provider.release_state import ReleaseUnderWay, TaskAlreadyReleased
from ratls.address import PeerUnreachable
from ratls.call_thread import pause
from ratls.client_call import AnswerMissing, AnswerNotOpened
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed, HandshakeOversized
from scheduler.queued_task import QueuedTask, State
from verifier.anchors import Mode
from verifier.backoff import Backoff
from verifier.errors import Exit, RatlsError
from verifier.files import LockHeld
from verifier.text import digest_text, instant_text, printable

_BROKEN = (
    PeerUnreachable,
    HandshakeFailed,
    HandshakeOversized,
    CallFailed,
    DeadlineExceeded,
    AnswerMissing,
    AnswerNotOpened,
)
# The enclave has no room just now; every other answer of it is final.
_FULL = frozenset(
    {"exchanges-exhausted", "too-many-challenges", "tasks-exhausted", "memory-exhausted"}
)
# Tasks and envelopes whose outcome is remembered. Beyond these the oldest are checked again, which
# is harmless: the journal has what was released, and records a repeated refusal once.
_REMEMBERED = 16_384
# Waiting work. Beyond it no task is taken from the scheduler, which is not trusted.
MAX_WAITING, MAX_WAITING_BYTES = 1024, 16 << 20
# These end the agent: without its journal nothing can be decided.
_FATAL = (AuditError, StateCopied)


def may_try_again(refusal: RatlsError) -> bool:
    """Could the next try end differently? So after a broken connection, a full enclave,
    outdated collateral, or while another process works. Every other refusal is final.
    """
    if isinstance(refusal, PeerRefused):
        return refusal.peer_code in _FULL
    undecided = refusal.exit_status is Exit.UNDECIDED
    return undecided or isinstance(refusal, (*_BROKEN, ReleaseUnderWay, LockHeld))


class Event(StrEnum):
    """The kind of a line that the agent reports."""

    RELEASED = "released"
    REFUSED = "refused"
    LATER = "later"  #              not decided; tried again
    NOT_REPORTED = "not-reported"  # the scheduler does not know the outcome
    MAILBOX = "mailbox"  #          the scheduler is away
    MAILBOX_BACK = "mailbox-back"
    UNREADY = "unready"  #          at the start: a file with which no task can be done


@dataclass(frozen=True, slots=True)
class Line:
    """One decision, or one obstacle to a decision."""

    event: Event
    at: datetime
    mode: Mode
    task: str | None = None  #      digest as text
    dataset: str | None = None
    done: Release | None = None
    refusal: RatlsError | None = None
    again: float | None = None  #   seconds until the next try

    def as_json(self) -> dict[str, Any]:
        """For machines; every line has the same fields."""
        done = self.done
        return {
            "event": self.event.value,
            "at": instant_text(self.at),
            "mode": self.mode.value,
            "task_digest": self.task,
            "dataset": self.dataset,
            "rows": done and done.commit.rows,
            "resumed": done and done.resumed,
            "enclave": done and done.fresh.admission.enclave.name,
            "instance": done and done.commit.instance.hex(),
            "acknowledgement": done and str(done.kept.acknowledgement),
            "error": self.refusal and self.refusal.as_json(),
            "again_in": None if self.again is None else round(self.again, 1),
        }

    def text(self) -> str:
        """For people, in one line; names from peers cannot break it."""
        parts = [instant_text(self.at), f"{self.event.value:<12}"]
        parts += [part for part in (self.dataset, self.task) if part is not None]
        if self.done is not None:
            before = " by an earlier run" if self.done.resumed else ""
            enclave = self.done.fresh.admission.enclave.name
            parts.append(f"{self.done.commit.rows:,} rows to {enclave}{before}")
        if self.refusal is not None:
            parts.append(f"[{self.refusal.code}] {self.refusal}")
            if self.event in (Event.REFUSED, Event.UNREADY) and self.refusal.fix:
                parts.append(f"; to do: {self.refusal.fix}")
        if self.again is not None:
            parts.append(f"; again in {self.again:.0f} s")
        return printable(" ".join(parts).replace(" ;", ";")) + f" ({self.mode.value})"


K = TypeVar("K")
# RELEASED, "" and the enclave's instance; or REFUSED, the code and nothing.
Verdict = tuple[State, str, bytes]
Report = Callable[[bytes, str, State, str, bytes], object]


@dataclass(slots=True)
class Case:
    """An offered task, in all its envelopes, and what was decided about it."""

    digest: bytes | None  #  computed here; None: the offer is not a task
    task: AgentTask | None = None
    refused: str | None = None  # code, where it was refused before its datasets were known
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by dataset, once decided
    reported: set[tuple[str, Verdict]] = field(default_factory=set)  # each once

    def verdict(self, dataset: str) -> Verdict | None:
        if self.refused is not None:
            return State.REFUSED, self.refused, b""
        return self.verdicts.get(dataset)


@dataclass(frozen=True, slots=True)
class Job:
    """A release to make, or a verdict to report."""

    case: Case
    dataset: str
    verdict: Verdict | None = None  # to report; None: to release

    @property
    def failure_group(self) -> tuple[str, ...]:
        """Jobs with the same value fail together: reports, or releases by dataset and enclaves."""
        task = self.case.task
        return () if self.verdict or task is None else (self.dataset, *task.enclaves)


@dataclass(frozen=True, slots=True)
class Hold:
    """A group that failed. Its jobs pause, or each would read every row for nothing."""

    failures: int = 0  # in a row
    until: float = 0.0


class Agent:
    """Decides about offered tasks, one job at a time, in the order in which they are due."""

    def __init__(
        self,
        releaser: TaskReleaser,
        report: Report,
        say: Callable[[Line], None],
        *,
        persistent: bool = True,
        seconds: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        """
        Args:
            report: Tells the scheduler, as `SchedulerClient.report`.
            say: Takes each line.
            persistent: Try again what may be tried again; otherwise each task gets one try.

        Raises:
            AuditError: The journal is damaged.
        """
        self._releaser, self._report, self._say = releaser, report, say
        self._persistent, self._seconds = persistent, seconds
        self._random, self._backoff = random, backoff
        # D13: by the digest of the payload: white space gives one task thousands of envelopes.
        self._cases: OrderedDict[tuple[bytes | None, str], Case] = OrderedDict()
        self._envelopes: OrderedDict[bytes, Case] = OrderedDict()  # judged, by SHA-256
        self._waiting: dict[bytes, int] = {}  # size of its envelope, by digest of the task
        self._jobs: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._holds: dict[tuple[str, ...], Hold] = {}
        self.worst = Exit.YES
        self._released = self._read_released()

    def due_in(self) -> float | None:
        """Seconds until there is something to do; None: until something is offered."""
        return max(0.0, self._jobs[0][0] - self._seconds()) if self._jobs else None

    @property
    def has_room(self) -> bool:
        """May another task be offered before work is done?"""
        waiting = self._waiting
        return len(waiting) < MAX_WAITING and sum(waiting.values()) < MAX_WAITING_BYTES

    def offer(self, queued: QueuedTask) -> None:
        """Take a task from the scheduler. Offered again, it is not checked again."""
        key = hashlib.sha256(queued.envelope).digest()
        case = self._envelopes.get(key)
        if case is None:
            case = self._meet(queued.envelope)
            _remember(self._envelopes, key, case)
        # Where the scheduler shows an outdated state of our own datasets, report again.
        for status in queued.datasets:
            verdict = case.verdict(status.dataset)
            known = status.state is State.RELEASED or (
                verdict is not None and (status.state, status.code) == verdict[:2]
            )
            ours = status.owner == self._releaser.party.party_id
            # The scheduler chose the names: of a refused task, only configured datasets count.
            named = case.refused is None or status.dataset in self._releaser.config.sources
            if ours and named and verdict and not known:
                self._tell(case, status.dataset, verdict)

    def work(self) -> None:
        """Do the one job that is due first, if any is. Raises: AuditError."""
        if self.due_in() != 0.0:
            return
        job = heapq.heappop(self._jobs)[2]
        held = self._holds.get(job.failure_group, Hold()).until - self._seconds()
        if held > 0:
            self._add(job, held)
        elif job.verdict is None:
            self._release(job)
        else:
            self._deliver(job, job.verdict)

    def _meet(self, raw: bytes) -> Case:
        digest: bytes | None = None
        try:
            digest = Task.read(raw).digest
            # The same payload as before: another envelope adds nothing, valid or not.
            if (digest, "") in self._cases:
                return self._cases[digest, ""]
            task = self._releaser.sift(raw)
        except _FATAL:
            raise
        except RatlsError as refusal:
            # Not by the digest alone: an envelope with a bad signature must not end the task.
            case = self._cases.get((digest, refusal.code))
            if case is None:
                case = Case(digest, refused=refusal.code)
                _remember(self._cases, (digest, refusal.code), case)
                self._line(Event.REFUSED, case, refusal=refusal)
            return case
        case = Case(digest, task)
        _remember(self._cases, (digest, ""), case)
        if task is not None:
            self._begin(case, task)
        return case

    def _read_released(self) -> dict[tuple[str, str], bytes]:
        """The instance that each task and dataset went to, by the journal."""
        with Journal.open(self._releaser.config.state) as journal:
            return {
                (r.entry.task, r.entry.dataset): bytes.fromhex(r.entry.instance)
                for r in journal.records
                if isinstance(r.entry, ReleasedEntry)
            }

    def _begin(self, case: Case, task: AgentTask) -> None:
        for dataset in task.datasets:
            instance = self._released.get((digest_text(task.digest), dataset))
            if instance is not None:
                case.verdicts[dataset] = State.RELEASED, "", instance
            else:
                self._add(Job(case, dataset), 0.0)
        self._forget_settled(case)
        if case.task is not None:
            self._waiting[task.digest] = len(task.raw)

    def _release(self, job: Job) -> None:
        assert job.case.task is not None  # `_meet` makes jobs only for tasks that were opened
        try:
            done = self._releaser.release(job.case.task, job.dataset)
        except TaskAlreadyReleased:
            # Released by hand, or by another agent; the journal has it.
            self._released = self._read_released()
            instance = self._released[digest_text(job.case.task.digest), job.dataset]
            self._settle(job, (State.RELEASED, "", instance))
        except _FATAL:
            raise
        except RatlsError as refusal:
            if may_try_again(refusal):
                again = self._again(job)
                self._line(Event.LATER, job.case, job.dataset, refusal=refusal, again=again)
            else:
                self._settle(job, (State.REFUSED, refusal.code, b""))
                self._line(Event.REFUSED, job.case, job.dataset, refusal=refusal)
        else:
            self._holds.pop(job.failure_group, None)
            instance = done.commit.instance
            self._released[digest_text(done.commit.task_digest), job.dataset] = instance
            self._settle(job, (State.RELEASED, "", instance))
            self._line(Event.RELEASED, job.case, job.dataset, done=done)

    def _settle(self, job: Job, verdict: Verdict) -> None:
        case = job.case
        case.verdicts[job.dataset] = verdict
        self._forget_settled(case)
        self._tell(case, job.dataset, verdict)

    def _forget_settled(self, case: Case) -> None:
        """Drop the task of a settled case from memory."""
        if case.task is not None and len(case.verdicts) == len(case.task.datasets):
            self._waiting.pop(case.task.digest, None)
            case.task = None

    def _tell(self, case: Case, dataset: str, verdict: Verdict) -> None:
        if case.digest is not None and (dataset, verdict) not in case.reported:
            case.reported.add((dataset, verdict))
            self._add(Job(case, dataset, verdict), 0.0)

    def _deliver(self, job: Job, verdict: Verdict) -> None:
        """Report to the scheduler. A failed report changes nothing about the release."""
        assert job.case.digest is not None  # `_tell` has nothing to say of what is no task
        try:
            self._report(job.case.digest, job.dataset, *verdict)
        except RatlsError as refusal:
            again = self._again(job) if isinstance(refusal, PASSING) else None
            self._line(Event.NOT_REPORTED, job.case, job.dataset, refusal=refusal, again=again)
        else:
            self._holds.pop(job.failure_group, None)

    def _again(self, job: Job) -> float | None:
        """Pause the job's group; the seconds. None: this agent does not wait."""
        if not self._persistent:
            return None
        failures = self._holds.get(job.failure_group, Hold()).failures
        seconds = self._backoff.seconds(failures, self._random)
        self._holds[job.failure_group] = Hold(failures + 1, self._seconds() + seconds)
        # After the other jobs of its group, so that one failing task does not block them.
        self._add(job, seconds + 0.001)
        return seconds

    def _add(self, job: Job, seconds: float) -> None:
        heapq.heappush(self._jobs, (self._seconds() + seconds, next(self._order), job))

    def _line(
        self,
        event: Event,
        case: Case,
        dataset: str | None = None,
        *,
        done: Release | None = None,
        refusal: RatlsError | None = None,
        again: float | None = None,
    ) -> None:
        if refusal is not None:
            self.worst = Exit.worst((self.worst, refusal.exit_status))
        releaser = self._releaser
        mode = releaser.mode if done is None else done.mode
        at = releaser.clock()
        task = None if case.digest is None else digest_text(case.digest)
        self._say(Line(event, at, mode, task, dataset, done, refusal, again))


def _remember(memory: OrderedDict[K, Case], key: K, case: Case) -> None:
    memory[key] = case
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def attend(
    agent: Agent,
    next_offer: Callable[[float | None], QueuedTask | None],
    pause: Callable[[float], object] = pause,
) -> None:
    """Work until something raises: a stop signal, or a final refusal by the scheduler.

    Args:
        next_offer: As `Inbox.next`. One offer and one job take turns, so that neither a flood of
            offers nor a row of retries keeps the other waiting.
        pause: Waits so many seconds, while there is no room for another offer.
    """
    while True:
        if agent.has_room:
            queued = next_offer(agent.due_in())
            if queued is not None:
                agent.offer(queued)
        else:
            pause(agent.due_in() or 0.0)
        agent.work()
