"""One release, as the enclave sees it: authorise, prove, take rows in, and let a commit decide.

    Receiving(enclave, party, exchange, hello, task, log).run()

The stream may end in any way at any point, and looks complete when its client is dead. Nothing
counts but a commit, signed by the provider, about exactly the rows that arrived in the stream
whose challenge it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_app.access import require_release
from enclave_app.compute import agreed
from enclave_app.intake import Intake
from policy.acknowledgement import Acknowledgement
from policy.commit import Commit
from policy.errors import ResourceLimitError
from policy.rows import schema_digest
from policy.sections import Party
from policy.task import Task
from ratls.errors import StreamIntegrityError
from ratls.log import Log
from ratls.stream import Caps, CommitMessage, Hello, RowDigest, ServerExchange

if TYPE_CHECKING:
    from enclave_app.application import Enclave


class ExchangeTooLong(ResourceLimitError):
    """A release takes longer than the enclave waits."""

    code = "exchange-too-long"
    default_fix = "release again with the same task, over a faster link"


class CommitCountMismatch(StreamIntegrityError):
    """The commit counts other rows or batches than arrived."""

    code = "commit-count-mismatch"
    default_fix = "release again with the same task"


class CommitDigestMismatch(StreamIntegrityError):
    """The commit is about other rows than arrived."""

    code = "commit-digest-mismatch"
    default_fix = "release again with the same task"


class Receiving:
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
        """Take a verified task.

        Raises:
            ReleaseNotAuthorized: The dataset is not this party's to release for it.
        """
        policy = enclave.policy
        self._enclave, self._party, self._exchange = enclave, party, exchange
        self._hello, self._task = hello, task
        self._dataset = require_release(policy, party, agreed(policy, task), hello.dataset)
        self._log = log.bind(dataset=self._dataset.id)
        self._ticket = enclave.ticket(task)

    def run(self) -> None:
        """To the end of the exchange.

        Raises:
            RatlsError: Why nothing of this stream counts.
        """
        enclave, dataset = self._enclave, self._dataset
        until = enclave.seconds() + enclave.limits.exchange_seconds
        need = enclave.need(self._task)
        rows = Intake(dataset, enclave.limits, enclave.memory, need, until)
        enclave.sessions.begin(self._ticket, dataset.id, rows, enclave.clock())
        try:
            self._evidence = enclave.evidence(self._hello, self._party, self._task.digest)
            self._exchange.send_evidence(self._evidence)
            if not self._resumed():
                self._receive(rows)
        finally:
            enclave.sessions.end(self._ticket, dataset.id, rows)

    def _resumed(self) -> bool:
        """Answer a client that asks whether an earlier commit arrived; True if it did."""
        asked = self._exchange.resume_request()
        if asked is None:
            return False
        commit = self._own_commit(asked)
        known = self._enclave.sessions.known(self._ticket, self._dataset.id, commit.digest)
        if known is None:
            self._exchange.absent()
            return False
        self._computed_if_last()
        self._exchange.acknowledge(known)
        self._log.info("acknowledged-again")
        return True

    def _receive(self, rows: Intake) -> None:
        sessions, dataset = self._enclave.sessions, self._dataset.id
        sessions.require_open(self._ticket, dataset, rows)
        rows.open(self._exchange.schema())
        self._fill(rows)
        commit = self._require_commit(rows, self._exchange.committed)
        self._enclave.require_window(self._task, "commit", self._log)
        acknowledgement = sessions.commit(
            self._ticket, dataset, rows, commit.digest, lambda: self._acknowledgement(commit)
        )
        self._computed_if_last()
        try:
            self._exchange.acknowledge(acknowledgement)
        finally:
            self._log.info("committed")

    def _computed_if_last(self) -> None:
        # Before answer and report: the commit counts even if the provider is gone by now. Also
        # when a provider asks again: whatever ended the first exchange after its commit.
        self._enclave.compute_when_complete(self._task)

    def _fill(self, rows: Intake) -> None:
        limits = self._enclave.limits
        caps = Caps(
            rows=self._dataset.max_rows, bytes=limits.held_bytes, batch_bytes=limits.batch_bytes
        )
        for _, batch in self._exchange.batches(caps):
            self._enclave.require_window(self._task, "rows", self._log)
            # Ends a stream that drips. One that is silent keeps its thread and nothing else:
            # pyarrow cannot end it, gRPC does after hours; `Slots` limits how many a party has,
            # and `sweep` takes its rows.
            if self._enclave.seconds() > rows.until:
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
        rows.require_rows()
        if (commit.rows, commit.batches) != (rows.rows, len(rows.batches)):
            raise CommitCountMismatch(
                "commit", expected="the rows and batches that arrived", found="other numbers"
            )
        digest = RowDigest(message.salt, commit.schema_digest)
        for seq, batch in enumerate(rows.batches):
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
            rows_digest=commit.salted_digest,
            rows=commit.rows,
            batches=commit.batches,
            nonce=self._hello.nonce,
            evidence=self._evidence,
            tls_spki=identity.spki,
            receipt_key=identity.receipt_spki,
        ).seal(identity.receipt_signer)


class CommitOfAnotherRelease(StreamIntegrityError):
    """The commit is about another task, policy, instance, challenge, dataset or provider."""

    code = "commit-of-another-release"
    default_fix = "release again with the same task"


def _another(thing: str) -> CommitOfAnotherRelease:
    return CommitOfAnotherRelease(
        f"commit: {thing}", expected="that of this release", found="another"
    )
