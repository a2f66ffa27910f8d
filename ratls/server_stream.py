"""The enclave's end of a stream: what a server does with one call of DoExchange.

    exchange = ServerExchange(requests, send)     # what gRPC gives a handler of streams
    exchange.kind()
    exchange.hello()
    exchange.send_evidence(evidence, sealing_key)
    for opened in exchange.sealed_rows(key, schema_digest, first=0, prove=prove):
        ...
    exchange.committed                            # the signed commit that ended the rows
    exchange.acknowledge(document)

What documents and rows mean is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa

from policy.errors import ResourceLimitError
from policy.values import Digest, Nonce
from ratls import cbor
from ratls.bulk import Awaited, BulkListener, BulkReader
from ratls.errors import StreamIntegrityError
from ratls.framing import (
    MAX_RESULT,
    PART,
    REFUSAL_KEY,
    Chunk,
    ChunkUnexpected,
    Frame,
    Kind,
    MessageOversized,
    message_frame,
    number_of_parts,
    write_message,
)
from ratls.sealing import StreamKey
from verifier.errors import Exit, RatlsError


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of every exchange. Nothing in it is verified."""

    nonce: Nonce  # 32
    task: bytes
    dataset: str
    release: bytes  # names a release of this party's; empty for other exchanges


@dataclass(frozen=True, slots=True)
class Open:
    """The key of one stream of a release, still sealed. Nothing in it is verified."""

    stream: int
    streams: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A chunk that was sealed for its place: the bytes of one Arrow message, not yet read."""

    message: pa.Buffer
    tag: bytes  # 16
    last: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What a party asks of a round. Nothing in it is verified."""

    number: int  #    of the round that it brings an update for; 0 for none
    up: bytes  #      key of what it sends, sealed
    down: bytes  #    key of what it is sent, sealed
    signed: bytes  #  the update that it signed for this round before; empty for none
    seen: int  #      the last round that it has the receipt of


REASON_SIZE = 64  # bytes: the host sees one length for all codes


class SequenceBroken(StreamIntegrityError):
    """A batch is missing, doubled or out of order."""

    code = "sequence-broken"
    default_fix = "release again with the same task"


class StreamOversized(ResourceLimitError):
    """The rows or bytes of a whole stream exceed their cap."""

    code = "stream-oversized"
    exit_status = Exit.PEER
    default_fix = "send fewer rows, or agree on a larger max_rows"


