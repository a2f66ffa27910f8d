# ruff: noqa: S608 - statements are made of pieces
"""R08, R09: numbers that stand side by side in one row of a table are added and subtracted."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app.computations import sql_combined
from enclave_app.computations.combinations import Vectors, about_few
from enclave_app.computations.sql import NoGroupLarge
from policy.sections import Dataset
from policy.sql import statement_faults
from tests.enclave_app.test_sql import ran, table
from tests.support.refusal import refused

COLUMNS = {"patient": "string", "region": "string", "age": "int64", "cost": "double"}
DATASET = Dataset.model_validate(
    {
        "id": "a",
        "owner": "alice-clinic",
        "subject": "patient",
        "columns": {"patient": "string", "region": "string", "age": "int64", "cost": "float64"},
        "max_rows": 1000,
    }
)


def rows(old: int, count: int = 200, seed: int = 1, name: str = "p") -> pa.Table:
    """Persons from 20 to 69 years, and so many of 97; what each cost."""
    rng = np.random.default_rng(seed)
    made = [
        (f"{name}{i}", "ns"[i % 2], 20 + i % 50, round(float(rng.gamma(2, 100)), 2))
        for i in range(count)
    ]
    made += [(f"{name}-old-{i}", "ns"[i % 2], 97, 1234.5 + i) for i in range(old)]
    return table(made, **COLUMNS)


ALL_BUT = "CASE WHEN age = 97 THEN 0 ELSE cost END"
ATTACKS = {
    "two sums": f"SELECT sum(cost) AS s, sum({ALL_BUT}) AS r FROM a",
    "a mean and a sum": f"SELECT count(*) AS n, avg(cost) AS s, sum({ALL_BUT}) AS r FROM a",
    "nearly all of the others": (
        "SELECT sum(cost) AS s, "
        "sum(CASE WHEN age = 97 THEN 0 ELSE cost * 1.0000001 END) AS r FROM a"
    ),
    "in another unit": f"SELECT sum(100 * cost + 5) AS s, sum({ALL_BUT}) AS r FROM a",
    "two counts": (
        "SELECT count(CASE WHEN age < 40 THEN 1 END) AS n, "
        "count(CASE WHEN age < 40 OR age > 90 THEN 1 END) AS m FROM a"
    ),
    "two sums of flags": (
        "SELECT sum(CASE WHEN age < 40 THEN 1 ELSE 0 END) AS n, "
        "sum(CASE WHEN age < 40 OR age > 90 THEN 1 ELSE 0 END) AS m FROM a"
    ),
    "what three leave of all": (
        "SELECT count(*) AS n, count(CASE WHEN age < 30 THEN 1 END) AS c, "
        "count(CASE WHEN age BETWEEN 30 AND 49 THEN 1 END) AS d, "
        "count(CASE WHEN age BETWEEN 50 AND 90 THEN 1 END) AS e FROM a"
    ),
    "distinct persons": (
        "SELECT count(DISTINCT CASE WHEN age < 40 THEN patient END) AS n, "
        "count(DISTINCT CASE WHEN age < 40 OR age > 90 THEN patient END) AS m FROM a"
    ),
    "a column of a SELECT below": (
        f"WITH u AS (SELECT patient, cost, {ALL_BUT} AS less FROM a) "
        "SELECT sum(cost) AS s, sum(less) AS r FROM u"
    ),
    "a group among others": (
        f"SELECT region, sum(cost) AS s, sum({ALL_BUT}) AS r FROM a GROUP BY region ORDER BY region"
    ),
    "totals": (
        f"SELECT region, sum(cost) AS s, sum({ALL_BUT}) AS r FROM a GROUP BY ROLLUP (region) "
        "ORDER BY region"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("old", [1, 2])
def test_one_person_is_the_difference_of_two_numbers(attack: str, old: int) -> None:
    """Each number is about hundreds, and what is left of two is one person's cost, or two's."""
    statement = ATTACKS[attack]
    assert not statement_faults(statement, [DATASET])  # nothing is wrong with it before rows come
    if attack == "nearly all of the others" and old == 2:
        return  # of a sum, too, two may have nearly all: page 0024
    if "region" in statement and old == 1:
        assert [row.get("region") for row in ran(statement, {"a": rows(old)})] == ["s"]
    else:
        with refused(NoGroupLarge):
            ran(statement, {"a": rows(old)})
    for nobody_or_enough in (0, 8):
        assert ran(statement, {"a": rows(nobody_or_enough)})


def test_two_columns_of_an_owner_that_differ_for_one_person() -> None:
    """No statement is crafted: what was planned and what was given differ for one patient."""
    statement = "SELECT sum(planned) AS p, sum(given) AS g FROM a"
    kinds = {"patient": "string", "planned": "double", "given": "double"}
    alike = [(f"p{i}", float(i % 17), float(i % 17)) for i in range(300)]
    with refused(NoGroupLarge):
        ran(statement, {"a": table([*alike, ("one", 9.0, 2.0)], **kinds)})
    others = [(f"q{i}", 9.0, 2.0 + i) for i in range(3)]
    assert len(ran(statement, {"a": table([*alike, *others], **kinds)})) == 1


def test_persons_of_another_input_do_not_make_up_for_it() -> None:
    """R06: Bob brings as many of that age as it takes, and subtracts what he knows."""
    statement = (
        "WITH u AS (SELECT patient, age, cost FROM a UNION ALL SELECT patient, age, cost FROM b) "
        f"SELECT sum(cost) AS s, sum({ALL_BUT}) AS r FROM u"
    )
    with refused(NoGroupLarge):
        ran(statement, {"a": rows(1), "b": rows(50, seed=2, name="q")})
    assert ran(statement, {"a": rows(5), "b": rows(50, seed=2, name="q")})


def test_many_rows_of_one_person_are_one_person() -> None:
    """R06: nine visits of the only one of that age."""
    once = rows(0)
    visits = table([("one", "n", 97, 1000.0 + i) for i in range(9)], **COLUMNS)
    with refused(NoGroupLarge):
        ran(ATTACKS["two sums"], {"a": pa.concat_tables([once, visits])})


def test_order_of_rows_and_parts_of_persons_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15; and large tables are counted in parts."""
    several = pa.concat_tables([rows(8), rows(1, 40, seed=5, name="few")])
    statement = (
        f"SELECT age, count(*) AS n, sum(cost) AS s, avg({ALL_BUT}) AS r FROM a GROUP BY age "
        "ORDER BY age"
    )
    whole = json.dumps(ran(statement, {"a": several}))
    shuffled = several.take(np.random.default_rng(3).permutation(len(several)))
    monkeypatch.setattr(sql_combined, "_PART", 40)
    monkeypatch.setattr(sql_combined, "_grouped_at_once", lambda connection, plan: 40)
    # Sums of floats follow the order of rows; which groups leave does not.
    assert [r["age"] for r in ran(statement, {"a": shuffled})] == [
        r["age"] for r in json.loads(whole)
    ]


