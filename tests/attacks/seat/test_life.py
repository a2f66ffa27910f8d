"""What happens while a connection lasts, and what is left of it afterwards."""

from __future__ import annotations

import copy
import os
import socket
import ssl
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ratls.attested_socket import DATA, FrameUnexpected
from ratls.claims import InstanceChanged, NonceMismatch
from ratls.client_call import DO_EXCHANGE
from ratls.flight_service import COMMAND
from ratls.framing import Kind, MessageUnexpected, command_frame, message_frame
from ratls.grpc_server import GrpcConnectionUnproved
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.server_stream import StreamTruncated
from ratls.session import Verifier
from ratls.tls import SocketHandshakeFailed
from tests.attacks.seat import MINUTES, elsewhere, line
from tests.ratls.test_sockets import Clock, revoked
from tests.support import raw_http2 as http2
from tests.support.client_hello import (
    EARLY_DATA,
    PRE_SHARED_KEY,
    SUPPORTED_VERSIONS,
    extensions,
)
from tests.support.flight_peers import NOW, Study
from tests.support.oracle import Leaves, universal_oracle
from tests.support.parties import instant
from tests.support.refusal import count_refusal, refused
from tests.support.stage import CANARY, Stage
from tests.support.transports import (
    ALL,
    FLIGHT,
    GRPC,
    HTTP,
    OWN_FLIGHT,
    SOCKETS,
    TUNNEL,
    Served,
    Transport,
    answering,
    raw_connection,
)
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError
from verifier.validity import CollateralNotCurrent

pytestmark = pytest.mark.slow

BEFORE, AFTER = CANARY + b"-before", CANARY + b"-after"
ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)


