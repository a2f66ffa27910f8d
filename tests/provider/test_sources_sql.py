"""A query runs in one transaction that only reads; the URL and the rows are in no message."""

from __future__ import annotations

import gc
import logging
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from sqlalchemy import make_url

from policy.rows import ColumnMissing, ColumnTypeDiffers
from provider.agent import may_try_again
from provider.errors import SourceError, SourceTableMalformed, SourceUnavailable, SourceUnreadable
from provider.sources import SourceSpec
from provider.sources.objects import ObjectStoreUnavailable
from provider.sources.sql import (
    SourceBusy,
    SourceQueryRefused,
    SourceUnreachable,
    SourceUrlExposed,
    SourceUrlUnfit,
    steadiest,
)
from tests.provider.formats import read, scan, sql, sqlite
from tests.provider.test_sources import dataset, rows
from tests.support.postgresql import cluster
from tests.support.refusal import refused
from tests.support.waiting import eventually
from verifier.errors import RatlsError
from verifier.files import FileUnreadable

pytestmark = pytest.mark.slow

ALL = "select patient, age, bmi, y from measured"
SECRET = "SECRET-5e1f"
CANARY = "CANARY-7f3a"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder with rows in `rows.db`."""
    sqlite(tmp_path, rows())
    return tmp_path


def ask(folder: Path, query: str) -> SourceSpec:
    return sql(folder, "sqlite:///rows.db", query)


def test_a_query_is_sent_as_it_was_written(local: Path) -> None:
    """`:name` and `%` would be placeholders to the libraries in between."""
    query = ALL + " where patient <> ':age %s %' -- :y"
    assert scan(ask(local, query), dataset()) == 10


@pytest.mark.parametrize(
    ("query", "leaf"),
    [
        ("selec", SourceQueryRefused),
        (" \n", SourceTableMalformed),
        ("select * from another", SourceQueryRefused),
        ("delete from measured", SourceQueryRefused),
        ("delete from measured returning *", SourceQueryRefused),
        ("begin", SourceQueryRefused),
        ("savepoint answers_nothing", SourceQueryRefused),
        ("select '\ud800'", SourceQueryRefused),
        (f"{ALL}; select 1", SourceQueryRefused),
        ("pragma query_only", ColumnMissing),
        (ALL.replace("bmi", "bmi as weight"), ColumnMissing),
        (ALL.replace("y from", "y, y from"), ColumnMissing),
        (ALL.replace("age", "age || '' as age"), ColumnTypeDiffers),
        (ALL.replace("bmi", "age as bmi"), ColumnTypeDiffers),
        (ALL.replace("y from", "y + 1 as y from"), ColumnTypeDiffers),
    ],
)
def test_a_query_that_does_not_give_the_declared_rows(
    local: Path, query: str, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        scan(ask(local, query), dataset())
    assert scan(ask(local, ALL), dataset()) == 10  # and nothing was deleted


@pytest.mark.parametrize(
    ("of", "value"),
    [
        ("bool", "2"),
        ("bool", "'true'"),
        ("int32", "2147483648"),
        ("int64", "1.0"),
        ("int64", "'1'"),
        ("float64", "1"),
        ("float32", "1e39"),
        ("float32", "0.1"),  #  a double that no float32 is
        ("float32", "16777217.0"),
        ("string", "x'00'"),
        ("string", "1"),
        ("date32", "'2026-02-30'"),
        ("date32", "20260203"),
        ("timestamp[us, UTC]", "'2026-02-03 04:05:06'"),
    ],
)
def test_a_value_of_another_type(local: Path, of: str, value: str) -> None:
    """SQLite keeps anything in any column; nothing is guessed or rounded here either."""
    with refused(ColumnTypeDiffers):
        scan(ask(local, f"select {value} as x"), dataset(x=of))


def test_a_double_that_is_a_float32(local: Path) -> None:
    """The twin of those above: nothing is lost."""
    values = [0.5, -16777216.0, 0.10000000149011612, None]
    query = " union all ".join(f"select {'null' if v is None else repr(v)} as x" for v in values)
    got = read(ask(local, query), dataset(x="float32?"))
    assert got["x"].to_pylist() == values


def test_sqlite_is_being_written(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.sources.sql._PATIENCE", 0)
    with closing(sqlite3.connect(local / "rows.db")) as writer:
        writer.execute("begin exclusive")
        with refused(SourceBusy) as seen:
            scan(ask(local, ALL), dataset())
        assert may_try_again(seen.error)
    assert scan(ask(local, ALL), dataset()) == 10


def test_every_source_that_is_away_is_asked_again_and_no_other() -> None:
    """An agent decides by the branch alone, so a leaf in the wrong one would be tried for ever."""
    away = set(SourceUnavailable.__subclasses__())
    assert away == {SourceBusy, SourceUnreachable, ObjectStoreUnavailable}
    for leaf in (*away, *SourceError.__subclasses__()):
        refusal = leaf("source", expected="rows", found="none")
        assert may_try_again(refusal) == (leaf in away)


def test_rows_written_between_check_and_release_are_not_seen(local: Path) -> None:
    """Both passes read one state: what was scanned is what leaves."""
    with closing(sqlite3.connect(local / "rows.db")) as writer:
        writer.execute("pragma journal_mode = wal")
        with ask(local, ALL).open(dataset()) as source:
            assert source.scan() == 10
            with writer:
                writer.execute("delete from measured where age < 5")
            assert sum(b.num_rows for b in source.batches()) == 10
        assert scan(ask(local, ALL), dataset()) == 5


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_others_can_read_the_password(local: Path, mode: int) -> None:
    with refused(SourceUrlExposed):
        scan(sql(local, "sqlite:///rows.db", ALL, mode=mode), dataset())


@pytest.mark.parametrize(
    ("url", "leaf"),
    [
        ("", SourceUrlUnfit),
        (SECRET, SourceUrlUnfit),
        (f"nosuch://alice:{SECRET}@127.0.0.1/x", SourceUrlUnfit),
        (f"postgresql+nosuch://alice:{SECRET}@127.0.0.1/x", SourceUrlUnfit),
        (f"postgresql+psycopg://alice:{SECRET}@127.0.0.1:port/x", SourceUrlUnfit),
        (f"postgresql+psycopg://alice:{SECRET}@127.0.0.1:1/x?{SECRET}=1", SourceUrlUnfit),
        (f"postgresql+psycopg://alice:{SECRET}@127.0.0.1:1/x", SourceUnreachable),
        ("sqlite:///no-such.db", SourceUnreadable),
        ("sqlite://", SourceUnreadable),
        ("sqlite:///url", SourceQueryRefused),
    ],
)
def test_a_url_that_leads_nowhere(local: Path, url: str, leaf: type[RatlsError]) -> None:
    """The password is in no message and no traceback, whoever refused."""
    with refused(leaf) as seen:
        scan(sql(local, url, ALL), dataset())
    assert SECRET not in "".join(traceback.format_exception(seen.error))
    assert not (local / "no-such.db").exists()


def test_no_file_with_a_url(local: Path) -> None:
    spec = ask(local, ALL)
    (local / "url").unlink()
    with refused(FileUnreadable):
        scan(spec, dataset())


@pytest.mark.parametrize(
    ("levels", "chosen"),
    [
        (["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"], "REPEATABLE READ"),
        (["REPEATABLE READ", "SNAPSHOT"], "SNAPSHOT"),
        (["READ COMMITTED", "SERIALIZABLE"], "SERIALIZABLE"),
        (["READ COMMITTED", "AUTOCOMMIT"], None),
    ],
)
def test_the_level_at_which_rows_are_read_twice(levels: list[str], chosen: str | None) -> None:
    assert steadiest(levels) == chosen


class Server:
    """A PostgreSQL server with rows in `measured`, and who else talks to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self.admin = psycopg.connect(dsn, autocommit=True)

    def fill(self) -> None:
        self.run("drop table if exists measured")
        self.run(
            "create table measured as select 'p' || i as patient, i::bigint as age,"
            " i / 2.0::float8 as bmi, i % 2 = 0 as y from generate_series(1, 100) as i"
        )

    def run(self, query: Any) -> list[Any]:
        cursor = self.admin.execute(query)
        return cursor.fetchall() if cursor.description else []

    def others(self) -> list[str]:
        """What other sessions said last."""
        found = self.run(
            "select query from pg_stat_activity where pid <> pg_backend_pid() "
            "and backend_type = 'client backend'"
        )
        return [query for (query,) in found]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with cluster() as url:
        server = Server(url)
        yield server
        server.admin.close()


