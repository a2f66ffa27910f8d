"""A stand-in for the kernel's `configfs-tsm`, by its sources, on a simulated platform.

    kernel = StandInKernel(world.platform)
    TdxAttester(kernel.folder).quote(report_data)
    TdxAttester(StandInKernel(world.platform, provider="sev_guest").folder)      # refused

It answers only the six calls that reach the file system. As in `drivers/virt/coco/guest/report.c`:
files appear with the folder; `inblob` is taken when it is closed, and an error of that is lost;
`outblob` is made at its first read after a write, and kept until the next; `generation` counts
writes. As in `tdx-guest.c`: 64 bytes or EINVAL, one request of the guest at a time or EBUSY.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ratls.tdx_guest import MEASUREMENTS, REPORTS, ReportFolder
from simulation.platform import Platform

INBLOB_MAX = 64
FILES = {"inblob": os.O_WRONLY, "outblob": os.O_RDONLY}
FILES |= {"provider": os.O_RDONLY, "generation": os.O_RDONLY}


@dataclass
class Entry:
    """One folder below `report`."""

    written: int = 0
    read: int = 0  # `written` when `outblob` was made
    inblob: bytes = b""
    outblob: bytes | None = None


@dataclass
class StandInKernel:
    """`ratls.tdx_guest.FolderCalls`. A field that a test sets is the one thing that goes wrong."""

    platform: Platform
    provider: str = "tdx_guest"
    refuses: dict[str, int] = field(default_factory=dict)  # file name, or "mkdir", to errno
    busy: int = 0  #             reads of `outblob` for which an earlier request is with the host
    taken: int | None = None  #  what a write says it took
    drops: bool = False  #       the error of taking `inblob`, which nobody is told
    racing: int = 0  #           writes of others into the folder, between ours and the read
    counter: str | None = None  # what `generation` says instead
    answer: Callable[[bytes], bytes] | None = None  # what the host's quoting service answers
    own: dict[str, bytes] = field(default_factory=dict)  # files of registers; none before 6.16
    made: int = 0
    waited: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    open_files: dict[int, tuple[str, str, bytes | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1000)
        self._quoting = threading.Lock()
        self._turn = threading.Event()

    @property
    def folder(self) -> ReportFolder:
        """The interface, where production looks for it."""
        return ReportFolder(calls=self, wait=self.waited.append)

    def genuine(self, report_data: bytes) -> bytes:
        """The answer of an honest quoting service."""
        return self.platform.td_quote(report_data)

    def mkdir(self, path: str, mode: int, /) -> None:
        self._fail("mkdir")
        name = str(Path(path).relative_to(REPORTS))
        assert "/" not in name
        if name in self.entries:
            raise _error(errno.EEXIST)
        self.names.append(name)
        self.entries[name] = Entry()

    def rmdir(self, path: str, /) -> None:
        del self.entries[str(Path(path).relative_to(REPORTS))]
        self._fail("rmdir")

    def open(self, path: str, flags: int, /) -> int:
        if Path(path).parent == MEASUREMENTS:
            if Path(path).name not in self.own:
                raise _error(errno.ENOENT)
            handle = next(self._numbers)
            self.open_files[handle] = "", Path(path).name, self.own[Path(path).name]
            return handle
        entry, name = Path(path).relative_to(REPORTS).parts
        if entry not in self.entries or name not in FILES:
            raise _error(errno.ENOENT)
        assert flags == FILES[name], "no file of configfs is created or truncated"
        handle = next(self._numbers)
        self.open_files[handle] = entry, name, None
        return handle

    def read(self, handle: int, size: int, /) -> bytes:
        entry, name, rest = self.open_files[handle]
        if rest is None:  # the first read makes the whole
            self._fail(name)
            rest = self._load(self.entries[entry], name)
        piece = rest[: min(size, 1000)]
        self.open_files[handle] = entry, name, rest[len(piece) :]
        return piece

    def write(self, handle: int, data: bytes, /) -> int:
        entry, name, _ = self.open_files[handle]
        self._fail(name)
        if len(data) > INBLOB_MAX:
            raise _error(errno.EFBIG)
        self.open_files[handle] = entry, name, data
        return len(data) if self.taken is None else self.taken

    def close(self, handle: int, /) -> None:
        entry, name, data = self.open_files.pop(handle)
        if name != "inblob" or data is None or self.drops:
            return
        self._take(self.entries[entry], data)
        for number in range(self.racing):
            self._take(self.entries[entry], bytes([number]) * INBLOB_MAX)

    def _take(self, entry: Entry, data: bytes) -> None:
        entry.written += 1
        entry.inblob = data

    def _load(self, entry: Entry, name: str) -> bytes:
        if name == "provider":
            return f"{self.provider}\n".encode()
        if name == "generation":
            return f"{entry.written if self.counter is None else self.counter}\n".encode()
        if entry.outblob is not None and entry.read == entry.written:
            return entry.outblob
        if len(entry.inblob) != INBLOB_MAX:
            raise _error(errno.EINVAL)
        if self.busy:
            self.busy -= 1
            raise _error(errno.EBUSY)
        if not self._quoting.acquire(blocking=False):
            raise _error(errno.EBUSY)  # one buffer of the guest is shared with the host
        try:
            self._turn.wait(0.001)  # the others' turn: here an attester without a lock fails
            self.made += 1
            entry.outblob = (self.answer or self.genuine)(entry.inblob)
        finally:
            self._quoting.release()
        entry.read = entry.written
        return entry.outblob

    def _fail(self, name: str) -> None:
        if name in self.refuses:
            raise _error(self.refuses[name])


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
