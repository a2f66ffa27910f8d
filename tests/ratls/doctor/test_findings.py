"""Each finding on a made-up machine, beside the ready one that differs from it in one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from ratls.doctor.finding import Finding, Outcome, Role, verdict
from ratls.doctor.snapshot import EPC_FILES, GRAMINE_HOMES, Kind
from tests.support.machines import (
    NOW,
    PCCS,
    QCNL,
    Machine,
    answer,
    plain_machine,
    sgx_machine,
    tdx_guest,
)
from tests.support.refusal import count_refusal
from verifier.errors import Exit

Change: TypeAlias = Callable[[Machine], object]
Row: TypeAlias = tuple[str, Change, str, Outcome, str]
NOT_READY, UNKNOWN, NOTE = Outcome.NOT_READY, Outcome.UNKNOWN, Outcome.NOTE
QCNL_FILE = "/etc/sgx_default_qcnl.conf"
INTEL = "https://api.trustedservices.intel.com/sgx/certification/v4/"


def fact(name: str, value: object) -> Change:
    return lambda m: m.facts.update({name: value})


def text(path: str, content: str | bytes) -> Change:
    return lambda m: m.file(path, content)


def edit(path: str, old: str, new: str) -> Change:
    return lambda m: m.replace(path, old, new)


def gone(*paths: str) -> Change:
    return lambda m: m.gone(*paths)


def denied(*paths: str) -> Change:
    return lambda m: m.denied(*paths)


def node(path: str, kind: Kind, mode: int, uid: int = 0, gid: int = 0) -> Change:
    return lambda m: m.node(path, kind, mode, uid, gid)


def all_of(*changes: Change) -> Change:
    return lambda m: [change(m) for change in changes]


def leaf(name: str, *registers: int) -> Change:
    return lambda m: m.facts["cpuid"].update({name: list(registers)})


def qcnl(**values: object) -> Change:
    def change(machine: Machine) -> None:
        machine.file(QCNL_FILE, json.dumps(QCNL | values))
        for name in ("pccs_url", "collateral_service"):
            if isinstance(address := values.get(name), str):
                answer(machine, address)

    return change


NO_SGX = edit("/proc/cpuinfo", " sgx sgx_lc", " sgx_lc")
NO_LC = edit("/proc/cpuinfo", " sgx_lc", "")
PROVISION = "/dev/sgx_provision"
SOCKET = "/var/run/aesmd/aesm.socket"
UNIT = "/usr/lib/systemd/system/aesmd.service"
KUBELET = "/var/lib/kubelet/device-plugins"
STATUS = "/proc/self/status"

SGX: list[Row] = [
    # name of the case; the one change; the check that notices; as what; a word of the remedy
    ("firmware-off", NO_SGX, "sgx", NOT_READY, "firmware"),
    (
        "no-such-processor",
        all_of(NO_SGX, leaf("7.0", 0, 1, 1 << 30, 0)),
        "sgx",
        NOT_READY,
        "machine",
    ),
    ("cpuid-not-asked", all_of(NO_SGX, fact("cpuid", {})), "sgx", NOT_READY, "firmware"),
    ("no-proc", denied("/proc/cpuinfo"), "sgx", UNKNOWN, "doctor"),
    ("launch-control-locked", NO_LC, "launch-control", NOT_READY, "Launch Control"),
    (
        "no-launch-control",
        all_of(NO_LC, leaf("7.0", 0, 5, 0, 0)),
        "launch-control",
        NOT_READY,
        "machine",
    ),
    *(
        (f"no-{name}", edit("/proc/cpuinfo", f" {name}", ""), "instructions", NOT_READY, "kernel")
        for name in ("fsgsbase", "xsave", "rdrand")
    ),
    ("no-epc", lambda m: [m.file(p, "0\n") for p in EPC_FILES], "epc", NOT_READY, "PRMRR"),
    (
        "no-epc-by-cpuid",
        all_of(gone(*EPC_FILES), leaf("12.2", 0, 0, 0, 0)),
        "epc",
        NOT_READY,
        "PRMRR",
    ),
    ("small-epc", all_of(gone(*EPC_FILES), leaf("12.2", 1, 0, 128 << 20, 0)), "epc", NOTE, ""),
    ("epc-unknown", all_of(gone(*EPC_FILES), fact("cpuid", None)), "epc", UNKNOWN, "doctor"),
    ("small-enclaves", leaf("12.0", 3, 0, 0, 33 << 8), "enclave-size", NOT_READY, "enclave_size"),
    ("size-unknown", fact("cpuid", None), "enclave-size", UNKNOWN, "doctor"),
    (
        "old-kernel",
        text("/proc/sys/kernel/osrelease", "5.10.0-28-amd64\n"),
        "kernel",
        NOT_READY,
        "kernel",
    ),
    ("kernel-4", text("/proc/sys/kernel/osrelease", "4.19.0\n"), "kernel", NOT_READY, "kernel"),
    ("no-kernel", gone("/proc/sys/kernel/osrelease"), "kernel", UNKNOWN, "doctor"),
    ("odd-kernel", text("/proc/sys/kernel/osrelease", "six\n"), "kernel", UNKNOWN, "doctor"),
    ("kernel-without-edmm", text("/proc/sys/kernel/osrelease", "5.15.0\n"), "edmm", NOTE, ""),
    ("processor-without-edmm", leaf("12.0", 1, 0, 0, 56 << 8), "edmm", NOTE, ""),
    ("old-driver", node("/dev/isgx", Kind.CHARACTER, 0o666), "driver", NOT_READY, "dkms"),
    (
        "dcap-driver",
        all_of(gone("/dev/sgx_enclave"), node("/dev/sgx/enclave", Kind.CHARACTER, 0o666)),
        "driver",
        NOT_READY,
        "dkms",
    ),
    ("no-driver", gone("/dev/sgx_enclave"), "driver", NOT_READY, "CONFIG_X86_SGX"),
    ("driver-unknown", denied("/dev/sgx_enclave"), "driver", UNKNOWN, "doctor"),
    ("no-device", gone("/dev/sgx_enclave"), "sgx-enclave", NOT_READY, "--device"),
    ("device-unknown", denied("/dev/sgx_enclave"), "sgx-enclave", UNKNOWN, "doctor"),
    ("file", node("/dev/sgx_enclave", Kind.FILE, 0o666), "sgx-enclave", NOT_READY, ""),
    ("pipe", node("/dev/sgx_enclave", Kind.PIPE, 0o666), "sgx-enclave", NOT_READY, ""),
    (
        "device-of-a-group",
        node("/dev/sgx_enclave", Kind.CHARACTER, 0o660, 0, 106),
        "sgx-enclave",
        NOT_READY,
        "usermod -aG sgx ",
    ),
    (
        "device-of-root",
        node("/dev/sgx_enclave", Kind.CHARACTER, 0o600),
        "sgx-enclave",
        NOT_READY,
        "chmod 0666",
    ),
    (
        "device-read-only",
        node("/dev/sgx_enclave", Kind.CHARACTER, 0o444),
        "sgx-enclave",
        NOT_READY,
        "chmod",
    ),
    ("whose-process", gone(STATUS), "sgx-enclave", UNKNOWN, "doctor"),
    ("no-provision", gone(PROVISION), "sgx-provision", NOT_READY, "sgx-aesm-service"),
    ("provision-unknown", denied(PROVISION), "sgx-provision", UNKNOWN, "doctor"),
    (
        "provision-for-everybody",
        node(PROVISION, Kind.CHARACTER, 0o666, 0, 998),
        "sgx-provision",
        NOT_READY,
        "chmod 0660",
    ),
    (
        "provision-of-another-group",
        node(PROVISION, Kind.CHARACTER, 0o660, 0, 0),
        "sgx-provision",
        NOT_READY,
        "chgrp sgx_prv",
    ),
    (
        "aesmd-not-in-the-group",
        edit("/etc/group", "998:aesmd", "998:"),
        "sgx-provision",
        NOT_READY,
        "usermod -aG sgx_prv aesmd",
    ),
    ("provision-is-a-file", text(PROVISION, ""), "sgx-provision", NOT_READY, ""),
    ("no-links", gone("/dev/sgx/enclave", "/dev/sgx/provision"), "sgx-links", NOTE, "ln -s"),
    ("one-link", gone("/dev/sgx/provision"), "sgx-links", NOTE, "ln -s"),
    (
        "noexec",
        edit("/proc/self/mounts", "/dev devtmpfs rw,", "/dev devtmpfs rw,noexec,"),
        "dev-exec",
        NOT_READY,
        "remount,exec",
    ),
    (
        "noexec-later",
        lambda m: m.file("/proc/self/mounts", "a / ext4 rw 0 0\nb /dev tmpfs rw,noexec 0 0\n"),
        "dev-exec",
        NOT_READY,
        "remount,exec",
    ),
    ("mounts-unknown", gone("/proc/self/mounts"), "dev-exec", UNKNOWN, "doctor"),
    (
        "low-addresses",
        text("/proc/sys/vm/mmap_min_addr", "1048576\n"),
        "mmap-min-addr",
        NOT_READY,
        "sysctl",
    ),
    (
        "low-addresses-unknown",
        gone("/proc/sys/vm/mmap_min_addr"),
        "mmap-min-addr",
        UNKNOWN,
        "doctor",
    ),
    (
        "node-without-plugin",
        lambda m: m.node(KUBELET, Kind.FOLDER, 0o750, names=["kubelet.sock"]),
        "device-plugin",
        NOT_READY,
        "intel-sgx-plugin",
    ),
    (
        "plugin-without-provision",
        lambda m: m.node(KUBELET, Kind.FOLDER, names=["sgx.intel.com-enclave.sock"]),
        "device-plugin",
        NOT_READY,
        "intel-sgx-plugin",
    ),
    ("plugin-not-seen", denied(KUBELET), "device-plugin", NOTE, "kubectl"),
    ("no-kubernetes", gone(KUBELET), "device-plugin", NOTE, ""),
    (
        "old-gramine",
        edit("/var/lib/dpkg/status", "Version: 1.9\n", "Version: 1.8\n"),
        "gramine",
        NOT_READY,
        "gramine=1.9",
    ),
    (
        "two-gramines",
        text(f"{GRAMINE_HOMES[1]}/graminelibos/__init__.py", "__version__ = '1.7'\n"),
        "gramine",
        NOT_READY,
        "one",
    ),
    (
        "no-gramine",
        all_of(gone("/usr/bin/gramine-sgx"), edit("/var/lib/dpkg/status", "gramine", "x")),
        "gramine",
        NOT_READY,
        "gramine=1.9",
    ),
    (
        "gramine-of-no-version",
        edit("/var/lib/dpkg/status", "Package: gramine", "Package: x"),
        "gramine",
        UNKNOWN,
        "--version",
    ),
    ("aesm-dead", fact("aesm", "Connection refused"), "aesm", NOT_READY, "systemctl"),
    (
        "no-aesm",
        all_of(fact("aesm", "no socket"), gone(SOCKET, UNIT)),
        "aesm",
        NOT_READY,
        "apt-get install sgx-aesm-service",
    ),
    (
        "no-aesm-not-asked",
        all_of(fact("aesm", None), gone(SOCKET)),
        "aesm",
        NOT_READY,
        "systemctl",
    ),
    ("aesm-not-asked", fact("aesm", None), "aesm", UNKNOWN, "doctor"),
    (
        "aesm-socket-is-a-file",
        all_of(fact("aesm", None), text(SOCKET, "")),
        "aesm",
        NOT_READY,
        "systemctl",
    ),
    (
        "no-quote-plugin",
        edit("/var/lib/dpkg/status", "aesm-quote-ex", "x"),
        "quote-packages",
        NOTE,
        "apt-get install libsgx-aesm-quote-ex-plugin",
    ),
    ("no-qcnl", gone(QCNL_FILE), "qcnl", NOT_READY, "libsgx-dcap-default-qpl"),
    ("qcnl-denied", denied(QCNL_FILE), "qcnl", UNKNOWN, "doctor"),
    ("qcnl-is-a-pipe", node(QCNL_FILE, Kind.PIPE, 0o644), "qcnl", NOT_READY, ""),
    ("qcnl-comma", text(QCNL_FILE, '{"pccs_url": "https://x/y/",}'), "qcnl", NOT_READY, "mend"),
    ("qcnl-misspelt", qcnl(use_secure_certs=True), "qcnl", NOT_READY, "mend"),
    ("qcnl-text-for-flag", qcnl(use_secure_cert="false"), "qcnl", NOT_READY, "mend"),
    ("insecure-tls", qcnl(use_secure_cert=False), "qcnl-tls", NOT_READY, "update-ca-certificates"),
    ("no-tls", qcnl(pccs_url=PCCS.replace("https", "http")), "qcnl-tls", NOT_READY, ""),
    ("no-tls-for-one", qcnl(collateral_service="http://x/sgx/certification/v4"), "qcnl-tls",
     NOT_READY, ""),
    ("version-3", qcnl(pccs_url=PCCS.replace("v4", "v3")), "qcnl-version", NOT_READY, "v4"),
    (
        "pccs-silent",
        lambda m: answer(m, PCCS, "no answer"),
        "collateral-service",
        NOT_READY,
        "curl",
    ),
    ("pccs-not-asked", fact("services", {}), "collateral-service", UNKNOWN, "doctor"),
    (
        "second-service-not-asked",
        text(QCNL_FILE, json.dumps(QCNL | {"collateral_service": INTEL})),
        "collateral-service",
        UNKNOWN,
        "doctor",
    ),
    (
        "address-space",
        edit("/proc/self/limits", "space         unlimited ", "space         8589934592 "),
        "address-space",
        NOT_READY,
        "ulimit -v",
    ),
    ("address-space-unknown", gone("/proc/self/limits"), "address-space", UNKNOWN, "doctor"),
]  # fmt: skip

TDX: list[Row] = [
    ("old-kernel", text("/proc/sys/kernel/osrelease", "6.6.0\n"), "tdx-kernel", NOT_READY, "image"),
    (
        "no-configfs",
        gone("/sys/kernel/config/tsm/report"),
        "configfs-tsm",
        NOT_READY,
        "mount -t configfs",
    ),
    (
        "configfs-unknown",
        denied("/sys/kernel/config/tsm/report"),
        "configfs-tsm",
        UNKNOWN,
        "doctor",
    ),
    (
        "configfs-of-root",
        text(STATUS, "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t \n"),
        "configfs-tsm",
        NOT_READY,
        "chown",
    ),
    ("whose-process", gone(STATUS), "configfs-tsm", UNKNOWN, "doctor"),
    ("no-provider", gone("/sys/class/misc/tdx_guest"), "tdx-provider", NOT_READY, "modprobe"),
    ("provider-unknown", denied("/sys/class/misc/tdx_guest"), "tdx-provider", UNKNOWN, "doctor"),
]

OWNED = {"verifier": "", "scheduler": "scheduler 0.8.2, x 1.0"}
EVERYWHERE: list[Row] = [
    ("overwritten", fact("packages", OWNED), "packages", NOT_READY, "pip uninstall scheduler x &&"),
    (
        "overwritten-by-a-folder",
        fact("packages", {"policy": "/home/x/policy/__init__.py"}),
        "packages",
        NOT_READY,
        "PYTHONPATH",
    ),
    ("packages-unknown", fact("packages", None), "packages", UNKNOWN, "doctor"),
    ("python-3.10", fact("python", [3, 10]), "python", NOT_READY, "environment"),
    ("python-3.14", fact("python", [3, 14]), "python", NOT_READY, "environment"),
    ("python-unknown", fact("python", None), "python", UNKNOWN, "doctor"),
    ("clock-1970", fact("now", 3600), "clock", NOT_READY, "timedatectl"),
    ("clock-2200", fact("now", 7_258_118_400), "clock", NOT_READY, "timedatectl"),
    ("clock-of-no-date", fact("now", 1 << 40), "clock", NOT_READY, "timedatectl"),
    ("clock-slow", fact("now", NOW - 8 * 86400), "clock", NOT_READY, "timedatectl"),
    ("clock-fast", fact("now", NOW + 22 * 86400), "clock", NOT_READY, "timedatectl"),
    ("clock-unknown", fact("now", None), "clock", UNKNOWN, "doctor"),
    ("nothing-to-compare", fact("services", {}), "clock", NOTE, "--from"),
    ("latin-1", fact("encoding", "iso8859-1"), "locale", NOTE, "C.UTF-8"),
    ("locale-unknown", fact("encoding", None), "locale", UNKNOWN, "doctor"),
    (
        "few-files",
        edit("/proc/self/limits", "1024                 ", "256                  "),
        "open-files",
        NOT_READY,
        "ulimit -n",
    ),
    ("files-unknown", gone("/proc/self/limits"), "open-files", UNKNOWN, "doctor"),
]

PROVIDER: list[Row] = [
    (
        "no-arrow",
        fact("libraries", {"pyarrow": False, "grpc": True}),
        "libraries",
        NOT_READY,
        "ratls[provider]",
    ),
    ("libraries-unknown", fact("libraries", None), "libraries", UNKNOWN, "doctor"),
]


def rows(role: Role, make: Callable[[Path], Machine], table: list[Row]) -> list[object]:
    return [pytest.param(role, make, *row[1:], id=f"{role.value}-{row[0]}") for row in table]


CASES = [
    *rows(Role.ENCLAVE, sgx_machine, SGX),
    *rows(Role.ENCLAVE, tdx_guest, TDX),
    *rows(Role.ENCLAVE, sgx_machine, EVERYWHERE),
    *rows(Role.PROVIDER, plain_machine, EVERYWHERE + PROVIDER),
    *rows(Role.VERIFIER, plain_machine, EVERYWHERE),
]


@pytest.mark.parametrize(("role", "make", "change", "check", "outcome", "remedy"), CASES)
def test_a_machine_that_lacks_one_thing(
    tmp_path: Path,
    role: Role,
    make: Callable[[Path], Machine],
    change: Change,
    check: str,
    outcome: Outcome,
    remedy: str,
) -> None:
    """One change to a ready machine: its row says so, and what mends it."""
    count_refusal()
    machine = make(tmp_path)
    before = machine.examine(role)[check]
    assert (before.outcome, before.fix) == (Outcome.READY, "")
    change(machine)
    after = machine.examine(role)[check]
    assert after.outcome is outcome
    assert after.found != before.found
    assert remedy in after.fix
    assert after.expected == before.expected


@pytest.mark.parametrize(
    ("make", "role"),
    [
        (sgx_machine, Role.ENCLAVE),
        (tdx_guest, Role.ENCLAVE),
        (plain_machine, Role.PROVIDER),
        (plain_machine, Role.VERIFIER),
    ],
)
def test_a_ready_machine(tmp_path: Path, make: Callable[[Path], Machine], role: Role) -> None:
    found = make(tmp_path).examine(role)
    assert {f.check: f for f in found.values() if f.outcome is not Outcome.READY} == {}
    assert verdict(found.values()) is Exit.YES


def test_each_row_can_fail() -> None:
    """A row that no test makes fail would be decoration."""
    checked = {(role, check) for role, _, _, check, _, _ in (c.values for c in CASES)}  # type: ignore[attr-defined]
    assert {check for role, check in checked if role is Role.ENCLAVE} >= {
        *("kernel", "sgx-links", "device-plugin", "qcnl-tls", "packages"),
    }


def test_every_row_of_the_ready_machines_has_a_case(tmp_path: Path) -> None:
    covered = {check for *_, check, _, _ in (c.values for c in CASES)}  # type: ignore[attr-defined]
    seen: set[str] = set()
    for number, (make, role) in enumerate(
        [(sgx_machine, Role.ENCLAVE), (tdx_guest, Role.ENCLAVE), (plain_machine, Role.PROVIDER)]
    ):
        (tmp_path / str(number)).mkdir()
        seen |= make(tmp_path / str(number)).examine(role).keys()
    assert seen - covered == {"tdx"}  # it chooses the rows, and cannot fail among them


# More machines that are ready.


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(gone(UNIT), id="container-with-the-socket"),
        pytest.param(
            all_of(gone(UNIT, PROVISION), text("/etc/group", "")), id="container-without-provision"
        ),
        pytest.param(
            all_of(gone(UNIT), text("/etc/group", "")), id="container-that-knows-no-groups"
        ),
        pytest.param(
            all_of(
                gone(UNIT, PROVISION, QCNL_FILE, KUBELET, "/var/lib/dpkg/status"),
                text(f"{GRAMINE_HOMES[0]}/graminelibos/__init__.py", "__version__ = '1.9'\n"),
            ),
            id="pod-with-one-device",
        ),
        pytest.param(
            all_of(
                node("/dev/sgx_enclave", Kind.CHARACTER, 0o660, 0, 106),
                edit(STATUS, "Groups:\t27", "Groups:\t106"),
            ),
            id="of-the-devices-group",
        ),
        pytest.param(node("/dev/sgx_enclave", Kind.CHARACTER, 0o600, 1000), id="owner"),
        pytest.param(gone("/sys/devices/system/node/node0/x86/sgx_total_bytes"), id="one-node"),
        pytest.param(gone(*EPC_FILES), id="epc-by-cpuid"),
        pytest.param(text("/proc/sys/kernel/osrelease", "5.11.0\n"), id="oldest-kernel"),
        pytest.param(text("/proc/sys/kernel/osrelease", "10.0\n"), id="kernel-10"),
        pytest.param(
            all_of(
                edit("/var/lib/dpkg/status", "Package: gramine", "Package: x"),
                text(f"{GRAMINE_HOMES[0]}/graminelibos/__init__.py", "__version__ = '1.9'\n"),
            ),
            id="gramine-from-source",
        ),
        pytest.param(qcnl(collateral_service=INTEL), id="two-services"),
        pytest.param(
            text(QCNL_FILE, f"# old form\nPCCS_URL={PCCS}\nUSE_SECURE_CERT=TRUE\n"), id="lines"
        ),
    ],
)
def test_other_machines_are_ready(tmp_path: Path, change: Change) -> None:
    """What differs there is in order, or worth a note."""
    machine = sgx_machine(tmp_path)
    change(machine)
    found = machine.examine(Role.ENCLAVE)
    bad = [f for f in found.values() if f.outcome not in (Outcome.READY, Outcome.NOTE)]
    assert bad == []


def test_a_service_that_is_named_is_a_row_of_every_role(tmp_path: Path) -> None:
    machine = plain_machine(tmp_path)
    address = "https://pccs.example"
    count_refusal()
    assert machine.examine(Role.VERIFIER, [address])["collateral-service"].outcome is UNKNOWN
    answer(machine, address, "status 503")
    assert machine.examine(Role.VERIFIER, [address])["collateral-service"].outcome is NOT_READY
    answer(machine, address)
    assert machine.examine(Role.VERIFIER, [address])["collateral-service"].outcome is Outcome.READY


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([], Exit.UNDECIDED),
        ([Outcome.READY], Exit.YES),
        ([Outcome.READY, Outcome.NOTE], Exit.YES),
        ([Outcome.READY, Outcome.UNKNOWN], Exit.UNDECIDED),
        ([Outcome.UNKNOWN, Outcome.NOT_READY, Outcome.READY], Exit.NOT_ADMITTED),
    ],
)
def test_what_findings_add_up_to(outcomes: list[Outcome], status: Exit) -> None:
    """Unknown never means fine, and nothing looked at means nothing known."""
    assert verdict(Finding("x", "x", o, "x", "x") for o in outcomes) is status
