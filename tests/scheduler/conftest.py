"""Databases to keep a queue in, and the parties that use it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy

from scheduler.database import database_url, queue_file
from scheduler.store import Store
from tests.support.parties import Consortium, TaskWorld
from tests.support.postgresql import cluster
from tests.support.scheduler import NOW

_numbers = count()


@pytest.fixture(scope="session")
def server() -> Iterator[sqlalchemy.Engine]:
    """A PostgreSQL server of our own."""
    with cluster() as url:
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> sqlalchemy.URL:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return queue_file(tmp_path / "queue.sqlite")
    engine: sqlalchemy.Engine = request.getfixturevalue("server")
    name = f"queue{next(_numbers)}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return database_url(engine.url.render_as_string()).set(database=name)


@pytest.fixture
def store(database: sqlalchemy.URL) -> Iterator[Store]:
    opened = Store.open(database)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def world() -> Consortium:
    return Consortium.create(NOW)


@pytest.fixture(scope="session")
def tasks(world: Consortium) -> TaskWorld:
    return TaskWorld(world)
