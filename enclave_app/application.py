"""What the enclave does with an exchange, once it is known who asks.

    enclave = Enclave.start(agreement, attester, log=log)
    enclave.answer(kind, party, exchange, log)      # one DoExchange, from hello to its end

Order matters: the task is verified and the peer authorised before any quote is made; evidence
goes out before any row comes in; a dataset counts only by its commit; what was computed leaves
only sealed to the recipients that the policy names. Whether policy and task still hold is asked at
every step; what was done is logged after it was done.

Nothing that depends on rows reaches recipient or host beside the result itself: one code in one
sealed form for all refusals, one log line, and times that end with a bucket.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Self

from enclave_app.access import require_collect, require_reason
from enclave_app.compute import agreed, compute, denied, own_reasons, required
from enclave_app.errors import ComputeDeniedError
from enclave_app.intake import Intake
from enclave_app.limits import Limits, MemoryBudget, Need
from enclave_app.receive import Receiving
from enclave_app.session import Denied, NoOutcomeYet, Released, Sessions, Ticket
from enclave_app.worker import Workers, supervised
from policy.agreement import CompleteAgreement, require_window
from policy.document import Policy, digest_text
from policy.receipt import Receipt, ReceiptInput
from policy.sections import Party
from policy.task import Task
from policy.values import Digest
from ratls.attester import Attester
from ratls.claims import NO_TASK
from ratls.identity import EnclaveIdentity
from ratls.log import Log, bind, place_of
from ratls.stream import Hello, Kind, ServerExchange
from verifier.anchors import Mode, RootName
from verifier.errors import ModeMismatchError, RatlsError

KEEPER_SECONDS = 1.0


def _now() -> datetime:
    return datetime.now(UTC)


class AttesterModeMismatch(ModeMismatchError):
    """The attester simulates and the policy demands hardware, or the reverse."""

    code = "attester-mode-mismatch"
    default_fix = "the policy's root and --attester must both be real or both be simulated"


class ComputationTooLong(ComputeDeniedError):
    """The computation takes longer than the enclave lets it."""

    code = "computation-too-long"
    default_fix = "agree on fewer rows, columns or iterations"


class ComputationFailed(ComputeDeniedError):
    """The computation ended with an error that its authors did not foresee."""

    code = "computation-failed"
    default_fix = "run the computation on rows of your own making, and tell the authors"


class Enclave:
    """One start: one policy, one identity, and what has come in for each task."""

    def __init__(
        self,
        policy: Policy,
        identity: EnclaveIdentity,
        mode: Mode,
        *,
        log: Log,
        limits: Limits,
        clock: Callable[[], datetime],
        seconds: Callable[[], float],
    ) -> None:
        self.policy, self.identity, self.mode, self.limits = policy, identity, mode, limits
        self.clock, self.seconds = clock, seconds
        self.sessions: Sessions[Intake] = Sessions(limits)
        self.memory = MemoryBudget(limits.held_bytes)
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
    ) -> Self:
        """Make keys and evidence for this agreement, which is obeyed until the process ends.

        Args:
            agreement: Complete; that it is the right one, its digest in all evidence proves.
            clock: The host's word. Who releases judges time by a clock of its own.
            seconds: Monotonic, for limits.

        Raises:
            AttesterModeMismatch: A simulation for a policy that demands hardware, or the reverse.
            PolicyExpiredError: The policy does not hold now.
            AttesterError: No quote could be had.
        """
        at = clock()
        policy = agreement.in_force(at).policy
        wanted = RootName.parse(policy.platform.root).mode
        if attester.mode is not wanted:
            raise AttesterModeMismatch("attester", expected=wanted.value, found=attester.mode.value)
        identity = EnclaveIdentity.create(attester, policy.digest, at=at)
        return cls(
            policy,
            identity,
            attester.mode,
            log=log,
            limits=limits or Limits(),
            clock=clock,
            seconds=seconds,
        )

    def stop(self) -> None:
        """End the threads that wait for work."""
        self._stopped.set()
        self._workers.stop()

    def _bug(self, thread: str, bug: BaseException) -> None:
        self._log.error("internal", thread=thread, bug=place_of(bug))

    def _keep(self) -> bool:
        if self._stopped.wait(KEEPER_SECONDS):
            return False
        self.sweep()
        return True

    def sweep(self) -> None:
        """Once a second: forget what is over its time, and announce outcomes that are due."""
        for ticket in self.sessions.sweep(self.clock(), self.seconds()):
            # R20: neither outcome nor count, and not before the end of its bucket.
            named = digest_text(ticket.digest)
            self._log.info("computed", task_digest=named, mode=self.mode.value)

    def answer(self, kind: Kind, party: Party, exchange: ServerExchange, log: Log) -> None:
        """Serve one exchange of an authenticated party to its end.

        Raises:
            RatlsError: A refusal; the caller tells the peer its code and nothing else.
        """
        hello = exchange.hello()
        if kind is Kind.ATTEST:
            exchange.send_evidence(self.evidence(hello, party, NO_TASK))
            log.info("attested")
            return
        task = self._verified(hello)
        if kind is Kind.RELEASE:
            Receiving(self, party, exchange, hello, task, log).run()
        elif kind is Kind.REASON:
            self._reason(task, party, exchange, hello, log)
        else:
            self._collect(task, party, exchange, hello, log)

    def _verified(self, hello: Hello) -> Task:
        """The task, believed: by its submitter's key, under this policy, at this instant."""
        at = self.clock()
        require_window(self.policy, at)
        task = Task.open(hello.task, self.policy, at)
        bind(task_digest=digest_text(task.digest))
        self.need(task)
        return task

    def need(self, task: Task) -> Need:
        """What the task's computation takes of the memory budget. Raises: ComputationTooLarge."""
        return required(self.policy, task, self.limits.held_bytes)

    def require_window(self, task: Task, step: str, log: Log) -> None:
        """Policy and task still hold. What held at the challenge may have ended since.

        Args:
            step: Logged where they do not.

        Raises:
            PolicyExpired, TaskExpired: They do not.
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

    def evidence(self, hello: Hello, party: Party, task_digest: Digest) -> bytes:
        """Fresh evidence for an authenticated party and a verified task."""
        # The peer's key as the policy lists it. A hash out of a message would let one party
        # have evidence made that another would believe.
        spki = party.channel_certificate.spki_sha256
        return self.identity.answer_challenge(hello.nonce, spki, task_digest)

    def ticket(self, task: Task) -> Ticket:
        """The task, as far as sessions know it."""
        inputs = agreed(self.policy, task).inputs
        return Ticket(task.digest, inputs, task.submitter, task.expires)

    def _collect(
        self, task: Task, party: Party, exchange: ServerExchange, hello: Hello, log: Log
    ) -> None:
        computation = agreed(self.policy, task)
        require_collect(party, computation)
        evidence = self.evidence(hello, party, task.digest)
        exchange.send_evidence(evidence)
        outcome = self.sessions.outcome(self.ticket(task), self.seconds())
        if isinstance(outcome, NoOutcomeYet):
            exchange.pending(list(outcome.missing))
            log.info("asked")
        else:
            ciphertext = outcome.ciphertexts[party.id]
            receipt = Receipt(
                task_digest=task.digest,
                policy_digest=self.policy.digest,
                instance=self.identity.instance,
                computation=computation.id,
                run=computation.run,
                recipient=party.id,
                inputs=tuple(
                    ReceiptInput(dataset=dataset, commit_digest=digest)
                    for dataset, digest in outcome.commits.items()
                ),
                result_digest=outcome.digest,
                mode=self.mode.value,
                nonce=hello.nonce,
                evidence=evidence,
                tls_spki=self.identity.spki,
                receipt_key=self.identity.receipt_spki,
            )
            self.require_window(task, "hand-out", log)
            exchange.result(receipt.seal(self.identity.receipt_signer), ciphertext)
            log.info("collected")

    def _reason(
        self, task: Task, party: Party, exchange: ServerExchange, hello: Hello, log: Log
    ) -> None:
        """Tell the owner of an input what that input alone breaks, at the times of a result."""
        dataset = require_reason(self.policy, party, agreed(self.policy, task), hello.dataset)
        exchange.send_evidence(self.evidence(hello, party, task.digest))
        outcome = self.sessions.outcome(self.ticket(task), self.seconds())
        self.require_window(task, "hand-out", log)
        if isinstance(outcome, NoOutcomeYet):
            exchange.pending(list(outcome.missing))
        else:
            exchange.reason(outcome.reasons[dataset.id])
        log.info("asked")

    def compute_when_complete(self, task: Task) -> None:
        """Queue the computation, once, if this commit was the last that it waited for."""
        ticket = self.ticket(task)
        job = partial(self._compute, task, ticket, self.seconds())
        self.sessions.queue(ticket, partial(self._workers.submit, task.submitter, job))

    def _compute(self, task: Task, ticket: Ticket, began: float) -> None:
        """Args: began: When the last commit came, which the host has seen."""
        inputs = self.sessions.take_complete(ticket)
        if inputs is None:
            return
        end = self.seconds() + self.limits.compute_seconds

        def ask() -> None:
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
            tables = [intake.table() for intake in inputs]
            if computation.release.reasons:
                reasons = own_reasons(self.policy, task, tables, ask)
            outcome = compute(self.policy, task, tables, ask)
        except BaseException:  # noqa: BLE001 - see below
            # Whatever went wrong, MemoryError included, it ends this task alone. What and where
            # is not logged: rows may have brought it about (R20).
            outcome = Denied(ComputationFailed.code)
        finally:
            for intake in inputs:
                intake.close()
        if isinstance(outcome, Denied):
            outcome = denied(self.policy, task)
        due = began + self.limits.padded(self.seconds() - began)
        self.sessions.finish(ticket, replace(outcome, reasons=reasons), due)
