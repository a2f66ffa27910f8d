"""The database of the queue: how it is named, how it is opened, what its errors become.

engine = open_engine(database_url("postgresql+psycopg://scheduler@host/ratls"))
with translated(engine), engine.begin() as connection:
    ...
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event, exc

from verifier.errors import ConfigError
from verifier.text import cause

BUSY_SECONDS = 5


class DatabaseUrlUnusable(ConfigError):
    """The database cannot be named like this."""

    code = "database-url-unusable"
    default_fix = "write a SQLAlchemy URL, for example postgresql+psycopg://scheduler@host/ratls"


class DatabasePasswordShown(ConfigError):
    """A password stands in the URL, where every user of the machine can read it."""

    code = "database-password-shown"
    default_fix = "put it into a file of libpq: append ?passfile=FILE to the URL, or use ~/.pgpass"


def database_url(text: str) -> sql.URL:
    """A database as the command line names it.

    Raises:
        DatabaseUrlUnusable: Not a SQLAlchemy URL.
        DatabasePasswordShown: With a password: arguments are seen by every user of the machine.
    """
    try:
        url = sql.make_url(text)
    except (exc.ArgumentError, ValueError) as error:
        # The text is not shown: there may be a password in it.
        raise DatabaseUrlUnusable("--database", expected="a URL", found="another text") from error
    if url.password is not None or "password" in url.query:
        raise DatabasePasswordShown("--database", expected="no password", found="one")
    return url


def queue_file(path: Path) -> sql.URL:
    """The queue in a file of this machine."""
    return sql.URL.create("sqlite", database=str(path))


def open_engine(url: sql.URL) -> sql.Engine:
    """Connections to the database; a SQLite file is made for its owner alone.

    Raises:
        DatabaseUrlUnusable: No such kind of database, or one that forgets.
        StoreUnavailable: The file cannot be made.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database in (None, "", ":memory:"):
        raise DatabaseUrlUnusable(
            printable_url(url), expected="a database that lasts", found="memory"
        )
    try:
        if sqlite and "uri" not in url.query:
            _make_private(Path(str(url.database)))
        engine = sql.create_engine(
            url,
            hide_parameters=True,  # what is stored does not belong into messages
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=not sqlite,  # a database server may have been restarted
        )
    except (exc.ArgumentError, ImportError) as error:
        raise DatabaseUrlUnusable(
            printable_url(url), expected="a database with an installed driver", found="another"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


class StoreUnavailable(ConfigError):
    """The database does not answer, or does not store what it should."""

    code = "store-unavailable"
    default_fix = "check free space, that the database runs, and its address; then try again"
    says = "{thing}: the queue's database does not work: {found}"


def _make_private(path: Path) -> None:
    """Make the file for its owner alone. SQLite would use the umask, and follow a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        raise StoreUnavailable(
            str(path), expected="an own file, and no link", found=cause(error)
        ) from error


def _begin_sqlite(connection: sql.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # else the driver begins transactions itself
    for pragma in (
        f"busy_timeout = {BUSY_SECONDS * 1000}",
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit is on the disk when it returns
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def translated(engine: sql.Engine) -> Iterator[None]:
    """What the database's driver raises becomes StoreUnavailable."""
    try:
        yield
    except (exc.IntegrityError, exc.ProgrammingError, exc.DataError):
        raise  # a bug: the statements are wrong, not the database
    except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error) as error:  # the last: on connecting
        origin = getattr(error, "orig", None) or error
        raise StoreUnavailable(
            printable_url(engine.url), expected="a database that works", found=type(origin).__name__
        ) from error


def printable_url(url: sql.URL) -> str:
    """The database's name without its password."""
    return url.render_as_string(hide_password=True)
