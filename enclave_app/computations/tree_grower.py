"""Boosted trees by scikit-learn's histogram grower, of which no leaf is kept that is about few.

    forest = grown(binned, target, plan, may_be_leaf)

The loop is that of `HistGradientBoostingClassifier` and `-Regressor` without early stopping, on one
thread; a test holds the two together. It is written out here because each tree has to be looked at
before the next one is grown: a split that would make a leaf about few is taken out, so that later
trees correct what is really released.

The only module that imports scikit-learn; images without `boosted_trees` do not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn._loss.loss import HalfBinomialLoss, HalfSquaredError
from sklearn.ensemble._hist_gradient_boosting._gradient_boosting import _update_raw_predictions
from sklearn.ensemble._hist_gradient_boosting.grower import TreeGrower

from enclave_app.computations.groups import Matrix
from enclave_app.deadline import check_deadline

Indices = npt.NDArray[np.uint32]  # of the rows of a node
_LEAF = -1  # in place of a feature
_NOTHING = 1e-15  # scikit-learn adds it to a sum that it divides by


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
    may_be_leaf: Callable[[Indices], bool],
) -> Forest:
    """Grow the trees one after the other.

    Args:
        binned: Of each row and feature a number below `bins`, or `bins` for no value; by columns.
        may_be_leaf: Asked with the rows of a node. All rows together may be one.
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
        if _is_fine(grower.root, may_be_leaf):
            root = _plain(grower.root)
            _update_raw_predictions(raw, grower, 1)
        else:
            value = partial(_value, gradient, hessian, plan.learning_rate)
            joining = _Joining(binned, plan.bins, may_be_leaf, value)
            root = joining.kept(grower.root, np.empty(0, np.uint32))
            _add(raw, root)
        if root.split is None:
            break  # the next one would be as bare
        trees.append(_as_lists(root))
    return Forest(baseline, trees)


def _value(gradient: Matrix, hessian: Matrix, learning_rate: float, rows: Indices) -> float:
    """What scikit-learn gives a leaf of these rows. Of squares the second derivative is 1."""
    weight = len(rows) if len(hessian) == 1 else float(hessian[rows].sum(dtype=np.float64))
    return -learning_rate * float(gradient[rows].sum(dtype=np.float64)) / (weight + _NOTHING)


def _add(raw: Matrix, node: _Node) -> None:
    if node.split is None:
        raw[node.rows] += node.value
    for child in node.children:
        _add(raw, child)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node that leaves: a leaf with its rows, or a split with two children."""

    split: Any | None
    children: tuple[_Node, ...]
    rows: Indices
    value: float = 0.0


def _is_fine(node: Any, may_be_leaf: Callable[[Indices], bool]) -> bool:
    """Every leaf may leave as it is. Nearly always; then nothing has to be counted again."""
    return all(may_be_leaf(np.asarray(leaf.sample_indices)) for leaf in _leaves(node))


def _leaves(node: Any) -> list[Any]:
    if node.left_child is None:
        return [node]
    return _leaves(node.left_child) + _leaves(node.right_child)


class _Joining:
    """Makes a tree whose leaves may all leave from one in which some may not."""

    def __init__(
        self,
        binned: npt.NDArray[np.uint8],
        bins: int,
        may_be_leaf: Callable[[Indices], bool],
        value: Callable[[Indices], float],
    ) -> None:
        self._binned, self._bins, self._may_be_leaf, self._value = binned, bins, may_be_leaf, value

    def kept(self, node: Any, more: Indices) -> _Node:
        """The node with its own rows and `more`; all of them together may be a leaf.

        Where one side may not, its rows go down the other side, and the split is no more.
        """
        if node.left_child is None:
            return self._leaf(_both(node.sample_indices, more))
        to_left = self._to_left(node.split_info, more)
        sides = [(node.left_child, more[to_left]), (node.right_child, more[~to_left])]
        rows = [_both(child.sample_indices, given) for child, given in sides]
        may = [self._may_be_leaf(of_side) for of_side in rows]
        if all(may):
            children = tuple(self.kept(child, given) for child, given in sides)
            return _Node(node.split_info, children, _both(*rows))
        if not any(may):
            return self._leaf(_both(*rows))
        there = may.index(True)
        child, given = sides[there]
        return self.kept(child, _both(given, rows[1 - there]))

    def _leaf(self, rows: Indices) -> _Node:
        return _Node(None, (), rows, self._value(rows))

    def _to_left(self, split: Any, rows: Indices) -> npt.NDArray[np.bool_]:
        found = self._binned[rows, split.feature_idx]
        missing = bool(split.missing_go_to_left)
        return np.where(found == self._bins, missing, found <= split.bin_idx)


def _both(one: Any, other: Any) -> Indices:
    return np.concatenate([np.asarray(one), np.asarray(other)])


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
