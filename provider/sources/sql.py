"""The answer to a query, read through a server-side cursor in one transaction.

The transaction only reads, and at the strongest of the levels at which a second reading sees the
rows of the first. The URL, which holds a password, comes from a file that its owner alone can
read and is in no message; neither is a text of the database, which may quote rows.

Values must come as the declared type; `CAST` in the query where they do not. SQLite alone has no
type for some: there a bool is 0 or 1, a date or an instant is a text as in `text`. Nothing is
rounded: a double is read as float32 only if it is one.

What a database cannot do just now (a lock, a conflict, no room, a restart) is undecided and may
be tried again; every other answer of it is final.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import URL, Connection, CursorResult, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from policy.rows import ColumnTypeDiffers
from provider.errors import SourceError, SourceUnavailable, SourceUnreadable
from provider.sources.base import Source, rows_per_read
from provider.sources.exact import narrowed
from provider.sources.text import parse_text
from verifier.files import read_secret

if TYPE_CHECKING:
    from policy.sections import Dataset

_PATIENCE = 20  # seconds for a connection, or for a lock of SQLite
_MOST_URL = 4096  # bytes
# At each of these, what was read once is read again.
_STEADY = ("SNAPSHOT", "REPEATABLE READ", "SERIALIZABLE")
# SQLSTATE classes and states that pass: connection, conflict, no resources, a lock that was not
# free, a timeout, and all that goes with a restart.
_PASSING = ("08", "40", "53", "55P03", "57014", "57P0")
_PASSING_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_POSTGRESQL_FLOAT4 = 700  # the type's number in every PostgreSQL
_PYTHON: dict[str, type] = {
    "bool": bool,
    "int32": int,
    "int64": int,
    "float": float,
    "double": float,
    "string": str,
    "date32[day]": date,
    "timestamp[us, tz=UTC]": datetime,
}


# What makes a value of each type; `{}` is the column, in double quotes.
_CASTS = {
    "bool": "CAST({} AS boolean)",
    "int32": "CAST({} AS integer)",
    "int64": "CAST({} AS bigint)",
    "float": "CAST({} AS real)",
    "double": "CAST({} AS double precision)",
    "string": "CAST({} AS text)",
    "date32[day]": "CAST({} AS date)",
    "timestamp[us, tz=UTC]": "{} AT TIME ZONE 'Europe/Zurich'",
}
_CASTS_OF_SQLITE = {
    "bool": "{} IN (1, 'true')",
    "int32": "CAST({} AS integer)",
    "int64": "CAST({} AS integer)",
    "float": "CAST({} AS real)",
    "double": "CAST({} AS real)",
    "string": "CAST({} AS text)",
    "date32[day]": "substr({0}, 1, 4) || '-' || substr({0}, 5, 2) || '-' || substr({0}, 7, 2)",
    "timestamp[us, tz=UTC]": "strftime('%Y-%m-%dT%H:%M:%SZ', {})",
}


class SourceQueryRefused(SourceError):
    """The database did not answer the query with rows."""

    code = "source-query-refused"
    default_fix = "run the query by hand, as the user of the URL, in a read-only transaction"


class SqlSource(Source):
    """One query in one open transaction."""

    validated = True
    threads = False  # a connection of SQLite is its thread's

    def __init__(self, name: str, connection: Connection, query: str, dataset: Dataset) -> None:
        super().__init__(name, dataset)
        self._connection, self._query = connection, query

    @classmethod
    @contextmanager
    def open(cls, url_file: Path, query: str, dataset: Dataset) -> Iterator[Self]:
        """Connect, and begin the transaction in which all is read.

        Raises:
            SourceUnreadable: The file with the URL, or the SQLite file, is missing.
            SourceUrlExposed: Others can read the file with the URL.
            SourceUrlUnfit: It has no URL, or the driver for it is not installed.
            SourceUnreachable: The database does not take the connection.
        """
        engine, name = _engine(url_file), str(url_file)
        try:
            with _connected(engine, name) as connection:
                yield cls(name, connection, query, dataset)
        finally:
            engine.dispose()

    def found_columns(self) -> list[tuple[str, pa.DataType | None]]:
        with _answered(self._name), self._execute(1) as result:
            return [(name, None) for name in result.keys()]  # noqa: SIM118 - not a dict

    def _declared(self) -> Iterator[pa.RecordBatch]:
        step, rows = rows_per_read(self._schema), 0
        with _answered(self._name):
            result = self._execute(step)
        with result:
            places = self._places(list(result.keys()))
            types = [column[1] for column in result.cursor.description]
            parts = result.partitions(step)
            while True:
                with _answered(self._name):
                    part = next(parts, None)
                if part is None:
                    return
                columns = list(zip(*part, strict=True))
                arrays = [
                    self._values(columns[place], name, rows, types[place])
                    for name, place in zip(self._schema.names, places, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)
                rows += len(part)

    def _execute(self, step: int) -> CursorResult[Any]:
        # yield_per: through a cursor at the server, where there are such.
        # no_parameters: what looks like a placeholder in the query is text of the query.
        options = {"yield_per": step, "no_parameters": True}
        result = self._connection.exec_driver_sql(self._query, execution_options=options)
        if not result.returns_rows:
            raise SourceQueryRefused(
                self._name, expected="a query that answers with rows", found="another statement"
            )
        return result

    def _values(self, values: Sequence[Any], name: str, rows: int, found: object) -> pa.Array:
        type_, dialect = self._schema.field(name).type, self._connection.dialect.name
        build = _of_sqlite if dialect == "sqlite" else _exactly
        if pa.types.is_float32(type_) and dialect == "postgresql" and found == _POSTGRESQL_FLOAT4:
            build = _of_shortest  # the driver reads the fewest digits that tell it from others
        return self._column(
            name,
            rows,
            len(values),
            lambda part: build(values[part], type_),
            lambda place: self._misfit(name, rows + place + 1),
            lambda part: pa.array([value is not None for value in values[part]]),
        )

    def _misfit(self, name: str, row: int) -> ColumnTypeDiffers:
        """A value is not of its column's type; the refusal has its row, never the value."""
        return ColumnTypeDiffers(
            f"{self._name}, column {name!r}",
            expected=self._dataset.columns[name].type,
            found=f"something else in row {row}",
            fix=self._remedy(name),
        )

    def _remedy(self, name: str) -> str:
        sqlite = self._connection.dialect.name == "sqlite"
        casts = _CASTS_OF_SQLITE if sqlite else _CASTS
        quoted = '"' + name.replace('"', '""') + '"'
        cast = casts[str(self._schema.field(name).type)].format(quoted)
        return f"convert it, for example in the query: {cast} AS {quoted}"

    def _require_unchanged(self) -> None:
        """All is read from one state of the database."""