def test_a_group_too_large_to_be_looked_at_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_combined, "_PART", 100)
    with refused(NoGroupLarge):
        ran(ATTACKS["two sums"], {"a": rows(3)})
    monkeypatch.setattr(sql_combined, "_PART", 300)
    assert ran(ATTACKS["two sums"], {"a": rows(3)})


def test_many_persons_take_little_memory() -> None:
    """R04: 1,200,000 persons, a part after the other, in the least that may be agreed on."""
    rng = np.random.default_rng(6)
    count = 1_200_000
    large = pa.table(
        {
            "patient": np.arange(count),
            "region": rng.integers(0, 3, count),
            "age": rng.integers(20, 90, count),
            "cost": rng.gamma(2, 100, count),
        }
    )
    statement = (
        "SELECT region, count(*) AS n, avg(age) AS g, sum(cost) AS s FROM a GROUP BY region "
        "ORDER BY region"
    )
    assert len(ran(statement, {"a": large}, memory_mebibytes=64)) == 3


def fewest(vectors: Vectors) -> int:
    """By trying: of how many rows a combination is not zero at least, where it is of any."""
    rank = np.linalg.matrix_rank(vectors)
    counts = []
    for chosen in itertools.combinations(range(len(vectors)), rank - 1):
        part = vectors[list(chosen)]
        if np.linalg.matrix_rank(part) < rank - 1:
            continue
        # What is zero for these, out of what is not zero for all.
        null = np.linalg.svd(np.vstack([part, np.zeros((1, vectors.shape[1]))]))[2][rank - 1 :]
        values = np.abs(vectors @ null.T).max(axis=1) if len(null) else np.zeros(len(vectors))
        counts.append(int((values > 1e-9).sum()))
    return min((count for count in counts if count), default=len(vectors))


SMALL = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda t: (1, *t)), min_size=2, max_size=14
)


@settings(deadline=None, max_examples=200)
@given(SMALL, st.integers(2, 5))
def test_a_combination_about_few_is_found(found: list[tuple[int, int, int]], k: int) -> None:
    """Against trying every combination that there is."""
    vectors = np.array(found, np.float64)
    if fewest(vectors) < k:
        assert about_few(vectors, k)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.integers(0, 3))
def test_the_bound_passes_nothing_that_is_about_few(seed: int, k: int, old: int) -> None:
    """Groups that are not looked at hold no combination of few."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(k, 400))
    cost, flag = rng.gamma(2, 100, count), rng.random(count) < 0.3
    less = np.where(np.arange(count) < old, 0, cost)
    vectors: Any = np.column_stack([np.ones(count), cost, less, flag]).astype(np.float64)
    bound = sql_combined._Bound()
    upper = np.triu_indices(4)
    bound.add(
        np.array([count, *(vectors.T @ vectors)[upper], *(vectors**2).max(axis=0)], np.float64)
    )
    assert bound.persons == count
    if bound.passes(k):
        assert not about_few(vectors, k)
