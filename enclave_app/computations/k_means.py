"""Groups of similar rows of all inputs together, by Lloyd's algorithm; the mean of each leaves.

    fit(matrix, clusters=4, max_iter=300)      # the centres, between 0 and 1 in each column

Columns are measured by the range that the policy agrees on, so that no scale comes from rows. Rows
are put in order first, and starts drawn by a hash of fixed texts: the result is the same for any
order of arrival, and nobody chooses a seed. Of five starts the one with the least sum of squares is
taken, as k-means++ draws them.

A centre is a mean about the persons of its cluster. A provider subtracts its own rows, so each
cluster holds k persons of each input, of whom k differ in every feature from the most frequent
value, and nobody has more than half of its rows or squared deviations. A cluster that does not is
dissolved, the smallest first, its rows go to the nearest others, and all centres move again.

Parameters of a policy: `features`, numeric columns with a range, fixed; `clusters`; `max_iter`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enclave_app.computations.combinations import columns_about_few
from enclave_app.computations.features import joined
from enclave_app.computations.groups import Matrix, of_values, of_weights
from enclave_app.deadline import check_deadline
from enclave_app.errors import ComputeDeniedError, ReleaseDeniedError
from enclave_app.gate import Group, Inputs, People, Share, numbered, persons, require_all
from enclave_app.limits import Need, declared
from policy.domains import Agreed
from policy.sections import Release

Labels = npt.NDArray[np.int64]
# Fixed, and measured with the code, so that results are comparable.
STARTS = 5
# Of a column's range: a centre that moves less stands still; nearly so while starts are compared.
STILL, NEARLY = 1e-7, 1e-3
_FEW = 3  # values of a column: mean and deviation would solve their frequencies
_CHUNK = 1 << 16  # rows whose distances are computed at once


class ClustersNotSettled(ComputeDeniedError):
    """The centres still moved after the agreed number of iterations."""

    code = "clusters-not-settled"
    default_fix = "agree on a larger max_iter, or on fewer clusters"


class NoClusterLarge(ReleaseDeniedError):
    """Fewer than two clusters hold enough persons of each input."""

    code = "no-cluster-large"
    default_fix = "agree on fewer clusters, or release more subjects"


class Rows(NamedTuple):
    """All rows in one order, that of their values."""

    matrix: Matrix  # each column from 0 to 1 within its agreed range
    source: Labels  # which input a row is of
    people: People  # numbered in each input


def scaled(matrix: Matrix, ranges: Sequence[tuple[float, float]]) -> Matrix:
    """Each column within its range."""
    low, high = np.array(ranges).T
    result: Matrix = (matrix - low) / (high - low)
    return result


def fit(matrix: Matrix, *, clusters: int, max_iter: int) -> Matrix:
    """The centres with the least sum of squares that five starts lead to.

    Raises: ClustersNotSettled.
    """
    found = []
    for start in range(STARTS):
        centres = settled(matrix, _drawn(matrix, clusters, start), max_iter, still=NEARLY)
        found.append((_spread(matrix, centres), start, centres))
    return settled(matrix, min(found)[2], max_iter)


def settled(matrix: Matrix, centres: Matrix, max_iter: int, *, still: float = STILL) -> Matrix:
    """Lloyd's algorithm from these centres: each becomes the mean of the rows nearest to it.

    Raises: ClustersNotSettled.
    """
    columns = np.ascontiguousarray(matrix.T)
    for _ in range(max_iter):
        check_deadline()
        moved = _means(columns, _nearest(matrix, centres), centres)
        if np.abs(moved - centres).max() <= still:
            return moved
        centres = moved
    raise ClustersNotSettled(
        "centres", expected=f"to stand still after {max_iter} iterations", found="movement"
    )


def _means(columns: Matrix, labels: Labels, centres: Matrix) -> Matrix:
    """The mean of each cluster; one that is empty stays where it is."""
    sizes = np.bincount(labels, minlength=len(centres))
    sums = [np.bincount(labels, column, minlength=len(centres)) for column in columns]
    means: Matrix = np.column_stack(sums) / np.maximum(sizes, 1)[:, None]
    return np.where(sizes[:, None] > 0, means, centres)


def _nearest(matrix: Matrix, centres: Matrix) -> Labels:
    """For each row the number of its nearest centre, the first of several."""
    labels, lengths = np.empty(len(matrix), np.int64), (centres**2).sum(axis=1)[:, None]
    for i in range(0, len(matrix), _CHUNK):
        squares = lengths - 2 * (centres @ matrix[i : i + _CHUNK].T)
        labels[i : i + _CHUNK] = squares.argmin(axis=0)
    return labels


def _spread(matrix: Matrix, centres: Matrix) -> float:
    """The sum of squares that is left: how far all rows are from their centres."""
    return float(((matrix - centres[_nearest(matrix, centres)]) ** 2).sum())


def _drawn(matrix: Matrix, clusters: int, start: int) -> Matrix:
    """Rows to start from: each next one with a chance that grows with its distance (k-means++)."""
    far = np.ones(len(matrix))
    chosen: list[int] = []
    for i in range(clusters):
        cumulated = np.cumsum(far)
        place = int(np.searchsorted(cumulated, _chance(start, i) * cumulated[-1]))
        chosen.append(min(place, len(matrix) - 1))
        apart = ((matrix - matrix[chosen[-1]]) ** 2).sum(axis=1)
        far = apart if i == 0 else np.minimum(far, apart)
    return matrix[chosen]


def _chance(start: int, draw: int) -> float:
    """A number from 0 to 1 that nobody chooses: of a hash of fixed texts."""
    digest = hashlib.sha256(f"ratls/1 k_means {start} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises: ClustersNotSettled, NoClusterLarge.
    """
    names, agreed, most = parameters["features"], parameters["agreed"], parameters["max_iter"]
    rows = _rows(inputs, names, agreed)
    centres = fit(rows.matrix, clusters=parameters["clusters"], max_iter=most)
    while True:
        labels = _nearest(rows.matrix, centres)
        held = _held(rows, labels, len(centres), len(inputs))
        small = [c for c in range(len(centres)) if not _may_leave(rows, labels == c, inputs, rule)]
        if not small:
            break
        if len(centres) <= 2:
            raise NoClusterLarge("clusters", expected="two that hold enough persons", found="fewer")
        least = small[int(np.argmin(held[small].min(axis=1)))]
        centres = settled(rows.matrix, np.delete(centres, least, axis=0), most)
    # In the order of their centres: that of the starts would say where they were drawn.
    order = np.lexsort(centres.T[::-1])
    low, high = np.array([agreed.range(name) for name in names]).T
    outputs: dict[str, Any] = {
        "model_weights": {
            "features": list(names),
            "centres": (low + centres[order] * (high - low)).tolist(),
            "ranges": agreed.ranges(names),
        },
        "counts": {"subjects": held[order].sum(axis=1).tolist()},
    }
    return {name: outputs[name] for name in rule.outputs}


