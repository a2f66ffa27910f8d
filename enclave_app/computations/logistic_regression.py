"""Binary logistic regression on the rows of all inputs together.

    fit([alice, bob], features=["age", "bmi"], label="ill", max_iter=200)
    # {"features": […], "coefficients": […], "intercept": …, "classes": [0, 1]}

Inputs are concatenated in the order given, which is the policy's and never that of arrival:
floating-point sums depend on it. Features are standardised over the joint rows, the solver is
lbfgs with an L2 penalty of C = 1, and the coefficients are folded back to the raw scale, so
that score = coefficients · features + intercept, positive for the second class.

Parameters of a policy: `features`, a list of numeric columns; `label`, a bool or integer
column with two values; `max_iter`, 1 to 100000.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from enclave_app.errors import (
    ClassesNotTwo,
    ComputationParameters,
    FeatureConstant,
    NumbersOutOfRange,
    SolverNotConverged,
)
from enclave_app.release import Input, ReleaseRule

OUTPUTS = frozenset({"model_weights"})
# What makes two fits comparable is measured, not negotiable.
C, TOLERANCE, MOST_ITERATIONS = 1.0, 1e-10, 100_000
_NUMERIC = {"bool", "int32", "int64", "float32", "float64"}
_LABEL = {"bool", "int32", "int64"}

Matrix = npt.NDArray[np.float64]


def fit(
    tables: Sequence[pa.Table], *, features: Sequence[str], label: str, max_iter: int
) -> dict[str, Any]:
    """Fit one model to the rows of all tables.

    Args:
        tables: At least one; each has the columns named, without nulls or NaN.

    Raises:
        ClassesNotTwo: The label is constant, or has more than two values.
        FeatureConstant: A feature never varies.
        NumbersOutOfRange: Values too large to standardise or fold back.
        SolverNotConverged: `max_iter` was not enough.
    """
    matrix = np.column_stack([_joined(tables, name).astype(np.float64) for name in features])
    classes, target = np.unique(_joined(tables, label), return_inverse=True)
    if len(classes) != 2:
        raise ClassesNotTwo(f"label {label!r}", expected="two values", found="another number")
    mean, deviation = _scale(matrix, features)
    weights, bias = _solve((matrix - mean) / deviation, target, max_iter)
    coefficients = weights / deviation
    intercept = bias - float(np.dot(coefficients, mean))
    _require_finite(np.append(coefficients, intercept))
    return {
        "features": list(features),
        "coefficients": coefficients.tolist(),
        "intercept": intercept,
        "classes": classes.tolist(),
    }


def _joined(tables: Sequence[pa.Table], name: str) -> npt.NDArray[Any]:
    return np.concatenate([table.column(name).to_numpy() for table in tables])


def _scale(matrix: Matrix, features: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation of each column."""
    # Exactly: the deviation of a constant such as 0.1 is a rounding error, not zero.
    constant = matrix.min(axis=0) == matrix.max(axis=0)
    if constant.any():
        name = features[int(np.argmax(constant))]
        raise FeatureConstant(f"feature {name!r}", expected="values that vary", found="one value")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = matrix.mean(axis=0), matrix.std(axis=0)
    _require_finite(mean)
    _require_finite(deviation)
    if not deviation.all():
        raise NumbersOutOfRange("features", expected="values of similar size", found="underflow")
    return mean, deviation


def _require_finite(values: Matrix) -> None:
    if not np.isfinite(values).all():
        raise NumbersOutOfRange("features", expected="finite intermediate values", found="overflow")


def _solve(matrix: Matrix, target: npt.NDArray[Any], max_iter: int) -> tuple[Matrix, float]:
    model = LogisticRegression(solver="lbfgs", C=C, tol=TOLERANCE, max_iter=max_iter)
    with warnings.catch_warnings():
        # The warning is the only sign: sklearn returns unfinished weights as if they were a model.
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(matrix, target)
        except ConvergenceWarning as unfinished:
            raise SolverNotConverged(
                "solver", expected=f"convergence in {max_iter} iterations", found="none"
            ) from unfinished
    return model.coef_[0], float(model.intercept_[0])


def run(
    inputs: Mapping[str, Input], parameters: Mapping[str, Any], rule: ReleaseRule
) -> dict[str, Any]:
    """The computation as the registry knows it: `fit` with the task's parameters."""
    return {"model_weights": fit([i.table for i in inputs.values()], **parameters)}


def check(parameters: Mapping[str, Any], inputs: Sequence[Mapping[str, str]]) -> None:
    """Refuse parameters that `fit` cannot take, before anybody releases a row for them.

    Args:
        parameters: As the task resolves them.
        inputs: For each input its column names with their types.

    Raises:
        ComputationParameters: Naming the parameter or column.
    """
    if set(parameters) != {"features", "label", "max_iter"}:
        raise _unfit("parameters", "features, label and max_iter", ", ".join(sorted(parameters)))
    features, label, max_iter = (parameters[k] for k in ("features", "label", "max_iter"))
    if type(max_iter) is not int or not 1 <= max_iter <= MOST_ITERATIONS:
        raise _unfit("max_iter", f"an integer from 1 to {MOST_ITERATIONS}", repr(max_iter)[:64])
    if not isinstance(features, list | tuple) or not features:
        raise _unfit("features", "a list of column names", type(features).__name__)
    if len(set(map(str, (*features, label)))) != len(features) + 1:
        raise _unfit("features and label", "different columns", "one named twice")
    for columns in inputs:
        for name in features:
            _require_type("feature", name, columns, _NUMERIC)
        _require_type("label", label, columns, _LABEL)


def _require_type(role: str, name: object, columns: Mapping[str, str], types: set[str]) -> None:
    found = columns.get(name, "no such column") if isinstance(name, str) else "not a name"
    if found not in types:
        raise _unfit(f"{role} {str(name)[:64]!r}", " or ".join(sorted(types)), found)


def _unfit(thing: str, expected: str, found: str) -> ComputationParameters:
    return ComputationParameters(thing, expected=expected, found=found)
