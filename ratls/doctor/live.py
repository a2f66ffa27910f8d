"""The machine itself, as it is now: its files, and what is in no file.

    snapshot = live_snapshot(services=[], trust=system_trust(None), seconds=5, configured=True)

Sends nothing but one question to each collateral service, which names no platform.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ratls.doctor.cpuid import ask_processor
from ratls.doctor.deadline import within
from ratls.doctor.gather import look_at
from ratls.doctor.sgx_service import configuration, question
from ratls.doctor.snapshot import Answer, Facts, Snapshot
from ratls.names import COMMANDS, foreign
from ratls.owners import owners
from verifier.pcs_requests import Trust
from verifier.strict_json import JsonError, read_object
from verifier.text import cause, read_instant

# Where aesmd listens. Gramine asks the first, which belongs to the network namespace, and then the
# other.
AESM_SOCKETS = ("\0sgx_aesm_socket_base", "/var/run/aesmd/aesm.socket")
# Of the set `provider`; they are looked for, and not loaded.
_PROVIDER = ("cbor2", "grpc", "numpy", "OpenSSL", "pyarrow", "pydantic", "sqlalchemy", "structlog")
_MOST = 1 << 18  # bytes of an answer


def live_snapshot(
    *,
    services: Iterable[str],
    trust: Trust,
    seconds: float,
    configured: bool,
    root: Path = Path("/"),
    sockets: Iterable[str] = AESM_SOCKETS,
) -> Snapshot:
    """Look at this machine. Twice `seconds` at most: files first, then what they name.

    Args:
        services: Addresses of collateral services to ask.
        trust: Whose TLS certificates they may show.
        configured: Also ask those that the quote provider is told to ask.
        root, sockets: For tests.
    """
    files = Snapshot(look_at(root, seconds=seconds), Facts())
    asked = list(services)
    conf = configuration(files)
    if configured and conf is not None:
        asked += [conf.pccs_url, conf.collateral_service]
    probes: dict[str, Callable[[], Any]] = {
        "cpuid": ask_processor,
        "aesm": partial(ask_aesm, tuple(sockets), seconds),
        "packages": _packages,
        "libraries": _libraries,
        **{
            f"service {address}": partial(ask_service, address, trust, seconds)
            for address in dict.fromkeys(asked)
        },
    }
    found: Mapping[str, Any] = within(seconds, probes)
    late = Answer(fault=f"no answer within {seconds:g} s")
    facts = Facts(
        now=int(time.time()),
        cpuid=found.get("cpuid"),
        encoding=sys.getfilesystemencoding(),
        python=sys.version_info[:2],
        aesm=found.get("aesm"),
        libraries=found.get("libraries"),
        packages=found.get("packages"),
        services={address: found.get(f"service {address}", late) for address in asked},
    )
    return Snapshot(files.nodes, facts)


def _packages() -> dict[str, str]:
    """Each of our packages, with whose it is where it is not ours."""
    found = {one.name: one.place for one in foreign(COMMANDS)}
    return {
        name: ", ".join(owners(name)) or place if (place := found.get(name)) else ""
        for name in COMMANDS
    }


def _libraries() -> dict[str, bool]:
    return {name: find_spec(name) is not None for name in _PROVIDER}


def ask_aesm(addresses: tuple[str, ...], seconds: float) -> str:
    """`answers`, or why nobody does. Connects, and says nothing."""
    said = "no socket"
    for address in addresses:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(seconds / 2)
            try:
                client.connect(address)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) and not (
                    address.startswith("\0") and error.errno == errno.ECONNREFUSED
                ):
                    said = f"{address.lstrip(chr(0))}: {cause(error)}"
            else:
                return "answers"
    return said


def ask_service(address: str, trust: Trust, seconds: float) -> Answer:
    """Ask for the QE identity: PCS API v4, `/sgx/certification/v4/qe/identity`.

    A service of `http://` is not asked: that it is not TLS is a finding already.
    """
    parts = urlsplit(question(address))
    if parts.scheme != "https" or parts.hostname is None:
        return Answer(fault="not https")
    try:
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=seconds, context=trust
        )
        try:
            connection.request("GET", parts.path, headers={"Accept": "*/*"})
            response = connection.getresponse()
            body = response.read(_MOST + 1)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        return Answer(fault=f"a TLS certificate that is not trusted: {error.verify_message}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(fault=f"no answer: {cause(error)}")
    if response.status != 200:
        return Answer(fault=f"status {response.status}")
    return _identity(body)


def _identity(body: bytes) -> Answer:
    """Its dates. Nobody relies on them: they are compared with the clock."""
    try:
        inner = read_object(body.decode("utf-8"))["enclaveIdentity"]
        if inner["version"] != 2:
            return Answer(fault="an identity of another version of the interface")
        issued, following = (
            int(_utc(inner[name]).timestamp()) for name in ("issueDate", "nextUpdate")
        )
    except (JsonError, KeyError, TypeError, ValueError):
        return Answer(fault="something else than a QE identity")
    return Answer(issued=issued, next_update=following)


def _utc(text: object) -> datetime:
    if not isinstance(text, str):
        raise TypeError
    return read_instant(text)


def system_trust(ca: Path | None) -> Trust:
    """As Intel's library has it, which asks the system: the system's authorities beside the public
    ones, or this file alone.
    """
    from verifier.pcs_requests import tls_trust

    trust = tls_trust(ca)
    system = "/etc/ssl/certs/ca-certificates.crt"
    if ca is None and os.path.isfile(system):
        trust.load_verify_locations(cafile=system)
    return trust
