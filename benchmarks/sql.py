"""Agreed SQL over ten million rows, gate included, against plain DuckDB.

Measured: one thread each, from rows in memory to Python's values: connect, register, run, close.
`group by`: one input, a hundred groups. `join`: visits of a million persons joined to their wards,
two thousand groups, persons counted in both inputs. The best of several rounds that take turns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

# Also when this file is run by its path: `python benchmarks/sql.py`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import duckdb
import numpy as np
import pyarrow as pa

from enclave_app.computations import sql
from enclave_app.gate import Input
from policy.sections import Release

GOAL, ROUNDS = 0.7, 5
ROWS, PERSONS = 10_000_000, 1_000_000
CASES = {
    "group by": "SELECT code, count(*) AS n, sum(cost) AS s, avg(cost) AS m FROM visits "
    "GROUP BY code ORDER BY code",
    "join": "SELECT w.ward, v.code, count(*) AS n, sum(v.cost) AS s FROM visits AS v "
    "JOIN wards AS w USING (patient) GROUP BY w.ward, v.code ORDER BY w.ward, v.code",
}


def tables(rows: int = ROWS, persons: int = PERSONS) -> dict[str, pa.Table]:
    """Visits and wards of made-up persons."""
    random = np.random.default_rng(0)
    return {
        "visits": pa.table(
            {
                "patient": random.integers(0, persons, rows),
                "code": random.integers(0, 100, rows).astype(np.int32),
                "cost": random.gamma(2, 50, rows),
            }
        ),
        "wards": pa.table(
            {
                "patient": np.arange(persons),
                "ward": random.integers(0, 20, persons).astype(np.int32),
            }
        ),
    }


def plain(statement: str, given: dict[str, pa.Table]) -> float:
    """Seconds without lock, census or audit."""
    began = perf_counter()
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, table in given.items():
            connection.register(name, table)
        connection.execute(statement).fetchall()
    return perf_counter() - began


def ours(statement: str, given: dict[str, pa.Table], k: int = 100) -> float:
    """Seconds as in an enclave."""
    rule = Release.model_validate(
        {"outputs": ["table"], "min_subjects_per_input": k, "significant_digits": 6}
    )
    parameters = {"statement": statement, "max_groups": 10_000, "memory_mebibytes": 4096}
    inputs = {name: Input(table, "patient") for name, table in given.items()}
    began = perf_counter()
    sql.run(inputs, parameters | {"seconds": 600}, rule)
    return perf_counter() - began


def main() -> None:
    rows, results = tables(), {}
    for case, statement in CASES.items():
        given = {name: table for name, table in rows.items() if name in statement}
        pairs = [(plain(statement, given), ours(statement, given)) for _ in range(ROUNDS)]
        peer, mine = (min(times) for times in zip(*pairs, strict=True))
        results[case] = {
            "ours": round(mine, 3),
            "peer": round(peer, 3),
            "ratio": round(peer / mine, 3),
            "goal": GOAL,
            "unit": "s",
        }
    if "--json" in sys.argv:
        print(json.dumps(results))
    else:
        for case, found in results.items():
            print(f"{case}: {found['ours']} s, plain {found['peer']} s, ratio {found['ratio']}")


if __name__ == "__main__":
    main()
