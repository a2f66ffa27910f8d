"""What one person holds of any combination of columns: the quick answer never says less."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app.computations import groups
from enclave_app.computations.groups import of_directions, of_values
from enclave_app.gate import SubjectDominates, require_all
from tests.enclave_app.test_gate import Rule
from tests.support.refusal import refused

MATRIX = st.tuples(st.integers(2, 60), st.integers(1, 5), st.integers(0, 2**32 - 1))


def made(shape: tuple[int, int, int], kind: str) -> tuple[groups.Matrix, groups.People]:
    rows, columns, seed = shape
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0, 1, (rows, columns))
    if kind == "far":
        matrix[0] *= 10.0 ** rng.integers(0, 6)
    if kind == "alike":
        matrix[:, -1] = matrix[:, 0] + rng.normal(0, 10.0 ** -rng.integers(1, 12), rows)
    if kind == "flags":
        matrix = (matrix > rng.normal(0, 1)).astype(float)
    return matrix, rng.integers(0, 1 + rows // int(rng.integers(1, 4)), rows)


@settings(deadline=None, max_examples=300)
@given(MATRIX, st.sampled_from(["plain", "far", "alike", "flags"]), st.sampled_from([0.1, 0.5]))
def test_the_quick_answer_passes_nothing_that_the_slow_one_refuses(
    shape: tuple[int, int, int], kind: str, most: float
) -> None:
    """R05: one person's rows, far out rows, columns that are nearly alike, few values."""
    matrix, people = made(shape, kind)
    quick = groups._most_of_any(matrix - matrix.mean(axis=0), people)
    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(groups, "_most_of_any", lambda centred, people: math.inf)
        exact = of_directions("all", matrix, people, most=most)
    assert quick >= exact.largest * (1 - 1e-6)
    found = of_directions("all", matrix, people, most=most)
    assert (found.largest <= most) == (exact.largest <= most)


@pytest.mark.parametrize(("noise", "own"), [(0.0, 1e-4), (1e-2, 0.5)])
def test_one_person_is_the_difference_of_two_columns(noise: float, own: float) -> None:
    """R05: no row is far out, and one holds most of what the columns differ by."""
    rng = np.random.default_rng(3)
    column, people = rng.normal(0, 1, 5000), np.arange(5000)
    other = column + noise * rng.normal(0, 1, 5000)
    twin = np.column_stack([column, rng.normal(0, 1, 5000)])
    assert groups._most_of_any(twin - twin.mean(axis=0), people) < 0.05
    require_all([of_directions("all", twin, people, most=0.1)], Rule())
    other[7] = column[7] + own
    with refused(SubjectDominates):
        require_all(
            [of_directions("all", np.column_stack([column, other]), people, most=0.1)], Rule()
        )


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]), min_size=1, max_size=30))
def test_persons_by_value_are_counted_as_one_by_one(values: list[float]) -> None:
    """R05: each value's persons, and those without the commonest; 0 and -0 are one value."""
    people = np.arange(len(values)) // 2
    found = [set(g.people.tolist()) for g in of_values("x", np.array(values), people, few=3)]
    each = {value: {i // 2 for i, v in enumerate(values) if v == value} for value in set(values)}
    wanted = [each[value] for value in sorted(each)] if len(each) <= 3 else []
    rows = {value: values.count(value) for value in each}
    if max(rows.values()) > 1:
        most = next(value for value in sorted(each) if rows[value] == max(rows.values()))
        wanted.insert(0, {i // 2 for i, v in enumerate(values) if v != most})
    assert found == wanted
