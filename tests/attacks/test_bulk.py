"""Whoever sits on the connection of the sealed chunks, which has no TLS: B08, F10, F14, F15.

The network there may do what it likes. It learns sizes and times, and gains a refusal; nothing
counts, and what had arrived before stays, so that the next release sends only the rest.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from enclave_app.errors import ListenAddressUnusable
from enclave_app.intake import StreamsIncomplete
from enclave_app.limits import Limits
from enclave_app.server import EnclaveServer
from policy.rows import schema_digest
from policy.sections import Dataset
from policy.task import Task
from provider.release import release
from ratls import client_stream
from ratls.address import Address
from ratls.bulk import BulkListener
from ratls.client_stream import Kept
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.framing import ChunkUnexpected, Kind, MessageUnexpected, chunk_frame
from ratls.peer_refusal import PeerRefused
from ratls.sealing import ChunkHead, ChunkNotOpenable, StreamKey, seal_stream_key
from ratls.server_stream import SequenceBroken, ServerExchange
from tests.provider.desk import CANARY, Desk
from tests.support.documents import contents
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.frame_relay import Cut, FrameRelay
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

SEALED = '\n[transport]\nbulk = "sealed"\n'
ONE = "train_party_1"
Edit = Callable[[int, bytes], list[bytes]]


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    """The policy says that chunks travel beside TLS."""
    return EnclaveWorld.create(transport=SEALED)


def listener_of(live: LiveEnclave) -> BulkListener:
    assert live.server._bulk is not None
    return live.server._bulk


@dataclass
class Release:
    """Alice's release over a network that is not hers, 25 rows in a chunk."""

    live: LiveEnclave
    middle: FrameRelay
    task: bytes
    name: bytes = bytes(range(16))
    batches: list[Any] = field(default_factory=lambda: rows(1).to_batches(max_chunksize=25))

    def run(self) -> bytes:
        """The acknowledgement; goes on where an earlier try ended."""
        alice = self.live.world.consortium.alice
        with self.live.exchange(
            Kind.RELEASE, alice, task=self.task, dataset=ONE, release=self.name
        ) as exchange:
            kept = self.live.open(exchange, alice, ONE, self.task)
            for number, batch in enumerate(self.batches[kept.chunks :], kept.chunks + 1):
                last = number == len(self.batches)
                exchange.send_sealed(batch.serialize(), batch.num_rows, last=last)
            commit = self.live.commit(exchange, alice, ONE, self.batches, self.task)
            return exchange.commit(commit)

    def kept(self) -> Kept:
        """What the enclave has of it; asking is a connection of its own."""
        alice = self.live.world.consortium.alice
        with self.live.exchange(
            Kind.RELEASE, alice, task=self.task, dataset=ONE, release=self.name
        ) as exchange:
            return self.live.open(exchange, alice, ONE, self.task)

    @property
    def declared(self) -> Dataset:
        found = self.live.world.policy.dataset_by_id(ONE)
        assert found is not None
        return found

    def counts(self) -> bool:
        return "committed" in [line["event"] for line in self.live.log]


@contextmanager
def releasing(world: EnclaveWorld, **options: Any) -> Iterator[Release]:
    """The enclave names the port of the man in the middle, as a rerouted network would."""
    with world.running(**options) as live, FrameRelay(listener_of(live).port) as middle:
        listener_of(live).port = middle.port
        yield Release(live, middle, world.task())


@pytest.fixture
def honest(world: EnclaveWorld) -> Iterator[Release]:
    with releasing(world) as made:
        yield made


# A man in the middle who passes on what comes.


def test_chunks_that_are_passed_on_unaltered_count(honest: Release) -> None:
    assert honest.run()
    assert honest.counts()
    assert len(honest.middle.frames) == len(honest.batches) == 3
    assert [frame[:9].hex() for frame in honest.middle.frames] == [
        "000000000000000000",
        "000000000000000100",
        "000000000000000201",
    ]


