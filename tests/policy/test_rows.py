"""Rows: exactly the declared columns, sound arrays, and no value that nobody agreed on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.rows import (
    BatchCheck,
    ColumnMissing,
    ColumnOrderDiffers,
    ColumnTypeDiffers,
    ColumnUnexpected,
    RowsMalformed,
    ValueNotFinite,
    ValueNull,
    ValueOutsideDomain,
    arrow_schema,
    check_batch,
    check_schema,
    schema_digest,
)
from policy.sections import Dataset
from tests.support.refusal import refused
from verifier.errors import RatlsError

CANARY = 9173
DATASET = Dataset.model_validate(
    {
        "id": "d",
        "owner": "alice-clinic",
        "subject": "patient",
        "max_rows": 10,
        "columns": {
            "patient": "string",
            "age": {"type": "int64", "min": 0, "max": 120},
            "bmi": {"type": "float32", "min": 0.1},
            "ok": "bool",
            "born": {"type": "date32", "max": date(2026, 1, 1)},
            "seen": {"type": "timestamp[us, UTC]", "min": datetime(2020, 1, 1, tzinfo=UTC)},
            "note": "float64?",
        },
    }
)
ROWS: dict[str, list[Any]] = {
    "patient": ["a", "b"],
    "age": [0, 120],
    "bmi": [20.5, 31.0],
    "ok": [True, False],
    "born": [date(1970, 1, 1), date(2026, 1, 1)],
    "seen": [datetime(2020, 1, 1, tzinfo=UTC)] * 2,
    "note": [None, float("nan")],
}
SCHEMA = arrow_schema(DATASET)


def batch(**columns: list[Any]) -> pa.RecordBatch:
    values = ROWS | columns
    return pa.RecordBatch.from_arrays(
        [pa.array(values[f.name], f.type) for f in SCHEMA], schema=SCHEMA
    )


def test_honest_rows_pass() -> None:
    """The twin of every refusal below, with every type and both ends of each domain."""
    check_batch(batch(), DATASET)
    check_batch(batch().slice(1, 1), DATASET)
    check_batch(batch().slice(0, 0), DATASET)


SCHEMAS: list[tuple[str, Callable[[pa.Schema], pa.Schema], type[RatlsError]]] = [
    ("missing", lambda s: s.remove(1), ColumnMissing),
    ("extra", lambda s: s.append(pa.field("name", pa.string())), ColumnUnexpected),
    ("twice", lambda s: s.append(s.field(0)), ColumnUnexpected),
    ("wider", lambda s: s.set(2, pa.field("bmi", pa.float64(), False)), ColumnTypeDiffers),
    ("large", lambda s: s.set(0, pa.field("patient", pa.large_string(), False)), ColumnTypeDiffers),
    ("dictionary", lambda s: s.set(
        0, pa.field("patient", pa.dictionary(pa.int8(), pa.string()), False)), ColumnTypeDiffers),
    ("other unit", lambda s: s.set(
        5, pa.field("seen", pa.timestamp("ms", "UTC"), False)), ColumnTypeDiffers),
    ("no zone", lambda s: s.set(5, pa.field("seen", pa.timestamp("us"), False)), ColumnTypeDiffers),
    ("nullable", lambda s: s.set(1, pa.field("age", pa.int64(), True)), ColumnTypeDiffers),
    ("order", lambda s: pa.schema([s.field(i) for i in (1, 0, 2, 3, 4, 5, 6)]), ColumnOrderDiffers),
    ("metadata", lambda s: s.with_metadata({"pandas": "x"}), ColumnOrderDiffers),
    ("field metadata", lambda s: s.set(
        0, s.field(0).with_metadata({"x": "y"})), ColumnOrderDiffers),
]  # fmt: skip


@pytest.mark.parametrize(("alter", "leaf"), [s[1:] for s in SCHEMAS], ids=[s[0] for s in SCHEMAS])
def test_columns_that_differ(
    alter: Callable[[pa.Schema], pa.Schema], leaf: type[RatlsError]
) -> None:
    """S20: nothing is cast, dropped or carried along."""
    with refused(leaf):
        check_schema(alter(SCHEMA), DATASET)
    check_schema(SCHEMA, DATASET)


VALUES: list[tuple[str, list[Any], type[RatlsError]]] = [
    ("patient", ["a", None], ValueNull),
    ("age", [None, 1], ValueNull),
    ("ok", [None, True], ValueNull),
    ("bmi", [float("nan"), 1.0], ValueNotFinite),
    ("bmi", [float("inf"), 1.0], ValueNotFinite),
    ("bmi", [float("-inf"), 1.0], ValueNotFinite),
    ("bmi", [0.05, 1.0], ValueOutsideDomain),
    ("age", [CANARY, 1], ValueOutsideDomain),
    ("age", [-1, 1], ValueOutsideDomain),
    ("born", [date(2026, 1, 2)] * 2, ValueOutsideDomain),
    ("seen", [datetime(2019, 12, 31, tzinfo=UTC)] * 2, ValueOutsideDomain),
]


@pytest.mark.parametrize(("column", "values", "leaf"), VALUES)
def test_values_that_nobody_agreed_on(
    column: str, values: list[Any], leaf: type[RatlsError]
) -> None:
    """And the message names the column, never the value (L01)."""
    with refused(leaf) as refusal:
        check_batch(batch(**{column: values}), DATASET)
    assert str(CANARY) not in str(refusal.error)


def test_text_that_is_not_utf8() -> None:
    """Arrow believes the sender's bytes until they are validated in full."""
    arrays = [batch().column(i) for i in range(7)]
    raw = pa.array([b"a", b"\xff"], pa.binary())
    arrays[0] = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    with refused(RowsMalformed):
        check_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), DATASET)


