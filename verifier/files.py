"""Reading and writing the files that commands name: whole, capped, atomic, never over keys."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from verifier.collateral import Collateral
from verifier.errors import FileNotWritten, FileUnreadable, placed
from verifier.responses import MAX_ANSWER, MAX_FILES, read_folder

MEBIBYTE = 1 << 20
T = TypeVar("T")


def read_file(path: Path, *, cap: int = 16 * MEBIBYTE) -> bytes:
    """The bytes of a file of at most `cap` bytes.

    Raises:
        FileUnreadable: Missing, not a file, not permitted, or larger than `cap`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(cap + 1)
    except OSError as error:
        raise FileUnreadable(
            str(path), expected="a readable file", found=error.strerror or type(error).__name__
        ) from error
    if len(content) > cap:
        raise FileUnreadable(str(path), expected=f"at most {cap} bytes", found="more")
    return content


def parse_file(path: Path, parse: Callable[[bytes], T], *, cap: int = 16 * MEBIBYTE) -> T:
    """What `parse` makes of a file's bytes; its refusals then name the file.

    Raises:
        FileUnreadable: As `read_file`.
        RatlsError: What `parse` raises.
    """
    content = read_file(path, cap=cap)
    with placed(str(path)):
        return parse(content)


def read_collateral(path: Path) -> Collateral:
    """A bundle file, or a folder of a service's answers as `verifier.responses` names them.

    Raises:
        FileUnreadable: Missing, not permitted, too large or too many.
        CollateralFormatError, CertChainError, RevocationError: Neither of the two.
    """
    if not path.is_dir():
        return parse_file(path, Collateral.parse)
    try:
        names = [file.name for file in islice(path.iterdir(), MAX_FILES + 1)]
    except OSError as error:
        raise FileUnreadable(
            str(path), expected="a readable folder", found=error.strerror or type(error).__name__
        ) from error
    if len(names) > MAX_FILES:
        raise FileUnreadable(str(path), expected=f"at most {MAX_FILES} answers", found="more files")
    with placed(str(path)):
        return read_folder({name: read_file(path / name, cap=MAX_ANSWER) for name in names})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, for its owner alone, and be the only process in this block.

    Raises:
        FileNotWritten: It cannot be made or written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FileNotWritten(
            str(folder), expected="a writable folder", found=error.strerror or type(error).__name__
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
        mode: Of a file of our own, in whose place nothing else is kept. None: of a file that a
            person named, which keeps its mode and owner, and stays where a link to it leads.

    Raises:
        FileNotWritten: The folder is missing, full or not writable; the old file is untouched.
    """
    with _written(path):
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
        with _written(path):
            try:
                # Not blocking, so that a FIFO of that name does not hold us for ever.
                handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                if _create(real, change(None)):
                    return
                continue  # somebody made it meanwhile
        try:
            with _written(path):
                if _rewrite_locked(path, real, handle, change, cap):
                    return
        finally:
            os.close(handle)


def _rewrite_locked(
    path: Path, real: Path, handle: int, change: Callable[[bytes | None], bytes], cap: int
) -> bool:
    """False where somebody replaced the file while we waited for it."""
    fcntl.flock(handle, fcntl.LOCK_EX)
    found = os.fstat(handle)
    if not real.exists() or not os.path.samestat(found, os.stat(real)):
        return False
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


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileNotWritten(
            str(path), expected="a writable place", found=error.strerror or type(error).__name__
        ) from error


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
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Create `path`, durably; an existing file is never overwritten.

    Raises:
        FileNotWritten: It exists already, or the folder does not take it.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise FileNotWritten(
            str(path), expected="a new file", found=error.strerror or type(error).__name__
        ) from error
