"""One start of the enclave: its policy, its identity, what has come in, and what is computed.

    enclave = Enclave.start(agreement, attester, log=log)
    enclave.compute_when_complete(task)             # after each commit
    enclave.stop()

What was computed leaves only sealed to the recipients that the policy names. Whether policy and
task still hold is asked at every step.

Nothing that depends on rows reaches recipient or host beside the result itself: one code in one
sealed form for all refusals, one log line, and times that end with a bucket.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from enclave_app.computations import require_parts
from enclave_app.compute import agreed, compute, denied, own_reasons, released_model, required
from enclave_app.errors import ComputeDeniedError
from enclave_app.intake import Intake
from enclave_app.limits import Budgets, Limits, Need
from enclave_app.rounds import Rounds
from enclave_app.session import Denied, NoOutcomeYet, Released, Sessions, Ticket
from enclave_app.spill import require_folder
from enclave_app.worker import Workers, supervised
from policy import sections
from policy.agreement import CompleteAgreement, require_window
from policy.computations import DECLARED
from policy.document import Policy, digest_text
from policy.errors import MeasurementError
from policy.rounds import RUN
from policy.sections import Party
from policy.task import Task
from policy.values import Digest, Nonce
from policy.withdrawal import needed, require_taking_part
from ratls.attester import Attester, KnowsItself
from ratls.identity import EnclaveIdentity, Identities
from ratls.log import Log, place_of
from ratls.sealing import SpareKey
from ratls.turns import Turns
from verifier.anchors import Mode, RootName
from verifier.errors import ModeMismatchError, RatlsError

KEEPER_SECONDS = 1.0


def _now() -> datetime:
    return datetime.now(UTC)


class AttesterModeMismatch(ModeMismatchError):
    """The attester simulates and the policy demands hardware, or the reverse."""

    code = "attester-mode-mismatch"
    default_fix = "use a policy root and an --attester that are both real or both simulated"


class AgreementOfAnotherEnclave(MeasurementError):
    """The agreement lists other enclaves than the one that was started with it."""

    code = "agreement-of-another-enclave"
    default_fix = "start the release that the parties agreed on, or give this one its agreement"


def _require_listed(policy: Policy, attester: Attester) -> None:
    """No party would release to it; the operator learns it now. What is agreed, quotes decide.

    Raises: AgreementOfAnotherEnclave.
    """
    if not isinstance(attester, KnowsItself):
        return
    listed = [e.mr_enclave for e in policy.enclave if isinstance(e, sections.Enclave)]
    if str(attester.mr_enclave) not in listed:
        raise AgreementOfAnotherEnclave(
            "MRENCLAVE of this enclave",
            expected=" or ".join(listed) or "one that is listed",
            found=str(attester.mr_enclave),
        )


class ComputationTooLong(ComputeDeniedError):
    """The computation takes longer than the enclave lets it."""

    code = "computation-too-long"
    default_fix = "agree on fewer rows, columns or iterations"


class ComputationFailed(ComputeDeniedError):
    """The computation ended with an unforeseen error."""

    code = "computation-failed"
    default_fix = "reproduce it with made-up rows, and report it to the authors"


class Enclave:
    """One start: one policy, one identity, and what has come in for each task."""

    def __init__(
        self,
        agreement: CompleteAgreement,
        identities: Identities,
        mode: Mode,
        *,
        log: Log,
        limits: Limits,
        clock: Callable[[], datetime],
        seconds: Callable[[], float],
        spill: Path | None = None,
    ) -> None:
        self.policies = tuple(v.policy for v in agreement.agreement.versions)
        self.policy: Policy = agreement.policy  # the last of these, which is obeyed
        self.withdrawn = agreement.agreement.withdrawn(since=self.policy.version)
        self.identities, self.mode, self.limits = identities, mode, limits
        self.clock, self.seconds, self.spill = clock, seconds, spill
        # One task at a time takes back memory for rows that waited in a file: two that each had
        # half of it would wait for each other.
        self._loading = threading.Lock()
        self.sessions: Sessions[Intake] = Sessions(limits)
        self.budgets = Budgets(limits)
        self.rounds = Rounds(limits, self.budgets.memory)
        self.spare_key = SpareKey()
        self._log = log
        self._workers = Workers(limits.computations, self._bug)
        self._stopped = threading.Event()
        supervised("keeper", self._keep, self._bug)

    @classmethod
    def start(
        cls,
        agreement: CompleteAgreement,
        attester: Attester,
        *,
        log: Log,
        limits: Limits | None = None,
        clock: Callable[[], datetime] = _now,
        seconds: Callable[[], float] = time.monotonic,
        spill: Path | None = None,
        endorsements: bytes = b"",
    ) -> Self:
        """Make keys and evidence for this agreement, which is obeyed until the process ends.

        Args:
            agreement: Complete; that it is the right one, its digest in all evidence proves.
            clock: Under the host's control. Providers judge time by clocks of their own.
            seconds: Monotonic, for limits.
            spill: A folder where rows may wait, sealed; None: all rows stay in memory.
            endorsements: As for `build_certificate`.

        Raises:
            AttesterModeMismatch: A simulation for a policy that demands hardware, or the reverse.
            AgreementOfAnotherEnclave: The policy does not list this enclave.
            PolicyExpiredError: The policy does not hold now.
            PartNotInImage: A computation needs what this enclave was built without.
            EngineNotLocked: The SQL engine runs what it must not.
            SpillFolderUnusable: Nothing can be written there.
            AttesterError: No quote could be had.
        """
        at = clock()
        held = agreement.in_force(at)
        policy = held.policy
        wanted = RootName.parse(policy.platform.root).mode
        if attester.mode is not wanted:
            raise AttesterModeMismatch("attester", expected=wanted.value, found=attester.mode.value)
        _require_listed(policy, attester)
        require_parts(policy)
        if spill is not None:
            require_folder(spill)
        identity = EnclaveIdentity.create(
            attester, policy.digest, at=at, endorsements=endorsements, turns=Turns(seconds)
        )
        return cls(
            held,
            Identities(identity, endorsements),
            attester.mode,
            log=log,
            limits=limits or Limits(),
            clock=clock,
            seconds=seconds,
            spill=spill,
        )

    def stop(self) -> None:
        """End the threads that wait for work, and the rounds: parties that wait for others are
        told so while their calls can still be answered."""
        self._stopped.set()
        self._workers.stop()
        self.rounds.stop()

    def end_in_order(self) -> None:
        """The process ends: rows are dropped, and the log names each task that ends with it.

        Nothing of a task is on a disk. A new start has another instance: its recipients are told so
        (`EnclaveRestarted`), and sign a new task.
        """
        self.stop()
        self.sweep()
        for ticket in [*self.sessions.end_unfinished(), *self.rounds.stop()]:
            named = digest_text(ticket.digest)
            self._log.info("ended", task_digest=named, mode=self.mode.value)

    def _bug(self, thread: str, bug: BaseException) -> None:
        self._log.error("internal", thread=thread, bug=place_of(bug))

    def _keep(self) -> bool:
        if self._stopped.wait(KEEPER_SECONDS):
            return False
        self.sweep()
        return True

    def sweep(self) -> None:
        """Once a second: drop what is over its time limit, and log outcomes that are due."""
        self.identities.renew(self.clock(), self._log)
        self.rounds.sweep(self.clock(), self.seconds())
        for ticket in self.sessions.sweep(self.clock(), self.seconds()):
            # R20: neither outcome nor count, and not before the end of its bucket.
            named = digest_text(ticket.digest)
            self._log.info("computed", task_digest=named, mode=self.mode.value)

    def need(self, task: Task) -> Need:
        """What the task's computation takes of the memory budget. Raises: ComputationTooLarge."""
        return required(self.policy, task, self.limits.held_bytes)

    def require_window(self, task: Task, step: str, log: Log) -> None:
        """Require that policy and task still hold: both may have ended since the challenge.

        Args:
            step: Logged where they do not.

        Raises:
            PolicyExpired, TaskExpired, PartyWithdrew: They do not.
        """
        try:
            self._require_now(task)
        except RatlsError:
            log.info("stopped", task_digest=digest_text(task.digest), step=step)
            raise

    def _require_now(self, task: Task) -> None:
        at = self.clock()
        require_window(self.policy, at)
        task.require_window(at)
        self.require_taking_part(task)

    def require_taking_part(self, task: Task) -> None:
        """No party that the task needs has withdrawn. Raises: PartyWithdrew."""
        require_taking_part(self.policy, task.computation, task.submitter, self.withdrawn)

    def end(self, party: str) -> None:
        """A party has withdrawn: its rows are dropped, and every task with it ends."""
        # First the set, so that no step after this one goes on. It is never changed in place.
        self.withdrawn |= {party}
        self.sessions.end_tasks(lambda ticket: party in ticket.parties)
        self.rounds.end_tasks(lambda ticket: party in ticket.parties)

    @property
    def identity(self) -> EnclaveIdentity:
        """What new connections are shown."""
        return self.identities.current

    def evidence(
        self,
        nonce: Nonce,
        party: Party,
        task_digest: Digest,
        sealing_key: bytes = b"",
        identity: EnclaveIdentity | None = None,
    ) -> bytes:
        """Fresh evidence for an authenticated party and a verified task.

        Args:
            identity: What this connection was shown; the present one, if left out.
        """
        # The peer's key as the policy lists it. A hash out of a message would let one party
        # have evidence made that another would accept.
        named = hashlib.sha256(sealing_key).digest() if sealing_key else b""
        spki = party.channel_certificate.spki_sha256
        shown = identity or self.identity
        return shown.answer_challenge(nonce, spki, task_digest, named)

    def ticket(self, task: Task) -> Ticket:
        """What sessions know of the task."""
        inputs = agreed(self.policy, task).inputs
        parties = needed(self.policy, task.computation, task.submitter)
        return Ticket(task.digest, inputs, task.submitter, task.expires, parties)

    def outcome(self, task: Task) -> Released | NoOutcomeYet:
        """What may be handed out now.

        Raises: RoundBelowQuorum, RoundFailed.
        """
        ticket, now = self.ticket(task), self.seconds()
        if agreed(self.policy, task).run != RUN:
            return self.sessions.outcome(ticket, now)
        running = self.rounds.find(ticket)
        if running is None:
            return NoOutcomeYet(ticket.inputs)
        found = running.outcome(now, partial(released_model, self.policy, task))
        return found or NoOutcomeYet(())

    def compute_when_complete(self, task: Task) -> None:
        """Queue the computation, once, if all inputs are committed now."""
        ticket = self.ticket(task)
        job = partial(self._compute, task, ticket, self.seconds())
        self.sessions.queue(ticket, partial(self._workers.submit, task.submitter, job))

    def _compute(self, task: Task, ticket: Ticket, began: float) -> None:
        """Args: began: When the last commit came, which the host has seen."""
        # Made before any row is looked at: later there may be no memory for it.
        denial = denied(self.policy, task)
        inputs = self.sessions.take_complete(ticket)
        if inputs is None:
            return
        most = min(self.limits.compute_seconds, DECLARED[agreed(self.policy, task).run].seconds)
        end = self.seconds() + most

        def check() -> None:
            # Not logged: when a computation is at which step depends on rows (R20).
            self._require_now(task)
            if self.seconds() > end:
                raise ComputationTooLong("computation", expected="its end in time", found="none")

        outcome: Released | Denied
        computation = agreed(self.policy, task)
        # "computation-failed" for all, unless every input was asked.
        reasons = dict.fromkeys(computation.inputs, ComputationFailed.code)
        try:
            self.require_window(task, "computation", self._log)
            waits = any(intake.waits for intake in inputs)
            with self._loading if waits else nullcontext():
                tables = [intake.table(check) for intake in inputs]
            if computation.release.reasons:
                reasons = own_reasons(self.policy, task, tables, check)
            outcome = compute(self.policy, task, tables, check)
        except BaseException:  # noqa: BLE001 - see below
            # Any error, MemoryError included, ends this task alone. It is not logged: rows may have
            # caused it (R20).
            outcome = Denied(ComputationFailed.code)
        finally:
            for intake in inputs:
                intake.close()
        if isinstance(outcome, Denied):
            outcome = denial
        due = began + self.limits.padded(self.seconds() - began)
        self.sessions.finish(ticket, replace(outcome, reasons=reasons), due)
