"""Decision pages say nothing that is not there: each rule's check and test are looked up."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "decisions").glob("*.md"))
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE)
}
RULE = re.compile(r"^\| (?!rule |---)(.+) \| `([\w.]+)` \| `(\w+)` \|$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem[:4])
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text("utf-8")))
    assert named <= TESTS, named - TESTS


def test_each_rule_about_results_has_its_check_and_its_test() -> None:
    text = (ROOT / "docs" / "decisions" / "0006-what-statistics-may-say.md").read_text("utf-8")
    rules = RULE.findall(text)
    # A line that lost a column, or has none of them, would silently be no rule.
    headings = sum(line.startswith(("| rule |", "| --- |")) for line in text.splitlines())
    assert len(rules) == sum(line.startswith("|") for line in text.splitlines()) - headings
    assert len(rules) > 30
    for _, check, test in rules:
        assert test in TESTS
        assert _resolves(check), check


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
        return callable(found) or name.isupper()
    return False