def _rows(inputs: Inputs, names: Sequence[str], agreed: Agreed) -> Rows:
    tables = list(inputs.values())
    whole = np.column_stack([joined(tables, name).astype(np.float64) for name in names])
    matrix = scaled(whole, [agreed.range(name) for name in names])
    order = np.lexsort(matrix.T[::-1])
    source = np.repeat(np.arange(len(tables)), [len(table) for table, _ in tables])
    people = np.concatenate([numbered(table.column(subject)) for table, subject in tables])
    return Rows(matrix[order], source[order], people[order])


def _held(rows: Rows, labels: Labels, clusters: int, inputs: int) -> npt.NDArray[np.int64]:
    """How many persons of each input each cluster holds."""
    return np.array(
        [
            [persons(rows.people[(labels == c) & (rows.source == i)]) for i in range(inputs)]
            for c in range(clusters)
        ]
    )


def _may_leave(rows: Rows, chosen: npt.NDArray[np.bool_], inputs: Inputs, rule: Release) -> bool:
    """The mean of these rows is about enough persons of each input."""
    try:
        for i, dataset in enumerate(inputs):
            part = chosen & (rows.source == i)
            require_all(_of_means(dataset, rows.matrix[part], rows.people[part]), rule)
            k = rule.min_subjects_per_input
            if columns_about_few([*rows.matrix[part].T], rows.people[part], k) is not None:
                return False
    except ReleaseDeniedError:
        return False
    return True


def _of_means(dataset: str, matrix: Matrix, people: People) -> Iterator[Group | Share]:
    """The persons that the mean of each of these columns is about."""
    thing = f"dataset {dataset!r}: features"
    yield Group(thing, people)
    yield of_weights(thing, np.ones(len(people)), people, most=0.5)
    for column in matrix.T:
        yield from of_values(thing, column, people, few=_FEW)
        yield of_weights(thing, (column - column.mean()) ** 2, people, most=0.5)


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """Each input as one cluster; those that leave are counted once they are found."""
    for dataset, (table, subject) in inputs.items():
        matrix = np.column_stack(
            [table.column(name).to_numpy().astype(np.float64) for name in parameters["features"]]
        )
        yield from _of_means(dataset, matrix, numbered(table.column(subject)))


def need(parameters: Mapping[str, Any]) -> Need:
    """Each cell as it is, scaled and in order; of each row persons, order, clusters and how far;
    distances to all centres, which are computed in parts."""
    fixed = 3 * 8 * _CHUNK * parameters["clusters"]
    return replace(declared("k_means", len(parameters["features"])), fixed=fixed)


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Of each feature its name, escaped, its range, and a number for each cluster; counts."""
    each = 32 * int(parameters["clusters"])
    return 2000 + each + sum(2 * len(n.encode()) + 80 + each for n in parameters["features"])
