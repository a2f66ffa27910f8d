"""The pin: every way in which a gRPC client fails open, or talks to somebody else."""

from __future__ import annotations

import ast
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

import ratls.pin
from ratls.address import Address
from ratls.certificate import ENCLAVE_NAME
from ratls.errors import CallFailed
from ratls.framing import Kind
from ratls.pin import (
    PinUnusable,
    close_channel,
    ending,
    pinned_channel,
)
from ratls.probe import probe
from tests.support.flight_peers import (
    LOOPBACK,
    Script,
    Study,
    key_pem,
    serving,
    tls_server,
)
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def script(study: Study) -> Script:
    return Script(study.identity(), study.channel().spki_sha256)


@pytest.mark.parametrize("pin", [None, b"", b"-----BEGIN CERTIFICATE-----", object()])
def test_a_pin_that_is_no_admitted_certificate(study: Study, pin: Any) -> None:
    """flight.md 1.3: None and b"" mean "any root of this system"."""
    with refused(PinUnusable):
        pinned_channel(Address(LOOPBACK, 1), pin, study.channel())


def test_an_address_that_would_be_resolved_again(study: Study) -> None:
    """B21: DNS may say something else than at the probe."""
    admitted = study.admitted(study.identity())
    with refused(PinUnusable):
        pinned_channel(Address("localhost", 1), admitted, study.channel())


PACKAGES = ("ratls", "provider", "enclave_app", "scheduler", "policy", "verifier", "simulation")
MAKES = {"secure_channel", "insecure_channel", "FlightClient", "ssl_channel_credentials"}


def test_channels_are_made_in_two_places_and_never_without_tls() -> None:
    """I10: one more constructor is one more chance to fail open."""
    made = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute | ast.Name):
                    name = node.attr if isinstance(node, ast.Attribute) else node.id
                    if name in MAKES:
                        made.add((str(path.relative_to(ROOT)), name))
    assert made == {
        (place, name)
        for place in ("ratls/pin.py", "scheduler/client.py")
        for name in ("secure_channel", "ssl_channel_credentials")
    }


def test_server_that_talks_plaintext_at_the_probed_address(study: Study) -> None:
    """Over an insecure channel the client would have had no pin, and sent everything."""
    plain = grpc.server(ThreadPoolExecutor(1))
    port = plain.add_insecure_port(f"{LOOPBACK}:0")
    plain.start()
    admitted = study.admitted(study.identity())
    try:
        with (
            refused(CallFailed),
            study.exchange(Kind.ATTEST, Address(LOOPBACK, port), admitted, timeout=HANG_LIMIT),
        ):
            pass
        with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
            assert outcome(channel) is SERVED
    finally:
        plain.stop(None).wait()


SERVED = grpc.StatusCode.UNIMPLEMENTED  # whatever answers has no method of this name


def outcome(channel: grpc.Channel) -> grpc.StatusCode:
    """`SERVED` if there is a peer that the channel believes."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/nothing/Nothing")(b"", timeout=HANG_LIMIT)
    error: Any = caught.value
    code: grpc.StatusCode = error.code()
    return code


def test_proxy_variables_name_a_listener(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """B21: gRPC honours them, the probe does not: verified here, connected there."""
    with (
        serving(script(study), study.channel()) as server,
        Relay((LOOPBACK, server.address.port)) as decoy,
    ):
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{decoy.address}")
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.ATTEST, server.address, admitted) as exchange:
            assert exchange.fresh
        assert decoy.connections == []


def test_server_swapped_between_probe_and_connection(study: Study) -> None:
    """flight.md 1.1: same code, same policy, genuinely attested; yet not the one verified."""
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.address.port)) as relay,
    ):
        address = Address.parse(relay.address)
        admitted = study.admitted(first.script.identity)
        assert probe(address, HANG_LIMIT) == admitted.der
        relay.point_at((LOOPBACK, second.address.port))
        with (
            refused(CallFailed),
            study.exchange(Kind.ATTEST, address, admitted, timeout=HANG_LIMIT),
        ):
            pass
        assert second.script.hellos == 0


def test_server_swapped_between_two_calls_of_one_client(study: Study) -> None:
    """B18: gRPC reconnects silently; the pin holds for every connection that it makes."""
    count_refusal()
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.address.port)) as relay,
    ):
        admitted = study.admitted(first.script.identity)
        with pinned_channel(Address.parse(relay.address), admitted, study.channel()) as channel:
            assert outcome(channel) is SERVED  # by the first server
            relay.point_at((LOOPBACK, second.address.port))
            relay.cut()

            def reconnected() -> bool:
                assert outcome(channel) is grpc.StatusCode.UNAVAILABLE
                return len(relay.connections) >= 3

            eventually(reconnected)  # and got no further
            relay.point_at((LOOPBACK, first.address.port))
            eventually(lambda: outcome(channel) is SERVED)
        assert second.script.hellos == 0


def test_server_swapped_within_one_call(study: Study) -> None:
    """The call ends: it never goes on with somebody else, not even with an admitted twin."""
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.address.port)) as relay,
    ):
        admitted = study.admitted(first.script.identity)
        address = Address.parse(relay.address)
        with (
            refused(CallFailed),
            study.exchange(Kind.RELEASE, address, admitted, task=b"t") as exchange,
        ):
            relay.point_at((LOOPBACK, second.address.port))
            relay.cut()
            exchange.resume(b"commit")
        assert (first.script.uploads, second.script.hellos) == ([], 0)


def enclave_key(study: Study, identity: Any) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(identity.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def reissued(
    study: Study, identity: Any, *, ca: bool = False, cert_sign: bool = False, usage: bool = True
) -> x509.Certificate:
    """The enclave's certificate with other marks, signed by its own key as before."""
    pinned = x509.load_der_x509_certificate(identity.certificate_der)
    key = enclave_key(study, identity)
    builder = x509.CertificateBuilder(
        pinned.issuer,
        pinned.subject,
        key.public_key(),
        pinned.serial_number,
        pinned.not_valid_before_utc,
        pinned.not_valid_after_utc,
    ).add_extension(x509.BasicConstraints(ca, None), critical=True)
    if usage:
        marks = [True, False, False, False, False, cert_sign, False, False, False]
        builder = builder.add_extension(x509.KeyUsage(*marks), critical=True)
    for extension in pinned.extensions:
        if not isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())


