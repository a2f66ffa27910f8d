"""Boosted decision trees on the rows of all inputs together.

    run(inputs, {"features": ["age", "bmi"], "label": "ill", "predict": "class", …}, rule)
    # {"model_weights": {"features": […], "bins": 64, "ranges": […], "baseline": …, "trees": […]}}

A number enters as one of `bins` equal steps between the column's agreed min and max, a text as a
yes-or-no for each of its listed values, and no value as a bin of its own. So a tree splits at the
edge of a step, and never at somebody's value.

A leaf is an equation about its rows: how their labels are distributed. In each leaf, each input has
k persons; of a class, k persons who are in it and k who are not; of a number, k whose value is not
the most frequent one; and nobody has more than half of its rows, or of its squared deviations. A
split with a leaf that does not is taken out: its rows go down the other side. For each leaf that a
model may have, trees times leaves, each input needs ten persons: with as many leaves as persons,
labels could be solved for.

Parameters of a policy: `features` and `label`, columns; `predict`, "class" for a label of two
values or "number"; `learning_rate`; `test_share`, all fixed; `trees`, `leaves` of each, `bins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.computations.features import categories, joined, named, one_hot
from enclave_app.computations.groups import Matrix, of_values, of_weights
from enclave_app.computations.logistic_regression import ClassesNotTwo, ClassTooSmall
from enclave_app.computations.metrics import measured, of_test_side
from enclave_app.computations.split import sides
from enclave_app.errors import ReleaseDeniedError
from enclave_app.gate import (
    Group,
    Input,
    Inputs,
    People,
    Share,
    numbered,
    persons,
    require_all,
    rounded,
)
from enclave_app.limits import Need, declared
from policy.domains import Agreed
from policy.sections import Release

PARTS = ("sklearn", "scipy")  # packages that only images with trees have
Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.uint32]
Binned = npt.NDArray[np.uint8]
# For each leaf that a model may have, so many persons of each input.
PERSONS_PER_LEAF = 10
# Of a label that is a number one person holds a tenth of what varies, as in other models.
_MOST_OF_LABEL = 0.1
_FEW = 3  # values of a label: mean and deviation would solve their frequencies


class TooManyLeaves(ReleaseDeniedError):
    """The model may have more leaves than a tenth of the persons of one input."""

    code = "too-many-leaves"
    default_fix = "agree on fewer trees or leaves, or release more subjects"


class NoLeafLarge(ReleaseDeniedError):
    """No split leaves enough persons of each input on both of its sides."""

    code = "no-leaf-large"
    default_fix = "release more subjects, or agree on another model"


def ready() -> None:
    """The grower can be loaded, at the start of an enclave whose policy has trees."""
    import enclave_app.computations.tree_grower  # noqa: F401


def binned(inputs: Inputs, names: list[str], agreed: Agreed, bins: int) -> Binned:
    """Of each row and feature the number of its step; `bins` where there is no value."""
    rows = sum(len(table) for table, _ in inputs.values())
    result = np.empty((rows, len(names)), np.uint8, order="F")
    for name, column in zip(names, result.T, strict=True):
        low, high = (0.0, 1.0) if "=" in name else agreed.range(name)
        start = 0
        for table, _ in inputs.values():
            part = table.column(name)
            numbers = pc.cast(part, pa.float64(), safe=False).to_numpy()
            column[start : start + len(table)] = steps(numbers, low, high, bins)
            start += len(table)
    return result


def steps(numbers: Matrix, low: float, high: float, bins: int) -> Binned:
    """The number of the step that each value is in, from 0; `bins` for NaN."""
    missing = np.isnan(numbers)
    place = np.floor((np.where(missing, low, numbers) - low) / (high - low) * bins)
    return np.where(missing, bins, np.clip(place, 0, bins - 1)).astype(np.uint8)


class LeafAudit:
    """Whether a node may be a leaf: all of it is counted inside, by persons of each input."""

    def __init__(self, trained: Inputs, target: Matrix, rule: Release, *, classes: bool) -> None:
        self._rule, self._target, self._classes = rule, target, classes
        self._k, self._names = rule.min_subjects_per_input, list(trained)
        lengths = [len(table) for table, _ in trained.values()]
        self._source = np.repeat(np.arange(len(lengths), dtype=np.uint16), lengths)
        self._people = np.concatenate(
            [numbered(table.column(subject)) for table, subject in trained.values()]
        )
        # Of each row which input it is of and, of two classes, which one it has.
        self._kinds = 2 * len(lengths) if classes else len(lengths)
        self._kind = (self._source * 2 + target).astype(np.uint16) if classes else self._source
        self.least_rows = self._kinds * self._k  # of a leaf that may leave
        # Of one input at most: the rows of a person, and those with one label.
        parts = [self._source == i for i in range(len(lengths))]
        counted = [np.bincount(self._people[part] + 1).max(initial=1) for part in parts]
        self._most_rows = int(max(counted))
        self._common = np.array(
            [np.unique(target[part], return_counts=True)[1].max(initial=0) for part in parts]
        )

    def counted(self, rows: Indices) -> Counts:
        """How many rows there are of each input and class."""
        found = self._kind.take(rows, mode="clip")  # the indices are the grower's own
        return np.array([np.count_nonzero(found == kind) for kind in range(self._kinds)])

    def may_be_leaf(self, counts: Counts, rows: Callable[[], Indices]) -> bool:
        """They hold enough persons of each input, and enough of each class."""
        if counts.min() < self._k:
            return False
        return self._surely(counts, rows) or self._exactly(rows())

    def _surely(self, counts: Counts, rows: Callable[[], Indices]) -> bool:
        """So many rows that it holds whosever they are; most leaves of many rows are such."""
        # Twice as many as one person can have: nobody has more than half.
        if counts.min() < max(self._k, 2) * self._most_rows:
            return False
        if self._classes:
            return True
        others = counts - self._common
        if (others < self._k * self._most_rows).any() or (counts <= _FEW * self._common).any():
            return False
        indices = rows()
        values, source = self._target.take(indices), self._source.take(indices)
        return all(self._is_even(values[source == i]) for i in range(self._kinds))

    def _is_even(self, values: Matrix) -> bool:
        """Nobody's rows can have more than half of the squared deviations."""
        middle = values.mean()
        farthest = max(values.max() - middle, middle - values.min())
        apart = values - middle
        return bool(0 < 2 * self._most_rows * farthest**2 <= apart @ apart)

    def _exactly(self, indices: Indices) -> bool:
        people, target, source = self._people[indices], self._target[indices], self._source[indices]
        try:
            for i, dataset in enumerate(self._names):
                part = source == i
                thing = f"dataset {dataset!r}"
                require_all(of_mean(thing, target[part], people[part]), self._rule)
        except ReleaseDeniedError:
            return False
        return True


