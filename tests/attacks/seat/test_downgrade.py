"""Everything that could be negotiated down, from either end. Nothing falls back to less.

The attacker offers less than what was agreed: no TLS, an older one, no evidence, evidence of
another form, rows that are not sealed, no client certificate, another version of the protocol.
Alice says nothing to such a server, and the enclave hears nothing from such a client.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from policy.channel import self_signed
from ratls.attested_socket import DATA, FrameUnexpected, message_frame
from ratls.certificate import ENCLAVE_NAME, EvidenceMissing
from ratls.claims import ConnectionUnbound, SealingKeyUnbound
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed
from ratls.session import SessionMessageUnexpected, read_message, write_message
from ratls.tls import Shown, SocketHandshakeFailed
from tests.attacks.seat import line
from tests.support.flight_peers import NOW, Study, tls_server
from tests.support.oracle import universal_oracle
from tests.support.refusal import count_refusal, refused
from tests.support.stage import SAID, Stage
from tests.support.transports import (
    ALL,
    FLIGHT,
    HTTP,
    SOCKETS,
    TUNNEL,
    Served,
    Transport,
    answering,
    cut_off,
    raw_connection,
    read_frame,
    tcp_server,
)
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)
KEY = ec.generate_private_key(ec.SECP256R1())
OPEN_ENCLAVE = x509.ObjectIdentifier("1.3.6.1.4.1.311.105.1")


def alpn(transport: Transport) -> bytes:
    return b"ratls/1" if transport in ON_SOCKETS else b"h2"


def certificate(*further: x509.ExtensionType) -> x509.Certificate:
    """One that TLS alone has nothing against."""
    return self_signed(
        KEY,
        "an enclave",
        [ExtendedKeyUsageOID.SERVER_AUTH],
        known_as=x509.DNSName(ENCLAVE_NAME),
        at=NOW,
        lifetime=timedelta(days=3),
        further=further,
    )


# Servers that offer less


@line("negotiated down", refused=ALL)
def test_a_server_without_tls(study: Study, stage: Stage, transport: Transport, holds: str) -> None:
    """S34: there is no second attempt without it."""
    received = bytearray()
    connections: list[socket.socket] = []

    def answer(taken: socket.socket) -> None:
        connections.append(taken)
        with taken, suppress(ConnectionError):
            received.extend(taken.recv(1 << 16))
            taken.sendall(b"HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\n\r\n")

    leaf = SocketHandshakeFailed if transport in ON_SOCKETS else HandshakeFailed
    with universal_oracle(stage.on(transport)), tcp_server(answer) as place:
        with refused(leaf), transport.connect(study, place) as speak:
            speak(SAID)
        assert received[:1] == b"\x16"  # RFC 8446, section 5.1: a handshake, and nothing else
        assert len(connections) == 1


@line("negotiated down", refused=ALL)
def test_a_server_of_an_older_tls(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B10: 1.2 would show the certificate in the clear."""
    leaf = SocketHandshakeFailed if transport in ON_SOCKETS else HandshakeFailed
    with (
        universal_oracle(stage.on(transport)),
        tls_server([certificate()], KEY, SSL.TLS1_2_VERSION, alpn(transport)) as server,
    ):
        with refused(leaf), transport.connect(study, server.address) as speak:
            speak(SAID)
        assert server.received == b""


@line("negotiated down", refused=ALL)
@pytest.mark.parametrize(
    "further", [(), (x509.UnrecognizedExtension(OPEN_ENCLAVE, bytes(200)),)], ids=["none", "other"]
)
def test_a_server_without_evidence_or_with_that_of_another_profile(
    study: Study,
    stage: Stage,
    transport: Transport,
    holds: str,
    further: tuple[x509.ExtensionType, ...],
) -> None:
    """B05, B12: a usual certificate, and one of another format, are the same nothing."""
    with (
        universal_oracle(stage.on(transport)),
        tls_server([certificate(*further)], KEY, alpn=alpn(transport)) as server,
    ):
        with refused(EvidenceMissing), transport.connect(study, server.address) as speak:
            speak(SAID)
        assert server.received == b""


