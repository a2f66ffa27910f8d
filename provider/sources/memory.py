"""Rows that are in memory already, for callers of the library.

    release(request, "train_party_1", of_table(table))

A pyarrow Table or RecordBatchReader, or anything that gives an Arrow stream (`__arrow_c_stream__`):
data frames of pandas and polars, relations of DuckDB. What has no length, as a reader, gives its
rows once: enough for a release whose connection holds. Columns that are not declared stay here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


class InMemory(SourceSpec):
    """Something that gives Arrow arrays."""

    def __init__(self, table: Any, rename: Mapping[str, str]) -> None:
        self._table, self._rename = table, rename
        self._once = not hasattr(table, "__len__")
        self._begun = False

    @property
    def place(self) -> str:
        return ""

    @contextmanager
    def open(self, dataset: Dataset) -> Iterator[Source]:
        yield TableSource(self, dataset, self._rename)

    def reader(self) -> pa.RecordBatchReader:
        """The rows, from the first one on.

        Raises:
            SourceReadOnce: Some of them may be gone.
        """
        if self._once and self._begun:
            raise SourceReadOnce(_NAME, expected="rows", found="a reader that was read")
        self._begun = True
        return pa.RecordBatchReader.from_stream(self._table)

    @property
    def rows(self) -> int | None:
        """Where Arrow knows it."""
        return self._table.num_rows if isinstance(self._table, pa.Table) else None


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

    def __init__(self, spec: InMemory, dataset: Dataset, rename: Mapping[str, str]) -> None:
        super().__init__(_NAME, dataset, rename)
        self._spec = spec
        with self._reading():
            self._reader: pa.RecordBatchReader | None = spec.reader()
            found = self._reader.schema
        self._wanted = self._check_types(found)

    def _declared(self) -> Iterator[pa.RecordBatch]:
        with self._reading():
            reader, self._reader = self._reader or self._spec.reader(), None
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
        return self._spec.rows

    def _require_unchanged(self) -> None:
        """Arrow's arrays are never written to."""
