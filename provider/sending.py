"""Sends the rows of one release, sealed, over one connection or several.

    tallies, digest = send_rows(dataset, session, chunks, started, sent)

Batches are dealt out to the streams in turns: chunk n of stream s is batch n x streams + s. What
the enclave has kept from a connection that broke is not sent again: the source is read from its
first row, and the digest of the rows that were kept must be that of these.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from policy.document import digest_text
from policy.rows import schema_digest
from policy.sections import Dataset
from policy.values import Digest
from provider.errors import SourceError
from provider.exchange import Session, ValidityWatch
from provider.release_state import Started
from provider.sources import Chunk
from ratls.address import PeerUnreachable
from ratls.client_call import AnswerMissing, AnswerNotOpened
from ratls.client_stream import ClientExchange, Kept
from ratls.errors import CallFailed, DeadlineExceeded, TransportError
from ratls.framing import RowDigest
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed
from ratls.sealing import Tally, Transcript
from verifier.errors import RatlsError
from verifier.files import MEBIBYTE


class KeptRowsDiffer(SourceError):
    """The enclave has kept rows of an earlier try, and they are not those of this source."""

    code = "kept-rows-differ"
    default_fix = "try again: the next release sends all rows of the source as it is then"


_LARGE = 256 * MEBIBYTE  # bytes of a source
_QUIET = timedelta(seconds=30)  # far less than an enclave waits for a word
# Seconds between one connection that broke in the middle of the rows and the next; then no more.
WAITS = (0.2, 1.0, 5.0, None)
_FLOWED = 32 * MEBIBYTE  # more than waits anywhere on the way: the enclave has some of it


class Tries:
    """How often a release that broke in the middle of its rows goes on by itself.

    A few times in vain; but a connection that carried much was no such try. Of a link that breaks
    or is slow again and again, each connection carries its part.
    """

    def __init__(self) -> None:
        self._begun, self._waits = False, iter(WAITS)

    def next_wait(self, broken: TransportError, sent: Sent) -> float | None:
        """Seconds until the next try; None: this was the last.

        Args:
            sent: Over the connection that broke.
        """
        flowed = sent.bytes >= _FLOWED
        self._begun |= sent.begun
        if flowed:
            self._waits = iter(WAITS)
        late = isinstance(broken, DeadlineExceeded) and flowed  # the time of one exchange is over
        if not self._begun or not (late or may_mend(broken)):
            return None
        return next(self._waits, None)


def may_mend(broken: TransportError) -> bool:
    """Does it look otherwise a moment later? Of refusals that of one call, or quote, too many."""
    if isinstance(broken, PeerRefused):
        return broken.peer_code in ("exchanges-exhausted", "too-many-challenges")
    return isinstance(broken, CallFailed | AnswerMissing | PeerUnreachable | HandshakeFailed)


def explained(broken: RatlsError) -> RatlsError:
    """Adds to a broken stream's refusal that nothing counts yet and a second try is safe."""
    if not isinstance(broken, CallFailed | AnswerMissing | AnswerNotOpened | DeadlineExceeded):
        return broken
    broken.fix = (
        "without an acknowledgement nothing counts: push again, and only the rest is sent; if the "
        "enclave has restarted meanwhile, a newly signed task is needed"
    )
    return broken


@dataclass(slots=True)
class Sent:
    """What was sent in this run, counted on the way. Bytes are those of Arrow's messages."""

    progress: Callable[[int, int | None], None]
    total: int | None = None  # rows that there are, where that is known
    rows: int = 0
    batches: int = 0
    bytes: int = 0
    kept: int = 0  #        rows that the enclave had from an earlier run
    size: int = 0  #        bytes of the source's files; 0 where it is none
    begun: bool = False  # a batch may have been sent, counted or not
    source_refused: bool = False  # no commit was signed, and none will be

    def count(self, rows: int, size: int) -> None:
        """One more batch."""
        self.rows, self.batches, self.bytes = self.rows + rows, self.batches + 1, self.bytes + size
        self.progress(self.rows + self.kept, self.total)

    def skip(self, rows: int) -> None:
        """Rows that need not be sent."""
        self.kept += rows
        self.progress(self.rows + self.kept, self.total)


