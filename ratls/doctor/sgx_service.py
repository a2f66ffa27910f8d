"""Can this machine make quotes? AESM, Intel's quote provider, and the service that it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from ratls.doctor.finding import Finding, Question
from ratls.doctor.qcnl import Qcnl
from ratls.doctor.sgx_machine import in_container
from ratls.doctor.snapshot import Kind, Snapshot
from verifier.text import printable

_SOCKET = "/var/run/aesmd/aesm.socket"
_CONF = "/etc/sgx_default_qcnl.conf"
# The interface that current PCS and PCCS speak: PCS API v4, `/sgx/certification/v4/qe/identity`.
PATH = "/sgx/certification/v4"


def configuration(snapshot: Snapshot) -> Qcnl | None:
    """What the quote provider was told; None where nobody can read it as meant."""
    excerpt = snapshot.node(_CONF).excerpt
    return None if excerpt is None else Qcnl.parse(excerpt.encode())


def sgx_service(snapshot: Snapshot) -> Iterator[Finding]:
    """The rows of quotes."""
    yield _aesm(snapshot)
    yield _quote_plugin(snapshot)
    yield from _configured(snapshot)


def _aesm(snapshot: Snapshot) -> Finding:
    unit = any(
        snapshot.node(f"{place}/systemd/system/aesmd.service").there
        for place in ("/usr/lib", "/lib")
    )
    asked = Question(
        "aesm",
        "AESM, which makes quotes",
        "aesmd answers on its socket",
        "systemctl enable --now aesmd"
        if unit
        else "apt-get install sgx-aesm-service libsgx-aesm-quote-ex-plugin; "
        "in a container: -v /var/run/aesmd:/var/run/aesmd",
    )
    said, node = snapshot.facts.aesm, snapshot.node(_SOCKET)
    if said == "answers":
        return asked.ready(said)
    if said is not None:
        return asked.not_ready(printable(said[:80]))
    if node.kind is Kind.NOTHING:
        return asked.not_ready(f"no {_SOCKET}")
    if node.kind is not Kind.SOCKET and node.there:
        return asked.not_ready(f"{_SOCKET} is a {node.said}")
    return asked.unknown(f"{_SOCKET}: {node.said}, not asked")


def _quote_plugin(snapshot: Snapshot) -> Finding:
    asked = Question(
        "quote-packages",
        "packages that make DCAP quotes",
        "libsgx-aesm-quote-ex-plugin and libsgx-dcap-default-qpl",
        "apt-get install libsgx-aesm-quote-ex-plugin libsgx-dcap-default-qpl",
    )
    stanzas = snapshot.excerpt("/var/lib/dpkg/status").split("\n\n")
    wanted = ("libsgx-aesm-quote-ex-plugin", "libsgx-dcap-default-qpl")
    begins = [f"Package: {name}\nStatus: install ok installed" for name in wanted]
    missing = [n for n, b in zip(wanted, begins, strict=True) if not any(map(_starts(b), stanzas))]
    if not missing:
        return asked.ready("both")
    # Of another distribution, or in a container beside aesmd: what counts is whether quotes come.
    return asked.note(f"Debian's list has no {', '.join(missing)}")


def _starts(begin: str) -> Callable[[str], bool]:
    return lambda stanza: stanza.startswith(begin)


def _configured(snapshot: Snapshot) -> Iterator[Finding]:
    asked = Question(
        "qcnl",
        _CONF,
        "a file that Intel's library reads as it is meant",
        "apt-get install libsgx-dcap-default-qpl brings one; then set pccs_url",
    )
    node, found = snapshot.node(_CONF), configuration(snapshot)
    if found is None:
        if node.kind is Kind.NOTHING and in_container(snapshot):
            yield asked.note("none here; that of aesmd, which runs elsewhere, counts", "")
        elif node.kind is Kind.NOTHING:
            yield asked.not_ready("none: https://localhost:8081 is asked")
        elif node.there:
            fix = "mend that, or install the package's own file again"
            yield asked.not_ready(node.said, fix)
        else:
            yield asked.unknown(node.said)
        return
    yield asked.ready(f"pccs_url = {found.pccs_url}")
    yield from _rules(found)
    for address in dict.fromkeys((found.pccs_url, found.collateral_service)):
        yield service(snapshot, address)


def _rules(found: Qcnl) -> Iterator[Finding]:
    addresses = (found.pccs_url, found.collateral_service)
    faults = [] if found.use_secure_cert else ["use_secure_cert false"]
    faults += [address for address in dict.fromkeys(addresses) if address.startswith("http:")]
    yield Question(
        "qcnl-tls",
        "TLS to the collateral service",
        "use_secure_cert true, and https",
        f"set use_secure_cert to true in {_CONF}, and trust the service's certificate; "
        "cp pccs.crt /usr/local/share/ca-certificates/ && update-ca-certificates",
    ).judged(not faults, ", ".join(faults) or "use_secure_cert true")
    yield Question(
        "qcnl-version",
        "version of the service's interface",
        "4",
        f"end the addresses in {_CONF} with {PATH}/",
    ).judged(
        all(address.rstrip("/").endswith("/certification/v4") for address in addresses),
        ", ".join(dict.fromkeys(address.rstrip("/").rsplit("/", 1)[-1] for address in addresses)),
    )


def question(address: str) -> str:
    """What is asked of a service: the QE identity. An address without a path means version 4."""
    place = urlsplit(address)
    return f"{place.scheme}://{place.netloc}{place.path.rstrip('/') or PATH}/qe/identity"


def service(snapshot: Snapshot, address: str) -> Finding:
    """One collateral service: does it answer, over TLS that is trusted, as version 4 does?"""
    asked = Question(
        "collateral-service",
        address,
        "a QE identity, over TLS that is trusted",
        f"start it, and check address, port and firewall: curl -v {question(address)}",
    )
    answer = snapshot.facts.services.get(address)
    if answer is None:
        return asked.unknown("not asked")
    if answer.fault is not None:
        return asked.not_ready(printable(answer.fault[:200]))
    return asked.ready("it answers")
