"""What a recipient, or a provider who is one, gets out of a released model: before and after.

Each attack is run on what the computation would say without its rules, where it works, and on what
it releases, where it does not. The attacker knows all features of everybody, the agreed policy and
the model; what is asked for is one person's label or row (R05, R06, R18; claims S24, S25).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy.optimize import lsq_linear

from enclave_app.computations import k_means, linear_regression
from enclave_app.computations.boosted_trees import NoLeafLarge, TooManyLeaves, score, steps
from enclave_app.computations.groups import ValueTooRare
from enclave_app.computations.tree_grower import Plan, grown
from enclave_app.gate import Input, SubjectDominates, rounded
from policy.domains import Agreed
from policy.sections import Column
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_boosted_trees import Everything
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import count_refusal, refused

K, SEEDS = 20, 10
RULE = Rule(outputs=("model_weights",), min_subjects_per_input=K)
REGIONS = ["north", "south", "islands"]
AGREED = Agreed(
    "study",
    {
        **{n: Column.model_validate({"type": "float64", "min": -4, "max": 4}) for n in "abc"},
        "region": Column.model_validate({"type": "string", "values": REGIONS}),
    },
)


def rows(seed: int, count: int = 600, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    a, b, c = np.clip(rng.normal(0, 1.3, (3, count)), -4, 4)
    ill = a - b + rng.normal(0, 1.5, count) > 0
    made = {"a": a, "b": b, "c": c, "ill": ill, "dose": 10 * a + rng.normal(0, 5, count)}
    return pa.table({**made, "patient": [f"{seed}-{i}" for i in range(count)]} | columns)


def islands(seed: int, carriers: int) -> pa.Table:
    """So few persons live on the islands."""
    region = np.array(["north", "south"] * 300, dtype=object)
    region[:carriers] = "islands"
    return rows(seed, region=region.tolist())


# The label of the only person with a rare value, out of a linear model.


@pytest.mark.parametrize("seed", range(SEEDS))
def test_label_of_the_only_islander(seed: int) -> None:
    """Least squares goes exactly through whoever has a coefficient of their own."""
    tables = [rows(100 + seed, region=["north", "south"] * 300), islands(seed, 1)]
    parameters = {"features": ["a", "region"], "label": "dose", "agreed": AGREED}
    given = {str(i): Input(table, "patient") for i, table in enumerate(tables)}
    model = rounded(linear_regression.run(given, parameters, RULE)["model_weights"], 6)
    a = tables[1].column("a")[0].as_py()
    # a, region=south, region=islands
    told = model["intercept"] + model["coefficients"][0] * a + model["coefficients"][2]
    assert told == pytest.approx(tables[1].column("dose")[0].as_py(), abs=1e-3)
    with refused(ValueTooRare):
        gated("linear_regression", [islands(100 + seed, 60), tables[1]], parameters, RULE)
    many = [islands(100 + seed, 60), islands(seed, 60)]
    assert gated("linear_regression", many, parameters, RULE)


def test_label_of_the_only_person_far_out() -> None:
    """A dose a thousand times the others': its person is the model."""
    one = rows(1)
    dose = one.column("dose").to_numpy().copy()
    dose[0] = 50_000
    tables = [one.set_column(4, "dose", pa.array(dose)), rows(2)]
    parameters = {"features": ["a"], "label": "dose", "agreed": AGREED}
    with refused(SubjectDominates):
        gated("linear_regression", tables, parameters, RULE)
    assert gated("linear_regression", [one, rows(2)], parameters, RULE)


# Labels out of trees.


def matrix(table: pa.Table, bins: int) -> npt.NDArray[np.uint8]:
    columns = [steps(table.column(n).to_numpy(), -4, 4, bins) for n in "abc"]
    return np.asfortranarray(np.column_stack(columns))


def free(table: pa.Table, plan: Plan, digits: int) -> dict[str, Any]:
    """A model without any rule about leaves, rounded."""
    target = table.column("ill").to_numpy().astype(float)
    forest = grown(matrix(table, plan.bins), target, plan, Everything())
    found = {"baseline": forest.baseline, "trees": forest.trees, "bins": plan.bins}
    short: dict[str, Any] = rounded(found, digits)
    return short


def solved_labels(
    model: dict[str, Any], binned: npt.NDArray[np.uint8], rate: float
) -> npt.NDArray[np.bool_]:
    """Each leaf is an equation: how many of its rows are ill. All of them at once, with labels
    between 0 and 1, are solved by least squares."""
    size = len(binned)
    said, left, right = np.full(size, model["baseline"]), [], []
    for tree in model["trees"]:
        places = tree | {"value": [float(i) for i in range(len(tree["value"]))]}
        leaf = score(model | {"baseline": 0.0, "trees": [places]}, binned).astype(int)
        likely = 1 / (1 + np.exp(-said))
        for place in np.unique(leaf):
            inside = leaf == place
            curve = float((likely[inside] * (1 - likely[inside])).sum())
            ill = float(likely[inside].sum()) + tree["value"][place] * curve / rate
            # Small leaves are known better.
            left.append(inside / inside.sum())
            right.append(ill / inside.sum())
        said += np.array(tree["value"])[leaf]
    found = lsq_linear(np.array(left), np.array(right), bounds=(0, 1), max_iter=60)
    return found.x > 0.5


