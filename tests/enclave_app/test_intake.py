"""Rows on their way in: what does not fit the policy, contradicts itself, or costs too much."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.errors import AttemptClosed
from enclave_app.intake import (
    BatchesExceeded,
    InputEmpty,
    Intake,
    Place,
    RowsNotAsDeclared,
    StreamsDiffer,
    StreamsIncomplete,
    held_bytes,
)
from enclave_app.limits import Budgets, Limits, MemoryExhausted, Need
from policy.rows import (
    RowsMalformed,
    ValueNotFinite,
    ValueNull,
    ValueOutsideDomain,
    arrow_schema,
    schema_digest,
)
from policy.sections import Dataset
from ratls.arrow_header import RowsHeaderMalformed
from ratls.framing import RowDigest, message_digest
from ratls.sealing import Tally, tags_digest
from ratls.server_stream import StreamOversized
from tests.support.enclave import room, rows
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

DATASET: Dataset = Consortium.create().policy().dataset[0]
BUDGET = 1 << 20
SALT = bytes(32)


def tag(number: int) -> bytes:
    """As a chunk has one; here any bytes do."""
    return number.to_bytes(16, "big")


@contextmanager
def refused_as(cause: type[RatlsError]) -> Iterator[None]:
    """R20: outside there is one code for whatever is wrong with values; inside, the cause."""
    with refused(RowsNotAsDeclared) as seen:
        yield
    assert type(seen.error.__cause__) is cause
    assert "121" not in str(seen.error)


def intake(limits: Limits | None = None, budget: Budgets | None = None) -> Intake:
    shares = (budget or room(BUDGET, BUDGET)).of("alice-clinic", bytes(32))
    return Intake(DATASET, limits or Limits(), shares, Need(0), math.inf, b"r" * 16)


def one_stream(limits: Limits | None = None, budget: Budgets | None = None) -> Place:
    """The place of a release's only connection."""
    return intake(limits, budget).join(0, 1)


def add(place: Place, *batches: pa.RecordBatch, last: bool = False, first: int = 0) -> None:
    """Chunks as they are once they were opened; `first` numbers their tags."""
    for number, part in enumerate(batches, first):
        ends = last and number == first + len(batches) - 1
        place.add(part.serialize(), tag(number), last=ends)


def batch(**columns: Any) -> pa.RecordBatch:
    return rows(1, 10, **columns).to_batches()[0]


def with_column(name: str, array: pa.Array) -> pa.RecordBatch:
    good = batch()
    arrays = [array if n == name else good.column(n) for n in good.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=good.schema)


def patched(sent: pa.RecordBatch, old: bytes, new: bytes) -> pa.Buffer:
    """The message of a batch, with a patch to its header."""
    raw = sent.serialize().to_pybytes()
    end = 8 + struct.unpack("<i", raw[4:8])[0]
    head = raw[:end].replace(old, new)
    assert head != raw[:end]
    return pa.py_buffer(head + raw[end:])


def test_honest_rows_come_out_as_they_went_in() -> None:
    table = rows(1, 100)
    into = intake()
    add(into.join(0, 1), *table.to_batches(max_chunksize=30), last=True)
    assert into.table().equals(table)
    assert (into.rows, into.chunks) == (100, 4)
    (tally,) = into.tallies()
    assert (tally.rows, tally.chunks) == (100, 4)


def string_column(offsets: list[int], data: bytes) -> pa.Array:
    packed = pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets))
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, packed, pa.py_buffer(data)])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        pytest.param([0, 3] + [3] * 9, [0, 4000] + [3] * 9, id="F01-offset-past-the-end"),
        pytest.param([0, 1, 3] + [3] * 8, [0, 3, 1] + [3] * 8, id="F01-offset-going-back"),
    ],
)
def test_strings_that_point_outside_their_buffer(good: list[int], bad: list[int]) -> None:
    """Arrow reads such a message without complaint, and later reads memory that is not there."""
    sent = with_column("patient", string_column(good, b"abc")).serialize().to_pybytes()
    old, new = (struct.pack("<11i", *offsets) for offsets in (good, bad))
    assert sent.count(old) == 1
    with refused_as(RowsMalformed):
        one_stream().add(pa.py_buffer(sent.replace(old, new)), tag(0), last=True)


