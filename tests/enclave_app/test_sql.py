# ruff: noqa: S608 - statements are made of pieces
"""Agreed SQL inside: the locked engine, who is counted, and what a bad statement or row gets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from enclave_app.computations import sql, sql_census, sql_engine
from enclave_app.computations.sql import KeyNotPlain, NoGroupLarge
from enclave_app.computations.sql_engine import (
    FORBIDDEN,
    EngineNotLocked,
    StatementFailed,
    TableTooLarge,
    TableTooLong,
    engine,
    require_locked,
)
from enclave_app.computations.sql_plan import Plan, StatementNotUnderstood
from enclave_app.computations.sql_tables import register
from enclave_app.gate import Input
from policy.sections import Release
from policy.sql_check import require_statements
from tests.enclave_app.agreed import Agreed, computation
from tests.support.parties import Consortium
from tests.support.refusal import refused

CORPUS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors/sql/statements.json").read_text("utf-8")
)
LIMITS = {"max_groups": 500, "memory_mebibytes": 128, "seconds": 30}


def rule(k: int = 3) -> Release:
    made = {"outputs": ["table"], "min_subjects_per_input": k, "significant_digits": 6}
    return Release.model_validate(made)


def table(rows: Sequence[tuple[Any, ...]], **types: str) -> pa.Table:
    columns = [*zip(*rows, strict=True)]
    return pa.table(
        {
            name: pa.array(column, type_)
            for column, (name, type_) in zip(columns, types.items(), strict=True)
        }
    )


def visits(rows: Sequence[tuple[str, str, float]]) -> pa.Table:
    """Persons, their region, and what a visit cost."""
    return table(rows, patient="string", region="string", cost="double")


def many(region: str, count: int, first: int = 0, cost: float = 10.0) -> list[Any]:
    """So many persons of one visit each, whose costs differ."""
    return [(f"{region}-{first + i}", region, cost + i % 5) for i in range(count)]


def ran(
    statement: str, inputs: Mapping[str, pa.Table], *, k: int = 3, **values: Any
) -> list[dict[str, Any]]:
    given = {name: Input(rows, "patient") for name, rows in inputs.items()}
    parameters = LIMITS | {"statement": statement} | values
    found: list[dict[str, Any]] = sql.run(given, parameters, rule(k))["table"]["rows"]
    return found


COUNT = "SELECT region, count(*) AS n FROM a GROUP BY region ORDER BY region"
BOTH = (
    "WITH u AS (SELECT patient, region, cost FROM a UNION ALL SELECT patient, region, cost FROM b) "
)


# The lock.


def test_the_engine_refuses_what_it_must() -> None:
    """R03: at the start of every enclave whose policy has SQL."""
    assert len(FORBIDDEN) >= 10
    require_locked()


def test_an_engine_that_is_not_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A build in which one setting is lost does not start."""
    settings = sql_engine._SETTINGS | {"enable_external_access": True}
    monkeypatch.setattr(sql_engine, "_SETTINGS", settings)
    with refused(EngineNotLocked):
        require_locked()


@pytest.mark.parametrize(
    "statement",
    [
        "SET threads = 8",
        "RESET memory_limit",
        "SET lock_configuration = false",
        "SET max_execution_time = 0",
        "PRAGMA threads = 4",
    ],
)
def test_nothing_unlocks_it(statement: str) -> None:
    with refused(StatementFailed), engine(memory_mebibytes=64, seconds=5) as connection:
        connection.execute(statement)


def test_python_variables_are_not_tables() -> None:
    secret = pa.table({"a": [1]})
    assert len(secret) == 1
    with refused(StatementFailed), engine(memory_mebibytes=64, seconds=5) as connection:
        connection.execute("SELECT * FROM secret")


def test_only_agreed_columns_are_registered() -> None:
    """A column that the statement does not name is not there, whatever the row has."""
    rows = table([("p", "n", 1.0)], patient="string", region="string", cost="double")
    with engine(memory_mebibytes=64, seconds=5) as connection:
        register(connection, {"a": Input(rows, "patient")}, COUNT)
        found = connection.sql("SELECT * FROM ratls_rows_0").columns
    assert set(found) == {"patient", "region"}


