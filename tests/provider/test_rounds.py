"""Owners train at home and meet in rounds: what they learn, keep and refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from policy.journal_entries import ReservedEntry, UpdatedEntry
from policy.state import StudyState
from provider.rounds import TookPart, take_part
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.rounds import LOGISTIC, OWNERS_OF, asked, round_world
from tests.support.waiting import HANG_LIMIT

pytestmark = pytest.mark.slow


def clinic(seed: int, count: int = 400) -> pa.Table:
    """One owner's patients; each clinic has older or younger ones."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20 + 5 * seed, 70 + 5 * seed, count)
    bmi = rng.normal(27, 6, count).clip(10, 60)
    ill = (age / 10 + bmi / 3 + rng.normal(0, 1.5, count) > 14.5).astype(np.int64)
    names = [f"patient-{seed}-{i:05d}" for i in range(count)]
    table = pa.table({"patient": names, "age": age, "bmi": bmi, "y": ill})
    return table.cast(pa.schema([f.with_nullable(False) for f in table.schema]))


def desk(live: LiveEnclave, folder: Path, dataset: str, table: pa.Table) -> Desk:
    world = live.world
    party = world.consortium.parties[OWNERS_OF[dataset]]
    made = Desk(world, folder / party.party_id, live.address, party, dataset)
    made.folder.mkdir()
    pq.write_table(table, made.path)
    StudyState(made.state).accept(world.complete.agreement, party, NOW)
    return made


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Each in a thread of its own; what they gave, or the first error."""
    found: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        try:
            found[place] = jobs[place]()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_LIMIT)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture(scope="module")
def agreed() -> EnclaveWorld:
    model = LOGISTIC | {"rounds": "12", "epochs": "4", "learning_rate": "0.3"}
    return round_world(**model)


@pytest.fixture
def live(agreed: EnclaveWorld) -> Iterator[LiveEnclave]:
    with agreed.running() as live:
        yield live


def test_three_parties_reach_the_accuracy_of_the_pooled_model(
    live: LiveEnclave, tmp_path: Path
) -> None:
    tables = {name: clinic(number) for number, name in enumerate(OWNERS_OF, 1)}
    desks = [desk(live, tmp_path, name, table) for name, table in tables.items()]
    task = asked(live.world)
    done: list[TookPart] = at_once(
        *(lambda d=d: take_part(d.request(task), d.dataset, d.path) for d in desks)
    )
    assert [d.counted for d in done] == [tuple(range(1, 13))] * 3
    assert len({d.digest for d in done}) == 1
    carol = live.world.consortium.carol
    told = json.loads(live.opened(carol, task, live.collect(carol, task)))["model"]
    pooled = pa.concat_tables(tables.values())
    matrix = np.column_stack([pooled[name].to_numpy() for name in ("age", "bmi")])
    target = pooled["y"].to_numpy()
    ours = (matrix @ np.array(told["coefficients"]) + told["intercept"] > 0) == target
    theirs = LogisticRegression(max_iter=1000).fit(matrix, target).score(matrix, target)
    print(ours.mean(), theirs)
    assert ours.mean() >= theirs - 0.005
    entries = desks[0].journal
    assert [type(e) for e in entries] == [ReservedEntry] + [UpdatedEntry] * 12
