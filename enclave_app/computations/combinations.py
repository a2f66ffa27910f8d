"""Whom numbers that stand side by side are about, once they are added and subtracted.

    surely_many(products, largest, k)   # from sums of products alone: nothing is about few
    about_few(vectors, k)               # some combination of the columns is about fewer than k rows
    columns_about_few(columns, people, k)   # which columns of numbers differ, together, for few

Two sums over hundreds of persons that differ in one of them are that person's number. A person is a
row of numbers here: how many rows, how many values, which sums. In every combination of the columns
k persons have a part, or none, and nobody's part is more than all others' together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from enclave_app.deadline import check_deadline
from enclave_app.gate import People

Vectors = npt.NDArray[np.float64]  # persons x numbers
# Of the largest eigenvalue, and of the largest singular value: what is smaller is rounding, and too
# small to be seen in six digits.
_NOTHING, _NO_LENGTH = 1e-12, 1e-6
_CLEAR = 1e-9  # of the largest eigenvalue: above, more than half of the digits are right
_ORDERS = 16  # in which vectors are looked at
_STEPS = 30  #  toward the combination that one person has most of


def surely_many(products: Vectors, largest: Vectors, k: int) -> bool:
    """Nobody has more than one in k of any combination: each is about k persons or more.

    Squared length over the least eigenvalue bounds a row's part of any combination.

    Args:
        products: Of each two columns the sum of products.
        largest: Of each column the largest square.
    """
    sizes = products.diagonal()
    if not np.isfinite(products).all():
        return False
    kept = sizes > 0  # a sum of zeros says nothing
    scale = np.sqrt(sizes[kept])
    eigenvalues = np.linalg.eigvalsh(products[np.ix_(kept, kept)] / np.outer(scale, scale))
    least = eigenvalues[eigenvalues > _NOTHING * eigenvalues[-1]][0]
    return float((largest[kept] / sizes[kept]).sum() / least) <= 1 / max(k, 2)


def about_few(vectors: Vectors, k: int) -> bool:
    """Is some combination of the columns not zero for fewer than k rows, or mostly one row's?

    Args:
        vectors: Rows and columns; one row for each person, and no row of zeros.

    Rows span all combinations that there are. One that few have a part of is zero for all others:
    in whatever order rows are taken to span the rest, these come last, unless they come early.
    That is why several orders are tried; that of the rows as they came would be the provider's.
    """
    if not np.isfinite(vectors).all():
        return True
    largest = np.abs(vectors).max(axis=0)
    scaled = (vectors[:, largest > 0] / largest[largest > 0])[np.lexsort(vectors.T)]
    scaled /= np.sqrt((scaled**2).sum(axis=0))
    if _shared(scaled, k):
        return False
    directions, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    even = directions[:, sizes > _NO_LENGTH * sizes[0]]
    parts = (even**2).sum(axis=1)
    if parts.max() <= 1 / max(k, 2):
        return False
    # Who has more than half of a combination has more than half of its squares.
    if any(_outweighs(even, int(i)) for i in np.flatnonzero(parts > 0.5 * (1 - 1e-9))):
        return True
    return any(_last_in(even, order, k) for order in range(_ORDERS))


def _shared(scaled: Vectors, k: int) -> bool:
    """Is everybody's part of any combination clearly below one in k? Quicker than directions, and
    exact enough where none of them is small."""
    sizes, axes = np.linalg.eigh(scaled.T @ scaled)
    kept = sizes > _NOTHING * sizes[-1]
    if sizes[kept][0] < _CLEAR * sizes[-1]:
        return False
    parts = ((scaled @ (axes[:, kept] / np.sqrt(sizes[kept]))) ** 2).sum(axis=1)
    return bool(parts.max() <= 0.99 / max(k, 2))


def _mixed(count: int, order: int) -> npt.NDArray[np.uint64]:
    """Numbers without any pattern, for an order: SplitMix64, of Steele, Lea and Flood (2014). Not
    every image has numpy's generators."""
    mixed = np.arange(1 + order * count, 1 + (order + 1) * count, dtype=np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _outweighs(even: Vectors, one: int) -> bool:
    """Is there a combination of which this row has more than all others together?

    Sought is the least sum of the others' parts where its own is 1, by weighted least squares: a
    row weighs as much as its part is small.
    """
    weights = np.ones(len(even))
    for _ in range(_STEPS):
        toward = np.linalg.lstsq((even.T * weights) @ even, even[one], rcond=None)[0]
        own = float(even[one] @ toward)
        if not own > 0:
            return False
        others = np.abs(even @ toward) / own
        others[one] = 0
        if others.sum() < 1 - 1e-9:
            return True
        weights = 1 / np.maximum(others, 1e-9)
        weights[one] = 1
    return False


def _last_in(even: Vectors, order: int, k: int) -> bool:
    """Do fewer than k rows remain, when rows in this order span all directions but one?"""
    rest = even[np.argsort(_mixed(len(even), order), kind="stable")]
    for _ in range(even.shape[1] - 1):
        beyond = np.flatnonzero((rest**2).sum(axis=1) > _NO_LENGTH**2 / len(even))
        if not len(beyond):
            return False
        own = rest[beyond[0]] / np.linalg.norm(rest[beyond[0]])
        rest = rest - np.outer(rest @ own, own)
    remaining = int(((rest**2).sum(axis=1) > _NO_LENGTH**2 / len(even)).sum())
    return 0 < remaining < k


def columns_about_few(
    columns: Sequence[npt.NDArray[np.float64]], people: People, k: int
) -> tuple[int, ...] | None:
    """Columns of which sums and counts, combined, are about fewer than k persons; None for none.

    Each two are asked about; and all together, where there are so many persons that a combination
    about few is no accident: of as many numbers as persons there always is one.

    Args:
        columns: Each with a number for each row, NaN where there is none.
        people: The person of each row, numbered; rows of nobody count for nobody.
    """
    count, known = int(people.max(initial=-1)) + 1, people >= 0
    of_whom = people[known]
    whole = np.empty((count, 1 + 2 * len(columns)), order="F")
    whole[:, 0] = np.bincount(of_whom, minlength=count)
    for place, column in enumerate(columns):
        numbers = column[known]
        there = ~np.isnan(numbers)
        numbers = np.where(there, numbers, 0)
        whole[:, 1 + 2 * place] = np.bincount(of_whom, there, minlength=count)
        whole[:, 2 + 2 * place] = np.bincount(of_whom, numbers, minlength=count)
    with np.errstate(over="ignore", invalid="ignore"):
        products = whole.T @ whole
        largest = np.maximum(whole.max(axis=0, initial=0), -whole.min(axis=0, initial=0)) ** 2
    here = whole[:, 0] > 0
    many = len(columns) > 2 and here.sum() >= k + 2 * whole.shape[1]
    together = [tuple(range(len(columns)))] if many else []
    for chosen in [*itertools.combinations(range(len(columns)), 2), *together]:
        check_deadline()
        asked = [0, *(1 + 2 * one + part for one in chosen for part in (0, 1))]
        if not surely_many(products[np.ix_(asked, asked)], largest[asked], k) and about_few(
            whole[:, asked][here], k
        ):
            return chosen
    return None
