"""All transports behind one face, for attacks that every one of them must meet.

with GRPC.serve(study) as served, GRPC.connect(study, served.address) as speak:
    speak(b"question")
    served.wait_for(b"question")    # all that the program in the enclave has read: `served.heard`
"""

from __future__ import annotations

import copy
import hashlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC

import grpc  # noqa: E402
import httpx  # noqa: E402
import pyarrow as pa  # noqa: E402
from OpenSSL import SSL  # noqa: E402

from policy.document import Policy  # noqa: E402
from policy.values import Digest, Nonce  # noqa: E402
from ratls import flight  # noqa: E402
from ratls.address import Address  # noqa: E402
from ratls.appraise import AdmittedCertificate, appraise_certificate  # noqa: E402
from ratls.attested_socket import AttestedSocket, message_frame  # noqa: E402
from ratls.client_call import ClientCall  # noqa: E402
from ratls.client_stream import open_exchange  # noqa: E402
from ratls.flight_service import COMMAND  # noqa: E402
from ratls.framing import Frame, Kind, command_frame  # noqa: E402
from ratls.framing import message_frame as flight_frame  # noqa: E402
from ratls.framing import write_message as flight_message  # noqa: E402
from ratls.grpc import Attestation, channel  # noqa: E402
from ratls.http import HttpTransport, serve_wsgi  # noqa: E402
from ratls.identity import EnclaveIdentity, Identities  # noqa: E402
from ratls.listener import Limits, Listener  # noqa: E402
from ratls.log import open_log  # noqa: E402
from ratls.pin import ChannelIdentity, ending, pinned_channel  # noqa: E402
from ratls.probe import probe  # noqa: E402
from ratls.sealing import SealingKey  # noqa: E402
from ratls.server_stream import ServerExchange  # noqa: E402
from ratls.session import Renewal, Verifier, read_message, write_message  # noqa: E402
from ratls.tls import ALPN, Shown  # noqa: E402
from ratls.tunnel import TunnelClient, TunnelServer  # noqa: E402
from tests.support.channels import Log, connect_to  # noqa: E402
from tests.support.flight_peers import LOOPBACK, NOW, Script, Study, serving, transcript  # noqa: E402
from tests.support.waiting import HANG_LIMIT, eventually  # noqa: E402
from verifier.errors import RatlsError  # noqa: E402

Speak = Callable[[bytes], object]
TASK = b"task"


@dataclass
class Served:
    """An enclave that is being served, and what its program has read."""

    address: Address
    identity: EnclaveIdentity
    heard: bytearray = field(default_factory=bytearray)
    log: Log = field(default_factory=Log)
    refusals: list[str] = field(default_factory=list)  # where the transport keeps no log itself
    sealing_key: bytes = b""
    identities: Identities | None = None  # where the certificate can be renewed

    def renew(self) -> None:
        """A new certificate, as after hours."""
        assert self.identities is not None
        self.identities._next = NOW
        assert self.identities.renew_if_due(NOW)

    def wait_for(self, said: bytes) -> None:
        """The program has read it."""
        eventually(lambda: said in self.heard)

    @property
    def codes(self) -> list[str]:
        """The refusals that the operator of the enclave finds."""
        return self.log.codes + self.refusals


@dataclass(frozen=True)
class Changes:
    """What else a test may want of a server; not every transport has all of it."""

    policy: Callable[[], Policy] | None = None
    limits: Limits | None = None
    seconds: Callable[[], float] | None = None
    enclaves: Verifier | None = None  # judges enclaves that connect
    thief: bool = False  # not the enclave: somebody with its TLS key

    @property
    def clock(self) -> dict[str, Any]:
        return {} if self.seconds is None else {"seconds": self.seconds}


class Transport:
    """One of them. Arguments of `serve` and `connect` each change one thing."""

    name: str

    def serve(
        self, study: Study, identity: EnclaveIdentity | None = None, **changed: Any
    ) -> AbstractContextManager[Served]:
        """The agreed enclave; what is changed are fields of `Changes`."""
        raise NotImplementedError

    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> AbstractContextManager[Speak]:
        """Alice's end, or another one's."""
        raise NotImplementedError

    def forwarded(
        self,
        study: Study,
        served: Served,
        nonce: bytes,
        own: ChannelIdentity | EnclaveIdentity | None = None,
    ) -> tuple[bytes, bytes]:
        """Evidence that this enclave makes for somebody's nonce, on a connection of the asker's,
        who also has Alice's key; and the sealing key that it names, if any."""
        raise NotImplementedError


