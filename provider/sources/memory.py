"""Rows that are in memory already, for callers of the library.

    release(request, "train_party_1", of_table(table))

A pyarrow Table or RecordBatchReader, or anything that gives an Arrow stream (`__arrow_c_stream__`):
data frames of pandas and polars, relations of DuckDB. A reader, and a generator, give their rows
once, which is enough for a release. Columns that are not declared stay here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from policy.rows import require_consistent
from provider.errors import SourceError, SourceFormatUnknown
from provider.sources.base import NO_NAMES, Source, rows_per_read
from provider.sources.columns import ArrowColumns
from provider.sources.spec import SourceSpec

if TYPE_CHECKING:
    from policy.sections import Dataset

_NAME = "the table in memory"


class SourceReadOnce(SourceError):
    """A reader gives its rows once, and they were asked for again."""

    code = "source-read-once"
    default_fix = "give a table, or a new reader; do not check a reader first"


@dataclass(frozen=True, slots=True)
class InMemory(SourceSpec):
    """Something that gives Arrow arrays."""

    table: Any
    rename: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def open(self, dataset: Dataset) -> Iterator[Source]:
        yield TableSource(self.table, dataset, self.rename)


def of_table(table: Any, *, rename: Mapping[str, str] = NO_NAMES) -> SourceSpec:
    """A source of what is in memory.

    Args:
        rename: Names of columns as the table has them, to declared ones.

    Raises:
        SourceFormatUnknown: It does not give an Arrow stream.
    """
    if not hasattr(table, "__arrow_c_stream__"):
        raise SourceFormatUnknown(
            _NAME,
            expected="a table that gives an Arrow stream",
            found=type(table).__name__,
            fix="make an Arrow table of it, for example pyarrow.table({...})",
        )
    return InMemory(table, rename)


class TableSource(ArrowColumns):
    """One table."""

    validated = True

    def __init__(self, table: Any, dataset: Dataset, rename: Mapping[str, str]) -> None:
        super().__init__(_NAME, dataset, rename)
        self._table, self._taken = table, False
        self._reader = self._stream()
        with self._reading():
            found = self._reader.schema
        self._wanted = self._check_types(found)

    def _stream(self) -> pa.RecordBatchReader:
        if isinstance(self._table, pa.RecordBatchReader):
            return self._table
        with self._reading():
            return pa.RecordBatchReader.from_stream(self._table)

    def _declared(self) -> Iterator[pa.RecordBatch]:
        if self._taken and isinstance(self._table, pa.RecordBatchReader):
            raise SourceReadOnce(_NAME, expected="rows", found="a reader that was read")
        reader, self._taken = self._stream() if self._taken else self._reader, True
        step = rows_per_read(self._schema)
        while True:
            with self._reading():
                batch = next(reader, None)
            if batch is None:
                return
            # Offsets may be wrong, and a cast would follow them.
            require_consistent(batch, _NAME)
            for start in range(0, batch.num_rows, step):
                columns = batch.slice(start, step).columns
                with self._reading():
                    declared = self._batch([columns[place] for place in self._wanted])
                yield declared

    def _told_rows(self) -> int | None:
        return self._table.num_rows if isinstance(self._table, pa.Table) else None

    def _require_unchanged(self) -> None:
        """Arrow's arrays are never written to."""
