"""Evidence that is not of this connection: replayed, forwarded, of another key, machine or start.

Each attacker has a server at the address that Alice knows. She refuses at one check, and nothing
that she says is heard; the universal oracle judges the rest.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from policy.admission import MachineNotListed
from policy.keys import spki_der
from policy.values import Digest, Nonce
from ratls.attested_socket import ConnectionCut
from ratls.certificate import build_certificate
from ratls.claims import (
    ConnectionUnbound,
    InstanceChanged,
    KeyUnbound,
    NonceMismatch,
    PeerHashMismatch,
)
from ratls.evidence import make_evidence
from ratls.identity import EnclaveIdentity
from ratls.server_stream import StreamTruncated
from ratls.session import Verifier
from tests.attacks.seat import line
from tests.support.channels import client_enclave
from tests.support.flight_peers import NOW, PlatformAttester, Study
from tests.support.oracle import Leaves, universal_oracle
from tests.support.refusal import refused
from tests.support.stage import SAID, Stage
from tests.support.transports import (
    ALL,
    FLIGHT,
    GRPC,
    HTTP,
    OWN_FLIGHT,
    SOCKETS,
    TUNNEL,
    Transport,
    answering,
)
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)


def require_nothing_heard(
    stage: Stage,
    attacker: EnclaveIdentity,
    leaf: type[RatlsError],
    check: str | None = None,
    verifier: Verifier | None = None,
) -> None:
    """Alice meets this server and refuses."""
    connect = partial(stage.transport.connect, stage.study, verifier=verifier)
    with universal_oracle(stage), stage.serve(attacker) as served:
        with refused(leaf, check=check), connect(served.address) as speak:
            speak(SAID)
        assert not served.heard


def challenged(**instead: bytes) -> Any:
    """An honest enclave's evidence, but for one thing that it is about."""

    def make(identity: EnclaveIdentity) -> EnclaveIdentity:
        def answer(nonce: bytes, peer: bytes, task: bytes, sealing: bytes, binder: bytes) -> bytes:
            made = {"nonce": nonce, "peer": peer, "binder": binder} | instead
            return identity.answer_challenge(
                Nonce(made["nonce"]), made["peer"], Digest(task), sealing, made["binder"]
            )

        return answering(identity, answer)

    return make