def test_one_task_leaves_nothing_to_the_next() -> None:
    """R16."""
    with engine(memory_mebibytes=64, seconds=5) as connection:
        connection.execute("CREATE TABLE canary AS SELECT 1 AS a")
    with refused(StatementFailed), engine(memory_mebibytes=64, seconds=5) as connection:
        connection.execute("SELECT * FROM canary")


def test_error_says_nothing_of_a_value() -> None:
    """DuckDB's own text quotes it."""
    with refused(StatementFailed) as seen, engine(memory_mebibytes=64, seconds=5) as connection:
        connection.execute("SELECT CAST('alice' AS INT)")
    assert "alice" not in str(seen.error)
    assert seen.error.__cause__ is None


# Resource bombs.


def followed_by_the_next_task() -> None:
    assert ran(COUNT, {"a": visits(many("n", 5))}) == [{"region": "n", "n": 5}]


def test_cartesian_join_ends_at_its_time() -> None:
    """R04."""
    began = time.monotonic()
    with refused(TableTooLong), engine(memory_mebibytes=64, seconds=1) as connection:
        connection.execute("SELECT sum(a.i * b.i) FROM range(3000000) a(i), range(3000000) b(i)")
    assert time.monotonic() - began < 60
    followed_by_the_next_task()


def test_endless_recursion_ends_at_its_time() -> None:
    """R04."""
    with refused(TableTooLong), engine(memory_mebibytes=64, seconds=1) as connection:
        connection.execute(
            "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a FROM r) SELECT count(*) FROM r"
        )
    followed_by_the_next_task()


def test_a_billion_groups_end_at_their_memory() -> None:
    """R04."""
    with refused(TableTooLarge), engine(memory_mebibytes=64, seconds=60) as connection:
        connection.execute("SELECT count(*) FROM (SELECT i FROM range(1000000000) a(i) GROUP BY i)")
    followed_by_the_next_task()


def test_more_groups_than_agreed() -> None:
    """R04."""
    with refused(TableTooLarge):
        ran(
            "SELECT cost, count(*) AS n FROM a GROUP BY cost ORDER BY cost",
            {"a": visits([(f"p{i}", "n", float(i)) for i in range(50)])},
            max_groups=49,
        )
    followed_by_the_next_task()


@pytest.mark.parametrize(
    "function", ["repeat(region, 2000000000)", "lpad(region, 2000000000, 'x')"]
)
def test_text_that_no_limit_bounds_is_never_made(function: str) -> None:
    """R04: memory_limit does not hold for one long text; the list of functions does."""
    with refused(StatementNotUnderstood):
        ran(f"SELECT sum(length({function})) AS n FROM a", {"a": visits(many("n", 5))})
    followed_by_the_next_task()


# The plan: the engine's own parser, and a list of its own.


def test_the_corpus_runs_or_is_refused() -> None:
    """What signers refuse, the enclave does not run either, if it ever stood in a policy."""
    ran_anyway = set()
    with engine(memory_mebibytes=64, seconds=5) as connection:
        for case in CORPUS["refused"]:
            try:
                Plan.of(connection, case["statement"], case["inputs"])
            except (StatementNotUnderstood, duckdb.Error):
                continue
            ran_anyway.add((case["attack"], case["reason"].split()[0]))
    # Columns are bound later, when they are not there; names and comments change nothing here.
    assert ran_anyway <= {
        ("not agreed", "column"),
        ("not agreed", "$other"),
        ("not agreed", "a"),
        ("groups that hide", "a"),
    }


