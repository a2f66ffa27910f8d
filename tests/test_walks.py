"""`docs/walks.md` names functions that exist, where it says they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEP = re.compile(r"`((?:\w+/)+\w+\.py): (\w+)`")


def missing(page: str) -> list[str]:
    """The named functions that are not in the named file."""
    found = []
    for file, name in STEP.findall(page):
        path = ROOT / file
        tree = ast.parse(path.read_text("utf-8")) if path.is_file() else ast.Module([], [])
        if name not in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}:
            found.append(f"{file}: {name}")
    return found


def test_each_step_is_where_the_page_says() -> None:
    page = (ROOT / "docs" / "walks.md").read_text("utf-8")
    assert missing(page) == []
    assert len(re.findall(r"^\d+\. `", page, re.MULTILINE)) == 50


def test_a_step_that_is_gone_is_noticed() -> None:
    assert missing("1. `verifier/quote.py: parse`, `verifier/quote.py: gone`, `no/such.py: f`") == [
        "verifier/quote.py: gone",
        "no/such.py: f",
    ]
