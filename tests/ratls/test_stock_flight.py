"""It stays Flight: pyarrow's own client at our server, and our client at pyarrow's own server.

Each is served, or refused alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from policy.rows import schema_digest
from policy.task import Task
from policy.values import Digest, Nonce
from ratls.address import Address
from ratls.appraise import Challenge, appraise_challenge
from ratls.arrow_header import RowsHeaderMalformed
from ratls.certificate import ENCLAVE_NAME
from ratls.claims import NO_TASK, NonceMismatch, TaskHashMismatch
from ratls.client_call import AnswerMissing, AnswerNotOpened
from ratls.client_stream import Pending, Result
from ratls.errors import CallFailed
from ratls.flight_data import FlightDataMalformed
from ratls.framing import (
    PART,
    Chunk,
    Kind,
    MessageUnexpected,
    read_message,
    without_metadata,
    write_message,
)
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.sealing import (
    TAG_SIZE,
    ChunkHead,
    ChunkNotOpenable,
    SealingKey,
    Tally,
    Transcript,
    seal_stream_key,
    tags_digest,
)
from ratls.server_stream import ServerExchange
from tests.support.enclave import EnclaveWorld
from tests.support.enclave import rows as enclave_rows
from tests.support.flight_peers import (
    LOOPBACK,
    NOW,
    PlainEnclave,
    Script,
    Study,
    serving,
    transcript,
)
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

NONCE, TASK, SALT = b"n" * 32, b"task", b"s" * 32
ABOUT = Digest(bytes(32))
ROWS = pa.record_batch({"patient": ["p1", "p2", "p3"], "age": [40, 50, 60]})


# pyarrow's client at our server


@contextmanager
def enclave(study: Study, **script: Any) -> Iterator[PlainEnclave]:
    made = Script(study.identity(), study.channel().spki_sha256, **script)
    with serving(made, study.channel()) as server:
        yield server


@contextmanager
def stock(
    study: Study, server: PlainEnclave, party: str = "alice-clinic", **options: Any
) -> Iterator[flight.FlightClient]:
    """pyarrow's client with a party's certificate, pinned to the enclave's."""
    identity = study.channel(party)
    with flight.FlightClient(
        f"grpc+tls://{server.address}",
        tls_root_certs=server.script.identity.certificate_pem,
        override_hostname=ENCLAVE_NAME,
        cert_chain=identity.cert_pem,
        private_key=identity.key_pem,
        **options,
    ) as client:
        yield client


class Talk:
    """One DoExchange of pyarrow's client."""

    def __init__(self, client: flight.FlightClient, kind: bytes) -> None:
        options = flight.FlightCallOptions(timeout=HANG_LIMIT)
        descriptor = flight.FlightDescriptor.for_command(kind)
        self.writer, self._reader = client.do_exchange(descriptor, options)

    def say(self, name: str, **members: Any) -> None:
        self.writer.write_metadata(write_message(name, **members))

    def hear(self, name: str) -> dict[str, Any]:
        chunk = self._reader.read_chunk()
        assert chunk.data is None
        return read_message(chunk.app_metadata.to_pybytes(), name)[1]

    def hello(self, task: bytes = TASK) -> dict[str, Any]:
        """Challenge the enclave; what it answers."""
        dataset = "train_party_1" if task else ""
        self.say("hello", nonce=NONCE, task=task, dataset=dataset, release=b"")
        return self.hear("evidence")


@contextmanager
def refused_alike(leaf: type[RatlsError], kind: type[Exception]) -> Iterator[None]:
    """Class and `extra_info`, as pyarrow's client shows what pyarrow's server says."""
    count_refusal()
    with pytest.raises(flight.FlightError) as seen:
        yield
    assert type(seen.value) is kind, seen.value
    assert json.loads(seen.value.extra_info) == {"code": leaf.code, "id": "0001"}
    assert f"refused: {leaf.code} (0001)" in str(seen.value)


