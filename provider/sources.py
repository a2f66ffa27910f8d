"""A Parquet file as the rows that a policy declares: exactly those columns, checked, in batches.

    with ParquetSource.open(path, dataset) as source:
        rows = source.scan()            # everything is checked before any connection is made
        for batch in source.batches():  # and once more while it leaves
            …

Only declared columns are read, in the declared order. The file may have others: they are never
decoded, and neither their names nor the file's metadata (where tools keep queries, paths and
statistics) leave. Memory stays constant: one read-ahead buffer per column and a few batches.
Nothing is cast but the two other spellings of a string, `large_string` and dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from policy.errors import ColumnMissing, ColumnTypeDiffers
from policy.rows import arrow_schema, check_batch
from provider.errors import (
    SourceChanged,
    SourceEmpty,
    SourceRowTooLarge,
    SourceTooLong,
    SourceUnreadable,
)
from verifier.errors import placed

if TYPE_CHECKING:
    from policy.document import Dataset

MEBIBYTE = 1 << 20
SMALLEST, AIM, LARGEST = MEBIBYTE, 2 * MEBIBYTE, 4 * MEBIBYTE  # bytes of a batch (flight.md 0.16)
_READ_AHEAD = MEBIBYTE  # bytes per column; without it a whole row group would sit in memory
_MOST_ROWS_READ = 131_072
_MOST_ROWS_READ_WITH_STRINGS = 8_192  # their lengths are unknown before they are read
_GUESSED_STRING = 32  # bytes


class ParquetSource:
    """One opened file, held against one dataset of the policy."""

    def __init__(self, path: Path, file: pq.ParquetFile, dataset: Dataset) -> None:
        self._path, self._file, self._dataset = path, file, dataset
        self._schema = arrow_schema(dataset)
        self._scanned: int | None = None
        self._check_columns()

    @classmethod
    @contextmanager
    def open(cls, path: Path, dataset: Dataset) -> Iterator[Self]:
        """Open the file once, for both passes: a file renamed over it later is not read.

        Raises:
            SourceUnreadable: Missing, or not Parquet.
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        if not path.is_file():  # a pipe or device would block, and cannot be read twice
            found = "something else" if path.exists() else "no such file"
            raise SourceUnreadable(str(path), expected="a Parquet file", found=found)
        with _reading(path):
            handle = pa.OSFile(str(path))
        with handle:
            with _reading(path):
                file = pq.ParquetFile(
                    handle,
                    pre_buffer=False,
                    buffer_size=_READ_AHEAD,
                    page_checksum_verification=True,  # where the file has them
                )
            yield cls(path, file, dataset)

    def scan(self) -> int:
        """Check every row; the number of rows.

        Raises:
            SourceEmpty, SourceTooLong, SourceRowTooLarge, SourceUnreadable: see there.
            InvalidDataError: A null, a NaN, an infinity or a value outside its domain.
        """
        rows = 0
        for batch in self._checked():
            rows += batch.num_rows
            if rows > self._dataset.max_rows:
                raise SourceTooLong(
                    str(self._path), expected=f"at most {self._dataset.max_rows} rows", found="more"
                )
        if rows == 0:
            raise SourceEmpty(str(self._path), expected="at least one row", found="none")
        self._scanned = rows
        return rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows again, in batches of 1 to 4 MiB (the last may be smaller), checked again.

        Raises:
            SourceChanged: Not the number of rows that `scan` found.
            InvalidDataError: As in `scan`; somebody wrote into the file meanwhile.
        """
        if self._scanned is None:
            raise AssertionError("batches before scan: nothing was checked")
        rows = 0
        for batch in self._checked():
            rows += batch.num_rows
            if rows > self._scanned:
                break
            yield batch
        if rows != self._scanned:
            raise SourceChanged(str(self._path), expected=f"{self._scanned} rows", found=str(rows))

    @property
    def schema(self) -> pa.Schema:
        """What the batches have: the declared columns, no metadata."""
        return self._schema

    def _check_columns(self) -> None:
        with _reading(self._path):
            found = self._file.schema_arrow
        for field in self._schema:
            places = found.get_all_field_indices(field.name)
            if len(places) != 1:
                raise ColumnMissing(
                    f"{self._path}, column {field.name!r}",
                    expected="one such column",
                    found=f"{len(places)} among {_names(found)}",
                )
            type_ = found.field(places[0]).type
            if _as_declared(type_) != field.type:
                raise ColumnTypeDiffers(
                    f"{self._path}, column {field.name!r}",
                    expected=f"{field.type}",
                    found=f"{type_}",
                )

    def _checked(self) -> Iterator[pa.RecordBatch]:
        """Every row of the file, checked against the policy, in batches fit to be sent."""
        rows = 0
        for batch in _resize(self._declared(), self._path):
            with placed(str(self._path)):
                check_batch(batch, self._dataset, rows_before=rows)
            yield batch
            rows += batch.num_rows

    def _declared(self) -> Iterator[pa.RecordBatch]:
        """The declared columns as the file gives them, strings in one spelling, metadata gone."""
        names = self._schema.names
        read = self._file.iter_batches(
            batch_size=_rows_per_read(self._schema), columns=names, use_threads=False
        )
        while True:
            with _reading(self._path):
                batch = next(read, None)
                if batch is None:
                    return
                arrays = [_as_string(batch.column(name)) for name in names]
                declared = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            yield declared


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        # Arrow's own message may quote what it could not read: it stays in the cause.
        found = getattr(error, "strerror", None) or "bytes that Arrow cannot read as Parquet"
        raise SourceUnreadable(str(path), expected="a Parquet file", found=found) from error


def _as_declared(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.string() if pa.types.is_large_string(type_) else type_


def _as_string(array: pa.Array) -> pa.Array:
    wanted = _as_declared(array.type)
    return array if array.type == wanted else array.cast(wanted)


def _names(schema: pa.Schema) -> str:
    return ", ".join(repr(name) for name in schema.names[:40])


def _rows_per_read(schema: pa.Schema) -> int:
    widths = [_GUESSED_STRING if pa.types.is_string(t) else t.bit_width / 8 for t in schema.types]
    has_strings = any(pa.types.is_string(t) for t in schema.types)
    most = _MOST_ROWS_READ_WITH_STRINGS if has_strings else _MOST_ROWS_READ
    return max(1, min(most, int(AIM / sum(widths))))


def _resize(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    """Join small batches and cut large ones."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(b.nbytes for b in waiting) >= SMALLEST:
            yield from _cut(pa.concat_batches(waiting), path)
            waiting = []
    if waiting:
        yield from _cut(pa.concat_batches(waiting), path)


def _cut(batch: pa.RecordBatch, path: Path) -> Iterator[pa.RecordBatch]:
    if batch.num_rows == 0:
        return
    if batch.nbytes <= LARGEST:
        yield batch
        return
    if batch.num_rows == 1:
        raise SourceRowTooLarge(
            str(path), expected=f"rows of at most {LARGEST} bytes", found="more"
        )
    parts = -(-batch.nbytes // AIM)
    step = max(1, min(batch.num_rows - 1, batch.num_rows // parts))
    for start in range(0, batch.num_rows, step):
        yield from _cut(batch.slice(start, step), path)
