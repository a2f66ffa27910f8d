"""The draft's goals: several authentications together, and a verifier that asks nobody."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ratls import cbor
from ratls.address import Address
from ratls.certificate import build_certificate
from ratls.errors import CallFailed
from ratls.evidence import EvidenceMalformed, make_evidence
from ratls.listener import PeerNotListed
from ratls.pin import ChannelIdentity
from tests.attacks.seat import line
from tests.support.flight_peers import NOW, Study
from tests.support.oracle import universal_oracle
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.stage import SAID, Stage
from tests.support.transports import (
    ALL,
    HTTP,
    SOCKETS,
    TUNNEL,
    Transport,
    answering,
)
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)


@line("certificate, evidence and party together", holds=ALL)
def test_each_part_of_a_compound_authentication_is_needed(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """I03: the honest connection, and the same without the party; the page's other lines take away
    the evidence, the key and the machine."""
    stranger = ChannelIdentity.of(local_party("dora-lab", NOW))
    stage.on(transport)
    with (
        stage.serve() as served,
        universal_oracle(stage, server=stage.recorded(PeerNotListed)),
    ):
        with refused(CallFailed), transport.connect(study, served.address, stranger) as speak:
            speak(SAID)
        assert not served.heard


@line("a public authority vouches for it", refused=ALL)
def test_a_certificate_that_an_authority_has_signed(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """The usual authorities are asked nothing, and can vouch for nothing: evidence for the same
    key in a certificate that somebody else has signed is refused."""
    genuine, authority = study.identity(), ec.generate_private_key(ec.SECP256R1())
    evidence = make_evidence(genuine._attester, genuine._claims)
    own = build_certificate(genuine._tls_key, evidence, genuine.instance, 7, NOW, b"")
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A Public Authority")]),
        own.subject,
        own.public_key(),
        own.serial_number,
        own.not_valid_before_utc,
        own.not_valid_after_utc,
        list(own.extensions),
    )
    signed = builder.sign(authority, hashes.SHA256())
    attacker = answering(genuine, genuine.answer_challenge)  # type: ignore[arg-type]
    attacker.certificate_der = signed.public_bytes(Encoding.DER)
    attacker.certificate_pem = signed.public_bytes(Encoding.PEM)
    count_refusal()
    with universal_oracle(stage.on(transport)), stage.serve(attacker) as served:
        with pytest.raises(RatlsError) as caught, transport.connect(study, served.address) as speak:
            speak(SAID)
        assert caught.value.check == "certificate-profile"
        assert not served.heard


@line("passport instead of background check", not_offered=ALL)
def test_a_verdict_in_place_of_evidence(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B20: what a verifier of somebody else's has found is no evidence here."""
    passport = cbor.encode({"eat_profile": "tag:ietf.org,2026:ear", "status": "affirming"})
    attacker = answering(study.identity(), lambda *_: passport)
    with universal_oracle(stage.on(transport)), stage.serve(attacker) as served:
        with (
            refused(EvidenceMalformed, check="challenge-evidence"),
            transport.connect(study, served.address) as speak,
        ):
            speak(SAID)
        assert not served.heard


@line("privacy of the verifier", holds=ALL)
def test_the_verifier_asks_nobody(
    study: Study, stage: Stage, transport: Transport, holds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects to the enclave's address and nowhere else, at no authority's and no service's."""
    count_refusal()
    places: list[Any] = []
    to = socket.socket.connect

    def noted(self: socket.socket, place: Any) -> None:
        places.append(place)
        to(self, place)

    with (
        transport.serve(study) as served,
        Relay((served.address.host, served.address.port)) as relay,
    ):
        monkeypatch.setattr(socket.socket, "connect", noted)
        with transport.connect(study, Address.parse(relay.address)) as speak:
            speak(SAID)
            served.wait_for(SAID)
        monkeypatch.undo()
    assert {host for host, *_ in places} == {"127.0.0.1"}
    assert len(relay.connections) == (1 if transport in ON_SOCKETS else 2)  # a probe comes first
