"""A released model as an ONNX file, for programs that have neither Python nor scikit-learn.

    raw = as_onnx(read_model("linear_regression", weights))
    inputs = {"age": np.array([[61.0]]), "region": np.array([["south"]])}
    ReferenceEvaluator(raw).run(None, inputs)    # of onnx.reference, or any other runtime

Each column is an input of its own, rows x 1: doubles, or texts. An empty text is no value, as NaN
is no number. All numbers are doubles: in single precision a row near an edge would go the other
way than in the enclave. Trees compare the number of a value's step, as the enclave does: it is
found by the same three operations on doubles, and is exact.

Outputs: `prediction` of a number; `label` and `probabilities` of a class; `label` of clusters. One
that has the name of a column gets a `_` behind it. What the policy agreed on, such as the lists of
texts, is in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    helper,
    numpy_helper,
    shape_inference,
)

from provider.models import (
    Clusters,
    Linear,
    Logistic,
    Model,
    ResultNoModel,
    Tree,
    Trees,
    kind_of,
    ranges_of,
)

Array: TypeAlias = npt.NDArray[Any]
# ONNX 1.16 of 2024, which brought trees of doubles; texts are looked up as `ai.onnx.ml` 4 says.
_OPSETS = {"": 18, "ai.onnx.ml": 5}
_FORMAT = 10
# Numbers of `ai.onnx.ml.TreeEnsemble`.
_LESS_OR_EQUAL, _SUM = 0, 1
_KINDS = {"double": TensorProto.DOUBLE, "text": TensorProto.STRING}


def as_onnx(model: Model) -> bytes:
    """The file: checked by `onnx`, and the same bytes for the same model.

    Raises:
        ResultNoModel: Its names are none that such a file can have.
    """
    try:
        return _made(model)
    except (ValueError, checker.ValidationError, shape_inference.InferenceError) as error:
        raise ResultNoModel("features", expected="names of columns", found="others") from error


def _made(model: Model) -> bytes:
    graph = _Graph(model)
    if isinstance(model, Linear):
        graph.output("prediction", _linear(graph, model), TensorProto.DOUBLE, 1)
    elif isinstance(model, Clusters):
        graph.output("label", _nearest(graph, model), TensorProto.INT64, None)
    elif isinstance(model, Logistic):
        _classes(graph, _linear(graph, model), model.classes)
    elif model.classes is None:
        graph.output("prediction", _boosted(graph, model), TensorProto.DOUBLE, 1)
    else:
        _classes(graph, _boosted(graph, model), model.classes)
    made = graph.finished(model)
    checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def inputs_of(model: Model) -> dict[str, str]:
    """The inputs of the file, by name: "double" or "text"."""
    named = (feature.partition("=") for feature in model.features)
    return {column: "text" if is_text else "double" for column, is_text, _ in named}


class _Graph:
    """Nodes of a graph, in order. What they make has names that no column can have."""

    def __init__(self, model: Model) -> None:
        self.columns = inputs_of(model)
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        for name, kind in self.columns.items():
            self._inputs.append(helper.make_tensor_value_info(name, _KINDS[kind], ["rows", 1]))

    def constant(self, values: Any, kind: type = np.float64) -> str:
        """A tensor of the file."""
        name = f"={len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(values, dtype=kind), name))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The output of an operator."""
        name = f"{operator}={len(self._nodes)}"
        made = helper.make_node(operator, inputs, [name], name, domain=domain, **attributes)
        self._nodes.append(made)
        return name

    def output(self, name: str, source: str, kind: int, width: int | None) -> None:
        """Give a result its name; one number for each row, or `width` of them."""
        while name in self.columns:
            name += "_"
        self._nodes.append(helper.make_node("Identity", [source], [name], name))
        shape: list[str | int | None] = ["rows"] if width is None else ["rows", width]
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def finished(self, model: Model) -> ModelProto:
        """The model, with what was agreed beside it."""
        kind = kind_of(model)
        graph = helper.make_graph(
            self._nodes, kind, self._inputs, self._outputs, initializer=self._constants
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        made = helper.make_model(
            graph, opset_imports=imports, ir_version=_FORMAT, producer_name="ratls"
        )
        told: dict[str, Any] = {"run": kind, "features": list(model.features)}
        if not isinstance(model, Clusters) and model.categories:
            told["categories"] = {name: list(texts) for name, texts in model.categories.items()}
        if isinstance(model, Clusters | Trees):
            told["ranges"] = [list(bounds) for bounds in model.ranges]
        helper.set_model_props(made, {name: json.dumps(value) for name, value in told.items()})
        return made


def _numbers(graph: _Graph, features: Sequence[str]) -> str:
    """A double for each feature: a column's number, or whether its text is this one."""
    parts = []
    for feature in features:
        column, is_text, value = feature.partition("=")
        parts.append(_is_text(graph, column, value) if is_text else column)
    return graph.node("Concat", *parts, axis=1)


def _is_text(graph: _Graph, column: str, value: str) -> str:
    found = graph.node(
        "LabelEncoder",
        column,
        domain="ai.onnx.ml",
        keys_strings=["", value],
        values_floats=[np.nan, 1.0],
        default_float=0.0,
    )
    return graph.node("Cast", found, to=TensorProto.DOUBLE)


def _linear(graph: _Graph, model: Linear | Logistic) -> str:
    weights = graph.constant(np.array(model.coefficients)[:, None])
    product = graph.node("MatMul", _numbers(graph, model.features), weights)
    return graph.node("Add", product, graph.constant(model.intercept))


def _classes(graph: _Graph, score: str, classes: Sequence[bool | int]) -> None:
    """The likelier class, and how likely each is, from the log of the odds of the second."""
    second = graph.node("Greater", score, graph.constant(0.0))
    flat = graph.node("Squeeze", second, graph.constant([1], np.int64))
    place = graph.node("Cast", flat, to=TensorProto.INT64)
    are_bool = all(type(one) is bool for one in classes)
    named = graph.constant(classes, bool if are_bool else np.int64)
    label = graph.node("Gather", named, place)
    graph.output("label", label, TensorProto.BOOL if are_bool else TensorProto.INT64, None)
    likely = graph.node("Sigmoid", score)
    rest = graph.node("Sub", graph.constant(1.0), likely)
    both = graph.node("Concat", rest, likely, axis=1)
    graph.output("probabilities", both, TensorProto.DOUBLE, 2)


def _within(graph: _Graph, model: Clusters | Trees) -> str:
    """Each feature from 0 to 1 within its range, by the enclave's own operations."""
    low, high = np.array(ranges_of(model.ranges)).T
    above = graph.node("Sub", _numbers(graph, model.features), graph.constant(low))
    return graph.node("Div", above, graph.constant(high - low))


def _nearest(graph: _Graph, model: Clusters) -> str:
    """The number of the nearest centre, the first of several."""
    low, high = np.array(ranges_of(model.ranges)).T
    centres = (np.array(model.centres) - low) / (high - low)
    product = graph.node("MatMul", _within(graph, model), graph.constant(2 * centres.T))
    lengths = graph.constant((centres**2).sum(axis=1))
    return graph.node("ArgMin", graph.node("Sub", lengths, product), axis=1, keepdims=0)


def _boosted(graph: _Graph, model: Trees) -> str:
    """The sum of a leaf of each tree, and the baseline; a tree that is a leaf is part of that."""
    place = graph.node(
        "Floor", graph.node("Mul", _within(graph, model), graph.constant(float(model.bins)))
    )
    bounds = graph.constant(0.0), graph.constant(model.bins - 1.0)
    # What a clip makes of NaN is not the same everywhere.
    missing = graph.node("IsNaN", place)
    step = graph.node("Where", missing, graph.constant(np.nan), graph.node("Clip", place, *bounds))
    baseline = model.baseline + sum(t.value[0] for t in model.trees if t.feature[0] < 0)
    trees = [tree for tree in model.trees if tree.feature[0] >= 0]
    if not trees:
        rows = graph.node("Shape", step, start=0, end=1)
        shape = graph.node("Concat", rows, graph.constant([1], np.int64), axis=0)
        return graph.node("Expand", graph.constant([[baseline]]), shape)
    found = graph.node("TreeEnsemble", step, domain="ai.onnx.ml", **_ensemble(trees))
    return graph.node("Add", found, graph.constant(baseline))


def _ensemble(trees: Sequence[Tree]) -> dict[str, Any]:
    """All trees as the columns of `ai.onnx.ml.TreeEnsemble`: splits and leaves counted apart."""
    splits: dict[str, list[Any]] = {
        name: [] for name in ("featureids", "splits", "missing_value_tracks_true")
    }
    ends: dict[str, list[int]] = {
        name: [] for name in ("truenodeids", "trueleafs", "falsenodeids", "falseleafs")
    }
    leaves: list[float] = []
    roots: list[int] = []
    for tree in trees:
        first = len(splits["splits"])
        roots.append(first)
        place, inner = {}, 0
        for i, feature in enumerate(tree.feature):
            if feature < 0:
                place[i] = len(leaves)
                leaves.append(tree.value[i])
            else:
                place[i] = first + inner
                inner += 1
        for i, feature in enumerate(tree.feature):
            if feature < 0:
                continue
            splits["featureids"].append(feature)
            splits["splits"].append(float(tree.bin[i]))
            splits["missing_value_tracks_true"].append(int(tree.missing[i]))
            for side, child in (("true", tree.left[i]), ("false", tree.right[i])):
                ends[f"{side}nodeids"].append(place[child])
                ends[f"{side}leafs"].append(int(tree.feature[child] < 0))
    count = len(splits["splits"])
    thresholds = numpy_helper.from_array(np.array(splits.pop("splits"), np.float64))
    return {
        **{f"nodes_{name}": values for name, values in (splits | ends).items()},
        "nodes_splits": thresholds,
        "nodes_modes": numpy_helper.from_array(np.full(count, _LESS_OR_EQUAL, np.uint8)),
        "leaf_weights": numpy_helper.from_array(np.array(leaves, np.float64)),
        "leaf_targetids": [0] * len(leaves),
        "tree_roots": roots,
        "n_targets": 1,
        "aggregate_function": _SUM,
    }
