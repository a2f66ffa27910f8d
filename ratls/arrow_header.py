"""Rows from an Arrow IPC message whose header is read and judged before its body is touched.

    batch = read_batch(buffer, schema, most_rows=1 << 24)         # header and body in one buffer
    batch = read_rows(header, body, schema, most_rows=1 << 24)    # as Flight carries them

The header is a flatbuffer with numbers from the other side: how many rows, and where in the body
each column lies. Arrow's own reader follows them, unpacks what is compressed, and replaces
dictionaries. Here a message is one plain record batch, whose buffers lie in the body one after
another, each large enough for its rows; all else is refused. The arrays are views of the body, and
what they contain is not checked here: `policy.rows.check_batch` does that.

Format: Apache Arrow columnar format 1.5, "Serialization and Interprocess Communication".
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from ratls.errors import StreamIntegrityError

MAX_HEADER = 1 << 20  # bytes; 4,096 columns need 260 kB
_CONTINUATION = b"\xff\xff\xff\xff"
_PREFIX = 8
_RECORD_BATCH = 3
_VERSION_5 = 4
_NODE = struct.Struct("<qq")
_PADDING = 64
_ALIGNED = 8


class RowsHeaderMalformed(StreamIntegrityError):
    """The header of a batch is not that of plain rows with the agreed columns."""

    code = "rows-header-malformed"
    default_fix = "send record batches of the agreed schema, without compression or dictionaries"


def read_batch(message: pa.Buffer, schema: pa.Schema, *, most_rows: int) -> pa.RecordBatch:
    """One encapsulated message: marker, size of the header (u32), header, body.

    Raises: RowsHeaderMalformed.
    """
    view = memoryview(message).cast("B")
    if len(view) < _PREFIX or view[:4] != _CONTINUATION:
        raise _malformed("another beginning")
    size = int.from_bytes(view[4:_PREFIX], "little")
    if size > min(MAX_HEADER, len(view) - _PREFIX) or size % _ALIGNED:
        raise _malformed("a header beyond the end, or not padded")
    start = _PREFIX + size
    return read_rows(view[_PREFIX:start], message.slice(start), schema, most_rows=most_rows)


def read_rows(
    header: memoryview, body: pa.Buffer, schema: pa.Schema, *, most_rows: int
) -> pa.RecordBatch:
    """The rows of one batch, as views of `body`.

    Args:
        schema: The columns, of the types that a policy can declare.
        most_rows: More are refused.

    Raises:
        RowsHeaderMalformed: Another kind of message; compression; buffers outside the body, too
            small for their rows, out of order, or with more between them than padding.
    """
    if len(header) > MAX_HEADER:
        raise _malformed("a header of more than a mebibyte")
    try:
        rows, nodes, buffers = _batch(_Table.root(header), body.size)
    except (struct.error, IndexError, ValueError) as error:
        raise _malformed("numbers that point outside") from error
    if rows > most_rows:
        raise _malformed(f"more than {most_rows} rows")
    if len(nodes) != len(schema) or any(count != rows for count, _ in nodes):
        raise _malformed("columns of other lengths, or another number of them")
    end, arrays, left = 0, [], iter(buffers)
    for type_, (_, nulls) in zip(schema.types, nodes, strict=True):
        column: list[pa.Buffer | None] = []
        for least, most in _sizes(type_, rows, nulls, body.size):
            start, size = next(left, (-1, -1))
            # Slack would be bytes that no row has, kept and never judged.
            if not end <= start <= end + _PADDING or not least <= size <= most + _PADDING:
                raise _malformed("a buffer of another size, or in another place")
            if start % _ALIGNED:  # code that is compiled for aligned numbers may end the process
                raise _malformed("a buffer that is not aligned")
            if start + size > body.size:
                raise _malformed("a buffer beyond the end")
            column.append(body.slice(start, size) if size or column else None)
            end = start + size
        if pa.types.is_string(type_):
            _require_texts_of_rows(column[1], column[2], rows)
        arrays.append(pa.Array.from_buffers(type_, rows, column))
    if next(left, None) is not None or body.size - end > _PADDING:
        raise _malformed("bytes or buffers after the last column")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _sizes(type_: pa.DataType, rows: int, nulls: int, most: int) -> list[tuple[int, int]]:
    """Least and most bytes of each buffer of a column: validity, values or offsets, texts."""
    if not 0 <= nulls <= rows:
        raise _malformed("another number of nulls")
    bitmap = (rows + 7) // 8
    validity = (bitmap if nulls else 0, bitmap)
    if pa.types.is_string(type_):
        offsets = 4 * (rows + 1)
        return [validity, (offsets, offsets), (0, most)]
    values = (rows * type_.bit_width + 7) // 8
    return [validity, (values, values)]


def _require_texts_of_rows(offsets: pa.Buffer, texts: pa.Buffer, rows: int) -> None:
    """The texts are those of the rows: none lie before the first, or behind the last."""
    numbers = memoryview(offsets).cast("B").cast("i")
    last = numbers[rows]
    if numbers[0] or last < 0 or not last <= texts.size <= last + _PADDING:
        raise _malformed("texts that no row has")


class _Table:
    """A table of a flatbuffer. Reading outside the bytes raises struct.error."""

    def __init__(self, raw: memoryview, place: int) -> None:
        self._raw, self._place = raw, place
        self._fields = place - self._number("<i", place)
        self._size = self._number("<H", self._fields)

    @classmethod
    def root(cls, raw: memoryview) -> _Table:
        return cls(raw, struct.unpack_from("<I", raw, 0)[0])

    def _number(self, form: str, place: int) -> int:
        if place < 0:
            raise ValueError("before the beginning")
        number: int = struct.unpack_from(form, self._raw, place)[0]
        return number

    def _where(self, field: int) -> int | None:
        """Where a field is; None where it is absent."""
        entry = 4 + 2 * field
        offset = self._number("<H", self._fields + entry) if entry < self._size else 0
        return self._place + offset if offset else None

    def number(self, field: int, form: str) -> int:
        """A number; 0 where it is absent, as flatbuffers have it."""
        place = self._where(field)
        return 0 if place is None else self._number(form, place)

    def has(self, field: int) -> bool:
        return self._where(field) is not None

    def table(self, field: int) -> _Table:
        place = self._where(field)
        if place is None:
            raise ValueError("a table is absent")
        return _Table(self._raw, place + self._number("<I", place))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit numbers each."""
        place = self._where(field)
        if place is None:
            return []
        start = place + self._number("<I", place)
        count = self._number("<I", start)
        if count * _NODE.size > len(self._raw):
            raise ValueError("a vector beyond the end")
        return [_NODE.unpack_from(self._raw, start + 4 + i * _NODE.size) for i in range(count)]


