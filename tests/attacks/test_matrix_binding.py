"""B01 to B22: a server that wants a provider's rows, and evidence that is not its own.

Each attacker changes one thing. The provider refuses at one check; the rest is the universal
oracle's: one record, no row anywhere, and the honest enclave gets its rows afterwards.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from policy.admission import MachineNotListed
from policy.channel import self_signed
from policy.envelope import EnvelopeTypeDiffers
from policy.keys import spki_der
from policy.receipt import Acknowledgement
from policy.task import Task
from policy.values import Nonce
from ratls import cbor
from ratls.address import Address
from ratls.certificate import (
    ENCLAVE_NAME,
    EVIDENCE_OID,
    EnclaveCertificateKeyUnsuitable,
    EnclaveCertificateLongLived,
    EvidenceAmbiguous,
    EvidenceMissing,
)
from ratls.claims import (
    NO_TASK,
    ROLE_SERVER,
    CertificateClaims,
    ChallengeClaims,
    ClaimsMalformed,
    ContextMismatch,
    KeyUnbound,
    ModeClaimMismatch,
    NonceMismatch,
    PeerHashMismatch,
    RoleMismatch,
    SealingKeyUnbound,
    key_hash,
)
from ratls.errors import AttesterMixedUp
from ratls.evidence import Evidence, EvidenceMalformed, ReportDataUnbound, report_data
from ratls.framing import Kind
from ratls.http import HttpSchemeUnattested, serve_wsgi
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.probe import EnclaveCertificateChainPresented, HandshakeFailed
from ratls.server_stream import StreamTruncated
from simulation import der as write
from tests.attacks.seat.test_downgrade import KEY, certificate
from tests.provider.desk import Desk
from tests.provider.test_release import serving as another_enclave
from tests.ratls.test_http import client
from tests.ratls.test_http import serving as web_serving
from tests.support.client_hello import EARLY_DATA, PRE_SHARED_KEY, extensions
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld, LiveEnclave
from tests.support.flight_peers import PlatformAttester, Script, Study, serving, tls_server
from tests.support.oracle import Scene, universal_oracle
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.stage import SAID, Stage
from tests.support.transports import HTTP, evidence_for, listen_in
from verifier import der as read
from verifier.certificate import RootUntrusted
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

PURPOSES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


# Servers that show a certificate of their own making.


@dataclass
class Forger:
    """Makes the certificate that an honest enclave would show, with one thing changed."""

    world: EnclaveWorld

    def claims(self, key: Any, **changed: Any) -> CertificateClaims:
        made: dict[str, Any] = {
            "pubkey_hash": key_hash(spki_der(key.public_key())),
            "context": CertificateClaims.CONTEXT,
            "role": ROLE_SERVER,
            "mode": b"simulation",
            "policy_hash": self.world.policy.digest,
            "instance": bytes(16),
            "receipt_key_hash": bytes(32),
        }
        return CertificateClaims(**made | changed)

    def evidence(self, buffer: bytes, over: bytes | None = None) -> bytes:
        quote = self.world.attester.quote(report_data(buffer) if over is None else over)
        return Evidence(quote, buffer).encode()

    def certificate(
        self, key: Any, *evidence: tuple[x509.ObjectIdentifier, bytes], days: int = 3
    ) -> x509.Certificate:
        return self_signed(
            key,
            "an enclave",
            PURPOSES,
            known_as=x509.DNSName(ENCLAVE_NAME),
            at=NOW,
            lifetime=timedelta(days=days),
            further=[x509.UnrecognizedExtension(oid, value) for oid, value in evidence],
        )

    def ours(self, key: Any, value: bytes, **options: Any) -> x509.Certificate:
        return self.certificate(key, (EVIDENCE_OID, value), **options)


Forge = Callable[[Forger, Any], x509.Certificate]
OTHER = ec.generate_private_key(ec.SECP256R1())
OPEN_ENCLAVE = x509.ObjectIdentifier("1.3.6.1.4.1.311.105.1")


def stolen_quote(forger: Forger, key: Any) -> x509.Certificate:
    return forger.ours(key, forger.evidence(forger.claims(OTHER).encode()))


def zeros(forger: Forger, key: Any) -> x509.Certificate:
    return forger.ours(key, forger.evidence(forger.claims(key).encode(), over=bytes(64)))


def half(forger: Forger, key: Any) -> x509.Certificate:
    buffer = forger.claims(key).encode()
    return forger.ours(key, forger.evidence(buffer, over=report_data(buffer)[:32] + b"\1" * 32))


def other_purpose(forger: Forger, key: Any) -> x509.Certificate:
    buffer = forger.claims(key, context=ChallengeClaims.CONTEXT).encode()
    return forger.ours(key, forger.evidence(buffer))


def no_evidence(forger: Forger, key: Any) -> x509.Certificate:
    return forger.certificate(key)


def two_formats(forger: Forger, key: Any) -> x509.Certificate:
    value = forger.evidence(forger.claims(key).encode())
    return forger.certificate(key, (EVIDENCE_OID, value), (OPEN_ENCLAVE, value))


def compressed_key(forger: Forger, key: Any) -> x509.Certificate:
    """The evidence names the usual encoding; the certificate carries the short one."""
    honest = forger.ours(key, forger.evidence(forger.claims(key).encode()))
    tbs, algorithm, _ = read.children(honest.public_bytes(Encoding.DER))
    parts = read.children(tbs)
    kind, _ = read.children(parts[6])
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    parts[6] = write.sequence(kind, write.bit_string(point))
    body = write.sequence(*parts)
    signature = write.bit_string(key.sign(body, ec.ECDSA(hashes.SHA256())))
    return x509.load_der_x509_certificate(write.sequence(body, algorithm, signature))


def doubled_claim(forger: Forger, key: Any) -> x509.Certificate:
    """A lenient reader takes the last of two; the first one is what it looks at."""
    buffer = forger.claims(key).encode()
    twice = bytes([buffer[0] + 1]) + buffer[1:] + cbor.encode("role") + cbor.encode(b"server")
    return forger.ours(key, forger.evidence(twice))


def deep_cbor(forger: Forger, key: Any) -> x509.Certificate:
    return forger.ours(key, b"\xd9\xea\x60" + b"\x81" * 5000 + b"\x00")


def role_of_a_client(forger: Forger, key: Any) -> x509.Certificate:
    return forger.ours(key, forger.evidence(forger.claims(key, role=b"client").encode()))


def no_simulation(forger: Forger, key: Any) -> x509.Certificate:
    return forger.ours(key, forger.evidence(forger.claims(key, mode=b"production").encode()))


def for_decades(forger: Forger, key: Any) -> x509.Certificate:
    value = forger.evidence(forger.claims(key).encode())
    return forger.ours(key, value, days=36_500)


SHOWN: dict[str, tuple[Forge, type[RatlsError], str]] = {
    "B01": (stolen_quote, KeyUnbound, "certificate-claims"),
    "B02": (zeros, ReportDataUnbound, "certificate-report-data"),
    "B03": (half, ReportDataUnbound, "certificate-report-data"),
    "B04": (other_purpose, ContextMismatch, "certificate-claims"),
    "B05": (no_evidence, EvidenceMissing, "certificate-profile"),
    "B12": (two_formats, EvidenceAmbiguous, "certificate-profile"),
    "B14": (compressed_key, EnclaveCertificateKeyUnsuitable, "certificate-profile"),
    "B15": (doubled_claim, ClaimsMalformed, "certificate-claims"),
    "B16": (deep_cbor, EvidenceMalformed, "certificate-evidence"),
    "B17": (role_of_a_client, RoleMismatch, "certificate-claims"),
    "X05": (no_simulation, ModeClaimMismatch, "certificate-claims"),
    "B22": (for_decades, EnclaveCertificateLongLived, "certificate-profile"),
}


@pytest.mark.parametrize("row", SHOWN)
def test_a_certificate_of_the_attackers_making(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay, row: str
) -> None:
    """B01 to B05, B12, B14 to B17, B22, X05: refused before anything was sent, even the task."""
    forge, leaf, check = SHOWN[row]
    key = ec.generate_private_key(ec.SECP256R1())
    shown = [forge(Forger(world), key)]
    with universal_oracle(scene, alice=leaf), tls_server(shown, key) as server:
        relay.point_at((server.address.host, server.address.port))
        with alice.refuses(leaf, check=check):
            alice.push(world.task())
        assert server.received == b""


def test_simulated_evidence_under_intels_root(
    world: EnclaveWorld, scene: Scene, relay: Relay, tmp_path: Path
) -> None:
    """X01: the parties agreed on hardware. The simulation imitates all of it but the root's key;
    its collateral betrays it before anybody is connected to."""
    hardware = replace(world.consortium, root="intel")
    agreed = replace(world, consortium=hardware, complete=hardware.complete())
    (tmp_path / "hardware").mkdir()
    desk = Desk.of("alice", agreed, tmp_path / "hardware", Address.parse(relay.address))
    scene.own.add(desk.path)
    scene.records["desk"] = desk.refusals
    with universal_oracle(scene, desk=RootUntrusted):
        with desk.refuses(RootUntrusted):
            desk.push(agreed.task(), allow_simulation=False)
        assert relay.connections == []


def test_the_same_certificate_with_nothing_changed(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """The twin of all of the above: it is appraised, and refused by nobody before the challenge."""
    from ratls.appraise import appraise_certificate

    forger, key = Forger(world), ec.generate_private_key(ec.SECP256R1())
    honest = forger.ours(key, forger.evidence(forger.claims(key).encode()))
    der = honest.public_bytes(Encoding.DER)
    assert appraise_certificate(der, world.expectation, at=NOW).claims.instance == bytes(16)


def test_evidence_in_a_certificate_whose_key_is_not_used(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay
) -> None:
    """B13: the leaf has no evidence; the certificate behind it does, and is genuine."""
    forger, key = Forger(world), ec.generate_private_key(ec.SECP256R1())
    genuine = forger.ours(OTHER, forger.evidence(forger.claims(OTHER).encode()))
    with (
        universal_oracle(scene, alice=EnclaveCertificateChainPresented),
        tls_server([forger.certificate(key), genuine], key) as server,
    ):
        relay.point_at((server.address.host, server.address.port))
        with alice.refuses(EnclaveCertificateChainPresented):
            alice.push(world.task())
        assert server.received == b""


def test_a_server_that_speaks_an_older_tls(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay
) -> None:
    """B10: nothing is negotiated down."""
    forger, key = Forger(world), ec.generate_private_key(ec.SECP256R1())
    shown = forger.ours(key, forger.evidence(forger.claims(key).encode()))
    with (
        universal_oracle(scene, alice=HandshakeFailed),
        tls_server([shown], key, SSL.TLS1_2_VERSION) as server,
    ):
        relay.point_at((server.address.host, server.address.port))
        with alice.refuses(HandshakeFailed):
            alice.push(world.task())


def test_the_right_code_on_a_machine_of_the_attacker(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay
) -> None:
    """B09: diverted to a genuine machine that no party agreed on."""
    elsewhere = world.intel.intel.platform(ppid=b"\x77" * 16)
    with (
        universal_oracle(scene, alice=MachineNotListed),
        another_enclave(world, relay, platform=elsewhere),
        alice.refuses(MachineNotListed, check="machine"),
    ):
        alice.push(world.task())


# Servers with a certificate that is admitted, and another answer to the challenge.


@dataclass
class Answering:
    """A start of the agreed enclave under the attacker's hand, challenged by Alice for one task."""

    world: EnclaveWorld
    alice: Desk
    task: bytes
    script: Script

    def answer(self, nonce: bytes, **changed: Any) -> bytes:
        """The honest answer; arguments replace parts of it."""
        made: dict[str, Any] = {
            "identity": self.script.identity,
            "nonce": nonce,
            "peer": self.script.peer_spki_sha256,
            "sealing_key": self.script.sealing_key.public,
        }
        made |= changed
        named, digest = hashlib.sha256(made["sealing_key"]).digest(), Task.read(self.task).digest
        found: bytes = made["identity"].answer_challenge(made["nonce"], made["peer"], digest, named)
        return found


