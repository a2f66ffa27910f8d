"""From every kind of source to the enclave, and what the table that names it must say."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.rows import ValueOutsideDomain
from provider.errors import SourceFormatUnknown, SourceTableMalformed, SourceUnreadable
from provider.release import release
from provider.sources import SourceSpec, parse_source, source_at
from provider.sources.dialect import Dialect
from provider.sources.spec import ArrowFile, CsvFile, ParquetFile, SeveralFiles, SqlQuery
from tests.provider.desk import CANARY, Desk
from tests.provider.formats import FORMATS
from tests.provider.test_cli import Terminal, code
from tests.support.enclave import EnclaveWorld
from tests.support.refusal import count_refusal, refused
from verifier.files import FileUnreadable

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

BASE = Path("/srv/study")
QUERY = "select *\nfrom measured"


@pytest.mark.parametrize("form", FORMATS)
def test_rows_reach_the_enclave(form: str, alice: Desk, world: EnclaveWorld) -> None:
    table = pq.read_table(alice.path)
    done = release(alice.request(world.task()), alice.dataset, FORMATS[form](alice.folder, table))
    assert (done.commit.rows, done.resumed) == (table.num_rows, False)


@pytest.mark.parametrize("form", FORMATS)
def test_one_bad_row_and_nobody_is_connected_to(
    form: str, alice: Desk, world: EnclaveWorld
) -> None:
    table = pq.read_table(alice.path)
    ages = pa.array([*table["age"].to_pylist()[:-1], 121])
    spec = FORMATS[form](alice.folder, table.set_column(1, "age", ages))
    with alice.refuses(ValueOutsideDomain):
        release(
            alice.request(world.task(), address=None),  # touched by nobody before the scan
            alice.dataset,
            spec,
        )


@pytest.fixture
def terminal(world: EnclaveWorld, alice: Desk) -> Terminal:
    return Terminal(alice, world.task())


@pytest.mark.parametrize("form", FORMATS)
def test_push_from_the_command_line(form: str, terminal: Terminal) -> None:
    folder = terminal.desk.folder
    FORMATS[form](folder, pq.read_table(terminal.desk.path))
    source = next(p for p in folder.glob("rows.*") if form == "parquet" or p.suffix != ".parquet")
    if form == "sqlite":
        source = folder / "source.toml"
        source.write_text(
            'kind = "sql"\nurl_file = "url"\nquery = """\nselect * from measured\n"""\n'
        )
    done = terminal.push("--json", source=source)
    assert done.exit_code == 0, done.output
    assert CANARY not in done.output


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        ("rows.xlsx", b"PK", "source-format-unknown"),
        ("rows", b"PAR1", "source-format-unknown"),
        ("rows", None, "source-unreadable"),
        ("rows.toml", b"kind =", "source-table-malformed"),
        ("rows.toml", b"\xff", "source-table-malformed"),
        ("rows.toml", b'kind = "csv"\npath = "a.csv"\nuser = "x"', "source-table-malformed"),
        ("rows.toml", b"#" * (1 << 17), "file-unreadable"),
        ("rows.toml", None, "file-unreadable"),
        ("rows.csv", None, "source-unreadable"),
    ],
)
def test_push_from_what_is_no_source(
    name: str, content: bytes | None, refusal: str, terminal: Terminal
) -> None:
    path = terminal.desk.folder / name
    if content is not None:
        path.write_bytes(content)
    done = terminal.push("--json", source=path)
    count_refusal()
    assert (done.exit_code, code(done)) == (3, refusal)


@pytest.mark.parametrize(
    ("table", "spec"),
    [
        ({"kind": "parquet", "path": "rows"}, ParquetFile(BASE / "rows")),
        ({"kind": "parquet", "path": "/data/rows"}, ParquetFile(Path("/data/rows"))),
        ({"kind": "arrow", "path": "a/b.ipc"}, ArrowFile(BASE / "a" / "b.ipc")),
        (
            {"kind": "parquet", "path": "rows", "rename": {"Alter (Jahre)": "age"}},
            ParquetFile(BASE / "rows", {"Alter (Jahre)": "age"}),
        ),
        (
            {"kind": "arrow", "path": ["b.arrow", "a.arrow"]},
            SeveralFiles(
                (ArrowFile(BASE / "b.arrow"), ArrowFile(BASE / "a.arrow")),
                f"2 files from {BASE}/b.arrow",
            ),
        ),
        ({"kind": "csv", "path": "rows"}, CsvFile(BASE / "rows")),
        ({"kind": "csv", "path": "rows", "delimiter": ";"}, CsvFile(BASE / "rows", Dialect(";"))),
        ({"kind": "sql", "url_file": "url", "query": QUERY}, SqlQuery(BASE / "url", QUERY)),
    ],
)
def test_a_table_that_reads(table: dict[str, Any], spec: SourceSpec) -> None:
    """Relative to the file that it stands in, wherever the agent was started."""
    assert parse_source(table, BASE) == spec


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"path": "rows.csv"},
        {"kind": "excel", "path": "rows"},
        {"kind": "CSV", "path": "rows"},
        {"kind": ["csv"], "path": "rows"},
        {"kind": "csv"},
        {"kind": "csv", "path": ""},
        {"kind": "csv", "path": 7},
        {"kind": "csv", "path": "rows\0.csv"},
        {"kind": "csv", "path": "rows", "delimiter": ""},
        {"kind": "csv", "path": "rows", "delimiter": "p"},
        {"kind": "csv", "path": "rows", "delimiter": [","]},
        {"kind": "csv", "path": "rows", "types": {}},
        {"kind": "csv", "path": []},
        {"kind": "csv", "path": ["a.csv", 7]},
        {"kind": "csv", "path": ["a.csv", "./a.csv"]},
        {"kind": "csv", "path": ["a.csv", "b\0.csv"]},
        {"kind": "csv", "path": ["a.csv", ""]},
        {"kind": "parquet", "path": ["export", "export/a.parquet"]},
        {"kind": "arrow", "path": ["a.arrow", ["b.arrow"]]},
        {"kind": "parquet", "path": [f"{i}.parquet" for i in range(501)]},
        {"kind": "parquet", "path": "rows", "rename": ["a", "b"]},
        {"kind": "parquet", "path": "rows", "rename": {"a": 7}},
        {"kind": "sql", "url_file": "url", "query": QUERY, "rename": {"a": "b"}},
        {"kind": "parquet", "path": "rows", "delimiter": ","},
        {"kind": "parquet", "path": "rows", "query": QUERY},
        {"kind": "sql", "url_file": "url"},
        {"kind": "sql", "query": QUERY},
        {"kind": "sql", "url_file": "url", "query": " \n"},
        {"kind": "sql", "url": "postgresql://alice:secret@host/x", "query": QUERY},
    ],
    ids=repr,
)
def test_a_table_that_does_not(table: dict[str, Any]) -> None:
    """P10. A field that nobody reads would be a promise that nobody keeps."""
    with refused(SourceTableMalformed) as seen:
        parse_source(table, BASE)
    assert "secret" not in str(seen.error)


@given(
    st.dictionaries(
        st.sampled_from(["kind", "path", "delimiter", "url_file", "query", "x"]),
        st.sampled_from(["csv", "sql", "arrow", ",", ""]) | st.integers() | st.none(),
    )
)
def test_any_table_is_a_source_or_a_refusal(table: dict[str, Any]) -> None:
    with contextlib.suppress(SourceTableMalformed):
        assert isinstance(parse_source(table, BASE), SourceSpec)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("a.parquet", ParquetFile(Path("a.parquet"))),
        ("a.CSV", CsvFile(Path("a.CSV"))),
        ("a.csv.GZ", CsvFile(Path("a.csv.GZ"))),
        ("a.tsv", CsvFile(Path("a.tsv"), Dialect("\t"))),
        ("a.tsv.gz", CsvFile(Path("a.tsv.gz"), Dialect("\t"))),
        ("b/a.arrow", ArrowFile(Path("b/a.arrow"))),
        ("a.arrows", ArrowFile(Path("a.arrows"))),
        ("a.ipc", ArrowFile(Path("a.ipc"))),
    ],
)
def test_a_name_says_its_kind(name: str, spec: SourceSpec) -> None:
    assert source_at(Path(name)) == spec


@pytest.mark.parametrize("name", ["a", "a.txt", "a.parquet.gz", ".csv", ".csv.gz"])
def test_a_name_that_says_nothing(name: str, tmp_path: Path) -> None:
    """Nothing is wrong with the file: the remedy is another format, not another export."""
    with refused(SourceUnreadable):
        source_at(tmp_path / name)
    (tmp_path / name).touch()
    with refused(SourceFormatUnknown):
        source_at(tmp_path / name)


def test_a_table_in_a_file_is_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('kind = "csv"\npath = "rows.csv"\ndelimiter = "\\t"\n')
    assert source_at(tmp_path / "s.toml") == CsvFile(tmp_path / "rows.csv", Dialect("\t"))
    with refused(FileUnreadable):
        source_at(tmp_path / "another.toml")