def leaf_of(study: Study, identity: Any, own: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """What somebody gets whose request the enclave's key has signed."""
    pinned = x509.load_der_x509_certificate(identity.certificate_der)
    return (
        x509.CertificateBuilder()
        # A name of its own: one that is its own issuer is refused for that alone.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]))
        .issuer_name(pinned.subject)
        .public_key(own.public_key())
        .serial_number(5)
        .not_valid_before(pinned.not_valid_before_utc)
        .not_valid_after(pinned.not_valid_after_utc)
        .add_extension(
            pinned.extensions.get_extension_for_class(x509.SubjectAlternativeName).value, False
        )
        .sign(enclave_key(study, identity), hashes.SHA256())
    )


def test_leaf_signed_by_the_pinned_certificate(study: Study) -> None:
    """flight.md 1.2: under a pinned CA:TRUE certificate this leaf would be believed."""
    identity, own = study.identity(), ec.generate_private_key(ec.SECP256R1())
    with (
        tls_server([leaf_of(study, identity, own)], own) as server,
        refused(CallFailed),
        study.exchange(Kind.ATTEST, server.address, study.admitted(identity), timeout=HANG_LIMIT),
    ):
        pass
    assert server.received == b""


@pytest.mark.parametrize(
    ("marks", "believed"),
    [
        ({"ca": True, "cert_sign": True}, True),  # what the appraisal and the pin refuse
        ({"ca": True, "usage": False}, True),
        ({"cert_sign": True}, True),
        ({"usage": False}, True),
        ({"ca": True}, False),
        ({}, False),
    ],
)
def test_a_usage_without_certificates_keeps_tls_from_believing_a_leaf(
    study: Study, marks: dict[str, bool], believed: bool
) -> None:
    """flight.md 1.2, of gRPC's own TLS library: without our checks, what would it do?"""
    identity, own = study.identity(), ec.generate_private_key(ec.SECP256R1())
    pin = reissued(study, identity, **marks).public_bytes(Encoding.PEM)
    leaf = leaf_of(study, identity, own).public_bytes(Encoding.PEM)
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(key_pem(own), leaf)])
    port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    server.start()
    try:
        with grpc.secure_channel(
            f"{LOOPBACK}:{port}",
            grpc.ssl_channel_credentials(pin),
            [("grpc.ssl_target_name_override", ENCLAVE_NAME)],
        ) as channel:
            expected = SERVED if believed else grpc.StatusCode.UNAVAILABLE
            assert outcome(channel) is expected
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    "marks",
    [{"ca": True}, {"cert_sign": True}, {"usage": False}, {"ca": True, "cert_sign": True}],
)
def test_an_issuer_that_passed_the_appraisal_is_not_pinned(
    study: Study, marks: dict[str, bool]
) -> None:
    """The second lock, with the first one broken."""
    identity = study.identity()
    admitted = study.admitted(identity)
    honest = reissued(study, identity).public_bytes(Encoding.DER)
    issuer = reissued(study, identity, **marks).public_bytes(Encoding.DER)
    object.__setattr__(admitted, "der", honest)
    pinned_channel(Address(LOOPBACK, 1), admitted, study.channel()).close()
    object.__setattr__(admitted, "der", issuer)
    with refused(PinUnusable):
        pinned_channel(Address(LOOPBACK, 1), admitted, study.channel())


def test_a_certificate_of_another_key_than_the_evidence_is_about(study: Study) -> None:
    identity = study.identity()
    admitted = study.admitted(identity)
    object.__setattr__(admitted, "der", study.identity().certificate_der)
    with refused(PinUnusable):
        pinned_channel(Address(LOOPBACK, 1), admitted, study.channel())


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION])
def test_holder_of_the_pinned_key_that_speaks_tls_12(study: Study, version: int) -> None:
    """B10: with the right key and certificate, and a weaker protocol."""
    identity = study.identity()
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    with (
        tls_server([certificate], enclave_key(study, identity), version=version) as server,
        refused(CallFailed),
        study.exchange(Kind.ATTEST, server.address, study.admitted(identity), timeout=HANG_LIMIT),
    ):
        pass
    assert server.received == b""


def test_a_channel_that_never_closes_is_left(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the start of a call: gRPC's own `close` waits for that call, for ever."""
    monkeypatch.setattr(ratls.pin, "_CLOSE_SECONDS", 0.05)
    never, closed = threading.Event(), threading.Event()

    class Stuck:
        def close(self) -> None:
            never.wait(HANG_LIMIT)
            closed.set()

    stuck: Any = Stuck()
    close_channel(stuck)
    assert not closed.is_set()
    never.set()
    assert closed.wait(HANG_LIMIT)


def test_a_channel_is_closed_behind_its_block(study: Study) -> None:
    identity, channel = study.identity(), study.channel()
    with serving(script(study), channel) as server:
        admitted = study.admitted(identity)
        with ending(pinned_channel(server.address, admitted, channel)) as open_:
            call = open_.unary_unary("/x/Y")
        with pytest.raises(ValueError, match="closed"):
            call(b"")
