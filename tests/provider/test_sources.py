"""What is wrong with a file is found before anybody is connected to; what is extra never leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.rows import (
    ColumnMissing,
    ColumnTypeDiffers,
    ValueNotFinite,
    ValueNull,
    ValueOutsideDomain,
)
from policy.sections import Dataset
from provider.errors import SourceUnreadable
from provider.sources import LARGEST, SMALLEST
from provider.sources.base import SourceChanged, SourceEmpty, SourceRowTooLarge, SourceTooLong
from provider.sources.parquet import ParquetSource
from tests.support.refusal import refused
from verifier.errors import RatlsError

COLUMNS: dict[str, Any] = {
    "patient": "string",
    "age": {"type": "int64", "min": 0, "max": 120},
    "bmi": "float64",
    "y": "bool",
}


def dataset(max_rows: int = 1_000_000, **columns: Any) -> Dataset:
    return Dataset.model_validate(
        {
            "id": "train_party_1",
            "owner": "alice-clinic",
            "subject": "patient",
            "columns": columns or COLUMNS,
            "max_rows": max_rows,
        }
    )


def rows(count: int = 10) -> pa.Table:
    return pa.table(
        {
            "patient": [f"p{i}" for i in range(count)],
            "age": pa.array(range(count), pa.int64()),
            "bmi": [20.5 + i for i in range(count)],
            "y": [i % 2 == 0 for i in range(count)],
        }
    )


def write(folder: Path, table: pa.Table, **options: Any) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(table, path, **options)
    return path


def read(path: Path, of: Dataset | None = None) -> list[pa.RecordBatch]:
    with ParquetSource.open(path, of or dataset()) as source:
        source.scan()
        return list(source.batches())


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def test_declared_rows_arrive_as_they_are(tmp_path: Path) -> None:
    (batch,) = read(write(tmp_path, rows()))
    assert batch.to_pydict() == rows().to_pydict()


def test_columns_and_notes_that_nobody_agreed_on_stay_here(tmp_path: Path) -> None:
    """F17. A file usually has more: other columns, another order, queries in its metadata."""
    table = rows().append_column("diagnosis", pa.array(["CANARY"] * 10))
    field = table.schema.field("age").with_metadata({"note": "CANARY"})
    table = replaced(table, "age", table["age"]).cast(table.schema.set(1, field))
    table = table.select(["y", "diagnosis", "age", "bmi", "patient"])
    (batch,) = read(write(tmp_path, table.replace_schema_metadata({"query": "CANARY"})))
    assert batch.schema.names == list(COLUMNS)
    assert batch.schema.metadata is None
    assert batch.schema.field("age").metadata is None
    assert b"CANARY" not in bytes(batch.serialize()) + bytes(batch.schema.serialize())


@pytest.mark.parametrize(
    "spelling",
    [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string_view()],
    ids=str,
)
def test_the_spellings_of_a_string_are_read_as_string(
    tmp_path: Path, spelling: pa.DataType
) -> None:
    table = replaced(rows(), "patient", pa.array([f"p{i}" for i in range(10)]).cast(spelling))
    (batch,) = read(write(tmp_path, table))
    assert batch.schema.field("patient").type == pa.string()
    assert batch.to_pydict() == rows().to_pydict()


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda t: t.drop_columns(["bmi"]), ColumnMissing, id="column-missing"),
        pytest.param(
            lambda t: t.append_column("age", t["age"]), ColumnMissing, id="column-there-twice"
        ),
        pytest.param(
            lambda t: replaced(t, "age", t["age"].cast(pa.int32())), ColumnTypeDiffers, id="narrow"
        ),
        pytest.param(
            lambda t: replaced(t, "bmi", t["age"]), ColumnTypeDiffers, id="integers-for-floats"
        ),
        pytest.param(
            lambda t: replaced(t, "patient", t["age"]), ColumnTypeDiffers, id="numbers-for-names"
        ),
        pytest.param(
            lambda t: replaced(t, "patient", pa.array([b"x"] * 10)), ColumnTypeDiffers, id="bytes"
        ),
        pytest.param(
            lambda t: replaced(t, "y", pa.array([None] * 9 + [True])), ValueNull, id="null"
        ),
        pytest.param(
            lambda t: replaced(t, "patient", pa.array(["x"] * 9 + [None])), ValueNull, id="no-name"
        ),
        pytest.param(
            lambda t: replaced(t, "bmi", pa.array([1.0] * 9 + [float("nan")])),
            ValueNotFinite,
            id="nan",
        ),
        pytest.param(
            lambda t: replaced(t, "bmi", pa.array([float("inf")] + [1.0] * 9)),
            ValueNotFinite,
            id="infinity",
        ),
        pytest.param(
            lambda t: replaced(t, "age", pa.array([121] + [1] * 9)), ValueOutsideDomain, id="domain"
        ),
        pytest.param(lambda t: t.slice(0, 0), SourceEmpty, id="empty"),
        pytest.param(lambda t: pa.concat_tables([t, t]), SourceTooLong, id="too-many-rows"),
    ],
)
def test_a_file_that_is_not_as_declared(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], leaf: type[RatlsError]
) -> None:
    """Found by the scan, before any connection; ten of these rows are accepted above."""
    path = write(tmp_path, change(rows()))
    with refused(leaf), ParquetSource.open(path, dataset(max_rows=15)) as source:
        source.scan()


def test_the_wrong_value_is_not_in_the_message(tmp_path: Path) -> None:
    """L01. A refusal is printed and logged; a cell must not be."""
    path = write(tmp_path, replaced(rows(), "age", pa.array([987654321] + [1] * 9)))
    with refused(ValueOutsideDomain) as refusal, ParquetSource.open(path, dataset()) as source:
        source.scan()
    assert "987654321" not in str(refusal.error)


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"patient,age\n", b"\0" * 64])
def test_no_parquet_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rows.parquet"
    if content is not None:
        path.write_bytes(content)
    with refused(SourceUnreadable), ParquetSource.open(path, dataset()):
        pass


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with refused(SourceUnreadable), ParquetSource.open(tmp_path, dataset()):
        pass


@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_rows_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a disk did to it: valid rows or one typed refusal, never another exception."""
    folder = tmp_path_factory.mktemp("damaged")
    path = write(folder, rows(50), row_group_size=20)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    with contextlib.suppress(RatlsError):
        assert sum(batch.num_rows for batch in read(path)) > 0