def replayed(at: Answering, nonce: bytes) -> bytes:
    return at.answer(bytes(32))


def for_another_party(at: Answering, nonce: bytes) -> bytes:
    return at.answer(nonce, peer=at.world.channel(at.world.consortium.bob).spki_sha256)


def with_another_sealing_key(at: Answering, nonce: bytes) -> bytes:
    """The enclave behind the relay named its own key; the relay puts in one that it can open."""
    return at.answer(nonce, sealing_key=b"the enclave's")


def of_another_start(at: Answering, nonce: bytes) -> bytes:
    other = EnclaveIdentity.create(at.world.attester, at.world.policy.digest, at=NOW)
    return at.answer(nonce, identity=other)


def a_verdict(at: Answering, nonce: bytes) -> bytes:
    return cbor.encode({"verdict": "accepted"})


ANSWERED: dict[str, tuple[Callable[[Answering, bytes], bytes], type[RatlsError], str]] = {
    "B06": (replayed, NonceMismatch, "challenge-claims"),
    "B07": (for_another_party, PeerHashMismatch, "challenge-claims"),
    "B08": (with_another_sealing_key, SealingKeyUnbound, "challenge-claims"),
    "B18": (of_another_start, KeyUnbound, "challenge-claims"),
    "B20": (a_verdict, EvidenceMalformed, "challenge-evidence"),
}


