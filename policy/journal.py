"""The journal of what this party accepted, released, refused and collected: a hash chain.

    with Journal.open(folder) as journal:  # exclusive: one process at a time
        journal.records                    # verified, oldest first
        journal.append(refused, at)        # durable when the call returns

Only `policy accept` begins a journal. A state folder without its journal does not know what was
released, and is refused.

Each line names the SHA-256 of the line before it. A chain alone cannot show that its end was
cut off, so a second file, the head, names the last line. The order of an append is: line, fsync,
head, fsync, and only then the act that the record allows. A crash therefore leaves one of two
things, and the next opening repairs both: an incomplete line (it allowed nothing yet; it is cut
off), or one complete line after the head (kept: to count a release that did not happen is
harmless, to forget one that did is not). Anything else is an `AuditError`.

The first record says where the folder is: which machine, file system and inode. A copy has
another place and is refused, or two copies could release one task to two enclaves.

Write access to the folder is enough to put back an older journal *and* its head. Each commit
therefore contains the journal's head, signed, and the enclave's acknowledgement names that commit.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from policy.document import digest_text
from policy.errors import AuditError, StateError
from policy.journal_chain import (
    GENESIS,
    Head,
    JournalAltered,
    JournalCut,
    JournalHeadLost,
    JournalRecord,
    encode_line,
    parse_line,
    parse_lines,
    reconcile,
)
from policy.journal_entries import Entry, PlacedEntry
from policy.values import Digest
from verifier.files import FileNotWritten, locked, make_folder, sync_folder, write_atomically
from verifier.text import cause

_CAP = 1 << 30  # bytes; a journal of this size is a fault, not a history


@dataclass(frozen=True, slots=True)
class Reading:
    """A verified journal, read without locking it for writing."""

    records: tuple[JournalRecord, ...]
    head: Head
    raw: bytes  # its whole lines, byte for byte

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read and verify without writing, also a copy on another machine.

        Raises:
            JournalMissing: The folder has none.
            AuditError: One of its leaves; see `reconcile` and `parse_lines`.
        """
        with _held(folder, reading=True):
            raw, head = _read(_lines_path(folder)) or b"", _read(_head_path(folder))
        records, whole = parse_lines(raw)
        reconciled = reconcile(
            records, whole < len(raw), None if head is None else Head.parse(head)
        )
        if not records:
            raise _missing(folder)
        return cls(records, reconciled, raw[:whole])

    def require_line(self, digest: str) -> None:
        """The journal has a line with this digest: an older head, or that in a commit.

        An older journal, put back with its head, passes every other check. Raises: JournalCut.
        """
        if digest not in {digest_text(GENESIS), *(digest_text(r.digest) for r in self.records)}:
            raise JournalCut("journal", expected=f"a line with digest {digest}", found="none")


class Journal:
    """The verified journal, held exclusively by this process."""

    def __init__(self, folder: Path, records: tuple[JournalRecord, ...], head: Head) -> None:
        self._folder = folder
        self._records = list(records)
        self._head = head

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """Lock, read and verify the journal of a state folder; heal what a crash left.

        Raises:
            JournalMissing: There is none.
            AuditError: One of its other leaves; see `reconcile` and `parse_lines`.
            StateCopied: The journal was begun in another folder.
        """
        with cls._opened(folder) as journal:
            if not journal.records:
                raise _missing(folder)
            require_place(journal.records, folder)
            yield journal

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, at: datetime) -> Iterator[Self]:
        """As `open`; where nothing was accepted and nothing released yet, the journal begins.

        Raises:
            JournalMissing: There are policies or releases, and the journal that knew them is gone.
            JournalNotWritten, AuditError, StateCopied: As `open` and `append`.
        """
        if not has_begun(folder):
            with _writing():
                make_folder(folder)
                with locked(_lines_path(folder)):
                    sync_folder(folder)
        with cls._opened(folder) as journal:
            if not journal.records:
                if _is_used(folder):
                    raise _missing(folder)
                journal.append(place_of(folder), at)
            require_place(journal.records, folder)
            yield journal

    @classmethod
    def adopt(cls, folder: Path, head: str, at: datetime) -> PlacedEntry:
        """Let a copy, or what came back from a backup, be the state folder from now on.

        Args:
            head: Digest of the journal's last line, as it was noted where the folder stood before:
                the proof that nothing was released since the copy was made.

        Raises:
            JournalCut: The journal ends elsewhere.
            AuditError: As `open`.
        """
        with cls._opened(folder) as journal:
            if not journal.records:
                raise _missing(folder)
            found = digest_text(journal.head)
            if head != found:
                raise JournalCut("journal", expected=f"the head {head}", found=found)
            placed = place_of(folder)
            journal.append(placed, at)
            return placed

    @classmethod
    @contextmanager
    def _opened(cls, folder: Path) -> Iterator[Self]:
        lines, head_file = _lines_path(folder), _head_path(folder)
        with _held(folder):
            raw, old = _read(lines) or b"", _read(head_file)
            records, whole = parse_lines(raw)
            torn = whole < len(raw)
            head = reconcile(records, torn, None if old is None else Head.parse(old))
            if torn:
                with _changed(lines) as handle:
                    os.ftruncate(handle, whole)
            # Written first, also for an empty journal: lines without a head are an error.
            if old != head.encode():
                write_atomically(head_file, head.encode(), mode=0o600)
            yield cls(folder, records, head)

    @property
    def records(self) -> tuple[JournalRecord, ...]:
        """Every record, oldest first."""
        return tuple(self._records)

    @property
    def head(self) -> Digest:
        """Digest of the last line, 32 bytes; commits carry it."""
        return self._head.digest

    def append(self, entry: Entry, at: datetime) -> JournalRecord:
        """Add one record; when this returns, it survives a power cut.

        Raises:
            JournalNotWritten: The disk did not take it. Do not do what the record would allow.
        """
        line = encode_line(entry, at, self._head)
        record = parse_line(line, self._head.count, self._head.digest)
        _append_durably(_lines_path(self._folder), line + b"\n")
        self._head = Head(self._head.count + 1, record.digest)
        write_atomically(_head_path(self._folder), self._head.encode(), mode=0o600)
        self._records.append(record)
        return record


