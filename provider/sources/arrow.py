"""Arrow IPC, as a file (also called Feather version 2) or as a stream; the first bytes tell which.

A batch is the least that Arrow can read, so a file written as one large batch is refused: write
it in several. (A compressed batch counts as it lies in the file.) A stream must end with its end
mark, and with nothing after it: one that was cut between two batches would look complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.ipc as ipc

from policy.rows import require_consistent
from provider.errors import SourceFormatUnknown, SourceUnreadable
from provider.sources.base import NO_NAMES, rows_per_read
from provider.sources.files import FileSource
from provider.sources.opened import OpenFile, Place

if TYPE_CHECKING:
    from policy.sections import Dataset

_FILE_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_END_MARK = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream: a continuation and a length of zero


class ArrowSource(FileSource):
    """One opened Arrow IPC file or stream."""

    kind = "an Arrow IPC file or stream"
    validated = True

    def __init__(self, file: OpenFile, dataset: Dataset, rename: Mapping[str, str]) -> None:
        super().__init__(file, dataset, rename)
        if file.bytes_at(0, len(_FEATHER_1)) == _FEATHER_1:
            raise SourceFormatUnknown(
                self._name,
                expected=self.kind,
                found="Feather version 1",
                fix="write it again in version 2: pyarrow.feather.write_feather(table, path)",
            )
        with file.reading():
            self._is_file = file.bytes_at(0, len(_FILE_MAGIC)) == _FILE_MAGIC
            reader = ipc.open_file if self._is_file else ipc.open_stream
            found = reader(file.reader()).schema
        self._wanted = self._check_types(found)
        self._names = [found.names[place] for place in self._wanted]

    @classmethod
    @contextmanager
    def open(
        cls, path: Place, dataset: Dataset, *, rename: Mapping[str, str] = NO_NAMES
    ) -> Iterator[Self]:
        """Open the file once: a file renamed over it later is not read.

        Raises:
            SourceUnreadable: Missing, or not Arrow IPC.
            SourceFormatUnknown: Feather version 1, which is another format.
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        with cls._opened(path) as file:
            yield cls(file, dataset, rename)

    def _told_rows(self) -> int | None:
        if not self._is_file:
            return None
        with self._file.reading():
            return int(ipc.open_file(self._file.reader()).count_rows())

    def _declared(self) -> Iterator[pa.RecordBatch]:
        step = rows_per_read(self._schema)
        for batch in self._of_file() if self._is_file else self._of_stream():
            # Offsets and indices in the file may be wrong, and a cast would follow them.
            require_consistent(batch, self._name)
            for start in range(0, batch.num_rows, step):
                with self._file.reading():
                    declared = self._batch(batch.slice(start, step).columns)
                yield declared

    def _of_file(self) -> Iterator[pa.RecordBatch]:
        options = ipc.IpcReadOptions(use_threads=False, included_fields=sorted(self._wanted))
        with self._file.reading():
            reader = ipc.open_file(self._file.reader(), options=options)
            count = reader.num_record_batches
        for number in range(count):
            with self._file.reading():
                batch = reader.get_batch(number).select(self._names)
            yield batch

    def _of_stream(self) -> Iterator[pa.RecordBatch]:
        with self._file.reading():
            read = self._file.reader()
            reader = ipc.open_stream(read, options=ipc.IpcReadOptions(use_threads=False))
        while True:
            with self._file.reading():
                batch = next(reader, None)
                if batch is None:
                    break
                batch = batch.select(self._wanted)
            yield batch
        end = read.tell()
        mark = self._file.bytes_at(end - len(_END_MARK), len(_END_MARK))
        if mark != _END_MARK or end != self._file.size:
            raise SourceUnreadable(
                self._name,
                expected="a stream that ends at the end of the file",
                found="another end",
            )
