"""One meaning in another spelling is read; what has two stays refused, with the way out of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from policy.rows import ColumnMissing, ColumnTypeDiffers, ValueNull, ValueOutsideDomain
from provider.errors import SourceFormatUnknown, SourceTableMalformed, SourceUnreadable
from provider.sources import LARGEST, SMALLEST, SourceSpec, parse_source, source_at
from provider.sources.base import SourceChanged, SourceEmpty, SourceTooLong
from provider.sources.folders import SourceFolderMixed
from provider.sources.spec import SourceFileTwice
from tests.provider.formats import arrow_file, arrow_stream, csv, parquet, read, scan, sql, sqlite
from tests.provider.test_sources import dataset, replaced, rows
from tests.provider.test_sources_sql import Server, running  # noqa: F401 - a fixture
from tests.support.refusal import refused

UTC = pa.timestamp("us", "UTC")
FORMS = [parquet, arrow_file, arrow_stream]
FILES = pytest.mark.parametrize("form", FORMS)
Form = Callable[[Path, pa.Table], SourceSpec]


# The types of Arrow and Parquet.


@FILES
@pytest.mark.parametrize("zone", ["+00:00", "Etc/UTC", "GMT", "Etc/GMT", "Z", "Zulu", "+0000"])
def test_utc_under_another_name(form: Form, tmp_path: Path, zone: str) -> None:
    """pyarrow writes +00:00 where pandas wrote UTC; the instants are the same."""
    instants = pa.array([0, 1_700_000_000_123_456, None], pa.timestamp("us", zone))
    got = read(form(tmp_path, pa.table({"x": instants})), dataset(x="timestamp[us, UTC]?"))
    assert got["x"].combine_chunks().equals(pa.array([0, 1_700_000_000_123_456, None], UTC))


STRINGS = [
    pa.string_view(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.large_string()),
]
CATEGORIES = pa.dictionary(
    pa.uint32(), pa.string_view()
)  # polars'; pyarrow writes no Parquet of it


@pytest.mark.parametrize(
    ("form", "spelling"),
    [(f, s) for f in FORMS for s in STRINGS]
    + [(arrow_file, CATEGORIES), (arrow_stream, CATEGORIES)],
)
def test_a_string_under_another_name(form: Form, tmp_path: Path, spelling: pa.DataType) -> None:
    if pa.types.is_dictionary(spelling):
        values = pa.DictionaryArray.from_arrays(
            pa.array([0, 1, None, 1], spelling.index_type),
            pa.array(["short", "long " * 9]).cast(spelling.value_type),
        )
    else:
        values = pa.array(["short", "long " * 9, None, "long " * 9]).cast(spelling)
    got = read(form(tmp_path, pa.table({"x": values})), dataset(x="string?"))
    assert got["x"].to_pylist() == ["short", "long " * 9, None, "long " * 9]


@FILES
@pytest.mark.parametrize(
    "of", ["bool", "int32", "float64", "string", "date32", "timestamp[us, UTC]"]
)
def test_a_column_without_any_value(form: Form, tmp_path: Path, of: str) -> None:
    """Writers that see nulls alone write the type `null`; where nulls are allowed, that is one."""
    spec = form(tmp_path, pa.table({"x": pa.nulls(3)}))
    assert read(spec, dataset(x=f"{of}?"))["x"].to_pylist() == [None] * 3
    with refused(ColumnTypeDiffers):
        scan(spec, dataset(x=of))


def test_a_long_column_without_any_value_takes_no_memory_at_once(tmp_path: Path) -> None:
    """F05: two hundred bytes can say that a column has two thousand million nulls."""
    spec = arrow_file(tmp_path, pa.table({"x": pa.nulls(2**31 - 1)}), rows=2**31 - 1)
    before = pa.total_allocated_bytes()
    with refused(SourceTooLong):
        scan(spec, dataset(100, x="float64?"))
    assert pa.total_allocated_bytes() - before < 16 << 20


NAIVE = pa.array([0, 10**15], pa.timestamp("us"))
TWO_MEANINGS: list[tuple[str, str, pa.Array]] = [
    ("zone-unknown", "timestamp[us, UTC]", NAIVE),
    ("zone-unknown-in-ns", "timestamp[us, UTC]", NAIVE.cast(pa.timestamp("ns"))),
    ("another-zone", "timestamp[us, UTC]", NAIVE.cast(pa.timestamp("us", "Europe/Zurich"))),
    ("nanoseconds", "timestamp[us, UTC]", NAIVE.cast(pa.timestamp("ns", "UTC"))),
    ("milliseconds", "timestamp[us, UTC]", pa.array([0, 1], pa.timestamp("ms", "UTC"))),
    ("a-day", "timestamp[us, UTC]", pa.array([0, 1], pa.date32())),
    ("integers-for-floats", "float64", pa.array([0, 2**53])),
    ("double-for-single", "float32", pa.array([0.1, 0.5])),
    ("single-for-double", "float64", pa.array([0.1, 0.5], pa.float32())),
    ("decimals", "float64", pa.array([1, 2]).cast(pa.decimal128(21, 2))),
    ("narrow", "int64", pa.array([0, 1], pa.int8())),
    ("wide", "int32", pa.array([0, 1])),
    ("unsigned", "int64", pa.array([0, 1], pa.uint64())),
    ("zeros-and-ones", "bool", pa.array([0, 1])),
    ("digits", "int64", pa.array(["0", "1"])),
    ("milliseconds-of-a-day", "date32", pa.array([0, 86_400_000], pa.date64())),
    ("bytes", "string", pa.array([b"a", b"b"])),
    ("numbers-for-names", "string", pa.array([1, 2])),
]


@pytest.mark.parametrize(
    ("form", "of", "values"),
    [
        pytest.param(form, of, values, id=f"{form.__name__}-{name}")
        for form in FORMS
        for name, of, values in TWO_MEANINGS
        if not (form is parquet and pa.types.is_date64(values.type))  # it has days alone
    ],
)
def test_what_has_two_meanings_is_refused_and_its_remedy_works(
    form: Form, tmp_path: Path, of: str, values: pa.Array
) -> None:
    """Also what would lose a digit. The refusal's own example is run, and then the file is read."""
    with refused(ColumnTypeDiffers) as seen:
        scan(form(tmp_path, pa.table({"x": values})), dataset(x=of))
    expression = seen.error.fix.rpartition("in pyarrow: ")[2]
    column = eval(expression, {"pa": pa, "pc": pc, "column": values})  # noqa: S307
    assert read(form(tmp_path, pa.table({"x": column})), dataset(x=of)).num_rows == len(values)


