"""docs/threats.md says which test stages which attack; each says so itself, and is judged alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.oracle import universal_oracle
from tests.support.pages import DOCS, Page

HERE = Path(__file__).parent
HEADING = "| test | attacks |"
# Every row of these; the others are staged where their control is.
ROWS = {"B": 22, "I": 10, "X": 8, "D": 7, "L": 4, "F": 17}
_ONE = re.compile(r"\b([A-Z]\d\d)\b(?: to ([A-Z]\d\d)\b)?")
# Tests of the page and of the folder `seat` that the oracle has nothing to judge in.
UNJUDGED = {
    "test_two_hundred_at_once": "an attester alone; a release meets the same in another test",
    "test_no_option_switches_a_check_off": "reads the commands; another test types them",
    "test_the_simulation_in_what_is_shipped": "reads files; another test starts one",
    "test_keys_and_hooks_of_tests": "reads files; another test starts the program",
    # seat
    "test_who_has_the_secrets_of_the_traffic": "shows what nothing stops",
    "test_an_enclave_proves_itself_again_before_the_next_word": "everybody is honest",
    "test_the_verifier_asks_nobody": "everybody is honest",
    "test_a_policy_that_wants_evidence_after_each_mebibyte": "everybody is honest",
    "test_the_certificate_of_a_connection_that_lasts": "everybody is honest",
    "test_the_honest_twin": "everybody is honest",
    "test_collateral_that_expires_while_a_connection_is_open": "time passes, and nobody attacks",
}


def ids(text: str) -> set[str]:
    """Those that are named, ranges included."""
    found = set()
    for first, last in _ONE.findall(text):
        numbers = range(int(first[1:]), int((last or first)[1:]) + 1)
        found |= {f"{first[0]}{number:02d}" for number in numbers}
    return found


def written() -> dict[str, set[str]]:
    """Tests of the page, and what they stage."""
    lines = (DOCS / "threats.md").read_text("utf-8").splitlines()
    found = {}
    for line in lines[lines.index(HEADING) + 2 :]:
        form = re.fullmatch(r"\| `(test_\w+)` \| (.+) \|", line)
        assert form, line
        assert form[1] not in found, line
        found[form[1]] = ids(form[2])
    return found


@dataclass(frozen=True)
class Staged:
    """One test of this folder."""

    name: str
    path: Path
    rows: frozenset[str]  # that its docstring cites
    judged: bool  # by the universal oracle


def staged() -> Iterator[Staged]:
    for path in HERE.rglob("test_*.py"):
        functions = {
            node.name: node
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        judging = {universal_oracle.__name__}
        while more := {n for n, f in functions.items() if called(f) & judging} - judging:
            judging |= more
        for name, node in functions.items():
            if name.startswith("test_"):
                yield Staged(
                    name, path, frozenset(ids(ast.get_docstring(node) or "")), name in judging
                )


def called(function: ast.FunctionDef) -> set[str]:
    """What it enters as a block, or calls as it stands."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_every_row_is_staged_and_judged() -> None:
    rows = {f"{letter}{n:02d}" for letter, last in ROWS.items() for n in range(1, last + 1)}
    page = Page.read("threats")
    assert not [row for row in rows if page.under[row] == "Attacks that nothing cites"]
    assert rows <= set().union(*(w for name, w in written().items() if name not in UNJUDGED))


def test_each_test_says_what_it_stages() -> None:
    cited: dict[str, set[str]] = {}
    for test in staged():
        cited[test.name] = cited.get(test.name, set()) | test.rows
    for name, rows in written().items():
        assert rows <= cited.get(name, set()), name


def test_each_test_is_judged_by_the_oracle_or_has_a_reason() -> None:
    """Those of the page, and all that stage something for each transport."""
    page = written()
    named = {t for t in staged() if t.name in page or t.path.parent.name == "seat"}
    unjudged = {t.name for t in named if not t.judged and t.path.name != "test_page.py"}
    assert unjudged == UNJUDGED.keys()


def test_a_range_is_read() -> None:
    assert ids("B01 to B03, F07") == {"B01", "B02", "B03", "F07"}