@pytest.mark.parametrize("row", ANSWERED)
def test_an_answer_that_is_not_this_enclaves_to_this_challenge(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay, row: str
) -> None:
    """B06 to B08, B18, B20: refused on the stream that would carry the rows, before the first."""
    make, leaf, check = ANSWERED[row]
    identity = EnclaveIdentity.create(world.attester, world.policy.digest, at=NOW)
    channel, task = world.channel(alice.party), world.task()
    script = Script(identity, channel.spki_sha256, plain=False)
    at = Answering(world, alice, task, script)
    script.answer = lambda _, nonce, __: make(at, nonce)
    with universal_oracle(scene, alice=leaf), serving(script, channel) as server:
        relay.point_at((server.address.host, server.address.port))
        with alice.refuses(leaf, check=check):
            alice.push(task)
    assert (script.hellos, script.uploads, script.chunks) == (1, [], [])


def test_a_thief_of_both_keys_in_between(
    world: EnclaveWorld, scene: Scene, alice: Desk, live: LiveEnclave, relay: Relay
) -> None:
    """B08, S7: the enclave's TLS key and Alice's are stolen. The thief ends TLS, has the enclave
    itself answer the challenge, and takes the rows: ciphertext. It can acknowledge
    nothing, and the enclave has a record of the exchange that it broke off."""
    task, heard, told = world.task(), bytearray(), SimpleNamespace(public=b"")
    own = world.channel(alice.party)

    def forward(_: EnclaveIdentity, nonce: bytes, __: bytes) -> bytes:
        asked = {"task": task, "dataset": alice.dataset, "release": bytes(16)}
        evidence, told.public = evidence_for(
            nonce, live.address, live.admitted, own, Kind.RELEASE.value, **asked
        )
        return evidence

    script = Script(live.enclave.identity, own.spki_sha256, forward, plain=False)
    script.sealing_key = told  # type: ignore[assignment]
    script.after_evidence = lambda exchange: listen_in(exchange, heard)
    scene.places["the thief"] = lambda: bytes(heard)
    with (
        universal_oracle(scene, alice=EnvelopeTypeDiffers, enclave=StreamTruncated),
        serving(script, own) as server,
    ):
        relay.point_at((server.address.host, server.address.port))
        with alice.refuses(EnvelopeTypeDiffers):
            alice.push(task)
        assert len(heard) > 1000