class ServerExchange:
    """The enclave's end of one DoExchange; methods are called in the order of the protocol."""

    def __init__(
        self,
        requests: Iterator[bytes],
        send: Callable[[bytes], None],
        heard: Callable[[], None] = lambda: None,
        bulk: BulkListener | None = None,
        silent_seconds: float = 120.0,
        cancel: Callable[[], object] = lambda: None,
        pinned: bytes = b"",
    ) -> None:
        """Begin.

        Args:
            heard: Called for each frame that came, so that a silent peer is noticed.
            bulk: Takes the connections that carry chunks; None where they come on this one.
            silent_seconds: How long such a connection may take to come, or be silent.
            cancel: Ends the call at once; from any thread.
            pinned: The key that the client has pinned, as it says (`Identities.of`).
        """
        self.cancel, self.pinned = cancel, pinned
        self._requests, self._send, self._heard = requests, send, heard
        self._bulk, self._silent_seconds = bulk, silent_seconds
        self._awaited: Awaited | None = None
        self._ahead: Frame | None = None  # read, and not yet used
        self._committed: bytes | None = None
        self._over = False  # the call has ended

    def command(self) -> bytes:
        """What the descriptor of the first frame says; to be asked first."""
        first = self._peek()
        if not len(first.data.metadata):  # Flight's own clients send the descriptor alone
            self._ahead = None
        return first.data.command

    def kind(self) -> Kind:
        """What the exchange is for; to be asked first. Raises: MessageUnexpected."""
        return Kind.of(self.command())

    def hello(self) -> Hello:
        """The opening message.

        Raises:
            StreamIntegrityError, ResourceLimitError: It is not one.
        """
        _, members = self._message("hello")
        return Hello(**members)

    def send_evidence(self, evidence: bytes, sealing_key: bytes = b"") -> None:
        """Answer a challenge, with the key that the evidence names; empty for none."""
        self._say("evidence", evidence=evidence, sealing_key=sealing_key)

    def resume_request(self) -> bytes | None:
        """The commit that the client asks about, or None when it goes on with rows."""
        frame = self._peek()
        if frame.is_chunk or frame.has_rows:
            return None
        name, members = frame.message("resume", "open", "commit")
        if name != "resume":
            return None
        self._ahead = None
        return bytes(members["commit"])

    def open_request(self) -> Open:
        """The key of the stream that follows."""
        _, members = self._message("open")
        return Open(**members)

    def ready(self, chunks: int, rows: int, digest: Digest) -> None:
        """Answer `open`: what was kept of this stream, and the salted digest of these rows."""
        port, name = 0, b""
        if self._bulk is not None:
            self._awaited = self._bulk.expect()
            port, name = self._bulk.port, self._awaited.id
        kept: dict[str, cbor.Value] = {"chunks": chunks, "rows": rows, "digest": digest}
        self._say("ready", **kept, port=port, connection=name)

    def close(self) -> None:
        """End the connection that carries chunks, if any; also called when the call has ended."""
        self._over = True
        if self._bulk is not None and self._awaited is not None:
            self._bulk.forget(self._awaited)

    def sealed_rows(
        self, key: StreamKey, about: Digest, *, first: int, prove: Callable[[Nonce], object]
    ) -> Iterator[Opened]:
        """The chunks of a stream, in order, until the client ends it; each is opened.

        Args:
            about: Digest of the schema, which every chunk is sealed with.
            first: The number of the first chunk.
            prove: Answers a challenge in mid-stream.

        Raises:
            SequenceBroken: A chunk is missing, doubled, out of order, or after the last.
            ChunkNotOpenable: It was not sealed for its place.
            StreamTruncated, BulkBroken: It ended without `commit` or `received`.
        """
        if self._awaited is None:
            yield from self._opened(key, about, first, prove, None)
            return
        with closing(self._awaited.reader(self._silent_seconds, self._heard)) as beside:
            yield from self._opened(key, about, first, prove, beside)

    def _opened(
        self,
        key: StreamKey,
        about: Digest,
        first: int,
        prove: Callable[[Nonce], object],
        beside: BulkReader | None,
    ) -> Iterator[Opened]:
        number, ended = first, False
        while True:
            raw = beside.next() if beside is not None and not ended else None
            frame = self._next() if raw is None else None
            if frame is None or frame.is_chunk:
                chunk = self._chunk(raw, frame)
                if ended or chunk.head.number != number:
                    due = "none after the last" if ended else f"number {number}"
                    raise SequenceBroken("chunk", expected=due, found=str(chunk.head.number))
                opened = key.open(chunk.sealed, chunk.head, about)
                number, ended = number + 1, chunk.head.last
                yield Opened(opened, bytes(chunk.tag), ended)
                continue
            name, members = frame.message("challenge", "commit", "received", "update")
            if name == "challenge":
                prove(Nonce(members["nonce"]))
                continue
            if name in ("commit", "update"):
                self._committed = bytes(members[name])
            return

    def _chunk(self, raw: memoryview | None, frame: Frame | None) -> Chunk:
        """A chunk, from the connection where chunks are due."""
        if raw is not None:
            return Chunk.parse(raw)
        if frame is None or self._awaited is not None:
            raise ChunkUnexpected("chunk", expected="one beside this stream", found="one on it")
        return frame.chunk()

    @property
    def committed(self) -> bytes | None:
        """The signed commit, unread, that ended the rows; None where another stream has it."""
        return self._committed

    def acknowledge(self, document: bytes) -> None:
        """Answer a commit, or a resume whose commit is known."""
        self._say("acknowledgement", document=document)

    def received(self) -> None:
        """All chunks of a stream that is not committed itself have come."""
        self._say("received")

    def absent(self) -> None:
        """Answer a resume whose commit never arrived."""
        self._say("absent")

    def result(self, receipt: bytes, ciphertext: bytes) -> None:
        """Answer a collection: the receipt, and the ciphertext in parts.

        Raises:
            MessageOversized: More than a recipient takes.
        """
        size, parts = len(ciphertext), number_of_parts(len(ciphertext))
        if size > MAX_RESULT:
            raise MessageOversized(
                "result", expected=f"at most {MAX_RESULT} bytes", found=str(size)
            )
        self._say("result", receipt=receipt, size=size, parts=parts)
        for number in range(parts):
            part = ciphertext[number * PART : (number + 1) * PART]
            self._say("part", number=number, ciphertext=part)
            self._heard()  # it was sent, because the recipient reads

    def reason(self, code: str) -> None:
        """Answer a provider that asks about its own input."""
        self._say("reason", code=code.ljust(REASON_SIZE))

    def pending(self, missing: list[str]) -> None:
        """Answer a collection that comes too early."""
        self._say("pending", missing=list(missing))

    def round_request(self) -> Round:
        """What the party brings, and what it has."""
        _, members = self._message("round")
        return Round(**members)

    def turn(self, number: int, *, due: bool) -> None:
        """Say which round is open, and whether an update is to come now."""
        self._say("turn", number=number, due=int(due))

    def waits(self) -> None:
        """The party says nothing because it waits for an answer. Raises: StreamTruncated."""
        if self._over:
            raise _truncated("a client that has gone")
        self._heard()

    def model(
        self, number: int, now_open: int, receipts: list[bytes], parts: Iterable[bytes]
    ) -> None:
        """Hand out a model: receipts, then the model in sealed parts."""
        self._say("model", number=number, open=now_open, receipts=len(receipts))
        for receipt in receipts:
            self._say("receipt", document=receipt)
            self._heard()
        for part in parts:
            self._send(part)
            self._heard()

    def _say(self, name: str, **members: cbor.Value) -> None:
        self._send(message_frame(write_message(name, **members)))

    def _message(self, *due: str) -> tuple[str, dict[str, Any]]:
        return self._next().message(*due)

    def _peek(self) -> Frame:
        if self._ahead is None:
            self._ahead = self._next()
        return self._ahead

    def _next(self) -> Frame:
        if self._ahead is not None:
            frame, self._ahead = self._ahead, None
            return frame
        try:
            raw = next(self._requests, None)
        except grpc.RpcError as error:
            raise _truncated("a client that has gone, or was silent for too long") from error
        if raw is None:
            raise _truncated("its end")
        self._heard()
        return Frame.parse(raw)


class StreamTruncated(StreamIntegrityError):
    """The stream ended before its commit: nothing of it counts."""

    code = "stream-truncated"
    default_fix = "release again with the same task"


def _truncated(found: str) -> StreamTruncated:
    return StreamTruncated("stream", expected="the next message up to a commit", found=found)


def refusal_status(
    refusal: RatlsError, correlation_id: str
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Status, text and trailing metadata in place of a refusal: code and id, never its text.

    They are those of Flight's own servers, so that its own clients raise the class that they know,
    with code and id as `extra_info` (docs/flight.md 3.1).
    """
    status = {
        Exit.NOT_GENUINE: grpc.StatusCode.UNAUTHENTICATED,
        Exit.NOT_ADMITTED: grpc.StatusCode.PERMISSION_DENIED,
    }.get(refusal.exit_status, grpc.StatusCode.UNKNOWN)
    text = f"refused: {refusal.code} ({correlation_id})"
    info = json.dumps({"code": refusal.code, "id": correlation_id}).encode()
    details: tuple[tuple[str, str | bytes], ...] = (
        (REFUSAL_KEY, info),
        ("x-arrow-status", "5"),  # IOError, as Flight's own servers say
        ("x-arrow-status-message-bin", text.encode()),
    )
    return status, text, details
