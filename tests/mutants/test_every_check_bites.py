"""Each check of the verifier is taken away in turn, and some test must notice.

A check that no test needs is one that the next edit may lose. The list of checks is read from the
code: `python -m tests.mutants verifier.crl` shows those of one module.
"""

from __future__ import annotations

import pkgutil
from typing import Any

import pytest

import verifier
from tests.mutants.__main__ import NOT_DECIDING, deciding_modules
from tests.mutants.command import mutation_run
from tests.mutants.equivalent import EQUIVALENT


def key(outcome: dict[str, Any]) -> tuple[str, str, str]:
    return outcome["module"], outcome["source"], outcome["removed"]


def test_every_check_bites() -> None:
    """One test, so that parallel workers do not each make the whole run."""
    found = mutation_run()
    assert found["trouble"] == []
    outcomes = found["outcomes"]
    # Whatever deciding module is added, it is in the run or it has nothing to check.
    assert {o["module"] for o in outcomes} <= set(deciding_modules())
    assert len(outcomes) > 300
    listed = {entry.key for entry in EQUIVALENT}
    survivors = [o for o in outcomes if not o["killed"] and key(o) not in listed]
    if survivors:
        lines = (f"{o['module']}:{o['line']}: {o['source']}\n    {o['removed']}" for o in survivors)
        pytest.fail(
            f"{len(survivors)} checks that no test needs:\n" + "\n".join(lines), pytrace=False
        )
    alive = {key(o) for o in outcomes if not o["killed"]}
    stale = [" | ".join(entry.key) for entry in EQUIVALENT if entry.key not in alive]
    assert stale == [], "listed as equivalent, but killed or gone"


def test_what_does_not_decide_is_named_as_it_is_called() -> None:
    """A name that fits no module would one day leave out a module that does decide."""
    present = {module.name for module in pkgutil.iter_modules(verifier.__path__)}
    assert present >= NOT_DECIDING
    assert {m.removeprefix("verifier.") for m in deciding_modules()} == present - NOT_DECIDING
