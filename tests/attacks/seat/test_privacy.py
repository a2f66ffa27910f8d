"""Who can read what: on the way, with keys of the traffic, and as a stranger who asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from ratls.address import Address
from ratls.errors import CallFailed
from ratls.identity import EnclaveIdentity
from ratls.listener import PeerNotListed
from ratls.pin import ChannelIdentity
from ratls.server_stream import StreamTruncated
from ratls.session import Verifier
from ratls.tls import Shown, SocketHandshakeFailed, TlsEnd
from ratls.turns import TooManyChallenges, Turns
from tests.attacks.seat import MINUTES, elsewhere, line
from tests.ratls.test_sockets import Clock
from tests.support.flight_peers import NOW, PlatformAttester, Study
from tests.support.oracle import Leaves, universal_oracle
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
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
    cut_off,
    grpc,
    raw_connection,
)
from verifier.errors import RatlsError
from verifier.quote import Quote

pytestmark = pytest.mark.slow

ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)


@line("read on the way", refused=ALL)
def test_what_the_network_records(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """Neither what is said nor any evidence, which would name machine and software."""
    count_refusal()
    quotes: list[bytes] = []

    class Keeping(PlatformAttester):
        def quote(self, report_data: bytes) -> bytes:
            quotes.append(super().quote(report_data))
            return quotes[-1]

    identity = EnclaveIdentity.create(Keeping(study.world.platform), study.policy.digest, at=NOW)
    with (
        universal_oracle(stage.on(transport)),
        stage.serve(identity) as served,
        transport.connect(study, served.address) as speak,
    ):
        speak(SAID)
        served.wait_for(SAID)
    assert len(quotes) >= 2
    measurement = Quote.parse(quotes[0]).report.mr_enclave.value
    for secret in (measurement, study.world.platform.tcb.ppid, b"alice-clinic"):
        assert secret not in stage.places["the wire"]()


@line("evidence seen by a stranger who connects", in_the_certificate=ALL)
def test_what_a_stranger_who_connects_is_shown(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """As by any server of TLS: the certificate, and so measurement and machine; then it is over."""
    count_refusal()
    alpn = b"ratls/1" if transport in ON_SOCKETS else b"h2"
    stage.on(transport)
    with (
        stage.serve() as served,
        universal_oracle(stage, server=stage.recorded(SocketHandshakeFailed)),
        raw_connection(served.address, None, alpn) as tls,
    ):
        shown = tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        assert study.policy.enclave[0].mr_enclave in shown.public_bytes(Encoding.DER).hex()
        with pytest.raises(SSL.Error):
            cut_off(tls, SAID)


@line("keys of the traffic compromised", not_stopped=ON_SOCKETS)
def test_who_has_the_secrets_of_the_traffic(
    study: Study, stage: Stage, transport: Transport, holds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording and the secrets of its TLS are enough, as for TLS without attestation. For what
    must not depend on them there are sealed rows."""
    secrets: dict[str, list[bytes]] = {}
    make = TlsEnd._context

    def leaking(self: TlsEnd[Any], shown: Shown) -> SSL.Context:
        def keep(_: SSL.Connection, text: bytes) -> None:
            name, _random, secret = text.decode().split()
            secrets.setdefault(name, []).append(bytes.fromhex(secret))

        context = make(self, shown)
        context.set_keylog_callback(keep)
        return context

    monkeypatch.setattr(TlsEnd, "_context", leaking)
    with (
        transport.serve(study) as served,
        Relay((served.address.host, served.address.port)) as relay,
        transport.connect(study, Address.parse(relay.address)) as speak,
    ):
        speak(SAID)
        served.wait_for(SAID)
    [recorded] = relay.connections
    assert SAID not in recorded.sent
    sent = _opened(bytes(recorded.sent), secrets["CLIENT_TRAFFIC_SECRET_0"][0])
    received = _opened(bytes(recorded.received), secrets["SERVER_TRAFFIC_SECRET_0"][0])
    assert SAID in sent
    assert study.world.platform.tcb.ppid in received or b"evidence" in received


def _opened(stream: bytes, secret: bytes) -> bytes:
    """What records under this secret hold (RFC 8446, section 5.2), those of the handshake apart."""

    def derived(name: bytes, size: int) -> bytes:  # RFC 8446, section 7.1
        label = size.to_bytes(2, "big") + bytes([6 + len(name)]) + b"tls13 " + name + b"\0"
        return HKDFExpand(hashes.SHA384(), size, label).derive(secret)

    key, iv = AESGCM(derived(b"key", 32)), int.from_bytes(derived(b"iv", 12), "big")
    found, number = b"", 0
    for head, content in _records(stream):
        with suppress(InvalidTag):  # a record of the handshake is under another key
            found += key.decrypt((iv ^ number).to_bytes(12, "big"), content, head)
            number += 1
    return found


