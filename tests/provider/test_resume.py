"""A release that broke goes on: over a cut link, after a killed process, with several streams.

Whatever happened before, the committed rows are those of the file, and a second run sends only
what the enclave does not have.
"""

from __future__ import annotations

import itertools
import math
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave_app.intake import Intake
from policy.task import Task
from provider import sending
from provider.release import Release, release
from provider.release_state import ReleaseStateDamaged, Started
from provider.sending import KeptRowsDiffer
from ratls.client_stream import ClientExchange
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed
from ratls.sealing import MAX_STREAMS
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.refusal import count_refusal
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

pytestmark = pytest.mark.slow

ONE = "train_party_1"
COUNT = 6000  # rows of 3 kB: nine batches
LONG = "x" * 3000
Progress = Callable[[int, int | None], None]


class Killed(BaseException):
    """Stands for the death of the process: nobody handles it."""


def many(count: int = COUNT, **columns: Any) -> pa.Table:
    names = [f"patient-{i:05d}-{LONG}" for i in range(count)]
    return rows(1, count, patient=names, **columns)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return many()


@pytest.fixture
def task(world: EnclaveWorld) -> bytes:
    return world.task()


def intake(live: LiveEnclave, task: bytes) -> Intake | None:
    """What the enclave has of it, uncommitted."""
    session = live.enclave.sessions._open.get(Task.read(task).digest)
    return session.attempts.get(ONE) if session else None


def held_chunks(live: LiveEnclave, task: bytes) -> int:
    found = intake(live, task)
    return found.chunks if found else 0


def committed(live: LiveEnclave, task: bytes) -> pa.Table:
    """What the enclave would compute with."""
    kept: pa.Table = live.enclave.sessions._open[Task.read(task).digest].rows[ONE].table()
    return kept


def require_the_file(alice: Desk, live: LiveEnclave, task: bytes, done: Release) -> None:
    """Every row of the file counts, once, in its order."""
    file = pq.read_table(alice.path)
    assert done.commit.rows == file.num_rows
    assert committed(live, task).to_pydict() == file.to_pydict()
    assert done.sent.rows + done.sent.kept == file.num_rows


def push(alice: Desk, task: bytes, streams: int = 1, **options: Any) -> Release:
    request = alice.request(task, pause=options.pop("pause", lambda seconds: None))
    return release(request, ONE, alice.path, streams=streams, **options)


def after(number: int, then: Callable[[], None], ready: Callable[[], bool]) -> Progress:
    """Told of so many batches, wait until the enclave has them, and do it, once."""
    told = [0]

    def progress(rows: int, total: int | None) -> None:
        told[0] += 1
        if told[0] == number:
            eventually(ready)
            then()

    return progress


def die() -> None:
    raise Killed


def die_after(live: LiveEnclave, alice: Desk, task: bytes, chunks: int, streams: int = 1) -> None:
    """A run that ends with so many chunks at the enclave."""
    with pytest.raises(Killed):
        push(
            alice,
            task,
            streams,
            progress=after(chunks, die, lambda: held_chunks(live, task) == chunks),
        )
    eventually(lambda: (found := intake(live, task)) is not None and not found.connections)


@pytest.mark.parametrize("chunks", [1, 2, 5, 8, 9])
def test_the_second_run_sends_only_the_rest(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table, chunks: int
) -> None:
    alice.write(table)
    die_after(live, alice, task, chunks)
    found = intake(live, task)
    assert found is not None
    kept = found.rows
    before = len(relay.connections)
    done = push(alice, task)
    assert done.sent.kept == kept
    require_the_file(alice, live, task, done)
    again = sum(len(c.sent) for c in relay.connections[before:])
    rest = COUNT - kept
    assert rest * len(LONG) <= again <= rest * (len(LONG) + 100) + 200_000


