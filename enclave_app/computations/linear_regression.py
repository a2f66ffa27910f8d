"""Linear regression by ordinary least squares on the rows of all inputs together.

    fit([alice, bob], features=["age", "bmi"], label="pressure")
    # {"features": […], "coefficients": […], "intercept": …}

Exact, from cross products: columns are centred and scaled over the joint rows, the normal
equations solved by Cholesky's method and corrected once by what is left over. Nothing is pulled in
and nothing shrunk: columns that are combinations of others are refused, and so is a feature or
label of which one person holds more than a tenth of the variation.

A model is d + 1 equations about its rows: for each feature, the sum of (label - prediction) · value
is zero. `groups` declares the persons that these, and their sums and differences, are about.

Parameters of a policy, all fixed: `features`, columns of numbers or of texts with listed values;
`label`, a column of numbers; `test_share`, the part of the persons that `metrics` are about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from enclave_app.computations.features import (
    FEW,
    MOST_OF_ONE,
    categories,
    matrix_of,
    named,
    of_features,
    one_hot,
    require_finite,
    standardised,
)
from enclave_app.computations.groups import Matrix, of_values, of_weights
from enclave_app.computations.metrics import measured, of_test_side
from enclave_app.computations.split import sides
from enclave_app.deadline import check_deadline
from enclave_app.errors import ComputeDeniedError
from enclave_app.gate import (
    Group,
    Input,
    Inputs,
    Share,
    numbered,
    numbered_in,
    persons,
    require_all,
    rounded,
)
from enclave_app.limits import Need, declared
from policy.sections import Release

PARTS = ("numpy.ma",)  # which numpy loads itself, later, and not every image has
# Of the largest eigenvalue of the correlations. Below, half of all digits would be rounding.
_COLLINEAR = 1e-10


class FeaturesCollinear(ComputeDeniedError):
    """A feature is a combination of others: coefficients would not be determined."""

    code = "features-collinear"
    default_fix = "agree on the features without the one that the others give"


def fit(inputs: Sequence[Input], *, features: Sequence[str], label: str) -> dict[str, Any]:
    """Fit one model to the rows of all inputs.

    Args:
        inputs: At least one; each has the columns named, without nulls or NaN.

    Raises:
        FeatureConstant: A feature, or the label, never varies.
        FeaturesCollinear: A feature is a combination of others.
        NumbersOutOfRange: Values too large to standardise or fold back.
    """
    matrix, mean, deviation = standardised(matrix_of(inputs, features), features)
    target, middle, scale = standardised(matrix_of(inputs, [label]), [label])
    check_deadline()
    weights = _solve(matrix, target[:, 0])
    coefficients = weights / deviation * scale[0]
    intercept = float(middle[0]) - float(np.dot(coefficients, mean))
    require_finite(np.append(coefficients, intercept))
    return {
        "features": list(features),
        "coefficients": coefficients.tolist(),
        "intercept": intercept,
    }


def _solve(matrix: Matrix, target: Matrix) -> Matrix:
    """Raises: FeaturesCollinear."""
    products = matrix.T @ matrix / len(matrix)
    sizes = np.linalg.eigvalsh(products)
    if len(matrix) <= matrix.shape[1] or sizes[0] <= _COLLINEAR * sizes[-1]:
        raise FeaturesCollinear("features", expected="none that others give", found="one")
    lower = np.linalg.cholesky(products)

    def solved(right: Matrix) -> Matrix:
        found: Matrix = np.linalg.solve(lower.T, np.linalg.solve(lower, right))
        return found

    weights = solved(matrix.T @ target / len(matrix))
    # The error of cross products is squared; what is left over, computed from rows, is not.
    return weights + solved(matrix.T @ (target - matrix @ weights) / len(matrix))


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises: as `fit`; LabelConstant, SubjectDominates.
    """
    trained, tested = _sides(inputs, parameters)
    features, label = named(parameters), parameters["label"]
    found = fit(list(trained.values()), features=features, label=label)
    if texts := categories(parameters):
        found["categories"] = texts
    outputs: dict[str, Any] = {"model_weights": found}
    if "counts" in rule.outputs:
        counted = [persons(numbered(table.column(who))) for table, who in trained.values()]
        outputs["counts"] = {"subjects": sum(counted)}
    if "metrics" in rule.outputs and tested is not None:
        shown = rounded(found, rule.significant_digits)
        matrix = matrix_of(list(tested.values()), features)
        predicted = matrix @ np.array(shown["coefficients"]) + shown["intercept"]
        outputs["metrics"], errors = measured(tested, label, predicted, None)
        require_all(errors, rule)
    return {name: value for name, value in outputs.items() if name in rule.outputs}


def _sides(
    inputs: Inputs, parameters: Mapping[str, Any]
) -> tuple[dict[str, Input], dict[str, Input] | None]:
    return sides(one_hot(inputs, parameters)[0], parameters)


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """The persons that a model is about, in each input: by label, value, cell and combination.

    Raises:
        FeatureConstant, NumbersOutOfRange: As `fit` says.
    """
    trained, tested = _sides(inputs, parameters)
    features, label = named(parameters), parameters["label"]
    tables = list(trained.values())
    target, _, _ = standardised(matrix_of(tables, [label]), [label])
    who, classes = numbered_in(trained), {}
    for dataset, (table, _) in trained.items():
        thing, people = f"dataset {dataset!r}: label {label!r}", who[dataset]
        part, target = target[: len(table), 0], target[len(table) :]
        yield from of_values(thing, part, people, few=FEW)
        yield of_weights(thing, (part - part.mean()) ** 2, people, most=MOST_OF_ONE)
        # A label of few values is a class, also where a number is predicted.
        few = len(np.unique(part)) <= FEW
        classes[dataset] = part if few else np.zeros(len(part))
    if tested is not None:
        yield from of_test_side(tested, label, None)
    matrix, _, _ = standardised(matrix_of(tables, features), features)
    yield from of_features(trained, features, matrix, who, classes)


def need(parameters: Mapping[str, Any]) -> Need:
    """Six float64 for each cell: as it is, standardised, for the groups, inside the solver."""
    return declared("linear_regression", len(named(parameters)))


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Of each feature its name, escaped, and a number; the values of texts once more."""
    return 2000 + sum(4 * len(name.encode()) + 32 for name in named(parameters, base=True))
