"""docs/threats.md says which test stages which attack, and each of these tests says so itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.pages import DOCS, Page

HEADING = "| test | attacks |"
# Every row of these; the others are staged where their control is.
ROWS = {"B": 22, "I": 10, "X": 8, "D": 7, "L": 4, "F": 17}
_ONE = re.compile(r"\b([A-Z]\d\d)\b(?: to ([A-Z]\d\d)\b)?")


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


def staged() -> Iterator[tuple[str, set[str]]]:
    """Tests of this folder, and what their docstrings cite."""
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name, ids(ast.get_docstring(node) or "")


def test_every_row_is_staged_or_says_why_not() -> None:
    rows = {f"{letter}{n:02d}" for letter, last in ROWS.items() for n in range(1, last + 1)}
    page = Page.read("threats")
    reasons = {row for row in rows if page.under[row] == "Attacks that nothing cites"}
    assert rows - reasons <= set().union(*written().values())
    assert len(reasons) == 2


def test_each_test_says_what_it_stages() -> None:
    cited: dict[str, set[str]] = {}
    for name, rows in staged():
        cited[name] = cited.get(name, set()) | rows
    for name, rows in written().items():
        assert rows <= cited.get(name, set()), name


def test_a_range_is_read() -> None:
    assert ids("B01 to B03, F07") == {"B01", "B02", "B03", "F07"}