def of_mean(thing: str, target: Matrix, people: People) -> Iterator[Group | Share]:
    """The persons that the mean label of these rows is about."""
    yield Group(thing, people)
    yield of_weights(thing, np.ones(len(people)), people, most=0.5)
    yield from of_values(thing, target, people, few=_FEW)
    yield of_weights(thing, (target - target.mean()) ** 2, people, most=0.5)


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises: ClassesNotTwo, NoLeafLarge, LabelConstant, SubjectDominates.
    """
    from enclave_app.computations.tree_grower import Plan, grown

    names, bins = named(parameters, base=True), parameters["bins"]
    agreed, label, classes = parameters["agreed"], parameters["label"], _classes(inputs, parameters)
    trained, tested = _sides(inputs, parameters)
    truth = joined(list(trained.values()), label)
    target = (truth if classes is None else truth == classes[1]).astype(np.float64)
    audit = LeafAudit(trained, target, rule, classes=classes is not None)
    plan = Plan(
        classes=classes is not None,
        trees=parameters["trees"],
        leaves=parameters["leaves"],
        bins=bins,
        learning_rate=parameters["learning_rate"],
        least_rows=audit.least_rows,
    )
    forest = grown(binned(trained, names, agreed, bins), target, plan, audit)
    if not forest.trees:
        raise NoLeafLarge("trees", expected="one with enough persons in each leaf", found="none")
    found: dict[str, Any] = {
        "features": names,
        "bins": bins,
        "ranges": [["0.0", "1.0"] if "=" in n else agreed.ranges([n])[0] for n in names],
        "predict": parameters["predict"],
        "baseline": forest.baseline,
        "trees": forest.trees,
    }
    if classes is not None:
        found["classes"] = [one.item() for one in classes]
    if texts := categories(parameters):
        found["categories"] = texts
    outputs: dict[str, Any] = {"model_weights": found}
    if "metrics" in rule.outputs and tested is not None:
        scores = score(rounded(found, rule.significant_digits), binned(tested, names, agreed, bins))
        if classes is not None:
            scores = np.exp(-np.logaddexp(0, -scores))
        outputs["metrics"], errors = measured(tested, label, scores, classes)
        require_all(errors, rule)
    return {name: outputs[name] for name in rule.outputs}


def score(model: Mapping[str, Any], rows: Binned) -> Matrix:
    """What the released trees say of binned rows: a number, or the log of the odds of a class."""
    total = np.full(len(rows), model["baseline"])
    for tree in model["trees"]:
        feature, last, left, right, missing, value = (
            np.array(tree[name]) for name in ("feature", "bin", "left", "right", "missing", "value")
        )
        node = np.zeros(len(rows), np.int64)
        while (inner := np.flatnonzero(feature[node] >= 0)).size:
            at = node[inner]
            found = rows[inner, feature[at]]
            to_left = np.where(found == model["bins"], missing[at], found <= last[at])
            node[inner] = np.where(to_left, left[at], right[at])
        total += value[node]
    return total


def _classes(inputs: Inputs, parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Both classes of the label; None where it is a number. Raises: ClassesNotTwo."""
    if parameters["predict"] == "number":
        return None
    found = np.unique(joined(list(inputs.values()), parameters["label"]))
    if len(found) != 2:
        thing = f"label {parameters['label']!r}"
        raise ClassesNotTwo(thing, expected="two values", found="another number")
    return tuple(found)


