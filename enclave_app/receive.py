"""One release: authorise the provider, prove the enclave, receive rows, and check the commit.

    receive(asked)

A stream may end at any point; what it brought is kept for a while, and counts for nothing. Only a
commit counts: signed by the provider, about exactly the chunks that arrived, and with the nonce of
the stream that it came in.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from enclave_app.access import require_release
from enclave_app.exchange import TaskExchange
from enclave_app.intake import Intake, Place, StreamsIncomplete
from policy.commit import Commit
from policy.errors import ResourceLimitError
from policy.receipt import Acknowledgement
from policy.rounds import require_rows
from policy.rows import schema_digest
from policy.values import Digest, Nonce
from ratls.bulk import BulkBroken
from ratls.errors import AttesterError, StreamIntegrityError
from ratls.framing import ChunkUnexpected, MessageUnexpected
from ratls.sealing import (
    RELEASE_ID_SIZE,
    ChunkNotOpenable,
    Transcript,
    tags_digest,
)
from ratls.server_stream import Open, SequenceBroken, StreamTruncated
from ratls.turns import TooManyChallenges


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
        RowsNotAsked: The computation takes updates of a model.
        ReleaseNotAuthorized: The dataset is not this party's to release for the task.
        RatlsError: Why nothing of this stream counts.
    """
    _Release(asked).run()


