"""Reading and writing the files that commands name: whole, capped, atomic, never over keys.

A file is never created or deleted through a link in its place: another user of the machine may
have put it there. What is read may be a link: its owner chose it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from verifier.errors import ConfigError, RatlsError, placed
from verifier.text import cause

MEBIBYTE = 1 << 20
PIPE_SECONDS = 60.0  # for all that a pipe in the place of a file brings
LOCK_SECONDS = 60.0  # for another process to end its few milliseconds of work
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
T = TypeVar("T")


def read_file(path: Path, *, cap: int = 16 * MEBIBYTE, seconds: float = PIPE_SECONDS) -> bytes:
    """The bytes of a file of at most `cap` bytes.

    Args:
        seconds: How long a pipe may take for all of them.

    Raises:
        FileUnreadable: Missing, not a file, not permitted, larger than `cap`, or a pipe that was
            not filled in time.
    """
    with _opened(path) as handle:
        return _drained(handle, path, cap, seconds)


def read_stdin(*, cap: int, seconds: float = PIPE_SECONDS) -> bytes:
    """As `read_file`, of standard input."""
    path = Path("standard input")
    with _unreadable(path):
        return _drained(0, path, cap, seconds)


def read_secret(path: Path, *, cap: int, exposed: type[RatlsError]) -> bytes:
    """As `read_file`, of a file that others cannot read: mode 0600 or stricter.

    One that root alone can change may be readable by its group: that is how a key is mounted into
    a container (0440, root, on a file system that is mounted read-only).

    Raises:
        FileUnreadable: As `read_file`.
        `exposed`: Others can read it.
    """
    with _opened(path) as handle:
        # Of what was opened, not of the name: the name may mean another file a moment later.
        found = os.fstat(handle)
        mode = stat.S_IMODE(found.st_mode)
        read_only = os.fstatvfs(handle).f_flag & os.ST_RDONLY
        mounted = found.st_uid == 0 and read_only and not mode & 0o037
        if mode & 0o077 and not mounted:
            raise exposed(str(path), expected="mode 0600 or stricter", found=f"{mode:04o}")
        return _drained(handle, path, cap, PIPE_SECONDS)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with _unreadable(path):
        # Non-blocking: a FIFO without a writer would hold the process in `open`.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            yield handle
        finally:
            os.close(handle)


class FileUnreadable(ConfigError):
    """A file that the command needs is missing, unreadable or too large."""

    code = "file-unreadable"
    default_fix = "check the path and its permissions"


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise FileUnreadable(str(path), expected="a readable file", found=cause(error)) from error


def _drained(handle: int, path: Path, cap: int, seconds: float) -> bytes:
    found, end = os.fstat(handle), time.monotonic() + seconds
    parts: list[bytes] = []
    left = cap + 1
    while left:
        if not stat.S_ISREG(found.st_mode):
            _await_bytes(handle, path, end)
        part = os.read(handle, min(left, max(found.st_size + 1, MEBIBYTE)))
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
    raise FileUnreadable(str(path), expected=f"at most {cap} bytes", found="more")


def _await_bytes(handle: int, path: Path, end: float) -> None:
    ready = select.poll()
    ready.register(handle, select.POLLIN)
    if not ready.poll(max(0.0, end - time.monotonic()) * 1000):
        raise FileUnreadable(
            str(path),
            expected="its bytes in time",
            found="none",
            fix="start what writes into this pipe, or name a file",
        )


def parse_file(path: Path, parse: Callable[[bytes], T], *, cap: int = 16 * MEBIBYTE) -> T:
    """Read and parse a file; refusals of `parse` then name the file.

    Raises:
        FileUnreadable: As `read_file`.
        RatlsError: What `parse` raises.
    """
    content = read_file(path, cap=cap)
    with placed(str(path)):
        return parse(content)


def make_folder(folder: Path) -> Path:
    """Make the folder, and those above it that are missing, for their owner alone; the folder.

    Raises:
        FileNotWritten: It cannot be made, or something else has its name.
    """
    with _writing(folder, "a writable folder"):
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        for part in reversed(missing):
            # `parents=True` would give those above what the umask leaves of 0777.
            part.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "something else")
    return folder


@contextmanager
def own_folder(folder: Path, *inside: str) -> Iterator[int]:
    """The descriptor of `folder`/`inside`…, made 0700 where it is missing, for `dir_fd`.

    Raises:
        FileNotWritten: A part of `inside` is a link, or another thing than a folder.
    """
    make_folder(folder)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    path = folder
    with _writing(path, "a writable folder"):
        handle = os.open(folder, flags)
    try:
        for name in inside:
            path /= name
            with _writing(path, "a folder, and no link"):
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=handle)
                inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@contextmanager
def locked(
    path: Path, *, wait: float = LOCK_SECONDS, reading: bool = False, make: bool = True
) -> Iterator[None]:
    """Hold this lock file, alone, in the block. It is made, 0600, where there is none.
    The lock ends with the process, however it ends.

    Args:
        wait: Seconds for another process to give it back; 0: it must be free.
        reading: Beside others that only read; the file is not made.
        make: Make the file where there is none.

    Raises:
        LockHeld: Another process holds it for longer.
        LocksMissing: This file system has none.
        FileNotWritten: It cannot be made, or is a link.
    """
    flags = os.O_RDONLY if reading else os.O_RDWR | (os.O_CREAT if make else 0)
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with _writing(path, "a writable folder"):
        handle = os.open(path, flags, 0o600)
    try:
        _take(handle, path, fcntl.LOCK_SH if reading else fcntl.LOCK_EX, wait)
        yield
    finally:
        os.close(handle)


class LockHeld(ConfigError):
    """Another process holds a lock for longer than this one waits."""

    code = "lock-held"
    default_fix = "wait for the other process, or end it, and try again"
    says = "{thing} was not free {expected}: {found} holds it"


class LocksMissing(ConfigError):
    """The file system has no locks, so two processes could write the same state at once."""

    code = "locks-missing"
    default_fix = "use a folder on a file system with locks, as a local disk has"


def _take(handle: int, path: Path, kind: int, wait: float) -> None:
    end, pause = time.monotonic() + wait, 0.001
    while True:
        try:
            return fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # Asked again and again: a wait inside the system knows no limit.
            if time.monotonic() >= end:
                raise LockHeld(
                    str(path), expected=f"within {wait:.0f} s", found="another process"
                ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise LocksMissing(
                str(path), expected="a file system with locks", found=error.strerror or "none"
            ) from error
        time.sleep(pause)
        pause = min(0.05, pause * 2)


class FileNotWritten(ConfigError):
    """A file could not be written, or exists and is never overwritten."""

    code = "file-not-written"
    default_fix = "choose another path, or make room and check the folder's permissions"


@contextmanager
def _writing(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = "a link" if error.errno == errno.ELOOP else cause(error)
        raise FileNotWritten(str(path), expected=expected, found=found) from error


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace `path` as a whole and durably: a reader sees the old bytes or the new ones.

    Args:
        mode: Of a file in a folder of ours, which is replaced as it is. None: of a file that a
            person named: it keeps its mode and owner, and a link to it stays a link.

    Raises:
        FileNotWritten: The folder is missing, full or not writable; the old file is untouched.
    """
    with _writing(path, "a writable place"):
        if mode is not None:
            _replace(path, content, mode)
            return
        real = Path(os.path.realpath(path))
        _replace(real, content, 0o644, like=os.stat(real) if real.exists() else None)