# Names.


@FILES
def test_columns_with_other_names(form: Form, tmp_path: Path) -> None:
    """`age` is what the source calls `Alter (Jahre)`; its own `age` is something else."""
    table = rows().rename_columns(["patient", "Alter (Jahre)", "bmi", "y"])
    spec = form(tmp_path, table.append_column("other", pa.array(["CANARY"] * 10)))
    kind, path = type(spec), spec.path  # type: ignore[attr-defined]
    with refused(ColumnMissing):
        scan(spec, dataset())
    renamed = kind(path, {"Alter (Jahre)": "age"})
    assert read(renamed, dataset()).to_pydict() == rows().to_pydict()
    with refused(ColumnMissing):  # which of the two?
        scan(kind(path, {"Alter (Jahre)": "age", "other": "age"}), dataset())
    with refused(SourceTableMalformed):  # a misspelt name would be no rename at all
        scan(kind(path, {"Alter (Jahre)": "age", "other": "aeg"}), dataset())


# Files.


def test_feather(tmp_path: Path) -> None:
    """Version 2 is Arrow IPC, compressed unless told otherwise; version 1 is another format."""
    path = tmp_path / "rows.feather"
    feather.write_feather(rows(), path)
    assert read(source_at(path), dataset()).to_pydict() == rows().to_pydict()
    path.write_bytes(b"FEA1" + bytes(60) + b"FEA1")
    with refused(SourceFormatUnknown):
        scan(source_at(path), dataset())


def folder_of(folder: Path, *tables: pa.Table) -> Path:
    """A folder as Spark leaves it."""
    made = folder / "export"
    made.mkdir()
    for i, table in reversed(list(enumerate(tables))):
        pq.write_table(table, made / f"part-{i:05d}.snappy.parquet")
    (made / "_SUCCESS").touch()
    (made / ".part-00000.snappy.parquet.crc").write_bytes(b"crc")
    return made


