"""R04: agreed statements that rows make into bombs end at their limits, and the next task runs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from enclave_app.computations.sql_engine import TableTooLarge, TableTooLong
from policy.errors import ResourceLimitError
from tests.enclave_app.agreed import Agreed
from tests.support.refusal import count_refusal

COLUMNS = '{ patient = "string", age = "int64", y = "int64" }'
PAIRS = (
    "SELECT a.y AS y, count(*) AS n FROM train_party_1 AS a JOIN train_party_2 AS b ON a.y = b.y "
    "GROUP BY a.y ORDER BY y"
)
AGES = (
    "WITH u AS (SELECT patient, age FROM train_party_1 UNION ALL SELECT patient, age FROM "
    "train_party_2) SELECT age, count(*) AS n FROM u GROUP BY age ORDER BY age"
)


def rows(seed: int, count: int, ages: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = pa.array(rng.integers(0, ages, count), pa.int64())
    y = pa.array(np.arange(count) % 2, pa.int64())
    return pa.table({"patient": [f"{seed}-{i}" for i in range(count)], "age": age, "y": y})


@pytest.mark.parametrize(
    ("statement", "limits", "count", "ages", "leaf"),
    [
        (PAIRS, "max_groups = 9, memory_mebibytes = 64, seconds = 1", 60_000, 9, TableTooLong),
        (AGES, "max_groups = 50, memory_mebibytes = 64, seconds = 60", 3_000, 2**60, TableTooLarge),
    ],
    ids=["pairs of all rows", "as many groups as rows"],
)
def test_a_bomb_ends_and_the_next_task_runs(
    statement: str, limits: str, count: int, ages: int, leaf: type[ResourceLimitError]
) -> None:
    """Nothing in the text is wrong: it is the rows. The twin has fewer, under the same limits."""
    count_refusal()
    agreed = Agreed.on(
        "sql", f"statement = {json.dumps(statement)}, {limits}", ["table"], columns=COLUMNS
    )
    assert agreed.answer(rows(1, count, ages), rows(2, count, ages)) == leaf.code
    assert agreed.answer(rows(1, 400, 9), rows(2, 400, 9))["table"]["rows"]
