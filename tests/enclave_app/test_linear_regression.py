"""Least squares: the values that others certify, and refusals where they are not determined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from enclave_app.computations.features import FeatureConstant
from enclave_app.computations.groups import ValueTooRare
from enclave_app.computations.linear_regression import FeaturesCollinear, fit
from enclave_app.computations.metrics import TooFewToTest
from enclave_app.errors import NumbersOutOfRange
from enclave_app.gate import Input, SubjectDominates
from policy.domains import Agreed
from policy.sections import Column
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused

# Longley's data and certified values: NIST Statistical Reference Datasets, linear regression,
# "Longley" (higher level of difficulty): https://www.itl.nist.gov/div898/strd/lls/data/Longley.shtml
LONGLEY = """
60323 83.0 234289 2356 1590 107608 1947
61122 88.5 259426 2325 1456 108632 1948
60171 88.2 258054 3682 1616 109773 1949
61187 89.5 284599 3351 1650 110929 1950
63221 96.2 328975 2099 3099 112075 1951
63639 98.1 346999 1932 3594 113270 1952
64989 99.0 365385 1870 3547 115094 1953
63761 100.0 363112 3578 3350 116219 1954
66019 101.2 397469 2904 3048 117388 1955
67857 104.6 419180 2822 2857 118734 1956
68169 108.4 442769 2936 2798 120445 1957
66513 110.8 444546 4681 2637 121950 1958
68655 112.6 482704 3813 2552 123366 1959
69564 114.2 502601 3931 2514 125368 1960
69331 115.7 518173 4806 2572 127852 1961
70551 116.9 554894 4007 2827 130081 1962
"""
CERTIFIED = [
    15.0618722713733, -0.358191792925910e-1, -2.02022980381683, -1.03322686717359,
    -0.511041056535807e-1, 1829.15146461355,
]  # fmt: skip
CERTIFIED_INTERCEPT = -3482258.63459582
FEATURES = ["a", "b", "c"]
REGIONS = ("north", "south", "west")
RULE = Rule(outputs=("model_weights", "metrics", "counts"), min_subjects_per_input=20)


def rows(count: int = 400, seed: int = 1, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {name: rng.normal(5, 3, count) for name in FEATURES}
    region = rng.integers(0, 3, count)
    y = values["a"] - 2 * values["b"] + 4 * region + rng.normal(0, 1, count)
    values |= {"y": y, "region": [REGIONS[i] for i in region]}
    values["patient"] = [f"p{seed}-{i}" for i in range(count)]
    return pa.table(values | columns)


def agreed() -> Agreed:
    columns = {name: Column(type="float64") for name in [*FEATURES, "y"]}
    region = Column.model_validate({"type": "string", "values": list(REGIONS)})
    return Agreed("heart-study", {**columns, "region": region})


def answer(*tables: pa.Table, rule: Rule = RULE, **change: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {"features": FEATURES, "label": "y", "test_share": 0.25}
    return gated("linear_regression", tables, parameters | {"agreed": agreed()} | change, rule)


def test_values_that_nist_certifies() -> None:
    """Longley's columns are nearly combinations of each other: single precision fails on them."""
    data = np.array([line.split() for line in LONGLEY.strip().split("\n")], dtype=np.float64)
    names = [f"x{i}" for i in range(1, 7)]
    table = pa.table({"y": data[:, 0]} | {n: data[:, i] for i, n in enumerate(names, 1)})
    table = table.append_column("patient", pa.array(range(16)))
    model = fit(
        [Input(table.slice(0, 7), "patient"), Input(table.slice(7), "patient")],
        features=names,
        label="y",
    )
    assert np.allclose(model["coefficients"], CERTIFIED, rtol=1e-9)
    assert np.isclose(model["intercept"], CERTIFIED_INTERCEPT, rtol=1e-9)


