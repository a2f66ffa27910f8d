"""The enclave's end of a stream: what a Flight server does with one call of DoExchange.

    exchange = ServerExchange(reader, writer, context)
    hello = exchange.hello()
    exchange.send_evidence(evidence)
    for seq, batch in exchange.batches(caps):
        ...
    exchange.committed                 # the signed commit that ended the rows
    exchange.acknowledge(document)

What documents and rows mean is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from policy.errors import ResourceLimitError
from policy.values import Nonce
from ratls import cbor
from ratls.errors import CallFailed, StreamIntegrityError
from ratls.framing import Frame, MessageOversized, MessageUnexpected, read, write, write_message
from verifier.errors import Exit, RatlsError
from verifier.files import MEBIBYTE


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of every exchange. Nothing in it is verified."""

    nonce: Nonce  # 32
    task: bytes
    dataset: str


@dataclass(frozen=True, slots=True)
class Caps:
    """What a receiver holds at most; checked on every batch before it is used."""

    rows: int
    bytes: int
    batch_rows: int = 16 * MEBIBYTE
    batch_bytes: int = 64 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class CommitMessage:
    """The end of a release: signed commit, unread, and the salt of its digest."""

    envelope: bytes
    salt: bytes  # 32


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

    def __init__(self, reader: Any, writer: Any, context: Any) -> None:
        self._reader, self._writer, self._context = reader, writer, context
        self._ahead: Frame | None = None  # read, and not yet used
        self._committed: CommitMessage | None = None

    def hello(self) -> Hello:
        """The opening message.

        Raises:
            StreamIntegrityError, ResourceLimitError: It is not one.
        """
        _, members = self._message("hello")
        return Hello(**members)

    def send_evidence(self, evidence: bytes) -> None:
        """Answer the challenge."""
        self._say("evidence", evidence=evidence)

    def resume_request(self) -> bytes | None:
        """The commit that the client asks about, or None when it goes on with rows."""
        frame = self._peek()
        if frame.rows is not None:
            return None
        name, members = frame.message("resume", "commit")
        if name == "commit":
            return None
        self._ahead = None
        return bytes(members["commit"])

    def schema(self) -> pa.Schema:
        """The columns that were announced. Waits for the first rows.

        Raises:
            MessageUnexpected: A commit without any rows.
        """
        if self._peek().rows is None:
            raise MessageUnexpected("stream", expected="rows", found="a message without rows")
        return self._reader.schema

    def batches(self, caps: Caps) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows, in order, until the client's commit; `committed` holds that afterwards.

        Raises:
            SequenceBroken: A batch is missing, doubled or out of order.
            StreamTruncated: The stream ended without a commit, which is how a dead client looks.
            ResourceLimitError: More than the caps.
        """
        rows = size = seq = 0
        while True:
            frame = self._next()
            if frame.rows is None:
                _, members = frame.message("commit")
                self._committed = CommitMessage(members["commit"], members["salt"])
                return
            _, members = frame.message("batch")
            if members["seq"] != seq:
                raise SequenceBroken("batch", expected=f"number {seq}", found=str(members["seq"]))
            rows, size = rows + frame.rows.num_rows, size + _require_batch(frame.rows, caps)
            if rows > caps.rows or size > caps.bytes:
                raise StreamOversized(
                    "stream", expected=f"at most {caps.rows} rows, {caps.bytes} bytes", found="more"
                )
            yield seq, frame.rows
            seq += 1

    @property
    def committed(self) -> CommitMessage:
        """The commit that ended `batches`.

        Raises:
            StreamTruncated: There was none.
        """
        if self._committed is None:
            raise _truncated("none")
        return self._committed

    def acknowledge(self, document: bytes) -> None:
        """Answer a commit, or a resume whose commit is known."""
        self._say("acknowledgement", document=document)

    def absent(self) -> None:
        """Answer a resume whose commit never arrived."""
        self._say("absent")

    def result(self, receipt: bytes, ciphertext: bytes) -> None:
        """Answer a collection."""
        self._say("result", receipt=receipt, ciphertext=ciphertext)

    def reason(self, code: str) -> None:
        """Answer a provider that asks about its own input."""
        self._say("reason", code=code.ljust(REASON_SIZE))

    def pending(self, missing: list[str]) -> None:
        """Answer a collection that comes too early."""
        self._say("pending", missing=list(missing))

    def _say(self, name: str, **members: cbor.Value) -> None:
        message = write_message(name, **members)
        try:
            write(self._writer, message)
        except (pa.ArrowException, OSError) as error:
            raise CallFailed(
                "the connection to the peer", expected="a reader", found="it broke"
            ) from error

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
            found = read(self._reader)
        except (pa.ArrowException, OSError) as error:
            raise MessageUnexpected("stream", expected="Arrow messages", found="others") from error
        if found is None:
            cancelled = self._context.is_cancelled()
            raise _truncated("a client that has gone" if cancelled else "its end")
        return found


class StreamTruncated(StreamIntegrityError):
    """The stream ended before its commit: nothing of it counts."""

    code = "stream-truncated"
    default_fix = "release again with the same task"


def _truncated(found: str) -> StreamTruncated:
    return StreamTruncated("stream", expected="the next message up to a commit", found=found)


def _require_batch(batch: pa.RecordBatch, caps: Caps) -> int:
    """What a copy of the batch takes, in bytes.

    Raises:
        MessageOversized: More rows or bytes than one batch may have.
    """
    # Rows too: a batch of nulls counts 2^28 rows in no bytes (docs/flight.md 3.2).
    size = size_of_copy(batch)
    if batch.num_rows > caps.batch_rows or size > caps.batch_bytes:
        raise MessageOversized(
            "batch",
            expected=f"at most {caps.batch_rows} rows, {caps.batch_bytes} bytes",
            found=f"{batch.num_rows} rows, {size} bytes",
        )
    return size


def size_of_copy(batch: pa.RecordBatch) -> int:
    """Bytes of all buffers of all columns: each as often as a column has it.

    `get_total_buffer_size` counts once what columns share: 200 columns on one buffer of 4 MiB are
    828 MiB as soon as they are copied (F19). `nbytes` follows offsets that are not validated yet.
    """
    return sum(
        buffer.size for column in batch.columns for buffer in column.buffers() if buffer is not None
    )


def flight_refusal(refusal: RatlsError, correlation_id: str) -> Exception:
    """What a server raises in place of a refusal: class, code and id, never its text.

    An exception that escapes a handler sends its message and traceback to the peer.
    """
    kind = {
        Exit.NOT_GENUINE: flight.FlightUnauthenticatedError,
        Exit.NOT_ADMITTED: flight.FlightUnauthorizedError,
    }.get(refusal.exit_status, flight.FlightServerError)
    info = json.dumps({"code": refusal.code, "id": correlation_id}).encode()
    error: Exception = kind(f"refused: {refusal.code} ({correlation_id})", extra_info=info)
    return error
