"""The durable queue: what was answered survives a crash, and no task is stored twice.

    store = Store.open(database_url("postgresql+psycopg://scheduler@host/ratls"))
    store.add(task, at, admit)         # committed when it returns
    store.tasks(policies, after, at)   # in the order of their last change
    store.report(digest, dataset, state, code, at, cap=16)

Each change takes the next number from one row, and thereby a lock that holds until the commit.
So numbers are committed in order, also by two schedulers on one database: a reader that has seen
number 7 has missed no 6, and may continue from 7.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy import exc

from policy.errors import ResourceLimitError, TicketScopeError
from scheduler.database import open_engine, printable_url, translated
from scheduler.limits import RATE_WINDOW, Usage
from scheduler.queued_task import Cursor, DatasetStatus, QueuedTask, State
from verifier.errors import ConfigError

VERSION = 2
PAGE_TASKS, PAGE_BYTES = 256, 2 << 20

# Digests are written in hex: keys that every database can index, and people can read.
_tables = sql.MetaData()
_queue = sql.Table(
    "ratls_queue",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=False),  # one row, number 1
    sql.Column("version", sql.Integer, nullable=False),
    sql.Column("store", sql.String(32), nullable=False),
    sql.Column("change", sql.BigInteger, nullable=False),
)
_task = sql.Table(
    "ratls_task",
    _tables,
    sql.Column("digest", sql.String(64), primary_key=True),
    sql.Column("envelope", sql.LargeBinary, nullable=False),
    sql.Column("policy", sql.String(64), nullable=False),
    sql.Column("submitter", sql.String(64), nullable=False),  # digest of the channel key
    sql.Column("received", sql.BigInteger, nullable=False),  #  seconds since 1970
    sql.Column("expires", sql.BigInteger, nullable=False, index=True),
    sql.Column("change", sql.BigInteger, nullable=False, unique=True),
    sql.Index("ratls_task_usage", "submitter", "received"),
)
_status = sql.Table(
    "ratls_status",
    _tables,
    sql.Column("digest", sql.ForeignKey("ratls_task.digest", ondelete="CASCADE"), primary_key=True),
    sql.Column("dataset", sql.String(255), primary_key=True),
    sql.Column("position", sql.Integer, nullable=False),
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("code", sql.String(64), nullable=False),
    sql.Column("instance", sql.String(32), nullable=False),
    sql.Column("changes", sql.Integer, nullable=False),
)

_SHOWN = ("dataset", "owner", "state", "code", "instance")


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be stored until it expires; its signature and scope were checked."""

    digest: bytes
    envelope: bytes
    policy_digest: bytes
    submitter: bytes  #               SHA-256 of its channel key, 32 bytes
    expires: datetime
    inputs: tuple[tuple[str, str], ...]  # dataset and owner, in the policy's order


