"""The computation: right on honest rows, refusing on anything it cannot do exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from enclave_app.computations import built_in
from enclave_app.computations.logistic_regression import check, fit
from enclave_app.errors import (
    ClassesNotTwo,
    ComputationParameters,
    ComputationUnknown,
    FeatureConstant,
    NumbersOutOfRange,
    SolverNotConverged,
)
from tests.support.refusal import refused

FEATURES = ["a", "b", "c"]


def rows(count: int = 200, seed: int = 1, **columns: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(5, 3, count) for name in FEATURES}
    label = (values["a"] + rng.normal(0, 2, count) > 5).astype(np.int64)
    return pa.table({**values, "y": label, **columns})


def fitted(*tables: pa.Table, max_iter: int = 500) -> dict[str, Any]:
    return fit(tables, features=FEATURES, label="y", max_iter=max_iter)


def test_two_parts_give_the_model_of_the_whole() -> None:
    """The point of the job: nobody pools rows, and the model is as if somebody had."""
    whole = rows()
    assert fitted(whole.slice(0, 77), whole.slice(77)) == fitted(whole)


def test_the_model_of_real_data_is_that_of_plain_sklearn() -> None:
    """An independent path: sklearn on standardised values, compared by its scores."""
    source = load_breast_cancer()
    names = [f"f{i}" for i in range(source.data.shape[1])]
    table = pa.table(
        {n: source.data[:, i] for i, n in enumerate(names)} | {"y": source.target.astype(np.int32)}
    )
    model = fit([table.slice(0, 300), table.slice(300)], features=names, label="y", max_iter=2000)
    scaled = (source.data - source.data.mean(axis=0)) / source.data.std(axis=0)
    plain = LogisticRegression(tol=1e-10, max_iter=2000).fit(scaled, source.target)
    ours = source.data @ np.array(model["coefficients"]) + model["intercept"]
    assert np.allclose(ours, plain.decision_function(scaled), atol=1e-8)
    assert model["classes"] == [0, 1]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int32(), pa.int64()])
def test_labels_of_each_kind(kind: pa.DataType) -> None:
    table = rows()
    other = table.set_column(3, "y", table.column("y").cast(kind))
    assert fitted(other)["coefficients"] == fitted(table)["coefficients"]


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


def test_solver_that_did_not_converge() -> None:
    """sklearn only warns, and returns the weights where it stopped as if they were a model."""
    with refused(SolverNotConverged):
        fitted(rows(), max_iter=2)


COLUMNS = {"a": "float64", "b": "int32", "c": "bool", "name": "string", "y": "int64", "n": "int64?"}
GOOD: dict[str, Any] = {"features": ["a", "b", "c"], "label": "y", "max_iter": 10}


def test_good_parameters_pass() -> None:
    check(GOOD, [COLUMNS, COLUMNS])


@pytest.mark.parametrize(
    "change",
    [
        {"max_iter": 0},
        {"max_iter": True},
        {"max_iter": 1e3},
        {"max_iter": 10**9},
        {"max_iter": "__import__('os').system('id')"},
        {"features": []},
        {"features": "abc"},
        {"features": ["a", "a"]},
        {"features": ["a", "y"]},
        {"features": ["a", "name"]},
        {"features": ["a", "n"]},
        {"features": ["a", ["b"]]},
        {"features": ["a", "no-such"]},
        {"label": "a"},
        {"label": "name"},
        {"label": b"\x80\x04."},
        {"label": None},
        {"solver": "saga"},
        {"model": "cos\nsystem\n(S'touch marker'\ntR."},
    ],
)
def test_parameters_that_do_not_fit(change: dict[str, Any]) -> None:
    """R02, R03: a value is compared with what is expected; nothing ever evaluates or loads it."""
    with refused(ComputationParameters):
        check({**GOOD, **change}, [COLUMNS, COLUMNS])


def test_a_column_that_only_one_input_has() -> None:
    with refused(ComputationParameters):
        check(GOOD, [COLUMNS, {k: v for k, v in COLUMNS.items() if k != "b"}])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "logistic_regression ",
        "Logistic_Regression",
        "../x",
        "os.system",
        "logistic_regression\0",
    ],
)
def test_computation_that_is_not_in_the_measured_list(name: str) -> None:
    """R01, D10: a name is looked up in a closed table, never imported."""
    with refused(ComputationUnknown):
        built_in(name)


def test_the_outputs_of_the_model() -> None:
    assert built_in("logistic_regression").outputs == {"model_weights"}