def test_nothing_of_rows_keys_and_nonces_is_on_that_wire(
    world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B08, D12: all bytes of a whole release, recorded. What is seen is sizes, times and the id."""
    secrets: list[bytes] = []

    def spied(*args: Any) -> Any:
        def random(size: int) -> bytes:
            secrets.append(b"K" * (size - 8) + bytes(range(8)))
            return secrets[-1]

        _public, transcript, salt, *_ = args
        secrets.extend((salt, transcript.nonce, transcript.release))
        return seal_stream_key(_public, transcript, salt, random)

    monkeypatch.setattr(client_stream, "seal_stream_key", spied)
    with world.running() as live, Relay(("127.0.0.1", listener_of(live).port)) as relay:
        listener_of(live).port = Address.parse(relay.address).port
        alice = Desk.of("alice", world, tmp_path, live.address)
        task = world.task()
        assert alice.push(task).commit.rows == 60
        (connection,) = relay.connections
        seen = bytes(connection.sent)
        assert not connection.received
    patients = rows(1)["patient"].to_pylist()
    named = [CANARY, ONE, contents(Task, task).id, "patient", "alice", *patients]
    assert len(secrets) == 4
    for secret in (*secrets, *(text.encode() for text in named), b"\xff\xff\xff\xff"):
        assert secret not in seen
    # The head of a chunk is all that can be read.
    assert seen[16:29] == (len(seen) - 20).to_bytes(4, "big") + bytes(8) + b"\x01"


# One who alters.


def altered(place: int, number: int = 1) -> Edit:
    """One bit of one chunk."""

    def edit(n: int, frame: bytes) -> list[bytes]:
        if n != number:
            return [frame]
        changed = bytearray(frame)
        changed[place] ^= 1
        return [bytes(changed)]

    return edit


class Swapped:
    """Two chunks in the other order."""

    def __init__(self) -> None:
        self.first = b""

    def __call__(self, n: int, frame: bytes) -> list[bytes]:
        if n == 0:
            self.first = frame
            return []
        return [frame, self.first] if n == 1 else [frame]


def renumbered(n: int, frame: bytes) -> list[bytes]:
    """The second chunk pretends to be the first, and the reverse."""
    return [(1 - n).to_bytes(8, "big") + frame[8:]] if n < 2 else [frame]


@pytest.mark.parametrize(
    ("edit", "leaf", "arrived"),
    [
        pytest.param(altered(40), ChunkNotOpenable, 1, id="ciphertext-altered"),
        pytest.param(altered(-1), ChunkNotOpenable, 1, id="tag-altered"),
        pytest.param(altered(7), SequenceBroken, 1, id="number-altered"),
        pytest.param(altered(0), ChunkUnexpected, 1, id="number-beyond-any"),
        pytest.param(altered(8), ChunkNotOpenable, 1, id="made-the-last"),
        pytest.param(altered(8, 2), ChunkNotOpenable, 2, id="no-longer-the-last"),
        pytest.param(Swapped(), SequenceBroken, 0, id="swapped"),
        pytest.param(renumbered, SequenceBroken, 0, id="swapped-numbers"),
        pytest.param(lambda n, f: [f, f], SequenceBroken, 1, id="repeated"),
        pytest.param(lambda n, f: [f] if n else [], SequenceBroken, 0, id="lost"),
        pytest.param(lambda n, f: [f[:-1] if n == 1 else f], ChunkNotOpenable, 1, id="shortened"),
        pytest.param(
            lambda n, f: [f + b"\0" if n == 1 else f], ChunkNotOpenable, 1, id="lengthened"
        ),
        pytest.param(lambda n, f: [f[:25] if n == 1 else f], ChunkNotOpenable, 1, id="tag-alone"),
        pytest.param(lambda n, f: [f[:5]], ChunkUnexpected, 0, id="no-head"),
        pytest.param(lambda n, f: [bytes(len(f))], ChunkNotOpenable, 0, id="zeros"),
    ],
)
def test_a_chunk_that_was_altered_on_the_way(
    honest: Release, edit: Edit, leaf: type[RatlsError], arrived: int
) -> None:
    """F15. What had come before stays: the next try, which nobody disturbs, sends the rest."""
    honest.middle.edit = edit
    with refused_by_enclave(leaf):
        honest.run()
    assert not honest.counts()
    honest.middle.edit = lambda n, frame: [frame]
    assert honest.kept().chunks == arrived
    assert honest.run()
    assert honest.counts()


def cut(n: int, frame: bytes) -> list[bytes]:
    if n == 1:
        raise Cut
    return [frame]


@pytest.mark.parametrize(
    ("edit", "arrived"),
    [
        pytest.param(cut, 1, id="closed"),
        pytest.param(lambda n, f: [f] if n != 1 else [bytes(9 << 20)], 1, id="frame-too-large"),
    ],
)
def test_a_connection_that_was_broken(honest: Release, edit: Edit, arrived: int) -> None:
    """F14. To the provider it is a connection that broke, and the rest is sent over another."""
    honest.middle.edit = edit
    with refused(CallFailed):
        honest.run()
    assert not honest.counts()
    honest.middle.edit = lambda n, frame: [frame]
    assert honest.kept().chunks == arrived
    assert honest.run()


def test_a_pause_that_the_client_did_not_make(honest: Release) -> None:
    """The enclave turns to the attested stream too early, where a commit to more chunks comes."""
    honest.middle.edit = lambda n, frame: [b"", frame] if n == 1 else [frame]
    with refused_by_enclave(StreamsIncomplete):
        honest.run()
    assert not honest.counts()
    honest.middle.edit = lambda n, frame: [frame]
    assert honest.kept().chunks == 1
    assert honest.run()


def test_chunks_that_are_held_back_arrive_later(honest: Release) -> None:
    """Delay alone changes nothing."""
    more = threading.Event()

    def edit(n: int, frame: bytes) -> list[bytes]:
        if n == 1:
            more.wait(HANG_LIMIT)
        return [frame]

    honest.middle.edit = edit
    threading.Timer(0.05, more.set).start()
    assert honest.run()


def test_a_chunk_of_another_release(honest: Release) -> None:
    """B02: the same rows, task and place, but the key of a release that was begun before."""
    honest.middle.edit = cut
    with refused(CallFailed):
        honest.run()
    old = honest.middle.frames[0]
    honest.middle.edit = lambda n, frame: [old] if n == 0 else [frame]
    honest.name = bytes(16)
    with refused_by_enclave(ChunkNotOpenable):
        honest.run()
    honest.middle.edit = lambda n, frame: [frame]
    assert honest.run()


def test_a_chunk_of_another_task(world: EnclaveWorld, honest: Release) -> None:
    assert honest.run()
    old = honest.middle.frames[0]
    other = Release(honest.live, honest.middle, world.task())
    honest.middle.edit = lambda n, frame: [old] if n == 0 else [frame]
    with refused_by_enclave(ChunkNotOpenable):
        other.run()
    honest.middle.edit = lambda n, frame: [frame]
    assert other.run()


def test_a_chunk_of_another_stream_of_the_same_release(
    world: EnclaveWorld, honest: Release, tmp_path: Path
) -> None:
    """The network exchanges two streams, chunk for chunk: number and schema are the same."""
    alice = Desk.of("alice", world, tmp_path, honest.live.address)
    alice.write(rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)]))
    both = threading.Barrier(2)
    first: list[bytes] = []
    calm = threading.Event()

    def edit(n: int, frame: bytes) -> list[bytes]:
        if n or calm.is_set():
            return [frame]
        first.append(frame)
        both.wait(HANG_LIMIT)
        return [first[0] if frame is first[1] else first[1]]

    honest.middle.edit = edit
    request = alice.request(honest.task, pause=lambda seconds: None)
    with refused(PeerRefused) as seen:
        release(request, ONE, alice.path, streams=2)
    assert seen.error.peer_code == ChunkNotOpenable.code  # type: ignore[attr-defined]
    assert not honest.counts()
    calm.set()
    assert release(request, ONE, alice.path, streams=2).commit.rows == 3000


def test_a_chunk_with_another_key(honest: Release) -> None:
    """Whoever knows place, schema and rows still lacks the key."""
    about = schema_digest(honest.declared)
    made = StreamKey(bytes(32), bytes(32), 0)

    def edit(n: int, frame: bytes) -> list[bytes]:
        head = ChunkHead(n, frame[8] == 1)
        return [head.encode() + made.seal(honest.batches[n].serialize(), head, about)]

    honest.middle.edit = edit
    with refused_by_enclave(ChunkNotOpenable):
        honest.run()
    honest.middle.edit = lambda n, frame: [frame]
    assert honest.run()


# Whoever knows the id, and comes first.


def test_a_race_for_the_connection(world: EnclaveWorld, honest: Release) -> None:
    """A sniffed id is worth one refusal; the client's own connection then finds nobody."""
    port = listener_of(honest.live).port
    genuine = honest.middle._target

    def edit(n: int, frame: bytes) -> list[bytes]:
        raise Cut

    with socket.create_server(("127.0.0.1", 0)) as nobody:
        # The middle takes the id, and connects itself with chunks of its own making.
        honest.middle._target = nobody.getsockname()[1]
        honest.middle.edit = edit

        def race() -> None:
            made = eventually(lambda: honest.middle.ids[0] if honest.middle.ids else None)
            with socket.create_connection(("127.0.0.1", genuine), 5) as first:
                chunk = bytes(8) + b"\x01" + bytes(64)
                first.sendall(made + len(chunk).to_bytes(4, "big") + chunk)
                first.recv(1)

        thread = threading.Thread(target=race)
        thread.start()
        with refused(PeerRefused) as seen:
            honest.run()
        thread.join()
    assert seen.error.peer_code == ChunkNotOpenable.code  # type: ignore[attr-defined]
    assert not honest.counts()
    honest.middle._target = genuine
    honest.middle.edit = lambda n, frame: [frame]
    assert listener_of(honest.live).port == port
    assert honest.run()


def test_silence_on_the_connection_ends_the_call(world: EnclaveWorld) -> None:
    """F10: by the enclave's own clock."""
    with releasing(world, limits=Limits(buckets=(0.01,), silent_seconds=0.2)) as made:
        made.middle.edit = lambda n, frame: []
        with refused(CallFailed):
            made.run()
        made.middle.edit = lambda n, frame: [frame]
        assert made.run()


def test_a_connection_that_never_comes_ends_the_call(world: EnclaveWorld) -> None:
    with (
        releasing(world, limits=Limits(buckets=(0.01,), silent_seconds=0.2)) as made,
        socket.create_server(("127.0.0.1", 0)) as nobody,
    ):
        genuine, made.middle._target = made.middle._target, nobody.getsockname()[1]
        with refused(CallFailed):
            made.run()
        made.middle._target = genuine
        assert made.run()


def test_the_attested_stream_ends_while_chunks_are_awaited(
    world: EnclaveWorld, honest: Release
) -> None:
    """F10: the call's thread and slot are free at once, and what came is kept."""
    count_refusal()
    alice = world.consortium.alice

    def interrupted() -> None:
        with honest.live.exchange(
            Kind.RELEASE, alice, task=honest.task, dataset=ONE, release=honest.name
        ) as exchange:
            honest.live.open(exchange, alice, ONE, honest.task)
            batch = honest.batches[0]
            exchange.send_sealed(batch.serialize(), batch.num_rows, last=False)
            exchange.sealed()
            eventually(lambda: bool(honest.middle.frames))
            raise InterruptedError  # the call is cancelled

    with pytest.raises(InterruptedError):
        interrupted()
    eventually(lambda: not honest.live.server._guard.slots._running.total())
    assert not listener_of(honest.live)._awaited
    assert honest.run()


@pytest.fixture
def large(world: EnclaveWorld, honest: Release, tmp_path: Path) -> Desk:
    """Alice with 9 MB, more than sockets and queues take before somebody reads."""
    alice = Desk.of("alice", world, tmp_path, honest.live.address)
    alice.write(rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)]))
    return alice


