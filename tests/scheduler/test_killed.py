"""kill -9 at every write: nothing is lost that was answered, nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from scheduler.database import queue_file
from scheduler.queued_task import State
from scheduler.store import Store
from tests.scheduler.test_store import HOUR, INPUTS, POLICY, anything, task
from tests.support.scheduler import NOW

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=["sqlite", "postgresql"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, or a schema in one, for each point, named by `NUMBER`."""
    if request.param == "sqlite":
        return str(queue_file(tmp_path / "queue-NUMBER.sqlite"))
    engine: sqlalchemy.Engine = request.getfixturevalue("server")
    with engine.connect() as connection:
        for number in range(1, 71):
            connection.exec_driver_sql(f"CREATE SCHEMA killed{number}")
    url = engine.url.update_query_dict({"options": "-csearch_path=killedNUMBER"})
    return url.render_as_string()


def held(store: Store) -> dict[int, dict[str, State]]:
    """Tasks and the state of each input."""
    return {
        int.from_bytes(h.task.digest, "big"): {d.dataset: d.state for d in h.task.datasets}
        for h in store.tasks([POLICY], 0, NOW).held
    }


def test_killed_at_every_write(template: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.scheduler.killed", template],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    series = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(series) > 50, "there are so many places to die at"
    assert [s["killed"] for s in series] == [True] * (len(series) - 1) + [False]
    for one in series:
        store = Store.open(sqlalchemy.make_url(template.replace("NUMBER", str(one["n"]))))
        try:
            check(store, set(one["answered"]))
        finally:
            store.close()


def check(store: Store, answered: set[str]) -> None:
    before = held(store)
    kept = {int(a.split()[1]) for a in answered if a.startswith("add")}
    assert kept <= set(before), "answered, and lost"
    for number, states in before.items():
        assert number in (1, 2, 3, 4)
        assert list(states) == [dataset for dataset, _ in INPUTS], "half a task"
    if "report 1" in answered:
        assert before[1]["train_party_1"] is State.RELEASED
    # The clients that had no answer bring it all again: now everything is there, once.
    for number in (1, 2, 4):
        assert store.add(task(number), NOW, anything) == (number not in before)
    store.report(task(1).digest, "train_party_1", State.RELEASED, "", NOW, cap=9)
    store.purge(NOW + HOUR / 2)
    after = held(store)
    assert set(after) == {1, 2, 4}
    assert after[1]["train_party_1"] is State.RELEASED
    changes = [h.change for h in store.tasks([POLICY], 0, NOW).held]
    assert len(changes) == len(set(changes)) == 3
    assert max(changes) <= store.newest()
