"""What the enclave does with an exchange, once it is known who asks.

    enclave = Enclave.start(agreement, attester, at=now, log=log)
    enclave.answer(kind, party, exchange, log)      # one DoExchange, from hello to its end

Order matters: the task is verified and the peer authorised before any quote is made; evidence
goes out before any row comes in; a dataset counts only by its commit; what was computed leaves
only sealed to the recipients that the policy names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from enclave_app.access import require_collect, require_release
from enclave_app.compute import agreed, compute, require_computable, require_parameters
from enclave_app.errors import (
    AttesterModeMismatch,
    CommitCountMismatch,
    CommitDigestMismatch,
    CommitOfAnotherRelease,
    ComputationFailed,
    ExchangeTooLong,
)
from enclave_app.intake import Intake
from enclave_app.limits import Limits, MemoryBudget
from enclave_app.log import Log, place_of
from enclave_app.session import Denied, Outcome, Pending, Sessions, Ticket
from enclave_app.worker import Worker
from policy.acknowledgement import Acknowledgement
from policy.agreement import CompleteAgreement, require_window
from policy.commit import Commit
from policy.document import Dataset, Party, Policy
from policy.receipt import Receipt, ReceiptInput
from policy.rows import schema_digest
from policy.task import Task
from ratls.attester import Attester
from ratls.claims import NO_TASK
from ratls.identity import EnclaveIdentity
from ratls.stream import Caps, CommitMessage, Hello, Kind, RowDigest, ServerExchange
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
        self._log, self._clock, self._seconds = log, clock, seconds
        self._sessions: Sessions[Intake] = Sessions(limits)
        self._memory = MemoryBudget(limits.held_bytes)
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
            ComputeDeniedError: The policy has a computation that is not built in.
            PolicyExpiredError: The policy does not hold now.
            AttesterError: No quote could be had.
        """
        at = clock()
        policy = agreement.in_force(at).policy
        wanted = Mode.PRODUCTION if policy.platform.root == "intel" else Mode.SIMULATION
        if attester.mode is not wanted:
            raise AttesterModeMismatch("attester", expected=wanted.value, found=attester.mode.value)
        for computation in policy.computation:
            require_computable(policy, computation)
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
            exchange.send_evidence(self._evidence(hello, party, NO_TASK))
            log.info("attested")
        elif kind is Kind.RELEASE:
            task = self._verified(hello)
            _Release(self, party, exchange, hello, task, log).run()
        else:
            task = self._verified(hello)
            self._collect(task, party, exchange, hello, log)

    def _verified(self, hello: Hello) -> Task:
        """The task, believed: by its submitter's key, under this policy, at this instant."""
        at = self._clock()
        require_window(self.policy, at)
        task = Task.open(hello.task, self.policy, at)
        require_parameters(self.policy, task)
        return task

    def _evidence(self, hello: Hello, party: Party, task_digest: bytes) -> bytes:
        # The peer's key as the policy lists it. A hash out of a message would let one party
        # have evidence made that another would believe.
        spki = party.channel_certificate.spki_sha256
        return self.identity.answer_challenge(hello.nonce, spki, task_digest)

    def _ticket(self, task: Task) -> Ticket:
        inputs = agreed(self.policy, task).inputs
        return Ticket(task.digest, inputs, task.submitter, task.expires)

    def _collect(
        self, task: Task, party: Party, exchange: ServerExchange, hello: Hello, log: Log
    ) -> None:
        computation = agreed(self.policy, task)
        require_collect(party, computation)
        evidence = self._evidence(hello, party, task.digest)
        exchange.send_evidence(evidence)
        ticket = self._ticket(task)
        outcome = self._sessions.outcome(ticket)
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
                    for dataset, digest in self._sessions.commit_digests(ticket).items()
                ),
                result_digest=hashlib.sha256(ciphertext).digest(),
                mode=self.mode.value,
                nonce=hello.nonce,
                evidence=evidence,
                tls_spki=self.identity.spki,
                receipt_key=self.identity.receipt_spki,
            )
            exchange.result(receipt.seal(self.identity.receipt_signer), ciphertext)
        log.info("collected", task=task.id, outcome=type(outcome).__name__.lower())

    def compute_when_complete(self, task: Task) -> None:
        """Queue the computation, once, if this commit was the last that it waited for."""
        ticket = self._ticket(task)
        inputs = self._sessions.take_complete(ticket)
        if inputs is not None:
            self._worker.submit(lambda: self._compute(task, ticket, inputs))

    def _compute(self, task: Task, ticket: Ticket, inputs: tuple[Intake, ...]) -> None:
        outcome: Outcome
        try:
            outcome = compute(self.policy, task, [intake.table() for intake in inputs])
        except Exception as bug:
            # Whatever went wrong, the recipient hears that there is no result, and the next
            # task is computed.
            self._log.error("internal", task=task.id, bug=place_of(bug))
            outcome = Denied(ComputationFailed.code)
        finally:
            for intake in inputs:
                intake.close()
        self._sessions.finish(ticket, outcome)
        code = outcome.code if isinstance(outcome, Denied) else "released"
        self._log.info("computed", task=task.id, outcome=code, mode=self.mode.value)


