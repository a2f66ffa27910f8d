"""Mean, standard deviation and agreed quantiles of numeric columns, over all rows together.

    describe(values, quantiles=[0.25, 0.5, 0.75])
    # {"mean": 54.1, "standard_deviation": 12.9, "quantiles": {"0.25": 44.0, …}}

Outputs: `statistics`, the above for each column; `counts`, for each column the exact number of
rows that have a value. There is no minimum and no maximum, and no statistic of one input alone.

Null and NaN mean "no value" and are left out. Values are sorted first: a sum in order of arrival
would carry that order in its last digits. The deviation is that of a sample (n - 1); quantiles
are interpolated linearly.

The rules below hold in *each* input, not in the joint rows: a provider that also receives the
result can subtract its own rows, and has the numbers of the others. If one column breaks a rule,
nothing of the result leaves: the cells that were sent would reveal those left out.

Parameters of a policy, all fixed: `columns`, numeric or bool; `quantiles`, if any, ascending
probabilities between 0 and 1, neither of them included.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.computations.combinations import columns_about_few
from enclave_app.computations.groups import ValueTooRare, of_values, of_weights
from enclave_app.deadline import check_deadline
from enclave_app.errors import NumbersOutOfRange, ReleaseDeniedError
from enclave_app.gate import Group, Input, Inputs, People, Share, numbered
from enclave_app.limits import Need, declared
from policy.sections import Release

PARTS = ("numpy.ma",)  # which numpy loads itself, later, and not every image has
Numbers = npt.NDArray[np.float64]

# Count, mean and deviation are three equations: the frequencies of three values are solved.
_TABLE_LIKE = 3


class Rows(NamedTuple):
    """Of the rows that have a value: the values, and the persons."""

    values: Numbers
    people: People


def describe(values: Numbers, quantiles: Sequence[float]) -> dict[str, Any]:
    """The statistics of these values, the same for any order of them.

    Args:
        values: No NaN.
        quantiles: Probabilities; each becomes a member of `quantiles` by its shortest decimal form.

    Raises:
        NumbersOutOfRange: Infinite, too large or small to be squared, or fewer than two.
    """
    if len(values) < 2:
        _require_workable(np.nan)  # no deviation, and no warning about it
    ordered = np.sort(values)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean, deviation = float(ordered.mean()), float(ordered.std(ddof=1))
        cuts = [float(np.quantile(ordered, p)) for p in quantiles]
    _require_workable(deviation, mean, *cuts)
    found: dict[str, Any] = {"mean": mean, "standard_deviation": deviation}
    if quantiles:
        found["quantiles"] = {repr(p): cut for p, cut in zip(quantiles, cuts, strict=True)}
    return found


def _require_workable(spread: float, *others: float) -> None:
    """A deviation of zero is underflow: that values differ was checked before."""
    if not np.isfinite([spread, *others]).all() or not spread > 0:
        raise NumbersOutOfRange("column", expected="finite values of similar size", found="others")


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises:
        NumbersOutOfRange: As `describe` says.
    """
    outputs: dict[str, Any] = {output: {} for output in rule.outputs}
    for name in parameters["columns"]:
        check_deadline()
        values = _values(inputs, name)
        if "counts" in outputs:
            outputs["counts"][name] = len(values)
        if "statistics" in outputs:
            outputs["statistics"][name] = describe(values, parameters.get("quantiles", ()))
    return outputs


def _values(inputs: Mapping[str, Input], name: str) -> Numbers:
    """The values of this column in all inputs, without nulls and NaN."""
    joint = np.concatenate([_numbers(table.column(name)) for table, _ in inputs.values()])
    values: Numbers = joint[~np.isnan(joint)]
    return values


def _numbers(column: pa.ChunkedArray) -> Numbers:
    # Integers above 2^53 lose their last bits. Null becomes NaN.
    numbers: Numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return numbers


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group | Share]:
    """The persons that each column is about, in each input.

    Raises:
        NumbersOutOfRange: As `describe` says.
    """
    people = {d: numbered(table.column(subject)) for d, (table, subject) in inputs.items()}
    for name in parameters["columns"]:
        present: dict[str, Rows] = {}
        for dataset, (table, _) in inputs.items():
            thing, values = f"dataset {dataset!r}: column {name!r}", _numbers(table.column(name))
            there = ~np.isnan(values)
            present[thing] = Rows(values[there], people[dataset][there])
            yield Group(thing, present[thing].people)
            missing = people[dataset][~there]
            # R08: with the number of rows, those without a value are found by subtraction. They
            # are a group too, unless there are none.
            if "counts" in rule.outputs and len(missing):
                yield Group(f"{thing}: missing", missing)
        if "statistics" in rule.outputs:
            yield from _of_statistics(present, parameters.get("quantiles", ()))
    for dataset, (table, _) in inputs.items():
        numbers = [_numbers(table.column(name)) for name in parameters["columns"]]
        found = columns_about_few(numbers, people[dataset], rule.min_subjects_per_input)
        if found is not None:
            named = ", ".join(repr(parameters["columns"][place]) for place in found)
            thing = f"dataset {dataset!r}: columns {named}"
            raise ValueTooRare(thing, expected="that many differ in them", found="fewer")


class QuantileExposes(ReleaseDeniedError):
    """Below, above or between the agreed quantiles lie too few subjects of one input."""

    code = "quantile-exposes"
    default_fix = "agree on fewer quantiles, further apart and further from 0 and 1"


def _of_statistics(
    present: Mapping[str, Rows], quantiles: Sequence[float]
) -> Iterator[Group | Share]:
    for thing, rows in present.items():
        yield from of_values(thing, rows.values, rows.people, few=_TABLE_LIKE)
    joint = np.concatenate([rows.values for rows in present.values()])
    cuts = describe(joint, quantiles).get("quantiles", {}).values()
    for thing, rows in present.items():
        yield from _shares(thing, rows)
        # R06, R09: quantiles cut an input into cells, ends included. Counted over the joint rows,
        # a provider could bring as many low values of its own as it takes for the agreed median
        # to be the largest value of another provider.
        for low, high in itertools.pairwise([-np.inf, *cuts, np.inf] if cuts else []):
            within = (low <= rows.values) & (rows.values <= high)
            yield Group(thing, rows.people[within], QuantileExposes)


def _shares(thing: str, rows: Rows) -> Iterator[Share]:
    """No person has more than half of an input's rows, or of its squared deviations.

    The mean of such an input is about that person: one large value among small ones, or one
    patient with a thousand visits among a hundred with one.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = (rows.values - rows.values.mean()) ** 2
        _require_workable(float(squares.sum()))
    yield of_weights(thing, squares, rows.people, most=0.5)
    yield of_weights(thing, np.ones(len(squares)), rows.people, most=0.5)


def need(parameters: Mapping[str, Any]) -> Need:
    """Subjects as Python's texts, one column at a time, sorted and grouped; of each column and
    person how many values there are, and their sum."""
    return declared("summary_statistics", len(parameters["columns"]))


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """Of each column its name, escaped, twice; five numbers and those at the probabilities."""
    cell = 256 + 64 * len(parameters.get("quantiles", ()))
    return 1000 + sum(4 * len(name.encode()) + cell for name in parameters["columns"])
