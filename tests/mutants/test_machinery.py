"""The mutation run itself: it finds the checks that a planted module's tests forgot, and no other.

A run that called everything killed would be the quietest failure of all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.command import mutation_run
from tests.mutants.operators import Subject

pytestmark = pytest.mark.slow

GATE = "tests.mutants.planted.gate"
FORGOTTEN = {
    "without: not ticket.isdecimal()",
    "without: self.age < 120",
    "bound moved: self.age <= 120",
    "without: visitor.ticket < 1000",
    "bound moved: 0 < visitor.ticket <= 1000",
    "without the row: ('ticket', ticket, visitor.ticket)",
}
TESTED = {
    "never taken: if not self.name",  # in a dataclass with slots
    "without: not age.isdecimal()",  # in a class method
    "bound moved: self.age > 18",  # in a property
    "not raised",  # in a static method
    "never taken: if not visitor.adult",  # behind `contextmanager`
    "without: 0 < visitor.ticket",  # behind `lru_cache`
    "bound moved: 0 <= visitor.ticket < 1000",
    "without the row: ('name', name, visitor.name)",
    "not called: require_listed(visitor, name, ticket)",
}


def test_what_nothing_tests_survives_and_the_rest_is_killed(tmp_path: Path) -> None:
    """In two parts, of which the second takes over what the first saw of the unaltered module."""
    traces, sizes, outcomes = tmp_path / "traces", [], []
    for part in ("1/2", "2/2"):
        found = mutation_run(
            *(GATE, "--tests", "tests/mutants/planted/gate_checks.py"),
            *("--part", part, "--traces", str(traces)),
        )
        assert found["trouble"] == []
        assert found["excluded"] == []
        outcomes += found["outcomes"]
        sizes.append(traces.stat().st_size)
    assert sizes[0] == sizes[1] > 0
    assert sorted(o["removed"] for o in outcomes) == sorted(
        mutant.removed for mutant in Subject.read(GATE).mutants
    )
    assert {o["removed"] for o in outcomes if not o["killed"]} == FORGOTTEN
    assert {o["removed"] for o in outcomes if o["killed"]} >= TESTED


def test_without_tests_everything_survives() -> None:
    found = mutation_run(GATE, "--tests", "tests/mutants/planted/gate.py")
    assert found["tests"] == 0
    assert {o["killed"] for o in found["outcomes"]} == {False}
    assert len(found["outcomes"]) == len(Subject.read(GATE).mutants)


@pytest.mark.parametrize("mutant", Subject.read(GATE).mutants, ids=lambda m: m.removed)
def test_a_mutant_alters_one_function_and_leaves_the_others(mutant: object) -> None:
    """`edit` is for good, so each is tried on a subject of its own."""
    before, after = Subject.read(GATE), Subject.read(GATE)
    functions = {m.function for m in before.mutants}
    chosen = next(m for m in after.mutants if str(m) == str(mutant))
    chosen.edit()
    altered = {
        function
        for function in functions
        if before.code(function).co_code != after.code(function).co_code
        or before.code(function).co_consts != after.code(function).co_consts
    }
    assert altered == {chosen.function}
