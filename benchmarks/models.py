"""Models over a million rows of two inputs, gate included, against plain scikit-learn on them.

Measured: one thread each, rows in memory, the best of several rounds that take turns. Trees: a
hundred with 31 leaves, as `HistGradientBoostingClassifier` grows them from the pooled matrix; made
here of Arrow columns, in agreed steps, each leaf counted by persons of each input and class. Linear
regression: the model is a few passes over the rows, and what the gate asks is some more of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

# Also when this file is run by its path: `python benchmarks/models.py`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from enclave_app.computations import COMPUTATIONS
from enclave_app.gate import Input, require_groups
from policy.domains import Agreed
from policy.sections import Column, Release

GOALS = {"boosted_trees": 0.9, "linear_regression": 0.3}
ROUNDS, ROWS, K = 2, 1_000_000, 100
FEATURES = [f"f{i}" for i in range(12)]
AGREED = Agreed("benchmark", {n: Column(type="float64", min=-6, max=6) for n in FEATURES})


def table(seed: int, rows: int = ROWS // 2) -> pa.Table:
    """Made-up persons, one row each."""
    random = np.random.default_rng(seed)
    columns = np.clip(random.normal(0, 1.5, (len(FEATURES), rows)), -6, 6)
    cost = columns[0] + np.abs(columns[1]) * columns[2] + 2 * (columns[3] > 1)
    cost += random.normal(0, 2, rows)
    people = np.arange(rows) + seed * rows
    made = dict(zip(FEATURES, columns, strict=True))
    return pa.table({**made, "patient": people, "ill": cost > 1, "cost": cost})


def ours(run: str, inputs: dict[str, Input], parameters: dict[str, Any]) -> float:
    """Seconds as in an enclave, and the gate."""
    rule = Release.model_validate(
        {"outputs": ["model_weights"], "min_subjects_per_input": K, "significant_digits": 4}
    )
    given = parameters | {"features": FEATURES, "agreed": AGREED}
    began = perf_counter()
    require_groups(inputs, COMPUTATIONS[run].groups(inputs, given, rule), rule)
    COMPUTATIONS[run].run(inputs, given, rule)
    return perf_counter() - began


def main() -> None:
    inputs = {f"part_{seed}": Input(table(seed), "patient") for seed in (1, 2)}
    whole = pa.concat_tables([part for part, _ in inputs.values()])
    matrix = np.column_stack([whole.column(n).to_numpy() for n in FEATURES])
    ill, cost = whole.column("ill").to_numpy(), whole.column("cost").to_numpy()
    trees = HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=31, max_bins=250, early_stopping=False, min_samples_leaf=400
    )
    cases: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
        "boosted_trees": (
            {"label": "ill", "predict": "class", "trees": 100, "leaves": 31, "bins": 250,
             "learning_rate": 0.1},
            lambda: trees.fit(matrix, ill),
        ),
        "linear_regression": ({"label": "cost"}, lambda: LinearRegression().fit(matrix, cost)),
    }  # fmt: skip
    chosen = [name for name in cases if name in sys.argv] or list(cases)
    results = {}
    with threadpool_limits(limits=1):
        for case in chosen:
            parameters, plain = cases[case]
            mine, peer = [], []
            for _ in range(ROUNDS):
                began = perf_counter()
                plain()
                peer.append(perf_counter() - began)
                mine.append(ours(case, inputs, parameters))
            results[case] = {
                "ours": round(min(mine), 3),
                "peer": round(min(peer), 3),
                "ratio": round(min(peer) / min(mine), 3),
                "goal": GOALS[case],
                "unit": "s",
            }
    if "--json" in sys.argv:
        print(json.dumps(results))
    else:
        for case, found in results.items():
            print(f"{case}: {found['ours']} s, plain {found['peer']} s, ratio {found['ratio']}")


if __name__ == "__main__":
    main()
