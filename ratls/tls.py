"""One end of a TLS 1.3 connection between two buffers in memory, and what it shows of itself.

    end = TlsEnd(Shown.of(identity), judge, client=True)
    while not end.step():
        socket.sendall(end.take())
        end.feed(socket.recv(65536))

No session is kept or resumed, both ends show one certificate, and no certificate authority is
asked: `judge` is given the peer's certificate during the handshake, before this end, as a client,
has shown its own. The library never touches the socket, so reading has a deadline and a cap.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto

from ratls.certificate import ENCLAVE_NAME, MAX_CERTIFICATE
from ratls.errors import BindingError, TransportError
from ratls.identity import EnclaveIdentity
from ratls.pin import ChannelIdentity
from ratls.probe import ALPN as ALPN
from verifier.errors import RatlsError

MAX_HANDSHAKE = 256 * 1024  # bytes from the peer
PIECE = 256 * 1024
RECORD = 16 * 1024  # RFC 8446, section 5.1
_RECORD_ADDS = 64  #  bytes, at most: RFC 8446, section 5.2
_VERSION = "TLSv1.3"
Peer = TypeVar("Peer")


class SocketHandshakeFailed(TransportError):
    """The peer does not complete a TLS 1.3 handshake of this protocol."""

    code = "socket-handshake-failed"
    default_fix = "check the address, and that the policy lists the peer: it may have refused"
    says = "no attested connection to {thing}: {found}"


class PeerChainPresented(BindingError):
    """The peer sent more than its own certificate, so evidence could sit where no key is used."""

    code = "peer-chain-presented"
    default_fix = "do not connect: an end of an attested connection sends one certificate"


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate and key of this end."""

    der: bytes
    spki_sha256: bytes  # 32
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    prover: EnclaveIdentity | None  # None: this end is a party

    @classmethod
    def of(cls, own: ChannelIdentity | EnclaveIdentity) -> Self:
        """A party's channel certificate, or an enclave's own."""
        enclave = isinstance(own, EnclaveIdentity)
        pem = own.certificate_pem if isinstance(own, EnclaveIdentity) else own.cert_pem
        certificate = x509.load_pem_x509_certificate(pem)
        spki = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        key = load_pem_private_key(own.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(
            certificate.public_bytes(Encoding.DER),
            hashlib.sha256(spki).digest(),
            certificate,
            key,
            own if enclave else None,  # type: ignore[arg-type]
        )


class TlsEnd(Generic[Peer]):
    """One end of one connection."""

    def __init__(self, shown: Shown, judge: Callable[[bytes], Peer], *, client: bool) -> None:
        """Begin.

        Args:
            judge: Given the peer's certificate, as DER; what it returns is `peer` later. Its
                refusal ends the handshake, and `step` raises it.
        """
        self._judge, self._client = judge, client
        self._der: bytes | None = None
        self._judged: Peer | None = None
        self._refusal: RatlsError | None = None
        self._fed, self._unread = 0, False
        self.lock = threading.Lock()  # the library's object takes one call at a time
        self._tls = SSL.Connection(self._context(shown), None)
        if client:
            self._tls.set_tlsext_host_name(ENCLAVE_NAME.encode())
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()

    def _context(self, shown: Shown) -> SSL.Context:
        """A fresh one: nothing of an earlier session is in it (RFC 8446, section 2.2)."""
        method = SSL.TLS_CLIENT_METHOD if self._client else SSL.TLS_SERVER_METHOD
        context = SSL.Context(method)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._take)
        if self._client:
            context.set_alpn_protos([ALPN])
        else:
            context.set_alpn_select_callback(_select)
        return context

    def _take(
        self, _: SSL.Connection, certificate: crypto.X509, __: int, ___: int, ____: int
    ) -> bool:
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        if self._der is None:
            self._der = der
            try:
                if len(der) > MAX_CERTIFICATE:
                    raise _chain("one of another size")
                self._judged = self._judge(der)
            except RatlsError as refusal:
                self._refusal = refusal
        elif der != self._der and self._refusal is None:
            self._refusal = _chain("several")
        return self._refusal is None

    def step(self, thing: str) -> bool:
        """Go on with the handshake; True when it has ended.

        Args:
            thing: The peer, for messages.

        Raises:
            SocketHandshakeFailed: No TLS 1.3, another protocol, or the peer refused.
            PeerChainPresented: It sent more than one certificate.
            RatlsError: What `judge` says of its certificate.
        """
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise (self._refusal or _failed(thing)) from error
        if self._refusal is not None:
            raise self._refusal
        chain = self._tls.get_peer_cert_chain() or []
        if len(chain) != (1 if self._client else 0):  # a server is not shown the peer's own in it
            raise _chain(f"{len(chain)}")
        # A session that was resumed shows no certificate: nothing was judged.
        if (
            self._judged is None
            or self._tls.get_protocol_version_name() != _VERSION
            or self._tls.get_alpn_proto_negotiated() != ALPN
        ):
            raise _failed(thing)
        return True

    @property
    def peer(self) -> Peer:
        """What `judge` made of the peer's certificate; after the handshake."""
        assert self._judged is not None
        return self._judged

    @property
    def peer_der(self) -> bytes:
        """The peer's certificate; after the handshake."""
        assert self._der is not None
        return self._der

    def export(self, label: bytes, length: int, context: bytes) -> bytes:
        """The exporter's value: RFC 8446, section 7.5."""
        return self._tls.export_keying_material(label, length, context)

    def feed(self, data: bytes) -> None:
        """Take what the network brought (RFC 8446, section 5)."""
        with self.lock:
            self._tls.bio_write(data)
            self._unread = True

    def feed_handshake(self, data: bytes, thing: str) -> None:
        """Take a piece of the handshake. Raises: SocketHandshakeFailed beyond the cap."""
        self._fed += len(data)
        if not data or self._fed > MAX_HANDSHAKE:
            raise _failed(thing)
        self.feed(data)

    def take(self) -> bytes:
        """What is to be sent; empty for nothing."""
        with self.lock:
            return self._take_out()

    def _take_out(self, most: int = PIECE) -> bytes:
        try:
            return self._tls.bio_read(most)
        except SSL.WantReadError:
            return b""

    def seal(self, data: memoryview) -> bytes:
        """Records with this data."""
        most = len(data) + (len(data) // RECORD + 2) * _RECORD_ADDS
        with self.lock:
            while data:
                data = data[self._tls.send(data[:RECORD]) :]
            sealed = self._take_out(most)
            while more := self._take_out():
                sealed += more
        return sealed

    def read_into(self, buffer: memoryview) -> int | None:
        """Data of one record (RFC 8446, section 5.2); None where more has to be fed first.

        0 at the end of the connection.

        Raises:
            SSL.Error: What came is not of this connection.
        """
        with self.lock:
            try:
                return self._tls.recv_into(buffer, min(len(buffer), RECORD))
            except SSL.WantReadError:
                self._unread = False
                return None
            except SSL.ZeroReturnError:
                return 0

    @property
    def pending(self) -> bool:
        """Is there something in memory (RFC 8446, section 5.1) that was not yet read?"""
        with self.lock:
            if self._unread:
                try:
                    self._tls.recv_into(bytearray(1), 1, socket.MSG_PEEK)
                except SSL.WantReadError:
                    self._unread = False
                except SSL.Error:
                    pass  # an end is something to read, too
            return self._unread

    def end(self) -> bytes:
        """The alert that nothing follows, to be sent (RFC 8446, section 6.1)."""
        with self.lock:
            with suppress(SSL.Error):  # the connection is no longer whole
                self._tls.shutdown()
            return self._take_out()


def _select(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN in offered:
        return ALPN
    raise SSL.Error  # ends the handshake: no other protocol is spoken here


def _failed(thing: str) -> SocketHandshakeFailed:
    return SocketHandshakeFailed(
        thing, expected="a handshake of TLS 1.3", found="the peer ended it, or speaks another one"
    )


def _chain(found: str) -> PeerChainPresented:
    return PeerChainPresented("certificates of the peer", expected="its own alone", found=found)
