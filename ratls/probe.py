"""Fetch a peer's certificate, without sending any data.

    address, der = probe_name(Address.parse("enclave.example:7443"), timeout=10)

Neither Flight nor gRPC lets a client look at the peer's certificate, so it is fetched by a
handshake of its own and then pinned. That leaves no gap: a server that answers later must hold
the key of exactly this certificate (docs/flight.md 1.1; RFC 8446, section 4.4.3).

The TLS library never touches the socket. It skips some records before the handshake ends, and
does not return while more of them arrive: no deadline would be checked, and no signal handled.
It is given what was read here, piece by piece; reading has a deadline and a cap.
"""

from __future__ import annotations

import select
import socket
import time

from OpenSSL import SSL, crypto

from ratls.address import Address, PeerUnreachable
from ratls.errors import BindingError, DeadlineExceeded, TransportError

MAX_HANDSHAKE = 256 * 1024  # bytes from the peer; a pinned certificate has 100 KB at most
_PIECE = 16 * 1024
ALPN = b"ratls/1"  # RFC 7301, section 3.1: of `ratls.tls`; no other server answers to it
HTTP2 = b"h2"  # RFC 9113, section 3.2: gRPC and Flight


def probe_name(address: Address, timeout: float, *, ours: bool = True) -> tuple[Address, bytes]:
    """The first address of a name that shows a certificate, and that certificate.

    A name may have an address that does not answer, of another IP version for example. From here
    on only the address returned is used.

    Args:
        address: From local configuration.
        timeout: Seconds for everything together; each address may use an equal share of the rest.
        ours: As for `probe`.

    Raises:
        As `probe`: of the last address, where none shows one; PeerUnreachable for a name that
        has no address.
    """
    place, der, _ = _first(address, timeout, [HTTP2] if ours else [])
    return place, der


def probe_any(address: Address, timeout: float) -> tuple[Address, bytes, bytes]:
    """As `probe_name`, of an enclave of ours on any transport; and the protocol that it speaks."""
    return _first(address, timeout, [HTTP2, ALPN])


def _first(
    address: Address, timeout: float, protocols: list[bytes]
) -> tuple[Address, bytes, bytes]:
    end = time.monotonic() + timeout
    *others, last = address.resolve_all(timeout)
    for place, one in enumerate(others):
        share = (end - time.monotonic()) / (len(others) + 1 - place)
        try:
            return one, *_probe(one, share, protocols)
        except TransportError:
            continue  # this address shows none: try the next
    return last, *_probe(last, end - time.monotonic(), protocols)


class HandshakeFailed(TransportError):
    """The peer does not complete a TLS 1.3 handshake with a certificate."""

    code = "handshake-failed"
    default_fix = "check the address: an enclave speaks TLS 1.3 and shows its certificate"
    says = "{thing}: no TLS 1.3 handshake with a certificate: {found}"


class EnclaveCertificateChainPresented(BindingError):
    """The peer sent more than its own certificate, so evidence could sit where no key is used."""

    code = "enclave-certificate-chain-presented"
    default_fix = "check the address: an enclave sends one certificate"


def probe(address: Address, timeout: float, *, ours: bool = True) -> bytes:
    """The one certificate that a peer shows in a TLS 1.3 handshake, as DER.

    Its message: RFC 8446, section 4.4.2.

    Neither the own certificate nor data are sent; the connection is closed after the handshake.

    Args:
        address: By number.
        timeout: Seconds for connection and handshake together.
        ours: It is to be an enclave of this project: it speaks HTTP/2 and shows one certificate.
            Of other servers, whose certificates are never pinned, an authority's may follow.

    Raises:
        PeerUnreachable: Nothing listens there.
        HandshakeFailed: No TLS 1.3, or no certificate was shown.
        HandshakeOversized: The peer sent more than any handshake has.
        DeadlineExceeded: The peer took longer than `timeout`.
        EnclaveCertificateChainPresented: More than one certificate was shown.
    """
    return _probe(address, timeout, [HTTP2] if ours else [])[0]


