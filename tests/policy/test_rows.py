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
