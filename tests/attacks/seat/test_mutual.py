"""Two enclaves that attest each other: what a client that is none, or another one, achieves.

The server's end judges a client's evidence as a client judges a server's: same checks, other role.
What it finds stands in its own log; a client that is not admitted learns nothing of it.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policy.admission import MachineNotListed
from ratls.claims import (
    ROLE_CLIENT,
    ConnectionUnbound,
    InstanceChanged,
    KeyUnbound,
    NonceMismatch,
    PeerHashMismatch,
    RoleMismatch,
)
from ratls.errors import CallFailed
from ratls.identity import EnclaveIdentity
from ratls.listener import PeerNotListed
from ratls.peer_refusal import PeerRefused
from ratls.pin import ChannelIdentity
from ratls.session import Verifier
from tests.attacks.seat import elsewhere, line
from tests.support.channels import client_enclave
from tests.support.flight_peers import NOW, PlatformAttester, Study
from tests.support.oracle import universal_oracle
from tests.support.refusal import count_refusal, refused
from tests.support.stage import SAID, Stage
from tests.support.transports import (
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
Attack = Callable[[Study], EnclaveIdentity]


def changed(**instead: bytes) -> Attack:
    """An honest client's evidence, but for what it is about."""

    def attack(study: Study) -> EnclaveIdentity:
        own = client_enclave(study)

        def answer(nonce: Any, peer: Any, task: Any, sealing: bytes, binder: bytes) -> bytes:
            about: dict[str, Any] = {"nonce": nonce, "peer": peer, "binder": binder} | instead
            return own.answer_challenge(
                about["nonce"], about["peer"], task, sealing, about["binder"]
            )

        return answering(own, answer)

    return attack


def a_server(study: Study) -> EnclaveIdentity:
    return study.identity()


def reflected(study: Study) -> EnclaveIdentity:
    """What the other side proved of itself, sent back."""
    server = study.identity()
    return answering(client_enclave(study), server.answer_challenge)  # type: ignore[arg-type]


def another_start(study: Study) -> EnclaveIdentity:
    own = copy.copy(client_enclave(study))
    own._claims = replace(own._claims, instance=os.urandom(16))  # type: ignore[arg-type]
    return own


def another_client(study: Study) -> EnclaveIdentity:
    """Two enclaves of the same code: one's certificate, the other's evidence."""
    return answering(client_enclave(study), client_enclave(study).answer_challenge)  # type: ignore[arg-type]


ATTACKS: dict[str, tuple[Attack, type[RatlsError]]] = {
    "role": (a_server, RoleMismatch),
    "reflection": (reflected, KeyUnbound),
    "instance": (another_start, InstanceChanged),
    "key": (another_client, KeyUnbound),
    "replay": (changed(nonce=bytes(32)), NonceMismatch),
    "other-peer": (changed(peer=bytes(32)), PeerHashMismatch),
    "relay": (changed(binder=bytes(32)), ConnectionUnbound),
    "without-connection": (changed(binder=b""), ConnectionUnbound),
}


@line("two enclaves attest each other", refused=[SOCKETS, HTTP])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_client_that_is_not_the_enclave_it_shows(
    study: Study, stage: Stage, transport: Transport, holds: str, attack: str
) -> None:
    """B06 to B08, B17, B18, from the other end."""
    make, leaf = ATTACKS[attack]
    meets(stage.on(transport), make(study), leaf, Verifier(lambda: study.expectation))


@line("two enclaves attest each other", refused=ON_SOCKETS)
def test_a_client_on_another_machine(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B09."""
    elsewhere = study.world.with_platform()
    attester = PlatformAttester(elsewhere.platform)
    client = EnclaveIdentity.create(attester, study.policy.digest, at=NOW, role=ROLE_CLIENT)
    held = replace(study.expectation, collateral=elsewhere.collateral())
    meets(stage.on(transport), client, MachineNotListed, Verifier(lambda: held))


@line("two enclaves attest each other", refused=ON_SOCKETS)
def test_an_enclave_where_only_parties_may_connect(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    meets(stage.on(transport), client_enclave(study), PeerNotListed, None)


def meets(
    stage: Stage,
    client: EnclaveIdentity,
    leaf: type[RatlsError],
    enclaves: Verifier | None,
) -> None:
    """Refused, for this reason, which it is not told."""
    count_refusal()
    with stage.serve(enclaves=enclaves) as served, universal_oracle(stage, server=leaf):
        with (
            pytest.raises((CallFailed, PeerRefused)) as caught,
            stage.transport.connect(stage.study, served.address, client) as speak,
        ):
            speak(SAID)
        assert leaf.code not in str(caught.value)
        assert not served.heard


@line("two enclaves attest each other", parties_only=[GRPC, FLIGHT, OWN_FLIGHT])
def test_an_enclave_is_no_client_of_grpc_and_flight(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B17: whoever calls is a party, by its certificate, and so nobody's evidence is taken."""
    client = client_enclave(study)
    own = ChannelIdentity(client.certificate_pem, client.key_pem, hash_of(client.spki))
    with stage.on(transport).serve() as served, universal_oracle(stage):
        with refused(CallFailed), transport.connect(study, served.address, own) as speak:
            speak(SAID)
        assert not served.heard


def hash_of(spki: bytes) -> bytes:
    return hashlib.sha256(spki).digest()


elsewhere(
    "evidence sent back to its maker",
    "test_an_enclave_is_no_client_of_grpc_and_flight",
    parties_only=[GRPC, FLIGHT, OWN_FLIGHT],
)


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda transport: transport.name)
def test_the_honest_twin(study: Study, transport: Transport) -> None:
    enclaves = Verifier(lambda: study.expectation)
    with (
        transport.serve(study, enclaves=enclaves) as served,
        transport.connect(study, served.address, client_enclave(study)) as speak,
    ):
        speak(SAID)
        served.wait_for(SAID)
        assert not served.codes
