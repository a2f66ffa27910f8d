"""Decision pages and SECURITY.md say nothing that no test shows: what they name is looked up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
SECURITY = ROOT / "SECURITY.md"
# Pages whose rules once stood in sentences that nothing checked; the least number of each.
IN_TABLES = {1: 9, 2: 8, 3: 6, 4: 11, 5: 9, 6: 30, 7: 30}
# A line of a table must have its form: one that lost a column would silently be no rule.
_TESTS = r"(`test_\w+`(?:, `test_\w+`){0,2})"
RULE = ("| rule | check | test |", re.compile(r"\| (.+) \| `([\w.]+)` \| `(test_\w+)` \|"))
CLAIM = (
    "| claim | state | by | shown by |",
    re.compile(rf"\| (S\d+) .+? \| ((?:not )?met\b|in part)[^|]* \| [^|]+ \| (?:{_TESTS}|none) \|"),
)
SENTENCE = ("| what this page says | shown by |", re.compile(rf"\| (.+) \| {_TESTS} \|"))
# How a test says that it refuses; `conftest` counts the same at run time.
_REFUSES = {"refused", "refuses", "refused_by_enclave", "count_refusal", "raises"}


def _calls(function: ast.FunctionDef) -> set[str]:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in calls}


def _tests() -> Iterator[tuple[str, bool]]:
    """Names of all tests, and whether each refuses something itself."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name, bool(_calls(node) & _REFUSES)


@pytest.fixture(scope="module")
def tests() -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name, refuses in _tests():
        found[name] = found.get(name, True) and refuses
    return found


def table(text: str, kind: tuple[str, re.Pattern[str]]) -> list[tuple[str, ...]]:
    """The lines of all tables under this heading, in their parts."""
    heading, form = kind
    rows: list[tuple[str, ...]] = []
    inside = False
    for line in text.splitlines():
        if inside and line.startswith("|") and not line.startswith("| ---"):
            match = form.fullmatch(line)
            assert match, line
            rows.append(match.groups())
        elif not line.startswith("|"):
            inside = False
        if line == heading:
            inside = True
    return rows


def names(cell: str | None) -> list[str]:
    return re.findall(r"test_\w+", cell or "")


@pytest.mark.parametrize("page", [*DECISIONS, SECURITY], ids=lambda page: page.stem[:8])
def test_what_a_page_names_exists(page: Path, tests: dict[str, bool]) -> None:
    """In a table or in prose, a test or a file of tests, and the check of each rule."""
    text = page.read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= tests.keys(), named - tests.keys()
    for file in re.findall(r"`(tests/[\w/]+\.py)", text):
        assert (ROOT / file).is_file(), file
    for _, check, _ in table(text, RULE):
        assert _resolves(check), check


@pytest.mark.parametrize("number", IN_TABLES)
def test_rules_of_a_page_stand_in_its_tables(number: int) -> None:
    (page,) = (p for p in DECISIONS if p.stem.startswith(f"{number:04}-"))
    assert len(table(page.read_text("utf-8"), RULE)) >= IN_TABLES[number]


def test_each_claim_is_shown_by_a_test_that_refuses(tests: dict[str, bool]) -> None:
    """A claim that only honest runs show would hold without its check as well."""
    claims = table(SECURITY.read_text("utf-8"), CLAIM)
    assert [claim for claim, _, _ in claims] == [f"S{n}" for n in range(1, 35)]
    for claim, state, shown in claims:
        if state == "not met":
            assert shown is None, f"{claim} is not met, and yet shown"
        else:
            assert any(tests[name] for name in names(shown)), f"{claim} has no test that refuses"


def test_what_cannot_happen_is_shown_too() -> None:
    assert len(table(SECURITY.read_text("utf-8"), SENTENCE)) >= 12


def test_a_line_that_lost_a_part_is_noticed() -> None:
    good = f"{RULE[0]}\n| --- | --- | --- |\n| so | `a.b` | `test_x` |\n"
    assert table(good, RULE) == [("so", "a.b", "test_x")]
    for line in ("| so | `a.b` |", "| so | `a.b` | |", "| so | a.b | `test_x` |"):
        with pytest.raises(AssertionError):
            table(good + line, RULE)
    claim = "| S1 no row | met | by this | `test_x` |"
    assert table(f"{CLAIM[0]}\n{claim}", CLAIM) == [("S1", "met", "`test_x`")]
    for line in (claim.replace("`test_x`", ""), claim.replace("met", "perhaps")):
        with pytest.raises(AssertionError):
            table(f"{CLAIM[0]}\n{line}", CLAIM)


def _resolves(dotted: str) -> bool:
    """A module's name, then names within it."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: object = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return callable(found) or isinstance(found, property) or name.isupper()
    return False
