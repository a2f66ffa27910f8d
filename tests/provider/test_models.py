"""Estimators from released numbers: they say what the enclave would; files without any code."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from sklearn.utils.validation import check_is_fitted

from enclave_app.computations.boosted_trees import binned, score
from enclave_app.computations.features import one_hot
from enclave_app.gate import Input, rounded
from policy.domains import Agreed
from policy.sections import Column
from provider.models import Model, ResultNoModel, as_skops, read_model, read_result
from provider.onnx_file import as_onnx, inputs_of
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


def said_by_onnx(model: Model, data: pd.DataFrame) -> dict[str, Any]:
    """What the file says of these rows, by the reference evaluator of ONNX."""
    raw = as_onnx(model)
    given_ = {
        name: data[[name]].fillna("").to_numpy(object)
        if kind == "text"
        else data[[name]].to_numpy()
        for name, kind in inputs_of(model).items()
    }
    outputs = [output.name for output in onnx.load_from_string(raw).graph.output]
    return dict(zip(outputs, ReferenceEvaluator(raw).run(None, given_), strict=True))


@pytest.mark.parametrize("run", PARAMETERS)
def test_file_of_onnx_says_the_same(run: str, weights: dict[str, Any]) -> None:
    """In doubles: no number of it has single precision. What was agreed stands beside the graph."""
    model = read_model(run, weights[run])
    data = frame()[["a", "b"]] if run == "k_means" else frame()
    said, estimator = said_by_onnx(model, data), model.estimator()
    if run == "linear_regression":
        assert said["prediction"].dtype == np.float64
        assert np.abs(said["prediction"][:, 0] - estimator.predict(data)).max() < 1e-9
    else:
        assert (said["label"] == estimator.predict(data)).all()
    if run in {"boosted_trees", "logistic_regression"}:
        assert said["probabilities"].dtype == np.float64
        assert np.abs(said["probabilities"] - estimator.predict_proba(data)).max() < 1e-9
    made = onnx.load_from_string(as_onnx(model))
    assert as_onnx(model) == as_onnx(model)
    assert all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in made.graph.initializer)
    told = {entry.key: json.loads(entry.value) for entry in made.metadata_props}
    assert told["run"] == run
    assert told["features"] == weights[run]["features"]
    assert told.get("categories") == weights[run].get("categories")
    assert told.get("ranges") == weights[run].get("ranges")


def at_edges() -> pd.DataFrame:
    """Rows on each edge of a step, and beside it as near as a double can be; no value; no text."""
    near = [
        float(beside)
        for edge in np.linspace(-4, 4, 17)
        for beside in (np.nextafter(edge, -9), edge, np.nextafter(edge, 9))
    ]
    near += [np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0, -0.0]
    texts = [[*REGIONS, None, "elsewhere"][i % 5] for i in range(len(near))]
    return pd.DataFrame({"a": near, "b": near[::-1], "region": texts})


@pytest.mark.parametrize("predict", ["class", "number"])
def test_rows_at_an_edge_go_the_same_way(predict: str, weights: dict[str, Any]) -> None:
    """A row one step of a double below an edge is on it in single precision, and would go the other
    way than in the enclave. Every edge of every feature; none of the rows differs."""
    told = weights["boosted_trees"] | {"predict": predict}
    if predict == "number":
        del told["classes"]
    model, data = read_model("boosted_trees", told), at_edges()
    said, estimator = said_by_onnx(model, data), model.estimator()
    if predict == "number":
        assert np.abs(said["prediction"][:, 0] - estimator.predict(data)).max() < 1e-9
        below, edge = said["prediction"][0:51:3, 0], said["prediction"][1:51:3, 0]
        assert (np.abs(below - edge) > 1e-6).any()  # it matters
        single = data["a"].to_numpy()[:51].astype(np.float32)
        assert (single[0::3] == single[1::3]).all()
    else:
        assert np.abs(said["probabilities"] - estimator.predict_proba(data)).max() < 1e-9
        assert (said["label"] == estimator.predict(data)).all()


def test_trees_that_are_leaves_and_a_model_without_trees(weights: dict[str, Any]) -> None:
    leaf = {"feature": [-1], "bin": [0], "left": [0], "right": [0], "missing": [False]}
    grown = weights["boosted_trees"]["trees"][:1]
    for trees in ([], [leaf | {"value": [0.25]}], [*grown, leaf | {"value": [-1.5]}]):
        model = read_model("boosted_trees", weights["boosted_trees"] | {"trees": trees})
        said = said_by_onnx(model, at_edges())["probabilities"]
        assert np.abs(said - model.estimator().predict_proba(at_edges())).max() < 1e-9


def test_columns_that_are_called_as_outputs_are(weights: dict[str, Any]) -> None:
    told = weights["logistic_regression"] | {"features": ["label", "label_", "probabilities"]}
    told |= {"classes": [False, True], "categories": {}}
    model = read_model("logistic_regression", told)
    data = frame()[["a", "b", "y"]].set_axis(["label", "label_", "probabilities"], axis=1)
    said = said_by_onnx(model, data)
    assert list(said) == ["label__", "probabilities_"]
    assert said["label__"].dtype == bool
    assert (said["label__"] == model.estimator().predict(data)).all()


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_names_that_no_file_of_onnx_can_have(name: str, weights: dict[str, Any]) -> None:
    """A result that was not the enclave's: refused by name, not by a crash."""
    told = weights["linear_regression"]
    model = read_model("linear_regression", told | {"features": [name, *told["features"][1:]]})
    with refused(ResultNoModel):
        as_onnx(model)
    assert as_onnx(read_model("linear_regression", told))


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

    file, made, other = (tmp_path / name for name in ("result.json", "model.skops", "model.onnx"))
    document = {"schema": "ratls-result/1", "computation": "train", "run": "boosted_trees"}
    file.write_text(json.dumps(document | {"model_weights": weights["boosted_trees"]}), "utf-8")
    command = ["task", "export", str(file), "--skops", str(made)]

    def typed(*words: str) -> Any:
        return CliRunner().invoke(build("task"), [*command[:3], *words])

    done = typed("--skops", str(made), "--onnx", str(other))
    assert done.exit_code == 0, done.output
    assert "trusted=['provider.estimators.BoostedTreesClassifier']" in done.output
    assert "a: double, region: text, b: double" in done.output
    trusted = ["provider.estimators.BoostedTreesClassifier"]
    assert set(skops.io.load(made, trusted=trusted).predict(frame())) == {0, 1}
    onnx.checker.check_model(onnx.load(other))
    assert typed("--skops", str(made)).exit_code == 3  # it exists
    # Of two files that one cannot be made of, none is left to refuse the next try.
    first = tmp_path / "first.skops"
    assert typed("--skops", str(first), "--onnx", str(other)).exit_code == 3
    assert not first.exists()
    assert typed("--onnx", str(other)).exit_code == 3
    assert typed().exit_code == 2
    told = json.loads(typed("--onnx", f"{other}2", "--json").stdout)
    assert told["onnx"]["inputs"] == {"a": "double", "region": "text", "b": "double"}
    file.write_text("{}", "utf-8")
    assert typed("--onnx", f"{other}3").exit_code == 3
    assert not Path(f"{other}3").exists()
