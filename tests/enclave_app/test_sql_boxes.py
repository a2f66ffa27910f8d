"""The quick ways to count persons give the answer of the slow one; and one answer for one input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app.computations import sql, sql_boxes
from enclave_app.computations.sql_boxes import Boxed
from enclave_app.computations.sql_census import hidden_rows
from enclave_app.computations.sql_engine import engine
from enclave_app.computations.sql_plan import Plan
from enclave_app.computations.sql_tables import register
from enclave_app.gate import Input, released
from policy.sections import Release
from tests.support.waiting import HANG_LIMIT

LIMITS: dict[str, Any] = {"max_groups": 500, "memory_mebibytes": 128, "seconds": 30}
SUMS = (
    "SELECT region, count(*) AS n, count(cost) AS c, sum(cost) AS s, avg(cost) AS m FROM a "
    "GROUP BY region ORDER BY region"
)
JOINED = (
    "SELECT a.region, count(*) AS n, sum(a.cost) AS s FROM a JOIN b USING (patient) "
    "GROUP BY a.region ORDER BY a.region"
)
TOTALS = "SELECT region, count(*) AS n FROM a GROUP BY ROLLUP (region) ORDER BY region"


def rule(k: int) -> Release:
    made = {"outputs": ["table"], "min_subjects_per_input": k, "significant_digits": 6}
    return Release.model_validate(made)


def plain(value: Any) -> Any:
    """A count may be of a wider type, and a sum of floats has another order."""
    return round(float(value), 6) if isinstance(value, int | float | Decimal) else value


def both_ways(statement: str, inputs: dict[str, Input], k: int) -> tuple[set[int], set[int]]:
    """Rows of the table that stay: with what the boxes say, and counted one by one alone."""
    with engine(memory_mebibytes=128, seconds=30) as connection:
        register(connection, inputs, statement)
        plan = Plan.of(connection, statement, list(inputs))
        rows = sql._rows(connection, plan.shown, {}, 500)
        keys = [sql._key(plan, row) for row in rows]
        boxed = Boxed.of(connection, plan, {}, inputs, 500)
        assert boxed is not None
        added_up = sql._rows(connection, boxed.shown, {}, 500)
        for one, other in zip(added_up, rows, strict=True):
            assert [plain(one[n]) for n in other] == [plain(v) for v in other.values()]
        found = [
            hidden_rows(connection, plan, {}, keys, len(inputs), rule(k), way)
            for way in (boxed.evens(connection, added_up), None)
        ]
    return found[0], found[1]


def table(rows: Sequence[tuple[int | str, str, float | None]]) -> pa.Table:
    patients, regions, costs = [*zip(*rows, strict=True)]
    return pa.table({"patient": patients, "region": regions, "cost": pa.array(costs, pa.float64())})


PERSON = st.tuples(
    st.integers(0, 12), st.sampled_from("nse"), st.one_of(st.none(), st.integers(-3, 9).map(float))
)


@settings(max_examples=40)
@given(st.lists(PERSON, min_size=1, max_size=60), st.integers(3, 5), st.booleans(), st.booleans())
def test_what_is_hidden_does_not_depend_on_how_it_was_counted(
    rows: list[tuple[int, str, float | None]], k: int, named: bool, totals: bool
) -> None:
    """R05, R06, R08: few persons, many rows of one, missing and negative values, totals or none."""
    made = [(f"p{who}", *rest) for who, *rest in rows] if named else rows
    statement = TOTALS if totals else SUMS
    quick, slow = both_ways(statement, {"a": Input(table(made), "patient")}, k)  # type: ignore[arg-type]
    assert quick == slow


@settings(max_examples=40)
@given(st.lists(PERSON, min_size=1, max_size=60), st.integers(3, 5), st.integers(0, 12))
def test_nor_in_a_join(rows: list[tuple[int, str, float | None]], k: int, known: int) -> None:
    """R06: Bob knows some of Alice's persons."""
    bob = [(who, "n", 1.0) for who in range(known + 1)]
    inputs = {"a": Input(table(rows), "patient"), "b": Input(table(bob), "patient")}
    quick, slow = both_ways(JOINED, inputs, k)
    assert quick == slow


@settings(max_examples=60)
@given(
    st.lists(PERSON, min_size=1, max_size=60),
    st.integers(3, 5),
    st.sampled_from(
        [(0, 1, 5), (0, 7, 8), (3, 1 << 13, 9), (1, 1 << 40, 2), (-1, 0, 1), (4, None, 5)]
    ),
    st.sampled_from([pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()]),
)
def test_nor_on_a_key_that_shares_a_number_with_the_boxes(
    rows: list[tuple[int, str, float | None]],
    k: int,
    keys: tuple[int | None, ...],
    kind: pa.DataType,
) -> None:
    """R05, R06: keys from 0 on, and such that are too large, negative or missing."""
    made = table(rows)
    numbers = [keys["nse".index(region)] for _, region, _ in rows]
    try:
        numbered = pa.array(numbers, kind)
    except (pa.ArrowInvalid, OverflowError):
        return  # the type does not hold this key
    inputs = {"a": Input(made.set_column(1, "region", numbered), "patient")}
    quick, slow = both_ways(SUMS, inputs, k)
    assert quick == slow