def test_the_quote_of_another_thread(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay
) -> None:
    """B19: the enclave looks at its quote, and shows none that it did not ask for."""
    with another_enclave(world, relay) as mixed:
        mixed.enclave.identity._attester.instead = bytes(64)  # type: ignore[attr-defined]
        scene.records["mixed"] = lambda: mixed.stream.codes
        with (
            universal_oracle(scene, alice=PeerRefused, mixed=AttesterMixedUp),
            alice.refuses(PeerRefused),
        ):
            alice.push(world.task())


def test_a_proxy_that_the_environment_names(
    world: EnclaveWorld, scene: Scene, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B21: rows go to the address that was probed; nobody asks the proxy."""
    with universal_oracle(scene), socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert alice.push(world.task()).commit.rows == 60
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    ("scheme", "leaf"), [("https", EvidenceMissing), ("http", HttpSchemeUnattested)]
)
def test_an_answer_that_leads_elsewhere(
    study: Study, stage: Stage, scheme: str, leaf: type[RatlsError]
) -> None:
    """B21: a location is followed where the user says so, and who is there is verified like any."""
    with (
        universal_oracle(stage.on(HTTP)),
        tls_server([certificate()], KEY, alpn=b"ratls/1") as decoy,
    ):
        elsewhere = [("Location", f"{scheme}://{decoy.address}/"), ("Content-Length", "0")]

        def program(_: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            start("307 Temporary Redirect", elsewhere)
            return []

        with web_serving(study, serve_wsgi, program) as place, client(study) as user:
            assert user.post(f"https://{place}/", content=SAID).status_code == 307
            assert decoy.handshakes == 0
            with refused(leaf):
                user.post(f"https://{place}/", content=SAID, follow_redirects=True)
        assert decoy.received == b""


def test_a_server_whose_evidence_has_changed_since(
    world: EnclaveWorld, scene: Scene, alice: Desk, relay: Relay
) -> None:
    """B11: another start at the same address. No session is offered, so nothing is resumed, and the
    second release is the other start's."""
    count_refusal()
    with universal_oracle(scene):
        first = alice.push(world.task())
        with another_enclave(world, relay):
            second = alice.push(world.task())
    [old, new] = [
        Acknowledgement.open(done.kept.acknowledgement.read_bytes()) for done in (first, second)
    ]
    assert old.instance != new.instance
    offered = [extensions(bytes(connection.sent)) for connection in relay.connections]
    assert len(offered) >= 3
    assert not any(one & {PRE_SHARED_KEY, EARLY_DATA} for one in offered)


class OneVariable(PlatformAttester):
    """Slow, and with one place for what is to be quoted, as Gramine's files are."""

    def __init__(self, world: EnclaveWorld) -> None:
        super().__init__(world.intel.platform, mr_enclave=MR_ENCLAVE)
        self.turn = threading.Event()

    def quote(self, report_data: bytes) -> bytes:
        self.instead = report_data
        self.turn.wait(0.001)
        return super().quote(bytes(64))


@pytest.mark.parametrize("in_turn", [True, False])
def test_two_hundred_at_once(world: EnclaveWorld, in_turn: bool) -> None:
    """B19: each answer is to its own nonce. Without the lock there are fewer answers, and still no
    other: the enclave looks at its own quote before it shows it."""
    identity = EnclaveIdentity.create(OneVariable(world), world.policy.digest, at=NOW)
    if not in_turn:
        count_refusal()
        identity._turns.of = lambda peer: nullcontext()  # type: ignore[method-assign]
    channel = world.channel(world.consortium.alice)

    def ask(number: int) -> bytes | None:
        nonce = Nonce(bytes([number]) * 32)
        try:
            answer = identity.answer_challenge(nonce, channel.spki_sha256, NO_TASK)
        except AttesterMixedUp:
            return None
        evidence = Evidence.parse(answer)
        evidence.require_bound()
        assert ChallengeClaims.parse(evidence.claims).nonce == nonce
        return nonce

    with ThreadPoolExecutor(200) as threads:
        answered = list(threads.map(ask, range(200)))
    assert all(answered) == in_turn


def test_every_row_is_staged() -> None:
    """Rows that this file leaves to another are named in its first lines."""
    text = Path(__file__).read_text("utf-8")
    rows = {f"B{number:02d}" for number in range(1, 23)}
    assert not [row for row in sorted(rows) if row not in text and row not in SHOWN]
