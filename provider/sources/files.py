"""One file, opened once for both passes, with Arrow's columns compared with the declared ones."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from policy.rows import ColumnTypeDiffers, type_name
from provider.errors import SourceError, SourceUnreadable
from provider.sources.base import NO_NAMES, FileIdentity, Source, SourceChanged
from verifier.files import MEBIBYTE
from verifier.text import cause

if TYPE_CHECKING:
    from policy.sections import Dataset

# Names of one zone. Summer time, leap seconds and history differ in all others.
_UTC = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "Zulu", "+00:00", "+0000", "+00"})
_IN_PYARROW = {"bool": "pa.bool_()", "timestamp[us, UTC]": 'pa.timestamp("us", "UTC")'}
MOST_READ_AT_ONCE = 128 * MEBIBYTE  # bytes; what a length inside a file may ask for


class SourceBatchTooLarge(SourceError):
    """One batch or page of the file is larger than what is read at once."""

    code = "source-batch-too-large"
    default_fix = "write the file again in batches of at most 65,536 rows"


class OpenFile:
    """A file by its descriptor: another one renamed over its name later is not read."""

    def __init__(self, path: Path, descriptor: int, kind: str) -> None:
        self.path, self.descriptor, self.kind = path, descriptor, kind
        self.too_large: SourceBatchTooLarge | None = None  # kept: Arrow may wrap what is raised
        self._opened = os.fstat(descriptor)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around every call of Arrow that reads: its exceptions become refusals."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            if self.too_large is not None:
                raise self.too_large from error
            # Arrow's own message may quote what it could not read: it stays in the cause.
            found = getattr(error, "strerror", None) or f"bytes that cannot be read as {self.kind}"
            raise SourceUnreadable(str(self.path), expected=self.kind, found=found) from error

    @property
    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._opened.st_size

    def reader(self) -> pa.NativeFile:
        """The file from its first byte on; every reader has a place of its own."""
        return pa.PythonFile(_Reader(self), mode="r")

    def bytes_at(self, place: int, size: int) -> bytes:
        """`size` bytes from `place` on, or fewer where the file ends."""
        return os.pread(self.descriptor, size, max(place, 0))

    def require_unchanged(self) -> None:
        """Size and time of the last write are still those of the opening.

        Raises:
            SourceChanged: They are not.
        """
        if _written(os.fstat(self.descriptor)) != _written(self._opened):
            raise SourceChanged(
                str(self.path),
                expected="a file that is not being written",
                found="a write since it was opened",
            )

    def identity(self, read: str) -> FileIdentity:
        """This file as it was when it was opened; `read` says how its rows are read."""
        of = self._opened
        return FileIdentity(read, of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns)


def _written(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class _Reader(io.RawIOBase):
    """Reads at its own place, never more than the cap at once."""

    def __init__(self, file: OpenFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        self._place = start + offset
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._file.size - self._place, 0)
        size = min(size, left) if size >= 0 else left
        # A length inside the file decides how much Arrow allocates: a whole table written as one
        # batch would end constant memory.
        if size > MOST_READ_AT_ONCE:
            self._file.too_large = SourceBatchTooLarge(
                str(self._file.path),
                expected=f"batches and pages of at most {MOST_READ_AT_ONCE} bytes",
                found=f"{size} bytes at byte {self._place}",
            )
            raise self._file.too_large
        found = self._file.bytes_at(self._place, size)
        self._place += len(found)
        return found


class FileSource(Source):
    """A source that is one file."""

    kind: ClassVar[str]  # what a refusal calls it

    def __init__(
        self, file: OpenFile, dataset: Dataset, rename: Mapping[str, str] = NO_NAMES
    ) -> None:
        super().__init__(str(file.path), dataset, rename)
        self._file = file

    @classmethod
    @contextmanager
    def _opened(cls, path: Path) -> Iterator[OpenFile]:
        """Open the file once, for both passes.

        Raises:
            SourceUnreadable: Missing, not a file, or not permitted.
        """
        if not path.is_file():  # a pipe or device would block, and cannot be read twice
            found = "something else" if path.exists() else "no such file"
            raise SourceUnreadable(str(path), expected=cls.kind, found=found)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceUnreadable(str(path), expected=cls.kind, found=cause(error)) from error
        try:
            yield OpenFile(path, descriptor, cls.kind)
        finally:
            os.close(descriptor)

    def _require_unchanged(self) -> None:
        self._file.require_unchanged()

    def identity(self) -> tuple[FileIdentity, ...]:
        return (self._file.identity(self._read_as()),)

    def _read_as(self) -> str:
        return f"{self.kind}, {sorted(self._rename.items())}"

    def _check_types(self, found: pa.Schema) -> list[int]:
        """The place of each declared column, all of the declared types.

        Raises:
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        with self._file.reading():  # a name need not be UTF-8
            names, types = found.names, found.types
        places = self._places(names)
        for field, place in zip(self._schema, places, strict=True):
            type_ = types[place]
            if not _spells(type_, field):
                raise ColumnTypeDiffers(
                    f"{self._name}, column {field.name!r}",
                    expected=type_name(field.type),
                    found=type_name(type_),
                    fix=_conversion(type_, field),
                )
        return places

    def _batch(self, arrays: list[pa.Array]) -> pa.RecordBatch:
        """The declared columns in the declared Arrow types, without metadata."""
        declared = [_as(a, t) for a, t in zip(arrays, self._schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(declared, schema=self._schema)


def _spells(type_: pa.DataType, field: pa.Field) -> bool:
    """Is it the declared type, or another spelling with the same values and no other meaning?

    `large_string`, `string_view` and dictionaries of strings; UTC under another name; a column
    without any value where the policy allows nulls.
    """
    if pa.types.is_null(type_):
        return bool(field.nullable)
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        type_ = pa.string()
    if pa.types.is_timestamp(type_) and type_.tz in _UTC:
        type_ = pa.timestamp(type_.unit, "UTC")
    return bool(type_ == field.type)


def _as(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        if pa.types.is_string_view(array.type.value_type):  # which Arrow cannot take from
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(wanted))
        array = array.cast(array.type.value_type)
    return array if array.type == wanted else array.cast(wanted)


def _conversion(found: pa.DataType, field: pa.Field) -> str:
    """How to convert a column when the file is made. `column` is an Arrow array."""
    wanted = type_name(field.type)
    arrow = _IN_PYARROW.get(wanted, f"pa.{wanted}()")
    step = f"column.cast({arrow})"
    if pa.types.is_null(found):
        return f"fill the column ({wanted}), or end its type in ? in the policy"
    if pa.types.is_timestamp(found) and found.tz is None and pa.types.is_timestamp(field.type):
        # The same digits are another instant in each zone.
        step = f'pc.assume_timezone(column, "Europe/Zurich").cast({arrow})'
        return f"add the time zone, for example in pyarrow: {step}"
    return f"convert the column where the file is made, for example in pyarrow: {step}"
