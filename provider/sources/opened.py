"""What every file that is read offers, wherever it is."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from provider.errors import SourceError, SourceUnreadable
from provider.sources.base import FileIdentity, SourceChanged
from verifier.errors import RatlsError
from verifier.files import MEBIBYTE

MOST_READ_AT_ONCE = 128 * MEBIBYTE  # bytes; what a length inside a file may ask for


@dataclass(frozen=True, slots=True)
class ObjectUri:
    """An object in a store, like s3://bucket/rows.parquet."""

    text: str

    def __str__(self) -> str:
        return self.text.partition("?")[0]  # what follows says how to reach the store

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]


Place = Path | ObjectUri


class SourceBatchTooLarge(SourceError):
    """One batch or page of the file is larger than what is read at once."""

    code = "source-batch-too-large"
    default_fix = "write the file again in batches of at most 65,536 rows"


class OpenFile(ABC):
    """A file that is being read."""

    size: int  # bytes, when it was opened
    in_ranges: ClassVar[bool] = False  # two reads may be of two objects

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.refusal: RatlsError | None = None  # of a read; Arrow may wrap what is raised

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around every call of Arrow that reads: its exceptions become refusals."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            if self.refusal is not None:
                raise self.refusal from error
            # Arrow's own message may quote what it could not read: it stays in the cause.
            found = getattr(error, "strerror", None) or f"bytes that cannot be read as {self.kind}"
            raise SourceUnreadable(self.name, expected=self.kind, found=found) from error

    def reader(self) -> pa.NativeFile:
        """The file from its first byte on; every reader has a place of its own."""
        return pa.PythonFile(_Reader(self), mode="r")

    @abstractmethod
    def bytes_at(self, place: int, size: int) -> bytes:
        """`size` bytes from `place` on, or fewer where the file ends."""

    @abstractmethod
    def require_unchanged(self) -> None:
        """Size and time of the last write are still those of the opening.

        Raises:
            SourceChanged: They are not.
        """

    def written(self) -> SourceChanged:
        """For a file that was."""
        return SourceChanged(
            self.name,
            expected="a file that is not being written",
            found="a write since it was opened",
        )

    @abstractmethod
    def identity(self, read: str) -> tuple[FileIdentity, ...] | None:
        """This file as it was when it was opened; `read` says how its rows are read."""


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
            self._file.refusal = SourceBatchTooLarge(
                self._file.name,
                expected=f"batches and pages of at most {MOST_READ_AT_ONCE} bytes",
                found=f"{size} bytes at byte {self._place}",
            )
            raise self._file.refusal
        found = self._file.bytes_at(self._place, size)
        self._place += len(found)
        return found
