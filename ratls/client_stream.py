"""The client's end of a stream, for providers that release and recipients that collect.

    asked = {"task": task, "task_digest": digest, "dataset": "train_party_1"}
    with open_exchange(Kind.RELEASE, address, admitted, identity, **asked, **held) as exchange:
        exchange.fresh                 # appraised already: rows may follow on this very RPC
        kept = exchange.open(transcript, salt, schema_digest)
        exchange.send_sealed(batch.serialize(), batch.num_rows, last=True)
        acknowledgement = exchange.commit(envelope)

A stream is one DoExchange of Arrow Flight, in which the enclave first proves itself. gRPC
reconnects silently between RPCs and never within one, so the challenge and the rows share an RPC.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa

from policy.text import IDENTIFIER
from policy.values import Digest, Nonce
from ratls.address import Address
from ratls.appraise import AdmittedCertificate, Expectation, FreshEvidence
from ratls.bulk import ID_SIZE, BulkSender
from ratls.client_call import AnswerMissing, ClientCall, answer_not_opened, begin_call
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.flight_rows import pieces
from ratls.framing import (
    MAX_MESSAGE,
    MAX_PART,
    MAX_RESULT,
    PART,
    Kind,
    MessageUnexpected,
    chunk_frame,
    command_frame,
    message_frame,
    number_of_parts,
    rows_frame,
    schema_frame,
    without_metadata,
    write_message,
)
from ratls.peer_refusal import slug
from ratls.pin import ChannelIdentity
from ratls.sealing import (
    SALT_SIZE,
    TAG_SIZE,
    ChunkHead,
    StreamKey,
    Tally,
    Transcript,
    seal_stream_key,
    sealing_key_changed,
)
from ratls.session import Challenger, Verifier

_FRAME = 64 * 1024  # room beside a message


@dataclass(frozen=True, slots=True)
class Result:
    """A result and its receipt, both as received."""

    receipt: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Pending:
    """There is no result yet; these datasets are missing."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the enclave has of a stream, from a connection that broke; nothing of a new one."""

    chunks: int
    rows: int
    digest: Digest  # salted, of these rows


def largest_answer(kind: Kind) -> int:
    """Bytes that one message from the enclave may have in a stream of this kind."""
    return _FRAME + (MAX_PART if kind in (Kind.COLLECT, Kind.ROUND) else MAX_MESSAGE)


@contextmanager
def open_exchange(
    kind: Kind,
    address: Address,
    admitted: AdmittedCertificate,
    identity: ChannelIdentity,
    *,
    task: bytes,
    task_digest: Digest,
    dataset: str,
    expectation: Expectation,
    clock: Callable[[], datetime],
    timeout: float,
    release: bytes = b"",
    random: Callable[[int], bytes] = os.urandom,
    begun: ClientCall | None = None,
) -> Iterator[ClientExchange]:
    """Connect under the pin, challenge the enclave, and yield the stream if it passes.

    Args:
        kind: What for.
        address: The numeric address that was probed.
        admitted: What the probe showed, appraised.
        identity: Own certificate and key, as the policy lists them.
        task: Signed task, as its envelope; empty for a bare check.
        task_digest: 32 bytes, own digest of it; `claims.NO_TASK` for a bare check.
        dataset: Name of what will be released; empty otherwise.
        expectation: Own policy, collateral and roots.
        clock: Now, aware, UTC.
        timeout: Seconds for the whole exchange: every read and write ends by then.
        release: 16 bytes that name the release, the same in all its streams; empty otherwise.
        random: Source of the nonce.
        begun: Of `begin_call` to this address, for `admitted` and `identity`.

    Raises:
        TransportError: The peer is unreachable, late, silent or refuses.
        RatlsError: What the appraisal of its answer says.
    """
    verifier = Verifier(lambda: expectation, clock, random)
    challenger = Challenger(admitted, identity.spki_sha256, verifier, task_digest)
    hello: dict[str, Any] = {"task": task, "dataset": dataset, "release": release}
    with ExitStack() as held:
        if begun is None:
            most = largest_answer(kind)
            begun = held.enter_context(begin_call(address, admitted, identity, timeout, most))
        fresh, key = _prove(begun, challenger, kind.value, hello)
        exchange = ClientExchange(begun, challenger, fresh, key, address, timeout)
        try:
            yield exchange
        finally:
            exchange.close()
        begun.end()


@contextmanager
def proved_call(
    command: bytes,
    hello: dict[str, Any],
    address: Address,
    challenger: Challenger,
    identity: ChannelIdentity,
    timeout: float,
    largest: int,
) -> Iterator[tuple[ClientCall, FreshEvidence, bytes]]:
    """A call on which the enclave has proved itself, its evidence, and the sealing key in it.

    Args:
        command: Of the descriptor: what the call is for.
        hello: Members of the first message besides the nonce.
        largest: Bytes that one message from the enclave may have.
    """
    with begin_call(address, challenger.admitted, identity, timeout, largest) as call:
        yield call, *_prove(call, challenger, command, hello)
        call.end()


