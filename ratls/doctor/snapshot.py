"""All that the doctor looks at, and how much of it is kept: an excerpt that anybody may read.

    WANTED["/etc/sgx_default_qcnl.conf"].keep(raw)   # the text without what could be secret

Findings are made from excerpts alone, so what `--collect` writes leads to the same findings
elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from ratls.doctor.qcnl import Qcnl


class Kind(Enum):
    """What is at a path."""

    FILE = "file"
    FOLDER = "folder"
    CHARACTER = "character device"
    BLOCK = "block device"
    PIPE = "pipe"
    SOCKET = "socket"
    NOTHING = "nothing"
    DENIED = "not permitted"
    SLOW = "no answer in time"
    UNREADABLE = "an error"


@dataclass(frozen=True, slots=True)
class Node:
    """What is at a path, links followed."""

    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    excerpt: str | None = None  #     of a file
    names: tuple[str, ...] = ()  #    of a folder, those that matter
    target: str | None = None  #      of a link: where it points
    fault: str | None = None  #       why there is no excerpt

    @property
    def there(self) -> bool:
        """Something is there, whether or not it could be read."""
        return self.kind not in (Kind.NOTHING, Kind.DENIED, Kind.SLOW, Kind.UNREADABLE)

    @property
    def undecided(self) -> bool:
        """Nobody knows whether something is there."""
        return not self.there and self.kind is not Kind.NOTHING

    @property
    def said(self) -> str:
        """For people: what is there."""
        return self.fault or self.kind.value


ABSENT = Node(Kind.NOTHING)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collateral service said when it was asked for a QE identity; nothing is verified."""

    fault: str | None = None  #  why there is no usable answer
    issued: int = 0  #           of the QE identity, in Unix time
    next_update: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in no file. None: it was not, or could not be, looked at."""

    now: int | None = None  #                                    Unix time
    cpuid: Mapping[str, tuple[int, int, int, int]] | None = None  # "leaf.subleaf", in hexadecimal
    encoding: str | None = None  #                               of file names
    python: tuple[int, int] | None = None
    libraries: Mapping[str, bool] | None = None  #               name to whether it is there
    aesm: str | None = None  #                                   `answers`, or why not
    services: Mapping[str, Answer] = field(default_factory=dict)  # by address
    packages: Mapping[str, str] | None = None  #                 name to whose it is; empty: ours


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine at one moment."""

    nodes: Mapping[str, Node]
    facts: Facts

    def node(self, path: str) -> Node:
        """What is at this path, one of `WANTED`."""
        assert path in WANTED, path
        return self.nodes.get(path, ABSENT)

    def excerpt(self, path: str) -> str:
        """The kept text of a file; nothing where there is none."""
        return self.node(path).excerpt or ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is kept of a path. Both default to nothing: that something is there is all."""

    keep: Callable[[bytes], str] | None = None  # may raise RatlsError: what is said then
    names: re.Pattern[str] | None = None
    cap: int = 1 << 16
    head: bool = False  # the beginning is enough


def _lines(pattern: str) -> Callable[[bytes], str]:
    """The lines that match as a whole; anything else of the file is left behind."""
    wanted = re.compile(pattern, re.ASCII)

    def keep(raw: bytes) -> str:
        lines = raw.decode("ascii", "replace").splitlines()
        return "".join(f"{line}\n" for line in lines if wanted.fullmatch(line))

    return keep


def _keep_processor(raw: bytes) -> str:
    """Of the first processor; without serial numbers, which some have."""
    first = raw.split(b"\n\n")[0]
    return _lines(r"vendor_id\s*: \w{1,20}|flags\s*:(?: \w{1,40}){0,400} ?")(first)


def _keep_number(raw: bytes) -> str:
    text = raw.decode("ascii", "replace").strip()
    return f"{text}\n" if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else ""


_MOUNTS = {"/", "/dev", "/dev/sgx", "/dev/sgx_enclave", "/sys/kernel/config"}
_OPTIONS = {"noexec", "nodev", "ro", "rw"}


def _keep_mounts(raw: bytes) -> str:
    """Sources and most options are left out: they may name servers, users and passwords."""
    kept = []
    for line in raw.decode("ascii", "replace").splitlines():
        parts = line.split(" ")
        if len(parts) >= 4 and parts[1] in _MOUNTS and re.fullmatch(r"[a-z0-9.]{1,20}", parts[2]):
            options = [o for o in parts[3].split(",") if o in _OPTIONS]
            kept.append(f"none {parts[1]} {parts[2]} {','.join(options) or 'rw'} 0 0\n")
    return "".join(kept)


_GROUPS = {"sgx", "sgx_prv"}


def _keep_groups(raw: bytes) -> str:
    kept = []
    for line in raw.decode("ascii", "replace").splitlines():
        parts = line.split(":")
        if len(parts) == 4 and parts[0] in _GROUPS and re.fullmatch(r"\d{1,10}", parts[2]):
            member = "aesmd" if "aesmd" in parts[3].split(",") else ""
            kept.append(f"{parts[0]}:x:{parts[2]}:{member}\n")
    return "".join(kept)


PACKAGES = ("gramine", "sgx-aesm-service", "libsgx-aesm-quote-ex-plugin", "libsgx-dcap-default-qpl")


def _keep_packages(raw: bytes) -> str:
    """Of Debian's list of what is installed: version and status of these packages."""
    kept = []
    for stanza in raw.decode("utf-8", "replace").split("\n\n"):
        name, _, rest = stanza.lstrip("\n").removeprefix("Package: ").partition("\n")
        if name in PACKAGES:
            lines = _lines(r"Status: install ok installed|Version: [\w.:+~-]{1,80}")(rest.encode())
            kept.append(f"Package: {name}\n{lines}\n")
    return "".join(kept)