@pytest.fixture
def server(running: Server) -> Server:
    running.fill()
    return running


def test_every_type_of_postgresql(server: Server, tmp_path: Path) -> None:
    query = (
        "select true as a, 7 as b, 7::bigint as c, 0.1::real as d, 0.1::float8 as e,"
        " 'ü'::varchar as f, date '2026-02-03' as g, timestamptz '2026-02-03 01:00+02' as h"
    )
    types = [
        *("bool", "int32", "int64", "float32", "float64", "string", "date32"),
        "timestamp[us, UTC]",
    ]
    of = dataset(**dict(zip("abcdefgh", types, strict=True)))  # type: ignore[arg-type]
    (row,) = read(sql(tmp_path, server.url, query), of).to_pylist()
    moment = row.pop("h")
    assert [str(value) for value in row.values()] == [
        *("True", "7", "7", "0.10000000149011612", "0.1", "ü", "2026-02-03")
    ]
    assert moment.isoformat() == "2026-02-02T23:00:00+00:00"


@pytest.mark.parametrize(
    ("of", "value"),
    [
        ("float64", "1.5"),  # numeric
        ("int64", "'1'"),
        ("int32", "3000000000"),
        ("float32", "1e300::float8"),
        ("string", "'x'::bytea"),
        ("string", "gen_random_uuid()"),
        ("date32", "now()"),
        ("timestamp[us, UTC]", "timestamp '2026-02-03'"),
        ("timestamp[us, UTC]", "date '2026-02-03'"),
    ],
)
def test_postgresql_gives_another_type(server: Server, tmp_path: Path, of: str, value: str) -> None:
    with refused(ColumnTypeDiffers):
        scan(sql(tmp_path, server.url, f"select {value} as x"), dataset(x=of))