def test_offsets_that_run_backwards() -> None:
    arrays = [batch().column(i) for i in range(7)]
    offsets = pa.py_buffer(b"\0\0\0\0\2\0\0\0\1\0\0\0")
    arrays[0] = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab")])
    with refused(RowsMalformed):
        check_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), DATASET)


def test_schema_digest_tells_declarations_apart() -> None:
    """Names and types are length-prefixed: ("ab", "c") is not ("a", "bc")."""

    def digest(columns: dict[str, str]) -> bytes:
        fields = {"id": "d", "owner": "o", "subject": "a", "max_rows": 1, "columns": columns}
        return schema_digest(Dataset.model_validate(fields))

    declared: list[dict[str, str]] = [
        {"a": "int64"},
        {"a": "int64?"},
        {"a": "int32"},
        {"b": "int64"},
        {"a": "int64", "b": "bool"},
        {"b": "bool", "a": "int64"},
    ]
    assert len({digest(d) for d in declared}) == len(declared)
    assert digest(declared[0]) == digest({"a": "int64"})


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.integers(-300, 300)), max_size=6),
    st.integers(0, 5),
)
def test_domain_is_what_it_says(ages: list[int | None], offset: int) -> None:
    """Sliced or not: accepted exactly when no value is null or outside."""
    columns = {n: [v[0]] * len(ages) for n, v in ROWS.items()} | {"age": ages}
    offset = min(offset, len(ages))
    sliced = batch(**columns).slice(offset)
    good = all(age is not None and 0 <= age <= 120 for age in ages[offset:])
    try:
        check_batch(sliced, DATASET)
    except (ValueNull, ValueOutsideDomain):
        assert not good
    else:
        assert good


SPECIAL: dict[str, list[Any]] = {
    "float64": [0.0, -0.0, 1.0, 120.0, 120.5, -1e-300, float("nan"), float("inf"), float("-inf")],
    "float32": [0.0, -0.0, 0.5, 120.0, 0.10000000149011612, float("nan"), float("inf")],
    "int64": [0, 1, 120, 121, -1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)],
    "int32": [0, 1, 120, 121, -1, 2**31 - 1],
    "date32": [date(1970, 1, 1), date(2026, 1, 1), date(1, 1, 1), date(9999, 12, 31)],
    "timestamp[us, UTC]": [datetime(2020, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
    "bool": [True, False],
    "string": ["a", "", " a", "a b", "p\u0301", "\u200b", "\x7f", "P-1"],
}
BOUNDS: dict[str, list[Any]] = {
    **SPECIAL,
    "float64": [0, 120, 0.5, 2**53],
    "float32": [0, 0.1, 120.0],
    "bool": [],
    "string": [],
}
NULL = st.none()


@st.composite
def columns_and_values(draw: st.DrawFn) -> tuple[Dataset, pa.RecordBatch]:
    """One column of any type and domain, and a slice of values on and around its bounds."""
    name = draw(st.sampled_from(sorted(SPECIAL)))
    values = st.sampled_from(SPECIAL[name])
    if name in ("int32", "int64"):
        bits = 31 if name == "int32" else 63
        values |= st.integers(-(2**bits), 2**bits - 1)
    elif name.startswith("float"):
        values |= st.floats(width=32 if name == "float32" else 64)
    # A run of values that are fine hides the one that is not.
    drawn = draw(st.lists(values | NULL, max_size=5)) + [draw(values)] * draw(st.integers(0, 40))
    nullable = draw(st.booleans())
    declared: dict[str, Any] = {"type": name + ("?" if nullable else "")}
    bounds = (
        [draw(st.none() | st.sampled_from(BOUNDS[name])) for _ in range(2)] if BOUNDS[name] else []
    )
    present = sorted(bound for bound in bounds if bound is not None)
    if present:
        declared["min"] = present[0]
    if len(present) == 2:
        declared["max"] = present[1]
    if name == "string":
        declared["spelling"] = draw(st.sampled_from(["canonical", "folded"]))
    if not draw(st.booleans()) and "min" in declared and "max" not in declared:
        declared["max"] = declared.pop("min")
    dataset = Dataset.model_validate(
        {"id": "d", "owner": "o", "subject": "-", "max_rows": 9, "columns": {"x": declared}}
    )
    array = pa.array(drawn, arrow_schema(dataset).field(0).type)
    start = draw(st.integers(0, len(drawn)))
    rows = pa.RecordBatch.from_arrays([array], schema=arrow_schema(dataset)).slice(
        start, draw(st.integers(0, len(drawn)))
    )
    return dataset, rows


def _outcome(check: BatchCheck, rows: pa.RecordBatch) -> tuple[str, str]:
    try:
        check(rows, rows_before=100)
    except RatlsError as refusal:
        return refusal.code, str(refusal)
    return "", ""


@settings(max_examples=1500, deadline=None)
@given(columns_and_values())
def test_the_short_way_agrees_with_the_long_one(world: tuple[Dataset, pa.RecordBatch]) -> None:
    """F05: what the lowest and highest value clear is what every rule clears for every row."""
    dataset, rows = world
    short, long = BatchCheck(dataset), BatchCheck(dataset)
    (column,) = long._columns
    column.is_fine = lambda values: False  # type: ignore[method-assign]
    assert _outcome(short, rows) == _outcome(long, rows)


def test_a_batch_that_is_fine_is_never_asked_row_by_row() -> None:
    """And one that is not is asked for its column alone."""
    check, asked = BatchCheck(DATASET), []
    for column in check._columns:
        column.refuse = lambda *_, thing=column._thing: asked.append(thing)  # type: ignore
    check(batch(note=[1.0, 2.0]))
    assert asked == []
    check(batch(age=[1, 121]))
    assert len(asked) == 1
    assert "'age'" in asked[0]