def test_labels_of_everybody_out_of_as_many_leaves() -> None:
    """R18: with three leaves for each person nearly all labels are solved for; by the rules of the
    policy and the gate, no more than the model says of anybody who was not in it."""
    table = rows(7, 300)
    plan = Plan(classes=True, trees=60, leaves=16, bins=64, learning_rate=0.1, least_rows=1)
    binned = matrix(table, 64)
    labels = table.column("ill").to_numpy()
    told = solved_labels(free(table, plan, 6), binned, 0.1)
    assert np.mean(told == labels) > 0.97
    parameters = {"features": [*"abc"], "label": "ill", "predict": "class", "agreed": AGREED}
    parameters |= {"bins": 64, "learning_rate": 0.1}
    with refused(TooManyLeaves):
        gated(
            "boosted_trees", [table, rows(8, 300)], parameters | {"trees": 60, "leaves": 16}, RULE
        )
    tables = [rows(7, 800), rows(8, 800)]
    released = gated("boosted_trees", tables, parameters | {"trees": 20, "leaves": 4}, RULE)
    model = rounded(released["model_weights"], 4)
    both = pa.concat_tables(tables)
    told = solved_labels(model, matrix(both, 64), 0.1)
    inside = float(np.mean(told == both.column("ill").to_numpy()))
    new = rows(9, 1600)
    outside = float(np.mean((score(model, matrix(new, 64)) > 0) == new.column("ill").to_numpy()))
    assert inside < outside + 0.05


def test_labels_that_were_thrown_by_a_coin_are_not_remembered() -> None:
    """R18: canaries far from everybody else. Who remembers them answers for each as it was."""
    before, after = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, 3])
        one, coin = rows(seed, 1000), rng.random(12) < 0.5
        a, b, ill = (one.column(n).to_numpy(zero_copy_only=False).copy() for n in ("a", "b", "ill"))
        a[:12], b[:12], ill[:12] = 3.9, np.linspace(-3.9, 3.9, 12), coin
        planted = rows(seed, 1000, a=a, b=b, ill=ill)
        plan = Plan(classes=True, trees=40, leaves=32, bins=64, learning_rate=0.3, least_rows=1)
        canaries = matrix(planted.slice(0, 12), 64)
        before.append((score(free(planted, plan, 6), canaries) > 0) == coin)
        parameters = {"features": [*"abc"], "label": "ill", "predict": "class", "agreed": AGREED}
        parameters |= {"trees": 20, "leaves": 5, "bins": 64, "learning_rate": 0.3}
        released = gated("boosted_trees", [planted, rows(50 + seed, 1000)], parameters, RULE)
        after.append((score(released["model_weights"], canaries) > 0) == coin)
    assert np.mean(before) > 0.95
    assert np.mean(after) < 0.65
    count_refusal()


def test_class_that_one_side_of_every_split_has_alone() -> None:
    """A leaf of forty who are all ill says so of each of them; no split leaves others."""
    table = rows(3, 800)
    other = rows(4, 800)
    tables = [rows(s, 800, ill=t.column("a").to_numpy() > 0) for s, t in ((3, table), (4, other))]
    parameters = {"features": ["a"], "label": "ill", "predict": "class", "agreed": AGREED}
    parameters |= {"trees": 20, "leaves": 2, "bins": 2, "learning_rate": 0.3}
    with refused(NoLeafLarge):
        gated("boosted_trees", tables, parameters, RULE)
    assert gated("boosted_trees", [table, other], parameters, RULE)


# A row out of a cluster.


def test_row_of_a_person_who_is_a_cluster() -> None:
    """R05: the centre of a cluster of one is that person's row."""
    one = rows(5)
    near = np.column_stack([one.column(n).to_numpy() for n in "ab"]) / 8
    near[0] = 4.0, -4.0
    planted = rows(5, a=near[:, 0], b=near[:, 1])
    centres = k_means.fit(k_means.scaled(near, [(-4, 4)] * 2), clusters=4, max_iter=900)
    assert np.isclose(centres * 8 - 4, [4.0, -4.0]).all(axis=1).any()  # it is told
    parameters = {"features": ["a", "b"], "clusters": 4, "max_iter": 900, "agreed": AGREED}
    with refused(SubjectDominates):
        gated("k_means", [planted, rows(6)], parameters, RULE)
    # Five persons dominate nothing, and a provider that is four of them would know the fifth.
    near[:5] = 4.0, -4.0
    near[5:] *= 8
    few = rows(5, a=np.clip(near[:, 0], -1, 1), b=near[:, 1])
    model = gated("k_means", [few, rows(6)], parameters, RULE)["model_weights"]
    for table in (few, rows(6)):
        points = np.column_stack([table.column(n).to_numpy() for n in "ab"])
        far = ((points[:, None] - np.array(model["centres"])) ** 2).sum(axis=2)
        assert np.bincount(far.argmin(axis=1)).min() >= K
