"""Made-up machines: a folder with copies of /proc, /sys and /etc, and what a copy cannot carry.

    machine = sgx_machine(folder)          # ready
    machine.replace("/proc/cpuinfo", " sgx_lc", "")
    findings = machine.examine(Role.ENCLAVE)

Files hold what a real machine's do, not the excerpts that are kept of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ratls.doctor.copy import INDEX, read_copy
from ratls.doctor.examine import examine
from ratls.doctor.finding import Finding, Role
from ratls.doctor.snapshot import Kind, Snapshot
from tests.support.waiting import HANG_LIMIT

NOW = 1_795_953_600  # 2026-11-29T12:00:00Z
PCCS = "https://pccs.example:8081/sgx/certification/v4/"
_CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) Gold 6342 CPU @ 2.80GHz
flags\t\t: fpu aes xsave rdrand fsgsbase avx512f{flags}
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu
"""
_LIMITS = """Limit                     Soft Limit           Hard Limit           Units     
Max processes             96365                96365                processes 
Max open files            1024                 1048576              files     
Max address space         unlimited            unlimited            bytes     
"""  # noqa: W291
_MOUNTS = """/dev/sda1 / ext4 rw,relatime,errors=remount-ro 0 0
udev /dev devtmpfs rw,nosuid,relatime,size=1024k,mode=755 0 0
configfs /sys/kernel/config configfs rw,nosuid,nodev,noexec,relatime 0 0
"""
_PACKAGES = """Package: bash
Status: install ok installed
Version: 5.2.15-2+b2
Description: GNU Bourne Again SHell

Package: gramine
Status: install ok installed
Priority: optional
Version: 1.9
Description: a library OS

Package: libsgx-aesm-quote-ex-plugin
Status: install ok installed
Version: 2.25.100.3-jammy1

Package: libsgx-dcap-default-qpl
Status: install ok installed
Version: 1.22.100.3-jammy1
"""
QCNL: dict[str, object] = {
    "pccs_url": PCCS,
    "use_secure_cert": True,
    "retry_times": 6,
    "retry_delay": 10,
}


