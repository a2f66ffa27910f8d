"""Can this processor run the enclave? CPUID, and what the kernel left of it in /proc/cpuinfo.

The kernel takes `sgx` and `sgx_lc` out of the flags where the firmware has not switched them on, so
the two together tell a processor that cannot from a firmware that does not.
Sources: Intel SDM, volume 2A, CPUID, leaf 07H and leaf 12H; Linux,
`Documentation/arch/x86/sgx.rst`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ratls.doctor.finding import Finding, Question
from ratls.doctor.snapshot import EPC_FILES, Snapshot

ENCLAVE_BYTES = 16 << 30  # `sgx.enclave_size` of the manifest
_FIRMWARE = "switch it on in the firmware (Software Guard Extensions: enabled), then reboot"
_OTHER = "use a machine with another processor, say a Xeon Scalable of generation 3 to 6"
_EPC_LEAVES = range(2, 10)
Leaves = Mapping[str, tuple[int, int, int, int]]


def flags(snapshot: Snapshot) -> frozenset[str] | None:
    """What the kernel says that the processor has; None where nobody knows."""
    found = re.search(r"^flags\s*: (.*)$", snapshot.excerpt("/proc/cpuinfo"), re.MULTILINE)
    return None if found is None else frozenset(found[1].split())


def processor(snapshot: Snapshot) -> Iterator[Finding]:
    """The rows of an SGX machine that its processor and firmware decide."""
    seen, leaves = flags(snapshot), snapshot.facts.cpuid
    yield _sgx(seen, leaves)
    yield _launch_control(seen, leaves)
    yield _helpers(seen)
    yield _epc(snapshot, leaves)
    yield _largest(seen, leaves)


def _bit(leaves: Leaves | None, leaf: str, register: int, bit: int) -> bool | None:
    if leaves is None or leaf not in leaves:
        return None
    return bool(leaves[leaf][register] >> bit & 1)


def _both(asked: Question, flag: str, seen: frozenset[str] | None, bit: bool | None) -> Finding:
    """By what the kernel kept; what the processor says tells what to do about it."""
    if seen is None:
        return asked.unknown("no flags in /proc/cpuinfo")
    if flag in seen:
        return asked.ready(f"`{flag}` in /proc/cpuinfo")
    if bit is None:
        return asked.not_ready(f"no `{flag}` in /proc/cpuinfo", f"{asked.fix}; or {_OTHER}")
    if bit:
        return asked.not_ready("the processor has it, and the firmware has not")
    return asked.not_ready("a processor without it", _OTHER)


def _sgx(seen: frozenset[str] | None, leaves: Leaves | None) -> Finding:
    asked = Question("sgx", "SGX", "switched on", _FIRMWARE)
    return _both(asked, "sgx", seen, _bit(leaves, "7.0", 1, 2))


def _launch_control(seen: frozenset[str] | None, leaves: Leaves | None) -> Finding:
    asked = Question(
        "launch-control",
        "flexible launch control",
        "switched on: the kernel's driver needs it",
        "switch on SGX Launch Control (unlocked) in the firmware, then reboot",
    )
    return _both(asked, "sgx_lc", seen, _bit(leaves, "7.0", 2, 30))


_NEEDED = ("fsgsbase", "aes", "xsave", "rdrand")


def _helpers(seen: frozenset[str] | None) -> Finding:
    asked = Question(
        "instructions",
        "instructions of Gramine",
        ", ".join(_NEEDED),
        "start the kernel without `nofsgsbase`, `noxsave` and `clearcpuid`",
    )
    if seen is None:
        return asked.unknown("no flags in /proc/cpuinfo")
    missing = [name for name in _NEEDED if name not in seen]
    return asked.judged(not missing, "no " + ", ".join(missing) if missing else "all of them")


def _epc(snapshot: Snapshot, leaves: Leaves | None) -> Finding:
    asked = Question(
        "epc",
        "protected memory (EPC)",
        f"some; {ENCLAVE_BYTES >> 30} GiB hold the whole enclave",
        "raise the PRMRR size in the firmware (per socket), then reboot",
    )
    # Linux, `Documentation/ABI/stable/sysfs-devices-node`: x86/sgx_total_bytes.
    sizes = [snapshot.excerpt(path).strip() for path in EPC_FILES]
    size = sum(int(text) for text in sizes if text)
    if not any(sizes):
        if leaves is None:
            return asked.unknown("no sizes in /sys, and no CPUID")
        size = sum(map(_section, (leaves.get(f"12.{n}") for n in _EPC_LEAVES)))
    found = f"{size >> 20} MiB"
    if not size:
        return asked.not_ready("none")
    return (
        asked.ready(found) if size >= ENCLAVE_BYTES else asked.note(f"{found}: the rest is paged")
    )


def _section(leaf: tuple[int, int, int, int] | None) -> int:
    """Bytes of one EPC section: Intel SDM, volume 2A, CPUID, leaf 12H, subleaf 2 and on."""
    if leaf is None or leaf[0] & 0xF != 1:
        return 0
    return (leaf[2] & 0xFFFFF000) + ((leaf[3] & 0xFFFFF) << 32)


def _largest(seen: frozenset[str] | None, leaves: Leaves | None) -> Finding:
    asked = Question(
        "enclave-size",
        "largest enclave",
        f"at least {ENCLAVE_BYTES >> 30} GiB, the size in the manifest",
        f"{_OTHER}; or a manifest with a smaller sgx.enclave_size, signed again",
    )
    leaf = None if leaves is None else leaves.get("12.0")
    if leaf is None:
        if leaves is not None and not _bit(leaves, "7.0", 1, 2):
            return asked.not_ready("a processor without SGX")
        return asked.unknown("CPUID was not asked")
    power = leaf[3] >> 8 & 0xFF
    return asked.judged(1 << power >= ENCLAVE_BYTES, f"2^{power} bytes")
