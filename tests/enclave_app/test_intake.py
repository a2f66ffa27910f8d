"""Rows on their way in: what does not fit the policy, contradicts itself, or costs too much."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.errors import AttemptClosed
from enclave_app.intake import BatchesExceeded, InputEmpty, Intake, RowsNotAsDeclared
from enclave_app.limits import Limits, MemoryBudget, MemoryExhausted, Need
from policy.rows import (
    ColumnMissing,
    ColumnOrderDiffers,
    ColumnTypeDiffers,
    ColumnUnexpected,
    RowsMalformed,
    ValueNotFinite,
    ValueNull,
    ValueOutsideDomain,
)
from policy.sections import Dataset
from tests.support.enclave import EnclaveWorld, declared_schema, rows
from tests.support.parties import Consortium
from tests.support.refusal import refused
from verifier.errors import RatlsError

DATASET: Dataset = Consortium.create().policy().dataset[0]
BUDGET = 1 << 20


@contextmanager
def refused_as(cause: type[RatlsError]) -> Iterator[None]:
    """R20: outside there is one code for whatever is wrong with values; inside, the cause."""
    with refused(RowsNotAsDeclared) as seen:
        yield
    assert type(seen.error.__cause__) is cause
    assert "121" not in str(seen.error)


def intake(limits: Limits | None = None, budget: MemoryBudget | None = None) -> Intake:
    return Intake(DATASET, limits or Limits(), budget or MemoryBudget(BUDGET), Need(0), math.inf)


def batch(**columns: Any) -> pa.RecordBatch:
    return rows(1, 10, **columns).to_batches()[0]


def with_column(name: str, array: pa.Array) -> pa.RecordBatch:
    good = batch()
    arrays = [array if n == name else good.column(n) for n in good.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=good.schema)


def received(sent: pa.RecordBatch, old: bytes = b"", new: bytes = b"") -> pa.RecordBatch:
    """The batch as IPC delivers it, with a patch to the metadata of its message."""
    raw = sent.serialize().to_pybytes()
    end = 8 + struct.unpack("<i", raw[4:8])[0]
    head = raw[:end].replace(old, new) if old else raw[:end]
    assert not old or head != raw[:end]
    return pa.ipc.read_record_batch(pa.py_buffer(head + raw[end:]), sent.schema)


def test_honest_rows_come_out_as_they_went_in(world: EnclaveWorld) -> None:
    table = rows(1, 100)
    into = intake()
    into.open(declared_schema(world))
    for part in table.to_batches(max_chunksize=30):
        into.add(received(part))
    assert into.table().equals(table)
    assert (into.rows, len(into.batches)) == (100, 4)


def string_column(offsets: list[int], data: bytes) -> pa.Array:
    packed = pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets))
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, packed, pa.py_buffer(data)])


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(string_column([0, 4000] + [3] * 9, b"abc"), id="F01-offset-past-the-end"),
        pytest.param(string_column([0, 3, 1] + [3] * 8, b"abc"), id="F01-offset-going-back"),
        pytest.param(string_column(list(range(0, 22, 2)), b"\xff\xfe" * 10), id="F03-no-utf8"),
    ],
)
def test_strings_that_point_outside_their_buffer(array: pa.Array) -> None:
    """Arrow reads such a message without complaint, and later reads memory that is not there."""
    with refused_as(RowsMalformed):
        intake().add(with_column("patient", array))


@pytest.mark.parametrize("claimed", [11, 1000, 500_000_000, 2**40])
def test_more_rows_claimed_than_carried(claimed: int) -> None:
    """F05: looking at such a batch's size in bytes, before its buffers are checked, reads up to
    gigabytes past their end and ends the process."""
    ten, many = struct.pack("<q", 10), struct.pack("<q", claimed)
    forged = received(batch(), ten, many)
    assert forged.num_rows == claimed
    with refused_as(RowsMalformed):
        intake().add(forged)


@given(st.data())
def test_any_damage_to_a_message_is_rows_or_a_refusal(data: st.DataObject) -> None:
    """Property: the reader's metadata, changed anywhere, gives sound rows or a typed refusal."""
    raw = bytearray(batch().serialize().to_pybytes())
    end = 8 + struct.unpack("<i", raw[4:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(8, end - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged = pa.ipc.read_record_batch(pa.py_buffer(bytes(raw)), batch().schema)
    except (pa.ArrowException, OSError):
        return  # Arrow refuses it below the handler
    into = intake()
    try:
        into.add(damaged)
    except RatlsError:
        return
    assert into.table().validate(full=True) is None


Change = Callable[[pa.Schema], pa.Schema]


def retyped(name: str, kind: pa.DataType) -> Change:
    def change(schema: pa.Schema) -> pa.Schema:
        index = schema.get_field_index(name)
        return schema.set(index, pa.field(name, kind, nullable=kind == pa.null()))

    return change


def nested(depth: int) -> pa.DataType:
    kind = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda s: s.remove(1), ColumnMissing, id="missing"),
        pytest.param(
            lambda s: s.append(pa.field("z", pa.int64())), ColumnUnexpected, id="unexpected"
        ),
        pytest.param(lambda s: s.append(s.field(1)), ColumnUnexpected, id="doubled"),
        pytest.param(
            lambda s: pa.schema([*s, *(pa.field(f"c{i}", pa.int8()) for i in range(100_000))]),
            ColumnUnexpected,
            id="a-hundred-thousand",
        ),
        pytest.param(lambda s: s.set(1, s.field(1).with_name("Age")), ColumnMissing, id="renamed"),
        pytest.param(
            lambda s: pa.schema([s.field(i) for i in (1, 0, 2, 3)]),
            ColumnOrderDiffers,
            id="reordered",
        ),
        pytest.param(
            lambda s: s.set(1, s.field(1).with_nullable(True)), ColumnTypeDiffers, id="nullable"
        ),
        pytest.param(retyped("age", pa.int32()), ColumnTypeDiffers, id="narrower"),
        pytest.param(retyped("age", pa.null()), ColumnTypeDiffers, id="F05-null-type"),
        pytest.param(
            retyped("age", pa.run_end_encoded(pa.int32(), pa.int64())),
            ColumnTypeDiffers,
            id="F05-run-ends",
        ),
        pytest.param(
            retyped("patient", pa.dictionary(pa.int8(), pa.string())),
            ColumnTypeDiffers,
            id="F02-dictionary",
        ),
        pytest.param(retyped("patient", pa.string_view()), ColumnTypeDiffers, id="R11-view"),
        pytest.param(retyped("patient", pa.uuid()), ColumnTypeDiffers, id="F06-extension"),
        pytest.param(
            retyped("age", pa.dense_union([pa.field("a", pa.int64())])),
            ColumnTypeDiffers,
            id="F02-union",
        ),
        pytest.param(retyped("age", nested(50)), ColumnTypeDiffers, id="F07-nested"),
        pytest.param(
            lambda s: s.with_metadata({"note": "CANARY"}), ColumnOrderDiffers, id="F17-metadata"
        ),
        pytest.param(
            lambda s: s.set(1, s.field(1).with_metadata({"ARROW:extension:name": "evil"})),
            ColumnOrderDiffers,
            id="F17-field-metadata",
        ),
    ],
)
def test_schema_that_is_not_the_declared_one(
    world: EnclaveWorld, change: Change, leaf: type[RatlsError]
) -> None:
    """F02, F05, F06, F07, F17: nothing is cast, dropped or guessed."""
    with refused(leaf) as seen:
        intake().open(change(declared_schema(world)))
    assert "CANARY" not in str(seen.error)