def test_pyarrows_client_challenges_the_enclave(study: Study) -> None:
    with enclave(study) as server, stock(study, server) as client:
        talk = Talk(client, Kind.ATTEST.value)
        answer = talk.hello(task=b"")
        talk.writer.close()
        assert answer["sealing_key"] == b""
        challenge = Challenge(Nonce(NONCE), study.channel().spki_sha256, NO_TASK)
        admitted = study.admitted(server.script.identity)
        assert appraise_challenge(
            answer["evidence"], admitted, challenge, study.expectation, at=NOW
        )


def test_pyarrows_client_releases_rows_that_are_not_sealed(study: Study) -> None:
    with enclave(study) as server, stock(study, server) as client:
        talk = Talk(client, Kind.RELEASE.value)
        talk.hello()
        talk.writer.begin(ROWS.schema)
        for seq, batch in enumerate((ROWS, ROWS.slice(1), ROWS.slice(2))):
            talk.writer.write_with_metadata(batch, write_message("batch", seq=seq))
        talk.say("commit", commit=b"commit")
        assert talk.hear("acknowledgement") == {"document": b"ack of commit"}
        talk.writer.close()
        assert server.script.uploads == [(6, 3)]


def test_pyarrows_client_releases_rows_that_it_seals(study: Study) -> None:
    """With nothing of ours but what sealing is made of."""
    with enclave(study, plain=False) as server, stock(study, server) as client:
        talk = Talk(client, Kind.RELEASE.value)
        public = talk.hello()["sealing_key"]
        made = transcript(NONCE, server.script.identity.instance, TASK)
        sealed, key = seal_stream_key(public, made, SALT)
        talk.say("open", stream=0, streams=1, key=sealed)
        assert talk.hear("ready")["chunks"] == 0
        tally = Tally()
        for number, last in ((0, False), (1, True)):
            head = ChunkHead(number, last)
            chunk = key.seal(ROWS.serialize(), head, ABOUT)
            tally.add(chunk[-TAG_SIZE:], ROWS.num_rows)
            talk.writer.write_metadata(b"\0" + head.encode() + chunk)
        talk.say("commit", commit=b"commit")
        assert talk.hear("acknowledgement") == {"document": b"ack of commit"}
        talk.writer.close()
        received = Tally()
        for opened in server.script.chunks:
            assert opened.message.equals(ROWS.serialize())
            received.add(opened.tag, ROWS.num_rows)
        assert tags_digest([received]) == tags_digest([tally])


def test_pyarrows_client_seals_for_another_place(study: Study) -> None:
    """F15."""
    with enclave(study, plain=False) as server, stock(study, server) as client:
        talk = Talk(client, Kind.RELEASE.value)
        made = transcript(NONCE, server.script.identity.instance, TASK)
        sealed, key = seal_stream_key(talk.hello()["sealing_key"], made, SALT)
        talk.say("open", stream=0, streams=1, key=sealed)
        talk.hear("ready")
        chunk = key.seal(ROWS.serialize(), ChunkHead(1, True), ABOUT)
        with refused_alike(ChunkNotOpenable, flight.FlightServerError):
            talk.writer.write_metadata(b"\0" + ChunkHead(0, True).encode() + chunk)
            talk.hear("acknowledgement")
        assert server.script.uploads == []


@pytest.mark.parametrize("command", [b"ratls/2 release", b"", b"../../etc"])
def test_pyarrows_client_asks_for_something_else(study: Study, command: bytes) -> None:
    """F13."""
    with enclave(study) as server, stock(study, server) as client:
        talk = Talk(client, command)
        with refused_alike(MessageUnexpected, flight.FlightServerError):
            talk.hello()
        assert server.script.hellos == 0


