"""How well a model does on persons that it was not trained on.

    of_classes(truth, likely)        # {"accuracy": 0.93, "auc": 0.98, "log_loss": 0.21}
    of_numbers(truth, predicted)     # {"r2": 0.71, "rmse": 4.2}

Only of the test side, which holds k persons of each input, and of each class. Accuracy and AUC are
rounded to hundredths: how many were wrong is a count. No person has more than half of the error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enclave_app.computations.features import joined
from enclave_app.computations.groups import Matrix, of_values, of_weights
from enclave_app.errors import ComputeDeniedError, ReleaseDeniedError
from enclave_app.gate import Group, Inputs, Share, numbered

_SURE = 1e-15  # a probability is no closer to 0 and 1 than this
_FEW = 3  # values of a label: mean and deviation would solve their frequencies


class TooFewToTest(ReleaseDeniedError):
    """Too few subjects of one input, or of one class of it, are left to test a model with."""

    code = "too-few-to-test"
    default_fix = "agree on a larger test_share, or release more subjects"


class LabelConstant(ComputeDeniedError):
    """The label has one value on the test side, so that nothing is explained."""

    code = "label-constant"
    default_fix = "agree on a label that varies"


def of_classes(truth: Matrix, likely: Matrix) -> dict[str, float]:
    """Of labels 0 and 1, and how likely 1 was said to be."""
    sure = np.clip(likely, _SURE, 1 - _SURE)
    loss = -float(np.mean(np.where(truth == 1, np.log(sure), np.log1p(-sure))))
    right = float(np.mean((likely > 0.5) == (truth == 1)))
    return {"accuracy": round(right, 2), "auc": round(_auc(truth, likely), 2), "log_loss": loss}


def _auc(truth: Matrix, likely: Matrix) -> float:
    """How often one of class 1 is said to be likelier than one of class 0; ties are halves."""
    ordered, ones = np.sort(likely), likely[truth == 1]
    below = np.searchsorted(ordered, ones, "left") + np.searchsorted(ordered, ones, "right")
    ranks = float(below.sum()) / 2 + len(ones) / 2
    zeros = len(truth) - len(ones)
    return (ranks - len(ones) * (len(ones) + 1) / 2) / (len(ones) * zeros)


def of_numbers(truth: Matrix, predicted: Matrix) -> dict[str, float]:
    """The part of the label's variance that is explained, and the root of the mean square error.

    Raises: LabelConstant.
    """
    spread = float(np.mean((truth - truth.mean()) ** 2))
    if not spread > 0:
        raise LabelConstant("label", expected="values that vary", found="one value")
    error = float(np.mean((truth - predicted) ** 2))
    return {"r2": 1 - error / spread, "rmse": error**0.5}


def of_test_side(
    tested: Inputs, label: str, classes: tuple[object, ...] | None
) -> Iterator[Group | Share]:
    """The persons that metrics are about.

    Args:
        classes: Of a label that is a class; None where it is a number.
    """
    for dataset, (table, subject) in tested.items():
        thing, people = f"dataset {dataset!r}: test side", numbered(table.column(subject))
        yield Group(thing, people, TooFewToTest)
        values = table.column(label).to_numpy()
        if classes is None:
            spread = (values.astype(np.float64) - values.mean()) ** 2
            yield from of_values(thing, values, people, few=_FEW)
            yield of_weights(thing, spread, people, most=0.5)
        else:
            yield from (Group(thing, people[values == one], TooFewToTest) for one in classes)


def of_errors(tested: Inputs, errors: Matrix) -> Iterator[Share]:
    """Nobody has more than half of an input's error, which would be about that person.

    Args:
        errors: Of each row of all inputs, not negative.
    """
    for dataset, (table, subject) in tested.items():
        part, errors = errors[: len(table)], errors[len(table) :]
        if part.any():
            people = numbered(table.column(subject))
            yield of_weights(f"dataset {dataset!r}: test side", part, people, most=0.5)


def measured(
    tested: Inputs, label: str, predicted: Matrix, classes: tuple[object, ...] | None
) -> tuple[dict[str, float], Iterator[Share]]:
    """The metrics, and what the gate still has to be asked about them."""
    truth = joined(list(tested.values()), label)
    if classes is None:
        truth = truth.astype(np.float64)
        return of_numbers(truth, predicted), of_errors(tested, (truth - predicted) ** 2)
    ones = (truth == classes[1]).astype(np.float64)
    sure = np.clip(np.where(ones == 1, predicted, 1 - predicted), _SURE, 1)
    return of_classes(ones, predicted), of_errors(tested, -np.log(sure))
