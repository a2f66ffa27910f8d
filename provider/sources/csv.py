"""A CSV file: a header, one declared type per column, nothing inferred.

`records` checks that every byte is RFC 4180 before Arrow reads it; values are read as in `text`.
An empty cell is null, and `""` is the empty text. A source table describes other forms (`dialect`).
The file may be packed with gzip.

The last line must end with a line break, though RFC 4180 lets it go without: a file that was cut
in the middle of a number would otherwise hold another number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from policy.rows import ColumnMissing, ColumnTypeDiffers, ColumnUnexpected
from provider.errors import SourceError, SourceUnreadable
from provider.sources.ahead import mapped
from provider.sources.base import NO_NAMES
from provider.sources.dialect import RFC_4180, Dialect
from provider.sources.files import FileSource
from provider.sources.opened import OpenFile, Place
from provider.sources.records import BYTE_ORDER_MARK, Piece, Records, SourceCut, SourceLineMalformed
from provider.sources.text import describe, parse_text

if TYPE_CHECKING:
    from policy.sections import Dataset

_GZIP = b"\x1f\x8b"  # no UTF-8 begins so
_PACKED_AT_ONCE = 1 << 16  # bytes


class _Placed(NamedTuple):
    piece: Piece
    rows_before: int


class CsvSource(FileSource):
    """One opened CSV file."""

    kind = "a CSV file"
    validated = True

    def __init__(
        self, file: OpenFile, dataset: Dataset, dialect: Dialect, rename: Mapping[str, str]
    ) -> None:
        super().__init__(file, dataset, rename)
        self._dialect = dialect
        header = next(self._pieces(), None)
        if header is None:
            raise SourceUnreadable(self._name, expected="a header", found="an empty file")
        self._header = self._names(header.part(0, 1))
        self._found = [(name, None) for name in self._header]

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Place,
        dataset: Dataset,
        dialect: Dialect = RFC_4180,
        *,
        rename: Mapping[str, str] = NO_NAMES,
    ) -> Iterator[Self]:
        """Open the file once: a file renamed over it later is not read.

        Raises:
            SourceError: Missing, empty, or something else than RFC 4180 in its first mebibyte.
            ColumnMissing: A declared column is absent, or there twice.
            ColumnUnexpected: Another column is there twice.
        """
        with cls._opened(path) as file:
            yield cls(file, dataset, dialect, rename)

    def _declared(self) -> Iterator[pa.RecordBatch]:
        return mapped(self._parsed, self._placed())

    def _placed(self) -> Iterator[_Placed]:
        """The rows without the header, each piece with the number of rows before it."""
        rows, is_first = 0, True
        for piece in self._pieces():
            if is_first:
                piece, is_first = piece.part(1, len(piece.ends)), False
            if len(piece.ends):
                yield _Placed(piece, rows)
                rows += len(piece.ends)

    def _parsed(self, placed: _Placed) -> pa.RecordBatch:
        texts = self._texts(placed.piece)
        arrays = [self._values(texts.column(name), name, placed) for name in self._schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _read_as(self) -> str:
        return f"{super()._read_as()}, {self._dialect}"

    def _pieces(self) -> Iterator[Piece]:
        read: Callable[[int], bytes] = self._file.reader().read
        if self._file.bytes_at(0, len(_GZIP)) == _GZIP:
            read = _Unpacked(self._name, read).read
        pieces = Records(
            self._name,
            read,
            delimiter=self._dialect.delimiter,
            line_breaks=self._dialect.line_breaks,
            escape=self._dialect.escape,
        ).pieces()
        while True:
            with self._file.reading():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _names(self, header: Piece) -> list[str]:
        """The header's names, as `rename` has them."""
        names = self._read_csv(header.text).column_names
        for old in self._rename:
            if names.count(old) != 1:
                count = "single " if old in names else ""
                raise ColumnMissing(
                    f"{self._name}: line 1",
                    expected=f"{count}column {ascii(old)[:80]}, which `rename` names",
                    found="",
                    fix="write the name in `rename` as it is in the file",
                )
        names = [self._rename.get(name, name) for name in names]
        for name in self._schema.names:
            if names.count(name) != 1:
                # Other names are not shown: without a header, they would be the first row.
                count = "single " if name in names else ""
                refusal = ColumnMissing(
                    f"{self._name}: line 1",
                    expected=f"{count}column {name!r}",
                    found=_nearly(name, names) or f"it has {len(names)} names",
                    fix=f"write {name} in the header, or in the source table: "
                    f'rename = {{ "name in the file" = "{name}" }}; where the delimiter is not '
                    f'{self._dialect.delimiter!r}, name it: delimiter = ";"',
                )
                self._refuse_column(name, refusal)
        self._require_columns()
        for place, name in enumerate(names):
            if name in names[:place]:  # it is unclear which of the two is meant
                raise ColumnUnexpected(
                    f"{self._name}: line 1",
                    expected="each name once",
                    found=f"the name of field {place + 1} twice",
                )
        return names

    def _texts(self, piece: Piece) -> pa.RecordBatch:
        """The declared columns as Arrow reads them, every value a text."""
        names, text = self._schema.names, piece.text
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            null_values=["", *self._dialect.bare_nulls],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,  # the check of the records did
        )
        try:
            table = self._read_csv(text, self._header, convert)
        except pa.ArrowInvalid:  # its message quotes the row
            raise self._ragged(piece) from None
        if table.num_rows != len(piece.ends):
            raise self._unlike(piece)
        return table.combine_chunks().to_batches()[0]

    def _read_csv(
        self,
        text: bytes,
        names: Sequence[str] = (),
        convert: pyarrow.csv.ConvertOptions | None = None,
    ) -> pa.Table:
        """In one block; without `names`, the first row has them."""
        if text.startswith(BYTE_ORDER_MARK):  # Arrow would drop it from the first value
            text = BYTE_ORDER_MARK + text
        return pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, block_size=len(text) + 1, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._dialect.delimiter, newlines_in_values=True
            ),
            convert_options=convert,
        )

    def _ragged(self, piece: Piece) -> SourceLineMalformed | SourceUnreadable:
        expected, counts = len(self._header), piece.fields(self._dialect.delimiter)
        for record, count in enumerate(counts.tolist()):
            if count != expected:
                return SourceLineMalformed(
                    f"{self._name}, line {piece.line(record)}",
                    expected=f"{expected} cells",
                    found=str(count),
                )
        return self._unlike(piece)

    def _unlike(self, piece: Piece) -> SourceUnreadable:
        return SourceUnreadable(
            f"{self._name}, from line {piece.first_line} on",
            expected=f"{len(piece.ends)} rows",
            found="another number by Arrow",
        )

    def _values(self, texts: pa.Array, name: str, placed: _Placed) -> pa.Array:
        type_, dialect = self._schema.field(name).type, self._dialect
        if dialect.quoted_nulls:
            null = pc.is_in(texts, pa.array(dialect.quoted_nulls, pa.string()))
            texts = pc.if_else(null, pa.scalar(None, pa.string()), texts)
        return self._column(
            name,
            placed.rows_before,
            len(texts),
            lambda part: parse_text(texts[part], type_, dialect.spelling),
            lambda place: self._misfit(name, place, placed),
            lambda part: texts[part].is_valid(),
        )

    def _misfit(self, name: str, place: int, placed: _Placed) -> ColumnTypeDiffers:
        spelled = describe(self._schema.field(name).type, self._dialect.spelling)
        return ColumnTypeDiffers(
            f"{self._name}, line {placed.piece.line(place)}, column {name!r}",
            expected=f"{self._dataset.columns[name].type}: {spelled}",
            found=f"something else in row {placed.rows_before + place + 1}",
            fix=self._remedy(name),
        )

    def _remedy(self, name: str) -> str:
        type_, null = self._schema.field(name).type, "null_values = ['NA', '\"\"']"
        if pa.types.is_floating(type_):
            null = f'decimal = ",", {null}'
        elif pa.types.is_date(type_):
            null = f'date_format = "%d.%m.%Y", {null}'
        return f"write it like that, or describe it in the source table: {null}"


