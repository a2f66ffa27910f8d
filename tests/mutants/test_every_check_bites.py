"""Each check of the verifier is taken away in turn, and some test must notice.

A check that no test needs is one that the next edit may lose. The list of checks is read from the
code: `python -m tests.mutants verifier.crl` shows those of one module.
"""

from __future__ import annotations

import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import verifier
from tests.mutants.__main__ import NOT_DECIDING, deciding_modules
from tests.mutants.command import mutation_run
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.operators import Mutant, Subject

pytestmark = pytest.mark.slow

PARTS = 4  # so that parallel workers share the run, and none is left with all of it


@cache
def mutants() -> list[Mutant]:
    """All of them, in the order in which they are dealt out to the parts."""
    return [mutant for name in deciding_modules() for mutant in Subject.read(name).mutants]


def key(outcome: dict[str, Any]) -> tuple[str, str, str]:
    return outcome["module"], outcome["source"], outcome["removed"]


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the unaltered run shows, in a file that all workers see."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "traces"


@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_every_check_bites(part: int, traces: Path) -> None:
    found = mutation_run("--part", f"{part}/{PARTS}", "--traces", str(traces))
    assert found["trouble"] == []
    outcomes = found["outcomes"]
    made = [mutant.key for mutant in mutants()[part - 1 :: PARTS]]
    assert sorted(map(key, outcomes)) == sorted(made), "some check was not tried"
    listed = {entry.key for entry in EQUIVALENT}
    survivors = [o for o in outcomes if not o["killed"] and key(o) not in listed]
    if survivors:
        lines = (f"{o['module']}:{o['line']}: {o['source']}\n    {o['removed']}" for o in survivors)
        pytest.fail(
            f"{len(survivors)} checks that no test needs:\n" + "\n".join(lines), pytrace=False
        )
    killed = [" | ".join(key(o)) for o in outcomes if o["killed"] and key(o) in listed]
    assert killed == [], "listed as equivalent, but killed"


def test_every_module_that_decides_has_checks() -> None:
    assert len(mutants()) > 300
    gone = {entry.key for entry in EQUIVALENT} - {mutant.key for mutant in mutants()}
    assert gone == set(), "listed as equivalent, but gone"


def test_what_does_not_decide_is_named_as_it_is_called() -> None:
    """A name that fits no module would one day leave out a module that does decide."""
    present = {module.name for module in pkgutil.iter_modules(verifier.__path__)}
    assert present >= NOT_DECIDING
    assert {m.removeprefix("verifier.") for m in deciding_modules()} == present - NOT_DECIDING
