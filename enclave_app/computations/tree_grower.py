"""Boosted trees by scikit-learn's histogram grower, of which no leaf is kept that is about few.

    forest = grown(binned, target, plan, audit)

The loop is that of `HistGradientBoostingClassifier` and `-Regressor` without early stopping, on one
thread; a test holds the two together. It is written out here because each tree has to be looked at
before the next one is grown: a split that would make a leaf about few is taken out, so that later
trees correct what is really released.

The only module that imports scikit-learn; images without `boosted_trees` do not have it.
"""

from __future__ import annotations

import os

# scikit-learn loads joblib, which would try out child processes and warn that there are none.
os.environ["JOBLIB_MULTIPROCESSING"] = "0"

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from sklearn._loss.loss import HalfBinomialLoss, HalfSquaredError
from sklearn.ensemble._hist_gradient_boosting._gradient_boosting import _update_raw_predictions
from sklearn.ensemble._hist_gradient_boosting.grower import TreeGrower

from enclave_app.computations.groups import Matrix
from enclave_app.deadline import check_deadline

Indices = npt.NDArray[np.uint32]  # of the rows of a node
Counts = npt.NDArray[np.int64]
_LEAF = -1  # in place of a feature
_NOTHING = 1e-15  # scikit-learn adds it to a sum that it divides by


class Audit(Protocol):
    """Who is behind a leaf."""

    def counted(self, rows: Indices) -> Counts:
        """How many rows there are of each kind."""

    def may_be_leaf(self, counts: Counts, rows: Callable[[], Indices]) -> bool:
        """What these rows say together may leave. `counts` are theirs, and most often enough."""


class Plan(NamedTuple):
    """What the policy says of the trees."""

    classes: bool  # the label is 0 or 1; otherwise a number
    trees: int
    leaves: int
    bins: int
    learning_rate: float
    least_rows: int  # of a leaf


@dataclass(frozen=True, slots=True)
class Forest:
    """A sum: the baseline, and of each tree the value of one leaf."""

    baseline: float
    trees: list[dict[str, list[Any]]]


def grown(
    binned: npt.NDArray[np.uint8],
    target: Matrix,
    plan: Plan,
    audit: Audit,
) -> Forest:
    """Grow the trees one after the other.

    Args:
        binned: Of each row and feature a number below `bins`, or `bins` for no value; by columns.
        audit: Says which rows may be a leaf. All rows together may be one.
    """
    loss = HalfBinomialLoss() if plan.classes else HalfSquaredError()
    baseline = float(loss.fit_intercept_only(target))
    raw = np.full(len(target), baseline)
    gradient, hessian = loss.init_gradient_and_hessian(len(target), dtype=np.float32, order="F")
    trees = []
    for _ in range(plan.trees):
        check_deadline()
        into: dict[str, Any] = {"y_true": target, "raw_prediction": raw, "sample_weight": None}
        into |= {"gradient_out": gradient, "n_threads": 1}
        if loss.constant_hessian:
            loss.gradient(**into)
        else:
            loss.gradient_hessian(**into, hessian_out=hessian)
        grower = TreeGrower(
            binned,
            gradient,
            hessian,
            max_leaf_nodes=plan.leaves,
            min_samples_leaf=plan.least_rows,
            n_bins=plan.bins + 1,
            n_bins_non_missing=plan.bins,
            has_missing_values=[bool((column == plan.bins).any()) for column in binned.T],
            shrinkage=plan.learning_rate,
            n_threads=1,
        )
        grower.grow()
        value = partial(_value, gradient, hessian, plan.learning_rate)
        joining = _Joining(binned, plan.bins, audit, value)
        # Nearly always as it is: then nothing has to be counted again.
        fine = joining.is_fine(grower.root)
        root = _plain(grower.root) if fine else joining.kept(grower.root)
        _add(raw, root)
        if root.split is None:
            break  # the next one would be as bare
        trees.append(_as_lists(root))
    return Forest(baseline, trees)


def _value(gradient: Matrix, hessian: Matrix, learning_rate: float, rows: Indices) -> float:
    """What scikit-learn gives a leaf of these rows. Of squares the second derivative is 1."""
    weight = len(rows) if len(hessian) == 1 else float(hessian[rows].sum(dtype=np.float64))
    return -learning_rate * float(gradient[rows].sum(dtype=np.float64)) / (weight + _NOTHING)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node that leaves: a leaf with its rows, or a split with two children."""

    split: Any | None
    children: tuple[_Node, ...]
    rows: Indices
    value: float = 0.0

    def leaves(self) -> Iterator[_Node]:
        """Those below, or itself."""
        if self.split is None:
            yield self
        for child in self.children:
            yield from child.leaves()


def _add(raw: Matrix, root: _Node) -> None:
    """Of each row the value of its leaf: by scikit-learn's function, which reads these fields."""
    leaves, start = list(root.leaves()), 0
    shown = []
    for leaf in leaves:
        stop = start + len(leaf.rows)
        shown.append(SimpleNamespace(partition_start=start, partition_stop=stop, value=leaf.value))
        start = stop
    rows = SimpleNamespace(partition=np.concatenate([leaf.rows for leaf in leaves]))
    _update_raw_predictions(raw, SimpleNamespace(finalized_leaves=shown, splitter=rows), 1)