class Machine:
    """A machine that a test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {
            "now": NOW,
            "cpuid": None,
            "encoding": "utf-8",
            "python": [3, 12],
            "aesm": None,
            "packages": dict.fromkeys(("verifier", "policy", "ratls", "scheduler"), ""),
            "libraries": {"pyarrow": True, "grpc": True},
            "services": {},
        }

    def file(self, path: str, content: str | bytes) -> None:
        place = self.folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        self.node(path, Kind.FILE, 0o644)

    def node(
        self,
        path: str,
        kind: Kind,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        names: Iterable[str] = (),
        target: str | None = None,
    ) -> None:
        """What is at a path; of a file that lies here, only what is said of it."""
        self.nodes[path] = {
            "kind": kind.value,
            "mode": mode,
            "uid": uid,
            "gid": gid,
            "names": list(names),
            "target": target,
            "fault": None,
        }

    def gone(self, *paths: str) -> None:
        for path in paths:
            self.nodes.pop(path, None)
            (self.folder / path.lstrip("/")).unlink(missing_ok=True)

    def denied(self, *paths: str) -> None:
        """They may be there: this user may not look."""
        for path in paths:
            self.gone(path)
            self.node(path, Kind.DENIED, 0)

    def replace(self, path: str, old: str, new: str) -> None:
        place = self.folder / path.lstrip("/")
        text = place.read_text("utf-8")
        assert old in text
        place.write_text(text.replace(old, new), "utf-8")

    def write(self) -> Path:
        """The folder, with its `doctor.json`."""
        index = {"form": 1, "nodes": self.nodes, "facts": self.facts}
        (self.folder / INDEX).write_text(json.dumps(index), "utf-8")
        return self.folder

    def snapshot(self) -> Snapshot:
        return read_copy(self.write(), seconds=HANG_LIMIT)

    def examine(self, role: Role, services: Iterable[str] = ()) -> dict[str, Finding]:
        """The findings by their check; of several of one check, the last."""
        return {f.check: f for f in examine(self.snapshot(), role, services)}


def plain_machine(folder: Path) -> Machine:
    """Ready to verify and to provide."""
    machine = Machine(folder)
    machine.file("/proc/cpuinfo", _CPUINFO.format(flags=""))
    machine.file("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
    machine.file("/proc/sys/vm/mmap_min_addr", "65536\n")
    machine.file("/proc/self/limits", _LIMITS)
    machine.file("/proc/self/status", "Name:\tratls\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000"
                 "\t1000\t1000\t1000\nGroups:\t27 1000 \n")  # fmt: skip
    machine.file("/proc/self/mounts", _MOUNTS)
    machine.file("/etc/group", "root:x:0:\nsgx_prv:x:998:aesmd\nsgx:x:106:\n")
    machine.file("/var/lib/dpkg/status", _PACKAGES)
    answer(machine, PCCS)
    return machine


def answer(machine: Machine, address: str, fault: str | None = None) -> None:
    """What a collateral service said; its dates are around now."""
    week = 7 * 86400
    machine.facts["services"][address] = {
        "fault": fault,
        "issued": 0 if fault else NOW - week,
        "next_update": 0 if fault else NOW + 3 * week,
    }


def sgx_machine(folder: Path) -> Machine:
    """Ready to run an enclave: a Kubernetes node with everything, and 32 GiB of EPC."""
    machine = plain_machine(folder)
    machine.replace("/proc/cpuinfo", "avx512f", "avx512f sgx sgx_lc")
    machine.facts["cpuid"] = {
        "0.0": [27, 0, 0, 0],
        "7.0": [0, 1 << 2 | 1, 1 << 30, 0],
        "12.0": [0b11, 0, 0, 56 << 8 | 31],
        "12.1": [0, 0, 0, 0],
        "12.2": [1, 0, 0, 8],
        "12.3": [0, 0, 0, 0],
    }
    machine.file("/sys/devices/system/node/node0/x86/sgx_total_bytes", f"{16 << 30}\n")
    machine.file("/sys/devices/system/node/node1/x86/sgx_total_bytes", f"{16 << 30}\n")
    machine.node("/dev/sgx_enclave", Kind.CHARACTER, 0o666)
    machine.node("/dev/sgx_provision", Kind.CHARACTER, 0o660, 0, 998)
    machine.node("/dev/sgx/enclave", Kind.CHARACTER, 0o666, target="../sgx_enclave")
    machine.node("/dev/sgx/provision", Kind.CHARACTER, 0o660, 0, 998, target="../sgx_provision")
    machine.node("/var/run/aesmd/aesm.socket", Kind.SOCKET, 0o777, 107, 114)
    machine.file("/usr/lib/systemd/system/aesmd.service", "[Unit]\n")
    machine.file("/etc/sgx_default_qcnl.conf", "// the clinic's own\n" + json.dumps(QCNL))
    machine.file("/usr/bin/gramine-sgx", "#!/bin/sh\n")
    machine.node(
        "/var/lib/kubelet/device-plugins",
        Kind.FOLDER,
        0o750,
        names=["kubelet.sock", "sgx.intel.com-enclave.sock", "sgx.intel.com-provision.sock"],
    )
    machine.facts["aesm"] = "answers"
    return machine


def tdx_guest(folder: Path) -> Machine:
    """Ready to ask for quotes of a trust domain."""
    machine = plain_machine(folder)
    machine.replace("/proc/cpuinfo", "avx512f", "avx512f tdx_guest")
    machine.file("/proc/self/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n")
    machine.node("/dev/tdx_guest", Kind.CHARACTER, 0o600)
    machine.node("/sys/class/misc/tdx_guest", Kind.FOLDER, 0o755)
    machine.node("/sys/kernel/config", Kind.FOLDER, 0o755)
    machine.node("/sys/kernel/config/tsm/report", Kind.FOLDER, 0o755)
    return machine
