"""The probe: it sees the certificate of today's peer, says nothing, and waits for nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from ratls.address import Address, AddressMalformed, PeerUnreachable
from ratls.certificate import build_certificate
from ratls.errors import DeadlineExceeded
from ratls.probe import EnclaveCertificateChainPresented, HandshakeFailed, probe, probe_name
from tests.support.flight_peers import (
    LOOPBACK,
    Script,
    Study,
    serving,
    silent_server,
    tls_server,
)
from tests.support.intel import AT
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, given_time

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(serial: int = 1) -> x509.Certificate:
    return build_certificate(KEY, bytes(200), serial.to_bytes(16, "big"), serial, AT)


def der(of: x509.Certificate) -> bytes:
    return of.public_bytes(Encoding.DER)


def test_the_certificate_of_a_flight_server_that_demands_one_of_ours(study: Study) -> None:
    """Own certificate and every byte of data stay here: only a handshake leaves."""
    identity, channel = study.identity(), study.channel()
    script = Script(identity, channel.spki_sha256)
    with (
        serving(script, channel) as server,
        Relay((LOOPBACK, server.address.port)) as relay,
    ):
        assert probe(Address.parse(relay.address), HANG_LIMIT) == identity.certificate_der
        assert len(relay.connections) == 1
        assert len(relay.connections[0].sent) < 2048
        assert script.hellos == 0


def test_every_probe_is_a_full_handshake_with_the_certificate_of_today() -> None:
    """B11: a resumed session would report the certificate of the session before."""
    with tls_server([certificate(1)], KEY) as server:
        for _ in range(3):
            assert probe(server.address, HANG_LIMIT) == der(certificate_of(server.address))
        assert server.received == b""


def certificate_of(address: Address) -> x509.Certificate:
    return x509.load_der_x509_certificate(probe(address, HANG_LIMIT))


def test_server_that_speaks_tls_12_at_most() -> None:
    """B10: TLS 1.2 shows the certificate, and much else, in the clear."""
    with (
        tls_server([certificate()], KEY, version=SSL.TLS1_2_VERSION) as server,
        refused(HandshakeFailed),
    ):
        probe(server.address, HANG_LIMIT)


def test_leaf_that_hides_behind_a_certificate_with_evidence() -> None:
    """B13: evidence in an intermediate says nothing about the key of the leaf."""
    other = ec.generate_private_key(ec.SECP256R1())
    leaf = build_certificate(other, bytes(200), b"l" * 16, 3, AT)
    with (
        tls_server([leaf, certificate()], other) as server,
        refused(EnclaveCertificateChainPresented),
    ):
        probe(server.address, HANG_LIMIT)


def test_peer_that_accepts_and_stays_silent() -> None:
    """Without a deadline of its own the probe would wait for ever."""
    with silent_server() as address, refused(DeadlineExceeded):
        probe(address, 0.1)


def test_peer_that_hangs_up() -> None:
    with silent_server() as gone:
        pass
    with Relay((gone.host, gone.port)) as relay, refused(HandshakeFailed):
        probe(Address.parse(relay.address), HANG_LIMIT)


def test_nobody_listens() -> None:
    with silent_server() as address:
        gone = address
    with refused(PeerUnreachable):
        probe(gone, HANG_LIMIT)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:65535", "enclave.example:7443"])
def test_addresses_that_are_read(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:٣",
        "grpc://127.0.0.1:1",
        "grpc+tls://127.0.0.1:1",
        "user@host:1",
        "host:1/path",
        "host:1\n",
        "::1:443",
    ],
)
def test_addresses_that_could_mean_more(text: str) -> None:
    """I10, B21: a scheme of the caller's, `grpc://` among them, would undo the pin."""
    with refused(AddressMalformed):
        Address.parse(text)


@contextmanager
def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> Iterator[None]:
    """A name with these addresses, in this order."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        places = Address("enclave.example", 1).resolve_all(HANG_LIMIT)
    assert [place.host for place in places] == list(dict.fromkeys(hosts))
    with monkeypatch.context() as patch:
        patch.setattr(
            Address,
            "resolve_all",
            lambda self, _: tuple(Address(place.host, self.port) for place in places),
        )
        yield


@pytest.mark.parametrize("hosts", [(LOOPBACK,), ("127.0.0.9", LOOPBACK), (LOOPBACK, "127.0.0.9")])
def test_every_address_of_a_name_is_tried_and_one_is_kept(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...]
) -> None:
    """The enclave listens on one of them only; `localhost` is ::1 first on many machines."""
    with tls_server([certificate(1)], KEY) as server, named(monkeypatch, *hosts):
        place, shown = probe_name(Address("enclave.example", server.address.port), HANG_LIMIT)
    assert place == server.address
    assert x509.load_der_x509_certificate(shown).serial_number == certificate(1).serial_number


def test_a_name_none_of_whose_addresses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as gone:
        pass
    with named(monkeypatch, "127.0.0.9", LOOPBACK), refused(PeerUnreachable):
        probe_name(Address("enclave.example", gone.port), HANG_LIMIT)


def test_an_address_that_is_silent_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        tls_server([certificate(1)], KEY) as server,
        socket.create_server(("127.0.0.9", server.address.port)),
        named(monkeypatch, "127.0.0.9", LOOPBACK),
    ):
        address = Address("enclave.example", server.address.port)
        place, _ = given_time(lambda seconds: probe_name(address, seconds), 2, DeadlineExceeded)
    assert place == server.address


def test_a_verdict_on_one_address_is_not_asked_again_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what says nothing about anybody lets the next address be tried."""
    other = ec.generate_private_key(ec.SECP256R1())
    leaf = build_certificate(other, bytes(200), b"l" * 16, 3, AT)
    with (
        tls_server([leaf, certificate()], other) as server,
        named(monkeypatch, LOOPBACK, "127.0.0.9"),
        refused(EnclaveCertificateChainPresented),
    ):
        probe_name(Address("enclave.example", server.address.port), HANG_LIMIT)


def test_a_name_is_resolved_once_and_an_unknown_one_refused() -> None:
    assert Address.parse("localhost:7443").resolve_all(HANG_LIMIT)[0].is_numeric
    with refused(PeerUnreachable):
        Address.parse("nowhere.invalid:7443").resolve_all(HANG_LIMIT)