class _Part(NamedTuple):
    """Rows in pieces, and how many there are of each kind: put together only where needed."""

    pieces: tuple[Indices, ...]
    counts: Counts

    def with_(self, other: _Part) -> _Part:
        return _Part((*self.pieces, *other.pieces), self.counts + other.counts)

    def rows(self) -> Indices:
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)


class _Joining:
    """Makes a tree whose leaves may all leave from one in which some may not."""

    def __init__(
        self,
        binned: npt.NDArray[np.uint8],
        bins: int,
        audit: Audit,
        value: Callable[[Indices], float],
    ) -> None:
        self._binned, self._bins, self._audit, self._value = binned, bins, audit, value
        self._own: dict[int, _Part] = {}  # of each node that scikit-learn made

    def is_fine(self, node: Any) -> bool:
        """Every leaf may leave as it is. Counts the rows of each node."""
        rows = np.asarray(node.sample_indices)
        if node.left_child is None:
            found = self._own[id(node)] = _Part((rows,), self._audit.counted(rows))
            return self._may(found)
        fine = [self.is_fine(node.left_child), self.is_fine(node.right_child)]
        counts = self._own[id(node.left_child)].counts + self._own[id(node.right_child)].counts
        self._own[id(node)] = _Part((rows,), counts)
        return all(fine)

    def kept(self, node: Any, more: _Part | None = None) -> _Node:
        """The node with its own rows and `more`; all of them together may be a leaf.

        Where one side may not, its rows go down the other side, and the split is no more.
        """
        if node.left_child is None:
            return self._leaf(node, more)
        given = self._divided(node.split_info, more)
        children = (node.left_child, node.right_child)
        sides = [
            self._own[id(child)] if part is None else self._own[id(child)].with_(part)
            for child, part in zip(children, given, strict=True)
        ]
        may = [self._may(side) for side in sides]
        if all(may):
            below = tuple(map(self.kept, children, given))
            return _Node(node.split_info, below, np.empty(0, np.uint32))
        if not any(may):
            return self._leaf(node, more)
        there = may.index(True)
        part, other = given[there], sides[1 - there]
        return self.kept(children[there], other if part is None else part.with_(other))

    def _may(self, part: _Part) -> bool:
        return self._audit.may_be_leaf(part.counts, part.rows)

    def _leaf(self, node: Any, more: _Part | None) -> _Node:
        own = self._own[id(node)]
        if more is None and node.left_child is None:
            return _Node(None, (), own.rows(), float(node.value))
        rows = own.rows() if more is None else own.with_(more).rows()
        return _Node(None, (), rows, self._value(rows))

    def _divided(self, split: Any, more: _Part | None) -> tuple[_Part | None, _Part | None]:
        if more is None:
            return None, None
        rows = more.rows()
        found = self._binned[rows, split.feature_idx]
        missing = bool(split.missing_go_to_left)
        to_left = np.where(found == self._bins, missing, found <= split.bin_idx)
        left, right = rows[to_left], rows[~to_left]
        counts = self._audit.counted(left)
        return _Part((left,), counts), _Part((right,), more.counts - counts)


def _plain(node: Any) -> _Node:
    """A node of scikit-learn's, as it is."""
    rows = np.asarray(node.sample_indices)
    if node.left_child is None:
        return _Node(None, (), rows, float(node.value))
    return _Node(node.split_info, (_plain(node.left_child), _plain(node.right_child)), rows)


def _as_lists(root: _Node) -> dict[str, list[Any]]:
    """A tree as columns: of each node feature, last bin of the left side, children, value.

    Of a leaf the feature is -1, and of the others the value 0. The root comes first, and children
    after their parents. `missing` says whether rows without a value go to the left.
    """
    tree: dict[str, list[Any]] = {
        name: [] for name in ("feature", "bin", "left", "right", "missing", "value")
    }
    nodes = [root]
    for node in nodes:  # which grows meanwhile
        split = node.split
        tree["feature"].append(_LEAF if split is None else int(split.feature_idx))
        tree["bin"].append(0 if split is None else int(split.bin_idx))
        tree["missing"].append(split is not None and bool(split.missing_go_to_left))
        tree["left"].append(0 if split is None else len(nodes))
        tree["right"].append(0 if split is None else len(nodes) + 1)
        tree["value"].append(node.value)
        nodes += node.children
    return tree