def test_pyarrows_client_asks_by_a_path(study: Study) -> None:
    """F13."""
    with enclave(study) as server, stock(study, server) as client:
        descriptor = flight.FlightDescriptor.for_path(b"ratls/1 release")
        options = flight.FlightCallOptions(timeout=HANG_LIMIT)
        _, reader = client.do_exchange(descriptor, options)
        with refused_alike(FlightDataMalformed, flight.FlightServerError):
            reader.read_chunk()


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (NonceMismatch, flight.FlightUnauthenticatedError),
        (TaskHashMismatch, flight.FlightUnauthenticatedError),
    ],
)
def test_pyarrows_client_shows_a_refusal_as_before(
    study: Study, leaf: type[RatlsError], kind: type[Exception]
) -> None:
    def fail(exchange: ServerExchange) -> None:
        raise leaf("a row", expected="1", found="canary-c4n4ry")

    with enclave(study, before_evidence=fail) as server, stock(study, server) as client:
        talk = Talk(client, Kind.ATTEST.value)
        with refused_alike(leaf, kind):
            talk.hello(task=b"")


def test_pyarrows_client_packs_what_it_sends(study: Study) -> None:
    """F04, F19: below Arrow by gRPC, and inside Arrow by its writer."""
    count_refusal()
    packing = [("grpc.default_compression_algorithm", 2)]
    with (
        enclave(study) as server,
        stock(study, server, generic_options=packing) as client,
        pytest.raises((flight.FlightError, pa.ArrowException, OSError)),
    ):
        Talk(client, Kind.ATTEST.value).hello(task=b"")
    assert server.script.hellos == 0


def test_pyarrows_client_packs_its_rows(study: Study) -> None:
    """F04."""
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    with enclave(study) as server, stock(study, server) as client:
        talk = Talk(client, Kind.RELEASE.value)
        talk.hello()
        talk.writer.begin(ROWS.schema, packed)
        with refused_alike(RowsHeaderMalformed, flight.FlightServerError):
            talk.writer.write_with_metadata(ROWS, write_message("batch", seq=0))
            talk.hear("acknowledgement")
        assert server.script.uploads == []


def test_pyarrows_client_with_a_certificate_that_is_not_listed(study: Study) -> None:
    """I01."""
    count_refusal()
    with (
        enclave(study) as server,
        stock(study, server, "bob-hospital") as client,
        pytest.raises((flight.FlightUnavailableError, OSError)),
    ):
        Talk(client, Kind.ATTEST.value).hello(task=b"")
    assert server.script.hellos == 0


# Our client at pyarrow's server

Act = Callable[["Stock", Any, Any, dict[str, Any]], object]  # reader, writer, hello


class Stock(flight.FlightServerBase):
    """An enclave on pyarrow's own server: proves itself, then does as it is told."""

    def __init__(self, study: Study, identity: EnclaveIdentity, act: Act) -> None:
        self.peer, self.act, self.enclave = study.channel(), act, identity
        self.key: SealingKey | None = None
        self.tags: list[bytes] = []
        super().__init__(
            f"grpc+tls://{LOOPBACK}:0",
            tls_certificates=[(identity.certificate_pem, identity.key_pem)],
            verify_client=True,
            root_certificates=self.peer.cert_pem,
        )

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        assert Kind(descriptor.command)
        hello = heard(reader, "hello")
        public = self.key.public if self.key else b""
        named = hashlib.sha256(public).digest() if public else b""
        task = hashlib.sha256(hello["task"]).digest() if hello["task"] else NO_TASK
        spki = self.peer.spki_sha256
        evidence = self.enclave.answer_challenge(hello["nonce"], spki, task, named)
        said(writer, "evidence", evidence=evidence, sealing_key=public)
        self.act(self, reader, writer, hello)


def heard(reader: Any, name: str) -> dict[str, Any]:
    return read_message(reader.read_chunk().app_metadata.to_pybytes(), name)[1]


def said(writer: Any, name: str, **members: Any) -> None:
    writer.write_metadata(write_message(name, **members))