@pytest.mark.parametrize("size", [1_000_000, 2_100_000, 5_500_000, 9_999_999, 17_000_000])
def test_the_link_is_cut_in_mid_stream(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table, size: int
) -> None:
    """In the middle of a chunk: the same run connects anew, is proved to anew, and goes on."""
    alice.write(table)
    relay.cut_after(size)
    waited: list[float] = []
    done = push(alice, task, pause=waited.append)
    assert relay.left is None, "it was cut"
    assert waited
    require_the_file(alice, live, task, done)


@pytest.mark.parametrize("size", [1, 300, 1000, 1900, 2400])
def test_the_link_is_cut_before_the_rows(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, size: int
) -> None:
    """In the middle of a handshake, or of a challenge: nothing was sent, and the next try works."""
    count_refusal()
    relay.cut_after(size)
    with pytest.raises(RatlsError):
        push(alice, task)
    assert relay.left is None, "it was cut"
    require_the_file(alice, live, task, push(alice, task))


def test_the_link_is_cut_again_and_again(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table
) -> None:
    """Each connection brings some; in the end all of it is there."""
    alice.write(table)
    done: list[Release] = []

    def try_again(seconds: float) -> None:
        relay.cut_after(4_000_000)

    relay.cut_after(4_000_000)
    for _ in range(10):
        try:
            done.append(push(alice, task, pause=try_again))
            break
        except CallFailed:
            relay.cut_after(4_000_000)
    relay.left = None
    require_the_file(alice, live, task, done[0])


def test_a_link_that_breaks_ever_again_is_gone_on_with_while_each_carries_much(
    alice: Desk,
    live: LiveEnclave,
    relay: Relay,
    task: bytes,
    table: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large release over a poor link: in one run, however often. In vain it is tried thrice."""
    alice.write(table)
    waited: list[float] = []

    def cut_again(seconds: float) -> None:
        waited.append(seconds)
        relay.cut_after(3_500_000)

    monkeypatch.setattr(sending, "_FLOWED", 100_000_000)
    relay.cut_after(3_500_000)
    with alice.refuses(CallFailed):
        push(alice, task, pause=cut_again)
    assert waited == [0.2, 1.0, 5.0]
    another = alice.world.task()
    waited.clear()
    monkeypatch.setattr(sending, "_FLOWED", 1_000_000)
    relay.cut_after(3_500_000)
    require_the_file(alice, live, another, push(alice, another, pause=cut_again))
    relay.left = None
    assert len(waited) > 3
    assert set(waited) == {0.2}


@pytest.mark.parametrize("much", [True, False])
def test_the_time_of_one_exchange_is_over(
    alice: Desk,
    live: LiveEnclave,
    task: bytes,
    table: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
    much: bool,
) -> None:
    """A slow link needs longer than --timeout: the rest is sent over the next. An enclave that
    reads nothing is not waited for again."""
    alice.write(table)
    genuine, sent = ClientExchange.send_sealed, itertools.count(1)

    def slow(exchange: ClientExchange, *rows: Any, **last: Any) -> None:
        if next(sent) == 5:
            eventually(lambda: held_chunks(live, task) == 4)
            raise DeadlineExceeded("the enclave's answer", expected="one in time", found="none")
        genuine(exchange, *rows, **last)

    monkeypatch.setattr(ClientExchange, "send_sealed", slow)
    monkeypatch.setattr(sending, "_FLOWED", 1_000_000 if much else 100_000_000)
    if not much:
        with alice.refuses(DeadlineExceeded):
            push(alice, task)
        return
    done = push(alice, task)
    assert done.sent.kept > 0
    require_the_file(alice, live, task, done)


def test_a_link_that_stays_broken(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table
) -> None:
    """Nobody is there when the second try begins; the push after it goes on."""
    alice.write(table)
    waited: list[float] = []
    nowhere = ("127.0.0.1", 1)

    def gone(rows: int, total: int | None) -> None:
        relay.point_at(nowhere)
        relay.cut()

    with alice.refuses(HandshakeFailed):
        push(alice, task, progress=gone, pause=waited.append)
    assert waited
    relay.point_at(("127.0.0.1", live.server.port))
    require_the_file(alice, live, task, push(alice, task))


CHILD = """
import os, signal, sys
from pathlib import Path
from ratls.address import Address
from provider.exchange import EnclaveRequest
from provider.release import release
from policy.party import LocalParty
from tests.support.parties import PASSPHRASE
from tests.support.waiting import HANG_LIMIT
from verifier.collateral import Collateral
from verifier.shell import now

task, collateral, party, state, source, address, last, streams = sys.argv[1:]
told = 0

def progress(rows, total):
    global told
    told += 1
    if told == int(last):
        os.kill(os.getpid(), signal.SIGKILL)

release(
    EnclaveRequest(
        task=Path(task).read_bytes(), address=Address.parse(address), state=Path(state),
        collateral=Collateral.parse(Path(collateral).read_bytes()),
        party=LocalParty.load(Path(party), PASSPHRASE), allow_simulation=True, timeout=HANG_LIMIT,
        clock=now,
    ),
    "train_party_1", Path(source), streams=int(streams), progress=progress,
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "streams"), [(1, 1), (4, 1), (9, 1), (5, 3)])
def test_the_process_is_killed(
    alice: Desk,
    live: LiveEnclave,
    task: bytes,
    table: pa.Table,
    tmp_path: Path,
    chunk: int,
    streams: int,
) -> None:
    """SIGKILL, whatever was on its way: the second run goes on with what arrived."""
    count_refusal()
    alice.write(table)
    (tmp_path / "task").write_bytes(task)
    (tmp_path / "collateral").write_bytes(alice.world.collateral)
    paths = (tmp_path / "task", tmp_path / "collateral", alice.party.folder, alice.state)
    arguments = (*paths, alice.path, alice.address, chunk, streams)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], check=False, timeout=HANG_LIMIT
    )
    assert child.returncode == -9
    eventually(lambda: (found := intake(live, task)) is None or not found.connections)
    found = intake(live, task)
    kept = found.rows if found else 0
    done = push(alice, task, streams)
    assert done.sent.kept == kept
    require_the_file(alice, live, task, done)


