"""The pin: every way in which a Flight client fails open, or talks to somebody else."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from ratls import errors
from ratls.address import Address
from ratls.pin import pinned_client
from ratls.probe import probe
from ratls.stream import Kind
from tests.support.flight_peers import (
    LOOPBACK,
    Script,
    Study,
    serving,
    tls_server,
)
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay

ROOT = Path(__file__).parent.parent.parent


def script(study: Study) -> Script:
    return Script(study.identity(), study.channel().spki_sha256)


@pytest.mark.parametrize("pin", [None, b"", b"-----BEGIN CERTIFICATE-----", object()])
def test_a_pin_that_is_no_admitted_certificate(study: Study, pin: Any) -> None:
    """flight.md 0.7: None and b"" mean "any root of this system"."""
    with refused(errors.PinUnusable):
        pinned_client(Address(LOOPBACK, 1), pin, study.channel())


def test_an_address_that_would_be_resolved_again(study: Study) -> None:
    """B21: DNS may say something else than at the probe."""
    admitted = study.admitted(study.identity())
    with refused(errors.PinUnusable):
        pinned_client(Address("localhost", 1), admitted, study.channel())


def test_flight_clients_are_made_in_one_place_and_verification_is_never_off() -> None:
    """I10: one more constructor is one more chance to fail open."""
    made = []
    for package in ("ratls", "provider", "enclave_app", "scheduler", "policy", "verifier"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute | ast.Name):
                    name = node.attr if isinstance(node, ast.Attribute) else node.id
                    if name == "FlightClient" or ast.unparse(node) == "flight.connect":
                        made.append(path.name)
                if isinstance(node, ast.keyword):
                    assert node.arg != "disable_server_verification", path
    assert set(made) <= {"pin.py"}


def test_server_that_talks_plaintext_at_the_probed_address(study: Study) -> None:
    """Under the scheme grpc:// the client would have ignored its pin and sent everything."""
    with flight.FlightServerBase(f"grpc://{LOOPBACK}:0") as plain:
        admitted = study.admitted(study.identity())
        with (
            refused(errors.CallFailed),
            study.exchange(Kind.ATTEST, Address(LOOPBACK, plain.port), admitted, timeout=5),
        ):
            pass


def test_proxy_variables_name_a_listener(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """B21: gRPC honours them, the probe does not: verified here, connected there."""
    with (
        serving(script(study), study.channel()) as server,
        Relay((LOOPBACK, server.port)) as decoy,
    ):
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{decoy.address}")
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.ATTEST, server.address, admitted) as exchange:
            assert exchange.fresh
        assert decoy.connections == []


def test_server_swapped_between_probe_and_connection(study: Study) -> None:
    """flight.md 0.4: same code, same policy, genuinely attested; yet not the one verified."""
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.port)) as relay,
    ):
        address = Address.parse(relay.address)
        admitted = study.admitted(first.script.identity)
        assert probe(address, 5) == admitted.der
        relay.point_at((LOOPBACK, second.port))
        with (
            refused(errors.CallFailed),
            study.exchange(Kind.ATTEST, address, admitted, timeout=5),
        ):
            pass
        assert second.script.hellos == 0


def test_server_swapped_between_two_calls_of_one_client(study: Study) -> None:
    """B18: gRPC reconnects silently; the pin holds for every connection that it makes."""
    count_refusal()
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.port)) as relay,
    ):
        admitted = study.admitted(first.script.identity)
        with pinned_client(Address.parse(relay.address), admitted, study.channel()) as client:
            options = flight.FlightCallOptions(timeout=5)
            with pytest.raises(pa.ArrowNotImplementedError):
                list(client.list_actions(options))  # answered, by the first server
            relay.point_at((LOOPBACK, second.port))
            relay.cut()
            deadline = time.monotonic() + 10
            while len(relay.connections) < 3 and time.monotonic() < deadline:
                with pytest.raises((flight.FlightError, OSError)):
                    list(client.list_actions(options))
        assert len(relay.connections) >= 2  # it did reconnect, and got no further
        assert second.script.hellos == 0


def test_server_swapped_within_one_call(study: Study) -> None:
    """The call ends: it never goes on with somebody else, not even with an admitted twin."""
    with (
        serving(script(study), study.channel()) as first,
        serving(script(study), study.channel()) as second,
        Relay((LOOPBACK, first.port)) as relay,
    ):
        admitted = study.admitted(first.script.identity)
        address = Address.parse(relay.address)
        with (
            refused(errors.CallFailed),
            study.exchange(Kind.RELEASE, address, admitted, task=b"t") as exchange,
        ):
            relay.point_at((LOOPBACK, second.port))
            relay.cut()
            exchange.resume(b"commit")
        assert (first.script.uploads, second.script.hellos) == ([], 0)


def enclave_key(study: Study, identity: Any) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(identity.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def test_leaf_signed_by_the_pinned_certificate(study: Study) -> None:
    """flight.md 0.6: under a pinned CA:TRUE certificate this leaf would be believed."""
    identity = study.identity()
    pinned = x509.load_der_x509_certificate(identity.certificate_der)
    own = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(pinned.subject)
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
    with (
        tls_server([leaf], own) as server,
        refused(errors.CallFailed),
        study.exchange(Kind.ATTEST, server.address, study.admitted(identity), timeout=5),
    ):
        pass
    assert server.received == b""


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION])
def test_holder_of_the_pinned_key_that_speaks_tls_12(study: Study, version: int) -> None:
    """B10: with the right key and certificate, and a weaker protocol."""
    identity = study.identity()
    certificate = x509.load_der_x509_certificate(identity.certificate_der)
    with (
        tls_server([certificate], enclave_key(study, identity), version=version) as server,
        refused(errors.CallFailed),
        study.exchange(Kind.ATTEST, server.address, study.admitted(identity), timeout=5),
    ):
        pass
    assert server.received == b""