@dataclass(frozen=True, slots=True)
class Held:
    """A task in the queue."""

    policy_digest: bytes
    change: int  # number of its last change
    task: QueuedTask


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks; `more` is true if others follow."""

    held: tuple[Held, ...]
    more: bool


class TaskNotQueued(TicketScopeError):
    """No unexpired task of this digest is in the queue, or the peer has no part in it."""

    code = "task-not-queued"
    default_fix = "check with `ratls task list`; it may have expired"


class ReportsExhausted(ResourceLimitError):
    """The state of one dataset was changed too often."""

    code = "reports-exhausted"
    default_fix = "report once per outcome"


class Store:
    """One queue in one database. Threads and processes may share it."""

    def __init__(self, engine: sql.Engine) -> None:
        self.engine, self.id = engine, bytes(16)

    @classmethod
    def open(cls, url: sql.URL) -> Self:
        """The queue in this database, created if there is none.

        Raises:
            DatabaseUrlUnusable: No such kind of database, or one that forgets.
            DatabaseIncompatible: Other tables have the queue's names.
            StoreUnavailable: It does not answer.
        """
        store = cls(open_engine(url))
        try:
            store.id = store._begin_queue()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def newest(self) -> int:
        """The number of the last change of all. Raises: StoreUnavailable."""
        with self._reading() as connection:
            return int(connection.execute(sql.select(_queue.c.change)).scalar_one())

    def add(self, task: NewTask, at: datetime, admit: Callable[[Usage], None]) -> bool:
        """Store a task; False if it was stored before, also with another envelope.

        Args:
            admit: Refuses what exceeds a quota, given what the submitter has in the queue.

        Raises:
            StoreUnavailable: Nothing was stored, or it is not known whether it was.
            RatlsError: What `admit` raises; nothing was stored.
        """
        digest = task.digest.hex()
        known = sql.select(_task.c.digest).where(_task.c.digest == digest)
        with self._reading() as connection:
            if connection.execute(known).first():
                return False
            # D11: a flood is refused without taking the lock that honest tasks wait for.
            admit(_usage(connection, task.submitter.hex(), at))
        with self._changing() as (connection, change):
            # Both again, under the lock: another scheduler may have kept a task a moment ago.
            if connection.execute(known).first():
                return False
            admit(_usage(connection, task.submitter.hex(), at))
            connection.execute(
                _task.insert().values(
                    digest=digest,
                    envelope=task.envelope,
                    policy=task.policy_digest.hex(),
                    submitter=task.submitter.hex(),
                    received=_seconds(at),
                    expires=_seconds(task.expires),
                    change=change,
                )
            )
            rows = [
                {
                    "digest": digest,
                    "dataset": dataset,
                    "position": position,
                    "owner": owner,
                    "state": State.WAITING.value,
                    "code": "",
                    "instance": "",
                    "changes": 0,
                }
                for position, (dataset, owner) in enumerate(task.inputs)
            ]
            connection.execute(_status.insert(), rows)
        return True

    def tasks(
        self,
        policies: Collection[bytes],
        after: int,
        at: datetime,
        *,
        digest: bytes | None = None,
        limit: int = PAGE_TASKS,
    ) -> Page:
        """Unexpired tasks of these policies with a change after number `after`, in that order.

        Raises: StoreUnavailable.
        """
        wanted = sql.select(_task).where(
            _task.c.policy.in_([p.hex() for p in policies]),
            _task.c.change > after,
            _task.c.expires > _seconds(at),
        )
        if digest is not None:
            wanted = wanted.where(_task.c.digest == digest.hex())
        page = wanted.order_by(_task.c.change).limit(limit + 1).subquery()
        # One statement, one snapshot: a task never appears with half of its inputs.
        both = (
            sql.select(page, *(_status.c[name] for name in _SHOWN))
            .join(_status, _status.c.digest == page.c.digest)
            .order_by(page.c.change, _status.c.position)
        )
        with self._reading() as connection:
            rows = connection.execute(both).all()
        return self._page(rows, limit)

    def report(
        self,
        digest: bytes,
        dataset: str,
        state: State,
        code: str,
        at: datetime,
        *,
        cap: int,
        instance: bytes = b"",
    ) -> DatasetStatus:
        """Store what became of a dataset; the status afterwards.

        A release is final: a later refusal, of a second attempt, does not undo it.

        Raises:
            TaskNotQueued: No such unexpired task or dataset.
            ReportsExhausted: It changed `cap` times already.
            StoreUnavailable.
        """
        here = (_status.c.digest == digest.hex()) & (_status.c.dataset == dataset)
        alive = sql.select(_task.c.digest).where(_task.c.expires > _seconds(at))
        with self._changing() as (connection, change):
            row = connection.execute(
                sql.select(_status).where(here, _status.c.digest.in_(alive))
            ).first()
            if row is None:
                raise TaskNotQueued("task", expected="an unexpired one", found="none")
            if row.state == State.RELEASED.value or (row.state, row.code) == (state.value, code):
                return _shown(row)
            if row.changes >= cap:
                raise ReportsExhausted("reports", expected=f"at most {cap}", found="one more")
            connection.execute(
                _status.update()
                .where(here)
                .values(
                    state=state.value, code=code, instance=instance.hex(), changes=row.changes + 1
                )
            )
            connection.execute(
                _task.update().where(_task.c.digest == digest.hex()).values(change=change)
            )
        return DatasetStatus(dataset, row.owner, state, code, instance)

    def purge(self, at: datetime) -> int:
        """Forget expired tasks; how many there were. Raises: StoreUnavailable."""
        # Those of the last minute still count for the rate: short-lived tasks are tasks too.
        gone = (_task.c.expires <= _seconds(at)) & (_task.c.received <= _seconds(at - RATE_WINDOW))
        with translated(self.engine), self.engine.begin() as connection:
            return connection.execute(_task.delete().where(gone)).rowcount

    def _page(self, rows: Collection[Any], limit: int) -> Page:
        held: list[Held] = []
        size = 0
        for _, group in groupby(rows, key=lambda row: row.digest):
            inputs = list(group)
            row = inputs[0]
            size += len(row.envelope)
            if len(held) == limit or (held and size > PAGE_BYTES):
                return Page(tuple(held), more=True)
            task = QueuedTask(
                digest=bytes.fromhex(row.digest),
                envelope=bytes(row.envelope),
                datasets=tuple(_shown(row) for row in inputs),
                cursor=Cursor(self.id, row.change).encode(),
            )
            held.append(Held(bytes.fromhex(row.policy), row.change, task))
        return Page(tuple(held), more=False)

    def _begin_queue(self) -> bytes:
        with translated(self.engine):
            try:
                return self._made()
            except (exc.IntegrityError, exc.ProgrammingError, exc.OperationalError):
                # Another scheduler makes the same tables at this moment; then they are there now.
                return self._made()

    def _made(self) -> bytes:
        # In SQLite a transaction that reads first fails if another writes before it does.
        engine = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        with engine.begin() as connection:
            _tables.create_all(connection)
            self._require_columns(connection)
            row = connection.execute(sql.select(_queue)).first()
            if row is None:
                store = secrets.token_hex(16)
                connection.execute(
                    _queue.insert().values(id=1, version=VERSION, store=store, change=0)
                )
                return bytes.fromhex(store)
            if row.version != VERSION:
                raise _incompatible(self.engine, f"version {row.version}")
            return bytes.fromhex(row.store)

    def _require_columns(self, connection: sql.Connection) -> None:
        inspector = sql.inspect(connection)
        for name, table in _tables.tables.items():
            there = {column["name"] for column in inspector.get_columns(name)}
            if there != set(table.columns.keys()):
                raise _incompatible(self.engine, f"another table {name}")

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        with translated(self.engine), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _changing(self) -> Iterator[tuple[sql.Connection, int]]:
        """A transaction that holds the queue's lock, and the number of its change."""
        with translated(self.engine), self.engine.begin() as connection:
            connection.execute(_queue.update().values(change=_queue.c.change + 1))
            yield connection, int(connection.execute(sql.select(_queue.c.change)).scalar_one())


def _shown(row: Any) -> DatasetStatus:
    return DatasetStatus(
        row.dataset, row.owner, State(row.state), row.code, bytes.fromhex(row.instance)
    )


def _usage(connection: sql.Connection, submitter: str, at: datetime) -> Usage:
    mine = sql.select(sql.func.count()).where(_task.c.submitter == submitter)
    unexpired = mine.where(_task.c.expires > _seconds(at)).scalar_subquery()
    recent = mine.where(_task.c.received > _seconds(at - RATE_WINDOW)).scalar_subquery()
    return Usage(*connection.execute(sql.select(unexpired, recent)).one())


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


class DatabaseIncompatible(ConfigError):
    """The database contains a queue of another version, or other tables of the same names."""

    code = "database-incompatible"
    default_fix = "name an empty database, or use the version of ratls that made this one"


def _incompatible(engine: sql.Engine, found: str) -> DatabaseIncompatible:
    return DatabaseIncompatible(
        printable_url(engine.url), expected=f"a queue of version {VERSION}, or nothing", found=found
    )
