"""A release whose connection breaks: what is kept, for whom, how long, and what of it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.errors import AttemptClosed
from enclave_app.intake import Intake, StreamsDiffer, StreamsIncomplete
from enclave_app.limits import Limits, MemoryExhausted
from enclave_app.receive import CommitCountMismatch, CommitDigestMismatch, CommitOfAnotherRelease
from policy.receipt import Acknowledgement
from policy.rows import schema_digest
from policy.task import Task
from policy.values import Digest
from ratls.client_stream import ClientExchange, Kept
from ratls.errors import AttesterMixedUp, CallFailed
from ratls.framing import Kind, RowDigest, chunk_frame, message_digest
from ratls.identity import EnclaveIdentity
from ratls.sealing import ChunkHead, ChunkNotOpenable, StreamKeyNotOpenable, tags_digest
from ratls.server_stream import SequenceBroken
from ratls.turns import TooManyChallenges
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import eventually
from verifier.errors import RatlsError

ONE, TWO = "train_party_1", "train_party_2"
NAME = b"one-release-here"
PARTS = rows(1).to_batches(max_chunksize=10)


class Cut(Exception):
    """The link is gone."""


@dataclass
class Run:
    """One release of Alice's, by hand: its connections come and go."""

    live: LiveEnclave
    task: bytes
    streams: int = 1
    kept: dict[int, Kept] = field(default_factory=dict)

    @contextmanager
    def connection(self, stream: int = 0, **fields: Any) -> Iterator[ClientExchange]:
        """A stream, its key agreed; `fields` replace those of the transcript."""
        alice = self.live.world.consortium.alice
        with self.live.exchange(
            Kind.RELEASE, alice, task=self.task, dataset=ONE, release=NAME
        ) as exchange:
            made = {"stream": stream, "streams": self.streams} | fields
            self.kept[stream] = self.live.open(exchange, alice, ONE, self.task, **made)
            yield exchange

    def send(
        self, exchange: ClientExchange, parts: Sequence[pa.RecordBatch], *, last: bool
    ) -> None:
        for number, part in enumerate(parts, 1):
            ends = last and number == len(parts)
            exchange.send_sealed(part.serialize(), part.num_rows, last=ends)

    def cut_after(self, parts: Sequence[pa.RecordBatch], stream: int = 0, **said: bool) -> None:
        """Bring these, and break once the enclave has them."""
        with suppress(Cut), self.connection(stream) as exchange:
            before = self.rows()
            self.send(exchange, parts, last=said.get("last", False))
            after = before + sum(part.num_rows for part in parts)
            eventually(lambda: self.rows() == after or not exchange._call._call.is_active())
            if self.rows() != after:
                exchange._call.hear()  # what the enclave says against it
            raise Cut
        self.wait_until_unconnected()

    def wait_until_unconnected(self) -> None:
        """The server learns of a cut a moment after it."""
        eventually(lambda: (found := self.intake()) is None or not found.connections)

    def intake(self) -> Intake | None:
        """What the enclave has of it, uncommitted."""
        session = self.live.enclave.sessions._open.get(Task.read(self.task).digest)
        return session.attempts.get(ONE) if session else None

    def rows(self) -> int:
        found = self.intake()
        return found.rows if found else 0

    def committed(self) -> pa.Table:
        """What the enclave would compute with."""
        return self.live.enclave.sessions._open[Task.read(self.task).digest].rows[ONE].table()

    def commit(
        self,
        exchange: ClientExchange,
        sent: Sequence[pa.RecordBatch],
        others: Sequence[ClientExchange] = (),
        **fields: Any,
    ) -> Acknowledgement:
        """An honest commit to these, over this connection and the others."""
        alice = self.live.world.consortium.alice
        made: dict[str, Any] = {
            "tags_digest": tags_digest([e.sealed() for e in (exchange, *others)])
        }
        envelope = self.live.commit(exchange, alice, ONE, list(sent), self.task, **made | fields)
        return Acknowledgement.open(exchange.commit(envelope))

    def digest(self, parts: Sequence[pa.RecordBatch]) -> Digest:
        """Salted, of what should have been kept."""
        declared = self.live.world.policy.dataset_by_id(ONE)
        assert declared is not None
        digest = RowDigest(self.live.salt, schema_digest(declared))
        for number, part in enumerate(parts):
            digest.add(number, part.num_rows, message_digest(part.serialize()))
        return digest.digest()


