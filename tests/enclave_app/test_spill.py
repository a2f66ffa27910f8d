"""Rows that wait on the operator's disk: closed to the host, unchangeable, without a name.

The disk is the host's, which may read it, change it, fill it and take it away.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enclave_app.application import ComputationFailed, Enclave
from enclave_app.intake import PER_CHUNK, Intake, Place, held_bytes
from enclave_app.limits import Budgets, Limits, MemoryExhausted, Need
from enclave_app.spill import Spill, SpillFailed, SpillFolderUnusable
from policy.sections import Dataset
from ratls.client_stream import Result
from ratls.framing import RowDigest, message_digest
from ratls.log import open_log
from ratls.sealing import ChunkNotOpenable
from tests.support.enclave import (
    EnclaveWorld,
    LiveEnclave,
    NoResult,
    refused_by_enclave,
    room,
    rows,
)
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import eventually

DATASET: Dataset = Consortium.create().policy().dataset[0]
ONE, TWO = "train_party_1", "train_party_2"
CANARY = b"CANARY"
SALT = bytes(32)
# 60 rows are about 3 KB: the first chunk stays, all others wait.
SMALL = Limits(resident_bytes=1, buckets=(0.01,))


def messages(count: int = 6) -> list[pa.Buffer]:
    names = [f"CANARY-{n}" for n in range(60)]
    return [b.serialize() for b in rows(1, 60, patient=names).to_batches(max_chunksize=60 // count)]


@contextmanager
def intake(
    spill: Path | None, limits: Limits = SMALL, budget: Budgets | None = None
) -> Iterator[Intake]:
    shares = (budget or room(1 << 20, 1 << 20)).of("alice", bytes(32))
    made = Intake(DATASET, limits, shares, Need(0), math.inf, b"", spill)
    yield made
    made.close()


def fill(into: Intake, sent: list[pa.Buffer]) -> Place:
    place = into.join(0, 1)
    for number, message in enumerate(sent):
        place.add(message, bytes(16), last=number == len(sent) - 1)
    return place


def held(message: pa.Buffer) -> int:
    return held_bytes(message.size, len(DATASET.columns))


def on_disk(into: Intake) -> bytes:
    """What the host sees of the file."""
    assert into._spill is not None
    number = into._spill._file.fileno()
    return os.pread(number, os.fstat(number).st_size, 0)


def on_disk_or_none(into: Intake) -> bytes:
    return on_disk(into) if into._spill is not None else b""


def damage(into: Intake, change: Callable[[int], object]) -> None:
    assert into._spill is not None
    change(into._spill._file.fileno())


# The honest way.


@pytest.mark.parametrize("streams", [1, 3])
def test_the_table_is_the_one_that_memory_would_give(tmp_path: Path, streams: int) -> None:
    sent = messages()
    tables = []
    for folder in (None, tmp_path):
        with intake(folder) as into:
            places = [into.join(number, streams) for number in range(streams)]
            for number, message in enumerate(sent):
                last = number >= len(sent) - streams
                places[number % streams].add(message, bytes(16), last=last)
            assert into.waits == (folder is not None)
            assert [tally.rows for tally in into.tallies()] == [60 // streams] * streams
            tables.append(into.table())
            assert not into.waits
    assert tables[0].equals(tables[1])
    assert tables[1].validate(full=True) is None


def test_memory_is_given_back_while_rows_wait(tmp_path: Path) -> None:
    budget = room(1 << 20, 1 << 20)
    sent = messages()
    with intake(tmp_path, budget=budget) as into:
        fill(into, sent)
        assert (1 << 20) - budget.memory.free == held(sent[0]) + PER_CHUNK * (len(sent) - 1)
        into.table()
        assert (1 << 20) - budget.memory.free == sum(map(held, sent))
    assert budget.memory.free == 1 << 20


def test_rows_within_the_budget_stay_in_memory(tmp_path: Path) -> None:
    with intake(tmp_path, Limits()) as into:
        fill(into, messages())
        assert not into.waits
        assert into._spill is None


def test_another_connection_is_told_the_same_digest(tmp_path: Path) -> None:
    from policy.rows import schema_digest

    sent = messages()
    with intake(tmp_path) as into:
        fill(into, sent)
        own = RowDigest(SALT, schema_digest(DATASET))
        for number, message in enumerate(sent):
            own.add(number, 10, message_digest(message))
        assert into.join(0, 1).kept(SALT) == (6, 60, own.digest())


# What the host can see.


def test_the_file_has_no_name_and_holds_no_plaintext(tmp_path: Path) -> None:
    """R20: sizes and times are those that it saw on the network."""
    count_refusal()
    sent = messages()
    with intake(tmp_path) as into:
        fill(into, sent)
        assert list(tmp_path.rglob("*")) == []
        seen = on_disk(into)
        assert len(seen) == sum(message.size + 16 for message in sent[1:])
        for secret in (CANARY, b"\xff\xff\xff\xff", sent[1].to_pybytes()[200:240]):
            assert secret not in seen
        assert CANARY in sent[1].to_pybytes()


def test_no_two_files_are_under_one_key(tmp_path: Path) -> None:
    """The same rows twice look different: nobody learns that they are the same."""
    count_refusal()
    with intake(tmp_path) as first, intake(tmp_path) as second:
        for into in (first, second):
            fill(into, messages())
        one, two = on_disk(first), on_disk(second)
        assert len(one) == len(two)
        assert one != two
        assert first._spill is not None
        damage(second, lambda number: os.pwrite(number, one, 0))
        with refused(ChunkNotOpenable):
            second.table()
        assert first.table().num_rows == 60


# What the host can do.


def flip(place: int) -> Callable[[int], object]:
    def change(number: int) -> None:
        byte = os.pread(number, 1, place)
        os.pwrite(number, bytes([byte[0] ^ 1]), place)

    return change


def swap(number: int) -> None:
    """The second and the third of the messages that wait, which are equally long."""
    size = os.fstat(number).st_size // 5
    first, second = os.pread(number, size, 0), os.pread(number, size, size)
    os.pwrite(number, second + first, 0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(flip(0), id="first-byte"),
        pytest.param(flip(3000), id="in-the-middle"),
        pytest.param(lambda n: os.pwrite(n, bytes(100), os.fstat(n).st_size - 100), id="last-tag"),
        pytest.param(swap, id="swapped"),
        pytest.param(lambda n: os.truncate(n, os.fstat(n).st_size - 1), id="cut"),
        pytest.param(lambda n: os.truncate(n, 0), id="emptied"),
    ],
)
def test_a_file_that_was_changed(tmp_path: Path, change: Callable[[int], object]) -> None:
    """No changed row is computed with, nor told to a connection that goes on."""
    with intake(tmp_path) as into:
        fill(into, messages())
        damage(into, change)
        with refused(ChunkNotOpenable):
            into.table()
        with refused(ChunkNotOpenable):
            into.join(0, 1).kept(SALT)


def no_room(*args: Any) -> int:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release is refused, and its memory is free again."""
    budget = room(1 << 20, 1 << 20)
    with intake(tmp_path, budget=budget) as into, monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", no_room)
        with refused(SpillFailed):
            fill(into, messages())
    assert budget.memory.free == 1 << 20
    with intake(tmp_path, budget=budget) as into:
        fill(into, messages())
        assert into.table().num_rows == 60


