"""A copy of a machine for somebody else: `--collect FILE` writes it, `--sysroot` reads it.

    write_copy(snapshot, Path("node7.tar.gz"))         # then, elsewhere: tar xf node7.tar.gz
    snapshot = read_copy(Path("node7"))                # the same findings

The archive holds the excerpts as files below their own paths, and `doctor.json`: what stands in no
file, and what a copy cannot carry, as device files, owners, and that something could not be read.
A folder without `doctor.json`, such as a container's root that is mounted somewhere, is looked at
as it is. What somebody else collected is a stranger's file: it is read strictly.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ratls.doctor.gather import look_at
from ratls.doctor.snapshot import WANTED, Answer, Facts, Kind, Node, Snapshot
from verifier.errors import ConfigError
from verifier.files import read_file, write_new
from verifier.strict_json import JsonError, read_object

INDEX = "doctor.json"
_FORM = 1


class CopyMalformed(ConfigError):
    """`doctor.json` of a collected machine is not one that `ratls doctor --collect` writes."""

    code = "doctor-copy-malformed"
    default_fix = (
        "collect it again: ratls doctor --collect FILE, and unpack it into an empty folder"
    )


class CopyMissing(ConfigError):
    """The folder of `--sysroot` is none."""

    code = "doctor-copy-missing"
    default_fix = "unpack what --collect wrote, and name that folder"


# Writing


def write_copy(snapshot: Snapshot, file: Path) -> None:
    """Write a new archive, for its owner alone.

    Raises:
        FileNotWritten: It is there already, or the folder does not take it.
    """
    name = PurePosixPath(file.name.split(".")[0] or "machine")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, str(name / INDEX), json.dumps(index(snapshot), indent=1))
        for path, node in sorted(snapshot.nodes.items()):
            if node.excerpt is not None:
                _add(archive, str(name / path.lstrip("/")), node.excerpt)
    write_new(file, gzip.compress(packed.getvalue(), mtime=0))


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def index(snapshot: Snapshot) -> dict[str, object]:
    """What `doctor.json` holds."""
    facts = snapshot.facts
    return {
        "form": _FORM,
        "nodes": {
            path: _node_members(node)
            for path, node in snapshot.nodes.items()
            if node.kind is not Kind.NOTHING
        },
        "facts": {
            "now": facts.now,
            "cpuid": facts.cpuid,
            "encoding": facts.encoding,
            "python": facts.python,
            "aesm": facts.aesm,
            "packages": None if facts.packages is None else _owners(facts.packages),
            "libraries": facts.libraries,
            "services": {
                address: {
                    "fault": answer.fault,
                    "issued": answer.issued,
                    "next_update": answer.next_update,
                }
                for address, answer in facts.services.items()
            },
        },
    }


def _owners(packages: Mapping[str, str]) -> dict[str, str]:
    """A path would name folders of the user."""
    return {k: "no distribution" if "/" in v else v for k, v in packages.items()}


def _node_members(node: Node) -> dict[str, object]:
    return {
        "kind": node.kind.value,
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "names": node.names,
        "target": None if node.target is None else "…",  # that it is one; not where it leads
        "fault": node.fault,
    }


# Reading


def read_copy(folder: Path, *, seconds: float) -> Snapshot:
    """The machine that was collected into this folder, or whose root this folder is.

    Raises:
        CopyMissing: There is no such folder.
        CopyMalformed: Its `doctor.json` is not what we write.
        FileUnreadable: It cannot be read.
    """
    if not folder.is_dir():
        raise CopyMissing(str(folder), expected="a folder", found="none")
    seen = look_at(folder, seconds=seconds)
    place = folder / INDEX
    if not place.exists():
        return Snapshot(seen, Facts())
    noted, facts = parse_index(read_file(place, cap=1 << 20, seconds=seconds))
    return Snapshot({path: _joined(noted.get(path), seen[path]) for path in WANTED}, facts)


def _joined(noted: Node | None, seen: Node) -> Node:
    """What was noted, with the excerpt that lies beside it. What was not noted, was not there."""
    if noted is None:
        return Node(Kind.NOTHING)
    excerpt, fault = (seen.excerpt, seen.fault) if noted.fault is None else (None, noted.fault)
    if noted.kind is not Kind.FILE:
        excerpt, fault = None, noted.fault
    return Node(
        noted.kind, noted.mode, noted.uid, noted.gid, excerpt, noted.names, noted.target, fault
    )


def parse_index(raw: bytes) -> tuple[dict[str, Node], Facts]:
    """Read `doctor.json`.

    Raises:
        CopyMalformed: Not the members that we write, each of its type.
    """
    try:
        members = read_object(raw.decode("utf-8"))
        _only(members, {"form", "nodes", "facts"})
        if members["form"] != _FORM:
            raise ValueError("another form")
        nodes = {path: _node(value) for path, value in _object(members["nodes"]).items()}
        if not nodes.keys() <= WANTED.keys():
            raise ValueError("a path that is never looked at")
        return nodes, _facts(_object(members["facts"]))
    except (UnicodeDecodeError, JsonError, KeyError, ValueError, TypeError) as error:
        raise CopyMalformed(
            INDEX, expected="what --collect writes", found=f"{type(error).__name__}: {error}"[:200]
        ) from error


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def _only(members: Mapping[str, Any], names: set[str]) -> None:
    if members.keys() != names:
        raise ValueError("other members")


def _text(value: object, most: int = 400) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise TypeError("no short text")
    return value


def _number(value: object, most: int = 1 << 40) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise TypeError("no number in range")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _maybe(read: Callable[[Any], Any], value: object) -> Any:
    return None if value is None else read(value)


def _numbers(value: object, count: int, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise TypeError(f"not {count} numbers")
    return tuple(_number(item, most) for item in value)


def _node(value: object) -> Node:
    members = _object(value)
    _only(members, {"kind", "mode", "uid", "gid", "names", "target", "fault"})
    names = members["names"]
    if not isinstance(names, list) or len(names) > 100:
        raise TypeError("no list of names")
    return Node(
        Kind(_text(members["kind"])),
        _number(members["mode"], 0o7777),
        _number(members["uid"]),
        _number(members["gid"]),
        None,
        tuple(map(_text, names)),
        _maybe(_text, members["target"]),
        _maybe(_text, members["fault"]),
    )


def _facts(members: Mapping[str, Any]) -> Facts:
    _only(
        dict(members),
        {"now", "cpuid", "encoding", "python", "aesm", "packages", "libraries", "services"},
    )
    python = _maybe(lambda value: _numbers(value, 2, 1000), members["python"])
    return Facts(
        now=_maybe(_number, members["now"]),
        cpuid=_maybe(_cpuid, members["cpuid"]),
        encoding=_maybe(_text, members["encoding"]),
        python=python,
        libraries=_maybe(
            lambda value: {_text(k): _flag(v) for k, v in _object(value).items()},
            members["libraries"],
        ),
        aesm=_maybe(_text, members["aesm"]),
        packages=_maybe(
            lambda value: {_text(k): _text(v) for k, v in _object(value).items()},
            members["packages"],
        ),
        services={_text(k): _answer(v) for k, v in _object(members["services"]).items()},
    )


def _cpuid(value: object) -> dict[str, tuple[int, int, int, int]]:
    found = {}
    for name, registers in _object(value).items():
        a, b, c, d = _numbers(registers, 4, (1 << 32) - 1)
        found[_text(name)] = (a, b, c, d)
    return found


def _answer(value: object) -> Answer:
    members = _object(value)
    _only(members, {"fault", "issued", "next_update"})
    return Answer(
        _maybe(_text, members["fault"]), _number(members["issued"]), _number(members["next_update"])
    )
