"""Whatever rows are kept in, the same rules hold; what is extra stays, what is wrong is told."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provider.sources.sql  # noqa: F401 - loaded late, it would count as memory of a source
from policy.rows import (
    ColumnMissing,
    ColumnTypeDiffers,
    ValueNotFinite,
    ValueNull,
    ValueOutsideDomain,
)
from provider.errors import SourceUnreadable
from provider.sources import LARGEST, SMALLEST, SourceSpec
from provider.sources.base import SourceChanged, SourceEmpty, SourceTooLong
from provider.sources.records import SourceCut, SourceEncoding
from tests.provider.formats import (
    FORMATS,
    arrow_file,
    arrow_stream,
    csv,
    parquet,
    read,
    scan,
    sql,
)
from tests.provider.test_sources import dataset, replaced, rows
from tests.support.refusal import refused
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

TYPES = ["bool", "int32", "int64", "float32", "float64", "string", "date32", "timestamp[us, UTC]"]
Form = Callable[[Path, pa.Table], SourceSpec]
CANARY = "CANARY-7f3a"


@pytest.fixture(params=list(FORMATS.values()), ids=list(FORMATS))
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_declared_rows_arrive_as_they_are(form: Form, tmp_path: Path) -> None:
    assert read(form(tmp_path, rows()), dataset()).to_pydict() == rows().to_pydict()


def test_every_declared_type_arrives_as_it_is(form: Form, tmp_path: Path) -> None:
    """Exactly: a text or a Python object in between must not move a bit, a day or a zone."""
    instants = pa.array([0, 1_700_000_000_123_456, None], pa.timestamp("us", "UTC"))
    columns = {
        "flag": pa.array([True, False, None]),
        "small": pa.array([-(2**31), 2**31 - 1, None], pa.int32()),
        "large": pa.array([-(2**63), 2**63 - 1, None]),
        "single": pa.array([0.1, -3.4e38, None], pa.float32()),
        "double": pa.array([0.1, 5e-324, None]),
        "text": pa.array(['a "b", c', "x\ny; ü 日本", None]),
        "day": pa.array([0, 19_000, None], pa.date32()),
        "moment": instants,
    }
    spelled = dict(columns)
    if form is FORMATS["sqlite"]:  # it has no dates; people keep ISO texts
        spelled["day"] = pa.array(["1970-01-01", "2022-01-08", None])
        spelled["moment"] = pa.array(
            ["1970-01-01T00:00:00Z", "2023-11-14 23:13:20.123456+01:00", None]
        )
    declared: dict[str, Any] = {name: f"{t}?" for name, t in zip(columns, TYPES, strict=True)}
    got = read(form(tmp_path, pa.table(spelled)), dataset(**declared))
    assert got.to_pydict() == pa.table(columns).to_pydict()


def test_a_double_is_not_rounded_to_float32(form: Form, tmp_path: Path) -> None:
    """Sixteen digits that somebody measured would become seven, and nobody would know."""
    measured = pa.table({"x": [0.5, 0.12345678901234]})
    with refused(ColumnTypeDiffers):
        scan(form(tmp_path, measured), dataset(x="float32"))
    assert read(form(tmp_path, measured), dataset(x="float64")).to_pydict() == measured.to_pydict()


def test_a_large_integer_is_not_rounded_to_float64(form: Form, tmp_path: Path) -> None:
    """2**53 + 1 lies between two doubles: as one of them, an id would be another person's."""
    counted = pa.table({"x": pa.array([2**53 + 1])})
    with refused(ColumnTypeDiffers):
        scan(form(tmp_path, counted), dataset(x="float64"))
    assert read(form(tmp_path, counted), dataset(x="int64")).to_pydict() == counted.to_pydict()


def test_columns_that_nobody_agreed_on_stay_here(form: Form, tmp_path: Path) -> None:
    """F17. Other columns, another order."""
    table = rows().append_column("diagnosis", pa.array(["CANARY"] * 10))
    got = read(form(tmp_path, table.select(["y", "diagnosis", "bmi", "age", "patient"])), dataset())
    assert got.to_pydict() == rows().to_pydict()
    assert got.schema.metadata is None


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda t: t.drop_columns(["bmi"]), ColumnMissing, id="column-missing"),
        pytest.param(
            lambda t: t.append_column("age", t["age"]), ColumnMissing, id="column-there-twice"
        ),
        pytest.param(
            lambda t: replaced(t, "age", pa.array([1.5] * 10)), ColumnTypeDiffers, id="fractions"
        ),
        pytest.param(
            lambda t: replaced(t, "bmi", pa.array(["1,5"] * 10)), ColumnTypeDiffers, id="texts"
        ),
        pytest.param(
            lambda t: replaced(t, "y", pa.array([True] * 9 + [None])), ValueNull, id="null"
        ),
        pytest.param(
            lambda t: replaced(t, "patient", pa.array(["x"] * 9 + [None])), ValueNull, id="no-name"
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
def test_rows_that_are_not_as_declared(
    form: Form,
    tmp_path: Path,
    change: Callable[[pa.Table], pa.Table],
    leaf: type[RatlsError],
) -> None:
    """Found by the scan, before any connection; ten of these rows are accepted above."""
    spec = form(tmp_path, change(rows()))
    with refused(leaf):
        scan(spec, dataset(max_rows=15))


def test_nan_is_no_number(form: Form, tmp_path: Path) -> None:
    """SQLite itself keeps NaN as a null."""
    spec = form(tmp_path, replaced(rows(), "bmi", pa.array([1.0] * 9 + [float("nan")])))
    with refused(ValueNull if form is FORMATS["sqlite"] else ValueNotFinite):
        scan(spec, dataset())


@pytest.mark.parametrize("column", ["age", "bmi", "y"])
def test_a_cell_is_in_no_message_and_no_traceback(form: Form, tmp_path: Path, column: str) -> None:
    """L01. Libraries quote what they cannot read, and a cause is printed with its refusal."""
    spec = form(tmp_path, replaced(rows(), column, pa.array(["1"] * 9 + [CANARY])))
    with refused(ColumnTypeDiffers) as seen:
        scan(spec, dataset())
    assert CANARY not in "".join(traceback.format_exception(seen.error))


@pytest.fixture(params=[parquet, csv, arrow_file, arrow_stream], ids=lambda f: f.__name__)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SourceSpec, Path]:
    """Ten rows in a file, and its path."""
    return request.param(tmp_path, rows()), next(tmp_path.glob("rows.*"))


