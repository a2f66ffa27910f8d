"""Rows that wait in a file and not in memory: sealed, without a name, with the key in memory.

    spill = Spill(folder)                 # one for each release
    place = spill.put(message)            # the bytes of an Arrow message
    spill.get(place)                      # the same bytes again, or a refusal
    spill.close()

The operator names the folder; its disk is the host's. What is written there is sealed with a key
that is made here and is nowhere else, each piece at its own place: the host learns sizes and times,
which it has seen on the network, and can put nothing else there. It is not the key that the rows
came under: with that one, a provider and the host together could exchange rows after they were
validated.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from policy.errors import ResourceLimitError
from policy.values import Digest
from ratls.sealing import TAG_SIZE, ChunkHead, StreamKey
from verifier.errors import ConfigError

_ABOUT = Digest(bytes(32))  # the key seals nothing else


class SpillFailed(ResourceLimitError):
    """Rows that should wait in the spill folder could not be written or read: the disk is full."""

    code = "spill-failed"
    default_fix = "ask the operator, whose disk is full or broken; then release again"


class SpillFolderUnusable(ConfigError):
    """Nothing can be written into the spill folder."""

    code = "spill-folder-unusable"
    default_fix = "name an existing folder on a file system with room, writable for this process"


@dataclass(frozen=True, slots=True)
class Spilled:
    """Where a message waits."""

    number: int
    offset: int
    size: int  # of the message; sealed it is a tag longer


class Spill:
    """One file. Any thread may use it, and any may close it."""

    def __init__(self, folder: Path) -> None:
        """Raises: SpillFailed."""
        self._key = StreamKey(os.urandom(32), b"", 0)
        self._lock = threading.Lock()
        self._count = self._end = 0
        try:
            # Without a name from the start, where the file system can do that.
            file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed later
        except OSError as error:
            raise _failed() from error
        self._file = file
        weakref.finalize(self, file.close)

    def put(self, message: pa.Buffer) -> Spilled:
        """Write a message of at most a chunk's size. Raises: SpillFailed."""
        with self._lock:
            number, self._count = self._count, self._count + 1
        sealed = memoryview(self._key.seal(message, ChunkHead(number, last=False), _ABOUT))
        written = 0
        try:
            with self._lock:  # else the file could be closed, and its number another's
                offset, self._end = self._end, self._end + len(sealed)
                while written < len(sealed):
                    written += os.pwrite(self._file.fileno(), sealed[written:], offset + written)
        except (OSError, ValueError) as error:  # ValueError: closed
            raise _failed() from error
        return Spilled(number, offset, message.size)

    def get(self, place: Spilled) -> pa.Buffer:
        """What was put there.

        Raises:
            ChunkNotOpenable: Other bytes are there now. SpillFailed: None can be read.
        """
        try:
            with self._lock:
                sealed = os.pread(self._file.fileno(), place.size + TAG_SIZE, place.offset)
        except (OSError, ValueError) as error:
            raise _failed() from error
        return self._key.open(memoryview(sealed), ChunkHead(place.number, last=False), _ABOUT)

    def close(self) -> None:
        """Give the room on the disk back. Closing twice does nothing."""
        with self._lock:
            self._file.close()


def require_folder(folder: Path) -> None:
    """A file can be made and written there: asked before anybody may connect.

    Raises: SpillFolderUnusable.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise SpillFolderUnusable(
            str(folder), expected="a folder that can be written to", found="none"
        ) from error


def _failed() -> SpillFailed:
    return SpillFailed("spill folder", expected="room for rows", found="an error of the disk")
