"""A Parquet file. Its metadata, where tools keep queries, paths and statistics, never leaves.

The file may have other columns: they are never decoded. One read-ahead buffer per column.
Nothing is cast but what `files` calls another spelling of the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from provider.sources.base import NO_NAMES, rows_per_read
from provider.sources.files import FileSource
from provider.sources.opened import OpenFile, Place
from verifier.files import MEBIBYTE

if TYPE_CHECKING:
    from policy.sections import Dataset

_READ_AHEAD = MEBIBYTE  # bytes per column; without it a whole row group would sit in memory


class ParquetSource(FileSource):
    """One opened Parquet file."""

    kind = "a Parquet file"

    def __init__(
        self, file: OpenFile, parquet: pq.ParquetFile, dataset: Dataset, rename: Mapping[str, str]
    ) -> None:
        super().__init__(file, dataset, rename)
        self._parquet = parquet
        with file.reading():
            found = parquet.schema_arrow
        self._names = [found.names[place] for place in self._check_types(found)]

    @classmethod
    @contextmanager
    def open(
        cls, path: Place, dataset: Dataset, *, rename: Mapping[str, str] = NO_NAMES
    ) -> Iterator[Self]:
        """Open the file once: a file renamed over it later is not read.

        Raises:
            SourceUnreadable: Missing, or not Parquet.
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        with cls._opened(path) as file:
            with file.reading():
                parquet = pq.ParquetFile(
                    file.reader(),
                    pre_buffer=False,
                    buffer_size=_READ_AHEAD,
                    page_checksum_verification=True,  # where the file has them
                )
            yield cls(file, parquet, dataset, rename)

    def _told_rows(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def _declared(self) -> Iterator[pa.RecordBatch]:
        names = self._names
        read = self._parquet.iter_batches(
            batch_size=rows_per_read(self._schema), columns=names, use_threads=False
        )
        while True:
            with self._file.reading():
                batch = next(read, None)
                if batch is None:
                    return
                declared = self._batch([batch.column(name) for name in names])
            yield declared