def parts(*ages: list[int]) -> list[pa.Table]:
    tables = (rows(9).slice(0, len(a)) for a in ages)
    return [replaced(t, "age", pa.array(a, pa.int64())) for t, a in zip(tables, ages, strict=True)]


def test_a_folder_is_one_dataset_in_the_order_of_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *parts([1, 2], [3], [4, 5, 6]))
    for spec in (source_at(folder), parse_source({"kind": "parquet", "path": "export"}, tmp_path)):
        assert read(spec, dataset())["age"].to_pylist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("make", [parquet, csv, arrow_file, arrow_stream])
def test_a_list_of_files_is_one_dataset_in_the_order_of_the_list(
    make: Form, tmp_path: Path
) -> None:
    paths = []
    for i, table in enumerate(parts([1, 2], [3], [4, 5, 6])):
        make(tmp_path, table)
        written = next(tmp_path.glob("rows.*"))
        paths.append(written.rename(tmp_path / f"{i}{written.suffix}").name)
    kind = "arrow" if make in (arrow_file, arrow_stream) else make.__name__
    spec = parse_source({"kind": kind, "path": paths[::-1]}, tmp_path)
    assert read(spec, dataset())["age"].to_pylist() == [4, 5, 6, 3, 1, 2]


def test_a_refusal_names_the_file_and_its_row(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *parts([1, 2], [3, 121], [4]))
    with refused(ValueOutsideDomain) as seen:
        scan(source_at(folder), dataset())
    assert "part-00001" in seen.error.thing
    assert "row 2" in seen.error.found


def test_limits_hold_for_all_files_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *parts([1, 2], [], [3]))
    with refused(SourceTooLong):
        scan(source_at(folder), dataset(max_rows=2))
    assert scan(source_at(folder), dataset(max_rows=3)) == 3
    for path in folder.glob("*.parquet"):
        pq.write_table(rows().slice(0, 0), path)
    with refused(SourceEmpty):
        scan(source_at(folder), dataset())


def test_many_small_files_leave_in_few_batches(tmp_path: Path) -> None:
    count = 20_000
    one = replaced(rows(count), "age", pa.array([i % 100 for i in range(count)]))
    with source_at(folder_of(tmp_path, *[one] * 12)).open(dataset()) as source:
        source.scan()
        batches = list(source.batches())
    assert sum(b.num_rows for b in batches) == 12 * count
    assert all(SMALLEST <= b.nbytes <= LARGEST for b in batches[:-1])


@pytest.mark.parametrize("what", ["year=2024/rows.parquet", "notes.txt", "rows.csv", "inner/"])
def test_a_folder_with_something_else_in_it(what: str, tmp_path: Path) -> None:
    """Passing over it could leave a third of the rows behind; reading hive's folders would give
    columns that are in no file."""
    folder = folder_of(tmp_path, *parts([1, 2]))
    if what.endswith("/"):
        (folder / what).mkdir()
    else:
        (folder / what).parent.mkdir(exist_ok=True)
        (folder / what).touch()
    with refused(SourceFolderMixed):
        scan(source_at(folder), dataset())


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to", None])
def test_one_file_under_two_names(link: str | None, tmp_path: Path) -> None:
    """Its rows would be there twice. The twin is a copy: two files are two files."""
    folder = folder_of(tmp_path, *parts([1, 2]))
    first, *_ = sorted(folder.glob("[!._]*.parquet"))
    second = folder / "second.parquet"
    if link is None:
        second.write_bytes(first.read_bytes())
        assert scan(source_at(folder), dataset()) > 0
        return
    getattr(second, link)(first)
    with refused(SourceFileTwice):
        scan(source_at(folder), dataset())


def test_a_folder_without_files(tmp_path: Path) -> None:
    with refused(SourceUnreadable):
        scan(source_at(folder_of(tmp_path)), dataset())


def test_a_name_that_looks_like_a_partition_gives_no_column(tmp_path: Path) -> None:
    """Hive's convention is off: the folder above is called `y=true`, and `y` is in no file."""
    (tmp_path / "y=true").mkdir()
    folder = folder_of(tmp_path / "y=true", rows().drop_columns(["y"]))
    with refused(ColumnMissing):
        scan(source_at(folder), dataset())


