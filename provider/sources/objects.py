"""Objects in a store that pyarrow reaches by itself: S3 and what speaks its protocol, GCS, Azure.

Who may read is told by the environment or by the files of the store's own tools (for S3
`AWS_PROFILE`, `~/.aws`, the role of a machine). Nothing of that is in a source table.

What is read in ranges is no snapshot: an object that is replaced meanwhile is noticed at the end,
by its size and time, before anything is committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as fs

from provider.errors import SourceTableMalformed, SourceUnavailable, SourceUnreadable
from provider.sources.opened import ObjectUri, OpenFile

if TYPE_CHECKING:
    from provider.sources.base import FileIdentity
    from verifier.errors import RatlsError

# The kinds of errors of the AWS library that asking again does not mend.
_FINAL = frozenset({"ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH"})


class ObjectStoreUnavailable(SourceUnavailable):
    """The store of an object does not answer, or not now."""

    code = "object-store-unavailable"
    default_fix = "check the network and the address of the store, then try again"


class OpenObject(OpenFile):
    """An object, read in ranges."""

    in_ranges = True

    def __init__(self, uri: ObjectUri, kind: str) -> None:
        super().__init__(str(uri), kind)
        try:
            self._store, self._path = fs.FileSystem.from_uri(uri.text)
        except (pa.ArrowException, ValueError) as error:
            # The text of the error may hold the address with its options.
            raise SourceTableMalformed(
                self.name, expected="the address of an object", found=type(error).__name__
            ) from None
        self._found = self._look()
        if not self._found.is_file:
            raise SourceUnreadable(self.name, expected=kind, found="no such object")
        self.size = self._found.size
        with self._asking():
            self._file = self._store.open_input_file(self._path)

    def bytes_at(self, place: int, size: int) -> bytes:
        place = max(place, 0)
        size = min(size, self.size - place)
        if size <= 0:
            return b""
        with self._asking():
            read: bytes = self._file.read_at(size, place)
        return read

    def require_unchanged(self) -> None:
        now = self._look()
        if (now.size, now.mtime_ns) != (self._found.size, self._found.mtime_ns):
            raise self.written()

    def identity(self, read: str) -> tuple[FileIdentity, ...] | None:
        """Whoever may write to the store may set its times."""
        return None

    def _look(self) -> fs.FileInfo:
        with self._asking():
            return self._store.get_file_info(self._path)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around every call that the store answers."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            self.refusal = self._refused(error)
            raise self.refusal from None

    def _refused(self, error: Exception) -> RatlsError:
        # The store's own words may be anything; the library's name of the error is one of few.
        named = re.search(r"AWS Error ([A-Z_]{3,60})", str(error))
        kind = named[1] if named else type(error).__name__
        if kind in _FINAL or isinstance(error, FileNotFoundError):
            return SourceUnreadable(self.name, expected=self.kind, found=kind)
        return ObjectStoreUnavailable(self.name, expected=self.kind, found=kind)


def open_object(uri: ObjectUri, kind: str) -> OpenFile:
    """Open it; its store is asked here for the first time.

    Raises: SourceTableMalformed, SourceUnreadable, ObjectStoreUnavailable.
    """
    return OpenObject(uri, kind)