@pytest.fixture
def run(live: LiveEnclave, task: bytes) -> Run:
    return Run(live, task)


@pytest.mark.parametrize("arrived", range(len(PARTS)))
def test_a_stream_that_broke_goes_on_after_any_chunk(run: Run, arrived: int) -> None:
    """The rest is sent, and the committed rows are those of the source, in their order."""
    run.cut_after(PARTS[:arrived])
    with run.connection() as exchange:
        assert run.kept[0] == Kept(arrived, 10 * arrived, run.digest(PARTS[:arrived]))
        run.send(exchange, PARTS[arrived:], last=True)
        acknowledged = run.commit(exchange, PARTS)
    assert (acknowledged.rows, acknowledged.batches) == (60, 6)
    assert run.committed().equals(rows(1))


def test_a_stream_that_broke_before_its_commit(run: Run) -> None:
    """Everything is there, and counts for nothing; the second connection sends the commit alone."""
    run.cut_after(PARTS, last=True)
    with run.connection() as exchange:
        assert run.kept[0].chunks == len(PARTS)
        run.commit(exchange, PARTS)
    assert run.committed().equals(rows(1))


def test_a_stream_that_broke_again_and_again(run: Run) -> None:
    for part in PARTS[:-1]:
        run.cut_after([part])
    with run.connection() as exchange:
        assert run.kept[0] == Kept(5, 50, run.digest(PARTS[:5]))
        run.send(exchange, PARTS[5:], last=True)
        run.commit(exchange, PARTS)
    assert run.committed().equals(rows(1))


def test_a_connection_that_breaks_before_its_key(run: Run) -> None:
    """Between challenge and key: what was kept before stays."""
    alice = run.live.world.consortium.alice
    run.cut_after(PARTS[:2])
    with (
        suppress(Cut),
        run.live.exchange(Kind.RELEASE, alice, task=run.task, dataset=ONE, release=NAME),
    ):
        raise Cut
    run.wait_until_unconnected()
    assert run.rows() == 20
    with run.connection() as exchange:
        run.send(exchange, PARTS[2:], last=True)
        run.commit(exchange, PARTS)


@pytest.mark.parametrize("in_mid_stream", [False, True])
@pytest.mark.parametrize("why", [AttesterMixedUp, TooManyChallenges])
def test_a_quote_that_could_not_be_made_costs_no_row(
    run: Run, monkeypatch: pytest.MonkeyPatch, why: type[RatlsError], in_mid_stream: bool
) -> None:
    """The machine's own service fails for a moment: at the next connection, or when the enclave
    shall prove itself again; or this party has had many. What had come stays."""

    def none(*asked: object) -> bytes:
        raise why("quote", expected="one", found="none")

    def refused_quote(exchange: ClientExchange) -> None:
        with monkeypatch.context() as failing:
            failing.setattr(EnclaveIdentity, "answer_challenge", none)
            exchange.challenge_again()

    if in_mid_stream:
        with refused_by_enclave(why), run.connection() as exchange:
            run.send(exchange, PARTS[:3], last=False)
            refused_quote(exchange)
    else:
        run.cut_after(PARTS[:3])
        with monkeypatch.context() as failing, refused_by_enclave(why):
            failing.setattr(EnclaveIdentity, "answer_challenge", none)
            run.connection().__enter__()
    run.wait_until_unconnected()
    with run.connection() as exchange:
        assert run.kept[0].chunks == 3
        run.send(exchange, PARTS[3:], last=True)
        run.commit(exchange, PARTS)
    assert run.committed().num_rows == 60


