"""The queue keeps what it said it keeps, once, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy

from scheduler.database import (
    DatabasePasswordShown,
    DatabaseUrlUnusable,
    StoreUnavailable,
    database_url,
    queue_file,
)
from scheduler.limits import Limits, OpenTasksExhausted, SubmissionsTooFast, Usage
from scheduler.queued_task import Cursor, State
from scheduler.store import DatabaseIncompatible, NewTask, ReportsExhausted, Store, TaskNotQueued
from tests.support.refusal import refused
from tests.support.scheduler import NOW

POLICY, CAROL, DORA = b"p" * 32, b"c" * 32, b"d" * 32
HOUR = timedelta(hours=1)
INPUTS = (("train_party_2", "bob-hospital"), ("train_party_1", "alice-clinic"))


def anything(usage: Usage) -> None:
    """No quota."""


def task(number: int, submitter: bytes = CAROL, expires: timedelta = HOUR) -> NewTask:
    digest = number.to_bytes(32, "big")
    return NewTask(digest, b"envelope %d" % number, POLICY, submitter, NOW + expires, INPUTS)


def numbers(store: Store, after: int = 0, *, later: timedelta = timedelta()) -> list[int]:
    """Of the tasks that are shown, in that order; pages are followed to the end."""
    found, more = [], True
    while more:
        page = store.tasks([POLICY], after, NOW + later)
        found += [int.from_bytes(h.task.digest, "big") for h in page.held]
        more = page.more
        after = page.held[-1].change if page.held else after
    return found


def test_a_task_is_kept_as_it_came(store: Store) -> None:
    assert store.add(task(1), NOW, anything)
    (held,) = store.tasks([POLICY], 0, NOW).held
    assert held.task.envelope == b"envelope 1"
    assert [(d.dataset, d.owner, d.state, d.code) for d in held.task.datasets] == [
        ("train_party_2", "bob-hospital", State.WAITING, ""),
        ("train_party_1", "alice-clinic", State.WAITING, ""),
    ]


def test_the_same_task_again_is_stored_once(store: Store) -> None:
    """A client whose link broke before the answer brings it again; the quota is not spent twice."""
    limits = Limits(open_tasks=1)
    assert store.add(task(1), NOW, limits.admit)
    assert not store.add(task(1), NOW, limits.admit)
    assert numbers(store) == [1]
    assert len(store.tasks([POLICY], 0, NOW).held[0].task.datasets) == 2


def test_a_restart_loses_nothing(database: sqlalchemy.URL) -> None:
    first = Store.open(database)
    first.add(task(1), NOW, anything)
    first.report(task(1).digest, "train_party_1", State.REFUSED, "task-expired", NOW, cap=9)
    cursor = first.tasks([POLICY], 0, NOW).held[0].task.cursor
    first.close()
    again = Store.open(database)
    try:
        assert again.id == first.id
        (held,) = again.tasks([POLICY], 0, NOW).held
        assert held.task.datasets[1].code == "task-expired"
        assert Cursor.decode(cursor) == Cursor(again.id, again.newest())
    finally:
        again.close()


def test_whoever_was_away_gets_what_it_missed_and_no_more(store: Store) -> None:
    for number in range(1, 4):
        store.add(task(number), NOW, anything)
    seen = store.tasks([POLICY], 0, NOW).held[1].change
    assert numbers(store, seen) == [3]
    store.report(task(1).digest, "train_party_1", State.RELEASED, "", NOW, cap=9)
    assert numbers(store, seen) == [3, 1], "a change brings a task back"
    assert numbers(store, store.newest()) == []


def test_pages_end_where_they_should(store: Store) -> None:
    for number in range(5):
        store.add(task(number), NOW, anything)
    page = store.tasks([POLICY], 0, NOW, limit=2)
    assert (len(page.held), page.more) == (2, True)
    page = store.tasks([POLICY], page.held[-1].change, NOW, limit=3)
    assert (len(page.held), page.more) == (3, False)


def test_a_page_is_never_larger_than_an_answer_may_be(store: Store) -> None:
    """gRPC would drop the whole answer, and the queue behind it would never be seen."""
    for number in range(50):
        large = task(number)
        store.add(
            NewTask(large.digest, bytes(60_000), POLICY, CAROL, large.expires, INPUTS),
            NOW,
            anything,
        )
    page = store.tasks([POLICY], 0, NOW)
    assert page.more
    assert sum(len(h.task.envelope) for h in page.held) <= 2 << 20
    assert numbers(store) == list(range(50))


def test_tasks_of_another_policy_are_not_shown(store: Store) -> None:
    store.add(task(1), NOW, anything)
    assert store.tasks([b"q" * 32], 0, NOW).held == ()
    assert store.tasks([], 0, NOW).held == ()


def test_expired_tasks_leave(store: Store) -> None:
    store.add(task(1, expires=HOUR), NOW, anything)
    store.add(task(2, expires=2 * HOUR), NOW, anything)
    assert numbers(store, later=HOUR - timedelta(seconds=1)) == [1, 2]
    assert numbers(store, later=HOUR) == [2]
    assert store.purge(NOW + HOUR) == 1
    with store.engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM ratls_status").scalar_one()
    assert left == 2, "its states leave with it"
    with refused(TaskNotQueued):
        store.report(task(1).digest, "train_party_1", State.RELEASED, "", NOW, cap=9)
    store.report(task(2).digest, "train_party_1", State.RELEASED, "", NOW, cap=9)


def test_an_expired_task_takes_no_report_before_it_is_purged(store: Store) -> None:
    store.add(task(1), NOW, anything)
    with refused(TaskNotQueued):
        store.report(task(1).digest, "train_party_1", State.RELEASED, "", NOW + HOUR, cap=9)


@pytest.mark.parametrize("dataset", ["train_party_3", "", "train_party_1' OR '1'='1"])
def test_a_report_about_no_dataset(store: Store, dataset: str) -> None:
    store.add(task(1), NOW, anything)
    with refused(TaskNotQueued):
        store.report(task(1).digest, dataset, State.RELEASED, "", NOW, cap=9)


def test_a_late_refusal_does_not_undo_a_release(store: Store) -> None:
    """A second attempt is refused as a replay; the first one stands."""
    store.add(task(1), NOW, anything)
    one = task(1).digest
    store.report(one, "train_party_1", State.REFUSED, "source-unreadable", NOW, cap=9)
    store.report(one, "train_party_1", State.RELEASED, "", NOW, cap=9)
    late = store.report(one, "train_party_1", State.REFUSED, "task-already-released", NOW, cap=9)
    assert (late.state, late.code) == (State.RELEASED, "")


def test_a_provider_that_changes_its_mind_for_ever(store: Store) -> None:
    """D11: each change wakes every party; said again, nothing changes and nobody is woken."""
    store.add(task(1), NOW, anything)
    one = task(1).digest
    for code in ("a", "b", "b", "b"):
        store.report(one, "train_party_1", State.REFUSED, code, NOW, cap=2)
    with refused(ReportsExhausted):
        store.report(one, "train_party_1", State.REFUSED, "c", NOW, cap=2)
    store.report(one, "train_party_2", State.REFUSED, "c", NOW, cap=2)


@pytest.mark.slow
def test_flood_of_ten_thousand_tasks(tmp_path: Path) -> None:
    """D11: one submitter fills its own share; the queue of another is as it was."""
    store = Store.open(queue_file(tmp_path / "queue.sqlite"))
    limits = Limits(open_tasks=100, tasks_per_minute=10_000)
    refusals = 0
    for number in range(10_000):
        try:
            store.add(task(number), NOW, limits.admit)
        except OpenTasksExhausted:
            refusals += 1
    assert refusals == 9_900
    assert len(numbers(store)) == 100
    with refused(OpenTasksExhausted):
        store.add(task(20_000), NOW, limits.admit)
    assert store.add(task(20_000, DORA), NOW, limits.admit)
    store.close()


def test_a_flood_of_tasks_that_expire_at_once(store: Store) -> None:
    """Purged, they would count for nothing, and each wakes everybody."""
    limits, second = Limits(tasks_per_minute=3), timedelta(seconds=1)
    for number in range(3):
        store.add(task(number, expires=second), NOW, limits.admit)
    store.purge(NOW + 2 * second)
    with refused(SubmissionsTooFast):
        store.add(task(3), NOW + 2 * second, limits.admit)
    assert store.add(task(3), NOW + timedelta(seconds=61), limits.admit)


def in_threads(count: int, act: Callable[[int], object]) -> list[object]:
    """`act(0)` … at the same moment."""
    start = threading.Barrier(count)

    def run(number: int) -> object:
        start.wait()
        try:
            return act(number)
        except Exception as error:  # noqa: BLE001 - the outcome of a race is what is tested
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_two_schedulers_make_their_tables_at_once(database: sqlalchemy.URL) -> None:
    outcome = in_threads(6, lambda _: Store.open(database))
    stores = [s for s in outcome if isinstance(s, Store)]
    assert len(stores) == 6, outcome
    assert len({s.id for s in stores}) == 1
    for made in stores:
        made.close()


def test_one_task_brought_to_two_schedulers_is_stored_once(database: sqlalchemy.URL) -> None:
    stores = [Store.open(database) for _ in range(2)]
    for number in range(20):
        kept = in_threads(4, lambda n, i=number: stores[n % 2].add(task(i), NOW, anything))  # type: ignore[misc]
        assert sorted(map(bool, kept)) == [False, False, False, True], kept
    assert sorted(numbers(stores[0])) == list(range(20))
    for each in stores:
        each.close()


def test_the_quota_holds_over_two_schedulers(database: sqlalchemy.URL) -> None:
    """Two doors, one share: counting and keeping are one transaction."""
    stores, limits = [Store.open(database) for _ in range(2)], Limits(open_tasks=5)
    outcome = in_threads(12, lambda n: stores[n % 2].add(task(n), NOW, limits.admit))
    assert sum(o is True for o in outcome) == 5, outcome
    assert len(numbers(stores[0])) == 5
    with refused(OpenTasksExhausted):
        stores[1].add(task(99), NOW, limits.admit)
    for each in stores:
        each.close()


@pytest.mark.slow
def test_a_watcher_never_passes_a_task_that_is_not_there_yet(database: sqlalchemy.URL) -> None:
    """Were numbers given before the lock, 7 could be seen before 6, and 6 never."""
    stores, seen, done = [Store.open(database) for _ in range(3)], list[int](), threading.Event()

    def watch() -> None:
        after = 0
        while True:
            last = done.is_set()
            for held in stores[2].tasks([POLICY], after, NOW).held:
                seen.append(int.from_bytes(held.task.digest, "big"))
                after = held.change
            if last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    in_threads(
        6, lambda n: [stores[n % 2].add(task(n * 100 + i), NOW, anything) for i in range(15)]
    )
    done.set()
    watcher.join()
    assert sorted(seen) == sorted(n * 100 + i for n in range(6) for i in range(15))
    for each in stores:
        each.close()


def test_full_disk(tmp_path: Path) -> None:
    """Nothing half-kept, nothing said that is not so; with room again it goes on."""
    store = Store.open(queue_file(tmp_path / "queue.sqlite"))

    def pages(limit: int) -> None:
        with store.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

    store.add(task(0), NOW, anything)
    pages(1)  # SQLite takes no less than there is
    kept, large = 0, b"x" * 60_000
    with refused(StoreUnavailable):
        for number in range(1, 50):
            new = task(number)
            store.add(NewTask(new.digest, large, POLICY, CAROL, new.expires, INPUTS), NOW, anything)
            kept = number
    assert numbers(store) == list(range(kept + 1))
    pages(100_000)
    assert store.add(task(99), NOW, anything)
    store.close()


def test_a_database_that_is_held_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.database.BUSY_SECONDS", 0)
    store = Store.open(queue_file(tmp_path / "queue.sqlite"))
    with store.engine.connect() as other:
        other.exec_driver_sql("UPDATE ratls_queue SET change = 7")
        with refused(StoreUnavailable):
            store.add(task(1), NOW, anything)
        other.rollback()
    assert store.add(task(1), NOW, anything)
    store.close()


@pytest.mark.parametrize(
    "url",
    ["", "no url", "sqlite://", "sqlite:///:memory:", "nosuch://host/db", "mysql+nosuch://h/d"],
)
def test_databases_that_cannot_be_used(url: str) -> None:
    with refused(DatabaseUrlUnusable):
        Store.open(database_url(url))


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://u:secret@host/d", "postgresql+psycopg://u@host/d?password=secret"]
)
def test_a_password_on_the_command_line(url: str) -> None:
    """S31: `ps` shows it to everybody. The refusal does not repeat it."""
    with refused(DatabasePasswordShown) as refusal:
        database_url(url)
    assert "secret" not in str(refusal.error)
    assert database_url("postgresql+psycopg://u@host/d?passfile=/run/pass").username == "u"


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with refused(StoreUnavailable):
        Store.open(queue_file(tmp_path / "no-such-folder" / "queue.sqlite"))
    with refused(StoreUnavailable):
        Store.open(database_url("postgresql+psycopg://u@127.0.0.1:1/d"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite").write_bytes(b"not a database at all" * 100)
    with refused(StoreUnavailable):
        Store.open(queue_file(tmp_path / "queue.sqlite"))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE ratls_queue (id INTEGER, what TEXT)",
        "CREATE TABLE ratls_queue (id INTEGER PRIMARY KEY, version INTEGER, store TEXT, "
        "change INTEGER); INSERT INTO ratls_queue VALUES (1, 99, '00', 0)",
    ],
)
def test_tables_of_another_make(database: sqlalchemy.URL, statement: str) -> None:
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        for one in statement.split("; "):
            connection.exec_driver_sql(one)
    with refused(DatabaseIncompatible):
        Store.open(database)
    engine.dispose()
