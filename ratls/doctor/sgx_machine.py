"""Kernel, driver and device files of an SGX machine, and Gramine.

Sources: Linux, `Documentation/arch/x86/sgx.rst` (driver, devices); docs/gramine.md 7 (what else the
enclave needs of its host).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ratls.doctor.finding import Finding, Question
from ratls.doctor.snapshot import GRAMINE_HOMES, Kind, Node, Snapshot

_ENCLAVE, _PROVISION = "/dev/sgx_enclave", "/dev/sgx_provision"
GRAMINE = (1, 9)
_LEAST_ADDRESS = 0x10000  # of Gramine's enclaves


def sgx_machine(snapshot: Snapshot) -> Iterator[Finding]:
    """The rows of the kernel and what lies above it."""
    yield _kernel(snapshot)
    yield _edmm(snapshot)
    yield _driver(snapshot)
    yield _enclave_device(snapshot)
    yield _provision_device(snapshot)
    yield _links(snapshot)
    yield _no_exec(snapshot)
    yield _low_addresses(snapshot)
    yield _device_plugin(snapshot)
    yield _gramine(snapshot)


def version_of(text: str) -> tuple[int, int] | None:
    """The first two numbers of a version."""
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    return None if match is None else (int(match[1]), int(match[2]))


def kernel(asked: Question, least: tuple[int, int], snapshot: Snapshot) -> Finding:
    """Is the kernel at least this one?"""
    text = snapshot.excerpt("/proc/sys/kernel/osrelease").strip()
    found = version_of(text)
    if found is None:
        return asked.unknown(snapshot.node("/proc/sys/kernel/osrelease").said)
    return asked.judged(found >= least, text)


def _kernel(snapshot: Snapshot) -> Finding:
    asked = Question(
        "kernel",
        "Linux",
        "5.11 or later, built with CONFIG_X86_SGX; 6.0 for EDMM",
        "install a newer kernel: apt-get install linux-image-generic, or your distribution's",
    )
    return kernel(asked, (5, 11), snapshot)


def _edmm(snapshot: Snapshot) -> Finding:
    asked = Question(
        "edmm",
        "EDMM (pages added at run time)",
        "SGX2 and Linux 6.0; the manifest of this release does without",
        "",
    )
    leaf = (snapshot.facts.cpuid or {}).get("12.0")
    release = version_of(snapshot.excerpt("/proc/sys/kernel/osrelease"))
    if leaf is None or release is None:
        return asked.note("not known")
    if not leaf[0] & 2:
        return asked.note("a processor without SGX2")
    return asked.ready("both") if release >= (6, 0) else asked.note("an older kernel")


def _driver(snapshot: Snapshot) -> Finding:
    asked = Question(
        "driver",
        "SGX driver",
        "the kernel's own",
        "remove the separate driver (dkms remove), and start a kernel with CONFIG_X86_SGX",
    )
    if snapshot.node("/dev/isgx").there:
        return asked.not_ready("/dev/isgx, of the driver before launch control")
    named, device = snapshot.node("/dev/sgx/enclave"), snapshot.node(_ENCLAVE)
    if named.kind is Kind.CHARACTER and named.target is None and not device.there:
        return asked.not_ready("/dev/sgx/enclave alone, of the separate DCAP driver")
    if device.undecided:
        return asked.unknown(device.said)
    if device.there:
        return asked.ready(_ENCLAVE)
    fix = "start a kernel with CONFIG_X86_SGX, after SGX is switched on: dmesg | grep -i sgx"
    return asked.not_ready("none", fix)


def may_use(snapshot: Snapshot, node: Node) -> bool | None:
    """May this process read and write it, by owner, group and mode? None: nobody knows.

    Whose it is: Linux, `Documentation/filesystems/proc.rst`, status.
    """
    ids: dict[str, list[int]] = {}
    for line in snapshot.excerpt("/proc/self/status").splitlines():
        name, _, numbers = line.partition(":")
        ids[name] = [int(number) for number in numbers.split()]
    if len(ids.get("Uid", ())) < 2 or len(ids.get("Gid", ())) < 2:
        return None
    user, groups = ids["Uid"][1], {ids["Gid"][1], *ids.get("Groups", ())}
    if user == 0:
        return True
    shift = 6 if user == node.uid else 3 if node.gid in groups else 0
    return node.mode >> shift & 6 == 6


def _owned(node: Node) -> str:
    return f"{node.kind.value} {node.mode:04o}, owner {node.uid}, group {node.gid}"


def _enclave_device(snapshot: Snapshot) -> Finding:
    asked = Question(
        "sgx-enclave",
        _ENCLAVE,
        "a character device that this user may read and write",
        "load the driver, see SGX; in a container: --device /dev/sgx_enclave",
    )
    node = snapshot.node(_ENCLAVE)
    if node.undecided:
        return asked.unknown(node.said)
    if node.kind is not Kind.CHARACTER:
        return asked.not_ready(node.said)
    may = may_use(snapshot, node)
    if may is None:
        return asked.unknown(f"{_owned(node)}; whose process this is, is not known")
    group = re.search(rf"^(\w+):x:{node.gid}:", snapshot.excerpt("/etc/group"), re.MULTILINE)
    fix = f"chmod 0666 {_ENCLAVE}"
    if group is not None and node.mode & 0o060 == 0o060:
        fix = f"usermod -aG {group[1]} $USER, then log in again; or: {fix}"
    return asked.judged(may, _owned(node), fix)


def _provision_device(snapshot: Snapshot) -> Finding:
    asked = Question(
        "sgx-provision",
        _PROVISION,
        "a character device for the group sgx_prv alone; aesmd uses it, the enclave does not",
        "apt-get install sgx-aesm-service: it brings the udev rules and the group",
    )
    node, container = snapshot.node(_PROVISION), in_container(snapshot)
    if node.undecided:
        return asked.unknown(node.said)
    if not node.there and container:
        return asked.note("nothing here; aesmd, whose socket is here, runs elsewhere", "")
    if node.kind is not Kind.CHARACTER:
        return asked.not_ready(node.said)
    if node.mode & 0o007:
        fix = f"chmod 0660 {_PROVISION} && chgrp sgx_prv {_PROVISION}"
        return asked.not_ready(f"{_owned(node)}: everybody may identify this machine", fix)
    group = re.search(r"^sgx_prv:x:(\d+):(.*)$", snapshot.excerpt("/etc/group"), re.MULTILINE)
    if container and group is None:
        return asked.ready(_owned(node))
    if group is None or int(group[1]) != node.gid:
        fix = f"groupadd -f sgx_prv && chgrp sgx_prv {_PROVISION}"
        return asked.not_ready(f"{_owned(node)}, which is not sgx_prv", fix)
    if not group[2]:
        fix = "usermod -aG sgx_prv aesmd && systemctl restart aesmd"
        return asked.not_ready("aesmd is not in the group sgx_prv", fix)
    return asked.ready(f"{_owned(node)} (sgx_prv, with aesmd)")


def in_container(snapshot: Snapshot) -> bool:
    """A socket of aesmd without an aesmd: it was passed into this container."""
    units = ("/usr/lib/systemd/system/aesmd.service", "/lib/systemd/system/aesmd.service")
    socket = snapshot.node("/var/run/aesmd/aesm.socket").kind is Kind.SOCKET
    return socket and not any(snapshot.node(unit).there for unit in units)


def _links(snapshot: Snapshot) -> Finding:
    asked = Question(
        "sgx-links",
        "links under /dev/sgx",
        "enclave and provision, for software older than the kernel's driver; Gramine needs none",
        "only for older software: apt-get install sgx-aesm-service; "
        "or: mkdir -p /dev/sgx && cd /dev/sgx && ln -s ../sgx_enclave enclave && "
        "ln -s ../sgx_provision provision",
    )
    names = ("enclave", "provision")
    nodes = {name: snapshot.node(f"/dev/sgx/{name}") for name in names}
    missing = [name for name in names if nodes[name].kind is not Kind.CHARACTER]
    if missing:
        return asked.note("no " + " and no ".join(f"/dev/sgx/{name}" for name in missing))
    return asked.ready("both")


def _no_exec(snapshot: Snapshot) -> Finding:
    asked = Question(
        "dev-exec",
        "/dev, where enclaves are mapped from",
        "mounted without noexec",
        "mount -o remount,exec /dev; for good: exec in its line of /etc/fstab",
    )
    options: dict[str, str] = {}
    for line in snapshot.excerpt("/proc/self/mounts").splitlines():
        _, place, _, found, *_ = line.split(" ")
        options[place] = found  # a later mount lies over an earlier one
    if not options:
        return asked.unknown(snapshot.node("/proc/self/mounts").said)
    place = next((p for p in (_ENCLAVE, "/dev", "/") if p in options), "/")
    bad = "noexec" in options.get(place, "").split(",")
    return asked.judged(not bad, f"{place} {'with' if bad else 'without'} noexec")


def _low_addresses(snapshot: Snapshot) -> Finding:
    """Linux, `Documentation/admin-guide/sysctl/vm.rst`."""
    asked = Question(
        "mmap-min-addr",
        "vm.mmap_min_addr",
        f"at most {_LEAST_ADDRESS}, where the enclave begins",
        f"sysctl -w vm.mmap_min_addr={_LEAST_ADDRESS}",
    )
    text = snapshot.excerpt("/proc/sys/vm/mmap_min_addr").strip()
    if not text:
        return asked.unknown(snapshot.node("/proc/sys/vm/mmap_min_addr").said)
    return asked.judged(int(text) <= _LEAST_ADDRESS, text)


def _device_plugin(snapshot: Snapshot) -> Finding:
    asked = Question(
        "device-plugin",
        "Intel's SGX device plugin",
        "sgx.intel.com/enclave and /provision are offered, if this is a Kubernetes node",
        "deploy intel-sgx-plugin (Intel device plugins for Kubernetes) on this node",
    )
    node = snapshot.node("/var/lib/kubelet/device-plugins")
    if node.kind is Kind.NOTHING:
        return asked.note("no kubelet is seen from here", "")
    if node.kind is not Kind.FOLDER:
        fix = "read it elsewhere: kubectl get nodes -o json | grep sgx.intel.com"
        return asked.note(node.said, fix)
    wanted = ("enclave", "provision")
    missing = [f"sgx.intel.com/{n}" for n in wanted if f"sgx.intel.com-{n}.sock" not in node.names]
    return asked.judged(not missing, f"no {', '.join(missing)}" if missing else "both")


def _gramine(snapshot: Snapshot) -> Finding:
    asked = Question(
        "gramine",
        "Gramine",
        ".".join(map(str, GRAMINE)) + ", for which the manifest is made",
        "apt-get install gramine=1.9, from the repository of the Gramine project",
    )
    versions = set(_gramine_versions(snapshot))
    if len(versions) > 1:
        return asked.not_ready(f"several: {', '.join(sorted(versions))}", "keep one of them")
    for version in versions:
        return asked.judged(version_of(version) == GRAMINE, version)
    if any(snapshot.node(f"/usr/{p}bin/gramine-sgx").there for p in ("", "local/")):
        return asked.unknown("gramine-sgx, of no known version", "gramine-sgx --version")
    return asked.not_ready("none")


def _gramine_versions(snapshot: Snapshot) -> Iterator[str]:
    for home in GRAMINE_HOMES:
        text = snapshot.excerpt(f"{home}/graminelibos/__init__.py")
        yield from re.findall(r"__version__ = '(.*)'", text)
    for stanza in snapshot.excerpt("/var/lib/dpkg/status").split("\n\n"):
        found = re.search(r"^Version: (?:\d+:)?([\w.]+)", stanza, re.MULTILINE)
        if stanza.startswith("Package: gramine\nStatus:") and found:
            yield found[1]
