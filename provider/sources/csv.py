"""A CSV file: UTF-8, a header, one declared type per column, nothing inferred.

An empty field is a null, quoted or not. Values are read as `text` says. Every line has as many
fields as the header, and the last one ends with a line break: a file that was cut in the middle
of a number would otherwise hold another number. Fields may contain line breaks within quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.csv as pc

from policy.errors import ColumnUnexpected
from provider.errors import SourceLineMalformed, SourceUnreadable
from provider.sources.base import MEBIBYTE
from provider.sources.files import FileSource, OpenFile
from provider.sources.text import parse_text

if TYPE_CHECKING:
    from policy.document import Dataset

DELIMITERS = (",", ";", "\t")
_BLOCK = MEBIBYTE  # bytes; Arrow keeps up to 32 of these, and a row must fit into one
_ROW = re.compile(r"CSV parse error: Row #([0-9]+): Expected ([0-9]+) columns, got ([0-9]+):")


class CsvSource(FileSource):
    """One opened CSV file."""

    kind = "a CSV file"
    names_can_be_told = False  # without a header, the first row would stand in the message

    def __init__(self, file: OpenFile, dataset: Dataset, delimiter: str) -> None:
        super().__init__(file, dataset)
        self._delimiter = delimiter
        if file.bytes_at(file.size - 1, 1) not in (b"\n", b"\r"):
            raise SourceUnreadable(
                self._name,
                expected="a CSV file whose last line ends with a line break",
                found="none there: the file may have been cut short",
            )
        with self._parsing(), self._reader(pc.ConvertOptions()) as reader:
            header = reader.schema.names
        self._places(header)
        for place, name in enumerate(header):
            if name in header[:place]:  # two of one name: which one did its author mean?
                raise ColumnUnexpected(
                    f"{self._name}, header", expected="each name once", found=f"field {place + 1}"
                )

    @classmethod
    @contextmanager
    def open(cls, path: Path, dataset: Dataset, *, delimiter: str = ",") -> Iterator[Self]:
        """Open the file once, for both passes: a file renamed over it later is not read.

        Raises:
            SourceUnreadable: Missing, without a header, or cut short.
            ColumnMissing: A declared column is absent, or there twice.
            ColumnUnexpected: Another column is there twice.
        """
        with cls._opened(path) as file:
            yield cls(file, dataset, delimiter)

    def _declared(self) -> Iterator[pa.RecordBatch]:
        names, rows = self._schema.names, 0
        as_text = pc.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            null_values=[""],
            strings_can_be_null=True,
        )
        with self._parsing():
            reader = self._reader(as_text)
        with reader:
            while True:
                with self._parsing():
                    batch = next(reader, None)
                if batch is None:
                    return
                arrays = [self._parsed(batch.column(name), name, rows) for name in names]
                yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)
                rows += batch.num_rows

    def _parsed(self, texts: pa.Array, name: str, rows: int) -> pa.Array:
        type_ = self._schema.field(name).type
        return self._column(name, rows, len(texts), lambda part: parse_text(texts[part], type_))

    def _reader(self, convert: pc.ConvertOptions) -> pc.CSVStreamingReader:
        return pc.open_csv(
            self._file.reader(),
            # Without threads: only then are rows numbered.
            read_options=pc.ReadOptions(block_size=_BLOCK, use_threads=False),
            parse_options=pc.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,  # in a file of one column they are nulls
            ),
            convert_options=convert,
        )

    @contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            with self._file.reading():
                yield
        except SourceUnreadable as unreadable:
            told = _ROW.match(str(unreadable.__cause__))
            if told is None:
                raise
            row, expected, found = told.groups()
            # Arrow quotes the row, and this hides its text: a cause would be printed.
            raise SourceLineMalformed(
                f"{self._name}, row {int(row) - 1}", expected=f"{expected} fields", found=found
            ) from None