def _nearly(name: str, found: Sequence[str]) -> str | None:
    """A name that differs only in case or blanks may be shown: it is not a value."""
    for place, other in enumerate(found):
        if other != name and other.strip().casefold() == name.casefold():
            return f"it has {other!a} in field {place + 1}"
    return None


class SourcePackedDamaged(SourceError):
    """A gzip file cannot be unpacked, or has other bytes after its end."""

    code = "source-packed-damaged"
    default_fix = "fetch the file again, or pack it again: gzip -k rows.csv"


class _Unpacked:
    """What one or several gzip members hold, from the first to the last byte of the file."""

    def __init__(self, name: str, read: Callable[[int], bytes]) -> None:
        self._name, self._read, self._packed = name, read, b""
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end alone, where members are short too.

        Raises:
            SourceCut: The file ends inside a member.
            SourcePackedDamaged: A checksum differs, or other bytes follow the last member.
        """
        found = bytearray()
        while len(found) < size:
            packed = self._packed or self._read(_PACKED_AT_ONCE)
            if self._member.eof:
                if not packed:
                    break
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                fresh = self._member.decompress(packed, size - len(found))
            except zlib.error as error:
                raise SourcePackedDamaged(
                    self._name, expected="gzip data up to the last byte", found="other bytes"
                ) from error
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            if not fresh and not packed and not self._member.eof:
                raise SourceCut(
                    self._name, expected="a complete gzip file", found="only its beginning"
                )
            found += fresh
        return bytes(found)