def test_batch_of_another_schema_in_the_middle() -> None:
    """F07: the first batch was right, so the schema was believed."""
    into = intake()
    into.add(batch())
    other = batch().drop_columns(["bmi"])
    with refused(ColumnMissing):
        into.add(other)


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
    with refused_as(leaf):
        intake().add(with_column(name, column))


def test_no_rows_at_all() -> None:
    """A batch of no rows is a batch: an empty dataset would be committed, and count."""
    into = intake()
    into.add(batch().slice(0, 0))
    with refused(InputEmpty):
        into.require_rows()


def test_too_many_batches() -> None:
    """Batches of no rows cost memory and count as nothing."""
    into = intake(Limits(batches=2))
    into.add(batch())
    into.add(batch())
    with refused(BatchesExceeded):
        into.add(batch())


def test_memory_is_counted_and_given_back() -> None:
    budget = MemoryBudget(4000)
    into = intake(budget=budget)
    into.add(batch())
    assert 0 < budget.free < 4000
    with refused(MemoryExhausted):
        for _ in range(10):
            into.add(batch())
    into.close()
    into.close()
    assert budget.free == 4000


def test_only_rows_are_kept_of_a_message() -> None:
    """R10: a slice of ten rows keeps the whole message alive, and whatever stands beside them."""
    large = rows(1, 5000).to_batches()[0]
    budget = MemoryBudget(BUDGET)
    into = intake(budget=budget)
    into.add(large.slice(100, 10))
    assert BUDGET - budget.free < 2000
    assert into.batches[0].get_total_buffer_size() < 2000
    assert into.table().equals(pa.Table.from_batches([large.slice(100, 10)]))


def test_rows_after_the_attempt_was_closed() -> None:
    """The older of two streams must not go on to fill what the newer one has taken over."""
    into = intake()
    into.add(batch())
    into.close()
    with refused(AttemptClosed):
        into.add(batch())
