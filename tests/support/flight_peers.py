"""The smallest enclave that speaks the protocol, TLS servers that do not, and their parts."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from policy.document import Policy
from policy.receipt import Acknowledgement, Receipt, ReceiptInput
from policy.values import Digest, Instance, Nonce
from ratls.address import Address
from ratls.appraise import AdmittedCertificate, Expectation, appraise_certificate
from ratls.attester import Attester
from ratls.bulk import BulkListener
from ratls.claims import NO_TASK
from ratls.client_stream import ClientExchange, open_exchange
from ratls.flight_server import FlightServer, Send
from ratls.framing import Kind
from ratls.identity import EnclaveIdentity
from ratls.pin import ChannelIdentity
from ratls.plain_rows import Caps, PlainExchange
from ratls.sealing import SealingKey, Transcript
from ratls.server_stream import Hello, Opened, refusal_status
from ratls.turns import Turns
from simulation.intel import root_name
from simulation.platform import Platform
from tests.support.intel import World
from tests.support.parties import Consortium
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import Mode
from verifier.errors import RatlsError
from verifier.quote import Quote

LOOPBACK = "127.0.0.1"
NOW = datetime.now(UTC).replace(microsecond=0)  # TLS libraries look at the machine's clock


class PlatformAttester:
    """An attester on a platform in memory; `altered` goes to `Platform.quote`."""

    mode = Mode.SIMULATION

    def __init__(self, platform: Platform, **altered: Any) -> None:
        self._platform = platform
        self._altered = {"isv_prod_id": 0} | altered  # the product of the consortium's policy
        self.instead: bytes | None = None  # report data to quote in place of what was asked

    def quote(self, report_data: bytes) -> bytes:
        return self._platform.quote(self.instead or report_data, **self._altered)


@dataclass(frozen=True)
class Study:
    """One Intel, three parties, their policy in force, and what a provider holds of all that."""

    world: World
    parties: Consortium
    policy: Policy
    expectation: Expectation

    @classmethod
    def create(cls, at: datetime = NOW, **policy: Any) -> Study:
        world = World.create(at)
        parties = Consortium.create(
            at,
            root=root_name(world.intel.root),
            mr_enclave=Quote.parse(world.quote()).report.mr_enclave.value.hex(),
            machines=[f"ppid:{world.platform.tcb.ppid.hex()}"],
        )
        made = parties.policy(**policy)
        held = Expectation(made, world.collateral(), world.intel.anchors())
        return cls(world, parties, made, held)

    def identity(self, digest: bytes | None = None, **altered: Any) -> EnclaveIdentity:
        """A start of the agreed enclave; `altered` goes to `Platform.quote`."""
        return self.started(PlatformAttester(self.world.platform, **altered), digest)

    def started(
        self, attester: Attester, digest: bytes | None = None, turns: Turns | None = None
    ) -> EnclaveIdentity:
        """A start that has its quotes from this attester."""
        made = digest or self.policy.digest
        return EnclaveIdentity.create(attester, made, at=self.world.at, turns=turns)

    def admitted(self, identity: EnclaveIdentity) -> AdmittedCertificate:
        return appraise_certificate(identity.certificate_der, self.expectation, at=self.world.at)

    def exchange(
        self,
        kind: Kind,
        address: Address,
        admitted: AdmittedCertificate,
        *,
        task: bytes = b"",
        timeout: float = HANG_LIMIT,
        party: str = "alice-clinic",
    ) -> AbstractContextManager[ClientExchange]:
        """Alice's end of an exchange, with everything that is hers."""
        return open_exchange(
            kind,
            address,
            admitted,
            self.channel(party),
            task=task,
            task_digest=hashlib.sha256(task).digest() if task else NO_TASK,
            dataset="train_party_1" if kind is Kind.RELEASE else "",
            expectation=self.expectation,
            clock=lambda: NOW,
            timeout=timeout,
        )

    def receipt(self, identity: EnclaveIdentity, **fields: Any) -> Receipt:
        """Carol's receipt as the enclave would make it; `fields` replace some."""
        nonce = b"n" * 32
        peer = self.parties.carol.channel_spki_sha256
        made: dict[str, Any] = {
            "task_digest": b"t" * 32,
            "policy_digest": self.policy.digest,
            "instance": identity.instance,
            "computation": "train",
            "run": "logistic_regression",
            "recipient": "carol-lab",
            "inputs": (
                ReceiptInput(dataset="train_party_1", commit_digest=b"1" * 32),
                ReceiptInput(dataset="train_party_2", commit_digest=b"2" * 32),
            ),
            "result_digest": b"d" * 32,
            "mode": "simulation",
            "nonce": nonce,
            "evidence": identity.answer_challenge(nonce, peer, b"t" * 32),
            "tls_spki": identity.spki,
            "receipt_key": identity.receipt_spki,
        }
        return Receipt(**made | fields)

    def acknowledgement(self, identity: EnclaveIdentity, **fields: Any) -> Acknowledgement:
        """Alice's acknowledgement; `fields` replace some."""
        nonce = b"n" * 32
        peer = self.parties.alice.channel_spki_sha256
        made: dict[str, Any] = {
            "task_digest": b"t" * 32,
            "policy_digest": self.policy.digest,
            "instance": identity.instance,
            "dataset": "train_party_1",
            "provider": "alice-clinic",
            "commit_digest": b"c" * 32,
            "tags_digest": b"r" * 32,
            "rows": 3,
            "batches": 1,
            "nonce": nonce,
            "evidence": identity.answer_challenge(nonce, peer, b"t" * 32, b"k" * 32),
            "tls_spki": identity.spki,
            "receipt_key": identity.receipt_spki,
            "sealing_key_hash": b"k" * 32,
        }
        return Acknowledgement(**made | fields)

    def channel(self, party: str = "alice-clinic") -> ChannelIdentity:
        """How a party shows itself: certificate and key of its folder."""
        local = self.parties.parties[party]
        return ChannelIdentity.of(local)


