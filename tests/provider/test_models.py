"""Estimators from released numbers: they say what the enclave would; files without any code."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.validation import check_is_fitted

from enclave_app.computations.boosted_trees import binned, score
from enclave_app.computations.features import one_hot
from enclave_app.gate import Input, rounded
from policy.domains import Agreed
from policy.sections import Column
from provider.models import ResultNoModel, as_skops, read_model, read_result
from tests.enclave_app.agreed import gated
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused

REGIONS = ["north", "south", "west"]
AGREED = Agreed(
    "heart-study",
    {
        "a": Column.model_validate({"type": "float64?", "min": -4, "max": 4}),
        "b": Column.model_validate({"type": "float64", "min": -4, "max": 4}),
        "region": Column.model_validate({"type": "string?", "values": REGIONS}),
    },
)
PARAMETERS: dict[str, dict[str, Any]] = {
    "boosted_trees": {
        "features": ["a", "region", "b"], "label": "y", "predict": "class", "trees": 8,
        "leaves": 4, "bins": 16, "learning_rate": 0.5,
    },
    "k_means": {"features": ["a", "b"], "clusters": 3, "max_iter": 500},
    "linear_regression": {"features": ["a", "region"], "label": "number"},
    "logistic_regression": {"features": ["region", "b"], "label": "y", "max_iter": 500},
}  # fmt: skip


def rows(seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    a, b = np.clip(rng.normal(0, 1.5, (2, 800)), -4, 4)
    region = rng.integers(0, 3, 800)
    number = a - 2 * (b > 0) + region + rng.normal(0, 1, 800)
    texts = [REGIONS[i] for i in region]
    made = {"a": a, "b": b, "region": texts, "y": (number > 0).astype(int), "number": number}
    return pa.table({**made, "patient": [f"{seed}-{i}" for i in range(800)]})


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """What a recipient reads: rounded, and once through JSON."""
    rule = Rule(outputs=("model_weights",), min_subjects_per_input=20)
    found = {}
    for run, parameters in PARAMETERS.items():
        given_ = parameters | {"agreed": AGREED}
        answer = gated(run, [rows(1), rows(2)], given_, rule)["model_weights"]
        found[run] = json.loads(json.dumps(rounded(answer, 4)))
    return found


def frame() -> pd.DataFrame:
    return rows(3).to_pandas()


def test_trees_say_what_the_enclave_would(weights: dict[str, Any]) -> None:
    """Missing values and texts too: from a data frame, as the enclave from Arrow."""
    table = rows(3).slice(0, 50)
    holes = pa.array([None if i % 7 == 0 else float(i % 9 - 4) for i in range(50)])
    texts = pa.array([None if i % 5 == 0 else REGIONS[i % 3] for i in range(50)])
    table = table.set_column(0, "a", holes).set_column(2, "region", texts)
    inputs, names = one_hot(
        {"one": Input(table, "patient")},
        PARAMETERS["boosted_trees"] | {"agreed": AGREED},
        base=True,
    )
    model = weights["boosted_trees"]
    inside = score(model, binned(inputs, names, AGREED, 16))
    estimator = read_model("boosted_trees", model).estimator()
    check_is_fitted(estimator)
    assert np.allclose(estimator.decision_function(table.to_pandas()), inside)
    assert np.allclose(estimator.predict_proba(table.to_pandas())[:, 1], 1 / (1 + np.exp(-inside)))
    assert set(estimator.predict(table.to_pandas())) == {0, 1}
    whole = frame()
    assert estimator.score(whole, whole["y"]) > 0.7


def test_trees_for_a_number(weights: dict[str, Any]) -> None:
    model = {n: v for n, v in weights["boosted_trees"].items() if n != "classes"}
    estimator = read_model("boosted_trees", model | {"predict": "number"}).estimator()
    classifier = read_model("boosted_trees", weights["boosted_trees"]).estimator()
    assert np.allclose(estimator.predict(frame()), classifier.decision_function(frame()))


def test_linear_models_take_the_columns_that_the_policy_names(weights: dict[str, Any]) -> None:
    data = frame()
    south, west = data["region"] == "south", data["region"] == "west"
    linear = weights["linear_regression"]
    assert linear["features"] == ["a", "region=south", "region=west"]
    wanted = np.column_stack([data["a"], south, west]) @ linear["coefficients"]
    estimator = read_model("linear_regression", linear).estimator()
    assert np.allclose(estimator.predict(data), wanted + linear["intercept"])
    logistic = weights["logistic_regression"]
    wanted = np.column_stack([south, west, data["b"]]) @ logistic["coefficients"]
    estimator = read_model("logistic_regression", logistic).estimator()
    assert np.allclose(estimator.decision_function(data), wanted + logistic["intercept"])


def test_clusters_are_the_nearest_centres_by_the_agreed_ranges(weights: dict[str, Any]) -> None:
    data = frame()[["a", "b"]]
    estimator = read_model("k_means", weights["k_means"]).estimator()
    centres = np.array(weights["k_means"]["centres"])
    far = (((data.to_numpy()[:, None] - centres) / 8) ** 2).sum(axis=2)
    assert (estimator.predict(data) == far.argmin(axis=1)).all()


@pytest.mark.parametrize("run", PARAMETERS)
def test_file_for_skops_has_no_code_and_says_the_same(run: str, weights: dict[str, Any]) -> None:
    """R02: its reader makes classes of scikit-learn, and the three that it is told to trust."""
    model = read_model(run, weights[run])
    raw, named = as_skops(model)
    assert set(named) <= {
        "provider.estimators.AgreedFeatures",
        "provider.estimators.BoostedTreesClassifier",
    }
    assert b"pickle" not in raw.lower()
    loaded = skops.io.loads(raw, trusted=named)
    data = frame()[["a", "b"]] if run == "k_means" else frame()
    assert (loaded.predict(data) == model.estimator().predict(data)).all()


CHANGES: list[tuple[str, str, Any]] = [
    ("linear_regression", "coefficients", [1.0]),
    ("linear_regression", "coefficients", ["1.0", "2.0", "3.0"]),
    ("linear_regression", "intercept", float("nan")),
    ("linear_regression", "features", []),
    ("linear_regression", "code", "import os"),
    ("logistic_regression", "classes", [0]),
    ("logistic_regression", "classes", None),
    ("k_means", "centres", [[1.0]]),
    ("k_means", "ranges", [["0.0", "1.0"], ["x", "1.0"]]),
    ("k_means", "ranges", [["0.0", "1.0"], ["1.0", "1.0"]]),
    ("k_means", "ranges", [["0.0", "1.0"], ["nan", "1.0"]]),
    ("boosted_trees", "bins", 251),
    ("boosted_trees", "predict", "both"),
    ("boosted_trees", "classes", None),
    ("boosted_trees", "trees", [{}]),
]


@pytest.mark.parametrize(("run", "name", "value"), CHANGES)
def test_numbers_that_are_no_model(
    run: str, name: str, value: Any, weights: dict[str, Any]
) -> None:
    with refused(ResultNoModel):
        read_model(run, weights[run] | {name: value})
    assert read_model(run, weights[run])


@pytest.mark.parametrize(
    ("name", "value"),
    [("left", 0), ("right", 99), ("feature", 99), ("bin", 16), ("bin", -1), ("value", "1")],
)
def test_tree_whose_walk_would_not_end_or_leave_it(
    name: str, value: Any, weights: dict[str, Any]
) -> None:
    """A child before its parent is a loop, and a place beyond the end a crash."""
    model = deepcopy(weights["boosted_trees"])
    model["trees"][0][name][0] = value
    with refused(ResultNoModel):
        read_model("boosted_trees", model)
    model = deepcopy(weights["boosted_trees"])
    model["trees"][0]["value"].pop()
    with refused(ResultNoModel):
        read_model("boosted_trees", model)


@pytest.mark.parametrize("run", ["sql", "os.system", ""])
def test_result_of_another_kind(run: str) -> None:
    with refused(ResultNoModel):
        read_model(run, {"features": ["a"]})
    with refused(ResultNoModel):
        read_model("k_means", None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


@settings(deadline=None)
@given(st.sampled_from([*PARAMETERS]), _JSON, st.data())
def test_whatever_a_file_holds_is_a_model_or_refused(run: str, value: Any, data: Any) -> None:
    small: dict[str, Any] = {"features": ["a"], "coefficients": [1.0], "intercept": 0.5}
    weights_ = data.draw(st.sampled_from([value, small]))
    if isinstance(weights_, dict) and data.draw(st.booleans()):
        weights_ = weights_ | {data.draw(st.sampled_from(["features", "bins"])): value}
    document = {"run": run, "model_weights": weights_}
    raw = data.draw(st.sampled_from([json.dumps(document).encode(), b"[", b"[]", b"{}"]))
    try:
        read_result(raw)
    except ResultNoModel:
        return
    assert run == "linear_regression"


def test_export_as_typed(tmp_path: Path, weights: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    from ratls.cli import build

    file, made = tmp_path / "result.json", tmp_path / "model.skops"
    document = {"schema": "ratls-result/1", "computation": "train", "run": "boosted_trees"}
    file.write_text(json.dumps(document | {"model_weights": weights["boosted_trees"]}), "utf-8")
    command = ["task", "export", str(file), "--skops", str(made)]
    done = CliRunner().invoke(build("task"), command)
    assert done.exit_code == 0, done.output
    assert "trusted=['provider.estimators.BoostedTreesClassifier']" in done.output
    trusted = ["provider.estimators.BoostedTreesClassifier"]
    assert set(skops.io.load(made, trusted=trusted).predict(frame())) == {0, 1}
    assert CliRunner().invoke(build("task"), command).exit_code != 0  # it exists
    file.write_text("{}", "utf-8")
    assert CliRunner().invoke(build("task"), [*command[:-1], str(made) + "2"]).exit_code != 0
