"""What can be derived about hidden rows of a table from those that leave. A linear program says it.

    narrow(table, measures, hidden)             # hidden rows that somebody could narrow down
    hidden = protected(table, measures, hidden, levels)

A table has leaves, its smallest groups, and rows, each the sum of some leaves. Who sees the rows
that leave knows these sums. For each hidden row, the least and the greatest value that agree with
them are an interval; it must be as wide as k persons, and as the hidden value itself.

The audit alone decides. What is hidden besides is chosen greedily: the smallest neighbour first.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclave_app.deadline import check_deadline
from enclave_app.errors import ReleaseDeniedError

_EQUAL = 1e-6  # of the largest value: closer is the same number
_TRIED = 3  # neighbours that are tried for each row that has to be protected


class AuditTooLarge(ReleaseDeniedError):
    """So many rows would be hidden that what they give away cannot be computed."""

    code = "audit-too-large"
    default_fix = "agree on coarser groups, or on a table without totals"


# Of hidden rows times views times measures: each is two linear programs.
MOST_PROGRAMS = 4000


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that adds up, such as rows or costs: of each leaf, and the part that is known."""

    values: np.ndarray[Any, np.dtype[np.float64]]
    # One for each view, of each leaf: what this onlooker knows. An outsider knows zero.
    known: tuple[np.ndarray[Any, np.dtype[np.float64]], ...]
    signed: bool  #  could be below zero
    least: float  #  the narrowest interval that hides


Rows = Sequence[frozenset[int]]  # leaves of each row of the table


def narrow(table: Rows, measures: Sequence[Measure], hidden: set[int]) -> set[int]:
    """The hidden rows of which some onlooker could derive too much.

    Raises: AuditTooLarge.
    """
    shown = [leaves for i, leaves in enumerate(table) if i not in hidden]
    told = frozenset[int]().union(*shown)
    # A leaf in no row that leaves is bounded by nothing.
    asked = [i for i in sorted(hidden) if table[i] <= told]
    views = sum(len(measure.known) for measure in measures)
    if len(asked) * views > MOST_PROGRAMS:
        raise AuditTooLarge("hidden rows", expected=f"{MOST_PROGRAMS} programs", found="more")
    found: set[int] = set()
    for measure in measures if asked else ():
        for known in measure.known:
            unknown = measure.values - known
            program = _Program(shown, unknown, signed=measure.signed)
            for i in asked:
                check_deadline()
                wanted = max(measure.least, abs(float(unknown[[*table[i]]].sum())))
                if i not in found and program.width(table[i]) < wanted * (1 - _EQUAL):
                    found.add(i)
    return found


def protected(
    table: Rows, measures: Sequence[Measure], hidden: set[int], levels: Sequence[int]
) -> set[int]:
    """`hidden` and what has to be hidden besides, so that no interval is too narrow.

    Args:
        levels: Of each row the grouping that it belongs to.

    Raises: AuditTooLarge.
    """
    hidden, sizes = set(hidden), [float(measures[0].values[[*leaves]].sum()) for leaves in table]
    bare = narrow(table, measures, hidden)
    while bare:
        after = {
            row: narrow(table, measures, hidden | {row})
            for row in _near(table, min(bare), hidden, levels, sizes)
        }
        row = min(after, key=lambda row: (len(after[row]), sizes[row], row))
        hidden.add(row)
        bare = after[row]
    return hidden


def beside_sides(
    margins: Sequence[Sequence[int]], counts: Sequence[Sequence[float]], hidden: set[int], k: float
) -> set[int]:
    """`hidden` and what has to be hidden besides from those who know margins of the table.

    Rows of two providers are joined, and a key of one is not known to the other. But a provider may
    know who has a match, and so what all rows with its own keys add up to: one hidden group among
    them would be what is missing. With two or more, of k together, none of them is known; and where
    nothing of a margin leaves, nobody has anything to subtract.

    Args:
        margins: The groups, by number, that add up to something that a provider may know.
        counts: Of each group what is counted in it, one list for each count.
    """
    hidden = set(hidden)
    changed = True
    while changed:
        changed = False
        for margin in margins:
            within = hidden.intersection(margin)
            shown = sorted(set(margin) - hidden, key=lambda group: (counts[0][group], group))
            few = len(within) < 2 or any(sum(c[g] for g in within) < k for c in counts)
            if within and shown and few:
                hidden.add(shown[0])
                changed = True
    return hidden


def _near(
    table: Rows, row: int, hidden: set[int], levels: Sequence[int], sizes: Sequence[float]
) -> list[int]:
    """What might be hidden to protect a row: neighbours, parts and sums, the smallest of each."""
    shown = sorted(set(range(len(table))) - hidden, key=lambda other: (sizes[other], other))
    sums = [other for other in shown if table[row] <= table[other]]
    beside = [o for o in shown if levels[o] == levels[row] and not table[o] & table[row]]
    parts = [other for other in shown if table[other] & table[row] and other not in sums]
    return [*beside[:_TRIED], *parts[:_TRIED], *sums[:1]]


def load_solver() -> None:
    """So that no later use of it is seen from outside: the first in a process prints a line, which
    is dropped here, before any row has come."""
    import highspy

    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


class _Program:
    """Leaves that are not negative, unless signed, and add up to the rows that leave."""

    def __init__(
        self, shown: Rows, unknown: np.ndarray[Any, np.dtype[np.float64]], *, signed: bool
    ) -> None:
        import highspy  # only where something is hidden below a total

        self._size = float(np.abs(unknown).max(initial=0.0)) or 1.0
        values, count = unknown / self._size, len(unknown)
        starts = np.cumsum([0, *(len(leaves) for leaves in shown)])
        sums = np.array([values[[*leaves]].sum() for leaves in shown])
        self._infinity = highspy.kHighsInf
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = count, len(shown)
        program.col_cost_ = np.zeros(count)
        program.col_lower_ = np.full(count, -self._infinity if signed else 0.0)
        program.col_upper_ = np.full(count, self._infinity)
        program.row_lower_ = program.row_upper_ = sums
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = starts
        program.a_matrix_.index_ = np.array([leaf for r in shown for leaf in sorted(r)], np.int32)
        program.a_matrix_.value_ = np.ones(int(starts[-1]))
        self._solver = highspy.Highs()  # type: ignore[no-untyped-call]
        for option, value in (("output_flag", False), ("threads", 1), ("parallel", "off")):
            self._solver.setOptionValue(option, value)
        self._solver.passModel(program)
        self._statuses = highspy.HighsModelStatus
        self._senses = (highspy.ObjSense.kMinimize, highspy.ObjSense.kMaximize)

    def width(self, leaves: frozenset[int]) -> float:
        """How far apart the least and the greatest sum of these leaves are."""
        columns = np.array(sorted(leaves), np.int32)
        self._solver.changeColsCost(len(columns), columns, np.ones(len(columns)))
        ends = [self._end(sense) for sense in self._senses]
        self._solver.changeColsCost(len(columns), columns, np.zeros(len(columns)))
        return (ends[1] - ends[0]) * self._size

    def _end(self, sense: Any) -> float:
        self._solver.changeObjectiveSense(sense)
        self._solver.run()
        status = self._solver.getModelStatus()
        if status == self._statuses.kOptimal:
            return float(self._solver.getInfo().objective_function_value)
        unbounded = {self._statuses.kUnbounded, self._statuses.kUnboundedOrInfeasible}
        if status in unbounded:  # the true values are a solution, so it is not infeasible
            return math.inf if sense == self._senses[1] else -math.inf
        return 0.0  # not decided: as if the value were known