@contextmanager
def pyarrow_server(study: Study, act: Act) -> Iterator[tuple[Stock, Address, Any]]:
    identity = study.identity()
    with Stock(study, identity, act) as server:
        yield server, Address(LOOPBACK, server.port), study.admitted(identity)


def collect(study: Study, act: Act) -> Any:
    with (
        pyarrow_server(study, act) as (_, address, admitted),
        study.exchange(Kind.COLLECT, address, admitted, task=TASK) as exchange,
    ):
        return exchange.collect()


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (
            lambda s, r, w, h: [
                said(w, "result", receipt=b"r", size=PART + 1, parts=2),
                said(w, "part", number=0, ciphertext=bytes(PART)),
                said(w, "part", number=1, ciphertext=b"\0"),
            ],
            Result(b"r", bytes(PART + 1)),
        ),
        (
            lambda s, r, w, h: said(w, "pending", missing=["train_party_1"]),
            Pending(("train_party_1",)),
        ),
    ],
)
def test_our_client_collects_from_pyarrows_server(study: Study, act: Act, found: object) -> None:
    assert collect(study, act) == found


def take_sealed(server: Stock, reader: Any, writer: Any, hello: dict[str, Any]) -> None:
    """Opens each chunk, up to the commit."""
    assert server.key is not None
    opened = heard(reader, "open")
    made = transcript(hello["nonce"], server.enclave.instance, hello["task"])
    key = server.key.open_stream_key(opened["key"], made)
    said(writer, "ready", chunks=0, rows=0, digest=bytes(32), port=0, connection=b"")
    while (raw := reader.read_chunk().app_metadata.to_pybytes())[0] == 0:
        chunk = Chunk.parse(memoryview(raw)[1:])
        assert key.open(chunk.sealed, chunk.head, ABOUT).equals(ROWS.serialize())
        server.tags.append(bytes(chunk.tag))
    commit = read_message(raw, "commit")[1]["commit"]
    said(writer, "acknowledgement", document=b"ack of " + commit)


def test_our_client_releases_to_pyarrows_server(study: Study) -> None:
    with pyarrow_server(study, take_sealed) as (server, address, admitted):
        server.key = SealingKey.make()
        with study.exchange(Kind.RELEASE, address, admitted, task=TASK) as exchange:
            claims = exchange.fresh.claims
            exchange.open(transcript(claims.nonce, claims.instance, TASK), SALT, ABOUT)
            for place in range(3):
                exchange.send_sealed(ROWS.serialize(), 3, last=place == 2)
            assert exchange.commit(b"commit") == b"ack of commit"
        tally = Tally()
        for tag in server.tags:
            tally.add(tag, 3)
        assert tags_digest([tally]) == tags_digest([exchange.sealed()])


def take_plain(server: Stock, reader: Any, writer: Any, hello: dict[str, Any]) -> None:
    rows = 0
    while (chunk := reader.read_chunk()).data is not None:
        rows += chunk.data.num_rows
    commit = read_message(chunk.app_metadata.to_pybytes(), "commit")[1]["commit"]
    said(writer, "acknowledgement", document=commit + b" " + str(rows).encode())


def test_our_client_sends_plain_rows_to_pyarrows_server(study: Study) -> None:
    with (
        pyarrow_server(study, take_plain) as (_, address, admitted),
        study.exchange(Kind.RELEASE, address, admitted, task=TASK) as exchange,
    ):
        exchange.begin(ROWS.schema)
        exchange.send(ROWS)
        exchange.send(ROWS.slice(1))
        assert exchange.commit(b"commit") == b"commit 5"


def send_rows(server: Stock, reader: Any, writer: Any, hello: dict[str, Any]) -> None:
    writer.begin(ROWS.schema)
    writer.write_with_metadata(ROWS, write_message("pending", missing=[]))


def refuse(server: Stock, reader: Any, writer: Any, hello: dict[str, Any]) -> None:
    info = json.dumps({"code": "task-unknown", "id": "0007"}).encode()
    raise flight.FlightUnauthorizedError("refused: c4n4ry", info)