def rewrite(path: Path, change: Callable[[bytes | None], bytes], *, cap: int) -> None:
    """Change a file that several people write, so that no change of theirs is lost.

    Args:
        change: Given the bytes as they are now (None: there is no file), while no other process
            is in a `rewrite` of this file; what it returns is written. Links, mode and owner stay.
        cap: Bytes that are read at most.

    Raises:
        FileNotWritten: Not a file of one name, or as for `write_atomically`.
        RatlsError: What `change` raises; the file is untouched.
    """
    real = Path(os.path.realpath(path))
    while True:
        with _writing(path, "a writable place"):
            try:
                # Not blocking, so that a FIFO of that name does not hold us for ever.
                handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                if _create(real, change(None)):
                    return
                continue  # another process made it meanwhile
        try:
            with _writing(path, "a writable place"):
                if _rewrite_locked(path, real, handle, change, cap):
                    return
        finally:
            os.close(handle)


def _rewrite_locked(
    path: Path, real: Path, handle: int, change: Callable[[bytes | None], bytes], cap: int
) -> bool:
    """False where another process replaced the file while we waited for the lock."""
    _take(handle, path, fcntl.LOCK_EX, LOCK_SECONDS)
    found = os.fstat(handle)
    if not real.exists() or not os.path.samestat(found, os.stat(real)):
        return False
    if found.st_nlink > 1:
        _unlink_temporary(real, found)
        found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        # Replaced, its other name would go on with the old content, and lose what comes.
        names = f"one of {found.st_nlink} names" if stat.S_ISREG(found.st_mode) else "no file"
        raise FileNotWritten(
            str(path),
            expected="a file of one name",
            found=names,
            fix="name a file without hard links; symbolic links are kept",
        )
    with open(handle, "rb", closefd=False) as file:
        content = file.read(cap + 1)
    if len(content) > cap:
        raise FileNotWritten(str(path), expected=f"at most {cap} bytes", found="more")
    _replace(real, change(content), 0o644, like=found)
    return True