def test_chunks_that_nobody_reads(honest: Release, large: Desk) -> None:
    """F11: the provider's command ends with its deadline, and its thread with it."""
    more = threading.Event()

    def held(n: int, frame: bytes) -> list[bytes]:
        more.wait(HANG_LIMIT)
        return [frame]

    honest.middle.edit = held
    with large.refuses(DeadlineExceeded):
        large.push(honest.task, timeout=0.9)
    more.set()
    eventually(lambda: all(thread.name != "chunks" for thread in threading.enumerate()))
    assert not honest.counts()
    assert large.push(honest.task).commit.rows == 3000


def test_the_provider_is_refused_while_its_chunks_are_on_the_way(
    honest: Release, large: Desk
) -> None:
    """What the enclave says on the attested stream is told, and not that the other one broke."""
    honest.middle.edit = altered(40, 0)
    with large.refuses(PeerRefused) as seen:
        large.push(honest.task)
    assert seen.error.peer_code == ChunkNotOpenable.code
    honest.middle.edit = lambda n, frame: [frame]
    assert large.push(honest.task).commit.rows == 3000


# Chunks where they are not due, and ports where none is.


def test_chunks_on_the_attested_stream_where_they_are_due_beside_it(
    world: EnclaveWorld, honest: Release
) -> None:
    alice = world.consortium.alice
    head = ChunkHead(0, last=False)
    with (
        refused_by_enclave(ChunkUnexpected),
        honest.live.exchange(
            Kind.RELEASE, alice, task=honest.task, dataset=ONE, release=honest.name
        ) as exchange,
    ):
        honest.live.open(exchange, alice, ONE, honest.task)
        assert exchange._key is not None
        sealed = exchange._key.seal(honest.batches[0].serialize(), head, exchange._about)
        exchange._to_attested_stream()
        exchange._call.send(chunk_frame(head, sealed))
        exchange.commit(b"commit")
    assert honest.run()