class Sockets(Transport):
    """`ratls.sockets`."""

    name = "sockets"

    @contextmanager
    def serve(
        self, study: Study, identity: EnclaveIdentity | None = None, **changed: Any
    ) -> Iterator[Served]:
        given = Changes(**changed)
        served = Served(Address(LOOPBACK, 0), identity or study.identity())
        listener = Listener(
            served.address,
            served.identity,
            given.policy or (lambda: study.policy),
            enclaves=given.enclaves,
            limits=given.limits,
            log=open_log(served.log),
            **given.clock,
        )
        served.address, served.identities = listener.address, listener.identities
        with self._program(served) as run:
            thread = threading.Thread(target=run, args=[listener], daemon=True)
            thread.start()
            try:
                yield served
            finally:
                listener.close()
                thread.join()

    @contextmanager
    def _program(self, served: Served) -> Iterator[Callable[[Listener], None]]:
        def echo(connection: AttestedSocket) -> None:
            while data := connection.recv(1 << 16):
                served.heard += data
                connection.sendall(data)
            connection.end()

        yield lambda listener: listener.serve(echo)

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        with connect_to(study, address, own, verifier) as connection:

            def speak(question: bytes) -> bytes:
                connection.sendall(question)
                answer = b""
                while len(answer) < len(question):
                    answer += connection.recv(1 << 16)
                return answer

            yield speak

    def forwarded(
        self,
        study: Study,
        served: Served,
        nonce: bytes,
        own: ChannelIdentity | EnclaveIdentity | None = None,
    ) -> tuple[bytes, bytes]:
        with raw_connection(served.address, Shown.of(own or study.channel())) as tls:
            tls.sendall(message_frame(write_message("hello", nonce=nonce)))
            _, members = read_message(read_frame(tls)[1], "evidence")
        return members["evidence"], b""


