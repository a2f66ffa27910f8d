"""Rows that are not sealed: Flight's own batches, numbered, and within caps.

    exchange = PlainExchange(requests, send)      # what gRPC gives a handler of streams
    exchange.schema()
    for number, batch in exchange.batches(Caps(rows=1000, bytes=1 << 20)):
        ...
    exchange.committed

TLS alone protects them. The enclave of this project takes sealed rows only, and does not import
this; services of others that are served behind the same challenge do (`ratls.flight`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from policy.values import Nonce
from ratls.arrow_header import is_schema, read_rows, read_schema
from ratls.framing import Frame, MessageOversized, MessageUnexpected
from ratls.server_stream import SequenceBroken, ServerExchange, StreamOversized
from verifier.files import MEBIBYTE


@dataclass(frozen=True, slots=True)
class Caps:
    """What a receiver holds at most; checked on every batch."""

    rows: int
    bytes: int
    batch_rows: int = 16 * MEBIBYTE
    batch_bytes: int = 64 * MEBIBYTE


def read_columns(frame: Frame) -> pa.Schema:
    """The columns that a frame announces. Raises: MessageUnexpected."""
    header = memoryview(frame.data.header)
    if not len(header) or not is_schema(header):
        raise MessageUnexpected("stream", expected="columns", found="another message")
    return read_schema(header)


class PlainRows:
    """The frames of one stream, in the order in which they come."""

    def __init__(self, schema: pa.Schema, caps: Caps) -> None:
        self._schema, self._caps = schema, caps
        self.batches = self.rows = self._size = 0  # that were taken

    def take(self, frame: Frame) -> pa.RecordBatch:
        """The next batch. Raises: SequenceBroken, ResourceLimitError, StreamIntegrityError."""
        caps, (_, members) = self._caps, frame.message("batch")
        if members["seq"] != self.batches:
            raise SequenceBroken(
                "batch", expected=f"number {self.batches}", found=str(members["seq"])
            )
        # Rows too: a batch of nulls counts 2^28 rows in no bytes (docs/flight.md 3.2).
        body = pa.py_buffer(frame.data.body)
        if body.size > caps.batch_bytes:
            raise MessageOversized(
                "batch", expected=f"at most {caps.batch_bytes} bytes", found=str(body.size)
            )
        header = memoryview(frame.data.header)
        batch = read_rows(header, body, self._schema, most_rows=caps.batch_rows)
        self.batches, self.rows = self.batches + 1, self.rows + batch.num_rows
        self._size += body.size
        if self.rows > caps.rows or self._size > caps.bytes:
            raise StreamOversized(
                "stream", expected=f"at most {caps.rows} rows, {caps.bytes} bytes", found="more"
            )
        return batch


class PlainExchange(ServerExchange):
    """The server's end of one DoExchange on which such rows come."""

    _schema: pa.Schema | None = None

    def schema(self) -> pa.Schema:
        """The columns that were announced. Waits for them. Raises: MessageUnexpected."""
        if self._schema is None:
            self._schema = read_columns(self._next())
        return self._schema

    def batches(
        self, caps: Caps, prove: Callable[[Nonce], object] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows in order, until the client's commit; the columns come first.

        Args:
            prove: Answers a challenge in mid-stream; None: there may be none.

        Raises:
            SequenceBroken: A batch is missing, doubled or out of order.
            StreamTruncated: The stream ended without a commit, which is how a dead client looks.
            ResourceLimitError: More than the caps.
        """
        plain = PlainRows(self.schema(), caps)
        while True:
            frame = self._next()
            if not frame.has_rows:
                name, members = frame.message("commit", *(["challenge"] if prove else []))
                if prove is not None and name == "challenge":
                    prove(Nonce(members["nonce"]))
                    continue
                self._committed = bytes(members["commit"])
                return
            yield plain.batches, plain.take(frame)
