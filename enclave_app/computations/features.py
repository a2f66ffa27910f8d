"""The features of a model as numbers, and the groups of persons that its equations are about.

    inputs, names = one_hot(inputs, parameters)        # a text becomes a yes-or-no for each value
    matrix, mean, deviation = standardised(matrix, names)
    yield from of_features(inputs, names, matrix, target)

A text enters by the closed list of values that the policy gives for its column: `region=south` is
true or false. The first value is the base: it has no column of its own where an intercept holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.computations.groups import (
    Matrix,
    ValueTooRare,
    from_zero_to_one,
    of_directions,
    of_frequencies,
    of_most_alike,
    of_pairs,
    of_weights,
)
from enclave_app.errors import ComputeDeniedError, NumbersOutOfRange
from enclave_app.gate import Group, Input, Inputs, People, Share, numbered, persons
from policy.domains import Agreed

# A column with at most so many values is a category; one with more is a measurement.
FEW = 10
# Of what varies in one feature, or in a combination of features that have few values, one person
# holds a tenth at most. In any combination too, or five times what each holds on average; half at
# most. A model of thirty measurements of 270 persons is just within that.
MOST_OF_ONE, MOST_TIMES_AVERAGE, MOST_OF_ALL = 0.1, 5, 0.5


class FeatureConstant(ComputeDeniedError):
    """A feature has one value over all inputs and cannot be standardised."""

    code = "feature-constant"
    default_fix = "agree on the features without the constant one"


def joined(inputs: Sequence[Input], name: str) -> npt.NDArray[Any]:
    """One column of all inputs, in their order."""
    return np.concatenate([table.column(name).to_numpy() for table, _ in inputs])


def matrix_of(inputs: Sequence[Input], names: Sequence[str]) -> Matrix:
    """These columns of all inputs, each in one piece: what follows goes column by column."""
    matrix = np.empty((sum(len(table) for table, _ in inputs), len(names)), order="F")
    for name, column in zip(names, matrix.T, strict=True):
        np.concatenate([table.column(name).to_numpy() for table, _ in inputs], out=column)
    return matrix


def people_of(inputs: Sequence[Input]) -> People:
    """Persons of all inputs: one who is in two of them counts twice, as two would."""
    start, parts = 0, []
    for table, subject in inputs:
        parts.append(numbered(table.column(subject)) + start)
        start += len(table)
    return np.concatenate(parts)


def named(parameters: Mapping[str, Any], *, base: bool = False) -> list[str]:
    """The features of a model, in order: those of a text column by its values."""
    return [name for names in _expanded(parameters, base=base).values() for name in names]


def _expanded(parameters: Mapping[str, Any], *, base: bool) -> dict[str, list[str]]:
    """Of each column the features that it becomes. No column's name can contain `=`."""
    agreed: Agreed | None = parameters.get("agreed")
    expanded = {}
    for name in parameters["features"]:
        values = agreed.values(name) if agreed is not None else ()
        shown = values if base else values[1:]
        expanded[name] = [f"{name}={value}" for value in shown] if values else [name]
    return expanded