def fail(server: Stock, reader: Any, writer: Any, hello: dict[str, Any]) -> None:
    raise ValueError("a cell: c4n4ry")


@pytest.mark.parametrize(
    ("act", "leaf"),
    [
        (send_rows, AnswerNotOpened),
        (refuse, PeerRefused),
        (fail, CallFailed),  #                          flight.md 3.1
        (lambda s, r, w, h: None, AnswerMissing),  #    flight.md 2.2
        (lambda s, r, w, h: said(w, "absent"), MessageUnexpected),
        (lambda s, r, w, h: w.write_metadata(b"no message"), MessageUnexpected),
    ],
)
def test_our_client_refuses_pyarrows_server(study: Study, act: Act, leaf: type[RatlsError]) -> None:
    """F20; and nothing of what the other end says of itself is shown."""
    with refused(leaf) as seen:
        collect(study, act)
    assert "c4n4ry" not in str(seen.error)
    if isinstance(seen.error, PeerRefused):
        assert (seen.error.peer_code, seen.error.correlation_id) == ("task-unknown", "0007")


# The enclave itself


def test_pyarrows_client_releases_to_the_enclave() -> None:
    """From challenge to acknowledgement, with a signed commit about its tags."""
    world = EnclaveWorld.create()
    alice, task, dataset = world.consortium.alice, world.task(), "train_party_1"
    batches = [
        pa.RecordBatch.from_arrays(batch.columns, schema=without_metadata(batch.schema))
        for batch in enclave_rows(1).to_batches(max_chunksize=25)
    ]
    with world.running() as live:
        party = world.channel(alice)
        client = flight.FlightClient(
            f"grpc+tls://{live.address}",
            tls_root_certs=live.enclave.identity.certificate_pem,
            override_hostname=ENCLAVE_NAME,
            cert_chain=party.cert_pem,
            private_key=party.key_pem,
        )
        declared = world.policy.dataset_by_id(dataset)
        assert declared is not None
        digest, about = Task.read(task).digest, schema_digest(declared)
        with client:
            talk = Talk(client, Kind.RELEASE.value)
            talk.say("hello", nonce=NONCE, task=task, dataset=dataset, release=b"r" * 16)
            answer = talk.hear("evidence")
            named = hashlib.sha256(answer["sealing_key"]).digest()
            challenge = Challenge(Nonce(NONCE), party.spki_sha256, digest, named)
            fresh = appraise_challenge(
                answer["evidence"],
                live.admitted,
                challenge,
                world.expectation,
                at=datetime.now(UTC),
            )
            made = Transcript(
                policy_digest=world.policy.digest,
                task_digest=digest,
                nonce=Nonce(NONCE),
                instance=fresh.claims.instance,
                dataset=dataset,
                provider=alice.party_id,
                release=b"r" * 16,
                stream=0,
                streams=1,
            )
            sealed, key = seal_stream_key(answer["sealing_key"], made, live.salt)
            talk.say("open", stream=0, streams=1, key=sealed)
            assert talk.hear("ready")["chunks"] == 0
            tally = Tally()
            for number, batch in enumerate(batches):
                head = ChunkHead(number, number == len(batches) - 1)
                chunk = key.seal(batch.serialize(), head, about)
                tally.add(chunk[-TAG_SIZE:], batch.num_rows)
                talk.writer.write_metadata(b"\0" + head.encode() + chunk)
            sent: Any = SimpleNamespace(fresh=fresh, sealed=lambda: tally)
            talk.say("commit", commit=live.commit(sent, alice, dataset, batches, task))
            assert talk.hear("acknowledgement")["document"]
            talk.writer.close()
        live.release(world.consortium.bob, "train_party_2", enclave_rows(2), task)
        assert isinstance(live.wait(world.consortium.carol, task), Result)
