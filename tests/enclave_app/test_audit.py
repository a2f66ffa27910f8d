"""What is derived from a table's totals: by a linear program, for each onlooker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app import audit
from enclave_app.audit import AuditTooLarge, Measure, load_solver, narrow, protected
from tests.support.refusal import refused


def grid(rows: int, columns: int) -> tuple[list[frozenset[int]], list[int]]:
    """A table with both kinds of totals and the total of all; and the grouping of each row."""
    cells = [frozenset({i}) for i in range(rows * columns)]
    across = [frozenset(range(r * columns, (r + 1) * columns)) for r in range(rows)]
    down = [frozenset(range(c, rows * columns, columns)) for c in range(columns)]
    table = [*cells, *across, *down, frozenset(range(rows * columns))]
    return table, [0] * len(cells) + [1] * rows + [2] * columns + [3]


def counts(values: list[int], *known: list[int], least: float = 3) -> Measure:
    views = tuple(np.array(view, np.float64) for view in ([0] * len(values), *known))
    return Measure(np.array(values, np.float64), views, signed=False, least=least)


def test_one_hidden_cell_comes_back_from_its_totals() -> None:
    """R08: by subtraction."""
    table, _ = grid(2, 2)
    assert narrow(table, [counts([1, 20, 20, 20])], {0}) == {0}


def test_four_hidden_cells_of_a_rectangle_do_not() -> None:
    table, _ = grid(2, 2)
    assert not narrow(table, [counts([9, 20, 20, 20])], {0, 1, 2, 3})


def test_rectangle_with_too_little_in_it() -> None:
    """R08: no cell can hold more than the least of its row and column."""
    table, _ = grid(2, 2)
    assert narrow(table, [counts([1, 1, 1, 20])], {0, 1, 2, 3})


def test_provider_who_subtracts_its_own_part() -> None:
    """R06: wide for an outsider, and one of ten for whom the other nine belong to."""
    table, _ = grid(2, 2)
    mine = [8, 19, 19, 19]
    assert narrow(table, [counts([9, 20, 20, 20], mine)], {0, 1, 2, 3})


def test_number_that_could_be_negative_has_no_bounds() -> None:
    """A sum of gains and losses; only an equation tells it."""
    table, _ = grid(2, 2)
    sums = Measure(np.array([1.0, -2.0, 3.0, 4.0]), (np.zeros(4),), signed=True, least=0.0)
    assert not narrow(table, [sums], {0, 1, 2, 3})
    assert narrow(table, [sums], {0}) == {0}


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=12, max_size=12))
def test_what_is_protected_is_wide(values: list[int]) -> None:
    """R08: whatever the numbers are, after the choice nothing is too narrow; and what was hidden
    before is hidden still."""
    table, levels = grid(3, 4)
    small = {i for i, leaves in enumerate(table) if 0 < sum(values[n] for n in leaves) < 3}
    measures = [counts(values)]
    hidden = protected(table, measures, small, levels)
    assert small <= hidden
    assert not narrow(table, measures, hidden)


def test_more_hidden_rows_than_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """R04: a refusal, not a longer wait."""
    monkeypatch.setattr(audit, "MOST_PROGRAMS", 3)
    table, _ = grid(2, 2)
    with refused(AuditTooLarge):
        narrow(table, [counts([9, 20, 20, 20])], {0, 1, 2, 3})


def test_the_solver_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """R20: a line of it would tell the host that something was hidden."""
    load_solver()
    table, _ = grid(2, 2)
    narrow(table, [counts([9, 20, 20, 20])], {0, 1, 2, 3})
    assert capfd.readouterr() == ("", "")