def categories(parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each text column its agreed values, for whoever applies the model."""
    agreed: Agreed | None = parameters.get("agreed")
    if agreed is None:
        return {}
    return {n: list(agreed.values(n)) for n in parameters["features"] if agreed.values(n)}


def one_hot(
    inputs: Inputs, parameters: Mapping[str, Any], *, base: bool = False
) -> tuple[dict[str, Input], list[str]]:
    """The inputs with a column for each feature of the model, and the names of these columns.

    Args:
        base: Give the first value a column too.
    """
    expanded = _expanded(parameters, base=base)
    encoded: dict[str, Input] = {}
    for dataset, (whole, subject) in inputs.items():
        table = whole
        for name, names in expanded.items():
            for made in names if names != [name] else ():
                is_one = pc.equal(whole.column(name), pa.scalar(made.partition("=")[2]))
                table = table.append_column(made, is_one)
        encoded[dataset] = Input(table, subject)
    return encoded, [name for names in expanded.values() for name in names]


def standardised(matrix: Matrix, features: Sequence[str]) -> tuple[Matrix, Matrix, Matrix]:
    """Each column with mean 0 and deviation 1; mean and standard deviation that it had before.

    Raises: FeatureConstant, NumbersOutOfRange.
    """
    # Exactly: the deviation of a constant such as 0.1 is a rounding error, not zero.
    constant = matrix.min(axis=0) == matrix.max(axis=0)
    if constant.any():
        name = features[int(np.argmax(constant))]
        raise FeatureConstant(f"feature {name!r}", expected="values that vary", found="one value")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = matrix.mean(axis=0), matrix.std(axis=0)
    require_finite(mean)
    require_finite(deviation)
    if not deviation.all():
        raise NumbersOutOfRange("features", expected="values of similar size", found="underflow")
    return (matrix - mean) / deviation, mean, deviation


def require_finite(values: Matrix) -> None:
    """Raises: NumbersOutOfRange."""
    if not np.isfinite(values).all():
        raise NumbersOutOfRange("features", expected="finite intermediate values", found="overflow")


def of_features(
    inputs: Inputs,
    features: Sequence[str],
    standard: Matrix,
    who: Mapping[str, People],
    classes: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Iterator[Group | Share]:
    """The persons of each input that equations of these features are about.

    Args:
        standard: The features of all inputs, as `standardised` made them.
        who: Of each input the person of each row, numbered.
        classes: Of each input the label of each row, where labels have few values.
    """
    for dataset, (table, _) in inputs.items():
        values = {name: table.column(name).to_numpy() for name in features}
        target = np.zeros(len(table), np.int8) if classes is None else classes[dataset]
        yield from _of_values(f"dataset {dataset!r}", values, target, who[dataset])
    for dataset, (table, _) in inputs.items():
        part, standard = standard[: len(table)], standard[len(table) :]
        people = who[dataset]
        for name, column in zip(features, part.T, strict=True):
            # The other provider may have made up rows that are as far out as one of these.
            thing, squares = f"dataset {dataset!r}: feature {name!r}", (column - column.mean()) ** 2
            yield of_weights(thing, squares, people, most=MOST_OF_ONE)
        thing = f"dataset {dataset!r}: features together"
        average = (len(features) + 1) / persons(people)
        most = min(MOST_OF_ALL, max(MOST_OF_ONE, MOST_TIMES_AVERAGE * average))
        yield of_directions(thing, part, people, most=most)


def _of_values(
    dataset: str, values: Mapping[str, npt.NDArray[Any]], target: npt.NDArray[Any], people: People
) -> Iterator[Group | Share]:
    """Each feature of one input, and those with few values together."""
    few: list[npt.NDArray[Any]] = []
    flags: dict[str, npt.NDArray[Any]] = {}
    for name, column in values.items():
        thing = f"{dataset}: feature {name!r}"
        found, rows = np.unique(column, return_counts=True)
        yield from of_frequencies(thing, column, people, found, rows, few=FEW)
        if len(found) <= FEW:
            few.append(from_zero_to_one(column))
        if len(found) == 2:
            flags[name] = column == found[1]
            # A coefficient of two values is the four numbers of a table with the label.
            for cell in itertools.product(found, np.unique(target)):
                with_label = people[(column == cell[0]) & (target == cell[1])]
                yield Group(f"{thing} and label", with_label, ValueTooRare)
    for (name, one), (other, two) in itertools.combinations(flags.items(), 2):
        yield from of_pairs(f"{dataset}: features {name!r} and {other!r}", one, two, people)
    if few:
        # What a person has in several rows counts once.
        each = np.unique(np.column_stack([people, *few]), axis=0)
        thing, who = f"{dataset}: features of few values", each[:, 0].astype(np.int64)
        yield of_most_alike(thing, each[:, 1:], who)
        yield of_directions(thing, each[:, 1:], who, most=MOST_OF_ONE, leaf=ValueTooRare)