def test_the_model_of_real_data_is_that_of_plain_sklearn() -> None:
    source = load_diabetes(scaled=False)
    names = list(source.feature_names)
    columns = {n: source.data[:, i] for i, n in enumerate(names)}
    table = pa.table({**columns, "y": source.target, "patient": list(range(442))})
    parts = [Input(table.slice(0, 200), "patient"), Input(table.slice(200), "patient")]
    model = fit(parts, features=names, label="y")
    plain = LinearRegression().fit(source.data, source.target)
    assert np.allclose(model["coefficients"], plain.coef_, rtol=1e-9)
    assert np.isclose(model["intercept"], plain.intercept_, rtol=1e-9)


def test_two_parts_give_the_model_of_the_whole() -> None:
    whole = rows()
    parts = [Input(whole.slice(0, 77), "patient"), Input(whole.slice(77), "patient")]
    assert fit(parts, features=FEATURES, label="y") == fit(
        [Input(whole, "patient")], features=FEATURES, label="y"
    )


def test_texts_are_compared_with_the_first_of_their_values() -> None:
    """South is 4 above north, west is 8."""
    model = answer(rows(seed=1), rows(seed=2), features=["a", "b", "region"])["model_weights"]
    assert model["features"] == ["a", "b", "region=south", "region=west"]
    assert np.allclose(model["coefficients"], [1, -2, 4, 8], atol=0.3)
    assert model["categories"] == {"region": list(REGIONS)}


def test_value_that_few_have_gets_no_coefficient() -> None:
    """R05, R18: the coefficient of the only patient from the west is this patient's label."""
    for few in (1, 19):
        region = ["west"] * few + ["north", "south"] * 200
        with refused(ValueTooRare):
            answer(rows(seed=1), rows(seed=2, region=region[:400]), features=["a", "region"])
    region = ["west"] * 80 + ["north", "south"] * 160
    assert answer(rows(seed=1), rows(seed=2, region=region), features=["a", "region"])


def test_metrics_are_those_of_persons_left_out() -> None:
    one, two = rows(seed=1), rows(seed=2)
    found = answer(one, two)
    model = found["model_weights"]
    from enclave_app.computations.split import is_tested

    left = [
        t.filter(pa.array(is_tested(t.column("patient"), "heart-study", 0.25))) for t in (one, two)
    ]
    pooled = pa.concat_tables(left)
    assert 150 < pooled.num_rows < 250
    assert found["counts"] == {"subjects": 800 - pooled.num_rows}
    x = np.column_stack([pooled.column(n).to_numpy() for n in FEATURES])
    plain = LinearRegression()
    plain.coef_, plain.intercept_ = np.array(model["coefficients"]), model["intercept"]
    assert np.isclose(found["metrics"]["r2"], plain.score(x, pooled.column("y").to_numpy()))
    error = plain.predict(x) - pooled.column("y").to_numpy()
    assert np.isclose(found["metrics"]["rmse"], np.sqrt(np.mean(error**2)))


def test_test_side_with_few_persons() -> None:
    """R05: an error of three persons is nearly theirs."""
    with refused(TooFewToTest):
        answer(rows(seed=1), rows(100, seed=2), test_share=0.05)
    assert answer(rows(seed=1), rows(800, seed=2), test_share=0.1)


def test_column_that_others_give() -> None:
    one = rows()
    twice = one.set_column(2, "c", pa.compute.add(one.column("a"), one.column("b")))
    with refused(FeaturesCollinear):
        fit([Input(twice, "patient")], features=FEATURES, label="y")
    fit([Input(one, "patient")], features=FEATURES, label="y")


def test_constant_feature_or_label() -> None:
    for name in ("a", "y"):
        with refused(FeatureConstant):
            fit([Input(rows(**{name: [0.1] * 400}), "patient")], features=FEATURES, label="y")


@pytest.mark.parametrize("name", ["a", "y"])
@pytest.mark.parametrize(("far", "leaf"), [(1e6, SubjectDominates), (1e308, NumbersOutOfRange)])
def test_person_far_out(name: str, far: float, leaf: Any) -> None:
    """R18: nothing is pulled in here, so that whoever stands out is refused."""
    values = rows(seed=2).column(name).to_numpy().copy()
    values[0] = far
    if far > 1e300:
        values[1] = far
    with refused(leaf):
        answer(rows(seed=1), rows(seed=2, **{name: values}))
