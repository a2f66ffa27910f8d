"""Clusters: those of another implementation, and none that is about few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris

from enclave_app.computations.groups import ColumnConstant
from enclave_app.computations.k_means import (
    ClustersNotSettled,
    NoClusterLarge,
    fit,
    scaled,
    settled,
)
from policy.domains import Agreed
from policy.sections import Column
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused

RULE = Rule(outputs=("model_weights", "counts"), min_subjects_per_input=20)
SPOTS = np.array([[20.0, 20.0], [50.0, 80.0], [80.0, 30.0]])
AGREED = Agreed("heart-study", {n: Column(type="float64", min=0, max=100) for n in ("a", "b")})


def rows(sizes: tuple[int, ...] = (60, 60, 60), seed: int = 1, spots: Any = SPOTS) -> pa.Table:
    rng = np.random.default_rng(seed)
    spot = np.repeat(np.arange(len(sizes)), sizes)
    points = spots[spot] + rng.normal(0, 4, (len(spot), 2))
    people = [f"p{seed}-{i}" for i in range(len(spot))]
    return pa.table({"a": points[:, 0], "b": points[:, 1], "patient": people})


def answer(*tables: pa.Table, **change: Any) -> dict[str, Any]:
    parameters = {"features": ["a", "b"], "clusters": 3, "max_iter": 300, "agreed": AGREED}
    return gated("k_means", tables, parameters | change, RULE)


def test_clusters_of_real_data_are_those_of_plain_sklearn() -> None:
    """An independent path; on iris, three clusters have one least sum of squares."""
    data = load_iris().data
    matrix = scaled(data, [(4, 8), (2, 5), (1, 7), (0, 3)])
    ours = fit(matrix, clusters=3, max_iter=300)
    plain = KMeans(3, n_init=20, tol=0, random_state=1).fit(matrix).cluster_centers_
    assert np.allclose(ours[np.lexsort(ours.T)], plain[np.lexsort(plain.T)], atol=1e-6)


def test_from_one_start_each_step_is_that_of_plain_sklearn() -> None:
    matrix = np.random.default_rng(3).uniform(0, 1, (500, 4))
    start = matrix[:6]
    plain = KMeans(6, init=start, n_init=1, tol=0, max_iter=300).fit(matrix).cluster_centers_
    assert np.allclose(settled(matrix, start, 300), plain, atol=1e-9)


def test_centres_and_how_many_persons_each_holds() -> None:
    found = answer(rows(seed=1), rows((30, 60, 90), seed=2))
    assert np.allclose(found["model_weights"]["centres"], SPOTS, atol=2)
    assert found["model_weights"]["ranges"] == [["0.0", "100.0"]] * 2
    assert found["counts"] == {"subjects": [90, 120, 150]}


def test_the_same_for_any_order_of_rows() -> None:
    """R15: rows in another order would start elsewhere, and end in other last digits."""
    one, two = rows(seed=1), rows(seed=2)
    turned = one.take(np.random.default_rng(1).permutation(len(one)))
    assert answer(one, two) == answer(turned, two) == answer(one, two)


def test_small_cluster_is_dissolved() -> None:
    """R05: of three clusters, the third holds few of one input; its mean would be theirs."""
    few = rows((100, 100, 5), seed=2)
    found = answer(rows((100, 100, 50), seed=1), few)
    assert len(found["model_weights"]["centres"]) == 2
    assert sum(found["counts"]["subjects"]) == 455
    many = rows((100, 100, 25), seed=2)
    assert len(answer(rows((100, 100, 50), seed=1), many)["model_weights"]["centres"]) == 3


def test_cluster_that_one_input_has_alone_is_dissolved() -> None:
    """Who sees a cluster without own rows knows that the mean is the other's."""
    found = answer(rows((100, 100, 0), seed=1), rows((100, 100, 60), seed=2))
    assert len(found["model_weights"]["centres"]) == 2


def test_cluster_of_many_rows_and_few_persons_is_dissolved() -> None:
    """R06: rows are not persons."""
    table = rows((100, 100, 60), seed=2)
    people = table.column("patient").to_pylist()
    one = table.set_column(2, "patient", pa.array(people[:200] + ["v1", "v2", "v3"] * 20))
    found = answer(rows((100, 100, 60), seed=1), one)
    assert len(found["model_weights"]["centres"]) == 2


def test_no_two_clusters_are_large_enough() -> None:
    with refused(NoClusterLarge):
        answer(rows((100, 5), seed=1), rows((100, 5), seed=2), clusters=2)
    assert answer(rows((100, 50), seed=1), rows((100, 50), seed=2), clusters=2)


def test_column_that_is_constant_in_one_input() -> None:
    one = rows(seed=1)
    with refused(ColumnConstant):
        answer(one.set_column(1, "b", pa.array([5.0] * 180)), rows(seed=2))


def test_centres_that_still_move() -> None:
    with refused(ClustersNotSettled):
        answer(rows(seed=1), rows(seed=2), max_iter=1)


@pytest.mark.parametrize("clusters", [2, 5, 50])
def test_whatever_leaves_holds_enough_persons(clusters: int) -> None:
    """The kind: of rows without any structure, too."""
    rng = np.random.default_rng(clusters)
    tables = [
        pa.table(
            {
                "a": rng.uniform(0, 100, 400),
                "b": rng.uniform(0, 100, 400),
                "patient": [f"{i}-{p}" for p in range(400)],
            }
        )
        for i in (1, 2)
    ]
    found = answer(*tables, clusters=clusters)
    centres = np.array(found["model_weights"]["centres"])
    assert 2 <= len(centres) <= clusters
    for table in tables:
        points = np.column_stack([table.column(n).to_numpy() for n in ("a", "b")])
        nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        assert np.bincount(nearest, minlength=len(centres)).min() >= 19