@pytest.mark.parametrize("change", ["another", "fewer", "written"])
def test_a_folder_into_which_somebody_writes(change: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *parts([1, 2], [3]))
    with refused(SourceChanged), source_at(folder).open(dataset()) as source:
        source.scan()
        if change == "another":
            pq.write_table(rows(1), folder / "part-00002.parquet")
        elif change == "fewer":
            (folder / "part-00001.snappy.parquet").unlink()
        else:
            with (folder / "part-00001.snappy.parquet").open("ab") as file:
                file.write(b"x")
        list(source.batches())


def test_a_null_in_one_of_many_files(tmp_path: Path) -> None:
    bad = replaced(rows(1), "age", pa.nulls(1, pa.int64()))
    with refused(ValueNull):
        scan(source_at(folder_of(tmp_path, rows(2), bad)), dataset())


# The refusals of a query: their example is put into the query.

IN_SQLITE: list[tuple[str, str]] = [
    ("bool", "'true'"),
    ("int64", "1.0"),
    ("int32", "'1'"),
    ("float64", "1"),
    ("string", "1"),
    ("date32", "20260203"),
    ("timestamp[us, UTC]", "'2026-02-03 04:05:06'"),
]
IN_POSTGRESQL: list[tuple[str, str]] = [
    ("bool", "1"),
    ("int64", "1.0"),
    ("int32", "'1'::text"),
    ("float64", "1.5"),
    ("float32", "0.1::float8"),
    ("string", "gen_random_uuid()"),
    ("date32", "now()"),
    ("timestamp[us, UTC]", "timestamp '2026-02-03 04:05:06'"),
]


def asked_again(folder: Path, url: str, value: str, of: Any) -> int:
    """Refused; then with the expression of the refusal around the column."""
    with refused(ColumnTypeDiffers) as seen:
        scan(sql(folder, url, f'select {value} as "x"'), dataset(x=of))
    example = re.search(r"in the query: (.+)", seen.error.fix)
    assert example is not None, seen.error.fix
    query = f'select {example[1]} from (select {value} as "x") as inside'  # noqa: S608
    return scan(sql(folder, url, query), dataset(x=of))


@pytest.mark.parametrize(("of", "value"), IN_SQLITE)
def test_sqlite_and_the_example_of_its_refusal(of: str, value: str, tmp_path: Path) -> None:
    sqlite(tmp_path, rows())
    assert asked_again(tmp_path, "sqlite:///rows.db", value, of) == 1


@pytest.mark.parametrize(("of", "value"), IN_POSTGRESQL)
def test_postgresql_and_the_example_of_its_refusal(
    of: str,
    value: str,
    tmp_path: Path,
    running: Server,  # noqa: F811 - the fixture
) -> None:
    assert asked_again(tmp_path, running.url, value, of) == 1


@pytest.mark.parametrize(("kind", "form"), [("parquet", parquet), ("csv", csv)])
def test_all_files_that_match(tmp_path: Path, kind: str, form: Form) -> None:
    """In the order of their names; the rest of the folder is no concern."""
    for number in (2, 1):
        part = rows().slice(5 * (number - 1), 5)
        assert scan(form(tmp_path, part), dataset()) == 5
        (tmp_path / f"rows.{kind}").rename(tmp_path / f"2026-{number}.{kind}")
    (tmp_path / "notes.txt").write_text("anything")
    for spec in (
        parse_source({"kind": kind, "path": f"2026-*.{kind}"}, tmp_path),
        source_at(tmp_path / f"2026-?.{kind}"),
    ):
        assert read(spec, dataset()).to_pydict() == rows().to_pydict()


def test_no_file_matches(tmp_path: Path) -> None:
    with refused(SourceUnreadable):
        scan(source_at(tmp_path / "2026-*.parquet"), dataset())
    pq.write_table(rows(), tmp_path / "rows[1]*.parquet")
    assert scan(source_at(tmp_path / "rows[1]*.parquet"), dataset()) == 10  # a name, no pattern
    assert scan(source_at(tmp_path / "rows[1]?.parquet"), dataset()) == 10


def test_another_file_matches_in_the_end(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "2026-1.parquet")
    spec = source_at(tmp_path / "2026-*.parquet")
    with refused(SourceChanged), spec.open(dataset()) as source:
        source.scan()
        pq.write_table(rows(), tmp_path / "2026-2.parquet")
        list(source.batches())