def test_no_port_is_open_where_the_policy_says_tls(world: EnclaveWorld) -> None:
    inside = EnclaveWorld.create()
    with inside.running() as live:
        assert live.server._bulk is None
        assert live.release(inside.consortium.alice, ONE, rows(1), inside.task())


@pytest.mark.parametrize(
    ("transport", "port", "name"),
    [
        pytest.param("", 4444, bytes(16), id="a-port-where-tls-is-agreed"),
        pytest.param("", 0, bytes(16), id="an-id-where-tls-is-agreed"),
        pytest.param(SEALED, 0, b"", id="none-where-one-is-agreed"),
        pytest.param(SEALED, 4444, b"", id="a-port-without-an-id"),
        pytest.param(SEALED, 4444, bytes(17), id="another-id"),
        pytest.param(SEALED, 65536, bytes(16), id="no-such-port"),
        pytest.param(SEALED, -1, bytes(16), id="a-negative-port"),
    ],
)
def test_an_enclave_that_offers_what_is_not_agreed(
    monkeypatch: pytest.MonkeyPatch, transport: str, port: int, name: bytes
) -> None:
    """The client connects to no port, and sends no chunk elsewhere, than the policy says."""
    world = EnclaveWorld.create(transport=transport)
    alice, task = world.consortium.alice, world.task()

    def ready(self: ServerExchange, chunks: int, rows: int, digest: bytes) -> None:
        self._say("ready", chunks=chunks, rows=rows, digest=digest, port=port, connection=name)

    with world.running() as live:
        with monkeypatch.context() as patched:
            patched.setattr(ServerExchange, "ready", ready)
            with (
                refused(MessageUnexpected),
                live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
            ):
                live.open(exchange, alice, ONE, task)
        assert live.release(alice, ONE, rows(1), task)


