"""The groups of persons that statistics and models of columns are about, for the gate.

    yield from of_values(thing, values, people, few=10)     # each value that few persons have
    yield of_weights(thing, squares, people, most=0.5)      # no person has more than half
    yield of_directions(thing, matrix, people, most=0.5)    # every combination of columns at once

A model of d features is d + 1 equations about the rows, and a recipient may add and subtract
them. A combination that is zero for all but a few persons is an equation about these few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from enclave_app.errors import ReleaseDeniedError
from enclave_app.gate import Group, People, Share, SubjectDominates

Matrix = npt.NDArray[np.float64]
# A direction that is smaller than this is rounding; in six digits it could not be seen anyway.
_NOTHING = 1e-12
_SMALL = float(np.finfo(float).tiny)
# An eigenvalue of correlations that is larger has ten digits, and more than half of them are right.
_WELL_MIXED = 1e-6


class ValueTooRare(ReleaseDeniedError):
    """Too few subjects of one input have a value, or several together, that few others have."""

    code = "value-too-rare"
    default_fix = "agree on the result without this column, or on a coarser one"


class ColumnConstant(ReleaseDeniedError):
    """In one input a column has a single value: the result would tell it of every person."""

    code = "column-constant"
    default_fix = "agree on the result without this column"


def of_values(thing: str, values: npt.NDArray[Any], people: People, *, few: int) -> Iterator[Group]:
    """Persons with another value than most; where values are few, those with each value.

    Args:
        values: One for each row; no NaN.
        few: Up to so many different values are a table of frequencies.
    """
    found, rows = np.unique(values, return_counts=True)
    yield from of_frequencies(thing, values, people, found, rows, few=few)


def of_frequencies(
    thing: str,
    values: npt.NDArray[Any],
    people: People,
    found: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    *,
    few: int,
) -> Iterator[Group]:
    """As `of_values`, where it is known which values there are, and in how many rows."""
    # A yes-or-no column in another form: most rows have one value, and the rest is few.
    if rows.max() > 1:
        others = people[values != found[rows.argmax()]]
        yield Group(thing, others, ValueTooRare if len(others) else ColumnConstant)
    if len(found) <= few:
        for value in found:
            yield Group(thing, people[values == value], ValueTooRare)


def from_zero_to_one(values: npt.NDArray[Any]) -> Matrix:
    """The same column in a size that can be squared."""
    near = values.astype(np.float64)
    near /= max(float(np.abs(near).max()), _SMALL)
    near -= near.min()
    near /= max(float(near.max()), _SMALL)
    return near


def of_weights(thing: str, weights: Matrix, people: People, *, most: float) -> Share:
    """The largest part of these weights that one person holds.

    Args:
        weights: One for each row, finite, not negative. All zero: nothing there is not one's.
    """
    held, total = np.bincount(people + 1, weights), float(weights.sum())  # a null is -1
    return Share(thing, float(held.max()) / total if total > 0 else 1.0, most)


def of_pairs(
    thing: str, one: npt.NDArray[Any], two: npt.NDArray[Any], people: People
) -> Iterator[Group]:
    """The groups that equations of two yes-or-no columns, added and subtracted, are about.

    Persons with both or neither, and persons with one alone: a second column that differs from the
    first in one row would otherwise reveal that row.

    Args:
        one, two: True or False for each row; neither is constant.
    """
    for group in (people[one == two], people[one != two]):
        if len(group):
            yield Group(thing, group, ValueTooRare)


def of_most_alike(thing: str, matrix: Matrix, people: People) -> Group:
    """Persons for whom a combination of columns is not zero, where it is zero for most rows.

    Three categories, each a column, and one person who is in none: 1 - a - b - c is this person.
    The most frequent rows are set to zero, one after the other, as long as something is left.

    Args:
        matrix: Rows and columns of few values between 0 and 1.
    """
    patterns, which, rows = np.unique(matrix, axis=0, return_inverse=True, return_counts=True)
    points = np.column_stack([np.ones(len(patterns)), patterns])
    most = int(np.linalg.matrix_rank(points)) - 1
    zero, basis = np.zeros(len(points), bool), np.empty((0, points.shape[1]))
    for i in np.argsort(-rows, kind="stable"):
        rest = points[i] - basis.T @ (basis @ points[i])
        length = float(np.linalg.norm(rest))
        zero[i] = length < 1e-9 or len(basis) < most
        if length >= 1e-9 and zero[i]:
            basis = np.vstack([basis, rest / length])
    return Group(thing, people[~zero[which.ravel()]], ValueTooRare)


def of_directions(
    thing: str,
    matrix: Matrix,
    people: People,
    *,
    most: float,
    leaf: type[ReleaseDeniedError] = SubjectDominates,
) -> Share:
    """The largest part of any combination of columns that is one person's.

    Where every part is at most 1/m, each combination is about m persons or more: the parts of
    these persons add up to one.

    Args:
        matrix: Rows and columns, of a size that can be squared. A constant is added: it is an
            equation too.
    """
    centred = matrix - matrix.mean(axis=0)
    at_most = _most_of_any(centred, people)
    if at_most <= most / 2:
        return Share(thing, at_most, most, leaf)
    whole = np.column_stack([np.ones(len(matrix)), centred])
    whole /= np.sqrt((whole**2).sum(axis=0)).clip(min=_SMALL)
    directions, sizes, _ = np.linalg.svd(whole, full_matrices=False)
    # In these coordinates all directions are alike, and a row's part of its own is its length.
    even = directions[:, sizes > _NOTHING * sizes[0]]
    _, person = np.unique(people, return_inverse=True)
    rows, sums = np.bincount(person), np.bincount(person, (even**2).sum(axis=1))
    largest = float(sums[rows == 1].max(initial=0.0))
    # Rows of one person share a direction or not: only where their sum is too large it is asked.
    order, ends = np.argsort(person, kind="stable"), np.cumsum(rows)
    for i in np.flatnonzero((rows > 1) & (sums > max(most, largest))):
        own = even[order[ends[i] - rows[i] : ends[i]]]
        largest = max(largest, float(np.linalg.eigvalsh(own.T @ own)[-1]))
    return Share(thing, largest, most, leaf)


def _most_of_any(centred: Matrix, people: People) -> float:
    """What no part of any combination exceeds, cheaply; infinite where columns are nearly alike.

    A row's part of a combination is at most its squared length over the least eigenvalue of the
    columns' correlations, and the parts of a person's rows add up. Rows of well-mixed columns are
    far below any limit, so that directions are computed for the others alone.
    """
    products = centred.T @ centred
    sizes = products.diagonal()
    if not len(centred) or not (sizes > _SMALL).all() or not np.isfinite(products).all():
        return math.inf
    least = float(np.linalg.eigvalsh(products / np.sqrt(np.outer(sizes, sizes)))[0])
    if least < _WELL_MIXED:
        return math.inf
    parts = (centred**2) @ (1 / sizes) / least + 1 / len(centred)  # and that of the constant
    return float(np.bincount(people + 1, parts).max())  # a null is -1
