"""Attested connections: a client and a server on TLS 1.3, for any protocol.

    verifier = Verifier(lambda: expectation)
    with Listener(Address("127.0.0.1", 0), enclave, lambda: policy) as listener:
        threading.Thread(target=listener.serve, args=[answer]).start()
        with connect(listener.address, identity, verifier) as connection:
            connection.sendall(b"question")
            connection.recv(65536)

The client judges the server's certificate in the handshake, before it shows its own, and then
challenges it on this very connection; the evidence names a value of the TLS exporter. The server
admits exactly the channel certificates of the policy, and, where it is told so, enclaves that the
policy admits and that prove themselves likewise. Nothing goes either way before.
"""

from __future__ import annotations

import hashlib
import select
import socket
import time

from ratls.address import Address, PeerUnreachable
from ratls.appraise import appraise_certificate
from ratls.attested_socket import AttestedSocket as AttestedSocket
from ratls.environment import prepare_process
from ratls.errors import DeadlineExceeded, TransportError
from ratls.identity import EnclaveIdentity
from ratls.listener import Limits as Limits
from ratls.listener import Listener as Listener
from ratls.pin import ChannelIdentity
from ratls.session import Verifier as Verifier
from ratls.socket_session import SocketPeer, session_of
from ratls.tls import PIECE, Shown, SocketHandshakeFailed, TlsEnd


def connect(
    address: Address,
    own: ChannelIdentity | EnclaveIdentity | Shown,
    verifier: Verifier,
    *,
    timeout: float = 10.0,
) -> AttestedSocket:
    """Connect to an enclave, and let it prove itself; nothing of the caller's is sent before.

    Args:
        address: From local configuration; a name is tried at each of its addresses.
        own: The party's channel certificate, or this enclave's identity as a client.
        verifier: With what the enclave is judged, now and while the connection lasts.
        timeout: Seconds for all of it.

    Raises:
        TransportError: Nothing listens there, or the peer refuses, or is late.
        RatlsError: What the appraisal of its certificate or of its answer says.
    """
    prepare_process()
    shown = own if isinstance(own, Shown) else Shown.of(own)
    ends = time.monotonic() + timeout
    *others, last = address.resolve_all(timeout)
    for place, one in enumerate(others):
        share = (ends - time.monotonic()) / (len(others) + 1 - place)
        try:
            raw = _reach(one, share)
        except TransportError:
            continue  # this address has no listener: try the next
        return _attested(raw, one, shown, verifier, ends)
    return _attested(_reach(last, ends - time.monotonic()), last, shown, verifier, ends)


def _reach(address: Address, seconds: float) -> socket.socket:
    try:
        return socket.create_connection((address.host, address.port), max(seconds, 0.001))
    except TimeoutError as error:
        raise _late(address) from error
    except OSError as error:
        raise PeerUnreachable(
            str(address), expected="a listening enclave", found=error.strerror or "no connection"
        ) from error


def _attested(
    raw: socket.socket, address: Address, shown: Shown, verifier: Verifier, ends: float
) -> AttestedSocket:
    def judge(der: bytes) -> SocketPeer:
        admitted = appraise_certificate(der, verifier.expect(), at=verifier.clock())
        return SocketPeer(hashlib.sha256(admitted.spki).digest(), None, admitted)

    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = TlsEnd(shown, judge, client=True)
        _handshake(raw, tls, address, ends)
        session = session_of(tls, shown, verifier, verifier.seconds, client=True)
        connection = AttestedSocket(raw, tls, session, str(address))
    except OSError as error:
        raw.close()
        raise SocketHandshakeFailed(
            str(address), expected="a handshake of TLS 1.3", found="the peer ended it early"
        ) from error
    except BaseException:
        raw.close()
        raise
    try:
        connection.establish(ends - time.monotonic(), client=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _handshake(raw: socket.socket, tls: TlsEnd[SocketPeer], address: Address, ends: float) -> None:
    """Checked against the clock even if the peer never stops sending."""
    thing = str(address)
    while True:
        try:
            ended = tls.step(thing)
        finally:
            raw.settimeout(max(ends - time.monotonic(), 0.001))
            if out := tls.take():
                try:
                    raw.sendall(out)
                except TimeoutError as error:
                    raise _late(address) from error
        if ended:
            return
        waiting = select.poll()
        waiting.register(raw, select.POLLIN)
        left = ends - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise _late(address)
        tls.feed_handshake(raw.recv(PIECE), thing)


def _late(address: Address) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the handshake with {address}", expected="its end in time", found="none"
    )
