"""Rows that travel as Flight's own record batches: which columns may, and in which pieces.

require_plain(table.schema)
for piece in pieces(batch):
    send(rows_frame(piece, number))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import pyarrow as pa

from policy.errors import SchemaError
from ratls.framing import MAX_FRAME, MessageOversized
from verifier.files import MEBIBYTE

_LARGEST = MAX_FRAME - MEBIBYTE  # bytes of a batch; the rest is room for its header
Rows: TypeAlias = "pa.Table | pa.RecordBatch | pa.RecordBatchReader"


class ColumnTypeNotCarried(SchemaError):
    """A column is of a type that is not sent: nested, a dictionary, or a large text."""

    code = "column-type-not-carried"
    default_fix = "cast it, such as `table.cast(schema)` with pyarrow.string() for large_string"
    says = "column {thing} is of type {found}; numbers, times, booleans and strings are sent"


def require_plain(schema: pa.Schema) -> None:
    """Raises: ColumnTypeNotCarried."""
    for field in schema:
        if not pa.types.is_primitive(field.type) and not pa.types.is_string(field.type):
            raise ColumnTypeNotCarried(
                ascii(field.name)[:80], expected="a plain type", found=str(field.type)[:80]
            )


def batches_of(rows: Rows) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Columns and batches of what a caller has."""
    if isinstance(rows, pa.RecordBatch):
        return rows.schema, iter([rows])
    return rows.schema, iter(rows.to_batches() if isinstance(rows, pa.Table) else rows)


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Pieces of about 1 MiB: they fit into the processor's cache.

    Raises:
        MessageOversized: One row alone is larger than any message.
    """
    rows = max(1, batch.num_rows * MEBIBYTE // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield from _small(batch.slice(start, rows))


def _small(piece: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows differ in size: a piece that is too large is halved."""
    if piece.nbytes <= _LARGEST:
        yield piece
        return
    if piece.num_rows == 1:
        raise MessageOversized("row", expected=f"at most {_LARGEST} bytes", found=str(piece.nbytes))
    half = piece.num_rows // 2
    yield from _small(piece.slice(0, half))
    yield from _small(piece.slice(half))