# Another file than before.


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.take(list(reversed(range(t.num_rows)))),
        lambda t: many(age=[30, *t["age"].to_pylist()[1:]]),
        lambda t: t.slice(1),
        lambda t: t.slice(0, 50),
        lambda t: pa.concat_tables([t, many(100)]),  # its batches are cut elsewhere
    ],
    ids=["other-order", "one-value", "without-its-first-row", "shorter", "longer"],
)
def test_another_file_does_not_go_on(
    alice: Desk,
    live: LiveEnclave,
    task: bytes,
    table: pa.Table,
    change: Callable[[pa.Table], pa.Table],
) -> None:
    """What was kept is compared with the file of now; the next try sends all of that one."""
    alice.write(table)
    die_after(live, alice, task, 3)
    alice.write(change(table))
    with alice.refuses(KeptRowsDiffer) as seen:
        push(alice, task)
    assert CANARY not in str(seen.error)
    done = push(alice, task)
    assert done.sent.kept == 0
    require_the_file(alice, live, task, done)


def test_a_file_that_ends_with_what_was_kept(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table
) -> None:
    """F14: the enclave was never told that this is all. It says so, and the next try works."""
    alice.write(table)
    die_after(live, alice, task, 3)
    found = intake(live, task)
    assert found is not None
    alice.write(table.slice(0, found.rows))
    with pytest.raises((PeerRefused, KeptRowsDiffer)):
        push(alice, task)
    count_refusal()
    require_the_file(alice, live, task, push(alice, task))


# What is on the disk between two runs.


def started_path(alice: Desk, task: bytes) -> Path:
    return alice.state / "releases" / Task.read(task).digest.hex() / ONE / "started.json"


