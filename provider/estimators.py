"""Estimators of scikit-learn for what it has none that could be filled with released numbers.

    AgreedFeatures(["age", "region=south"]).transform(frame)    # texts become 0 and 1
    BoostedTreesClassifier(model).predict_proba(frame)          # from the released JSON

Each holds what it was made of as plain lists, so that it is stored without code. Rows are a data
frame of pandas or polars, or an array whose columns are in the order of `feature_names_in_`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin

Matrix = npt.NDArray[np.float64]


class AgreedFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Columns as the numbers that a model takes: a text as 0 or 1 for each of its listed values.

    Args:
        features: Of the model, in order: `age`, or `region=south`.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.features = features

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def feature_names_in_(self) -> npt.NDArray[Any]:
        """The columns that are looked for in a data frame."""
        names = dict.fromkeys(name.partition("=")[0] for name in self.features)
        return np.array([*names], dtype=object)

    @property
    def n_features_in_(self) -> int:
        """How many columns an array needs."""
        return len(self.feature_names_in_)

    def fit(self, rows: Any, target: Any = None) -> AgreedFeatures:
        """There is nothing to learn from rows."""
        return self

    def transform(self, rows: Any) -> Matrix:
        """One column for each feature; no value is NaN."""
        found, names = {}, [str(name) for name in self.feature_names_in_]
        by_name = hasattr(rows, "columns")
        array = None if by_name else np.asarray(rows)
        for i, name in enumerate(names):
            found[name] = np.asarray(rows[name]) if array is None else array[:, i]
        return np.column_stack([_numbers(found, feature) for feature in self.features])


def _numbers(columns: Mapping[str, npt.NDArray[Any]], feature: str) -> Matrix:
    name, is_text, value = feature.partition("=")
    if not is_text:
        return columns[name].astype(np.float64)
    column = columns[name]
    missing = np.array([one is None or one != one for one in column.tolist()], bool)
    return np.where(missing, np.nan, (column == value).astype(np.float64))


class _BoostedTrees(BaseEstimator):  # type: ignore[misc]
    """The trees that were released; `model` is the member `model_weights` of a result."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def feature_names_in_(self) -> npt.NDArray[Any]:
        """The columns that are looked for in a data frame."""
        return AgreedFeatures(self.model["features"]).feature_names_in_

    @property
    def n_features_in_(self) -> int:
        """How many columns an array needs."""
        return len(self.feature_names_in_)

    def fit(self, rows: Any, target: Any) -> _BoostedTrees:
        """Refused: where these trees were grown, rows do not leave."""
        raise NotImplementedError("released trees are not trained again")

    def _score(self, rows: Any) -> Matrix:
        """The sum of a leaf of each tree: a number, or the log of the odds of the second class."""
        features, bins = self.model["features"], self.model["bins"]
        numbers = AgreedFeatures(features).transform(rows)
        low, high = np.array(self.model["ranges"], dtype=np.float64).T
        missing = np.isnan(numbers)
        place = np.floor((np.where(missing, low, numbers) - low) / (high - low) * bins)
        steps = np.where(missing, bins, np.clip(place, 0, bins - 1))
        total = np.full(len(steps), float(self.model["baseline"]))
        for tree in self.model["trees"]:
            total += _leaf_values(tree, steps, bins)
        return total


def _leaf_values(tree: Mapping[str, Any], steps: Matrix, bins: int) -> Matrix:
    """Of each row the value of its leaf."""
    feature, last = np.array(tree["feature"]), np.array(tree["bin"])
    node = np.zeros(len(steps), np.int64)
    while (inner := np.flatnonzero(feature[node] >= 0)).size:
        at = node[inner]
        step = steps[inner, feature[at]]
        to_left = np.where(step == bins, np.array(tree["missing"])[at], step <= last[at])
        node[inner] = np.where(to_left, np.array(tree["left"])[at], np.array(tree["right"])[at])
    values: Matrix = np.array(tree["value"], dtype=np.float64)[node]
    return values


class BoostedTreesClassifier(ClassifierMixin, _BoostedTrees):  # type: ignore[misc]
    """Released trees that say how likely the second class is."""

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """Both classes; `decision_function` is above 0 for the second."""
        return np.array(self.model["classes"])

    def decision_function(self, rows: Any) -> Matrix:
        """The log of the odds of the second class."""
        return self._score(rows)

    def predict_proba(self, rows: Any) -> Matrix:
        """How likely each class is."""
        likely = np.exp(-np.logaddexp(0, -self._score(rows)))
        return np.column_stack([1 - likely, likely])

    def predict(self, rows: Any) -> npt.NDArray[Any]:
        """The likelier class."""
        found: npt.NDArray[Any] = self.classes_[(self._score(rows) > 0).astype(int)]
        return found


class BoostedTreesRegressor(RegressorMixin, _BoostedTrees):  # type: ignore[misc]
    """Released trees that say a number."""

    def predict(self, rows: Any) -> Matrix:
        """The number."""
        return self._score(rows)