def test_an_export_that_is_still_running(kept: tuple[SourceSpec, Path]) -> None:
    """It writes on while its first rows are already leaving: nothing would be committed."""
    spec, path = kept
    with refused(SourceChanged), spec.open(dataset()) as source:
        source.scan()
        with path.open("ab") as file:
            file.write(b"p11,3,2.5,true\n")
        list(source.batches())


def test_a_file_that_is_written_during_the_scan(kept: tuple[SourceSpec, Path]) -> None:
    """Of the same size, and all rows valid: half of them are yesterday's."""
    spec, path = kept
    with refused(SourceChanged), spec.open(dataset()) as source:
        os.utime(path, ns=(0, 0))
        source.scan()


def test_another_file_is_renamed_over_it(kept: tuple[SourceSpec, Path]) -> None:
    """What was opened is what is sent."""
    spec, path = kept
    with spec.open(dataset()) as source:
        source.scan()
        (path.parent / "other").write_bytes(b"")
        (path.parent / "other").replace(path)
        assert sum(b.num_rows for b in source.batches()) == 10


@pytest.mark.parametrize(
    ("content", "as_text"),
    [
        (None, SourceUnreadable),
        (b"", SourceUnreadable),
        (b"\0" * 64, SourceEncoding),
        (b"PAR1", SourceCut),
        (b"ARROW1\0\0", SourceEncoding),
    ],
)
def test_a_file_that_is_none_of_its_kind(
    kept: tuple[SourceSpec, Path], content: bytes | None, as_text: type[RatlsError]
) -> None:
    spec, path = kept
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with refused(as_text if path.suffix == ".csv" else SourceUnreadable):
        scan(spec, dataset())


def test_a_folder_for_a_file(kept: tuple[SourceSpec, Path]) -> None:
    spec, path = kept
    path.unlink()
    path.mkdir()
    with refused(SourceUnreadable):
        scan(spec, dataset())


@given(data=st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("make", [csv, arrow_file, arrow_stream])
def test_a_damaged_file_is_rows_or_a_refusal(
    make: Form, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a disk did to it: valid rows or one typed refusal, never another exception."""
    folder = tmp_path_factory.mktemp("damaged")
    spec = make(folder, rows(50))
    path = next(folder.glob("rows.*"))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    with contextlib.suppress(RatlsError):
        assert read(spec, dataset()).num_rows > 0


def test_batches_are_neither_small_nor_large(kept: tuple[SourceSpec, Path]) -> None:
    """Small batches of a file are joined, large ones cut (flight.md 2.4)."""
    spec, path = kept
    table = rows(100_000)
    table = replaced(table, "age", pa.array([i % 100 for i in range(100_000)]))
    FORMATS[WRITERS[path.suffix]](path.parent, table)
    with spec.open(dataset()) as source:
        source.scan()
        batches = list(source.batches())
    assert pa.Table.from_batches(batches).to_pydict() == table.to_pydict()
    assert all(SMALLEST <= b.nbytes <= LARGEST for b in batches[:-1])


WRITERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow_file",
    ".arrows": "arrow_stream",
}
TWO: dict[str, Any] = {"patient": "string", "bmi": "float64"}
SERIES = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) "
    "select cast(i + 1000000000 as text) as patient, cast(i as real) as bmi from n"
)


def large(count: int, unread: int) -> pa.Table:
    number = pa.array(range(10**9, 10**9 + count))
    return pa.table(
        {
            "patient": number.cast(pa.string()),
            "bmi": number.cast(pa.float64()),
            "unread": pa.array(["u" * unread]).take(pa.array([0] * count)),
        }
    )


def in_sqlite(folder: Path) -> SourceSpec:
    """No table at all: the rows are made while they are read."""
    sqlite3.connect(folder / "rows.db").execute("create table anything (x)").connection.close()
    return sql(folder, "sqlite:///rows.db", SERIES)


@pytest.mark.parametrize(
    ("make", "rows_", "most"),
    [
        pytest.param(lambda f: csv(f, large(900_000, 100)), 900_000, 64, id="csv"),
        pytest.param(lambda f: arrow_file(f, large(900_000, 20)), 900_000, 16, id="file"),
        pytest.param(lambda f: arrow_stream(f, large(900_000, 20)), 900_000, 16, id="stream"),
        pytest.param(in_sqlite, 100_000, 12, id="sql"),
    ],
)
def test_memory_does_not_grow_with_the_source(
    tmp_path: Path, make: Callable[[Path], SourceSpec], rows_: int, most: int
) -> None:
    """Bounds in MiB, on Arrow's memory and Python's together: far less than the rows take.

    CSV: 100 MiB of text, read in pieces of 4 MiB, of which several wait.
    """
    spec = make(tmp_path)
    before, arrow = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    try:
        with spec.open(dataset(2_000_000, **TWO)) as source:
            assert source.scan() == rows_
            for _ in source.batches():
                arrow = max(arrow, pa.total_allocated_bytes() - before)
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert arrow + python < most << 20