def _sides(
    inputs: Inputs, parameters: Mapping[str, Any]
) -> tuple[dict[str, Input], dict[str, Input] | None]:
    return sides(one_hot(inputs, parameters, base=True)[0], parameters)


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """The persons that the model as a whole is about; its leaves are counted as they are grown."""
    trained, tested = sides(inputs, parameters)
    label, most = parameters["label"], parameters["trees"] * parameters["leaves"]
    of_class = parameters["predict"] == "class"
    classes = tuple(np.unique(joined(list(inputs.values()), label))) if of_class else None
    for dataset, (table, subject) in trained.items():
        people, thing = numbered(table.column(subject)), f"dataset {dataset!r}"
        yield Group(thing, people)
        yield of_weights(thing, np.ones(len(people)), people, most=0.5)
        part = most * PERSONS_PER_LEAF / persons(people)
        yield Share(f"{thing}: leaves", part, 1.0, TooManyLeaves)
        values, thing = table.column(label).to_numpy(), f"{thing}: label {label!r}"
        for one in classes or ():
            yield Group(thing, people[values == one], ClassTooSmall)
        if classes is None:
            numbers = values.astype(np.float64)
            yield from of_values(thing, numbers, people, few=_FEW)
            squares = (numbers - numbers.mean()) ** 2
            yield of_weights(thing, squares, people, most=_MOST_OF_LABEL)
    if tested is not None:
        yield from of_test_side(tested, label, classes)


def need(parameters: Mapping[str, Any]) -> Need:
    """A byte for each cell and its copy; label, gradient, order and persons of each row; and
    histograms. The engine itself is loaded at the start."""
    width = len(named(parameters, base=True))
    histograms = parameters["leaves"] * width * (parameters["bins"] + 1) * 24
    return replace(declared("boosted_trees", width), fixed=histograms)


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Of each feature its name, escaped, twice, and its range; of each node six short numbers."""
    names = named(parameters, base=True)
    trees: int = parameters["trees"]
    nodes = trees * (2 * int(parameters["leaves"]) - 1)
    return 2000 + sum(4 * len(n.encode()) + 80 for n in names) + 60 * nodes + 100 * trees