def _exactly(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Values of the one Python type that stands for the declared one; None where one is not."""
    wanted = _PYTHON[str(type_)]
    # Exact: a bool is an int to Python, and a datetime a date.
    if any(type(value) is not wanted for value in values if value is not None):
        return None
    if wanted is datetime and any(v.tzinfo is None for v in values if v is not None):
        return None  # without a zone
    if pa.types.is_float32(type_):
        return narrowed(pa.array(values, pa.float64()))
    try:
        return pa.array(values, type_)
    except (ValueError, OverflowError):  # more than the type holds; Arrow's errors are ValueErrors
        return None


def _of_shortest(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    wide = _exactly(values, pa.float64())
    return None if wide is None else wide.cast(type_)


def _of_sqlite(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """SQLite has numbers and texts only: the rest is spelled in these."""
    if pa.types.is_boolean(type_):
        whole = _exactly(values, pa.int64())
        if whole is None or not set(pc.unique(whole).to_pylist()) <= {0, 1, None}:
            return None
        return pc.cast(whole, type_)
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        texts = _exactly(values, pa.string())
        return None if texts is None else parse_text(texts, type_)
    return _exactly(values, type_)


class SourceUrlUnfit(SourceError):
    """The file does not contain the URL of a database that can be opened here."""

    code = "source-url-unfit"
    default_fix = (
        "write one line like postgresql+psycopg://user:password@host/name or sqlite:///rows.db, "
        "and install the driver that it names"
    )


def _engine(url_file: Path) -> Engine:
    url, name = _read_url(url_file), str(url_file)
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _PATIENCE
    if url.get_backend_name() == "sqlite":
        arguments["timeout"] = _PATIENCE
    try:
        return create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args=arguments)
    except (ArgumentError, ImportError) as error:
        # The error's text may hold the URL.
        raise SourceUrlUnfit(
            name, expected="a database with an installed driver", found=type(error).__name__
        ) from None


class SourceUrlExposed(SourceError):
    """Others can read the file with the database's URL, and so its password."""

    code = "source-url-exposed"
    default_fix = "chmod 600 the file, and change the password"


def _read_url(url_file: Path) -> URL:
    name = str(url_file)
    content = read_secret(url_file, cap=_MOST_URL, exposed=SourceUrlExposed)
    try:
        url = make_url(content.decode("utf-8").strip())
    except (ArgumentError, ValueError):  # its text may hold the URL
        raise SourceUrlUnfit(name, expected="one URL", found="another text") from None
    return _sqlite(url, url_file) if url.get_backend_name() == "sqlite" else url


def _sqlite(url: URL, url_file: Path) -> URL:
    """The file of a SQLite database: an existing one, opened to be read."""
    path = url_file.parent / (url.database or ":memory:")
    if not path.is_file():  # SQLite would make an empty one
        raise SourceUnreadable(
            f"{url_file}: {path}", expected="a SQLite file", found="no such file"
        )
    return url.set(database=path.absolute().as_uri(), query={"mode": "ro", "uri": "true"})


@contextmanager
def _connected(engine: Engine, name: str) -> Iterator[Connection]:
    """A connection inside its transaction, which is always rolled back."""
    try:
        connection = engine.connect()
    except (OperationalError, OSError) as error:  # their texts may hold parts of the URL
        raise _unreachable(name, error) from None
    except (SQLAlchemyError, TypeError, ValueError) as error:
        # Drivers refuse odd options with any of these; asking again would not help.
        raise SourceUrlUnfit(
            name, expected="options that its driver knows", found=_kind(error)
        ) from None
    with connection:
        with _answered(name):
            _begin(connection)
        yield connection


def _begin(connection: Connection) -> None:
    dialect, driver = connection.dialect, connection.connection.dbapi_connection
    assert driver is not None  # the connection has just been opened
    options: dict[str, Any] = {"postgresql_readonly": True}  # other databases pass over it
    with contextlib.suppress(NotImplementedError):  # a dialect may know no levels
        level = steadiest(dialect.get_isolation_level_values(driver))
        options |= {"isolation_level": level} if level else {}
    connection.execution_options(**options)
    if dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")  # its driver does so before a write only


def steadiest(levels: Sequence[str]) -> str | None:
    """Of a database's isolation levels, one at which what was read once is read again."""
    return next((level for level in _STEADY if level in levels), None)


class SourceBusy(SourceUnavailable):
    """The database cannot answer just now: a lock, a conflict, a timeout, no room, a restart."""

    code = "source-busy"
    default_fix = "try again; an agent does so by itself"


@contextmanager
def _answered(name: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unreachable(name, error) from None
        if _passes(error):
            raise SourceBusy(name, expected="rows", found=_kind(error)) from None
        # The database's own text may quote a value of a row: neither message nor cause has it.
        raise SourceQueryRefused(name, expected="rows", found=_kind(error)) from None
    except (SQLAlchemyError, ValueError, OverflowError) as error:
        raise SourceQueryRefused(name, expected="rows", found=_kind(error)) from None


class SourceUnreachable(SourceUnavailable):
    """The database refused the connection, or closed it."""

    code = "source-unreachable"
    default_fix = "start the database, give this user access, then try again"


def _unreachable(name: str, error: Exception) -> SourceUnreachable:
    return SourceUnreachable(name, expected="a database that answers", found=_kind(error))


def _passes(error: DBAPIError) -> bool:
    """Could the same query succeed in a minute?"""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _PASSING_SQLITE  # the higher bits give the kind of lock
    return (_state(error) or "").startswith(_PASSING)


def _state(error: Exception) -> str | None:
    """SQLSTATE: psycopg's name for it, and that of psycopg2."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def _kind(error: Exception) -> str:
    """SQLSTATE where there is one, or the class: never a text of the database."""
    state = _state(error)
    cause = getattr(error, "orig", None) or error
    return f"SQLSTATE {state}" if state else type(cause).__name__
