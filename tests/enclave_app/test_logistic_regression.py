"""The computation: right on honest rows, refusing on anything it cannot do exactly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats.mstats import winsorize
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from enclave_app.computations.features import FeatureConstant
from enclave_app.computations.groups import of_weights
from enclave_app.computations.logistic_regression import ClassesNotTwo, SolverNotConverged, fit
from enclave_app.computations.split import is_tested
from enclave_app.errors import NumbersOutOfRange
from enclave_app.gate import Input
from policy.domains import Agreed
from policy.sections import Column
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused
from verifier.errors import RatlsError

FEATURES = ["a", "b", "c"]
NUMBER = Column(type="float64")


def rows(count: int = 200, seed: int = 1, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(5, 3, count) for name in FEATURES}
    label = (values["a"] + rng.normal(0, 2, count) > 5).astype(np.int64)
    people = [f"p{seed}-{i}" for i in range(count)]
    return pa.table({**values, "y": label, "patient": people, **columns})


def fitted(*tables: pa.Table, max_iter: int = 500) -> dict[str, Any]:
    inputs = [Input(table, "patient") for table in tables]
    return fit(inputs, features=FEATURES, label="y", max_iter=max_iter, k=10)


def test_two_parts_give_the_model_of_the_whole() -> None:
    """The point of the job: nobody pools rows, and the model is as if somebody had."""
    whole = rows()
    assert fitted(whole.slice(0, 77), whole.slice(77)) == fitted(whole)


def test_the_model_of_real_data_is_that_of_plain_sklearn() -> None:
    """An independent path: scipy and sklearn, compared by their scores."""
    source = load_breast_cancer()
    names = [f"f{i}" for i in range(source.data.shape[1])]
    table = pa.table(
        {n: source.data[:, i] for i, n in enumerate(names)} | {"y": source.target.astype(np.int32)}
    )
    table = table.append_column("patient", pa.array(range(569)))
    parts = [Input(table.slice(0, 300), "patient"), Input(table.slice(300), "patient")]
    model = fit(parts, features=names, label="y", max_iter=2000, k=100)
    # One in twenty of 569 at each end: 28 with the one that the others are pulled in to.
    near = np.column_stack([winsorize(column, limits=27.5 / 569) for column in source.data.T])
    mean, deviation = near.mean(axis=0), near.std(axis=0)
    scaled = (near - mean) / deviation
    plain = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(scaled, source.target)
    ours = source.data @ np.array(model["coefficients"]) + model["intercept"]
    assert np.allclose(ours, plain.decision_function((source.data - mean) / deviation), atol=1e-8)
    assert model["classes"] == [0, 1]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int32(), pa.int64()])
def test_labels_of_each_kind(kind: pa.DataType) -> None:
    table = rows()
    other = table.set_column(3, "y", table.column("y").cast(kind))
    assert fitted(other)["coefficients"] == fitted(table)["coefficients"]


def test_metrics_of_the_test_side_are_those_of_plain_sklearn() -> None:
    """Of persons who were left out by the hash, and of the model as it is released."""
    tables = [rows(600, seed=1), rows(600, seed=2)]
    rule = Rule(outputs=("model_weights", "metrics"), min_subjects_per_input=20)
    parameters: dict[str, Any] = {"features": FEATURES, "label": "y", "max_iter": 500}
    parameters |= {"test_share": 0.25, "agreed": Agreed("study", dict.fromkeys(FEATURES, NUMBER))}
    found = gated("logistic_regression", tables, parameters, rule)
    left = [t.filter(pa.array(is_tested(t["patient"], "study", 0.25))) for t in tables]
    kept = [t.filter(pa.array(~is_tested(t["patient"], "study", 0.25))) for t in tables]
    inputs = [Input(table, "patient") for table in kept]
    weights = fit(inputs, features=FEATURES, label="y", max_iter=500, k=20)
    assert found["model_weights"] == weights
    pooled = pa.concat_tables(left)
    x = np.column_stack([pooled[n].to_numpy() for n in FEATURES])
    likely = 1 / (1 + np.exp(-(x @ weights["coefficients"] + weights["intercept"])))
    truth = pooled["y"].to_numpy()
    assert found["metrics"] == {
        "accuracy": round(accuracy_score(truth, likely > 0.5), 2),
        "auc": round(roc_auc_score(truth, likely), 2),
        "log_loss": pytest.approx(log_loss(truth, likely)),
    }


def test_order_of_inputs_is_the_callers() -> None:
    """R15: an order of arrival that showed in the last digits would be a covert channel."""
    one, two = rows(seed=1), rows(seed=2)
    assert fitted(one, two) == fitted(one, two)
    assert np.allclose(fitted(one, two)["coefficients"], fitted(two, one)["coefficients"])


@pytest.mark.parametrize("label", [[0] * 200, [0, 1, 2, 0] * 50])
def test_label_without_two_classes(label: list[int]) -> None:
    """sklearn would fit three classes happily, and crash on one."""
    with refused(ClassesNotTwo):
        fitted(rows().set_column(3, "y", pa.array(label, pa.int64())))


def test_constant_feature() -> None:
    """0.1 in every row has a deviation of about 1e-17: dividing by it makes noise a feature."""
    with refused(FeatureConstant):
        fitted(rows(a=[0.1] * 200))


@pytest.mark.parametrize("scale", [1e308, 1e-320])
def test_values_too_large_or_small_to_standardise(scale: float) -> None:
    """F08: finite on the way in, infinite in the mean; or a deviation that underflows to zero."""
    values = np.where(np.arange(200) % 2 == 0, scale, scale / 2)
    with refused(NumbersOutOfRange):
        fitted(rows(a=values))


@pytest.mark.parametrize(
    ("values", "leaf"),
    [
        ([1e308, -1e308], NumbersOutOfRange),
        ([1e-320, 0.0], NumbersOutOfRange),
        ([2**60, 2**60 + 1], FeatureConstant),
        ([1e200, 2e200], NumbersOutOfRange),
        ([1e-9, 2e-9], None),
        ([1e9, 1e9 + 1], None),
    ],
)
@pytest.mark.filterwarnings("error")
def test_two_values_of_any_size(values: list[Any], leaf: type[RatlsError] | None) -> None:
    """A warning would go to the host, and say what the rows are like."""
    parameters = {"features": ["a", "b"], "label": "y", "max_iter": 500}
    tables = [rows(seed=seed, a=np.array(values * 100)) for seed in (1, 2)]
    if leaf is None:
        assert gated("logistic_regression", tables, parameters, Rule())
        return
    with refused(leaf):
        gated("logistic_regression", tables, parameters, Rule())


@pytest.mark.filterwarnings("error")
def test_feature_in_which_nothing_is_left_to_vary() -> None:
    """Zero divided by zero is no small share."""
    people, weights = np.arange(4), np.array([0.0, 0.0, 0.0, 1.0])
    assert of_weights("feature", np.zeros(4), people, most=0.5).largest == 1.0
    assert of_weights("feature", 1 - weights, people, most=0.5).largest == pytest.approx(1 / 3)


def test_solver_that_did_not_converge() -> None:
    """The weights where it stopped look like any model's."""
    with refused(SolverNotConverged):
        fitted(rows(), max_iter=2)


def test_two_solvers_at_once_that_did_not_converge() -> None:
    """The warning of a library is the process's: of two trainings in two threads, one took the
    other's filter away, and released unfinished weights."""
    tables = [rows(), rows(seed=2)]

    def train(number: int) -> str:
        try:
            fitted(tables[number % 2], max_iter=2)
        except SolverNotConverged as refusal:
            return refusal.code
        return "a model"

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(train, range(40))) == {SolverNotConverged.code}