@pytest.mark.parametrize(
    "query",
    [
        "delete from measured returning *",
        "with gone as (delete from measured returning *) select * from gone",
        "select forget()",
        "select *, 1 / (age - 50) from measured",
        f"select '{CANARY}'::int as age",
        "select date 'infinity' as age",
        "select * from measured; drop table measured",
    ],
)
def test_postgresql_refuses_the_query(server: Server, tmp_path: Path, query: str) -> None:
    """A function may write unseen; and what the server says of a row stays out of every text."""
    server.run(
        "create or replace function forget() returns text language sql as "
        "'delete from measured returning patient'"
    )
    with refused(SourceQueryRefused) as seen:
        scan(sql(tmp_path, server.url, query), dataset())
    assert CANARY not in "".join(traceback.format_exception(seen.error))
    assert scan(sql(tmp_path, server.url, ALL), dataset()) == 100


def test_postgresql_gets_the_query_as_it_was_written(server: Server, tmp_path: Path) -> None:
    query = ALL + " where patient not like '%s' and age % 2 = 0 and patient <> ':y' -- %(x)s"
    assert scan(sql(tmp_path, server.url, query), dataset()) == 50


def test_postgresql_shows_both_passes_one_state(server: Server, tmp_path: Path) -> None:
    with sql(tmp_path, server.url, ALL).open(dataset()) as source:
        assert source.scan() == 100
        server.run("delete from measured where age > 50")
        assert sum(b.num_rows for b in source.batches()) == 100
    assert scan(sql(tmp_path, server.url, ALL), dataset()) == 50
    # And the session ends; the server takes a moment to notice that its client has left.
    eventually(lambda: server.others() == [])