@pytest.mark.parametrize(("least", "shares"), [(0, True), (1 << 14, False), (-1, False)])
def test_which_keys_share_a_number_with_the_boxes(least: int, shares: bool) -> None:
    rows = table([(i, "n", float(i % 7)) for i in range(500)])
    regions = pa.array([least + i % 3 for i in range(500)], pa.int32())
    inputs = {"a": Input(rows.set_column(1, "region", regions), "patient")}
    with engine(memory_mebibytes=128, seconds=30) as connection:
        register(connection, inputs, SUMS)
        plan = Plan.of(connection, SUMS, ["a"])
        assert (sql_boxes._bit_above(plan, inputs) is not None) is shares
    assert both_ways(SUMS, inputs, 20) == (set(), set())


def test_one_person_who_dominates_among_many() -> None:
    """R06: of two thousand rows with enough persons, more than half are one person's."""
    many = [(i, "n", float(i % 7)) for i in range(1000)] + [(1, "n", 3.0)] * 1001
    even = [(i, "n", float(i % 7)) for i in range(2000)]
    for rows, stays in ((many, {0}), (even, set())):
        assert both_ways(SUMS, {"a": Input(table(rows), "patient")}, 100) == (stays, stays)


def test_the_few_persons_of_a_region_that_comes_last() -> None:
    """The first rows show none of them, and nothing is concluded from that."""
    rows = [(i, "n", float(i % 7)) for i in range(5000)]
    late = [(10_000 + i, "s", float(i % 7)) for i in range(50)]
    for few, stays in ((late[:4], {1}), (late, set())):
        assert both_ways(SUMS, {"a": Input(table(rows + few), "patient")}, 5) == (stays, stays)


@pytest.mark.parametrize("few", [5, 6])  # of whom one has the lowest value
def test_the_few_persons_of_a_region_beside_a_parameter(few: int) -> None:
    """R05. Groups that the first rows do not prove are counted in their own rows."""
    rows = [(i, "n", float(i % 7)) for i in range(5000)]
    rows += [(10_000 + i, "s", float(i % 7)) for i in range(few)] + [(7, "s", -1.0)]
    statement = SUMS.replace("FROM a", "FROM a WHERE cost >= $least")
    given = LIMITS | {"statement": statement, "least": 0.0}
    found = sql.run({"a": Input(table(rows), "patient")}, given, rule(5))["table"]["rows"]
    assert [row["region"] for row in found] == ["n", "s"][: few - 4]


def test_persons_whose_numbers_all_end_alike() -> None:
    """Numbers that are multiples of a thousand fall into one box; a hash spreads them."""
    rows = [(1000 * i, "n", float(i % 7)) for i in range(500)]
    assert both_ways(SUMS, {"a": Input(table(rows), "patient")}, 100) == (set(), set())


# One answer for one input.

RUN = """
import hashlib, sys
import numpy as np, pyarrow as pa
from tests.enclave_app.test_sql_boxes import documents
for document in documents():
    print(hashlib.sha256(document).hexdigest())
"""


def documents() -> list[bytes]:
    """Of three statements the documents, each for four orders and cuts of the same rows."""
    random = np.random.default_rng(5)
    n = 1500
    a = pa.table(
        {
            "patient": [f"p{i % 900}" for i in range(n)],
            "region": random.choice(["n", "s", "e", "w"], n).tolist(),
            "cost": random.gamma(2, 50, n),
        }
    )
    b = pa.table({"patient": [f"p{i}" for i in range(700)], "cost": random.gamma(2, 50, 700)})
    found = []
    for turn in range(4):
        order = random.permutation(n) if turn else np.arange(n)
        size = (n, 7, 999, 1)[turn]
        batches = a.take(order).combine_chunks().to_batches(max_chunksize=size)
        rows = {"a": Input(pa.Table.from_batches(batches), "patient"), "b": Input(b, "patient")}
        for statement in (SUMS, JOINED, TOTALS):
            inputs = {name: rows[name] for name in rows if name == "a" or "b USING" in statement}
            outputs = sql.run(inputs, LIMITS | {"statement": statement}, rule(20))
            found.append(released(outputs, rule(20), computation="train", run="sql"))
    return found


def test_one_answer_whatever_runs_around_it() -> None:
    """R15: another order and other batches, hash seed, and number of threads of the libraries.

    Sums of floats in another order differ in their last digits, far below the agreed ones.
    """
    here = documents()
    assert len(set(here)) == 3
    asked = []
    for seed, threads in (("0", "1"), ("7", "4")):
        around = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "ARROW_IO_THREADS": threads}
        asked.append(
            subprocess.run(
                [sys.executable, "-c", RUN],
                cwd=Path(__file__).parents[2],
                env=os.environ | around | {"OMP_THREAD_LIMIT": threads},
                capture_output=True,
                check=True,
                text=True,
                timeout=HANG_LIMIT,
            ).stdout
        )
    assert asked[0] == asked[1] != ""
    assert len(set(asked[0].split())) == 3
    assert all(json.loads(document)["table"]["rows"] for document in here)
