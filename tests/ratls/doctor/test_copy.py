"""A copy of a machine: the same findings elsewhere, no secrets, and a stranger's file when read."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.doctor.copy import (
    INDEX,
    CopyMalformed,
    CopyMissing,
    index,
    parse_index,
    read_copy,
    write_copy,
)
from ratls.doctor.examine import examine
from ratls.doctor.finding import Role
from ratls.doctor.live import live_snapshot, system_trust
from ratls.doctor.snapshot import WANTED, Facts, Kind, Node, Snapshot
from tests.support.machines import QCNL, Machine, plain_machine, sgx_machine, tdx_guest
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError
from verifier.files import FileNotWritten, FileUnreadable

CANARY = "c4n4ry"


def unpacked(archive: Path, folder: Path) -> Path:
    """As `tar xf` does it."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


@pytest.mark.parametrize("make", [sgx_machine, tdx_guest, plain_machine])
@pytest.mark.parametrize("broken", [False, True])
def test_a_copy_leads_to_the_same_findings(
    tmp_path: Path, make: Callable[[Path], Machine], broken: bool
) -> None:
    machine = make(tmp_path / "machine")
    if broken:
        machine.denied("/proc/self/mounts")
        machine.file("/etc/sgx_default_qcnl.conf", "{")
        machine.node("/dev/sgx_provision", Kind.PIPE)
        machine.facts |= {"cpuid": None, "now": None}
    snapshot = machine.snapshot()
    write_copy(snapshot, tmp_path / "node7.tar.gz")
    again = read_copy(unpacked(tmp_path / "node7.tar.gz", tmp_path / "x"), seconds=HANG_LIMIT)
    for role in Role:
        assert examine(again, role) == examine(snapshot, role)
    write_copy(again, tmp_path / "node7.gz")
    assert (tmp_path / "node7.gz").read_bytes() == (tmp_path / "node7.tar.gz").read_bytes()


def with_canaries(folder: Path) -> Machine:
    """A machine in which a secret stands wherever one could."""
    machine = sgx_machine(folder)
    options = {"get_cert": {"headers": {"Ocp-Apim-Subscription-Key": CANARY}}}
    text = QCNL | {"custom_request_options": options}
    machine.file("/etc/sgx_default_qcnl.conf", f"// {CANARY}\n" + json.dumps(text))
    machine.file(
        "/proc/self/mounts",
        f"//{CANARY}/rows /dev cifs rw,username={CANARY},password={CANARY} 0 0\n"
        f"overlay / overlay rw,lowerdir=/{CANARY} 0 0\n/dev/{CANARY} /home/{CANARY} ext4 rw 0 0\n",
    )
    machine.file("/etc/group", f"{CANARY}:x:7:\nsgx_prv:{CANARY}:998:aesmd,{CANARY}\n")
    machine.file("/proc/self/status", f"Name:\t{CANARY}\nUid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n")
    machine.file("/proc/self/limits", f"Max open files {CANARY}-x\n")
    machine.file("/proc/sys/kernel/osrelease", f"6.8.0\n{CANARY} {CANARY}\n")
    machine.file("/proc/sys/vm/mmap_min_addr", f"65536\n{CANARY}")
    machine.replace("/proc/cpuinfo", "bugs\t\t: spectre_v1", f"serial\t: {CANARY}")
    machine.replace("/var/lib/dpkg/status", "GNU Bourne Again", CANARY)
    machine.file("/sys/devices/system/node/node0/x86/sgx_total_bytes", CANARY)
    for name in (f"{CANARY}.sock", f"sgx.intel.com-{CANARY}.sock"):
        place = folder / "var/lib/kubelet/device-plugins" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    link = folder / "dev/sgx/enclave"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"/home/{CANARY}")
    for path in (f"/usr/lib/python3/dist-packages/{CANARY}.py", "/etc/hostname", "/etc/aesmd.conf"):
        machine.file(path, CANARY)
    home = "/usr/lib/python3/dist-packages/graminelibos/__init__.py"
    machine.file(home, f"__version__ = '1.9'\nKEY = '{CANARY}'\n")
    return machine


def test_no_secret_is_collected(tmp_path: Path) -> None:
    """L03: the file is made to be sent to somebody else."""
    machine = with_canaries(tmp_path / "machine")
    snapshot = live_snapshot(
        services=[],
        trust=system_trust(None),
        seconds=60,
        configured=False,
        root=machine.folder,
        sockets=(f"\0{CANARY}",),
    )
    facts = Facts(packages={"policy": f"/home/{CANARY}/policy/__init__.py", "verifier": ""})
    for number, taken in enumerate((snapshot, Snapshot(snapshot.nodes, facts))):
        write_copy(taken, tmp_path / f"{number}.tar.gz")
        with tarfile.open(tmp_path / f"{number}.tar.gz") as packed:
            names = packed.getnames()
            texts = [packed.extractfile(name).read().decode() for name in names]  # type: ignore[union-attr]
        assert CANARY not in "".join(names + texts)
        assert any("pccs_url" in text for text in texts)
        assert any("Version: 1.9" in text for text in texts)
    assert (tmp_path / "0.tar.gz").stat().st_mode & 0o777 == 0o600


def test_a_configuration_that_cannot_be_read_is_not_collected(tmp_path: Path) -> None:
    """The reason is; nothing of its text."""
    count_refusal()
    machine = sgx_machine(tmp_path / "machine")
    machine.file("/etc/sgx_default_qcnl.conf", f'{{"pccs_url": "https://u:{CANARY}@x/y/"')
    write_copy(machine.snapshot(), tmp_path / "x.tar.gz")
    with tarfile.open(tmp_path / "x.tar.gz") as packed:
        assert not [name for name in packed.getnames() if "qcnl" in name]
        text = packed.extractfile("x/doctor.json").read().decode()  # type: ignore[union-attr]
    assert CANARY not in text
    assert "each key once" in text