def test_batches_are_neither_small_nor_large(tmp_path: Path) -> None:
    """Many row groups are joined, one large one is cut (flight.md 2.4)."""
    table = rows(100_000)
    table = replaced(table, "age", pa.array([i % 100 for i in range(100_000)]))
    for size in (1_000, 100_000):
        batches = read(write(tmp_path, table, row_group_size=size))
        assert pa.Table.from_batches(batches).to_pydict() == table.to_pydict()
        assert all(SMALLEST <= b.nbytes <= LARGEST for b in batches[:-1])


def test_long_strings_are_cut_into_small_batches(tmp_path: Path) -> None:
    of = dataset(patient="string")
    table = pa.table({"patient": ["x" * 100_000] * 200})
    batches = read(write(tmp_path, table), of)
    assert sum(b.num_rows for b in batches) == 200
    assert max(b.nbytes for b in batches) <= LARGEST


def test_a_single_row_exceeds_a_message(tmp_path: Path) -> None:
    of = dataset(patient="string")
    path = write(tmp_path, pa.table({"patient": ["short", "x" * (LARGEST + 1)]}))
    with refused(SourceRowTooLarge), ParquetSource.open(path, of) as source:
        source.scan()


def test_somebody_writes_into_the_file_between_check_and_release(tmp_path: Path) -> None:
    """The scan accepted other bytes. They are checked again as they leave, and counted."""
    path = write(tmp_path, rows(), compression="none", use_dictionary=False)
    with refused(ValueNotFinite), ParquetSource.open(path, dataset()) as source:
        source.scan()
        raw = path.read_bytes()
        spot = raw.index(pa.array([25.5]).buffers()[1].to_pybytes())
        with path.open("r+b") as file:
            file.seek(spot)
            file.write(b"\xff" * 8)
        list(source.batches())


def test_rows_vanish_between_check_and_release(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    with refused(SourceChanged), ParquetSource.open(path, dataset()) as source:
        source.scan()
        source._scanned = 11
        list(source.batches())


def test_a_file_renamed_over_the_source_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    with ParquetSource.open(path, dataset()) as source:
        source.scan()
        pq.write_table(rows(3), tmp_path / "other.parquet")
        (tmp_path / "other.parquet").replace(path)
        assert sum(b.num_rows for b in source.batches()) == 10


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """One row group of 45 MiB is the worst case: read carelessly, all of it would sit in memory."""
    count = 1_500_000
    table = pa.table(
        {
            "patient": pa.array(range(10**9, 10**9 + count)).cast(pa.string()),
            "bmi": pa.array(range(count)).cast(pa.float64()),
            "unread": pa.array(range(count, 0, -1)).cast(pa.string()),
        }
    )
    path = write(tmp_path, table, row_group_size=count, compression="none", use_dictionary=False)
    assert path.stat().st_size > 45 << 20
    del table
    before, most = pa.total_allocated_bytes(), 0
    of = dataset(2_000_000, patient="string", bmi="float64")
    with ParquetSource.open(path, of) as source:
        source.scan()
        for _ in source.batches():
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16 << 20