def transcript(
    nonce: bytes,
    instance: bytes,
    task: bytes,
    release: bytes = b"",
    stream: int = 0,
    streams: int = 1,
) -> Transcript:
    """Of a release of Alice's to a `PlainEnclave`."""
    return Transcript(
        policy_digest=Digest(b"p" * 32),
        task_digest=Digest(hashlib.sha256(task).digest()),
        nonce=Nonce(nonce),
        instance=Instance(instance),
        dataset="train_party_1",
        provider="alice-clinic",
        release=release,
        stream=stream,
        streams=streams,
    )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Script:
    """What one enclave does in an exchange. The defaults are honest; tests replace one."""

    identity: EnclaveIdentity
    peer_spki_sha256: bytes  # of the one party that may call
    answer: Callable[[EnclaveIdentity, bytes, bytes], bytes] | None = None  # nonce, task digest
    before_evidence: Callable[[PlainExchange], None] | None = None
    after_evidence: Callable[[PlainExchange], None] | None = None
    caps: Caps = field(default_factory=lambda: Caps(rows=10**6, bytes=1 << 28))
    known_commits: dict[bytes, bytes] = field(default_factory=dict)
    schema_digest: bytes = bytes(32)
    plain: bool = True  # rows that are not sealed
    bulk: BulkListener | None = None  # sealed rows beside TLS; its steps are somebody else's
    kept: bool = True  # chunks stay in `chunks`
    sealing_key: SealingKey = field(default_factory=SealingKey.make)
    uploads: list[tuple[int, int]] = field(default_factory=list)  # rows (or bytes), batches
    chunks: list[Opened] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    hellos: int = 0

    def evidence(self, nonce: bytes, task: bytes, sealing_key: bytes = b"") -> bytes:
        digest = hashlib.sha256(task).digest() if task else NO_TASK
        if self.answer is not None:
            return self.answer(self.identity, nonce, digest)
        named = hashlib.sha256(sealing_key).digest() if sealing_key else b""
        return self.identity.answer_challenge(nonce, self.peer_spki_sha256, digest, named)

    def transcript(self, hello: Hello, stream: int = 0, streams: int = 1) -> Transcript:
        """What `Study.open` seals a stream's key for."""
        return transcript(
            hello.nonce, self.identity.instance, hello.task, hello.release, stream, streams
        )


