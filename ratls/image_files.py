"""The files of an enclave's image on this machine: listed, hashed, and compared with a manifest.

    entries = list(walk(Path("/opt/ratls/image"), "/opt/ratls/image"))

Gramine's signer leaves out in silence what it cannot read or follow. Here it is named.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from verifier.errors import ConfigError
from verifier.gramine.complete import Trusted
from verifier.gramine.listing import Entry
from verifier.text import cause, printable

_PART = 1 << 20
# Gramine installs `runtime/glibc/libmbedtls_gramine.so` as a link to `../../../`, its libraries.
_RUNTIME = "/gramine/runtime/"


class ImageFileUnusable(ConfigError):
    """A file that is to be trusted cannot be: it is no file, or not to be read, or elsewhere."""

    code = "image-file-unusable"
    default_fix = "put a readable file in its place, or leave it out of the image and the manifest"


class PresetHashDiffers(ConfigError):
    """A manifest's author gave a hash for a file, and the file has another one."""

    code = "preset-hash-differs"
    default_fix = "remove the sha256 from the manifest's template, or put the right file there"


class ImageFolderMissing(ConfigError):
    """There is no folder where an image should be."""

    code = "image-folder-missing"
    default_fix = "name the folder of the unpacked image"


def require_folder(folder: Path) -> None:
    """Raises: ImageFolderMissing."""
    if not folder.is_dir():
        raise ImageFolderMissing(str(folder), expected="a folder", found="none")


def walk(folder: Path, path: str) -> Iterator[Entry]:
    """Everything below a folder, but folders that hold something, in the signer's order.

    No manifest can list an empty folder, and Python takes it for a package without content.

    Args:
        path: What a manifest calls this folder.
    """
    top = folder / ".." / ".." / ".." if _RUNTIME in f"{path}/" else folder
    yield from _walk(folder, path, os.path.realpath(top))


def _walk(folder: Path, path: str, top: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(path, None, f"a folder that cannot be read: {cause(error)}")
        return
    if not found:
        yield Entry(path, None, "an empty folder")
    for entry in found:
        inside = f"{path}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, inside, top)
        else:
            yield hashed(folder / entry.name, inside, top)


def hashed(file: Path, path: str, top: str | None = None) -> Entry:
    """One file with its hash. A link is followed to a file below `top`, and nowhere else."""
    try:
        real = os.path.realpath(file, strict=True) if os.path.islink(file) else str(file)
        if top is not None and real != str(file) and not real.startswith(f"{top}/"):
            return Entry(path, None, "a link that leads out of the folder")
        handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return Entry(path, None, f"what cannot be opened: {cause(error)}")
    try:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            kind = "a link to a folder" if stat.S_ISDIR(before.st_mode) else "no regular file"
            return Entry(path, None, kind)
        digest, size = hashlib.sha256(), 0
        while part := os.read(handle, _PART):
            digest.update(part)
            size += len(part)
        after = os.fstat(handle)
    except OSError as error:
        return Entry(path, None, f"what cannot be read: {cause(error)}")
    finally:
        os.close(handle)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, size):
        return Entry(path, None, "a file that changed while it was read")
    return Entry(path, digest.hexdigest(), size=size)


def place(path: str, chroot: Path | None) -> Path:
    """Where a path of a manifest is on this machine."""
    return Path(path) if chroot is None else chroot / path.lstrip("/")


def found_on(
    wanted: Mapping[str, str], folders: Iterable[str], chroot: Path | None
) -> Iterator[Entry]:
    """All that lies in these folders, and the files of `wanted` that are outside them."""
    covered = [folder for folder in folders if place(folder, chroot).is_dir()]
    for folder in covered:
        yield from walk(place(folder, chroot), folder)
    for path in wanted:
        if not path.startswith(tuple(f"{folder}/" for folder in covered)):
            where = place(path, chroot)
            if os.path.lexists(where):
                yield hashed(where, path)


def expand(entries: Iterable[tuple[str, str | None]], chroot: Path | None) -> list[Trusted]:
    """The trusted files of a manifest, each with its hash; folders end in a slash.

    Raises: ImageFileUnusable, PresetHashDiffers.
    """
    made: dict[str, Trusted] = {}
    for uri, preset in entries:
        path = uri.removeprefix("file:")
        for entry in _expanded(path, chroot):
            digest = _usable(entry)
            if preset is not None and preset != digest:
                raise PresetHashDiffers(printable(path), expected=preset[:80], found=digest)
            made.setdefault(entry.path, Trusted(f"file:{entry.path}", digest))
    return list(made.values())


def _expanded(path: str, chroot: Path | None) -> Iterator[Entry]:
    where = place(path, chroot)
    if path.endswith("/") != where.is_dir():
        wanted = "a folder" if path.endswith("/") else "a file, or a folder's name with a slash"
        found = "a folder" if where.is_dir() else "a file" if where.exists() else "nothing"
        raise ImageFileUnusable(printable(path), expected=wanted, found=found)
    if path.endswith("/"):
        return walk(where, os.path.normpath(path))
    return iter([hashed(where, path)])


def _usable(entry: Entry) -> str:
    if entry.sha256 is None:
        raise ImageFileUnusable(
            printable(entry.path), expected="a readable file", found=entry.found
        )
    if not all(" " <= character <= "~" for character in entry.path):
        raise ImageFileUnusable(
            printable(entry.path), expected="a name in printable ASCII", found="another one"
        )
    return entry.sha256