def streams_for(size: int) -> int:
    """How many connections are worth their handshakes: each keeps about two cores busy."""
    return max(1, min(4, (os.cpu_count() or 1) // 2)) if size >= _LARGE else 1


def send_rows(
    dataset: Dataset,
    session: Session,
    chunks: Iterator[Chunk],
    started: Started,
    sent: Sent,
) -> tuple[list[Tally], Digest]:
    """Send all rows of a source; what was sent over each stream, and the salted digest of all.

    Raises:
        KeptRowsDiffer: The enclave goes on with other rows.
        RatlsError: What source and enclave refuse, and what is no longer valid.
    """
    about, watch = schema_digest(dataset), ValidityWatch(session)
    digest = RowDigest(started.salt, about)
    with ExitStack() as connections:
        streams: list[_Stream] = []
        for number in range(started.streams):
            # One after the other: each takes the place of what is left of a dead link of its own.
            exchange = connections.enter_context(session.connect()) if number else session.exchange
            streams.append(_Stream(exchange, number, session, dataset, started, about))
        for turn, (chunk, last) in enumerate(_marked(chunks, len(streams))):
            watch.check()
            digest.add(turn, chunk.batch.num_rows, chunk.digest)
            streams[turn % len(streams)].take(chunk, last, sent)
        return [stream.end() for stream in streams], digest.digest()


def _marked(chunks: Iterator[Chunk], streams: int) -> Iterator[tuple[Chunk, bool]]:
    """Each chunk, and whether its stream ends with it."""
    waiting: deque[Chunk] = deque()
    for chunk in chunks:
        waiting.append(chunk)
        if len(waiting) > streams:
            yield waiting.popleft(), False
    for chunk in waiting:
        yield chunk, True


class _Stream:
    """One connection, and what the enclave had of its chunks when it was opened."""

    def __init__(
        self,
        exchange: ClientExchange,
        number: int,
        session: Session,
        dataset: Dataset,
        started: Started,
        about: Digest,
    ) -> None:
        transcript = Transcript(
            policy_digest=session.job.policy.digest,
            task_digest=session.job.task.digest,
            nonce=exchange.fresh.claims.nonce,
            instance=exchange.fresh.claims.instance,
            dataset=dataset.id,
            provider=session.request.party.party_id,
            release=started.release,
            stream=number,
            streams=started.streams,
        )
        self._exchange, self._number, self._chunks, self._rows = exchange, number, 0, 0
        self._kept: Kept = exchange.open(transcript, started.salt, about, session.request.random)
        self._digest = RowDigest(started.salt, about)
        self._session = session
        self._proved()

    def _proved(self) -> None:
        """The enclave has just proved itself on this connection."""
        rule = self._session.job.policy.transport
        self._bytes_left = rule.challenge_mebibytes * MEBIBYTE
        self._spoke = self._session.request.clock()
        self._until = self._spoke + timedelta(minutes=rule.challenge_minutes)

    def _prove_again(self) -> None:
        self._session.prove_again(self._exchange)
        self._proved()

    def take(self, chunk: Chunk, last: bool, sent: Sent) -> None:
        """Send the next chunk, or compare it where the enclave has it."""
        message, rows = chunk.message, chunk.batch.num_rows
        if self._chunks < self._kept.chunks:
            self._digest.add(self._chunks, rows, chunk.digest)
            self._chunks, self._rows = self._chunks + 1, self._rows + rows
            if self._chunks == self._kept.chunks:
                self._require_kept()
            sent.skip(rows)
            # Reading what the enclave has takes a while, and silence would end the connection.
            if self._session.request.clock() >= self._spoke + _QUIET:
                self._prove_again()
            return
        if self._bytes_left <= 0 or self._session.request.clock() >= self._until:
            self._prove_again()
        self._bytes_left -= message.size
        sent.begun = True
        self._exchange.send_sealed(message, rows, last=last)
        self._chunks += 1
        sent.count(rows, message.size)

    def _require_kept(self) -> None:
        own = Kept(self._chunks, self._rows, self._digest.digest())
        if own != self._kept:  # the rows too: what the enclave counts is what the commit will say
            raise KeptRowsDiffer(
                "rows that the enclave kept",
                expected=digest_text(self._kept.digest),
                found=digest_text(self._digest.digest()),
            )

    def end(self) -> Tally:
        """What was sent over it, once all of it was.

        Raises: KeptRowsDiffer for a source that is shorter than what was kept.
        """
        if self._chunks < self._kept.chunks:
            self._require_kept()
        tally = self._exchange.sealed()
        if self._number:
            self._exchange.received()
        return tally
