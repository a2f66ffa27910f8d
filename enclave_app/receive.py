"""One release: authorise the provider, prove the enclave, receive rows, and check the commit.

    receive(asked)

The stream may end at any point, and looks complete when its client has died. Only a commit counts:
signed by the provider, about exactly the rows that arrived, and with the nonce of this stream.
"""

from __future__ import annotations

from dataclasses import replace

from enclave_app.access import require_release
from enclave_app.exchange import TaskExchange
from enclave_app.intake import Intake
from policy.commit import Commit
from policy.errors import ResourceLimitError
from policy.receipt import Acknowledgement
from policy.rows import schema_digest
from ratls.errors import StreamIntegrityError
from ratls.framing import RowDigest
from ratls.server_stream import Caps, CommitMessage


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


def receive(asked: TaskExchange) -> None:
    """Serve a provider that releases a dataset, to the end of the exchange.

    Raises:
        ReleaseNotAuthorized: The dataset is not this party's to release for the task.
        RatlsError: Why nothing of this stream counts.
    """
    _Release(asked).run()


class _Release:
    """One release of one dataset, from authorisation to acknowledgement."""

    def __init__(self, asked: TaskExchange) -> None:
        self._dataset = require_release(
            asked.enclave.policy, asked.party, asked.computation, asked.hello.dataset
        )
        self._asked = replace(asked, log=asked.log.bind(dataset=self._dataset.id))
        self._enclave, self._stream, self._ticket = asked.enclave, asked.stream, asked.ticket

    def run(self) -> None:
        enclave, dataset = self._enclave, self._dataset
        until = enclave.seconds() + enclave.limits.exchange_seconds
        need = enclave.need(self._asked.task)
        rows = Intake(dataset, enclave.limits, enclave.memory, need, until)
        enclave.sessions.begin(self._ticket, dataset.id, rows, enclave.clock())
        try:
            self._evidence = self._asked.prove()
            if not self._resumed():
                self._receive(rows)
        finally:
            enclave.sessions.end(self._ticket, dataset.id, rows)

    def _resumed(self) -> bool:
        """Answer a client that asks whether an earlier commit arrived; True if it did."""
        asked = self._stream.resume_request()
        if asked is None:
            return False
        commit = self._own_commit(asked)
        known = self._enclave.sessions.known(self._ticket, self._dataset.id, commit.digest)
        if known is None:
            self._stream.absent()
            return False
        self._computed_if_last()
        self._stream.acknowledge(known)
        self._asked.log.info("acknowledged-again")
        return True

    def _receive(self, rows: Intake) -> None:
        sessions, dataset = self._enclave.sessions, self._dataset.id
        sessions.require_open(self._ticket, dataset, rows)
        rows.open(self._stream.schema())
        self._fill(rows)
        commit = self._require_commit(rows, self._stream.committed)
        self._asked.require_window("commit")
        acknowledgement = sessions.commit(
            self._ticket, dataset, rows, commit.digest, lambda: self._acknowledgement(commit)
        )
        self._computed_if_last()
        try:
            self._stream.acknowledge(acknowledgement)
        finally:
            self._asked.log.info("committed")

    def _computed_if_last(self) -> None:
        # Before answer and log: the commit counts even if the provider is gone by now. Also when a
        # provider asks again: the first exchange may have ended right after its commit.
        self._enclave.compute_when_complete(self._asked.task)

    def _fill(self, rows: Intake) -> None:
        limits = self._enclave.limits
        caps = Caps(
            rows=self._dataset.max_rows, bytes=limits.held_bytes, batch_bytes=limits.batch_bytes
        )
        for _, batch in self._stream.batches(caps):
            self._asked.require_window("rows")
            # Ends a stream that sends too slowly. One that is silent keeps only its thread: pyarrow
            # cannot end it, gRPC does after hours; `Slots` limits how many a party has, and
            # `sweep` drops its rows.
            if self._enclave.seconds() > rows.until:
                raise ExchangeTooLong(
                    "release", expected=f"its end in {limits.exchange_seconds:.0f} s", found="none"
                )
            rows.add(batch)

    def _own_commit(self, envelope: bytes) -> Commit:
        """A commit signed by this provider about this task, policy, enclave and dataset."""
        commit = Commit.open(envelope, self._enclave.policy)
        for thing, expected, found in (
            ("provider", self._asked.party.id, commit.provider),
            ("dataset", self._dataset.id, commit.dataset),
            ("task", self._asked.task.digest, commit.task_digest),
            ("instance", self._enclave.identity.instance, commit.instance),
            ("schema", schema_digest(self._dataset), commit.schema_digest),
        ):
            if expected != found:
                raise _another(thing)
        return commit

    def _require_commit(self, rows: Intake, message: CommitMessage) -> Commit:
        """The commit that ends this stream must be about exactly the rows that arrived."""
        commit = self._own_commit(message.envelope)
        if commit.nonce != self._asked.hello.nonce:
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
            nonce=self._asked.hello.nonce,
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
