"""One file, opened once: another one that is put under its name later is not read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from provider.errors import SourceUnreadable
from provider.sources.base import NO_NAMES, FileIdentity
from provider.sources.columns import ArrowColumns
from provider.sources.opened import ObjectUri, OpenFile, Place
from verifier.text import cause

if TYPE_CHECKING:
    from policy.sections import Dataset


class LocalFile(OpenFile):
    """By its descriptor."""

    def __init__(self, path: Path, descriptor: int, kind: str) -> None:
        super().__init__(str(path), kind)
        self.descriptor, self._opened = descriptor, os.fstat(descriptor)
        self.size = self._opened.st_size

    def bytes_at(self, place: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, max(place, 0))

    def require_unchanged(self) -> None:
        if _written(os.fstat(self.descriptor)) != _written(self._opened):
            raise self.written()

    def identity(self, read: str) -> tuple[FileIdentity, ...]:
        of = self._opened
        return (
            FileIdentity(read, of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns),
        )


def _written(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class FileSource(ArrowColumns):
    """A source that is one file."""

    kind: ClassVar[str]  # what a refusal calls it

    def __init__(
        self, file: OpenFile, dataset: Dataset, rename: Mapping[str, str] = NO_NAMES
    ) -> None:
        super().__init__(file.name, dataset, rename)
        self._file = file

    @classmethod
    @contextmanager
    def _opened(cls, path: Place) -> Iterator[OpenFile]:
        """Open the file once.

        Raises:
            SourceUnreadable: Missing, not a file, or not permitted.
            ObjectStoreUnavailable: The store of an object does not answer.
        """
        if isinstance(path, ObjectUri):
            from provider.sources.objects import open_object

            yield open_object(path, cls.kind)
            return
        if not path.is_file():  # a pipe or device would block, and cannot be read twice
            found = "something else" if path.exists() else "no such file"
            raise SourceUnreadable(str(path), expected=cls.kind, found=found)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceUnreadable(str(path), expected=cls.kind, found=cause(error)) from error
        try:
            yield LocalFile(path, descriptor, cls.kind)
        finally:
            os.close(descriptor)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._file.reading():
            yield

    def _require_unchanged(self) -> None:
        self._file.require_unchanged()

    def _require_one_state(self) -> None:
        if self._file.in_ranges:
            self._file.require_unchanged()

    def identity(self) -> tuple[FileIdentity, ...] | None:
        return self._file.identity(self._read_as())

    def _read_as(self) -> str:
        return f"{self.kind}, {sorted(self._rename.items())}"