def test_postgresql_sends_rows_as_they_are_wanted(server: Server, tmp_path: Path) -> None:
    """Without a cursor at the server, the driver would hold the whole answer."""
    query = "select i::bigint as x from generate_series(1, 200000) as i"
    with sql(tmp_path, server.url, query).open(dataset(x="int64")) as source:
        assert source.scan() == 200_000
        leaving = source.batches()
        next(leaving)
        assert "FETCH FORWARD" in {query[:13] for query in server.others()}
        leaving.close()  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*ServerCursor:ResourceWarning")  # nobody is there to close it
def test_postgresql_goes_away(server: Server, tmp_path: Path) -> None:
    with refused(SourceUnreachable), sql(tmp_path, server.url, ALL).open(dataset()) as source:
        source.scan()
        server.run(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        list(source.batches())
    gc.collect()


def test_a_double_is_rounded_to_no_float32(server: Server, tmp_path: Path) -> None:
    """PostgreSQL tells real from double precision; its driver reads both as a Python float."""
    for value in ("0.1::float8", "16777217::float8", "1e300::float8"):
        with refused(ColumnTypeDiffers):
            scan(sql(tmp_path, server.url, f"select {value} as x"), dataset(x="float32"))
    query = "select unnest(array[0.1, 16777216, 3.4e38, 'nan', '-infinity'])::real as x"
    got = read(sql(tmp_path, server.url, query), dataset(x="float32?"))["x"]
    singles = pa.array([0.1, 16777216.0, 3.4e38, float("nan"), float("-inf")], pa.float32())
    assert str(got.to_pylist()) == str(singles.to_pylist())


PASSING = ["08006", "40001", "40P01", "53200", "53300", "55P03", "57014", "57P01", "57P03"]
FINAL = ["22012", "23505", "28000", "42501", "42P01", "55000", "57000", "58030", "P0001", "XX000"]


@pytest.mark.parametrize("state", [*PASSING, *FINAL])
def test_what_passes_is_undecided_and_all_else_is_final(
    server: Server, tmp_path: Path, state: str
) -> None:
    server.run(
        "create or replace function fail(state text) returns text language plpgsql as "
        "$$ begin raise exception 'row %', state using errcode = state; end $$"
    )
    leaf = SourceBusy if state in PASSING else SourceQueryRefused
    with refused(leaf) as seen:
        scan(sql(tmp_path, server.url, f"select fail('{state}') as x"), dataset(x="string"))
    assert state in seen.error.found
    assert may_try_again(seen.error) == (state in PASSING)
    assert scan(sql(tmp_path, server.url, ALL), dataset()) == 100


def test_a_nightly_job_holds_the_table(server: Server, tmp_path: Path) -> None:
    """Its lock ends one day; so does a query that the server found too slow."""
    limited = f"{server.url}&options=-c%20lock_timeout%3D50"
    with server.admin.transaction():
        server.run("lock table measured in access exclusive mode")
        with refused(SourceBusy):
            scan(sql(tmp_path, limited, ALL), dataset())
    assert scan(sql(tmp_path, limited, ALL), dataset()) == 100
    hasty = f"{server.url}&options=-c%20statement_timeout%3D50"
    with refused(SourceBusy):
        scan(sql(tmp_path, hasty, "select 'p' as x, pg_sleep(100)"), dataset(x="string"))


def test_a_talkative_log_has_no_rows(local: Path, caplog: pytest.LogCaptureFixture) -> None:
    """L01. At its most talkative, the database library logs every row that it reads."""
    caplog.set_level(logging.DEBUG)
    with closing(sqlite3.connect(local / "rows.db")) as database, database:
        database.execute("update measured set patient = ?", [CANARY])
    assert scan(ask(local, ALL), dataset()) == 10
    assert CANARY not in caplog.text