def test_the_next_port_is_anothers(world: EnclaveWorld) -> None:
    """An enclave that could not take chunks does not start; its first port is free again."""
    with world.running() as live:
        taken = listener_of(live).port
        with (
            refused(ListenAddressUnusable),
            world.running(port=taken - 1 if taken - 1 != live.server.port else taken),
        ):
            pass
    with refused(ListenAddressUnusable), world.running(port=65535):
        pass


# What else a release does, beside TLS.


def test_the_enclave_proves_itself_again_between_chunks(
    world: EnclaveWorld, honest: Release
) -> None:
    """The client pauses on one connection, and the challenge travels on the other."""
    alice, batches = world.consortium.alice, honest.batches
    with honest.live.exchange(
        Kind.RELEASE, alice, task=honest.task, dataset=ONE, release=honest.name
    ) as exchange:
        honest.live.open(exchange, alice, ONE, honest.task)
        for number, batch in enumerate(batches):
            exchange.send_sealed(batch.serialize(), batch.num_rows, last=number == len(batches) - 1)
            if number < 2:
                assert exchange.challenge_again().claims.instance
        assert exchange.commit(honest.live.commit(exchange, alice, ONE, batches, honest.task))
    assert [bool(frame) for frame in honest.middle.frames] == [True, False, True, False, True]


def test_several_streams_over_a_network_that_cuts_one(
    world: EnclaveWorld, honest: Release, tmp_path: Path
) -> None:
    """The release goes on by itself: the other streams lose nothing, and each has its own key."""
    alice = Desk.of("alice", world, tmp_path, honest.live.address)
    names = [f"patient-{i}-{'x' * 3000}" for i in range(3000)]
    alice.write(rows(1, 3000, patient=names))
    once = threading.Event()

    def edit(n: int, frame: bytes) -> list[bytes]:
        if n == 1 and not once.is_set():
            once.set()
            raise Cut
        return [frame]

    honest.middle.edit = edit
    request = alice.request(honest.task, pause=lambda seconds: None)
    done = release(request, ONE, alice.path, streams=3)
    assert once.is_set()
    assert done.commit.rows == 3000
    assert done.sent.kept + done.sent.rows == 3000
    assert len(set(honest.middle.ids)) == len(honest.middle.ids) == 6


def test_both_ports_are_closed_when_the_enclave_stops(world: EnclaveWorld) -> None:
    count_refusal()
    with world.running() as live:
        bulk = listener_of(live)
        server: EnclaveServer = live.server
    eventually(lambda: bulk._listening.fileno() == -1)
    for port in (server.port, bulk.port):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 5)
