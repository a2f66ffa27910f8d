"""Binary logistic regression on the rows of all inputs together.

    fit([alice, bob], features=["age", "bmi"], label="ill", max_iter=200, k=100)
    # {"features": […], "coefficients": […], "intercept": …, "classes": [0, 1]}

Inputs are concatenated in the order given, which is the policy's and never that of arrival:
floating-point sums depend on it. The largest and smallest values of a feature are pulled in to
where k persons or one in twenty are as far out; features are then standardised over the joint
rows; the L2 penalty is C = 1, the solver Newton's; and the coefficients are folded back to the
raw scale, so that score = coefficients · features + intercept, positive for the second class.

A trained model is d + 1 exact equations about its rows, for any penalty: for each feature, the
sum of (label - prediction) · value is its coefficient over C. `groups` declares the persons that
these equations, and their sums and differences, are about.

Parameters of a policy: `features`, a list of columns of numbers or of texts with listed values;
`label`, a bool or integer column with two values; `test_share`, the part of the persons that
`metrics` are about; all fixed; `max_iter`, 1 to 100000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enclave_app.computations.features import (
    categories,
    joined,
    matrix_of,
    named,
    of_features,
    one_hot,
    people_of,
    require_finite,
    standardised,
)
from enclave_app.computations.groups import Matrix
from enclave_app.computations.metrics import measured, of_test_side
from enclave_app.computations.split import sides
from enclave_app.deadline import check_deadline
from enclave_app.errors import ComputeDeniedError, ReleaseDeniedError
from enclave_app.gate import (
    Group,
    Input,
    Inputs,
    People,
    Share,
    numbered_in,
    require_all,
    rounded,
)
from enclave_app.limits import Need, declared
from policy.sections import Release

PARTS = ("numpy.ma",)  # which numpy loads itself, later, and not every image has
# Fixed, and measured with the code, so that fits are comparable.
C = 1.0
# Of the mean loss: what rounding hides. One step of Newton's more, and nothing is left to lose.
FLATNESS = 1e-13
# A row that weighs less is far from the boundary: beside the penalty it is nothing, and processors
# take ten times as long for products of such numbers.
NOTHING = 1e-30
# At each end of a feature at least one person in so many, or k, are equally far out.
_ENDS = 20


class ClassesNotTwo(ComputeDeniedError):
    """The label does not have exactly two values over all inputs."""

    code = "classes-not-two"
    default_fix = "agree on a label column with two classes"


def fit(
    inputs: Sequence[Input], *, features: Sequence[str], label: str, max_iter: int, k: int
) -> dict[str, Any]:
    """Fit one model to the rows of all inputs.

    Args:
        inputs: At least one; each has the columns named, without nulls or NaN.
        k: How many persons are enough to stand at the end of a feature.

    Raises:
        ClassesNotTwo: The label is constant, or has more than two values.
        FeatureConstant: A feature never varies, but for fewer than k persons.
        NumbersOutOfRange: Values too large to standardise or fold back.
        SolverNotConverged: `max_iter` was not enough.
    """
    classes, target = np.unique(joined(inputs, label), return_inverse=True)
    if len(classes) != 2:
        raise ClassesNotTwo(f"label {label!r}", expected="two values", found="another number")
    matrix, mean, deviation = _standardised(inputs, features, k)
    weights, bias = _solve(matrix, target, max_iter)
    coefficients = weights / deviation
    intercept = bias - float(np.dot(coefficients, mean))
    require_finite(np.append(coefficients, intercept))
    return {
        "features": list(features),
        "coefficients": coefficients.tolist(),
        "intercept": intercept,
        "classes": classes.tolist(),
    }


def _standardised(
    inputs: Sequence[Input], features: Sequence[str], k: int
) -> tuple[Matrix, Matrix, Matrix]:
    """The features of the joint rows; mean and standard deviation that they had before."""
    matrix = matrix_of(inputs, features)
    _pull_in(matrix, people_of(inputs), k)
    return standardised(matrix, features)


def _pull_in(matrix: Matrix, people: People, k: int) -> None:
    """Clip single extreme persons: one patient with a dose of 1000 would be a yes-or-no feature."""
    order = np.argsort(people, kind="stable")
    starts = np.flatnonzero(np.diff(people[order], prepend=-1))
    rank = max(1, min(k, len(starts) // _ENDS))
    for column in matrix.T:
        # The lowest and the highest row of each person: many rows of one person count once.
        lows = np.minimum.reduceat(column[order], starts)
        highs = np.maximum.reduceat(column[order], starts)
        low = np.partition(lows, rank - 1)[rank - 1]
        high = np.partition(highs, len(highs) - rank)[len(highs) - rank]
        np.clip(column, low, high, out=column)


class SolverNotConverged(ComputeDeniedError):
    """The solver stopped before it converged."""

    code = "solver-not-converged"
    default_fix = "agree on a larger max_iter"


def _solve(matrix: Matrix, target: npt.NDArray[Any], max_iter: int) -> tuple[Matrix, float]:
    """Weights and bias where mean log-loss and penalty together are least, by Newton's method with
    a line search: the sum is convex, so each step goes down, and the last ones double the digits.
    At each iteration it is asked whether it may go on; it writes no warnings."""
    signs, size, penalty = 2.0 * target - 1.0, len(matrix), 1.0 / (C * len(matrix))

    def loss(point: Matrix) -> float:
        margins = signs * (matrix @ point[:-1] + point[-1])
        return float(np.logaddexp(0, -margins).mean() + penalty / 2 * point[:-1] @ point[:-1])

    point = np.zeros(matrix.shape[1] + 1)
    value = loss(point)
    for _ in range(max_iter):
        check_deadline()
        margins = signs * (matrix @ point[:-1] + point[-1])
        wrong, right = np.exp(-np.logaddexp(0, margins)), np.exp(-np.logaddexp(0, -margins))
        pull, weight = -signs * wrong / size, wrong * right / size
        weight[weight < NOTHING] = 0.0
        slope = np.append(matrix.T @ pull + penalty * point[:-1], pull.sum())
        curvature = _curvature(matrix, weight, penalty)
        try:
            step = np.linalg.solve(curvature, slope)
        except np.linalg.LinAlgError:
            break  # so far out that no row weighs anything
        gain = float(slope @ step)  # twice what is left to lose
        if gain <= FLATNESS:
            point -= step
            return point[:-1], float(point[-1])
        while (lower := loss(point - step)) > value - gain / 4:
            step, gain = step / 2, gain / 2
            if gain <= FLATNESS:
                break
        point, value = point - step, lower
    raise SolverNotConverged(
        "solver", expected=f"convergence in {max_iter} iterations", found="none"
    )


def _curvature(matrix: Matrix, weight: Matrix, penalty: float) -> Matrix:
    """Second derivatives of the mean log-loss and the penalty; the bias is last."""
    columns = matrix.shape[1]
    found = np.empty((columns + 1, columns + 1))
    scaled = matrix * np.sqrt(weight)[:, None]
    found[:-1, :-1] = scaled.T @ scaled
    found[:-1, :-1].flat[:: columns + 1] += penalty
    found[-1, :-1] = found[:-1, -1] = weight @ matrix
    found[-1, -1] = weight.sum()
    return found


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises: as `fit`; TooFewToTest, SubjectDominates.
    """
    trained, tested = _sides(inputs, parameters)
    features, label, k = named(parameters), parameters["label"], rule.min_subjects_per_input
    found = fit(
        list(trained.values()),
        features=features,
        label=label,
        max_iter=parameters["max_iter"],
        k=k,
    )
    if texts := categories(parameters):
        found["categories"] = texts
    outputs: dict[str, Any] = {"model_weights": found}
    if "metrics" in rule.outputs and tested is not None:
        shown = rounded(found, rule.significant_digits)
        matrix = matrix_of(list(tested.values()), features)
        scores = matrix @ np.array(shown["coefficients"]) + shown["intercept"]
        likely = np.exp(-np.logaddexp(0, -scores))
        outputs["metrics"], errors = measured(tested, label, likely, tuple(found["classes"]))
        require_all(errors, rule)
    return outputs


