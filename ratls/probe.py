"""Ask a peer for its certificate, and say nothing.

    der = probe(Address.parse("127.0.0.1:7443").resolve(), timeout=10)

Neither Flight nor gRPC lets a client look at the peer's certificate, so it is fetched by a
handshake of its own and then pinned. That leaves no gap: whoever answers later must hold the
key of exactly this certificate (flight.md 0.4).
"""

from __future__ import annotations

import select
import socket
import time

from OpenSSL import SSL, crypto

from ratls.address import Address
from ratls.errors import (
    DeadlineExceeded,
    EnclaveCertificateChainPresented,
    HandshakeFailed,
    PeerUnreachable,
)


def probe(address: Address, timeout: float) -> bytes:
    """The one certificate that a peer shows in a TLS 1.3 handshake, as DER.

    Own certificate and data are withheld: the connection is dropped after the handshake.

    Args:
        address: From local configuration.
        timeout: Seconds for connection and handshake together.

    Raises:
        PeerUnreachable: Nobody listens there.
        HandshakeFailed: No TLS 1.3, or no certificate was shown.
        DeadlineExceeded: The peer took longer than `timeout`.
        EnclaveCertificateChainPresented: More than one certificate was shown.
    """
    deadline = time.monotonic() + timeout
    shown: list[bytes] = []
    try:
        connection = socket.create_connection((address.host, address.port), timeout=timeout)
    except TimeoutError as error:
        raise _late(address) from error
    except OSError as error:
        raise PeerUnreachable(
            str(address), expected="a listening enclave", found=error.strerror or "no connection"
        ) from error
    with connection:
        tls = SSL.Connection(_context(shown), connection)
        tls.set_connect_state()
        _handshake(tls, connection, address, deadline)
        chain = tls.get_peer_cert_chain() or []
    # A resumed session shows no certificate and proves nothing about today's.
    if not shown or tls.get_protocol_version_name() != "TLSv1.3":
        raise HandshakeFailed(str(address), expected="TLS 1.3 and a certificate", found="neither")
    if len(chain) != 1 or set(shown) != {crypto.dump_certificate(crypto.FILETYPE_ASN1, chain[0])}:
        raise EnclaveCertificateChainPresented(
            str(address), expected="one certificate", found=f"{len(chain)}"
        )
    return shown[0]


def _context(shown: list[bytes]) -> SSL.Context:
    """A fresh context per probe: no session, hence no resumption, can be carried over."""

    def take(_: SSL.Connection, certificate: crypto.X509, __: int, depth: int, ___: int) -> bool:
        shown.append(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
        return True  # believed by nobody yet: the handshake only shows who holds the key

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_alpn_protos([b"h2"])
    context.set_verify(SSL.VERIFY_PEER, take)
    return context


def _handshake(
    tls: SSL.Connection, connection: socket.socket, address: Address, deadline: float
) -> None:
    connection.setblocking(False)
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            _wait(address, deadline, reading=connection)
        except SSL.WantWriteError:
            _wait(address, deadline, writing=connection)
        except (SSL.Error, OSError) as error:
            raise HandshakeFailed(
                str(address), expected="a TLS 1.3 handshake", found="the peer broke it off"
            ) from error
        else:
            return


def _wait(
    address: Address,
    deadline: float,
    *,
    reading: socket.socket | None = None,
    writing: socket.socket | None = None,
) -> None:
    left = max(deadline - time.monotonic(), 0)
    ready = select.select([reading] if reading else [], [writing] if writing else [], [], left)
    if not any(ready):
        raise _late(address)


def _late(address: Address) -> DeadlineExceeded:
    return DeadlineExceeded(str(address), expected="a handshake in time", found="none")