@pytest.mark.parametrize(("first", "last"), [(-3, 3), (0, -1), (0, 4000), (2**31 - 1, 3)])
def test_first_or_last_text_outside_the_buffer(first: int, last: int) -> None:
    """F01: Arrow looks at these two itself as the array is made; its own error is a refusal too."""
    good = struct.pack("<11i", 0, *[3] * 10)
    sent = with_column("patient", string_column([0] + [3] * 10, b"abc")).serialize().to_pybytes()
    bad = sent.replace(good, struct.pack("<11i", first, *[3] * 9, last))
    with refused(RowsHeaderMalformed):
        one_stream().add(pa.py_buffer(bad), tag(0), last=True)


def test_texts_that_are_not_utf8() -> None:
    """F03."""
    with refused_as(RowsMalformed):
        add(
            one_stream(),
            with_column("patient", string_column(list(range(0, 22, 2)), b"\xff\xfe" * 10)),
        )


@pytest.mark.parametrize("claimed", [0, 1, 11, 1000, 500_000_000, 2**40, -1, 2**63 - 1])
def test_other_rows_claimed_than_carried(claimed: int) -> None:
    """F05: looking at such a batch's size in bytes, before its buffers are checked, reads up to
    gigabytes past their end and ends the process."""
    ten, many = struct.pack("<q", 10), struct.pack("<q", claimed)
    forged = patched(batch(), ten, many)
    budget = room(BUDGET, BUDGET)
    with refused(RowsHeaderMalformed):
        one_stream(budget=budget).add(forged, tag(0), last=True)
    assert budget.memory.free == BUDGET


@given(st.data())
def test_any_damage_to_a_message_is_rows_or_a_refusal(data: st.DataObject) -> None:
    """Property: a message's header, changed anywhere, gives sound rows or a typed refusal."""
    raw = bytearray(batch().serialize().to_pybytes())
    end = 8 + struct.unpack("<i", raw[4:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    into = intake()
    try:
        into.join(0, 1).add(pa.py_buffer(bytes(raw)), tag(0), last=True)
    except RatlsError:
        return
    assert into.table().validate(full=True) is None


MANY = 500  # of ten rows, all but the padding between two columns would be the same
Change = Callable[[pa.RecordBatch], pa.RecordBatch]


def retyped(name: str, array: pa.Array) -> Change:
    def change(good: pa.RecordBatch) -> pa.RecordBatch:
        return good.set_column(good.schema.get_field_index(name), name, array)

    return change


def nested(depth: int) -> pa.Array:
    made: Any = [[1]] * MANY
    for _ in range(depth - 1):
        made = [[item] for item in made]
    return pa.array(made)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda b: b.drop_columns(["age"]), id="missing"),
        pytest.param(lambda b: b.append_column("z", b.column("age")), id="unexpected"),
        pytest.param(lambda b: b.append_column("age", b.column("age")), id="doubled"),
        pytest.param(
            lambda b: pa.RecordBatch.from_arrays(
                [*b.columns, *[b.column("age")] * 10_000], [str(i) for i in range(10_004)]
            ),
            id="ten-thousand",
        ),
        pytest.param(
            lambda b: b.select(["age", "patient", "bmi", "y"]), id="reordered-of-other-types"
        ),
        pytest.param(retyped("age", pa.array([50] * MANY, pa.int32())), id="narrower"),
        pytest.param(retyped("age", pa.nulls(MANY)), id="F05-null-type"),
        pytest.param(
            retyped("age", pa.RunEndEncodedArray.from_arrays([MANY], [50])), id="F05-run-ends"
        ),
        pytest.param(
            retyped("patient", pa.array(["a"] * MANY).dictionary_encode()), id="F02-dictionary"
        ),
        pytest.param(retyped("patient", pa.array(["a"] * MANY, pa.string_view())), id="R11-view"),
        pytest.param(
            retyped("age", pa.array([50] * MANY).cast(pa.large_string())), id="F07-large-text"
        ),
        pytest.param(
            retyped(
                "age",
                pa.UnionArray.from_sparse(pa.array([0] * MANY, pa.int8()), [pa.array([1] * MANY)]),
            ),
            id="F02-union",
        ),
        pytest.param(retyped("age", nested(50)), id="F07-nested"),
    ],
)
def test_batch_of_another_layout(change: Change) -> None:
    """F02, F05, F06, F07: nothing is cast, dropped or guessed, and no codec is entered."""
    with refused(RowsHeaderMalformed):
        add(one_stream(), change(rows(1, MANY).to_batches()[0]))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_rows(codec: str) -> None:
    """F04: 60,000 equal values are a few hundred bytes; they are not unpacked to be judged."""
    many = rows(1, 60_000, bmi=[25.0] * 60_000).to_batches()[0]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, many.schema, options=options) as writer:
        writer.write_batch(many)
    _, message = pa.ipc.MessageReader.open_stream(sink.getvalue())
    budget = room(BUDGET, BUDGET)
    before = pa.total_allocated_bytes()
    with refused(RowsHeaderMalformed):
        one_stream(budget=budget).add(message.serialize(), tag(0), last=True)
    assert budget.memory.free == BUDGET
    assert pa.total_allocated_bytes() - before < 2 * message.serialize().size