@line("evidence replayed", refused=ALL)
def test_evidence_of_an_earlier_connection(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B06, S8: the very bytes that answered Alice before, by a thief of the TLS key."""
    leaf = ConnectionUnbound if transport in ON_SOCKETS else NonceMismatch
    identity = study.identity()
    kept: list[bytes] = []

    def answer(*about: Any) -> bytes:
        kept.append(identity.answer_challenge(*about))
        return kept[0]

    attacker = answering(identity, answer)
    with universal_oracle(stage.on(transport)), stage.serve(attacker) as served:
        with transport.connect(study, served.address) as speak:
            speak(b"first")
            served.wait_for(b"first")
        with (
            refused(leaf, check="challenge-claims"),
            transport.connect(study, served.address) as speak,
        ):
            speak(SAID)
        assert SAID not in served.heard


@line("evidence made for another party", refused=ALL)
def test_evidence_that_another_party_has_asked_for(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B07: Bob's challenge had Alice's nonce."""
    attacker = challenged(peer=study.channel("bob-hospital").spki_sha256)(study.identity())
    require_nothing_heard(stage.on(transport), attacker, PeerHashMismatch, "challenge-claims")


@line(
    "TLS key stolen, challenge forwarded",
    refused=ON_SOCKETS,
    not_stopped=[GRPC, OWN_FLIGHT],
    sealed=[FLIGHT],
)
def test_a_challenge_that_a_thief_forwards_to_the_enclave(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B08, S7: the thief has the enclave's TLS key, and Alice's, and ends TLS in between."""
    broken_off = {FLIGHT: StreamTruncated, OWN_FLIGHT: StreamTruncated, GRPC: ()}
    recorded: Leaves = broken_off.get(transport, ConnectionCut)  # by the thief, who had it all
    with stage.on(transport).serve() as genuine, universal_oracle(stage, server=recorded):

        def forward(nonce: bytes, *_: bytes) -> bytes:
            return transport.forwarded(study, genuine, nonce)[0]

        thief = answering(genuine.identity, forward)
        with stage.serve(thief, thief=True) as served:
            served.sealing_key = genuine.sealing_key
            if holds == "refused":
                with (
                    refused(ConnectionUnbound, check="challenge-claims"),
                    transport.connect(study, served.address) as speak,
                ):
                    speak(SAID)
                assert not served.heard
            else:
                with transport.connect(study, served.address) as speak:
                    speak(SAID)
                served.wait_for(SAID if holds == "not stopped" else b"commit")
                assert (SAID in served.heard) == (holds == "not stopped")


@line("key substituted", refused=ALL)
def test_evidence_about_a_key_that_the_enclave_did_not_make(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B01: a genuine certificate's evidence in one with the attacker's key."""
    genuine, own = study.identity(), ec.generate_private_key(ec.SECP256R1())
    evidence = make_evidence(genuine._attester, genuine._claims)
    attacker = shown_as(genuine, own, evidence)
    require_nothing_heard(stage.on(transport), attacker, KeyUnbound, "certificate-claims")


def shown_as(
    genuine: EnclaveIdentity, key: ec.EllipticCurvePrivateKey, evidence: bytes
) -> EnclaveIdentity:
    """With another key and certificate; challenges are answered by the genuine one."""
    made = answering(genuine, genuine.answer_challenge)  # type: ignore[arg-type]
    certificate = build_certificate(key, evidence, genuine.instance, 7, NOW, b"")
    made._tls_key, made.spki = key, spki_der(key.public_key())
    made.certificate_der = certificate.public_bytes(Encoding.DER)
    made.certificate_pem = certificate.public_bytes(Encoding.PEM)
    return made


@line("key substituted", refused=ALL)
def test_an_answer_about_a_key_of_another_enclave(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B18: the certificate is one enclave's; another one, as genuine, answers."""
    other = study.identity()
    attacker = answering(study.identity(), other.answer_challenge)  # type: ignore[arg-type]
    require_nothing_heard(stage.on(transport), attacker, KeyUnbound, "challenge-claims")


@line("stolen key, hosted elsewhere", refused=ALL)
def test_the_key_in_another_start_of_the_enclave(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """The same machine and measurement; the key was carried from one start into another."""
    attacker = copy.copy(study.identity())
    attacker._claims = replace(attacker._claims, instance=os.urandom(16))  # type: ignore[arg-type]
    require_nothing_heard(stage.on(transport), attacker, InstanceChanged, "challenge-claims")


@line("stolen key, hosted elsewhere", refused=ALL)
def test_the_key_on_another_machine(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """Key and certificate are the enclave's own; what proves itself is a machine of the thief's."""
    elsewhere = study.world.with_platform()
    attacker = copy.copy(study.identity())
    attacker._attester = PlatformAttester(elsewhere.platform)
    held = replace(study.expectation, collateral=elsewhere.collateral())
    judged = [study.expectation]
    verifier = Verifier(lambda: judged.pop() if judged else held)
    require_nothing_heard(stage.on(transport), attacker, MachineNotListed, "machine", verifier)


@line("another machine (diversion)", refused=ALL)
def test_the_right_code_on_a_machine_of_the_attacker(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B09, S10: a machine is named by its own identifier, which Intel has certified."""
    elsewhere = study.world.with_platform()
    attacker = EnclaveIdentity.create(
        PlatformAttester(elsewhere.platform), study.policy.digest, at=NOW
    )
    held = replace(study.expectation, collateral=elsewhere.collateral())
    verifier = Verifier(lambda: held)
    require_nothing_heard(stage.on(transport), attacker, MachineNotListed, "machine", verifier)


@line("evidence sent back to its maker", refused=ON_SOCKETS)
def test_evidence_of_a_client_as_a_servers(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B17: an enclave that connects to others is shown its own evidence by one of them."""
    own = client_enclave(study)
    attacker = answering(study.identity(), own.answer_challenge)  # type: ignore[arg-type]
    require_nothing_heard(stage.on(transport), attacker, KeyUnbound)