def _records(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 5 <= len(stream):
        size = int.from_bytes(stream[at + 3 : at + 5], "big")
        if stream[at] == 23:
            yield stream[at : at + 5], stream[at + 5 : at + 5 + size]
        at += 5 + size


@line("keys of the traffic compromised", not_stopped=[GRPC, OWN_FLIGHT], sealed=[FLIGHT])
def test_who_reads_all_that_tls_protects(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """S7. gRPC lets nobody have its secrets; an end of the connection has what they would open."""
    broken_off: Leaves = () if transport is GRPC else StreamTruncated
    with stage.on(transport).serve() as genuine, universal_oracle(stage, server=broken_off):
        thief = answering(
            genuine.identity, lambda nonce, *_: transport.forwarded(study, genuine, nonce)[0]
        )
        with stage.serve(thief, thief=True) as served:
            served.sealing_key = genuine.sealing_key
            with transport.connect(study, served.address) as speak:
                speak(SAID)
            served.wait_for(SAID if holds == "not stopped" else b"commit")
            assert (SAID in served.heard) == (holds == "not stopped")


class Counting(PlatformAttester):
    """How many quotes were made."""

    made = 0

    def quote(self, report_data: bytes) -> bytes:
        self.made += 1
        return super().quote(report_data)


@line("evidence asked for by strangers", none_is_made=ALL)
def test_strangers_cause_no_evidence(
    study: Study, stage: Stage, transport: Transport, holds: str
) -> None:
    """I01, I03: nobody's, and with a party's name."""
    attester = Counting(study.world.platform)
    identity = EnclaveIdentity.create(attester, study.policy.digest, at=NOW)
    made = attester.made
    alpn = b"ratls/1" if transport in ON_SOCKETS else b"h2"
    stranger = ChannelIdentity.of(local_party("alice-clinic", NOW, copy=1))
    recorded = [SocketHandshakeFailed, PeerNotListed, PeerNotListed]
    with (
        stage.on(transport).serve(identity, honest=True) as served,
        universal_oracle(stage, server=tuple(recorded) if transport in ON_SOCKETS else ()),
    ):
        for shown in (None, Shown.of(stranger)):
            with pytest.raises(SSL.Error), raw_connection(served.address, shown, alpn) as tls:
                cut_off(tls)
        with refused(CallFailed), transport.connect(study, served.address, stranger) as speak:
            speak(SAID)
        assert attester.made == made
        assert not served.heard
    assert attester.made == made + 1  # the honest one's


@line("evidence asked for without end", an_allowance=[t for t in ALL if t is not FLIGHT])
def test_a_party_that_asks_for_evidence_without_end(
    study: Study,
    stage: Stage,
    transport: Transport,
    holds: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F11: each answer costs the machine a quote. Alice connects anew each time, and time stands
    still; Bob is served meanwhile."""
    monkeypatch.setattr("ratls.turns.BURST", 8)
    monkeypatch.setattr("ratls.turns._WAIT_SECONDS", 0.0)
    attester = Counting(study.world.platform)
    identity = study.started(attester, turns=Turns(lambda: 0.0))
    stage.party = "bob-hospital"
    before = attester.made
    with stage.on(transport).serve(identity, honest=True) as served:
        for number in range(8):
            said = b"%d of them" % number
            with transport.connect(study, served.address) as speak:
                speak(said)
                served.wait_for(said)
        told = TooManyChallenges.code + r".*[0-9a-f]{16}"  # the class, and an id
        with universal_oracle(stage, server=(TooManyChallenges,) * 3):
            for _ in range(3):
                with pytest.raises((RatlsError, grpc.RpcError), match=told):
                    transport.forwarded(study, served, bytes(32))
            assert attester.made - before == 8


elsewhere("evidence asked for without end", "test_challenges_without_end", an_allowance=[FLIGHT])


@pytest.mark.parametrize("transport", ALL, ids=lambda transport: transport.name)
def test_a_policy_that_wants_evidence_after_each_mebibyte(transport: Transport) -> None:
    """The honest twin: whoever sends fast asks as often as was agreed, and is served."""
    study = often()
    verifier = Verifier(lambda: study.expectation, seconds=(clock := Clock()))
    with (
        transport.serve(study) as served,
        transport.connect(study, served.address, verifier=verifier) as speak,
    ):
        for number in range(50):
            clock.passed += MINUTES
            said = b"%d of it" % number
            speak(said)
            served.wait_for(said)
        assert not served.codes


@cache
def often() -> Study:
    return Study.create(transport="[transport]\nchallenge_mebibytes = 1\n\n")
