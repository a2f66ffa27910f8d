"""A fleet's machines in a file of their own, which a policy names by its digest.

    raw = machines_text(["ppid:" + "ab" * 16, "piid:" + "cd" * 16])
    file_name(digest_text(digest_of(raw)))  # "machines-0123456789abcdef.txt", beside the policy
    with_machines(policy, folder)           # the policy, ready for admission

Everybody signs the digest, and so the file. It travels beside the policy under a name that is
made from the digest; `ratls policy accept` keeps a copy beside the accepted agreement. The
enclave needs none: it admits no machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from policy.document import Policy
from policy.errors import PolicyFormatError
from policy.problems import Unfit
from policy.sections import machine
from policy.values import Digest
from verifier.files import read_file
from verifier.text import digest_text

FILE_CAP = 16 << 20  # 400,000 machines


class MachinesFileMissing(PolicyFormatError):
    """The file of machines that the policy names by its digest is not beside it."""

    code = "machines-file-missing"
    default_fix = "get the file from the party that sent the policy, and put it there"


class MachinesFileDiffers(PolicyFormatError):
    """The file of machines is not the one that the parties signed."""

    code = "machines-file-differs"
    default_fix = "get the file again, byte for byte, from the party that sent the policy"


class MachinesFileMalformed(PolicyFormatError):
    """The file of machines has a line that names no machine, or names one twice."""

    code = "machines-file-malformed"
    default_fix = "write one ppid:… or piid:… with 32 hex digits in each line, each once"


def machines_text(machines: Iterable[str]) -> bytes:
    """The file of these machines, sorted, so that the same fleet is the same file."""
    return "".join(f"{name}\n" for name in sorted(set(machines))).encode("ascii")


def digest_of(raw: bytes) -> Digest:
    """What a policy says in `machines_file`, as bytes."""
    return Digest(hashlib.sha256(raw).digest())


def file_name(named: str) -> str:
    """Under which the file stands beside a policy that names it by sha256:…"""
    return f"machines-{named.removeprefix('sha256:')[:16]}.txt"


def read_machines(raw: bytes) -> frozenset[str]:
    """One machine a line; empty lines and lines that begin with # are for people.

    Raises:
        MachinesFileMalformed: Something else, one machine twice, or none.
    """
    found: set[str] = set()
    for number, line in enumerate(raw.decode("ascii", "replace").split("\n"), start=1):
        name = line.rstrip(" \r")
        if not name or name.startswith("#"):
            continue
        try:
            machine(name)
        except Unfit as unfit:
            raise _malformed(f"line {number}", unfit.expected, unfit.found) from unfit
        if name in found:
            raise _malformed(f"line {number}", "each machine once", f"{name} again")
        found.add(name)
    if not found:
        raise _malformed("all lines", "at least one machine", "none")
    return frozenset(found)


def _malformed(place: str, expected: str, found: str) -> MachinesFileMalformed:
    return MachinesFileMalformed(f"machines file, {place}", expected=expected, found=found)


def with_machines(policy: Policy, folder: Path) -> Policy:
    """The policy with the machines of its file, where that stands in `folder`.

    Without one it comes back as it is; admission then refuses every machine.

    Raises:
        MachinesFileDiffers, MachinesFileMalformed: Another file stands there.
        FileUnreadable: It cannot be read.
    """
    path = machines_path(policy, folder)
    if path is None or not path.exists():
        return policy
    return replace(policy, fleet=read_machines(require_machines_file(policy, folder)))


def machines_path(policy: Policy, folder: Path) -> Path | None:
    """Where the file that the policy names would stand; None where it names none."""
    named = policy.platform.machines_file
    return None if named is None else folder / file_name(named)


def require_machines_file(policy: Policy, folder: Path) -> bytes:
    """The content of the file that the policy names; empty where it names none.

    Raises:
        MachinesFileMissing, MachinesFileDiffers, MachinesFileMalformed, FileUnreadable.
    """
    named, path = policy.platform.machines_file, machines_path(policy, folder)
    if path is None:
        return b""
    if not path.exists():
        raise MachinesFileMissing(str(path), expected=f"a file with digest {named}", found="none")
    raw = read_file(path, cap=FILE_CAP)
    if digest_text(digest_of(raw)) != named:
        raise MachinesFileDiffers(str(path), expected=str(named), found=digest_text(digest_of(raw)))
    read_machines(raw)
    return raw
