"""One table of rows in every form that a provider may keep it in."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from policy.sections import Dataset
from provider.sources import SourceSpec, parse_source


def parquet(folder: Path, table: pa.Table) -> SourceSpec:
    pq.write_table(table, folder / "rows.parquet")
    return parse_source({"kind": "parquet", "path": "rows.parquet"}, folder)


def csv(folder: Path, table: pa.Table) -> SourceSpec:
    pc.write_csv(table, folder / "rows.csv")
    # Some of these tables have a text of two lines.
    return parse_source({"kind": "csv", "path": "rows.csv", "line_breaks": 1}, folder)


def csv_text(folder: Path, text: str | bytes, **table: Any) -> SourceSpec:
    """A CSV file of exactly this text."""
    (folder / "rows.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return parse_source({"kind": "csv", "path": "rows.csv"} | table, folder)


def arrow_file(folder: Path, table: pa.Table, *, rows: int = 65_536) -> SourceSpec:
    with ipc.new_file(folder / "rows.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=rows)
    return parse_source({"kind": "arrow", "path": "rows.arrow"}, folder)


def arrow_stream(folder: Path, table: pa.Table, *, rows: int = 65_536) -> SourceSpec:
    with ipc.new_stream(folder / "rows.arrows", table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)
    return parse_source({"kind": "arrow", "path": "rows.arrows"}, folder)


def sqlite(folder: Path, table: pa.Table) -> SourceSpec:
    """A database of one table; the query names the columns as they stand in `table`."""
    names = table.column_names
    distinct = list(dict.fromkeys(names))
    with closing(sqlite3.connect(folder / "rows.db")) as database, database:
        database.execute("drop table if exists measured")
        database.execute(f"create table measured ({', '.join(distinct)})")
        database.executemany(
            f"insert into measured values ({', '.join('?' * len(distinct))})",  # noqa: S608
            zip(*(table.column(names.index(n)).to_pylist() for n in distinct), strict=True),
        )
    query = f"select {', '.join(names)} from measured"  # noqa: S608
    return sql(folder, "sqlite:///rows.db", query)


def sql(folder: Path, url: str, query: str, *, mode: int = 0o600) -> SourceSpec:
    """A query to the database at `url`, which stands in a file of its own."""
    url_file = folder / "url"
    url_file.write_text(url + "\n")
    url_file.chmod(mode)
    return parse_source({"kind": "sql", "url_file": "url", "query": query}, folder)


FORMATS: dict[str, Callable[[Path, pa.Table], SourceSpec]] = {
    f.__name__: f for f in (parquet, csv, arrow_file, arrow_stream, sqlite)
}


def read(spec: SourceSpec, of: Dataset) -> pa.Table:
    """Both passes."""
    with spec.open(of) as source:
        count = source.scan()
        table = pa.Table.from_batches(list(source.batches()), source.schema)
    assert table.num_rows == count
    return table


def scan(spec: SourceSpec, of: Dataset) -> int:
    with spec.open(of) as source:
        return source.scan()