def _probe(address: Address, timeout: float, protocols: list[bytes]) -> tuple[bytes, bytes]:
    """The certificate, and which of these protocols (RFC 7301, section 3.1) the peer speaks.

    Args:
        protocols: Of this project; none for other servers.
    """
    deadline, ours = time.monotonic() + timeout, bool(protocols)
    shown: list[bytes] = []
    try:
        connection = socket.create_connection(
            (address.host, address.port), timeout=max(timeout, 0.001)
        )
    except TimeoutError as error:
        raise _late(address) from error
    except OSError as error:
        raise PeerUnreachable(
            str(address), expected="a listening enclave", found=error.strerror or "no connection"
        ) from error
    with connection:
        tls = SSL.Connection(_context(shown, protocols), None)  # between two buffers in memory
        tls.set_connect_state()
        _handshake(tls, connection, address, deadline)
        chain = tls.get_peer_cert_chain() or []
    # A resumed session shows no certificate and proves nothing about today's.
    if not shown or tls.get_protocol_version_name() != "TLSv1.3":
        raise HandshakeFailed(str(address), expected="TLS 1.3 and a certificate", found="not both")
    own = [crypto.dump_certificate(crypto.FILETYPE_ASN1, one) for one in chain]
    if not ours and own:
        return own[0], b""  # the one that the key of this handshake belongs to
    if len(chain) != 1 or set(shown) != set(own):
        raise EnclaveCertificateChainPresented(
            str(address), expected="one certificate", found=f"{len(chain)}"
        )
    return shown[0], tls.get_alpn_proto_negotiated()


def _context(shown: list[bytes], protocols: list[bytes]) -> SSL.Context:
    """A fresh context per probe: no session can be carried over (RFC 8446, section 2.2)."""

    def take(_: SSL.Connection, certificate: crypto.X509, __: int, depth: int, ___: int) -> bool:
        shown.append(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
        # Not trusted: it only shows that the peer holds the key (RFC 8446, section 4.4.3).
        return True

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if protocols:
        context.set_alpn_protos(protocols)
    context.set_verify(SSL.VERIFY_PEER, take)
    return context


class HandshakeOversized(TransportError):
    """The peer sends more than any handshake has, and does not end it."""

    code = "handshake-oversized"
    default_fix = "check the address: the peer is no enclave of this project"


def _handshake(
    tls: SSL.Connection, connection: socket.socket, address: Address, deadline: float
) -> None:
    connection.setblocking(False)
    received, ended = 0, False
    while True:
        try:
            tls.do_handshake()
            ended = True
        except SSL.WantReadError:
            pass  # of what is in memory: the rest has to be read
        except SSL.Error as error:
            raise _broken_off(address) from error
        try:
            _send(tls, connection, address, deadline)
            if ended:
                return
            _wait(address, deadline, connection, select.POLLIN)
            piece = connection.recv(_PIECE)
        except OSError as error:
            raise _broken_off(address) from error
        if not piece:
            raise _broken_off(address)
        received += len(piece)
        if received > MAX_HANDSHAKE:
            raise HandshakeOversized(
                str(address), expected=f"a handshake of at most {MAX_HANDSHAKE} bytes", found="more"
            )
        tls.bio_write(piece)


def _send(
    tls: SSL.Connection, connection: socket.socket, address: Address, deadline: float
) -> None:
    while True:
        try:
            left = tls.bio_read(_PIECE)
        except SSL.WantReadError:
            return  # nothing left to send
        while left:
            _wait(address, deadline, connection, select.POLLOUT)
            left = left[connection.send(left) :]


def _wait(address: Address, deadline: float, connection: socket.socket, event: int) -> None:
    left = deadline - time.monotonic()
    waiting = select.poll()  # `select` takes no file descriptor above 1023
    waiting.register(connection, event)
    # Checked even if the peer never stops sending.
    if left <= 0 or not waiting.poll(left * 1000):
        raise _late(address)


def _late(address: Address) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the TLS handshake with {address}", expected="its end in time", found="none"
    )


def _broken_off(address: Address) -> HandshakeFailed:
    return HandshakeFailed(
        str(address), expected="a TLS 1.3 handshake", found="the peer ended it early"
    )
