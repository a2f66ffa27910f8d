"""A small copy of Intel's collateral service, on loopback, for a simulation's collateral.

    with serving(folder, Address("127.0.0.1", 0)) as origin:  # https://127.0.0.1:PORT
        ...  # `ratls collateral fetch --from ORIGIN --ca FOLDER/pcs.crt`

Paths, parameters, headers and statuses are those of version 4 (dcap.md 3.2), and a PCCS's
`rootcacrl` (dcap.md 3.3). What a verifier of quotes does not ask for: 404.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from enclave_app.errors import ListenAddressUnusable
from ratls.address import Address
from ratls.log import open_log, place_of
from simulation.folder import SGX_COLLATERAL, TDX_COLLATERAL
from verifier.certificate import PLATFORM_CA, read_chain
from verifier.collateral import Collateral
from verifier.crl import crl_der
from verifier.errors import ConfigError, RatlsError
from verifier.files import parse_file, write_atomically, write_new
from verifier.qe import QeIdentity
from verifier.tcb import TcbInfo

_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_IDLE_SECONDS = 10.0
_VALIDITY = dt.timedelta(days=365)


class SimulationNotLoopback(ConfigError):
    """The simulated collateral service is asked to listen where other machines reach it."""

    code = "simulation-not-loopback"
    default_fix = "listen on 127.0.0.1 or [::1]"


@contextmanager
def serving(folder: Path, listen: Address) -> Iterator[str]:
    """Listen for the length of the block; the value is `https://HOST:PORT`.

    The bundles are read anew for each request, so `ratls simulation renew` is seen at once.

    Raises:
        SimulationNotLoopback: Other machines could reach that address.
        ListenAddressUnusable: The port is in use, or the address is not this machine's.
        FileUnreadable, CollateralFormatError: No simulation was written into this folder.
        FileNotWritten: The folder does not take `pcs.crt`.
    """
    place = listen.resolve_all(seconds=10)[0]
    if not ipaddress.ip_address(place.host).is_loopback:
        # On a network it could be mistaken for the real service.
        raise SimulationNotLoopback(str(listen), expected="a loopback address", found=place.host)
    _read_bundles(folder)
    try:
        server = _Server(place, folder)
    except OSError as error:
        raise ListenAddressUnusable(
            str(listen), expected="a free port of this machine", found="one in use, or another's"
        ) from error
    with server:
        server.tls = throwaway_tls(place.host, folder / "pcs.crt")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"https://{Address(place.host, server.server_port)}"
        finally:
            server.shutdown()
            thread.join()


def _read_bundles(folder: Path) -> tuple[Collateral, Collateral | None]:
    """For SGX and TDX. A folder that an earlier version wrote has the first alone."""
    tdx = folder / TDX_COLLATERAL
    return (
        parse_file(folder / SGX_COLLATERAL, Collateral.parse),
        parse_file(tdx, Collateral.parse) if tdx.exists() else None,
    )


# What is answered


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and the headers that belong to it."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        headers = {"Error-Code": code, "Error-Message": message}
        self.reply = Reply(status, b"", "text/plain", headers)


def reply_to(target: str, published: Collateral, tdx: Collateral | None = None) -> Reply:
    """What the service says to GET `target` (path and query).

    Args:
        published: For enclaves of the platform; its CRLs are those of both technologies.
        tdx: For trust domains; None: the service knows the platform for SGX alone.
    """
    try:
        parts = _split(target)
        return _route(parts.path, _parameters(parts.query), published, tdx)
    except _Refusal as refusal:
        return refusal.reply


def _split(target: str) -> SplitResult:
    try:
        return urlsplit(target)
    except ValueError as error:  # a host that is half an IPv6 address
        raise _bad("no path") from error


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8
        )
    except ValueError as error:
        raise _bad("not parameters") from error
    if len(dict(pairs)) != len(pairs):
        raise _bad("a parameter appears twice")
    return dict(pairs)


def _route(
    path: str, given: dict[str, str], published: Collateral, tdx: Collateral | None
) -> Reply:
    if path == f"{_SGX}/pckcrl":
        return _pck_crl(given, published)
    for base, signed in ((_SGX, published), (_TDX, tdx)):
        if path == f"{base}/tcb":
            return _tcb(given, signed)
        if path == f"{base}/qe/identity":
            return _qe_identity(given, signed)
    root_crl = crl_der(published.root_ca_crl, "root CRL")
    if path == f"{_SGX}/rootcacrl":
        _only(given)
        return Reply(200, root_crl.hex().encode(), "text/plain")
    if path == "/IntelSGXRootCA.der":
        _only(given)
        return Reply(200, root_crl, "application/pkix-crl")
    raise _not_found("no such path")


def _pck_crl(given: dict[str, str], published: Collateral) -> Reply:
    _only(given, "ca", "encoding")
    wanted, encoding = given.get("ca"), given.get("encoding", "pem")
    if wanted not in ("processor", "platform") or encoding not in ("pem", "der"):
        raise _bad("ca or encoding")
    authority, _ = read_chain(published.pck_crl_issuer_chain, 2, "PCK CRL issuer chain")
    if (wanted == "platform") != (authority.common_name == PLATFORM_CA):
        raise _not_found("this simulation's platform is certified by the other authority")
    raw = crl_der(published.pck_crl, "PCK CRL")
    headers = _chain("SGX-PCK-CRL-Issuer-Chain", published.pck_crl_issuer_chain)
    if encoding == "der":
        return Reply(200, raw, "application/pkix-crl", headers)
    pem = x509.load_der_x509_crl(raw).public_bytes(Encoding.PEM)
    return Reply(200, pem, "application/x-pem-file", headers)


def _tcb(given: dict[str, str], published: Collateral | None) -> Reply:
    _only(given, "fmspc", "update", "tcbEvaluationDataNumber")
    wanted = given.get("fmspc", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{12}", wanted, re.ASCII):
        raise _bad("fmspc")
    if published is None:
        raise _not_found("unknown FMSPC")
    info = TcbInfo.parse(published.tcb_info)
    if bytes.fromhex(wanted) != info.fmspc:
        raise _not_found("unknown FMSPC")
    _require_edition(given, info.evaluation_data_number)
    headers = _chain("TCB-Info-Issuer-Chain", published.tcb_info_issuer_chain)
    body = _signed("tcbInfo", published.tcb_info, published.tcb_info_signature)
    return Reply(200, body, headers=headers)


def _qe_identity(given: dict[str, str], published: Collateral | None) -> Reply:
    _only(given, "update", "tcbEvaluationDataNumber")
    if published is None:
        raise _not_found("no identity")
    _require_edition(given, QeIdentity.parse(published.qe_identity).evaluation_data_number)
    headers = _chain("SGX-Enclave-Identity-Issuer-Chain", published.qe_identity_issuer_chain)
    body = _signed("enclaveIdentity", published.qe_identity, published.qe_identity_signature)
    return Reply(200, body, headers=headers)


def _require_edition(given: dict[str, str], number: int) -> None:
    """`update` or a number, not both; early and standard are the same here."""
    wanted = given.get("tcbEvaluationDataNumber")
    if given.get("update", "standard") not in ("early", "standard"):
        raise _bad("update")
    if wanted is None:
        return
    if "update" in given or not re.fullmatch(r"[0-9]{1,9}", wanted, re.ASCII):
        raise _bad("tcbEvaluationDataNumber")
    if int(wanted) > number:
        raise _not_found("no such evaluation yet")
    if int(wanted) < number:
        raise _Refusal(410, "Gone", "an evaluation that is no longer served")


def _only(given: dict[str, str], *names: str) -> None:
    if unknown := given.keys() - set(names):
        raise _bad(f"{len(unknown)} unknown")


def _bad(what: str) -> _Refusal:
    return _Refusal(400, "InvalidRequestParameters", f"invalid parameters: {what}")


def _not_found(what: str) -> _Refusal:
    return _Refusal(404, "NotFound", what)


def _chain(header: str, pem: str) -> dict[str, str]:
    return {header: quote(pem, safe="")}


def _signed(member: str, text: str, signature: bytes) -> bytes:
    """The text is sent as it was signed, byte for byte."""
    return f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()


# How it is carried


class _Server(ThreadingHTTPServer):
    """HTTPS; a thread for each connection, in which the handshake happens too."""

    daemon_threads = True
    tls: ssl.SSLContext

    def __init__(self, place: Address, folder: Path) -> None:
        self.address_family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        self.folder = folder
        super().__init__((place.host, place.port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Not in the accepting thread: a silent client would block all others.
        request.settimeout(_IDLE_SECONDS)
        with self.tls.wrap_socket(request, server_side=True) as stream:
            super().finish_request(stream, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log bugs, but not what a client does to its own connection."""
        bug = sys.exc_info()[1]
        if bug is not None and not isinstance(bug, OSError):
            open_log().error("internal", bug=place_of(bug))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    wbufsize, disable_nagle_algorithm = -1, True  # one packet for each reply, and at once
    server: _Server

    def do_GET(self) -> None:
        try:
            reply = reply_to(self.path, *_read_bundles(self.server.folder))
        except RatlsError:  # a bundle was damaged since the start
            headers = {"Error-Code": "InternalServerError", "Error-Message": "no collateral"}
            reply = Reply(500, b"", "text/plain", headers)
        self.send_response(reply.status)
        self.send_header("Request-ID", os.urandom(16).hex())
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not logged."""


def throwaway_tls(
    host: str, certificate_path: Path, at: dt.datetime | None = None
) -> ssl.SSLContext:
    """A new key, and a certificate for this address; only the certificate stays on disk.

    Args:
        host: An IP address.
        certificate_path: Where the certificate is written.
        at: When the certificate begins to be valid, for a year; None: now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated collateral service")])
    now = dt.datetime.now(dt.UTC) if at is None else at
    names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL reads keys from files alone; this file is removed before the server listens.
    with tempfile.TemporaryDirectory(prefix="ratls-") as folder:
        together = Path(folder) / "pcs.pem"
        write_new(together, private + pem)
        context.load_cert_chain(together)
    write_atomically(certificate_path, pem)
    return context