def _sides(
    inputs: Inputs, parameters: Mapping[str, Any]
) -> tuple[dict[str, Input], dict[str, Input] | None]:
    return sides(one_hot(inputs, parameters)[0], parameters)


def need(parameters: Mapping[str, Any]) -> Need:
    """Six float64 for each cell: as it is, standardised, for the groups, inside the solver."""
    return declared("logistic_regression", len(named(parameters)))


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Of each feature its name, escaped, and a number; the values of texts once more."""
    return 2000 + sum(4 * len(name.encode()) + 32 for name in named(parameters, base=True))


class ClassTooSmall(ReleaseDeniedError):
    """Too few subjects of one input, or none, belong to one of the label's classes."""

    code = "class-too-small"
    default_fix = "release at least min_subjects_per_input persons of each class"


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """The persons that a model is about, in each input: by class, value, cell and combination.

    Raises:
        FeatureConstant, NumbersOutOfRange: As `fit` says.
    """
    trained, tested = _sides(inputs, parameters)
    features, label = named(parameters), parameters["label"]
    # The result names both classes, also to a provider whose rows have one of them.
    classes = np.unique(joined(list(inputs.values()), label))
    who = numbered_in(trained)
    yield from of_classes(trained, who, label, classes)
    if tested is not None:
        yield from of_test_side(tested, label, tuple(classes))
    matrix, _, _ = _standardised(list(trained.values()), features, rule.min_subjects_per_input)
    targets = {d: table.column(label).to_numpy() for d, (table, _) in trained.items()}
    yield from of_features(trained, features, matrix, who, targets)


def of_classes(
    inputs: Inputs, who: Mapping[str, People], label: str, classes: npt.NDArray[Any]
) -> Iterator[Group]:
    """The persons of each class in each input."""
    for dataset, (table, _) in inputs.items():
        people, target = who[dataset], table.column(label).to_numpy()
        yield from (
            Group(f"dataset {dataset!r}: label {label!r}", people[target == one], ClassTooSmall)
            for one in classes
        )