class _Release:
    """One release of one dataset, from authorisation to acknowledgement."""

    def __init__(
        self,
        enclave: Enclave,
        party: Party,
        exchange: ServerExchange,
        hello: Hello,
        task: Task,
        log: Log,
    ) -> None:
        policy = enclave.policy
        self._enclave, self._party, self._exchange = enclave, party, exchange
        self._hello, self._task = hello, task
        self._dataset: Dataset = require_release(
            policy, party, agreed(policy, task), hello.dataset
        )
        self._log = log.bind(task=task.id, dataset=self._dataset.id)
        self._ticket = enclave._ticket(task)

    def run(self) -> None:
        self._evidence = self._enclave._evidence(self._hello, self._party, self._task.digest)
        self._exchange.send_evidence(self._evidence)
        if not self._resumed():
            self._receive()

    def _resumed(self) -> bool:
        """Answer a client that asks whether an earlier commit arrived; True if it did."""
        asked = self._exchange.resume_request()
        if asked is None:
            return False
        commit = self._own_commit(asked)
        known = self._enclave._sessions.known(self._ticket, self._dataset.id, commit.digest)
        if known is None:
            self._exchange.absent()
            return False
        self._exchange.acknowledge(known)
        self._log.info("acknowledged-again")
        return True

    def _receive(self) -> None:
        enclave = self._enclave
        rows = Intake(self._dataset, enclave.limits, enclave._memory)
        sessions, dataset = enclave._sessions, self._dataset.id
        try:
            rows.open(self._exchange.schema())
            sessions.begin(self._ticket, dataset, rows, enclave._clock())
            self._fill(rows)
            commit = self._require_commit(rows, self._exchange.committed)
            acknowledgement = sessions.commit(
                self._ticket, dataset, rows, commit.digest, lambda: self._acknowledgement(commit)
            )
        finally:
            sessions.end(self._ticket, dataset, rows)
        self._log.info("committed", batches=commit.batches)
        # Before the answer: the commit counts even if the provider is gone by now.
        enclave.compute_when_complete(self._task)
        self._exchange.acknowledge(acknowledgement)

    def _fill(self, rows: Intake) -> None:
        limits = self._enclave.limits
        end = self._enclave._seconds() + limits.exchange_seconds
        caps = Caps(
            rows=self._dataset.max_rows, bytes=limits.held_bytes, batch_bytes=limits.batch_bytes
        )
        for _, batch in self._exchange.batches(caps):
            # Ends a stream that drips. One that is silent keeps its thread and nothing else:
            # pyarrow cannot end it, gRPC does after hours; `Slots` limits how many a party has.
            if self._enclave._seconds() > end:
                raise ExchangeTooLong(
                    "release", expected=f"its end in {limits.exchange_seconds:.0f} s", found="none"
                )
            rows.add(batch)

    def _own_commit(self, envelope: bytes) -> Commit:
        """A commit signed by this provider about this task, policy, enclave and dataset."""
        commit = Commit.open(envelope, self._enclave.policy)
        for thing, expected, found in (
            ("provider", self._party.id, commit.provider),
            ("dataset", self._dataset.id, commit.dataset),
            ("task", self._task.digest, commit.task_digest),
            ("instance", self._enclave.identity.instance, commit.instance),
            ("schema", schema_digest(self._dataset), commit.schema_digest),
        ):
            if expected != found:
                raise _another(thing)
        return commit

    def _require_commit(self, rows: Intake, message: CommitMessage) -> Commit:
        """The commit that ends this stream must be about exactly the rows that arrived."""
        commit = self._own_commit(message.envelope)
        if commit.nonce != self._hello.nonce:
            raise _another("nonce")
        table = rows.table()
        if (commit.rows, commit.batches) != (rows.rows, rows.batches):
            raise CommitCountMismatch(
                "commit", expected="the rows and batches that arrived", found="other numbers"
            )
        digest = RowDigest(message.salt, commit.schema_digest)
        for seq, batch in enumerate(table.to_batches()):
            digest.add(seq, batch)
        if digest.digest() != commit.salted_digest:
            raise CommitDigestMismatch(
                "commit", expected="the digest of the rows that arrived", found="another"
            )
        return commit

    def _acknowledgement(self, commit: Commit) -> bytes:
        identity = self._enclave.identity
        return Acknowledgement(
            task_digest=commit.task_digest,
            policy_digest=commit.policy_digest,
            instance=identity.instance,
            dataset=commit.dataset,
            provider=commit.provider,
            commit_digest=commit.digest,
            rows=commit.rows,
            batches=commit.batches,
            nonce=self._hello.nonce,
            evidence=self._evidence,
            tls_spki=identity.spki,
            receipt_key=identity.receipt_spki,
        ).seal(identity.receipt_signer)


def _another(thing: str) -> CommitOfAnotherRelease:
    return CommitOfAnotherRelease(f"commit: {thing}", expected="that of this release", found="another")