class _Release:
    """One connection of the release of one dataset, from authorisation to acknowledgement."""

    def __init__(self, asked: TaskExchange) -> None:
        self._dataset = require_release(
            asked.enclave.policy, asked.party, asked.computation, asked.hello.dataset
        )
        require_rows(asked.computation)
        self._asked = replace(asked, log=asked.log.bind(dataset=self._dataset.id))
        self._enclave, self._stream, self._ticket = asked.enclave, asked.stream, asked.ticket
        self._about = schema_digest(self._dataset)
        self._key = self._enclave.spare_key.take()
        self._place: Place | None = None

    def run(self) -> None:
        enclave, dataset, sessions = self._enclave, self._dataset, self._enclave.sessions
        rows = sessions.begin(self._ticket, dataset.id, self._new_intake(), enclave.clock())
        try:
            self._evidence = self._prove(self._asked.hello.nonce)
            enclave.spare_key.refill()  # while the provider judges the evidence
            if not self._resumed():
                self._receive(rows)
        except BaseException as error:
            # A connection that broke may be gone on with; one that another took over from has no
            # say any more.
            superseded = self._place is not None and self._place.superseded
            if not (superseded or self._broke(error)):
                sessions.end(self._ticket, dataset.id, rows)
            raise
        finally:
            kept = enclave.seconds() + enclave.limits.kept_seconds
            sessions.leave(self._ticket, dataset.id, rows, kept)

    def _broke(self, refusal: BaseException) -> bool:
        """Is this what anybody on the network, or this machine, can do, and the provider did not?

        Chunks beside TLS are nobody's until they open: whoever alters one must not cost the
        provider what it sent before.
        """
        if isinstance(refusal, StreamTruncated | BulkBroken | AttesterError | TooManyChallenges):
            return True
        return self._enclave.policy.transport.bulk == "sealed" and isinstance(refusal, _BESIDE)

    def _new_intake(self) -> Intake:
        enclave, asked = self._enclave, self._asked
        if len(asked.hello.release) != RELEASE_ID_SIZE:
            raise MessageUnexpected("release", expected="a name of 16 bytes", found="another")
        return Intake(
            self._dataset,
            enclave.limits,
            enclave.budgets.of(asked.party.id, asked.task.digest),
            enclave.need(asked.task),
            enclave.seconds() + enclave.limits.exchange_seconds,
            asked.hello.release,
            enclave.spill,
        )

    def _prove(self, nonce: Nonce) -> bytes:
        """Send evidence that names the sealing key of this exchange; the evidence."""
        return self._asked.prove(nonce, self._key.public)

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
        self._fill(rows)
        envelope = self._stream.committed
        if envelope is None:
            self._stream.received()
            self._asked.log.info("received")
            return
        commit = self._require_commit(rows, envelope)
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
        """Agree the key of this stream, and take its chunks in."""
        opened = self._stream.open_request()
        self._place = place = rows.join(opened.stream, opened.streams, self._stream.cancel)
        key = self._key.open_stream_key(opened.key, self._transcript(opened))
        self._stream.ready(*place.kept(key.salt))
        first = place.kept_chunks

        def prove(nonce: Nonce) -> None:
            self._require_time(rows)
            self._prove(nonce)

        for chunk in self._stream.sealed_rows(key, self._about, first=first, prove=prove):
            self._require_time(rows)
            place.add(chunk.message, chunk.tag, last=chunk.last)

    def _require_time(self, rows: Intake) -> None:
        """For each chunk and each further challenge: no exchange goes on for ever."""
        self._asked.require_window("rows")
        # Ends a stream that sends too slowly; one that is silent is ended by the server.
        if self._enclave.seconds() > rows.until:
            limit = self._enclave.limits.exchange_seconds
            raise ExchangeTooLong("release", expected=f"its end in {limit:.0f} s", found="none")

    def _transcript(self, opened: Open) -> Transcript:
        """What the key must be sealed for: own values, but for the number of the stream."""
        return Transcript(
            policy_digest=self._enclave.policy.digest,
            task_digest=self._asked.task.digest,
            nonce=self._asked.hello.nonce,
            instance=self._enclave.identity.instance,
            dataset=self._dataset.id,
            provider=self._asked.party.id,
            release=self._asked.hello.release,
            stream=opened.stream,
            streams=opened.streams,
        )

    def _own_commit(self, envelope: bytes) -> Commit:
        """A commit signed by this provider about this task, policy, enclave and dataset."""
        commit = Commit.open(envelope, self._enclave.policy)
        for thing, expected, found in (
            ("provider", self._asked.party.id, commit.provider),
            ("dataset", self._dataset.id, commit.dataset),
            ("task", self._asked.task.digest, commit.task_digest),
            ("instance", self._enclave.identity.instance, commit.instance),
            ("schema", self._about, commit.schema_digest),
        ):
            if expected != found:
                raise _another(thing)
        return commit

    def _require_commit(self, rows: Intake, envelope: bytes) -> Commit:
        """The commit that ends this release must be about exactly the chunks that arrived."""
        commit = self._own_commit(envelope)
        if commit.nonce != self._asked.hello.nonce:
            raise _another("nonce")
        tallies = rows.tallies()
        if (commit.rows, commit.batches) != (rows.rows, rows.chunks):
            raise CommitCountMismatch(
                "commit", expected="the rows and batches that arrived", found="other numbers"
            )
        if tags_digest(tallies) != commit.tags_digest:
            raise CommitDigestMismatch(
                "commit", expected="the tags of the chunks that arrived", found="others"
            )
        return commit

    def _acknowledgement(self, commit: Commit) -> bytes:
        identity = self._asked.identity
        return Acknowledgement(
            task_digest=commit.task_digest,
            policy_digest=commit.policy_digest,
            instance=identity.instance,
            dataset=commit.dataset,
            provider=commit.provider,
            commit_digest=commit.digest,
            tags_digest=commit.tags_digest,
            rows=commit.rows,
            batches=commit.batches,
            nonce=self._asked.hello.nonce,
            evidence=self._evidence,
            sealing_key_hash=Digest(hashlib.sha256(self._key.public).digest()),
            tls_spki=identity.spki,
            receipt_key=identity.receipt_spki,
        ).seal(identity.receipt_signer)


# What bytes from anybody cause on the connection beside TLS; the last by a pause put in.
_BESIDE = (ChunkNotOpenable, ChunkUnexpected, SequenceBroken, StreamsIncomplete)


class CommitOfAnotherRelease(StreamIntegrityError):
    """The commit is about another task, policy, instance, challenge, dataset or provider."""

    code = "commit-of-another-release"
    default_fix = "release again with the same task"


def _another(thing: str) -> CommitOfAnotherRelease:
    return CommitOfAnotherRelease(
        f"commit: {thing}", expected="that of this release", found="another"
    )
