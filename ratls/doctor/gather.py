"""Look at each path once: without waiting, without following links out of a copy, with a deadline.

    look_at(Path("/"), seconds=3)["/dev/sgx_enclave"].kind

A copy of another machine holds what that machine's owner put there: pipes, endless files, links to
files of this machine. A link is followed within the copy, as the copied machine would.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ratls.doctor.deadline import within
from ratls.doctor.snapshot import ABSENT, WANTED, Kind, Node, Wanted
from verifier.errors import RatlsError
from verifier.text import cause, printable

_MOST_LINKS = 40
_MOST_NAMES = 100_000
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.PIPE,
    stat.S_IFSOCK: Kind.SOCKET,
}
_PLAIN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK


def look_at(root: Path, *, seconds: float) -> dict[str, Node]:
    """Every path of `WANTED` below `root`."""
    probes = {path: partial(_look, root, path, wanted) for path, wanted in WANTED.items()}
    found: Mapping[str, Node] = within(seconds, probes)
    return {path: found.get(path, Node(Kind.SLOW)) for path in WANTED}


def _look(root: Path, path: str, wanted: Wanted) -> Node:
    target = None
    try:
        place, target = _resolved(root, path)
        found = os.lstat(place)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), Kind.UNREADABLE)
        node = Node(kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, target=target)
        if wanted.names is not None and kind is Kind.FOLDER:
            return _with(node, names=_names(place, wanted))
        if wanted.keep is not None and kind is Kind.FILE:
            return _kept(node, wanted, place)
    except OSError as error:
        return _without(error, target)
    return node


def _without(error: OSError, target: str | None) -> Node:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _with(ABSENT, target=target)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Node(Kind.DENIED, target=target)
    return Node(Kind.UNREADABLE, target=target, fault=printable(cause(error)))


def _with(
    node: Node,
    *,
    excerpt: str | None = None,
    names: tuple[str, ...] = (),
    target: str | None = None,
    fault: str | None = None,
) -> Node:
    target = node.target if target is None else target
    return Node(node.kind, node.mode, node.uid, node.gid, excerpt, names, target, fault)


def _resolved(root: Path, path: str) -> tuple[str, str | None]:
    """The real place of a path below `root`, and where the last part of it points, if a link."""
    todo = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    target, last, links = None, len(todo), 0
    while todo:
        part = todo.pop()
        if part in (".", ""):
            continue
        if part == "..":
            done = done[:-1]  # above the root is the root
            continue
        place = os.path.join(root, *done, part)
        if not stat.S_ISLNK(os.lstat(place).st_mode):
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        points = os.readlink(place)
        if last and not todo:
            target, last = points, 0  # the name itself, and none that a link led to
        if points.startswith("/"):
            done = []
        todo += points.split("/")[::-1]
    return os.path.join(root, *done), target


def _names(place: str, wanted: Wanted) -> tuple[str, ...]:
    kept = []
    with os.scandir(place) as entries:
        for number, entry in enumerate(entries):
            if number >= _MOST_NAMES:
                break
            if wanted.names is not None and wanted.names.fullmatch(entry.name):
                kept.append(entry.name)
    return tuple(sorted(kept))


def _kept(node: Node, wanted: Wanted, place: str) -> Node:
    try:
        handle = os.open(place, _PLAIN)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):  # exchanged a moment ago
                return Node(Kind.UNREADABLE, fault="it changes while it is read")
            raw = _read(handle, wanted.cap)
        finally:
            os.close(handle)
    except OSError as error:
        return _with(node, fault=printable(cause(error)))
    if len(raw) > wanted.cap and not wanted.head:
        return _with(node, fault=f"more than {wanted.cap} bytes")
    assert wanted.keep is not None
    try:
        return _with(node, excerpt=wanted.keep(raw[: wanted.cap]))
    except RatlsError as refusal:
        return _with(node, fault=printable(str(refusal)))


def _read(handle: int, cap: int) -> bytes:
    parts, left = [], cap + 1
    while left and (part := os.read(handle, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