@line("negotiated down", refused=ALL)
def test_a_server_of_another_protocol(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """The enclave's own certificate and key, and a version that answers to another name."""
    identity = study.identity()
    shown = Shown.of(identity)
    with (
        universal_oracle(stage.on(transport)),
        tls_server([shown.certificate], shown.key, alpn=b"ratls/0") as server,
    ):
        leaf = SocketHandshakeFailed if transport in ON_SOCKETS else HandshakeFailed
        with refused(leaf), transport.connect(study, server.address) as speak:
            speak(SAID)
        assert SAID not in server.received


@line("negotiated down", refused=[SOCKETS, HTTP, TUNNEL, FLIGHT])
def test_evidence_that_leaves_out_what_it_should_be_about(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """As an older version made it: without the connection, or without the key for the rows."""
    identity = study.identity()
    older = answering(
        identity,
        lambda nonce, peer, task, *_: identity.answer_challenge(nonce, peer, task),  # type: ignore[arg-type]
    )
    leaf = SealingKeyUnbound if transport is FLIGHT else ConnectionUnbound
    with universal_oracle(stage.on(transport)), stage.serve(older) as served:
        with refused(leaf), transport.connect(study, served.address) as speak:
            speak(SAID)
        assert not served.heard


# Clients that offer less


@contextmanager
def nothing_heard(stage: Stage, leaf: type[RatlsError] = SocketHandshakeFailed) -> Iterator[Served]:
    """The program is told nothing."""
    count_refusal()
    with stage.serve() as served, universal_oracle(stage, server=stage.recorded(leaf)):
        yield served
        assert not served.heard


@line("negotiated down", refused=ALL)
def test_a_client_without_tls(study: Study, stage: Stage, transport: Transport, holds: str) -> None:
    own = b"words in clear"
    said = {SOCKETS: bytes([DATA, 0, 0, len(own)]) + own, TUNNEL: own}.get(
        transport, b"POST / HTTP/1.1\r\nContent-Length: 14\r\n\r\n" + own
    )
    with (
        nothing_heard(stage.on(transport)) as served,
        socket.create_connection((served.address.host, served.address.port)) as raw,
    ):
        raw.sendall(said)
        with suppress(ConnectionError):
            while raw.recv(1 << 16):
                pass


def shown_by_alice(study: Study, *protocols: bytes) -> SSL.Context:
    shown = Shown.of(study.channel())
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos(list(protocols))
    context.use_certificate(shown.certificate)
    context.use_privatekey(shown.key)
    return context


@contextmanager
def handshake(context: SSL.Context, served: Served) -> Iterator[SSL.Connection]:
    with socket.create_connection((served.address.host, served.address.port)) as raw:
        tls = SSL.Connection(context, raw)
        tls.set_connect_state()
        tls.do_handshake()
        yield tls


@line("negotiated down", refused=ALL)
@pytest.mark.parametrize("protocol", [b"ratls/0", b"http/1.1"])
def test_a_client_of_another_protocol(
    study: Study, stage: Stage, transport: Transport, holds: str, protocol: bytes
) -> None:
    """With Alice's certificate and key, and yet no word is exchanged."""
    context = shown_by_alice(study, protocol)
    with (
        nothing_heard(stage.on(transport)) as served,
        pytest.raises(SSL.Error),
        handshake(context, served) as tls,
    ):
        cut_off(tls)


@line("negotiated down", refused=ALL)
def test_a_client_of_an_older_tls(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B10: with Alice's certificate and key."""
    context = shown_by_alice(study, alpn(transport))
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    with (
        nothing_heard(stage.on(transport)) as served,
        pytest.raises(SSL.Error),
        handshake(context, served) as tls,
    ):
        cut_off(tls, SAID)


@line("negotiated down", refused=ALL)
def test_a_client_without_a_certificate(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """I01."""
    with (
        nothing_heard(stage.on(transport)) as served,
        pytest.raises(SSL.Error),
        raw_connection(served.address, None, alpn(transport)) as tls,
    ):
        cut_off(tls, message_frame(write_message("hello", nonce=bytes(32))))


@line("negotiated down", refused=ON_SOCKETS)
@pytest.mark.parametrize(
    ("first", "leaf"),
    [
        (bytes([DATA, 0, 0, 1, 1]), FrameUnexpected),
        (b"\x09\0\0\0", FrameUnexpected),
        (b"\x01\0\0\x01\xa0", SessionMessageUnexpected),
    ],
    ids=["data", "other-kind", "no-message"],
)
def test_a_client_that_begins_with_another_frame(
    study: Study,
    stage: Stage,
    transport: Transport,
    holds: str,
    first: bytes,
    leaf: type[RatlsError],
) -> None:
    """S1: data instead of the challenge, a frame of another version, a message that is none."""
    with (
        nothing_heard(stage.on(transport), leaf) as served,
        raw_connection(served.address, Shown.of(study.channel())) as tls,
    ):
        tls.sendall(first)
        with refused(PeerRefused):
            read_message(read_frame(tls)[1], "evidence")
