"""One Arrow IPC message whose header may say anything: numbers in it are set one by one.

forged = Ipc.of(batch)
forged.set_buffer(1, offset=0, size=64)
read_batch(forged.message(), batch.schema, most_rows=100)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from ratls.arrow_header import _Table
from ratls.flight_data import FlightData

PAIR = struct.Struct("<qq")
_ROWS, _NODES, _BUFFERS = 0, 1, 2  # fields of RecordBatch in Message.fbs


@dataclass
class Ipc:
    """Header and body as they were written, and then changed."""

    header: bytearray
    body: bytes

    @classmethod
    def of(cls, batch: pa.RecordBatch, compression: str | None = None) -> Self:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        *_, rows = pa.ipc.MessageReader.open_stream(sink.getvalue())
        return cls(bytearray(rows.metadata.to_pybytes()), rows.body.to_pybytes())

    @classmethod
    def messages(cls, table: pa.Table) -> list[Self]:
        """All messages of a stream: columns, dictionaries, rows."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        found = pa.ipc.MessageReader.open_stream(sink.getvalue())
        return [
            cls(bytearray(m.metadata.to_pybytes()), m.body.to_pybytes() if m.body else b"")
            for m in found
        ]

    @property
    def _batch(self) -> _Table:
        return _Table.root(memoryview(self.header)).table(2)

    def _start(self, field: int) -> int:
        """Where the first pair of a vector is."""
        place = self._batch._where(field)
        assert place is not None
        return place + int(struct.unpack_from("<I", self.header, place)[0]) + 4

    def buffers(self) -> list[tuple[int, int]]:
        """Offset and size of each."""
        return self._batch.pairs(_BUFFERS)

    def set_buffer(
        self, number: int, *, offset: int | None = None, size: int | None = None
    ) -> Self:
        old = self.buffers()[number]
        new = old[0] if offset is None else offset, old[1] if size is None else size
        PAIR.pack_into(self.header, self._start(_BUFFERS) + number * PAIR.size, *new)
        return self

    def set_node(self, number: int, rows: int, nulls: int) -> Self:
        PAIR.pack_into(self.header, self._start(_NODES) + number * PAIR.size, rows, nulls)
        return self

    def set_rows(self, rows: int) -> Self:
        place = self._batch._where(_ROWS)
        assert place is not None
        struct.pack_into("<q", self.header, place, rows)
        return self

    def set_body(self, body: bytes) -> Self:
        """Another body, and the header says its size."""
        place = _Table.root(memoryview(self.header))._where(3)
        if place is not None:  # a body of no bytes is not mentioned
            struct.pack_into("<q", self.header, place, len(body))
        self.body = body
        return self

    def message(self) -> pa.Buffer:
        """Encapsulated: marker, size of the header, header, body."""
        start = b"\xff\xff\xff\xff" + len(self.header).to_bytes(4, "little")
        return pa.py_buffer(start + bytes(self.header) + self.body)

    def frame(self, metadata: bytes) -> bytes:
        """As Flight carries it."""
        return FlightData(header=bytes(self.header), metadata=metadata, body=self.body).encode()