def _unlink_temporary(path: Path, found: os.stat_result) -> None:
    """Drop the other name that a process left that was killed between the two steps of `_create`.

    Files that people linked have other names, and are refused.
    """
    with os.scandir(path.parent) as entries:
        for entry in entries:
            ours = entry.name.startswith(f".{path.name}.")
            if ours and os.path.samestat(entry.stat(follow_symlinks=False), found):
                os.unlink(entry.path)


def _create(path: Path, content: bytes) -> bool:
    """A new file, whole from its first moment; False where there is one already."""
    with _beside(path, content, 0o644) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # file systems without hard links
            write_new(path, content, mode=0o644)
    sync_folder(path.parent)
    return True


def _replace(path: Path, content: bytes, mode: int, like: os.stat_result | None = None) -> None:
    with _beside(path, content, stat.S_IMODE(like.st_mode) if like else mode) as temporary:
        if like is not None:
            with suppress(PermissionError):  # only root gives files away
                os.chown(temporary, like.st_uid, like.st_gid)
        os.replace(temporary, path)
    sync_folder(path.parent)


@contextmanager
def _beside(path: Path, content: bytes, mode: int) -> Iterator[str]:
    """A durable temporary file in the folder of `path`, gone again at the end."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        _fill(handle, content, mode)
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _fill(handle: int, content: bytes, mode: int) -> None:
    """Write a new file, durably, and close it."""
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(handle)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Create `path`, durably; an existing file is never overwritten.

    Raises:
        FileNotWritten: It exists already, or the folder does not take it. Nothing is left of it.
    """
    with write_together() as write:
        write(path, content, mode=mode)


@contextmanager
def write_together() -> Iterator[Callable[..., None]]:
    """`write_new` for several files: where one cannot be written, or the block fails, none is left.

    What is left of a try on a full disk would refuse the next one.
    """
    with ExitStack() as made:

        def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
            with _writing(path, "a new file"):
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
                made.callback(_forget, path)
                _fill(handle, content, mode)
                sync_folder(path.parent)

        yield write
        made.pop_all()


def _forget(path: Path) -> None:
    with suppress(OSError):
        os.unlink(path)