def test_nothing_that_was_kept_counts_without_a_commit(run: Run) -> None:
    """F14: nor does what was kept of one release count for another."""
    count_refusal()
    run.cut_after(PARTS, last=True)
    assert run.live.collect(run.live.world.consortium.carol, run.task).missing == (ONE, TWO)  # type: ignore[union-attr]


# Whose it is.


def test_another_name_begins_anew(run: Run) -> None:
    """What one run kept is not mixed with another's, and its memory is free."""
    free = run.live.enclave.budgets.memory.free
    run.cut_after(PARTS[:3])
    kept = run.intake()
    assert kept is not None
    alice = run.live.world.consortium.alice
    with (
        suppress(Cut),
        run.live.exchange(
            Kind.RELEASE, alice, task=run.task, dataset=ONE, release=b"r" * 16
        ) as other,
    ):
        assert run.live.open(other, alice, ONE, run.task).chunks == 0
        assert run.live.enclave.budgets.memory.free == free
        raise Cut
    with refused(AttemptClosed):
        kept.tallies()


def test_the_same_name_for_another_task_has_nothing(run: Run) -> None:
    """D02, R16: kept rows are of one task, as is everything else."""
    count_refusal()
    run.cut_after(PARTS[:3])
    other = Run(run.live, run.live.world.task())
    other.cut_after([])
    assert other.kept[0].chunks == 0
    assert run.rows() == 30


def test_the_same_name_of_another_party_has_nothing(run: Run) -> None:
    """I08: Bob gets neither Alice's rows, nor their digest, nor their number."""
    run.cut_after(PARTS[:3])
    bob = run.live.world.consortium.bob
    with (
        refused_by_enclave(ReleaseNotAuthorized),
        run.live.exchange(Kind.RELEASE, bob, task=run.task, dataset=ONE, release=NAME),
    ):
        pass
    with (
        suppress(Cut),
        run.live.exchange(Kind.RELEASE, bob, task=run.task, dataset=TWO, release=NAME) as exchange,
    ):
        assert run.live.open(exchange, bob, TWO, run.task).chunks == 0
        raise Cut
    assert run.rows() == 30


def test_another_enclave_has_nothing(world: EnclaveWorld, run: Run) -> None:
    """B18: a second start of the same enclave is another one."""
    count_refusal()
    run.cut_after(PARTS[:3])
    with world.running() as second:
        other = Run(second, run.task)
        other.cut_after([])
        assert other.kept[0].chunks == 0


# Two connections at once: a cut one looks alive for a while.