def test_a_disk_that_writes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda n, data, at: genuine(n, data[:100], at))
    with intake(tmp_path) as into:
        fill(into, messages())
        assert into.table().num_rows == 60


def test_a_folder_that_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with intake(folder) as into, refused(SpillFailed):
        fill(into, messages())
    folder.mkdir()
    with intake(folder) as into:
        fill(into, messages())


def test_a_file_that_was_closed(tmp_path: Path) -> None:
    """By a later release: whoever still reads or writes is refused."""
    spill = Spill(tmp_path)
    place = spill.put(messages()[0])
    assert spill.get(place).equals(messages()[0])
    spill.close()
    spill.close()
    with refused(SpillFailed):
        spill.get(place)
    with refused(SpillFailed):
        spill.put(messages()[0])


def test_more_than_could_ever_be_computed_with(tmp_path: Path) -> None:
    """Rows on the disk need memory in the end: they are refused while they arrive."""
    sent = messages()
    whole = sum(map(held, sent))
    small = room(1 << 20, whole - 1)
    with intake(tmp_path, budget=small) as into, refused(MemoryExhausted):
        fill(into, sent)
    with intake(tmp_path, budget=room(1 << 20, whole)) as into:
        fill(into, sent)
        assert into.table().num_rows == 60


def test_more_than_could_ever_be_computed_with_over_all_inputs(
    world: EnclaveWorld, tmp_path: Path
) -> None:
    """F10, D11: each input has room, both together never. Nobody would be told, and the task would
    wait for memory to its end, with all others that have rows in files behind it."""
    people, task = world.consortium, world.task()
    with running(world, tmp_path) as live:
        live.release(people.alice, ONE, rows(1), task, chunk=10)
        (session,) = live.enclave.sessions._open.values()
        whole = session.rows[ONE]._held + session.rows[ONE]._waiting
    with running(world, tmp_path) as live:
        # Of texts: what numbers can need at most is asked when a task is opened.
        of_a_task = room(whole * 3 // 2, whole * 3 // 2)
        of_a_task.memory, live.enclave.budgets = live.enclave.budgets.memory, of_a_task
        live.release(people.alice, ONE, rows(1), task, chunk=10)
        with refused_by_enclave(MemoryExhausted):
            live.release(people.bob, TWO, rows(2), task, chunk=10)
        assert live.release(people.bob, TWO, rows(2), world.task(), chunk=10), "of another task"
        assert live.release(people.bob, TWO, rows(2, 20), task, chunk=10), "fewer rows"
        assert isinstance(live.wait(people.carol, task), Result | NoResult)


def test_one_provider_leaves_room_on_the_disk(tmp_path: Path) -> None:
    """F10, D11: many tasks, each within its budget, fill the operator's disk for all others."""
    sent = messages()
    filed = sum(message.size for message in sent[1:])
    limits = replace(SMALL, waiting_bytes=3 * filed, party_waiting_bytes=2 * filed)
    budget = Budgets(limits)

    def of(party: str) -> Intake:
        shares = budget.of(party, os.urandom(32))
        return Intake(DATASET, limits, shares, Need(0), math.inf, b"", tmp_path)

    one, two, three = of("alice"), of("alice"), of("alice")
    fill(one, sent)
    fill(two, sent)
    with refused(MemoryExhausted):
        fill(three, sent)
    assert on_disk_or_none(three) == b"", "refused before it is written"
    three.close()
    fill(of("bob"), sent)
    one.table()
    with refused(MemoryExhausted):
        fill(of("alice"), sent)
    one.close()
    fill(of("alice"), sent)


class Over(Exception):
    """The task must end."""


def test_a_computation_waits_for_memory(tmp_path: Path) -> None:
    """… until there is some, or its own time is over. It takes none before."""
    sent = messages()
    whole = sum(map(held, sent))
    budget = room(whole, whole)
    with intake(tmp_path, budget=budget) as into:
        fill(into, sent)
        others = budget.memory.free
        budget.memory.take("bob", others)

        def over() -> None:
            raise Over

        with pytest.raises(Over):
            into.table(over)
        waiting = threading.Event()
        threading.Thread(target=lambda: (waiting.wait(), budget.memory.give("bob", others))).start()
        assert into.table(waiting.set).num_rows == 60
        assert budget.memory.free == 0
    assert budget.memory.free == whole


# A whole enclave.


@contextmanager
def running(world: EnclaveWorld, spill: Path | None) -> Iterator[LiveEnclave]:
    with world.running(limits=SMALL) as live:
        live.enclave.spill = spill
        yield live


def test_the_joint_model_is_the_same(world: EnclaveWorld, tmp_path: Path) -> None:
    people = world.consortium
    found = []
    for spill in (None, tmp_path):
        with running(world, spill) as live:
            task = world.task()
            live.release(people.alice, ONE, rows(1), task, chunk=10)
            live.release(people.bob, TWO, rows(2), task, chunk=10)
            result = live.wait(people.carol, task)
            assert isinstance(result, Result)
            document = live.opened(people.carol, task, result)
            found.append(document[: document.index(b'"salt"')])
            assert live.enclave.budgets.memory.free == SMALL.held_bytes
    assert found[0] == found[1]


def test_two_tasks_with_room_for_one(
    world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with half of its rows in memory, they would wait for each other."""
    people = world.consortium
    with running(world, tmp_path) as live:
        memory, asked = live.enclave.budgets.memory, []
        with monkeypatch.context() as patched:
            patched.setattr(live.enclave, "compute_when_complete", asked.append)
            tasks = [world.task(), world.task()]
            for task in tasks:
                live.release(people.alice, ONE, rows(1), task, chunk=10)
                live.release(people.bob, TWO, rows(2), task, chunk=10)
        session, _ = live.enclave.sessions._open.values()
        needed = sum(intake._waiting for intake in session.rows.values())
        memory.take("one", memory.free // 2)
        memory.take("other", memory.free)
        for checked in asked:
            live.enclave.compute_when_complete(checked)
        eventually(live.enclave._loading.locked)  # one waits for memory, the other for that one
        memory.give("one", needed)
        for task in tasks:
            assert isinstance(live.wait(people.carol, task), Result)
        assert not live.enclave._loading.locked()


def test_nothing_is_computed_with_a_file_that_was_changed(
    world: EnclaveWorld, tmp_path: Path
) -> None:
    """Nor is the host told more than that there is no result (R20)."""
    count_refusal()
    people = world.consortium
    with running(world, tmp_path) as live:
        task = world.task()
        live.release(people.alice, ONE, rows(1), task, chunk=10)
        (session,) = live.enclave.sessions._open.values()
        damage(session.rows[ONE], flip(50))
        live.release(people.bob, TWO, rows(2), task, chunk=10)
        denied = live.wait(people.carol, task)
        assert isinstance(denied, NoResult)
        assert denied.code != ComputationFailed.code  # one code for all
        assert live.enclave.budgets.memory.free == SMALL.held_bytes


def test_a_release_onto_a_full_disk(
    world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing counts, and the next try is a whole one."""
    alice, task = world.consortium.alice, world.task()
    with running(world, tmp_path) as live:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", no_room)
            with refused_by_enclave(SpillFailed):
                live.release(alice, ONE, rows(1), task, chunk=10)
        assert live.enclave.budgets.memory.free == SMALL.held_bytes
        assert live.release(alice, ONE, rows(1), task, chunk=10)


def test_an_enclave_without_a_spill_folder_writes_nothing(world: EnclaveWorld) -> None:
    """Off unless the operator asks for it."""
    with world.running(limits=SMALL) as live:
        assert live.enclave.spill is None
        live.release(world.consortium.alice, ONE, rows(1), world.task(), chunk=10)
        (session,) = live.enclave.sessions._open.values()
        assert session.rows[ONE]._spill is None


def test_a_folder_that_cannot_be_written_to(world: EnclaveWorld, tmp_path: Path) -> None:
    """Noticed before anybody may connect."""
    started: dict[str, Any] = {"log": open_log(), "limits": SMALL}
    with refused(SpillFolderUnusable):
        Enclave.start(world.complete, world.attester, spill=tmp_path / "none", **started)
    enclave = Enclave.start(world.complete, world.attester, spill=tmp_path, **started)
    assert enclave.spill == tmp_path
    assert list(tmp_path.iterdir()) == []
    enclave.stop()