@line("evidence replayed", refused=ALL)
def test_evidence_of_an_earlier_moment_of_this_connection(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """B06, S8: key, connection and party are the same; the nonce is not."""
    clock, identity = Clock(), study.identity()
    kept: list[bytes] = []

    def answer(*about: Any) -> bytes:
        kept.append(identity.answer_challenge(*about))
        return kept[0]

    turns_on(stage.on(transport), clock, answering(identity, answer), NonceMismatch)
    assert len(kept) == 2


@line("state changes while it lasts", refused=ALL)
def test_an_enclave_that_turns_into_something_else(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """What proves itself after minutes has the key, and is another start."""
    clock, identity = Clock(), study.identity()
    other = copy.copy(identity)
    other._claims = replace(identity._claims, instance=os.urandom(16))  # type: ignore[arg-type]
    asked = iter([identity, other])
    attacker = answering(identity, lambda *about: next(asked).answer_challenge(*about))  # type: ignore[arg-type]
    turns_on(stage.on(transport), clock, attacker, InstanceChanged)


def turns_on(stage: Stage, clock: Clock, attacker: EnclaveIdentity, leaf: type[RatlsError]) -> None:
    """It is the agreed enclave for a quarter of an hour, and is told nothing more after that."""
    verifier = Verifier(lambda: stage.study.expectation, seconds=clock)
    with (
        universal_oracle(stage),
        stage.serve(attacker) as served,
        refused(leaf, check="challenge-claims"),
        stage.transport.connect(stage.study, served.address, verifier=verifier) as speak,
    ):
        speak(BEFORE)
        served.wait_for(BEFORE)
        clock.passed += MINUTES
        speak(AFTER)
    assert AFTER not in served.heard


@line("attested again on demand", holds=ALL)
def test_an_enclave_proves_itself_again_before_the_next_word(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """The honest twin of the two above: a proof each quarter of an hour, on one connection."""
    clock, identity = Clock(), study.identity()
    nonces: list[bytes] = []

    def answer(nonce: bytes, *about: Any) -> bytes:
        nonces.append(nonce)
        return identity.answer_challenge(nonce, *about)  # type: ignore[arg-type]

    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with (
        transport.serve(study, answering(identity, answer)) as served,
        transport.connect(study, served.address, verifier=verifier) as speak,
    ):
        for number in range(3):
            clock.passed += MINUTES if number else 0.0
            said = b"%d%s" % (number, BEFORE)
            speak(said)
            served.wait_for(said)
    assert len(set(nonces)) == 3


@line("platform revoked while it lasts", refused=[SOCKETS, HTTP, TUNNEL, GRPC, OWN_FLIGHT])
def test_a_platform_that_is_revoked_is_cut_off_within_a_minute(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """The drill: Intel's list names the machine. A minute later nothing more is said to it."""
    clock, held = Clock(), [study.expectation]
    verifier = Verifier(lambda: held[0], seconds=clock)
    # What the server is told; a call of gRPC ends between two.
    recorded: Leaves = {GRPC: (), OWN_FLIGHT: StreamTruncated}.get(transport, PeerRefused)
    with (
        stage.on(transport).serve() as served,
        universal_oracle(stage, server=recorded),
        refused(CertificateRevoked),
        transport.connect(study, served.address, verifier=verifier) as speak,
    ):
        speak(BEFORE)
        served.wait_for(BEFORE)
        held[0] = revoked(study)
        clock.passed += 61
        speak(AFTER)
    assert AFTER not in served.heard


elsewhere(
    "platform revoked while it lasts", "test_a_newer_list_was_seen", at_the_next_proof=[FLIGHT]
)


@line("the certificate changes meanwhile", goes_on=[SOCKETS, HTTP, TUNNEL, GRPC, OWN_FLIGHT])
def test_the_certificate_of_a_connection_that_lasts(
    study: Study, transport: Transport, holds: str
) -> None:
    """It proves itself under the certificate that it began with; who comes now is shown another."""
    verifier = Verifier(lambda: study.expectation, seconds=(clock := Clock()))
    with transport.serve(study) as served:
        before = shown(served, transport)
        with transport.connect(study, served.address, verifier=verifier) as speak:
            for said in (BEFORE, AFTER):
                speak(said)
                served.wait_for(said)
                if said == BEFORE:
                    served.renew()
                    clock.passed += MINUTES
            with transport.connect(study, served.address) as speak_anew:
                speak_anew(CANARY)
        assert shown(served, transport) != before
        assert set(served.codes) <= {SocketHandshakeFailed.code}  # of `shown`


def shown(served: Served, transport: Transport) -> bytes:
    """The certificate that anybody is shown who connects."""
    alpn = b"ratls/1" if transport in ON_SOCKETS else b"h2"
    with raw_connection(served.address, None, alpn) as tls:
        certificate = tls.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    return certificate.public_bytes(Encoding.DER)


elsewhere(
    "the certificate changes meanwhile",
    "test_a_release_ends_under_the_certificate_that_it_began_with",
    goes_on=[FLIGHT],
)


@line("platform revoked before it began", refused=ALL)
def test_a_platform_that_was_revoked(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """T12: the attestation key of one machine is known to the attacker."""
    verifier = Verifier(lambda: revoked(study))
    recorded = stage.on(transport).recorded(SocketHandshakeFailed)
    with stage.serve() as served, universal_oracle(stage, server=recorded):
        with (
            refused(CertificateRevoked),
            transport.connect(study, served.address, verifier=verifier) as speak,
        ):
            speak(BEFORE)
        assert not served.heard


@line("a session resumed", refused=ON_SOCKETS, proved_anew=[GRPC, FLIGHT, OWN_FLIGHT])
def test_a_saved_session(
    study: Study, stage: Stage, transport: Transport, holds: str, tmp_path: Path
) -> None:
    """B11: an honest end offers and keeps none. gRPC's server resumes what a party has kept of its
    own, and lets no call in on it: it is another connection."""
    count_refusal()
    leaf: type[RatlsError] = {
        GRPC: GrpcConnectionUnproved,
        FLIGHT: MessageUnexpected,
        OWN_FLIGHT: MessageUnexpected,
    }.get(transport, FrameUnexpected)
    with stage.on(transport).serve() as served, universal_oracle(stage, server=(leaf, leaf)):
        assert _resumed(study, served, tmp_path, transport) == (holds != "refused")
        assert not served.heard
        [relay] = stage.relays
        before = len(relay.connections)
        for said in (BEFORE, AFTER):
            with transport.connect(study, served.address) as speak:
                speak(said)
                served.wait_for(said)
        offered = [extensions(bytes(one.sent)) for one in relay.connections[before:]]
    assert len(offered) >= 2
    assert all(SUPPORTED_VERSIONS in one for one in offered)
    assert not any(one & {PRE_SHARED_KEY, EARLY_DATA} for one in offered)


def _resumed(study: Study, served: Served, folder: Path, transport: Transport) -> bool:
    """Connect twice as Alice, call without a challenge both times, the second with the session of
    the first: was it resumed?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["ratls/1" if transport in ON_SOCKETS else "h2"])
    for name, content in (("cert", study.channel().cert_pem), ("key", study.channel().key_pem)):
        (folder / name).write_bytes(content)
    context.load_cert_chain(folder / "cert", folder / "key")
    saved = None
    for _ in range(2):
        with (
            socket.create_connection((served.address.host, served.address.port)) as raw,
            context.wrap_socket(raw, session=saved) as tls,
        ):
            tls.sendall(_bare(transport))
            received = b""
            while data := tls.recv(1 << 16):  # until the server has closed it, or answered
                received += data
                if transport not in ON_SOCKETS and http2.has_ended(received):
                    break
            saved, again = tls.session, tls.session_reused
    return bool(again)


def _bare(transport: Transport) -> bytes:
    """What would be heard, had the enclave been challenged on this connection."""
    if transport in ON_SOCKETS:
        return bytes([DATA]) + len(BEFORE).to_bytes(3, "big") + BEFORE
    if transport is GRPC:
        return http2.BEGIN + http2.call(b"/user.Echo/One") + http2.message(BEFORE)
    command = Kind.RELEASE.value if transport is FLIGHT else COMMAND
    first = http2.message(command_frame(command), flags=0)
    rows = http2.message(message_frame(BEFORE))
    return http2.BEGIN + http2.call(DO_EXCHANGE.encode()) + first + rows


@pytest.mark.parametrize(
    "transport", [SOCKETS, HTTP, TUNNEL, GRPC, OWN_FLIGHT], ids=lambda t: t.name
)
def test_collateral_that_expires_while_a_connection_is_open(
    study: Study, transport: Transport
) -> None:
    """dcap.md 4.8: nobody has fetched the next one, and nothing can be decided: nothing more is
    said. Under a bundle that is current the connection goes on."""

    def short(info: dict[str, Any]) -> dict[str, Any]:
        return info | {"nextUpdate": instant(NOW + timedelta(hours=1))}

    clock, seconds = [NOW], Clock()
    held = [replace(study.expectation, collateral=study.world.collateral(tcb_info=short))]
    verifier = Verifier(lambda: held[0], lambda: clock[0], seconds=seconds)
    for fetched in (True, False):
        clock[0], seconds.passed = NOW, 0.0
        with (
            transport.serve(study) as served,
            nullcontext() if fetched else refused(CollateralNotCurrent),
            transport.connect(study, served.address, verifier=verifier) as speak,
        ):
            speak(BEFORE)
            served.wait_for(BEFORE)
            clock[0] += timedelta(hours=2)
            seconds.passed += 61
            if fetched:
                before, held[0] = held[0], study.expectation
            speak(AFTER)
        if fetched:
            served.wait_for(AFTER)
            held[0] = before
    assert AFTER not in served.heard
