"""The two locks of an image, and the list of its files.

    wheels = parse_wheels(Path("requirements/enclave.txt").read_bytes())
    debs = parse_debs(Path("manifests/gramine/debian.lock").read_bytes())
    files = parse_files(Path("manifests/gramine/files.txt").read_bytes())

A lock names each package with one version and one SHA-256: two builders cannot hold two different
files of one version, and have two images. The wheels' lock is a requirements file of pip; the
others are columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ratls.image.errors import ListMalformed
from ratls.image.rules import broken_rule

ALWAYS = "start"  # in the column of computations: the file is in every image
_NAME = r"(?P<name>[a-z0-9][a-z0-9.+-]*)"
_WHEEL = re.compile(
    _NAME + r"==(?P<version>[0-9A-Za-z.+!]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})", re.ASCII
)
_DEB = re.compile(_NAME + r" +(?P<version>[0-9A-Za-z.+:~-]+) +(?P<sha256>[0-9a-f]{64})", re.ASCII)
_FILE = re.compile(r"(?P<use>[a-z_]+(,[a-z_]+)*) +(?P<part>[a-z0-9.+-]+) +(?P<path>\S+)", re.ASCII)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package, as it has to be."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class File:
    """One file of the image."""

    uses: frozenset[str]  # computations that load it; {"start"}: every image has it
    part: str  #             the package that brings it
    path: str  #             in a wheel as it is there; of Debian, in the image


def parse_wheels(raw: bytes) -> tuple[Locked, ...]:
    """A requirements file whose every line is `name==version --hash=sha256:…`, broken or not.

    Raises: ListMalformed.
    """
    text = re.sub(rb" *\\\n +", b" ", raw)
    return _unique([_locked(found) for found in _lines(text, _WHEEL)], lambda one: one.name)


def parse_debs(raw: bytes) -> tuple[Locked, ...]:
    """Lines `name version sha256`. Raises: ListMalformed."""
    return _unique([_locked(found) for found in _lines(raw, _DEB)], lambda one: one.name)


def parse_files(raw: bytes) -> tuple[File, ...]:
    """Lines `computations package path`. Raises: ListMalformed, also for what a rule keeps out."""
    files = []
    for found in _lines(raw, _FILE):
        path = found["path"]
        if rule := broken_rule(path):
            raise ListMalformed(
                ascii(path), expected=f"no file under the rule {rule!r}", found=rule
            )
        files.append(File(frozenset(found["use"].split(",")), found["part"], path))
    return _unique(files, lambda one: one.path)


def chosen(files: Sequence[File], computations: Collection[str]) -> tuple[File, ...]:
    """The files of an image for these computations."""
    wanted = {ALWAYS, *computations}
    return tuple(file for file in files if file.uses & wanted)


def _locked(found: re.Match[str]) -> Locked:
    return Locked(found["name"], found["version"], found["sha256"])


def _lines(raw: bytes, form: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Each line that is neither empty nor a comment, in its one form."""
    for number, line in enumerate(raw.split(b"\n"), 1):
        text = line.decode("ascii", "backslashreplace")
        if text and not text.lstrip(" ").startswith("#"):
            found = form.fullmatch(text)
            if found is None:
                raise ListMalformed(
                    f"line {number}", expected="a line in its form", found=text[:80]
                )
            yield found


def _unique(entries: list[T], key: Callable[[T], str]) -> tuple[T, ...]:
    seen = set()
    for entry in entries:
        if key(entry) in seen:
            raise ListMalformed(key(entry), expected="one line", found="two")
        seen.add(key(entry))
    if not entries:
        raise ListMalformed("entries", expected="at least one", found="none")
    return tuple(entries)
