"""Mean, standard deviation and agreed quantiles of numeric columns, over all rows together.

    describe(values, quantiles=[0.25, 0.5, 0.75])
    # {"mean": 54.1, "standard_deviation": 12.9, "quantiles": {"0.25": 44.0, …}}

Outputs: `statistics`, the above for each column; `counts`, for each column the exact number of
rows that have a value. There is no minimum and no maximum, and no statistic of one input alone.

Null and NaN mean "no value" and are left out. Values are sorted first: a sum in order of arrival
would carry that order in its last digits. The deviation is that of a sample (n - 1); quantiles
are interpolated linearly, as pandas does by default.

The rules below hold in *each* input, not in the joint rows: a provider that also receives the
result can subtract its own rows, and what remains are the others' numbers. Whatever a column
breaks, nothing of the whole result leaves: with some cells left out, the rest would tell them.

Parameters of a policy, all fixed: `columns`, numeric or bool; `quantiles`, if any, ascending
probabilities between 0 and 1, neither of them included.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.errors import (
    ColumnConstant,
    ComputationParameters,
    NumbersOutOfRange,
    QuantileExposes,
    ReleaseDeniedError,
    SubjectDominates,
    TooFewSubjects,
    ValueTooRare,
)
from enclave_app.release import Input, ReleaseRule, require_group

OUTPUTS = frozenset({"statistics", "counts"})
# A task that chose them could ask for other quantiles with each use, until it has all values.
FIXED = frozenset({"columns", "quantiles"})
# R09: a mean to 17 digits is a fraction whose denominator is the count, which is another output.
MOST_DIGITS = 6
# Mean and deviation are two equations: two values are solved by them.
FEWEST_SUBJECTS = 3
MOST_QUANTILES = 99
# Count, mean and deviation are three equations: the frequencies of three values are solved.
_TABLE_LIKE = 3
_NUMERIC = {"bool", "int32", "int64", "float32", "float64"}


def describe(values: pd.Series[float], quantiles: Sequence[float]) -> dict[str, Any]:
    """The statistics of these values, the same in whatever order they come.

    Args:
        values: At least two, no NaN.
        quantiles: Probabilities; each becomes a member of `quantiles` by its shortest decimal form.

    Raises:
        NumbersOutOfRange: Infinite, or too large or small to be squared.
    """
    ordered = values.sort_values(ignore_index=True)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean, deviation = float(ordered.mean()), float(ordered.std())
        cuts = [float(ordered.quantile(p)) for p in quantiles]
    _require_workable(deviation, mean, *cuts)
    found: dict[str, Any] = {"mean": mean, "standard_deviation": deviation}
    if quantiles:
        found["quantiles"] = {repr(p): cut for p, cut in zip(quantiles, cuts, strict=True)}
    return found


def _require_workable(spread: float, *others: float) -> None:
    """Deviation zero is underflow: that values differ has been seen before."""
    if not np.isfinite([spread, *others]).all() or not spread > 0:
        raise NumbersOutOfRange("column", expected="finite values of similar size", found="others")


def run(
    inputs: Mapping[str, Input], parameters: Mapping[str, Any], rule: ReleaseRule
) -> dict[str, Any]:
    """The agreed outputs, if no subject of any input can be made out in them.

    Raises:
        ReleaseDeniedError: Naming input and column; the leaf says which rule.
        NumbersOutOfRange: As `describe` says.
    """
    subjects = {d: pd.factorize(t.column(s).to_pandas())[0] for d, (t, s) in inputs.items()}
    quantiles = parameters.get("quantiles", ())
    outputs: dict[str, Any] = {output: {} for output in rule.outputs}
    for name in parameters["columns"]:
        parts = {
            f"dataset {dataset!r}: column {name!r}": _rows(table.column(name), subjects[dataset])
            for dataset, (table, _) in inputs.items()
        }
        if "counts" in outputs:
            outputs["counts"][name] = _count(parts, rule)
        if "statistics" in outputs:
            outputs["statistics"][name] = _statistics(parts, quantiles, rule)
    return outputs


def _rows(column: pa.ChunkedArray, subjects: npt.NDArray[np.int64]) -> pd.DataFrame:
    """One row for each of the input's: `subject`, a number for each person, and `value`."""
    values = pc.cast(column, pa.float64(), safe=False)  # integers above 2^53 lose their last bits
    return pd.DataFrame({"subject": subjects, "value": values.to_pandas()})


def _count(parts: Mapping[str, pd.DataFrame], rule: ReleaseRule) -> int:
    """Rows with a value, over all inputs."""
    for thing, rows in parts.items():
        _require_persons(thing, rows.dropna(), rule)
        missing = rows[rows["value"].isna()]
        # R08: who knows the number of rows gets those without a value by subtraction. They are
        # a group too, unless there are none.
        if len(missing):
            _require_persons(f"{thing}: missing", missing, rule)
    return sum(int(rows["value"].count()) for rows in parts.values())