GRAMINE_HOMES = (
    "/usr/lib/python3/dist-packages",
    *(
        f"/usr/{place}python3.{minor}/{kind}-packages"
        for minor in range(9, 14)
        for place in ("lib/", "local/lib/")
        for kind in ("dist", "site")
    ),
)
EPC_FILES = tuple(f"/sys/devices/system/node/node{n}/x86/sgx_total_bytes" for n in range(16))

WANTED: Mapping[str, Wanted] = MappingProxyType(
    {
        "/proc/cpuinfo": Wanted(_keep_processor, head=True),
        "/proc/sys/kernel/osrelease": Wanted(_lines(r"[\w.+-]{1,80}")),
        "/proc/sys/vm/mmap_min_addr": Wanted(_keep_number),
        "/proc/self/limits": Wanted(_lines(r"Max (?:open files|address space) +\w{1,20} [\w ]*")),
        "/proc/self/status": Wanted(_lines(r"(?:Uid|Gid|Groups):(?:[\t ]+\d{1,10})* ?")),
        "/proc/self/mounts": Wanted(_keep_mounts, cap=1 << 20),
        "/etc/group": Wanted(_keep_groups, cap=1 << 20),
        "/etc/sgx_default_qcnl.conf": Wanted(lambda raw: Qcnl.parse(raw).text()),
        "/var/lib/dpkg/status": Wanted(_keep_packages, cap=1 << 26),
        "/dev/sgx_enclave": Wanted(),
        "/dev/sgx_provision": Wanted(),
        "/dev/sgx/enclave": Wanted(),
        "/dev/sgx/provision": Wanted(),
        "/dev/isgx": Wanted(),
        "/dev/tdx_guest": Wanted(),
        "/sys/class/misc/tdx_guest": Wanted(),
        "/sys/kernel/config": Wanted(),
        "/sys/kernel/config/tsm/report": Wanted(),
        "/var/run/aesmd/aesm.socket": Wanted(),
        "/usr/lib/systemd/system/aesmd.service": Wanted(),
        "/lib/systemd/system/aesmd.service": Wanted(),
        "/usr/bin/gramine-sgx": Wanted(),
        "/usr/local/bin/gramine-sgx": Wanted(),
        "/var/lib/kubelet/device-plugins": Wanted(
            names=re.compile(r"sgx\.intel\.com-(?:enclave|provision|epc)\.sock|kubelet\.sock")
        ),
        **dict.fromkeys(EPC_FILES, Wanted(_keep_number)),
        **{
            f"{home}/graminelibos/__init__.py": Wanted(_lines(r"__version__ = '[\w.+~-]{1,40}'"))
            for home in GRAMINE_HOMES
        },
    }
)
