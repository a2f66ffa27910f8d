"""Reading and writing the files that commands name: whole, capped, atomic, never over keys."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` as a whole and durably: a reader sees the old bytes or the new ones.

    Raises:
        FileNotWritten: The folder is missing, full or not writable; the old file is untouched.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise FileNotWritten(
            str(path), expected="a writable place", found=error.strerror or type(error).__name__
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
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
