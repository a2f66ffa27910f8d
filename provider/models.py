"""A released model as an estimator, and as a file: made on the recipient's side, of plain numbers.

    model = read_model("linear_regression", weights)     # strict: shapes, places, finite numbers
    model.estimator().predict(frame)
    raw, trusted = as_skops(model)                       # skops.io.loads(raw, trusted=trusted)

Nothing is unpickled, here or by whoever reads the file: skops stores numbers and the names of
classes, and its reader makes only those classes that it is told to trust.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from policy.fields import Strict
from policy.problems import Unfit
from policy.sections import VALUES_CAP
from verifier.errors import ConfigError


class ResultNoModel(ConfigError):
    """The result is no model for an estimator."""

    code = "result-no-model"
    default_fix = "look at its numbers in `values`"


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise Unfit("a finite number", "another")
    return number


Number = Annotated[float, AfterValidator(_finite)]
Numbers = Annotated[tuple[Number, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Places = Annotated[tuple[Annotated[int, Field(ge=-1, lt=2**31)], ...], Field(strict=False)]
Bounds = Annotated[tuple[Annotated[tuple[str, str], Field(strict=False)], ...], Field(strict=False)]
Classes = Annotated[tuple[bool | int, bool | int], Field(strict=False)]
Categories = Mapping[str, Annotated[tuple[str, ...], Field(strict=False, max_length=VALUES_CAP)]]


def _alike(one: Any, other: Any, what: str) -> None:
    if len(one) != len(other):
        raise Unfit(f"as many {what} as features", "another number")


class _Weights(Strict):
    """What linear models have in common."""

    features: Names
    coefficients: Numbers
    intercept: Number
    categories: Categories = Field(default_factory=dict)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        _alike(self.coefficients, self.features, "coefficients")
        return self

    def _filled(self, model: Any, *, rows: bool) -> Any:
        import numpy as np

        coefficients = np.array(self.coefficients, dtype=np.float64)
        model.coef_ = coefficients[None, :] if rows else coefficients
        intercept = np.float64(self.intercept)
        model.intercept_ = np.array([intercept]) if rows else intercept
        model.n_features_in_ = len(self.features)
        if not self.categories:
            model.feature_names_in_ = np.array(self.features, dtype=object)
            return model
        from sklearn.pipeline import make_pipeline

        from provider.estimators import AgreedFeatures

        return make_pipeline(AgreedFeatures(list(self.features)), model)


class Linear(_Weights):
    """`linear_regression`."""

    def estimator(self) -> Any:
        """A LinearRegression; before it AgreedFeatures, where there are texts."""
        from sklearn.linear_model import LinearRegression

        return self._filled(LinearRegression(), rows=False)


class Logistic(_Weights):
    """`logistic_regression`."""

    classes: Classes

    def estimator(self) -> Any:
        """A LogisticRegression; before it AgreedFeatures, where there are texts."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression()
        model.classes_ = np.array(self.classes)
        return self._filled(model, rows=True)


def ranges_of(bounds: tuple[tuple[str, str], ...]) -> list[tuple[float, float]]:
    """The agreed ranges as numbers. Raises: Unfit."""
    try:
        found = [(_finite(float(low)), _finite(float(high))) for low, high in bounds]
    except ValueError as error:
        raise Unfit("numbers as texts", "others") from error
    if any(low >= high for low, high in found):
        raise Unfit("ranges from a lower to a higher number", "others")
    return found


class Clusters(Strict):
    """`k_means`."""

    features: Names
    centres: Annotated[tuple[Numbers, ...], Field(strict=False, min_length=1)]
    ranges: Bounds

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        _alike(self.ranges, self.features, "ranges")
        for centre in self.centres:
            _alike(centre, self.features, "coordinates")
        ranges_of(self.ranges)
        return self

    def estimator(self) -> Any:
        """A KMeans behind the scaler by the agreed ranges."""
        import numpy as np
        from sklearn.cluster import KMeans
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MinMaxScaler

        scaler, low_high = MinMaxScaler(), np.array(ranges_of(self.ranges))
        # Exactly these bounds: a scaler is fitted to two rows, the lowest and the highest.
        scaler.fit(low_high.T)
        model = KMeans(len(self.centres), n_init=1)
        model.cluster_centers_ = scaler.transform(np.array(self.centres, dtype=np.float64))
        scaler.feature_names_in_ = np.array(self.features, dtype=object)
        model.n_features_in_ = len(self.features)
        model._n_threads = 1
        return make_pipeline(scaler, model)