Pairs = list[tuple[int, int]]


def _batch(message: _Table, body_size: int) -> tuple[int, Pairs, Pairs]:
    """Number of rows; (length, nulls) of each column; (offset, size) of each buffer."""
    if (message.number(0, "<h"), message.number(1, "<B")) != (_VERSION_5, _RECORD_BATCH):
        raise _malformed("another kind of message")
    if message.number(3, "<q") != body_size or message.has(4):
        raise _malformed("a body of another size, or metadata")
    batch = message.table(2)
    if batch.has(3) or batch.has(4):
        raise _malformed("compression, or variadic buffers")
    rows = batch.number(0, "<q")
    if rows < 1:
        raise _malformed("no rows")
    return rows, batch.pairs(1), batch.pairs(2)


def _malformed(found: str) -> RowsHeaderMalformed:
    return RowsHeaderMalformed(
        "header of rows", expected="plain rows of the agreed columns", found=found
    )


def read_schema(header: memoryview) -> Any:
    """The schema of a stream that announces one, as Flight's own clients do.

    Raises: RowsHeaderMalformed.
    """
    if len(header) > MAX_HEADER:
        raise _malformed("a header of more than a mebibyte")
    framed = _CONTINUATION + len(header).to_bytes(4, "little") + bytes(header)
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(framed))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _malformed("no schema") from error
    # No dictionaries, nested types or extensions: their buffers are others than `read_rows` knows.
    if not all(pa.types.is_primitive(t) or pa.types.is_string(t) for t in schema.types):
        raise _malformed("a column of another type than numbers, times and texts")
    return schema


def is_schema(header: memoryview) -> bool:
    """Does the header announce columns, and not rows?"""
    try:
        return _Table.root(header).number(1, "<B") == 1
    except (struct.error, ValueError) as error:
        raise _malformed("numbers that point outside") from error