@pytest.mark.parametrize("path", [p for p, w in WANTED.items() if w.keep])
def test_what_is_kept_of_a_file_is_kept_of_what_was_kept(tmp_path: Path, path: str) -> None:
    """Otherwise the copy would say something else than the machine."""
    machine, keep = sgx_machine(tmp_path), WANTED[path].keep
    place = machine.folder / path.lstrip("/")
    assert keep is not None
    kept = keep(place.read_bytes() if place.exists() else b"17\n__version__ = '1.9'\n")
    assert keep(kept.encode()) == kept


def test_an_archive_that_is_there_stays(tmp_path: Path) -> None:
    snapshot = plain_machine(tmp_path / "machine").snapshot()
    (tmp_path / "x.tar.gz").write_text("notes")
    with refused(FileNotWritten):
        write_copy(snapshot, tmp_path / "x.tar.gz")
    assert (tmp_path / "x.tar.gz").read_text() == "notes"


# Reading a stranger's.


def test_there_is_no_such_folder(tmp_path: Path) -> None:
    with refused(CopyMissing):
        read_copy(tmp_path / "none", seconds=1)
    (tmp_path / "file").touch()
    with refused(CopyMissing):
        read_copy(tmp_path / "file", seconds=1)


def test_an_index_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / INDEX)
    with refused(FileUnreadable):
        read_copy(tmp_path, seconds=0.1)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    document: dict[str, Any] = json.loads(json.dumps(index(GOOD)))
    change(document)
    return json.dumps(document).encode()


GOOD = Snapshot(
    {"/dev/sgx_enclave": Node(Kind.CHARACTER, 0o666)},
    Facts(now=1, cpuid={"7.0": (1, 2, 3, 4)}, python=(3, 11), packages={"policy": ""}),
)


def test_an_index_as_it_is_written() -> None:
    nodes, facts = parse_index(altered(lambda d: None))
    assert (nodes, facts) == (GOOD.nodes, GOOD.facts)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"form": 1, "form": 1, "nodes": {}, "facts": {}}',
        altered(lambda d: d.update(form=2)),
        altered(lambda d: d.update(more=1)),
        altered(lambda d: d.update(nodes=[])),
        altered(lambda d: d["nodes"].update({"/etc/shadow": d["nodes"]["/dev/sgx_enclave"]})),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(kind="disk")),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(mode=-1)),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(mode=True)),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(names=[1])),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(names=["x"] * 101)),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].update(fault="x" * 401)),
        altered(lambda d: d["nodes"]["/dev/sgx_enclave"].pop("uid")),
        altered(lambda d: d["facts"].pop("now")),
        altered(lambda d: d["facts"].update(now=1 << 41)),
        altered(lambda d: d["facts"].update(now=1.5)),
        altered(lambda d: d["facts"].update(cpuid={"7.0": [1, 2, 3]})),
        altered(lambda d: d["facts"].update(cpuid={"7.0": [1, 2, 3, 1 << 32]})),
        altered(lambda d: d["facts"].update(python="3.11")),
        altered(lambda d: d["facts"].update(packages={"policy": None})),
        altered(lambda d: d["facts"].update(libraries={"grpc": 1})),
        altered(lambda d: d["facts"].update(services={"https://x": {}})),
        altered(lambda d: d["facts"].update(services=[])),
    ],
)
def test_an_index_that_we_never_write(raw: bytes) -> None:
    with refused(CopyMalformed):
        parse_index(raw)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PLACES = [
    *(("nodes", "/dev/sgx_enclave", name) for name in ("kind", "mode", "uid", "names", "fault")),
    *(("facts", name) for name in ("now", "cpuid", "encoding", "python", "packages", "services")),
    *(("form",), ("nodes",), ("facts",), ("nodes", "/proc/cpuinfo")),
]


@given(st.sampled_from(PLACES), JSON)
def test_any_index(place: tuple[str, ...], value: object) -> None:
    """A value or a typed refusal; and what is a value can be examined."""
    count_refusal()

    def change(document: dict[str, Any]) -> None:
        for name in place[:-1]:
            document = document[name]
        document[place[-1]] = value

    try:
        nodes, facts = parse_index(altered(change))
    except CopyMalformed:
        return
    for role in Role:
        examine(Snapshot(nodes, facts), role)


PATHS = st.sampled_from([path for path, wanted in WANTED.items() if wanted.keep])
LINES = st.sampled_from(
    [
        *("flags\t\t: fpu sgx sgx_lc", "flags :", "5.11.0", "5.", "9" * 30, "18446744073709551616"),
        *("Uid:\t1\t2", "Gid:", "Groups: 1 2 ", "Max open files  1k  1 files", "a /dev tmpfs rw 0"),
        *("Max address space  unlimited", "sgx_prv:x:1:aesmd", "Package: gramine", "Version: 1.9"),
        *("Status: install ok installed", "__version__ = '1.9'", "__version__ = ''", "", "{}", "0"),
    ]
)


@given(st.dictionaries(PATHS, st.lists(LINES, max_size=5).map("\n".join) | st.text(max_size=40)))
def test_any_files(files: dict[str, str]) -> None:
    """Whatever another machine's files say: findings, and no error of ours."""
    nodes = {}
    for path, text in files.items():
        keep = WANTED[path].keep
        assert keep is not None
        try:
            nodes[path] = Node(Kind.FILE, excerpt=keep(text.encode("utf-8", "surrogatepass")))
        except RatlsError as refusal:
            nodes[path] = Node(Kind.FILE, fault=str(refusal))
    count_refusal()
    for role in Role:
        assert examine(Snapshot(nodes, Facts()), role)