class Tree(Strict):
    """One tree as columns; a leaf has the feature -1."""

    feature: Places
    bin: Places
    left: Places
    right: Places
    missing: Annotated[tuple[bool, ...], Field(strict=False)]
    value: Numbers

    def require_fit(self, features: int, bins: int) -> None:
        """Children come after their parents, so that every walk ends. Raises: Unfit."""
        columns = (self.bin, self.left, self.right, self.missing, self.value)
        size = len(self.feature)
        if not size or any(len(column) != size for column in columns):
            raise Unfit("columns of a tree of one length", "others")
        for i, feature in enumerate(self.feature):
            ends = (self.left[i], self.right[i])
            if feature >= features or not 0 <= self.bin[i] < bins:
                raise Unfit("nodes on features and bins of the model", "others")
            if feature >= 0 and not all(i < end < size for end in ends):
                raise Unfit("children behind their parents", "others")


class Trees(Strict):
    """`boosted_trees`."""

    features: Names
    bins: Annotated[int, Field(ge=2, le=250)]
    ranges: Bounds
    predict: Literal["class", "number"]
    baseline: Number
    trees: Annotated[tuple[Tree, ...], Field(strict=False)]
    classes: Classes | None = None
    categories: Categories = Field(default_factory=dict)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        _alike(self.ranges, self.features, "ranges")
        ranges_of(self.ranges)
        if (self.predict == "class") != (self.classes is not None):
            raise Unfit("classes where a class is predicted", "the reverse")
        for tree in self.trees:
            tree.require_fit(len(self.features), self.bins)
        return self

    def estimator(self) -> Any:
        """A BoostedTreesClassifier or -Regressor of `provider.estimators`."""
        from provider.estimators import BoostedTreesClassifier, BoostedTreesRegressor

        plain = json.loads(self.model_dump_json())
        if self.predict == "class":
            return BoostedTreesClassifier(plain)
        return BoostedTreesRegressor(plain)


Model = Linear | Logistic | Clusters | Trees
_KINDS: Mapping[str, type[Model]] = {
    "boosted_trees": Trees,
    "k_means": Clusters,
    "linear_regression": Linear,
    "logistic_regression": Logistic,
}


# What rounds make of rows, beside which they tell kind, round and digest.
_OF_ROUNDS = {"linear": "linear_regression", "logistic": "logistic_regression"}
_TOLD = ("features", "coefficients", "intercept", "classes")


def kind_of(model: Model) -> str:
    """What made it, as a policy names that."""
    return next(run for run, kind in _KINDS.items() if isinstance(model, kind))


def model_of(run: str, values: Mapping[str, Any]) -> Model:
    """The model among the outputs of a result. Raises: ResultNoModel."""
    joint = values.get("model")
    if run != "federated" or not isinstance(joint, dict):
        return read_model(run, values.get("model_weights"))
    weights = {name: joint[name] for name in _TOLD if name in joint}
    return read_model(_OF_ROUNDS.get(str(joint.get("kind")), run), weights)


def read_model(run: str, weights: Any) -> Model:
    """A released model, every shape and place checked.

    Raises: ResultNoModel.
    """
    kind = _KINDS.get(run)
    if kind is None or weights is None:
        wanted = f"a model of {' or '.join(_KINDS)}"
        raise ResultNoModel("result", expected=wanted, found=ascii(run)[:80])
    try:
        return TypeAdapter(kind).validate_python(weights)
    except ValidationError as error:
        raise ResultNoModel("model_weights", expected=f"those of {run}", found="others") from error


def read_result(raw: bytes) -> Model:
    """The model of a result file.

    Raises: ResultNoModel.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ResultNoModel("file", expected="a result in JSON", found="another") from error
    if not isinstance(document, dict):
        raise ResultNoModel("file", expected="a result in JSON", found="another")
    return model_of(str(document.get("run")), document)


def as_skops(model: Model) -> tuple[bytes, list[str]]:
    """The estimator as a file of skops, and what its reader has to be told to trust.

    Those are classes of `provider.estimators`, which hold lists alone.
    """
    from skops.io import dumps, get_untrusted_types

    made: bytes = dumps(model.estimator())
    return made, get_untrusted_types(data=made)
