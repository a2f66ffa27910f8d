"""What the enclave does with an exchange, once it is known who asks.

    enclave = Enclave.start(agreement, attester, log=log)
    enclave.answer(kind, party, exchange, log)      # one DoExchange, from hello to its end

Order matters: the task is verified and the peer authorised before any quote is made; evidence
goes out before any row comes in; a dataset counts only by its commit; what was computed leaves
only sealed to the recipients that the policy names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from enclave_app.access import require_collect
from enclave_app.compute import agreed, compute
from enclave_app.errors import AttesterModeMismatch, ComputationFailed
from enclave_app.intake import Intake
from enclave_app.limits import Limits, MemoryBudget
from enclave_app.receive import Receiving
from enclave_app.session import Denied, Outcome, Pending, Sessions, Ticket
from enclave_app.worker import Worker
from policy.agreement import CompleteAgreement, require_window
from policy.document import Party, Policy, digest_text
from policy.receipt import Receipt, ReceiptInput
from policy.task import Task
from ratls.attester import Attester
from ratls.claims import NO_TASK
from ratls.identity import EnclaveIdentity
from ratls.log import Log, bind, place_of
from ratls.stream import Hello, Kind, ServerExchange
from verifier.anchors import Mode


def _now() -> datetime:
    return datetime.now(UTC)


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
        self._worker = Worker()

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
        wanted = Mode.PRODUCTION if policy.platform.root == "intel" else Mode.SIMULATION
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
        else:
            self._collect(task, party, exchange, hello, log)

    def _verified(self, hello: Hello) -> Task:
        """The task, believed: by its submitter's key, under this policy, at this instant."""
        at = self.clock()
        require_window(self.policy, at)
        task = Task.open(hello.task, self.policy, at)
        bind(task_digest=digest_text(task.digest))
        return task

    def evidence(self, hello: Hello, party: Party, task_digest: bytes) -> bytes:
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
        outcome = self.sessions.outcome(self.ticket(task))
        if isinstance(outcome, Pending):
            exchange.pending(list(outcome.missing))
        elif isinstance(outcome, Denied):
            exchange.denied(outcome.code)
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
            exchange.result(receipt.seal(self.identity.receipt_signer), ciphertext)
        log.info("collected", outcome=type(outcome).__name__.lower())

    def compute_when_complete(self, task: Task) -> None:
        """Queue the computation, once, if this commit was the last that it waited for."""
        ticket = self.ticket(task)
        inputs = self.sessions.take_complete(ticket)
        if inputs is not None:
            self._worker.submit(lambda: self._compute(task, ticket, inputs))

    def _compute(self, task: Task, ticket: Ticket, inputs: tuple[Intake, ...]) -> None:
        outcome: Outcome
        try:
            outcome = compute(self.policy, task, [intake.table() for intake in inputs])
        except Exception as bug:  # noqa: BLE001 - see below
            # Whatever went wrong, the recipient hears that there is no result, and the next
            # task is computed.
            self._log.error("internal", task_digest=digest_text(task.digest), bug=place_of(bug))
            outcome = Denied(ComputationFailed.code)
        finally:
            for intake in inputs:
                intake.close()
        self.sessions.finish(ticket, outcome)
        code = outcome.code if isinstance(outcome, Denied) else "released"
        named = digest_text(task.digest)
        self._log.info("computed", task_digest=named, outcome=code, mode=self.mode.value)