def test_name_and_salt_are_for_nobody_else(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table
) -> None:
    """With the salt, rows could be guessed from their digests."""
    alice.write(table)
    die_after(live, alice, task, 2)
    path = started_path(alice, task)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    started = Started.parse(path.read_bytes())
    found = intake(live, task)
    assert found is not None
    assert (started.release, started.streams) == (found.release, 1)
    assert started.salt not in live.stream.getvalue().encode()
    assert started.salt.hex() not in live.stream.getvalue()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b'{"release":"","salt":"","streams":1}',
        b'{"release":1,"salt":2,"streams":3}',
        lambda raw: raw.replace(b'"streams": 1', b'"streams": 0'),
        lambda raw: raw.replace(b'"streams": 1', b'"streams": 7'),
        lambda raw: raw.replace(b'"streams": 1', b'"streams": "1"'),
        lambda raw: raw[:-3],
        lambda raw: raw.replace(b'"salt": "', b'"salt": "00'),
    ],
)
def test_what_a_run_left_is_damaged(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, damaged: Any
) -> None:
    """Not guessed at, and nobody is connected to; without the file a release begins anew."""
    with pytest.raises(Killed):
        push(alice, task, progress=lambda rows, total: die())
    path = started_path(alice, task)
    path.write_bytes(damaged(path.read_bytes()) if callable(damaged) else damaged)
    before = len(relay.connections)
    with alice.refuses(ReleaseStateDamaged):
        push(alice, task)
    assert len(relay.connections) == before
    path.unlink()
    require_the_file(alice, live, task, push(alice, task))


def test_without_its_name_a_release_begins_anew(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table
) -> None:
    """A state folder from a backup: what the enclave kept under the other name is dropped."""
    alice.write(table)
    die_after(live, alice, task, 3)
    before = intake(live, task)
    started_path(alice, task).unlink()
    done = push(alice, task)
    assert done.sent.kept == 0
    assert intake(live, task) is not before
    require_the_file(alice, live, task, done)


def test_the_enclave_has_dropped_what_it_had(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table
) -> None:
    """The next day: all is sent again, under the same name."""
    alice.write(table)
    die_after(live, alice, task, 3)
    live.enclave.sessions.sweep(NOW, math.inf)
    done = push(alice, task)
    assert done.sent.kept == 0
    require_the_file(alice, live, task, done)


# Several streams.


@pytest.mark.parametrize("streams", [2, 3, MAX_STREAMS])
def test_several_streams_carry_one_release(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table, streams: int
) -> None:
    alice.write(table)
    done = push(alice, task, streams)
    require_the_file(alice, live, task, done)
    carried = [len(c.sent) for c in relay.connections if len(c.sent) > 1_000_000]
    assert len(carried) == streams


@pytest.mark.parametrize("streams", [2, MAX_STREAMS])
def test_fewer_batches_than_streams(
    alice: Desk, live: LiveEnclave, task: bytes, streams: int
) -> None:
    """Sixty rows are one batch: the other connections bring nothing, and nothing waits for them."""
    require_the_file(alice, live, task, push(alice, task, streams))


@pytest.mark.parametrize(("streams", "chunks"), [(2, 3), (3, 7), (MAX_STREAMS, 2)])
def test_several_streams_go_on(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table, streams: int, chunks: int
) -> None:
    alice.write(table)
    die_after(live, alice, task, chunks, streams)
    found = intake(live, task)
    assert found is not None
    kept = found.rows
    done = push(alice, task, streams)
    assert done.sent.kept == kept
    require_the_file(alice, live, task, done)


def test_the_number_of_streams_is_that_of_the_first_run(
    alice: Desk, live: LiveEnclave, task: bytes, table: pa.Table
) -> None:
    """The order of the rows hangs on it: what a second run is asked for waits for the next task."""
    alice.write(table)
    die_after(live, alice, task, 3, 2)
    done = push(alice, task, 4)
    assert done.sent.kept > 0
    require_the_file(alice, live, task, done)


def test_the_link_of_several_streams_is_cut(
    alice: Desk, live: LiveEnclave, relay: Relay, task: bytes, table: pa.Table
) -> None:
    alice.write(table)
    relay.cut_after(9_000_000)

    def noticed(seconds: float) -> None:
        eventually(lambda: (found := intake(live, task)) is None or not found.connections)

    done = push(alice, task, 3, pause=noticed)
    assert relay.left is None
    assert done.sent.kept > 0
    require_the_file(alice, live, task, done)