def world() -> dict[str, pa.Table]:
    """Rows for the statements of the corpus."""
    random = np.random.default_rng(7)
    n = 400
    seen = [datetime(2024 + i % 2, 1 + i % 12, 1 + i % 28, tzinfo=UTC) for i in range(n)]
    visited = pa.table(
        {
            "patient": [f"p{i}" for i in range(n)],
            "region": random.choice(["north", "south"], n).tolist(),
            "sex": random.choice(["f", "m"], n).tolist(),
            "age": pa.array(random.integers(18, 91, n), pa.int64()),
            "cost": pa.array(random.gamma(2, 100, n)),
            "seen": pa.array(seen, pa.timestamp("us", tz="UTC")),
            "gap": pa.array([None if i % 3 else float(i % 7) for i in range(n)], pa.float64()),
        }
    )
    stayed = pa.table(
        {
            "patient": [f"p{i}" for i in range(0, n, 2)],
            "ward": random.choice(["a", "b"], n // 2).tolist(),
            "days": pa.array(random.integers(1, 30, n // 2), pa.int64()),
            "region": random.choice(["north", "south"], n // 2).tolist(),
        }
    )
    return {"visits": visited, "stays": stayed}


@pytest.mark.parametrize("case", CORPUS["accepted"], ids=lambda case: case["statement"][:60])
def test_agreed_statement_gives_what_plain_duckdb_gives(case: dict[str, Any]) -> None:
    """The groups that leave have the values that the statement has without any gate."""
    rows = world()
    values = {"least": 20} if case["parameters"] else {}
    given = {name: rows[name] for name in case["inputs"]}
    found = ran(case["statement"], given, **values)
    with duckdb.connect(config={"threads": 1}) as plain:
        for name, content in given.items():
            plain.register(name, content)
        relation = plain.sql(case["statement"], params=values or None)
        wanted = [
            {
                n: v.isoformat() if isinstance(v, datetime) else v
                for n, v in row.items()
                if v is not None
            }
            for row in relation.to_arrow_table().to_pylist()
        ]
    assert len(found) >= 1
    for row in found:
        assert any(
            row.keys() == other.keys()
            and all(
                row[n] == pytest.approx(float(other[n]) if isinstance(row[n], float) else other[n])
                if isinstance(row[n], float)
                else row[n] == other[n]
                for n in row
            )
            for other in wanted
        )


def test_two_runs_are_equal_bit_for_bit() -> None:
    """R15: sums of floats in one order, so that a receipt's digest can be had again."""
    rows = visits([(f"p{i}", "ns"[i % 2], 0.1 * (i % 977)) for i in range(20_000)])
    statement = (
        "SELECT region, sum(cost) AS s, avg(cost) AS m FROM a GROUP BY region ORDER BY region"
    )
    assert json.dumps(ran(statement, {"a": rows})) == json.dumps(ran(statement, {"a": rows}))


# Who is counted.


def test_group_below_k() -> None:
    """R05: two of three persons; the other group leaves alone."""
    rows = visits(many("n", 5) + many("s", 2))
    assert ran(COUNT, {"a": rows}) == [{"region": "n", "n": 5}]
    rows = visits(many("n", 5) + many("s", 3))
    assert len(ran(COUNT, {"a": rows})) == 2


def test_no_group_large_enough() -> None:
    """R05."""
    with refused(NoGroupLarge):
        ran(COUNT, {"a": visits(many("n", 2) + many("s", 2))})


def test_rows_of_one_person_are_one() -> None:
    """R06: the statement counts visits; the enclave counts who made them."""
    rows = visits(many("n", 5) + [("one", "s", float(i)) for i in range(9)])
    assert ran(COUNT, {"a": rows}) == [{"region": "n", "n": 5}]


def test_the_statements_own_count_is_not_believed() -> None:
    """R06: nine different costs of one person."""
    statement = "SELECT region, count(DISTINCT cost) AS n FROM a GROUP BY region ORDER BY region"
    rows = visits(many("n", 5) + [("one", "s", float(i)) for i in range(9)])
    assert ran(statement, {"a": rows}) == [{"region": "n", "n": 5}]


def test_persons_of_one_providers_making() -> None:
    """R06: Bob fills Alice's small group, and would subtract his own rows."""
    statement = BOTH + "SELECT region, count(*) AS n FROM u GROUP BY region ORDER BY region"
    small = {"a": visits(many("n", 5) + many("s", 1)), "b": visits(many("n", 5) + many("s", 50))}
    assert ran(statement, small) == [{"region": "n", "n": 10}]
    large = {"a": visits(many("n", 5) + many("s", 3)), "b": visits(many("n", 5) + many("s", 50))}
    assert len(ran(statement, large)) == 2


def test_join_counts_the_persons_of_each_side() -> None:
    """Many rows of Alice that meet one person of Bob are about that one."""
    statement = (
        "SELECT b.region, count(*) AS n FROM a JOIN b ON a.region = b.region "
        "GROUP BY b.region ORDER BY b.region"
    )
    a = visits([*many("n", 5), *many("s", 5), *many("e", 5)])
    rows = {"a": a, "b": visits([*many("n", 4), *many("s", 1), *many("e", 1)])}
    assert ran(statement, rows) == [{"region": "n", "n": 20}]


def test_rows_without_a_match_are_about_nobody_of_the_other_side() -> None:
    """R05: that Bob has nobody in the south is a statement about all of his persons."""
    statement = (
        "SELECT a.region, count(*) AS n FROM a LEFT JOIN b USING (patient) "
        "GROUP BY a.region ORDER BY a.region"
    )
    rows = {"a": visits([*many("n", 5), *many("s", 5), *many("e", 5)]), "b": visits(many("n", 4))}
    assert ran(statement, rows) == [{"region": "n", "n": 5}]


def test_persons_behind_an_inner_group() -> None:
    """A mean for each person is still about persons."""
    statement = (
        "WITH p AS (SELECT patient, region, avg(cost) AS c FROM a GROUP BY patient, region) "
        "SELECT region, avg(c) AS m FROM p GROUP BY region ORDER BY region"
    )
    rows = visits(many("n", 5) + [("one", "s", float(i)) for i in range(9)])
    assert [row["region"] for row in ran(statement, {"a": rows})] == ["n"]


def test_value_of_one_person_by_a_case() -> None:
    """R09: a sum over a group of many, zero for all but one of them, is that one's value."""
    statement = "SELECT sum(CASE WHEN cost > 100 THEN cost ELSE 0 END) AS s FROM a"
    with refused(NoGroupLarge):
        ran(statement, {"a": visits([*many("n", 20), ("rich", "n", 1000.0)])})
    several = [(f"rich-{i}", "n", 1000.0 + i) for i in range(3)]
    assert ran(statement, {"a": visits([*many("n", 20), *several])}) == [{"s": 3003.0}]


def test_one_person_dominates_a_sum() -> None:
    statement = "SELECT sum(cost) AS s FROM a"
    with refused(NoGroupLarge):
        ran(statement, {"a": visits([*many("n", 20), ("rich", "n", 10_000.0)])})
    assert len(ran(statement, {"a": visits(many("n", 20))})) == 1


def test_the_few_without_a_value() -> None:
    """R08: count(*) less count(cost) is how many lack it."""
    statement = "SELECT count(*) AS n, count(cost) AS c FROM a"
    lacking: list[Any] = [("x", "n", None), ("y", "n", None)]
    with refused(NoGroupLarge):
        ran(statement, {"a": visits(many("n", 9) + lacking)})
    assert ran(statement, {"a": visits([*many("n", 9), *lacking, ("z", "n", None)])}) == [
        {"n": 12, "c": 9}
    ]


def test_value_that_all_have() -> None:
    """The sum would tell it of every person."""
    with refused(NoGroupLarge):
        ran("SELECT sum(cost) AS s FROM a", {"a": visits([(f"p{i}", "n", 7.0) for i in range(9)])})


def test_the_agreed_order() -> None:
    rows = {"a": visits(many("n", 5) + many("s", 4) + many("e", 6))}
    down = COUNT + " DESC"
    assert [row["region"] for row in ran(down, rows)] == ["s", "n", "e"]
    by_count = COUNT.replace("ORDER BY region", "ORDER BY n DESC, region")
    assert [row["region"] for row in ran(by_count, rows)] == ["e", "n", "s"]


def test_hidden_values_are_not_in_the_result() -> None:
    """R10, R11: the document is made of the rows that leave, not of a table with holes."""
    found = json.dumps(ran(COUNT, {"a": visits([*many("n", 5), *many("canary", 2)])}))
    assert "canary" not in found


# Totals.

ROLLUP = (
    "SELECT region, sex, count(*) AS n FROM a GROUP BY ROLLUP (region, sex) ORDER BY region, sex"
)


def persons(**counts: int) -> pa.Table:
    rows = [
        (f"{cell}-{i}", cell[0], cell[1]) for cell, count in counts.items() for i in range(count)
    ]
    return table(rows, patient="string", region="string", sex="string")


def test_hidden_cell_is_not_the_total_less_its_neighbours() -> None:
    """R08: one small cell; with its neighbour and the total of both it would be computed."""
    found = ran(ROLLUP, {"a": persons(nf=20, nm=1, sf=20, sm=20)})
    cells = {(row.get("region"), row.get("sex")): row["n"] for row in found}
    assert ("n", "m") not in cells
    assert not {("n", "f"), ("n", None)} <= set(cells)
    assert cells[("s", "f")] == 20


def test_totals_without_a_small_cell_all_leave() -> None:
    assert len(ran(ROLLUP, {"a": persons(nf=20, nm=20, sf=20, sm=20)})) == 7


def test_provider_who_subtracts_its_own_rows_from_totals() -> None:
    """R06, R08: Bob knows his part of each cell, so an interval is narrower for him."""
    statement = (
        "WITH u AS (SELECT patient, region, sex FROM a UNION ALL SELECT patient, region, sex "
        "FROM b) " + ROLLUP.replace(" a ", " u ")
    )
    bob = persons(nf=100, nm=100, sf=100, sm=100)
    found = ran(statement, {"a": persons(nf=20, nm=1, sf=20, sm=20), "b": bob})
    cells = {(row.get("region"), row.get("sex")): row["n"] for row in found}
    assert not {("n", "f"), ("n", None)} <= set(cells)
    assert ("n", "m") not in cells


def test_key_that_is_missing_beside_totals() -> None:
    """A missing region would look like the total over regions."""
    rows = table(
        [(f"p{i}", None, "f") for i in range(9)], patient="string", region="string", sex="string"
    )
    with refused(KeyNotPlain):
        ran(ROLLUP, {"a": rows})


def test_order_of_rows_says_nothing() -> None:
    """R15: the same persons in another order are the same table."""
    rows = many("n", 5) + many("s", 5)
    assert ran(COUNT, {"a": visits(rows)}) == ran(COUNT, {"a": visits(rows[::-1])})


# Joins: what each side knows.

WARDS = (
    "SELECT a.region, b.region AS ward, count(*) AS n FROM a LEFT JOIN b USING (patient) "
    "GROUP BY a.region, b.region ORDER BY a.region, ward"
)


def met(**counts: int) -> dict[str, pa.Table]:
    """So many persons of a region of Alice's who are in a ward of Bob's."""
    who = [(f"{cell}-{i}", cell) for cell, count in counts.items() for i in range(count)]
    return {
        "a": visits([(person, cell[0], 1.0) for person, cell in who]),
        "b": visits([(person, cell[1], 1.0) for person, cell in who]),
    }


def subtracted(found: Sequence[Mapping[str, Any]], rows: Mapping[str, pa.Table]) -> dict[str, int]:
    """What Alice computes who knows the regions of her persons, and that all of them have a match:
    in each region the persons who are missing, where she can tell their ward."""
    wards = set(rows["b"].column("region").to_pylist())
    mine = rows["a"].column("region").to_pylist()
    told = {}
    for region in set(mine):
        shown = {row["ward"]: row["n"] for row in found if row["region"] == region}
        if shown and len(wards - set(shown)) == 1:
            told[region + min(wards - set(shown))] = mine.count(region) - sum(shown.values())
    return told


def test_provider_who_subtracts_the_table_from_its_own_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R06, R08: Alice knows how many persons each of her regions has. What the table does not say
    of a region is who is in the one ward that is hidden."""
    rows = met(nx=20, ny=1, sx=20, sy=20, ex=20, ey=20)
    with monkeypatch.context() as before:
        before.setattr(sql_census, "_joined", lambda measure: False)
        assert subtracted(ran(WARDS, rows), rows) == {"ny": 1}
    found = ran(WARDS, rows)
    assert subtracted(found, rows) == {}
    assert len(found) >= 1


def test_join_in_which_nothing_is_hidden_all_leaves() -> None:
    assert len(ran(WARDS, met(nx=20, ny=20, sx=20, sy=20))) == 4


def test_several_hidden_groups_of_a_margin_hide_each_other() -> None:
    """Two of two persons: which of them is where, nobody can tell."""
    rows = met(nx=20, ny=2, nz=2, sx=20, sy=2, sz=2)
    found = ran(WARDS, rows)
    assert {(row["region"], row["ward"]) for row in found} == {("n", "x"), ("s", "x")}


def test_totals_over_a_join() -> None:
    """R08: what each side could derive of hidden cells is not bounded, so nothing is computed."""
    totals = (
        "SELECT a.region, b.region AS ward, count(*) AS n FROM a JOIN b USING (patient) "
        "GROUP BY ROLLUP (a.region, b.region) ORDER BY a.region, ward"
    )
    with refused(StatementNotUnderstood):
        ran(totals, met(nx=20, ny=20))


# As it is agreed, and as the page has it.


def test_the_worked_policy_of_the_page() -> None:
    """From the text in docs/computations.md to what the recipient opens."""
    page = (Path(__file__).parents[2] / "docs/computations.md").read_text("utf-8")
    section = page.partition("## sql\n")[2].partition("```toml\n")[2].partition("```")[0]
    consortium = Consortium.create()
    text = section.replace('id = "example"', 'id = "train"').replace("= 100,", "= 5,")
    agreed = Agreed(consortium, consortium.policy(computation=text))
    require_statements(agreed.policy)
    columns = {"patient": "string", "age": "int64", "bmi": "double", "y": "int64"}
    parts = [
        table([(f"{who}{i}", 30 + i % 3, 20.0, i % 2) for i in range(30)], **columns)
        for who in "ab"
    ]
    answer = agreed.answer(*parts)
    assert answer["table"]["rows"] == [{"age": age, "persons": 20} for age in (30, 31, 32)]
    assert agreed.document(*parts) == agreed.document(*parts)
    assert len(agreed.document(*parts)) == len(agreed.document(*[p.slice(0, 18) for p in parts]))


def test_refusal_by_rows_looks_like_every_other() -> None:
    """The recipient is told that there is no table; which rule, and by whose rows, nobody is."""
    consortium = Consortium.create()
    section = computation("sql", f"statement = {json.dumps(COUNT_AGES)}, {ENGINE}", ["table"])
    agreed = Agreed(consortium, consortium.policy(computation=section))
    columns = {"patient": "string", "age": "int64", "bmi": "double", "y": "int64"}
    few = [table([(f"{who}{i}", i, 20.0, 1) for i in range(9)], **columns) for who in "ab"]
    assert agreed.answer(*few) == "no-group-large"
    same = [table([(f"{who}{i}", 1, 20.0, 1) for i in range(9)], **columns) for who in "ab"]
    assert agreed.answer(*same)["table"]["rows"] == [{"age": 1, "n": 18}]


COUNT_AGES = (
    "WITH u AS (SELECT patient, age FROM train_party_1 UNION ALL SELECT patient, age "
    "FROM train_party_2) SELECT age, count(*) AS n FROM u GROUP BY age ORDER BY age"
)
ENGINE = "max_groups = 50, memory_mebibytes = 64, seconds = 20"
