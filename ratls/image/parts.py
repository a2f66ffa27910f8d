"""A wheel or a Debian package whose bytes are those of the lock, and the files in it.

    part = find_wheel(folder, locked)         # refused by name if its SHA-256 is another
    part.read("numpy/__init__.py")

Nothing is unpacked: a file is asked for by the name that the list has, so no name in an archive
decides where anything is written. A package is hashed before it is opened.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from lzma import LZMAError, decompress
from pathlib import Path

from ratls.image.errors import ImageError
from ratls.image.locks import Locked
from verifier.files import read_file

_LARGEST = 1 << 30  # of a package
_HOPS = 8
_LINK = 0o120000
# What the libraries raise for damaged archives: encrypted, of an unknown kind, cut, inconsistent.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, OverflowError),
)
_AR_HEADER = 60  # name 16, time 12, owner 6, group 6, mode 8, size 10, end 2


class PartMissing(ImageError):
    """A folder does not have a package that the image takes files from."""

    code = "image-part-missing"
    default_fix = "download it again, whole; without the option the command downloads it itself"


class PartHashDiffers(ImageError):
    """A package is not the one of the lock: damaged, half downloaded, or another build."""

    code = "image-part-hash-differs"
    default_fix = "delete the file and download it again; if it differs again, do not use it"


class PartUnreadable(ImageError):
    """A package is the one of the lock, and cannot be read."""

    code = "image-part-unreadable"
    default_fix = "report it to the authors: the lock names a package that no image can be made of"


class FileNotInPart(ImageError):
    """A package does not have a file that the list takes from it."""

    code = "image-file-missing"
    default_fix = "take locks and list from one release"


class LinkOut(ImageError):
    """A link in a package leads out of it: its target is chosen by the machine that builds."""

    code = "image-link-out"
    default_fix = "list the file that it leads to, from the package that has it"


@dataclass(frozen=True)
class Part:
    """A package that was found and hashed."""

    file: str
    names: Collection[str]
    _read: Callable[[str], bytes]

    def read(self, path: str) -> bytes:
        """One file of it. Raises: FileNotInPart, LinkOut, PartUnreadable."""
        if path not in self.names:
            raise FileNotInPart(self.file, expected=f"to hold {path}", found="no such file")
        return self._read(path)


def find_wheel(folder: Path, locked: Locked) -> Part:
    """The wheel of the lock, among others. Raises: PartMissing, PartHashDiffers, PartUnreadable."""

    def named(file: str) -> bool:
        name, _, rest = file.partition("-")
        return _normal(name) == locked.name and rest.startswith(f"{locked.version}-")

    return _found(folder, ".whl", locked, named, _open_wheel)


def find_deb(folder: Path, locked: Locked) -> Part:
    """The Debian package of the lock. Raises: as `find_wheel`."""
    version = locked.version.replace(":", "%3a")
    start = f"{locked.name}_{version}_"
    return _found(folder, ".deb", locked, lambda file: file.startswith(start), _open_deb)


def _normal(name: str) -> str:
    """PEP 503: what pip takes for one name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _found(
    folder: Path,
    suffix: str,
    locked: Locked,
    named: Callable[[str], bool],
    opened: Callable[[str, bytes], Part],
) -> Part:
    try:
        files = sorted(p for p in folder.iterdir() if p.name.endswith(suffix) and named(p.name))
    except OSError:
        files = []
    if not files:
        wanted = f"{locked.name} {locked.version}, as a {suffix} file"
        raise PartMissing(str(folder), expected=wanted, found="none")
    for path in files:
        raw = read_file(path, cap=_LARGEST)
        found = hashlib.sha256(raw).hexdigest()
        if found == locked.sha256:
            return opened(path.name, raw)
    raise PartHashDiffers(str(path), expected=f"SHA-256 {locked.sha256}", found=found)


def _open_wheel(file: str, raw: bytes) -> Part:
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except _DAMAGED as error:
        raise _unreadable(file) from error
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}

    def read(path: str) -> bytes:
        info = members[path]
        if info.external_attr >> 16 & 0o170000 == _LINK:
            raise LinkOut(f"{file}: {path}", expected="a file", found="a link")
        try:
            return archive.read(info)
        except _DAMAGED as error:
            raise _unreadable(file) from error

    return Part(file, members.keys(), read)


def _open_deb(file: str, raw: bytes) -> Part:
    data = next((body for name, body in _ar_members(file, raw) if name == b"data.tar.xz"), None)
    if data is None:
        raise _unreadable(file, expected="a member data.tar.xz", found="none")
    try:
        archive = tarfile.TarFile(fileobj=io.BytesIO(decompress(data)))
        members = {_merged(member.name): member for member in archive.getmembers()}
    except _DAMAGED as error:
        raise _unreadable(file) from error
    members = {path: member for path, member in members.items() if not member.isdir()}

    def read(path: str) -> bytes:
        here = path
        for _ in range(_HOPS):
            member = members.get(here)
            if member is None:
                raise LinkOut(f"{file}: {path}", expected="a file of this package", found=here)
            if member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                try:
                    return content.read()
                except _DAMAGED as error:
                    raise _unreadable(file) from error
            if not (member.issym() or member.islnk()):
                break
            base = posixpath.dirname(member.name) if member.issym() else "."
            here = _merged(posixpath.join(base, member.linkname))
        raise _unreadable(f"{file}: {path}", expected="a file, or a link to one", found="another")

    return Part(file, members.keys(), read)


def _merged(name: str) -> str:
    """A place in the image: Debian 12 merged /lib and /lib64 into /usr, its packages did not."""
    path = posixpath.normpath("/" + name).lstrip("/")
    return f"usr/{path}" if path.startswith(("lib/", "lib64/", "bin/", "sbin/")) else path


def _ar_members(file: str, raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The members of an archive of `ar`: deb(5)."""
    if not raw.startswith(b"!<arch>\n"):
        raise _unreadable(file, expected="a Debian package", found="another file")
    at = 8
    while at < len(raw):
        header = raw[at : at + _AR_HEADER]
        size = header[48:58].rstrip(b" ")
        if len(header) < _AR_HEADER or header[58:] != b"`\n" or not size.isdigit():
            raise _unreadable(file)
        at += _AR_HEADER
        body = raw[at : at + int(size)]
        if len(body) < int(size):
            raise _unreadable(file)
        yield header[:16].rstrip(b" /"), body
        at += int(size) + int(size) % 2


def _unreadable(
    thing: str, expected: str = "a whole package", found: str = "a damaged one"
) -> PartUnreadable:
    return PartUnreadable(thing, expected=expected, found=found)
