"""Can this TDX guest ask for quotes of itself? Through configfs-tsm, which needs no daemon here.

Sources: Linux, `Documentation/ABI/testing/configfs-tsm-report`; Linux,
`Documentation/virt/coco/tdx-guest.rst`. To read the provider would need an entry, and make one: the
driver's own device is looked for instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from ratls.doctor.finding import Finding, Question
from ratls.doctor.processor import flags
from ratls.doctor.sgx_machine import kernel, may_use
from ratls.doctor.snapshot import Kind, Snapshot


def is_tdx_guest(snapshot: Snapshot) -> bool:
    """Does the kernel say that it runs in a trust domain?"""
    return "tdx_guest" in (flags(snapshot) or ())


def tdx_guest(snapshot: Snapshot) -> Iterator[Finding]:
    """The rows of a guest."""
    yield Question("tdx", "TDX", "a trust domain", "").ready("`tdx_guest` in /proc/cpuinfo")
    asked = Question(
        "tdx-kernel",
        "Linux",
        "6.7 or later: it has configfs-tsm",
        "use a guest image with a newer kernel",
    )
    yield kernel(asked, (6, 7), snapshot)
    yield _configfs(snapshot)
    yield _provider(snapshot)


def _configfs(snapshot: Snapshot) -> Finding:
    asked = Question(
        "configfs-tsm",
        "/sys/kernel/config/tsm/report",
        "a folder in which this user may make entries",
        "mount -t configfs none /sys/kernel/config && modprobe tdx_guest",
    )
    node = snapshot.node("/sys/kernel/config/tsm/report")
    if node.undecided:
        return asked.unknown(node.said)
    if node.kind is not Kind.FOLDER:
        return asked.not_ready(node.said)
    may = may_use(snapshot, node)
    if may is None:
        return asked.unknown("a folder; whose process this is, is not known")
    said = f"a folder, mode {node.mode:04o}, owner {node.uid}, group {node.gid}"
    said += "" if may else ", and this user is neither"
    return asked.judged(may, said, f"as root: chown $USER {asked.what}")


def _provider(snapshot: Snapshot) -> Finding:
    asked = Question(
        "tdx-provider",
        "what makes reports",
        "the driver tdx_guest; it asks the host's quoting service",
        "modprobe tdx_guest",
    )
    node = snapshot.node("/sys/class/misc/tdx_guest")
    if node.undecided:
        return asked.unknown(node.said)
    return asked.judged(node.there, "tdx_guest" if node.there else "no /sys/class/misc/tdx_guest")