def _prove(
    call: ClientCall, challenger: Challenger, command: bytes, hello: dict[str, Any]
) -> tuple[FreshEvidence, bytes]:
    """Say what the call is for, challenge the enclave, and appraise its answer."""
    nonce = challenger.nonce()
    call.send(command_frame(command))
    call.send(message_frame(write_message("hello", nonce=nonce, **hello)))
    return appraise_answer(challenger, nonce, call.message("evidence")[1])


def appraise_answer(
    challenger: Challenger, nonce: Nonce, answer: dict[str, Any]
) -> tuple[FreshEvidence, bytes]:
    """The evidence, appraised, and the sealing key that it names."""
    sealing_key = bytes(answer["sealing_key"])
    named = hashlib.sha256(sealing_key).digest() if sealing_key else b""
    return challenger.appraise(nonce, answer["evidence"], named), sealing_key


class ClientExchange:
    """An exchange with an enclave that has proved itself. Made by `open_exchange`."""

    def __init__(
        self,
        call: ClientCall,
        challenger: Challenger,
        fresh: FreshEvidence,
        sealing_key: bytes,
        address: Address,
        timeout: float,
    ) -> None:
        self._call, self._challenger, self._sealing_key = call, challenger, sealing_key
        self.fresh = fresh
        self.tally = Tally()  # of what this stream has sent
        self._key: StreamKey | None = None
        self._about = Digest(b"")
        self._schema: pa.Schema | None = None
        self._seq = 0
        self._number = 0  # of the next chunk
        self._ended = False  # the last chunk was given
        self._bulk: BulkSender | None = None
        self._address, self._timeout = address, timeout

    @property
    def call(self) -> ClientCall:
        """The RPC itself, for what `ratls.client_rounds` says on it."""
        return self._call

    def key_for(
        self, transcript: Transcript, random: Callable[[int], bytes] = os.urandom
    ) -> tuple[bytes, StreamKey]:
        """A key for one direction of a round: sealed to the enclave, and to use.

        Raises:
            SealingKeyMalformed: The enclave names no key to seal to.
        """
        return seal_stream_key(self._sealing_key, transcript, bytes(SALT_SIZE), random)

    def _say(self, name: str, **members: Any) -> None:
        self._call.send(message_frame(write_message(name, **members)))

    def resume(self, commit: bytes) -> bytes | None:
        """Ask for the acknowledgement of a commit sent before; None if it never arrived.

        Comes before `open`.
        """
        self._say("resume", commit=commit)
        name, answer = self._call.message("acknowledgement", "absent")
        return answer["document"] if name == "acknowledgement" else None

    def open(
        self,
        transcript: Transcript,
        salt: bytes,
        schema_digest: Digest,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Kept:
        """Agree the key of this stream; what the enclave has kept of it.

        Rows go on after what was kept, or, where the caller does not believe it, nothing follows.

        Args:
            transcript: Nonce and instance are those of `fresh`.
            salt: 32 bytes, of this release's digests of rows.

        Raises:
            SealingKeyMalformed: The enclave names no key to seal to.
        """
        sealed, self._key = seal_stream_key(self._sealing_key, transcript, salt, random)
        self._about = schema_digest
        self._say("open", stream=transcript.stream, streams=transcript.streams, key=sealed)
        _, answer = self._call.message("ready")
        kept = Kept(answer["chunks"], answer["rows"], Digest(answer["digest"]))
        self._connect_bulk(answer["port"], answer["connection"])
        if kept.chunks:
            self.tally.resume(kept.chunks, kept.rows, kept.digest)
        self._number = kept.chunks
        return kept

    def _connect_bulk(self, port: int, connection: bytes) -> None:
        """The connection for chunks, exactly where the policy wants one."""
        agreed = self._challenger.verifier.expect().policy.transport.bulk == "sealed"
        if agreed != bool(port) or not 0 <= port < 2**16 or len(connection) != ID_SIZE * agreed:
            raise MessageUnexpected(
                "connection for chunks", expected="as the policy says", found="otherwise"
            )
        if agreed:
            beside = Address(self._address.host, port)
            self._bulk = BulkSender(beside, connection, self._timeout)

    def close(self) -> None:
        """End the connection for chunks, if there is one."""
        if self._bulk is not None:
            self._bulk.close()

    def send_sealed(self, message: pa.Buffer, rows: int, *, last: bool) -> None:
        """Seal and send the next rows: an encapsulated Arrow message of one record batch.

        They are sealed in the thread that sends, while the caller reads the next ones.
        """
        key, about, tally = self._key, self._about, self.tally
        if key is None:
            raise AssertionError("open comes first")
        head = ChunkHead(self._number, last)

        def sealed() -> bytes:
            chunk = key.seal(message, head, about)
            tally.add(chunk[-TAG_SIZE:], rows)
            return chunk

        if self._bulk is None:
            self._call.send(lambda: chunk_frame(head, sealed()))
        else:
            self._beside(lambda bulk: bulk.offer(lambda: (head.encode(), sealed())))
        self._number, self._ended = self._number + 1, last

    def _beside(self, step: Callable[[BulkSender], bool]) -> None:
        """Repeat a step on the connection for chunks until it is done.

        Raises: What the enclave says of it, or else that the connection broke.
        """
        assert self._bulk is not None
        try:
            while not step(self._bulk):
                self._call.require_active()
        except CallFailed:
            with suppress(CallFailed, DeadlineExceeded, AnswerMissing):
                self._call.raise_reason()
            raise

    def _to_attested_stream(self) -> None:
        """What follows comes there, and not on the connection for chunks."""
        if self._bulk is not None and not self._ended:
            self._beside(BulkSender.pause)

    def sealed(self) -> Tally:
        """What was sent, once all of it is sealed. Raises: as `send_sealed`."""

        def done() -> bool:
            return self.tally.chunks == self._number

        if self._bulk is None:
            self._call.wait_until(done)
        else:
            self._beside(lambda bulk: bulk.wait(done))
        return self.tally

    def challenge_again(self) -> FreshEvidence:
        """Let the enclave prove itself anew, on this very RPC. Rows wait until it has.

        Raises:
            RatlsError: What the appraisal says, or another sealing key than before.
        """
        nonce = self._challenger.nonce()
        self._to_attested_stream()
        self._say("challenge", nonce=nonce)
        fresh, key = appraise_answer(self._challenger, nonce, self._call.message("evidence")[1])
        if key != self._sealing_key:
            raise sealing_key_changed()
        return fresh

    def begin(self, schema: pa.Schema) -> None:
        """Announce the columns, without metadata of schema and fields."""
        self._schema = without_metadata(schema)
        self._call.send(schema_frame(self._schema))

    def send(self, batch: pa.RecordBatch) -> None:
        """Send the next rows, in messages of about 1 MiB: they fit into the processor's cache.

        Raises:
            TransportError: Also when the enclave refuses in the middle of an upload.
        """
        if self._schema is None:
            raise AssertionError("begin comes first")
        for piece in pieces(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)):
            self._call.send(partial(rows_frame, piece, self._seq))  # made in the thread that sends
            self._seq += 1

    def received(self) -> None:
        """Wait until the enclave has all chunks of a stream that is not committed itself."""
        self._to_attested_stream()
        self._say("received")
        self._call.message("received")

    def commit(self, envelope: bytes) -> bytes:
        """End the release; the signed acknowledgement, unread. Without one, nothing counts."""
        self._to_attested_stream()
        self._say("commit", commit=envelope)
        _, answer = self._call.message("acknowledgement")
        return bytes(answer["document"])

    def collect(self) -> Result | Pending:
        """The outcome of the task. Sealed in a result may be that there is none.

        Raises:
            AnswerNotOpened: A larger one than any; none of it is taken.
            MessageUnexpected: Parts in another order, of another size, or other in number.
        """
        name, answer = self._call.message("result", "pending")
        if name == "pending":
            return _pending(answer)
        return Result(answer["receipt"], self._parts(answer["size"], answer["parts"]))

    def _parts(self, size: int, parts: int) -> bytes:
        """The ciphertext, of so many bytes. What was announced is not allocated: it comes first."""
        if not 0 <= size <= MAX_RESULT:
            raise answer_not_opened()
        if parts != number_of_parts(size):
            raise _unfit_parts("another number of them")
        found: list[bytes] = []
        for number in range(parts):
            _, part = self._call.message("part")
            due = min(PART, size - number * PART)
            if part["number"] != number or len(part["ciphertext"]) != due:
                raise _unfit_parts("another number or size")
            found.append(part["ciphertext"])
        return b"".join(found)

    def ended(self) -> bytes:
        """P22: the signed answer to a withdrawal, unread: what it ends has ended."""
        _, answer = self._call.message("acknowledgement")
        return bytes(answer["document"])

    def reason(self) -> str | Pending:
        """The code of the rule that the named dataset breaks by itself; "" for none."""
        name, answer = self._call.message("reason", "pending")
        if name == "pending":
            return _pending(answer)
        code = answer["code"].rstrip(" ")
        return slug(code) if code else ""


def _unfit_parts(found: str) -> MessageUnexpected:
    return MessageUnexpected("parts of a result", expected="as announced, in order", found=found)


def _pending(answer: dict[str, Any]) -> Pending:
    return Pending(tuple(_dataset_id(item) for item in answer["missing"]))


def _dataset_id(text: object) -> str:
    return text if isinstance(text, str) and IDENTIFIER.fullmatch(text) else "unreadable"
