"""From locks, list and packages to the image, a folder that is the same wherever it is built.

    image = build(out, sources)
    image.files, image.size, image.digest

Names, bytes, modes and times of the folder follow from the locks, the list, the enclave's own
modules and the computations, and from nothing else. It stands under its name when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratls.image.bytecode import Interpreter, compile_modules, tree_interpreter
from ratls.image.errors import ListMalformed, PartNotLocked
from ratls.image.locks import File, Locked
from ratls.image.parts import find_deb, find_wheel
from ratls.image.rules import INTERPRETER, PACKAGES
from verifier.files import FileNotWritten
from verifier.text import cause

# Names are looked up in files alone, and nothing looks any up: addresses are literal.
WRITTEN = {"etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n"}
TIME = 315_532_800  # 1980-01-01, the first instant of a zip file; not measured


@dataclass(frozen=True, slots=True)
class Sources:
    """What an image is made of."""

    files: Sequence[File]  # those of the computations that it is for
    wheels: Sequence[Locked]
    debs: Sequence[Locked]
    wheel_folder: Path
    deb_folder: Path
    own: Mapping[str, bytes]  # the enclave's own modules: place below dist-packages, and bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A folder, as its content says."""

    files: int
    size: int  #      bytes of all files
    digest: bytes  # SHA-256 over what `sha256sum` prints for each, sorted: see `digest_of`


def needed(files: Iterable[File], locked: Sequence[Locked]) -> tuple[Locked, ...]:
    """Of a lock, the packages that these files come from."""
    parts = {file.part for file in files}
    return tuple(one for one in locked if one.name in parts)


def build(out: Path, sources: Sources, interpreter: Interpreter | None = None) -> Image:
    """Make the folder `out`, which must not exist.

    Args:
        out: An absolute path.
        interpreter: Compiles in the place of the image's own; for tests, whose image has none.

    Raises:
        FileNotWritten: `out` exists, or cannot be made.
        ImageError: A package is missing, is another one, or lacks a file.
    """
    require_absent(out)
    content: dict[str, bytes] = {}
    for place, raw in _content(sources):
        if place in content:
            raise ListMalformed(place, expected="one source of this file", found="two")
        content[place] = raw
    try:
        tree = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise FileNotWritten(str(out), expected="a new folder", found=cause(error)) from error
    try:
        _write(tree, content)
        modules = [path for path in content if path.endswith(".py")]
        compile_modules(tree, modules, interpreter or tree_interpreter(tree))
        _settle(tree)
        image = digest_of(tree)
        os.rename(tree, out)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return image


def require_absent(out: Path) -> None:
    """Raises: FileNotWritten, if there is something of this name."""
    if os.path.lexists(out):
        raise FileNotWritten(str(out), expected="a new folder", found="one that exists")


def digest_of(tree: Path) -> Image:
    """What `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` says in the folder."""
    digest, count, size = hashlib.sha256(), 0, 0
    places = (path.relative_to(tree).as_posix() for path in _files(tree))
    for place in sorted(places, key=os.fsencode):
        raw = (tree / place).read_bytes()
        digest.update(f"{hashlib.sha256(raw).hexdigest()}  ./{place}\n".encode())
        count, size = count + 1, size + len(raw)
    return Image(count, size, digest.digest())


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())


def _content(sources: Sources) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of every file, before compiling."""
    files = sources.files
    yield from WRITTEN.items()
    yield from ((PACKAGES + place, raw) for place, raw in sources.own.items())
    unlocked = {file.part for file in files} - {p.name for p in (*sources.wheels, *sources.debs)}
    if unlocked:
        raise PartNotLocked(min(unlocked), expected="a line in a lock", found="none")
    for locked in needed(files, sources.wheels):
        part = find_wheel(sources.wheel_folder, locked)
        yield from ((PACKAGES + f.path, part.read(f.path)) for f in files if f.part == locked.name)
    for locked in needed(files, sources.debs):
        part = find_deb(sources.deb_folder, locked)
        yield from ((f.path, part.read(f.path)) for f in files if f.part == locked.name)


def _write(tree: Path, content: Mapping[str, bytes]) -> None:
    for place, raw in content.items():
        path = tree / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(raw)
        started = place == INTERPRETER or path.name.startswith("ld-linux-")
        path.chmod(0o755 if started else 0o644)


def _settle(tree: Path) -> None:
    """Modes and times that do not tell of the umask, or of the day."""
    for top, _, files in os.walk(tree, topdown=False):
        for name in files:
            path = os.path.join(top, name)
            if path.endswith(".pyc"):
                os.chmod(path, 0o644)
            os.utime(path, (TIME, TIME))
        os.chmod(top, 0o755)  # noqa: S103 - read by whoever signs and runs it
        os.utime(top, (TIME, TIME))