@pytest.fixture
def not_ended_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newer connection has taken over, and the end of the older one has not arrived yet."""
    join = Intake.join
    monkeypatch.setattr(
        Intake, "join", lambda self, stream, streams, _: join(self, stream, streams)
    )


@pytest.mark.usefixtures("not_ended_yet")
def test_an_older_connection_adds_nothing_more(run: Run) -> None:
    """Nor does its end end what the newer one goes on with."""
    with ExitStack() as old_one:
        old = old_one.enter_context(run.connection())
        run.send(old, PARTS[:2], last=False)
        eventually(lambda: run.rows() == 20)
        with run.connection() as new:
            assert run.kept[0].chunks == 2
            with refused_by_enclave(AttemptClosed):
                run.send(old, PARTS[2:3], last=False)
                old._call.hear()
            run.send(new, PARTS[2:], last=True)
            run.commit(new, PARTS)
        with suppress(CallFailed, RatlsError):
            old_one.close()
    assert run.committed().equals(rows(1))


def test_an_older_connection_is_ended_by_a_newer_one(world: EnclaveWorld) -> None:
    """F11: its link may be dead, and it would take one of its party's calls until that shows. What
    it brought stays with the newer one.
    """
    time = [0.0]
    with world.running(seconds=lambda: time[0]) as live:
        run = Run(live, world.task())
        with suppress(CallFailed), run.connection() as old:
            run.send(old, PARTS[:1], last=False)
            eventually(lambda: run.rows() == 10)
            with suppress(Cut), run.connection() as new:
                with refused(CallFailed):
                    old._call.hear()
                eventually(lambda: (found := run.intake()) is None or found.connections == 1)
                time[0] = live.enclave.limits.kept_seconds + 1
                live.enclave.sweep()
                assert run.rows() == 10, "one connection is still there"
                assert new.fresh
                raise Cut


@pytest.mark.usefixtures("not_ended_yet")
def test_an_altered_older_connection_takes_nothing_along(run: Run) -> None:
    """B08: a man in the middle holds the old connection, and says what he likes over it."""
    with suppress(RatlsError), run.connection() as old:
        run.send(old, PARTS[:1], last=False)
        eventually(lambda: run.rows() == 10)
        with run.connection() as new:
            with refused_by_enclave(ChunkNotOpenable):
                old._call.send(chunk_frame(ChunkHead(1, last=True), bytes(100)))
                old._call.hear()
            run.send(new, PARTS[1:], last=True)
            run.commit(new, PARTS)
    assert run.committed().equals(rows(1))


# How long.


def test_rows_are_kept_for_a_while_and_no_longer(world: EnclaveWorld) -> None:
    """F10: what nobody goes on with gives its memory back; the next connection sends all again."""
    count_refusal()
    time = [0.0]
    with world.running(seconds=lambda: time[0]) as live:
        run, limits = Run(live, world.task()), live.enclave.limits
        run.cut_after(PARTS[:3])
        time[0] = limits.kept_seconds - 1
        live.enclave.sweep()
        assert run.rows() == 30
        assert live.enclave.budgets.memory.free < limits.held_bytes
        time[0] = limits.kept_seconds
        live.enclave.sweep()
        assert run.intake() is None
        assert live.enclave.budgets.memory.free == limits.held_bytes
        with run.connection() as exchange:
            assert run.kept[0].chunks == 0
            run.send(exchange, PARTS, last=True)
            run.commit(exchange, PARTS)
        assert run.committed().equals(rows(1))


def test_a_release_that_goes_on_has_its_time_back(world: EnclaveWorld) -> None:
    """The clock of what was kept stops when somebody has come for it."""
    time = [0.0]
    with world.running(seconds=lambda: time[0]) as live:
        run, limits = Run(live, world.task()), live.enclave.limits
        run.cut_after(PARTS[:3])
        time[0] = limits.kept_seconds - 1
        with run.connection() as exchange:
            time[0] = limits.kept_seconds + 1
            live.enclave.sweep()
            run.send(exchange, PARTS[3:], last=True)
            run.commit(exchange, PARTS)
        assert run.committed().equals(rows(1))


def test_going_on_does_not_buy_more_time_than_a_release_has(world: EnclaveWorld) -> None:
    """F10: whoever breaks and comes back for ever holds memory no longer than others."""
    count_refusal()
    time = [0.0]
    with world.running(seconds=lambda: time[0]) as live:
        run, limits = Run(live, world.task()), live.enclave.limits
        while time[0] < limits.exchange_seconds:
            run.cut_after(PARTS[:1])
            assert run.rows()
            time[0] += limits.kept_seconds / 2
        live.enclave.sweep()
        assert run.intake() is None
        assert live.enclave.budgets.memory.free == limits.held_bytes


def test_what_is_kept_is_within_the_partys_share(world: EnclaveWorld) -> None:
    """F10, D11: Alice breaks releases of many tasks; there is room for Bob all the while."""
    size = sum(part.serialize().size for part in PARTS)
    needed = 2 * size + 60 * 1000  # what the training needs beside the rows
    limits = Limits(held_bytes=1 << 30, party_bytes=needed, buckets=(0.01,))
    with world.running(limits=limits) as live:
        run = Run(live, world.task())
        run.cut_after(PARTS)
        with refused_by_enclave(MemoryExhausted):
            for _ in range(20):
                other = Run(live, world.task())
                other.cut_after(PARTS)
        task = world.task()
        live.release(world.consortium.bob, TWO, rows(2), task)
        run.cut_after([])
        assert run.kept[0].chunks == len(PARTS)


# What a commit says of it.


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"rows": 30}, CommitCountMismatch),
        ({"batches": 3}, CommitCountMismatch),
        ({"tags_digest": b"d" * 32}, CommitDigestMismatch),
    ],
)
def test_commit_about_the_rest_alone(
    run: Run, fields: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """S22: what was kept is committed too, or nothing is."""
    run.cut_after(PARTS[:3])
    with refused_by_enclave(leaf), run.connection() as exchange:
        run.send(exchange, PARTS[3:], last=True)
        run.commit(exchange, PARTS, **fields)


def test_commit_as_if_nothing_had_broken(run: Run) -> None:
    """The tags of both connections, as the first one would have signed them: the provider must
    have looked at what was kept, whose digest takes the place of the first tags."""
    run.cut_after(PARTS[:3])
    with refused_by_enclave(CommitDigestMismatch), run.connection() as exchange:
        exchange.tally = type(exchange.tally)()
        exchange.tally.chunks, exchange.tally.rows = 3, 30
        run.send(exchange, PARTS[3:], last=True)
        run.commit(exchange, PARTS)


def test_chunks_that_were_kept_come_again(run: Run) -> None:
    """F15: a provider that does not believe what was kept cannot add it a second time."""
    run.cut_after(PARTS[:3])
    with refused_by_enclave(SequenceBroken), run.connection() as exchange:
        exchange._number = 0
        run.send(exchange, PARTS, last=True)
        exchange._call.hear()


def test_chunks_of_the_first_connection_over_the_second(run: Run) -> None:
    """B08: recorded of the first; the second has another key."""
    with suppress(Cut), run.connection() as first:
        key, about = first._key, first._about
        raise Cut
    assert key is not None
    head = ChunkHead(0, last=True)
    recorded = chunk_frame(head, key.seal(PARTS[0].serialize(), head, about))
    with refused_by_enclave(ChunkNotOpenable), run.connection() as exchange:
        exchange._call.send(recorded)
        exchange._call.hear()


# Several streams.


@contextmanager
def connected(run: Run) -> Iterator[list[ClientExchange]]:
    """One connection for each stream."""
    with ExitStack() as opened:
        yield [opened.enter_context(run.connection(n)) for n in range(run.streams)]


def end_others(exchanges: Sequence[ClientExchange]) -> None:
    for exchange in exchanges[1:]:
        exchange.received()


@pytest.mark.parametrize("streams", [2, 3, 6])
def test_streams_carry_one_release(run: Run, streams: int) -> None:
    """Chunks are dealt out in turns, and come out in the order of the source."""
    run.streams = streams
    with connected(run) as exchanges:
        for number, exchange in enumerate(exchanges):
            run.send(exchange, PARTS[number::streams], last=True)
        end_others(exchanges)
        run.commit(exchanges[0], PARTS, exchanges[1:])
    assert run.committed().equals(rows(1))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_stream_does_not_lose_the_others(run: Run, lost: int) -> None:
    """It goes on alone; the others never notice."""
    run.streams = 3
    run.cut_after([PARTS[lost]], stream=lost)
    others = [number for number in range(3) if number != lost]
    with ExitStack() as opened:
        exchanges: dict[int, ClientExchange] = {}
        for number in others:
            exchanges[number] = opened.enter_context(run.connection(number))
            run.send(exchanges[number], PARTS[number::3], last=True)
        exchanges[lost] = opened.enter_context(run.connection(lost))
        assert run.kept[lost].chunks == 1
        run.send(exchanges[lost], PARTS[lost::3][1:], last=True)
        ordered = [exchanges[number] for number in range(3)]
        end_others(ordered)
        run.commit(ordered[0], PARTS, ordered[1:])
    assert run.committed().equals(rows(1))


def test_commit_before_another_stream_has_ended(run: Run) -> None:
    """F14: a provider that lost count."""
    run.streams = 2
    with suppress(CallFailed, RatlsError), connected(run) as exchanges:
        run.send(exchanges[0], PARTS[0::2], last=True)
        run.send(exchanges[1], PARTS[1::2], last=False)
        eventually(lambda: run.rows() == 60)
        with refused_by_enclave(StreamsIncomplete):
            run.commit(exchanges[0], PARTS, exchanges[1:])


def test_commit_of_chunks_out_of_turn(run: Run) -> None:
    """F15: no source has its rows in such an order."""
    run.streams = 2
    with suppress(CallFailed, RatlsError), connected(run) as exchanges:
        run.send(exchanges[0], PARTS[:2], last=True)
        run.send(exchanges[1], PARTS[2:], last=True)
        eventually(lambda: run.rows() == 60)
        with refused_by_enclave(StreamsIncomplete):
            run.commit(exchanges[0], PARTS, exchanges[1:])


@pytest.mark.parametrize(("stream", "streams"), [(0, 1), (0, 3), (2, 3)])
def test_streams_of_another_number(run: Run, stream: int, streams: int) -> None:
    """A second run with other options: the order of the rows would be another."""
    run.streams = 2
    run.cut_after(PARTS[:1])
    run.streams = streams
    with refused_by_enclave(StreamsDiffer), run.connection(stream):
        pass


def test_stream_that_is_none_of_them(run: Run) -> None:
    run.streams = 2
    for stream in (2, 16, 1 << 20):
        with refused_by_enclave(StreamsDiffer), run.connection(stream):
            pass


def test_key_of_one_stream_for_another(run: Run) -> None:
    """F15: a relay that swaps two streams of one release."""
    run.streams = 2
    alice = run.live.world.consortium.alice
    with (
        refused_by_enclave(StreamKeyNotOpenable),
        run.live.exchange(
            Kind.RELEASE, alice, task=run.task, dataset=ONE, release=NAME
        ) as exchange,
    ):
        say = exchange._say

        def swapped(name: str, **members: Any) -> None:
            say(name, **members | ({"stream": 1} if name == "open" else {}))

        exchange._say = swapped  # type: ignore[method-assign]
        run.live.open(exchange, alice, ONE, run.task, stream=0, streams=2)


def test_commit_with_another_streams_nonce(run: Run) -> None:
    """B06: a commit answers the challenge of the very connection that it comes over."""
    run.streams = 2
    with suppress(CallFailed, RatlsError), connected(run) as exchanges:
        for number, exchange in enumerate(exchanges):
            run.send(exchange, PARTS[number::2], last=True)
        end_others(exchanges)
        nonce = exchanges[1].fresh.claims.nonce
        with refused_by_enclave(CommitOfAnotherRelease):
            run.commit(exchanges[0], PARTS, exchanges[1:], nonce=nonce)


def test_streams_in_another_order_than_committed(run: Run) -> None:
    """F15: the digest is over the streams in their order."""
    run.streams = 2
    with suppress(CallFailed, RatlsError), connected(run) as exchanges:
        for number, exchange in enumerate(exchanges):
            run.send(exchange, PARTS[number::2], last=True)
        end_others(exchanges)
        swapped = tags_digest([exchange.sealed() for exchange in reversed(exchanges)])
        with refused_by_enclave(CommitDigestMismatch):
            run.commit(exchanges[0], PARTS, tags_digest=swapped)


def test_rows_after_the_commit(run: Run) -> None:
    """S22: a stream that had brought nothing wakes up when the commit of another counts."""
    run.streams = 2
    with suppress(CallFailed, RatlsError), connected(run) as exchanges:
        run.send(exchanges[0], PARTS[:1], last=True)
        run.commit(exchanges[0], PARTS[:1], exchanges[1:])
        with refused_by_enclave(AttemptClosed):
            run.send(exchanges[1], PARTS[1:2], last=True)
            exchanges[1]._call.hear()
    assert run.committed().num_rows == 10