def test_metadata_beside_the_rows() -> None:
    """F17: a message may carry texts that no column has; the same rows without them pass."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch().schema) as writer:
        writer.write_batch(batch(), custom_metadata={"note": "CANARY"})
        writer.write_batch(batch())
    _, noted, plain = pa.ipc.MessageReader.open_stream(sink.getvalue())
    with refused(RowsHeaderMalformed) as seen:
        one_stream().add(noted.serialize(), tag(0), last=True)
    assert "CANARY" not in str(seen.error)
    one_stream().add(plain.serialize(), tag(0), last=True)


@pytest.mark.parametrize("kind", ["schema", "dictionary"])
def test_message_of_another_kind(kind: str) -> None:
    """F02, F07: no message but rows: a dictionary could be replaced, a schema changed."""
    sink = pa.BufferOutputStream()
    coded = pa.record_batch({"patient": pa.array(["a", "b"]).dictionary_encode()})
    with pa.ipc.new_stream(sink, coded.schema) as writer:
        writer.write_batch(coded)
    schema, dictionary, _ = pa.ipc.MessageReader.open_stream(sink.getvalue())
    message = schema if kind == "schema" else dictionary
    with refused(RowsHeaderMalformed):
        one_stream().add(message.serialize(), tag(0), last=True)


def test_batch_of_another_layout_in_the_middle() -> None:
    """F07: the first batch was right; each is judged by itself."""
    into = intake()
    place = into.join(0, 1)
    add(place, batch())
    with refused(RowsHeaderMalformed):
        add(place, batch().drop_columns(["bmi"]))
    assert into.rows == 10


@pytest.mark.parametrize(
    ("name", "values", "leaf"),
    [
        ("bmi", [float("nan")], ValueNotFinite),
        ("bmi", [float("-inf")], ValueNotFinite),
        ("age", [121], ValueOutsideDomain),
        ("age", [-1], ValueOutsideDomain),
        ("age", [None], ValueNull),
        ("patient", [None], ValueNull),
    ],
)
def test_value_that_the_policy_does_not_allow(
    name: str, values: list[Any], leaf: type[RatlsError]
) -> None:
    """F08: one such value among good ones would poison a mean, or count as a person."""
    good = batch()
    kind = good.schema.field(name).type
    column = pa.concat_arrays([good.column(name).slice(1), pa.array(values, kind)])
    budget = room(BUDGET, BUDGET)
    with refused_as(leaf):
        add(one_stream(budget=budget), with_column(name, column))
    assert budget.memory.free == BUDGET


def test_batch_of_no_rows() -> None:
    """It would cost a place among the batches, and count as nothing."""
    with refused(RowsHeaderMalformed):
        add(one_stream(), batch().slice(0, 0))


def test_no_rows_at_all() -> None:
    """An empty dataset would be committed, and count."""
    into = intake()
    into.join(0, 1)
    with refused(InputEmpty):
        into.tallies()


def test_too_many_batches() -> None:
    place = one_stream(Limits(batches=2))
    add(place, batch(), batch())
    with refused(BatchesExceeded):
        add(place, batch())


def test_too_many_batches_over_several_streams() -> None:
    """F09: the cap is the release's, not a stream's."""
    into = intake(Limits(batches=2))
    for stream in (0, 1):
        add(into.join(stream, 3), batch())
    with refused(BatchesExceeded):
        add(into.join(2, 3), batch())


def test_more_rows_than_agreed_over_several_streams() -> None:
    """S21: max_rows is 100,000 of the dataset, however many streams bring them."""
    large = room(1 << 30, 1 << 30)
    into = intake(budget=large)
    most = rows(1, 100_000).to_batches()[0]
    add(into.join(0, 2), most)
    with refused(StreamOversized):
        add(into.join(1, 2), batch())
    assert into.rows == 100_000


def test_memory_is_counted_and_given_back() -> None:
    budget = room(6000, 6000)
    into = intake(budget=budget)
    place = into.join(0, 1)
    add(place, batch())
    size = held_bytes(batch().serialize().size, len(DATASET.columns))
    assert 6000 - budget.memory.free == size, "the message that is held, and what shows its columns"
    with refused(MemoryExhausted):
        add(place, *[batch()] * 10)
    into.close()
    into.close()
    assert budget.memory.free == 6000


def test_one_provider_leaves_room_for_others() -> None:
    """F10, D11: rows that one party keeps open take its own share alone."""
    size = held_bytes(batch().serialize().size, len(DATASET.columns))
    budget = room(10 * size, 2 * size)

    def of(party: str) -> Intake:
        return Intake(
            DATASET, Limits(), budget.of(party, os.urandom(32)), Need(0), math.inf, b"r" * 16
        )

    one, two = of("alice-clinic"), of("alice-clinic")
    add(one.join(0, 1), batch())
    add(two.join(0, 1), batch())
    with refused(MemoryExhausted):
        add(of("alice-clinic").join(0, 1), batch())
    add(of("bob-hospital").join(0, 1), batch(), batch())
    one.close()
    add(of("alice-clinic").join(0, 1), batch())


def resident() -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such field")


@pytest.mark.parametrize("columns", [2, 200])
def test_many_small_messages_take_what_is_counted(columns: int) -> None:
    """F05, D11: rows one by one. The objects of a message are larger than its bytes: uncounted, the
    share of one provider would be more memory than the enclave has."""
    count_refusal()
    numbers = {f"x{place}": {"type": "float64"} for place in range(columns - 1)}
    wide = Dataset.model_validate(
        {
            "id": "wide",
            "owner": "alice-clinic",
            "subject": "patient",
            "columns": {"patient": {"type": "string"}, **numbers},
            "max_rows": 100_000,
        }
    )
    one = pa.record_batch(
        [pa.array(["p"]), *[pa.array([1.0])] * (columns - 1)], schema=arrow_schema(wide)
    ).serialize()
    budget = room(1 << 30, 1 << 30)
    into = Intake(
        wide, Limits(), budget.of("alice-clinic", bytes(32)), Need(0), math.inf, bytes(16)
    )
    place, before, raw = into.join(0, 1), resident(), one.to_pybytes()
    for _ in range(20_000 // columns):
        message = pa.allocate_buffer(len(raw), memory_pool=pa.system_memory_pool())
        memoryview(message).cast("B")[:] = raw
        place.add(message, bytes(16), last=False)
    assert resident() - before <= (1 << 30) - budget.memory.free
    into.close()


def test_the_very_bytes_that_came_are_held_and_no_others() -> None:
    """R10: the columns are views of one buffer, whose size is what the budget counts."""
    message = batch().serialize()
    before = pa.total_allocated_bytes()
    into = intake()
    into.join(0, 1).add(message, tag(0), last=True)
    held = into.table()
    assert pa.total_allocated_bytes() == before
    start, end = message.address, message.address + message.size
    for column in held.columns:
        for buffer in column.chunk(0).buffers():
            assert buffer is None or start <= buffer.address <= buffer.address + buffer.size <= end


def test_rows_after_the_attempt_was_closed() -> None:
    """The older of two releases must not go on to fill what the newer one has taken over."""
    budget = room(BUDGET, BUDGET)
    into = intake(budget=budget)
    place = into.join(0, 1)
    add(place, batch())
    into.close()
    for attempt in (lambda: add(place, batch()), lambda: into.join(0, 1), into.tallies):
        with refused(AttemptClosed):
            attempt()
    assert budget.memory.free == BUDGET


# Several connections.


def test_rows_of_several_streams_come_out_in_the_order_of_the_source() -> None:
    """Whichever connection is the faster one."""
    parts = rows(1, 70).to_batches(max_chunksize=10)
    into = intake()
    places = [into.join(stream, 3) for stream in range(3)]
    for stream in (2, 0, 1):
        add(places[stream], *parts[stream::3], last=True)
    assert into.table().equals(rows(1, 70))
    assert [tally.chunks for tally in into.tallies()] == [3, 2, 2]


def test_streams_that_brought_nothing_need_no_end() -> None:
    """A small source over many streams: fewer batches than connections."""
    into = intake()
    add(into.join(0, 4), batch(), last=True)
    assert [tally.chunks for tally in into.tallies()] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("stream", "streams"), [(0, 3), (0, 1), (2, 2), (-1, 2), (0, 0), (0, 17), (16, 16), (5, 1)]
)
def test_connections_that_do_not_agree_about_their_number(stream: int, streams: int) -> None:
    into = intake()
    if 0 < streams <= 16:
        into.join(0, 2)
    with refused(StreamsDiffer):
        into.join(stream, streams)


def test_commit_before_every_stream_has_ended() -> None:
    """F14: one connection was slower, or is gone."""
    into = intake()
    add(into.join(0, 2), batch(), last=True)
    slow = into.join(1, 2)
    add(slow, batch())
    with refused(StreamsIncomplete):
        into.tallies()


@pytest.mark.parametrize("counts", [(1, 2), (3, 1), (2, 2, 3), (2, 0, 2), (3, 3, 1)])
def test_chunks_that_were_not_dealt_out_in_turns(counts: tuple[int, ...]) -> None:
    """F15: the order of the rows would not be that of any source."""
    into = intake()
    for stream, count in enumerate(counts):
        add(into.join(stream, len(counts)), *[batch()] * count, last=True)
    with refused(StreamsIncomplete):
        into.tallies()


def test_chunks_in_turns_as_their_twin() -> None:
    for counts in ((1,), (2, 1), (2, 2), (3, 2, 2), (1, 0, 0)):
        into = intake()
        for stream, count in enumerate(counts):
            add(into.join(stream, len(counts)), *[batch()] * count, last=True)
        assert [tally.chunks for tally in into.tallies()] == list(counts)


# Gone on with.


def test_an_earlier_connection_adds_nothing_more() -> None:
    """A cut connection looks alive for a while; what still comes over it comes too late."""
    into = intake()
    old = into.join(0, 1)
    add(old, batch())
    new = into.join(0, 1)
    with refused(AttemptClosed):
        add(old, batch())
    assert new.kept(SALT)[:2] == (1, 10)
    add(new, batch(), last=True)
    assert into.rows == 20


def test_another_stream_is_not_fenced_off() -> None:
    into = intake()
    one, two = into.join(0, 2), into.join(1, 2)
    add(one, batch())
    into.join(0, 2).kept(SALT)
    add(two, batch())
    assert into.rows == 20


def test_what_was_kept_is_told_with_a_salted_digest() -> None:
    """The provider compares it with its source; without the salt nobody can."""
    parts = rows(1, 30).to_batches(max_chunksize=10)
    into = intake()
    add(into.join(0, 1), *parts[:2])
    digest = RowDigest(SALT, schema_digest(DATASET))
    for number, part in enumerate(parts[:2]):
        digest.add(number, part.num_rows, message_digest(part.serialize()))
    place = into.join(0, 1)
    assert place.kept(SALT) == (2, 20, digest.digest())
    assert into.join(0, 1).kept(b"s" * 32)[2] != digest.digest()


def test_a_resumed_stream_is_committed_by_what_was_agreed_at_its_resumption() -> None:
    """Tags of the first connection were made with a key that the provider has no more."""
    parts = rows(1, 30).to_batches(max_chunksize=10)
    into = intake()
    add(into.join(0, 1), *parts[:2])
    place = into.join(0, 1)
    chunks, count, digest = place.kept(SALT)
    add(place, parts[2], last=True, first=2)
    expected = Tally()
    expected.resume(chunks, count, digest)
    expected.add(tag(2), 10)
    assert tags_digest(into.tallies()) == tags_digest([expected])
    assert into.table().equals(rows(1, 30))


def test_a_new_stream_has_nothing_kept() -> None:
    place = one_stream()
    empty = RowDigest(SALT, schema_digest(DATASET)).digest()
    assert place.kept(SALT) == (0, 0, empty)
    add(place, batch(), last=True)
    expected = Tally()
    expected.add(tag(0), 10)
    assert tags_digest(place._intake.tallies()) == tags_digest([expected])


def test_nothing_is_added_to_what_is_being_committed() -> None:
    """Integrity of a commit: a connection that had brought nothing yet adds rows once the commit
    of another was checked. They would be computed with, and no signature would be about them."""
    into = intake()
    idle = into.join(1, 2)
    add(into.join(0, 2), batch(), last=True)
    (tally, _) = into.tallies()
    assert tally.rows == 10
    with refused(AttemptClosed):
        add(idle, batch(), last=True)
    with refused(AttemptClosed):
        into.join(1, 2)
    assert into.table().num_rows == 10
