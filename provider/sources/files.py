"""One file, opened once for both passes, with Arrow's columns held against the declared ones."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from policy.errors import ColumnTypeDiffers
from policy.rows import type_name
from provider.errors import SourceBatchTooLarge, SourceChanged, SourceUnreadable
from provider.sources.base import MEBIBYTE, Source

if TYPE_CHECKING:
    from policy.document import Dataset

MOST_READ_AT_ONCE = 128 * MEBIBYTE  # bytes; what a length inside a file may ask for


class OpenFile:
    """A file by its descriptor: another one renamed over its name later is not read."""

    def __init__(self, path: Path, descriptor: int, kind: str) -> None:
        self.path, self.descriptor, self.kind = path, descriptor, kind
        self.too_large: SourceBatchTooLarge | None = None  # kept: Arrow may wrap what is raised
        self._stamp = self._now()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around every call of Arrow that reads: what it raises becomes a refusal."""
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
        return self._stamp[0]

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
        if self._now() != self._stamp:
            raise SourceChanged(
                str(self.path), expected="a file that nobody writes to", found="a later write"
            )

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self.descriptor)
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

    def __init__(self, file: OpenFile, dataset: Dataset) -> None:
        super().__init__(str(file.path), dataset)
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
            raise SourceUnreadable(
                str(path), expected=cls.kind, found=error.strerror or "an error"
            ) from error
        try:
            yield OpenFile(path, descriptor, cls.kind)
        finally:
            os.close(descriptor)

    def _require_unchanged(self) -> None:
        self._file.require_unchanged()

    def _check_types(self, found: pa.Schema) -> list[int]:
        """Where each declared column stands among Arrow's, each of the declared type.

        Raises:
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        with self._file.reading():  # a name need not be UTF-8
            names, types = found.names, found.types
        places = self._places(names)
        for field, place in zip(self._schema, places, strict=True):
            type_ = types[place]
            if _as_declared(type_) != field.type:
                raise ColumnTypeDiffers(
                    f"{self._name}, column {field.name!r}",
                    expected=type_name(field.type),
                    found=type_name(type_),
                )
        return places

    def _batch(self, arrays: list[pa.Array]) -> pa.RecordBatch:
        """Declared columns as Arrow read them: strings in one spelling, metadata gone."""
        return pa.RecordBatch.from_arrays([_as_string(a) for a in arrays], schema=self._schema)


def _as_declared(type_: pa.DataType) -> pa.DataType:
    """`large_string` and dictionary are other spellings of a string; nothing else is cast."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.string() if pa.types.is_large_string(type_) else type_


def _as_string(array: pa.Array) -> pa.Array:
    wanted = _as_declared(array.type)
    return array if array.type == wanted else array.cast(wanted)