class Http(Sockets):
    """`ratls.http`: a web program, and `httpx`."""

    name = "HTTP"

    @contextmanager
    def _program(self, served: Served) -> Iterator[Callable[[Listener], None]]:
        def echo(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            body = environ["wsgi.input"].read()
            served.heard += body
            start("200 OK", [("Content-Length", str(len(body)))])
            return [body]

        yield lambda listener: serve_wsgi(listener, echo, log=open_log(served.log))

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        judge = verifier or Verifier(lambda: study.expectation)
        with httpx.Client(
            transport=HttpTransport(own or study.channel(), judge), timeout=HANG_LIMIT
        ) as client:
            yield lambda question: client.post(f"https://{address}/", content=question).content


class Tunnel(Sockets):
    """`ratls.tunnel`: a program that knows nothing of it at either end."""

    name = "tunnel"

    @contextmanager
    def _program(self, served: Served) -> Iterator[Callable[[Listener], None]]:
        def answer(taken: socket.socket) -> None:
            with taken, suppress(ConnectionError):
                while data := taken.recv(1 << 16):
                    served.heard.extend(data)
                    taken.sendall(data)

        with tcp_server(answer) as target:
            yield lambda listener: TunnelServer(listener, target).serve()

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        reported: list[RatlsError] = []
        client = TunnelClient(
            Address(LOOPBACK, 0),
            lambda: connect_to(study, address, own, verifier),
            report=reported.append,
        )
        thread = threading.Thread(target=client.serve)
        thread.start()
        program = socket.create_connection((LOOPBACK, client.address.port))
        program.settimeout(HANG_LIMIT)

        def speak(question: bytes) -> bytes:
            answer = b""
            try:
                program.sendall(question)
                while len(answer) < len(question):
                    data = program.recv(1 << 16)
                    assert data, "a cut must be a reset, never an end"
                    answer += data
            except ConnectionError:
                raise eventually(lambda: reported)[0] from None
            return answer

        try:
            yield speak
        finally:
            program.close()
            client.close()
            thread.join()


@contextmanager
def tcp_server(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A program that answers each connection in a thread."""
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=[taken], daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Address(LOOPBACK, listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


class Grpc(Transport):
    """`ratls.grpc`."""

    name = "gRPC"

    @contextmanager
    def serve(
        self, study: Study, identity: EnclaveIdentity | None = None, **changed: Any
    ) -> Iterator[Served]:
        given = Changes(**changed)
        served = Served(Address(LOOPBACK, 0), identity or study.identity())
        attestation = Attestation(
            served.identity,
            given.policy or (lambda: study.policy),
            log=open_log(served.log),
            **given.clock,
        )
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[attestation.interceptor])

        def echo(request: bytes, context: Any) -> bytes:
            served.heard.extend(request)
            return request

        handlers = {"One": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("user.Echo", handlers),)
        )
        attestation.add_to(server)
        port = server.add_secure_port(f"{LOOPBACK}:0", attestation.credentials())
        served.address, served.identities = Address(LOOPBACK, port), attestation.identities
        server.start()
        try:
            yield served
        finally:
            server.stop(None).wait()

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        judge = verifier or Verifier(lambda: study.expectation)
        made = channel(address, own or study.channel(), judge, timeout=HANG_LIMIT)
        with made:
            call: Any = made.unary_unary("/user.Echo/One")
            yield lambda question: call(question, timeout=HANG_LIMIT)

    def forwarded(
        self,
        study: Study,
        served: Served,
        nonce: bytes,
        own: ChannelIdentity | EnclaveIdentity | None = None,
    ) -> tuple[bytes, bytes]:
        admitted = study.admitted(served.identity)
        with pinned_channel(served.address, admitted, own or study.channel()) as made:
            call: Any = made.unary_unary("/ratls.Attestation/Challenge")
            answer = call(write_message("hello", nonce=nonce), timeout=HANG_LIMIT)
        return read_message(answer, "evidence")[1]["evidence"], b""


class Flight(Transport):
    """The exchanges of `ratls.client_stream`: what is said is a sealed row."""

    name = "Flight"

    @contextmanager
    def serve(
        self, study: Study, identity: EnclaveIdentity | None = None, **changed: Any
    ) -> Iterator[Served]:
        given = Changes(**changed)
        made = identity or study.identity()
        script = Script(made, study.channel().spki_sha256, plain=False)
        served = Served(Address(LOOPBACK, 0), made, refusals=script.refusals)
        if given.thief:
            # It has no sealing key of its own: the one of the evidence is the enclave's.
            script.sealing_key = _Told(served)  # type: ignore[assignment]
            script.after_evidence = lambda exchange: listen_in(exchange, served.heard)
        else:
            served.sealing_key = script.sealing_key.public
        script.chunks = _Heard(served.heard)
        with serving(script, study.channel()) as server:
            served.address = server.address
            yield served

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        judge = verifier or Verifier(lambda: study.expectation)
        expected = judge.expect()
        admitted = appraise_certificate(probe(address, HANG_LIMIT), expected, at=judge.clock())
        with open_exchange(
            Kind.RELEASE,
            address,
            admitted,
            own or study.channel(),
            task=TASK,
            task_digest=Digest(hashlib.sha256(TASK).digest()),
            dataset="train_party_1",
            expectation=expected,
            clock=judge.clock,
            timeout=HANG_LIMIT,
            random=judge.random,
        ) as exchange:
            renewal = Renewal.agreed(expected, judge.seconds)
            claims = exchange.fresh.claims
            made = transcript(claims.nonce, claims.instance, TASK)
            exchange.open(made, b"s" * 32, Digest(bytes(32)))

            def speak(question: bytes) -> None:
                if renewal.due:  # as `provider.release` does between two batches
                    exchange.challenge_again()
                    renewal.proved()
                batch = pa.record_batch({"said": [question]})
                exchange.send_sealed(batch.serialize(), 1, last=False)
                exchange.sealed()

            yield speak
            exchange.commit(b"commit")

    def forwarded(
        self,
        study: Study,
        served: Served,
        nonce: bytes,
        own: ChannelIdentity | EnclaveIdentity | None = None,
    ) -> tuple[bytes, bytes]:
        hello = {"task": TASK, "dataset": "train_party_1", "release": b""}
        admitted, shown = study.admitted(served.identity), own or study.channel()
        return evidence_for(nonce, served.address, admitted, shown, Kind.RELEASE.value, **hello)


class OwnFlight(Transport):
    """`ratls.flight`, rows of one's own: what is said is a row, and not sealed."""

    name = "own Flight"

    @contextmanager
    def serve(
        self, study: Study, identity: EnclaveIdentity | None = None, **changed: Any
    ) -> Iterator[Served]:
        given = Changes(**changed)
        served = Served(Address(LOOPBACK, 0), identity or study.identity())

        class Program(flight.Service):
            def put(self, call: flight.Call, rows: pa.RecordBatchReader) -> bytes:
                for batch in rows:
                    served.heard.extend(batch.column(0)[0].as_py().encode())
                return b""

        with flight.Server(
            served.address,
            served.identity,
            given.policy or (lambda: study.policy),
            Program(),
            log=open_log(served.log),
            **given.clock,
        ) as server:
            served.address, served.identities = server.address, server.identities
            yield served

    @contextmanager
    def connect(
        self,
        study: Study,
        address: Address,
        own: ChannelIdentity | EnclaveIdentity | None = None,
        verifier: Verifier | None = None,
    ) -> Iterator[Speak]:
        judge = verifier or Verifier(lambda: study.expectation)
        client = flight.Client(address, own or study.channel(), judge, timeout=HANG_LIMIT)
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        ended: list[BaseException | None] = []
        sent = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal sent
            while (said := waiting.get()) is not None:
                yield pa.record_batch({"said": [said.decode()]})
                sent += 1  # asked for the next one: this one has left

        def put() -> None:
            schema = pa.schema({"said": pa.string()})
            try:
                client.put(b"said", pa.RecordBatchReader.from_batches(schema, batches()))
            except RatlsError as refusal:
                ended.append(refusal)
            else:
                ended.append(None)

        thread = threading.Thread(target=put)
        thread.start()
        said = 0

        def speak(question: bytes) -> None:
            nonlocal said
            said += 1
            waiting.put(question)
            eventually(lambda: ended or sent >= said)
            if ended and ended[0] is not None:
                raise ended[0]

        try:
            yield speak
        finally:
            waiting.put(None)
            thread.join()
        if ended[0] is not None:
            raise ended[0]

    def forwarded(
        self, study: Study, served: Served, nonce: bytes, own: ChannelIdentity | None = None
    ) -> tuple[bytes, bytes]:
        admitted, shown = study.admitted(served.identity), own or study.channel()
        hello = {"task": b"", "dataset": "", "release": b""}
        return evidence_for(nonce, served.address, admitted, shown, COMMAND, **hello)


def evidence_for(
    nonce: bytes,
    address: Address,
    admitted: AdmittedCertificate,
    shown: ChannelIdentity | EnclaveIdentity,
    command: bytes,
    /,
    **hello: bytes | str,
) -> tuple[bytes, bytes]:
    """What a server of Flight proves for this nonce, and the sealing key that it names, if any."""
    with (
        ending(pinned_channel(address, admitted, shown)) as made,
        ClientCall.open(made, HANG_LIMIT) as call,
    ):
        call.send(command_frame(command))
        call.send(flight_frame(flight_message("hello", nonce=nonce, **hello)))
        frame = call.hear()
        assert frame is not None
        _, answer = frame.message("evidence")
    return answer["evidence"], answer["sealing_key"]


class _Told(SealingKey):
    """The public half of somebody's sealing key, as far as it is known by now."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def public(self) -> bytes:  # type: ignore[override]
        return self._served.sealing_key


class _Heard(list[Any]):
    """Chunks that were opened, for the program."""

    def __init__(self, heard: bytearray) -> None:
        self._heard = heard

    def append(self, opened: Any) -> None:
        self._heard += opened.message.to_pybytes()
        super().append(opened)


def listen_in(exchange: ServerExchange, heard: bytearray) -> None:
    """Go on as an enclave would, and keep all that comes."""
    exchange.open_request()
    exchange.ready(0, 0, Digest(bytes(32)))
    for raw in exchange._requests:
        heard += raw
        frame = Frame.parse(raw)
        if not frame.is_chunk:
            exchange.acknowledge(frame.message("commit")[1]["commit"])


SOCKETS, HTTP, TUNNEL = Sockets(), Http(), Tunnel()
GRPC, FLIGHT, OWN_FLIGHT = Grpc(), Flight(), OwnFlight()
ALL = (SOCKETS, HTTP, TUNNEL, GRPC, FLIGHT, OWN_FLIGHT)


# Peers below all of that, which say what no library would


@contextmanager
def raw_connection(
    address: Address, shown: Shown | None, alpn: bytes = ALPN
) -> Iterator[SSL.Connection]:
    """TLS 1.3 with any server, whoever that is; without `shown` no certificate is sent."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([alpn])
    if shown is not None:
        context.use_certificate(shown.certificate)
        context.use_privatekey(shown.key)
    with socket.create_connection((address.host, address.port)) as raw:
        tls = SSL.Connection(context, raw)
        tls.set_connect_state()
        tls.do_handshake()
        yield tls


def cut_off(tls: SSL.Connection, said: bytes = b"") -> None:
    """Say this, and read until the other end has had enough: an `SSL.Error`."""
    if said:
        tls.sendall(said)
    while True:
        tls.recv(1 << 16)


def read_frame(tls: SSL.Connection) -> tuple[int, bytes]:
    """Kind and content of the next frame of `ratls.attested_socket`."""
    head = _read_all(tls, 4)
    return head[0], _read_all(tls, int.from_bytes(head[1:], "big"))


def _read_all(tls: SSL.Connection, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += tls.recv(size - len(found))
    return found


Answer = Callable[[bytes, bytes, bytes, bytes, bytes], bytes]


def answering(identity: EnclaveIdentity, answer: Answer) -> EnclaveIdentity:
    """One with the same certificate and key, whose evidence is what `answer` makes of nonce, peer,
    task, digest of the sealing key, and binder."""
    made = copy.copy(identity)

    def instead(
        nonce: Nonce, peer: bytes, task: Digest, sealing: bytes = b"", binder: bytes = b""
    ) -> bytes:
        return answer(nonce, peer, task, sealing, binder)

    made.answer_challenge = instead  # type: ignore[method-assign]
    return made