def has_begun(folder: Path) -> bool:
    """Does the folder have a journal, a policy or a release?"""
    return _lines_path(folder).exists() or _head_path(folder).exists() or _is_used(folder)


def _is_used(folder: Path) -> bool:
    return any(folder.glob("studies/*.agreement.json")) or any(folder.glob("releases/*"))


class StateCopied(StateError):
    """The state folder is a copy, or was moved: its journal names another place."""

    code = "state-copied"
    default_fix = (
        "work in the original folder; where it is gone for good, run "
        "`ratls policy state adopt --state DIR --head sha256:HEAD` once"
    )


def place_of(folder: Path) -> PlacedEntry:
    """Where a folder is now. Raises: JournalNotWritten, for one that is not there."""
    try:
        system, inode = os.statvfs(folder).f_fsid, os.stat(folder).st_ino
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    digest = hashlib.sha256(b"ratls state folder\0" + machine).digest()
    return PlacedEntry(machine=digest_text(digest), filesystem=f"{system:x}", folder=inode)


def require_place(records: Iterable[JournalRecord], folder: Path) -> None:
    """The folder is where its journal says that it is.

    Raises:
        StateCopied: It is elsewhere: a copy, a backup, or the disk of another machine.
    """
    placed = [r.entry for r in records if isinstance(r.entry, PlacedEntry)]
    here = place_of(folder)
    if not placed:
        found = "none: the journal is of an older version"
    elif placed[-1].machine != here.machine:
        found = "another machine"
    elif placed[-1] != here:
        found = "another folder of this machine"
    else:
        return
    raise StateCopied(
        f"state folder {folder}", expected="the place that its journal names", found=found
    )


@contextmanager
def _held(folder: Path, *, reading: bool = False) -> Iterator[None]:
    """Lock the file of the lines itself: a separate lock file could be removed.

    Raises: JournalMissing, JournalCut, JournalNotWritten, LockHeld, LocksMissing.
    """
    path = _lines_path(folder)
    if not os.path.lexists(path):
        if (head := _read(_head_path(folder))) is not None:
            reconcile((), torn=False, head=Head.parse(head))  # lines that are gone are a cut
        raise _missing(folder)
    with ExitStack() as held:
        with _writing():
            held.enter_context(locked(path, reading=reading, make=False))
        yield


class JournalNotWritten(AuditError):
    """A record could not be written to disk, so the act that it allows was not done."""

    code = "journal-not-written"
    default_fix = "make room and check that the state folder is writable by this user alone"


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except FileNotWritten as error:
        raise JournalNotWritten(error.thing, expected=error.expected, found=error.found) from error


class JournalMissing(AuditError):
    """The state folder has no journal. Only accepting the first policy begins one."""

    code = "journal-missing"
    default_fix = (
        "check --state; restore journal and head together from a backup made after the last "
        "release; a folder in which nothing was accepted yet needs `ratls policy accept`"
    )


def _missing(folder: Path) -> JournalMissing:
    return JournalMissing(str(folder), expected="journal.jsonl and its head", found="none")


def _lines_path(folder: Path) -> Path:
    return folder / "journal.jsonl"


def _head_path(folder: Path) -> Path:
    return folder / "journal.head"


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "no file")
            raw = file.read(_CAP + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalHeadLost(str(path), expected="a readable file", found=cause(error)) from error
    if len(raw) > _CAP:
        raise JournalAltered(str(path), expected=f"at most {_CAP} bytes", found="more")
    return raw


def _without_waiting(path: str, flags: int) -> int:
    # A pipe without a writer would hold the process in `open`.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _append_durably(path: Path, line: bytes) -> None:
    with _changed(path) as handle:
        if os.write(handle, line) != len(line):
            raise OSError(0, "only a part was written")


@contextmanager
def _changed(path: Path) -> Iterator[int]:
    """The open file, which is on the disk at the end. Raises: JournalNotWritten."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield handle
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> JournalNotWritten:
    return JournalNotWritten(str(path), expected="a durable record", found=cause(error))