class PlainEnclave:
    """A Flight server that follows a `Script`."""

    def __init__(self, script: Script, channel: ChannelIdentity, port: int = 0) -> None:
        self.script = script
        self._server = FlightServer(
            Address(LOOPBACK, port),
            lambda: script.identity.pair,
            lambda: channel.cert_pem,
            calls=16,
            exchange=self._exchange,
            refuse=self._exchange,
        )
        self.address = self._server.address

    def shutdown(self) -> None:
        self._server.stop(5)

    def _exchange(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        exchange = PlainExchange(requests, send, bulk=self.script.bulk)
        try:
            self._run(exchange.kind(), exchange)
        except RatlsError as refusal:
            self.script.refusals.append(refusal.code)
            status, text, details = refusal_status(refusal, "0001")
            context.set_code(status)
            context.set_details(text)
            context.set_trailing_metadata(details)
        finally:
            send(None)

    def _run(self, kind: Kind, exchange: PlainExchange) -> None:
        script = self.script
        hello = exchange.hello()
        script.hellos += 1
        if script.before_evidence is not None:
            script.before_evidence(exchange)
            return
        sealed = kind is Kind.RELEASE and not script.plain
        key = script.sealing_key.public if sealed else b""
        evidence = script.evidence(hello.nonce, hello.task, key)
        # A thief has asked the enclave by now, and knows its key.
        exchange.send_evidence(evidence, script.sealing_key.public if sealed else b"")
        if script.after_evidence is not None:
            script.after_evidence(exchange)
        elif kind is Kind.RELEASE:
            self._release(exchange, hello)
        elif kind is Kind.COLLECT:
            exchange.result(b"receipt", b"ciphertext")

    def _release(self, exchange: PlainExchange, hello: Hello) -> None:
        """Rows that are sealed or not, up to the commit."""
        script = self.script
        asked = exchange.resume_request()
        if asked is not None:
            if asked in script.known_commits:
                exchange.acknowledge(script.known_commits[asked])
                return
            exchange.absent()
        if script.plain:
            received = list(exchange.batches(script.caps))
            script.uploads.append((sum(batch.num_rows for _, batch in received), len(received)))
        else:
            opened = exchange.open_request()
            made = script.transcript(hello, opened.stream, opened.streams)
            key = script.sealing_key.open_stream_key(opened.key, made)
            exchange.ready(0, 0, Digest(bytes(32)))

            def prove(nonce: Nonce) -> None:
                public = script.sealing_key.public
                exchange.send_evidence(script.evidence(nonce, hello.task, public), public)

            about = Digest(script.schema_digest)
            size = count = 0
            for chunk in exchange.sealed_rows(key, about, first=0, prove=prove):
                size, count = size + chunk.message.size, count + 1
                if script.kept:
                    script.chunks.append(chunk)
            script.uploads.append((size, count))
        assert exchange.committed is not None
        exchange.acknowledge(b"ack of " + exchange.committed)


@contextmanager
def serving(script: Script, channel: ChannelIdentity, port: int = 0) -> Iterator[PlainEnclave]:
    """A running enclave; leaves no thread behind."""
    server = PlainEnclave(script, channel, port)
    try:
        yield server
    finally:
        server.shutdown()


@dataclass
class TlsServer:
    """A TLS server that is no enclave: shows certificates, records what it is told."""

    address: Address
    received: bytearray = field(default_factory=bytearray)
    handshakes: int = 0


@contextmanager
def tls_server(
    certificates: list[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    version: int = SSL.TLS1_3_VERSION,
    alpn: bytes = b"h2",
) -> Iterator[TlsServer]:
    """Serve one handshake after another with exactly these certificates."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(version)
    context.use_certificate(certificates[0])
    for extra in certificates[1:]:
        context.add_extra_chain_cert(extra)
    context.use_privatekey(key)
    # Without it gRPC gives up after any handshake, whatever it thinks of the certificate.
    context.set_alpn_select_callback(lambda _, offered: alpn if alpn in offered else b"")
    listener = socket.create_server((LOOPBACK, 0))
    server = TlsServer(Address(LOOPBACK, listener.getsockname()[1]))

    taken: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the test is over
            while True:
                connection, _ = listener.accept()
                taken.append(connection)
                with contextlib.suppress(SSL.Error, OSError), connection:
                    tls = SSL.Connection(context, connection)
                    tls.set_accept_state()
                    tls.do_handshake()
                    server.handshakes += 1
                    while data := tls.recv(4096):
                        server.received += data

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for end in (listener, *taken):
            with contextlib.suppress(OSError):  # closed long ago
                end.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextmanager
def silent_server() -> Iterator[Address]:
    """Accepts connections and never says a word."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield Address(LOOPBACK, listener.getsockname()[1])