def _statistics(
    parts: Mapping[str, pd.DataFrame], quantiles: Sequence[float], rule: ReleaseRule
) -> dict[str, Any]:
    present = {thing: rows.dropna() for thing, rows in parts.items()}
    for thing, rows in present.items():
        _require_persons(thing, rows, rule)
        _require_variety(thing, rows, rule)
    found = describe(pd.concat([rows["value"] for rows in present.values()]), quantiles)
    for thing, rows in present.items():
        _require_no_dominance(thing, rows)
        _require_cells(thing, rows, list(found.get("quantiles", {}).values()), rule)
    return found


def _require_persons(
    thing: str,
    rows: pd.DataFrame,
    rule: ReleaseRule,
    leaf: type[ReleaseDeniedError] = TooFewSubjects,
) -> None:
    require_group(thing, rows["subject"].nunique(), rule, leaf)


def _require_variety(thing: str, rows: pd.DataFrame, rule: ReleaseRule) -> None:
    """Few values are a table of frequencies: no cell of it may be small, nor hold everybody."""
    values = rows["value"].unique()
    if len(values) == 1:
        raise ColumnConstant(thing, expected="values that vary", found="one value")
    if len(values) <= _TABLE_LIKE:
        for value in values:
            _require_persons(thing, rows[rows["value"] == value], rule, ValueTooRare)


def _require_no_dominance(thing: str, rows: pd.DataFrame) -> None:
    """Nobody holds more than half of an input's rows, or of its squared deviations.

    The mean of such an input is about that person: one large value among small ones, or one
    patient with a thousand visits among a hundred with one.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = (rows["value"] - rows["value"].mean()) ** 2
        total = float(squares.sum())
    _require_workable(total)
    of_subject = squares.groupby(rows["subject"])
    shares = float(of_subject.sum().max()) / total, int(of_subject.size().max()) / len(rows)
    if max(shares) > 0.5 + 1e-9:  # exact halves differ by rounding
        raise SubjectDominates(thing, expected="at most half by one subject", found="more")


def _require_cells(
    thing: str, rows: pd.DataFrame, cuts: Sequence[float], rule: ReleaseRule
) -> None:
    """Quantiles cut an input into cells, ends included: each holds enough of its subjects.

    R06, R09: counted over the joint rows, a provider could bring as many low values of its own
    as it takes for the agreed median to be the largest value of somebody else.
    """
    if not cuts:
        return
    for low, high in itertools.pairwise([-np.inf, *cuts, np.inf]):
        _require_persons(thing, rows[rows["value"].between(low, high)], rule, QuantileExposes)


def check(parameters: Mapping[str, Any], inputs: Sequence[Mapping[str, str]]) -> None:
    """Refuse what cannot be described, before anybody releases a row for it.

    Args:
        parameters: As the task resolves them.
        inputs: For each input its column names with their types.

    Raises:
        ComputationParameters: Naming the parameter or column.
    """
    if set(parameters) - {"quantiles"} != {"columns"}:
        raise _unfit("parameters", "columns, quantiles", ", ".join(sorted(parameters)))
    columns = parameters["columns"]
    if not isinstance(columns, list | tuple) or not columns:
        raise _unfit("columns", "a list of column names", type(columns).__name__)
    if len(set(map(str, columns))) != len(columns):
        raise _unfit("columns", "each column once", "one named twice")
    for types, name in itertools.product(inputs, columns):
        found = types.get(name, "no such column") if isinstance(name, str) else "not a name"
        if found.removesuffix("?") not in _NUMERIC:
            raise _unfit(f"column {str(name)[:64]!r}", " or ".join(sorted(_NUMERIC)), found)
    if "quantiles" in parameters:
        _check_quantiles(parameters["quantiles"])


def _check_quantiles(quantiles: object) -> None:
    if not isinstance(quantiles, list | tuple) or not 1 <= len(quantiles) <= MOST_QUANTILES:
        raise _unfit("quantiles", f"a list of 1 to {MOST_QUANTILES} probabilities", "another value")
    # 0 and 1 are minimum and maximum. NaN is not between anything.
    if not all(type(p) is float and 0 < p < 1 for p in quantiles):
        raise _unfit("quantiles", "numbers above 0 and below 1", "another value")
    if any(low >= high for low, high in itertools.pairwise(quantiles)):
        raise _unfit("quantiles", "ascending probabilities", "another order, or one twice")


def _unfit(thing: str, expected: str, found: str) -> ComputationParameters:
    return ComputationParameters(thing, expected=expected, found=found)
