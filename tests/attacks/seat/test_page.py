"""docs/seat.md says what the tests of this folder show, cell by cell, and no more."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path

from tests.attacks import seat
from tests.support.transports import ALL

PAGE = Path(__file__).parents[3] / "docs" / "seat.md"
NAMES = [transport.name for transport in ALL]
HEADING = f"| attack or goal | {' | '.join(NAMES)} | shown by |"
TESTS = r"`(test_\w+)`"


def written() -> dict[str, tuple[dict[str, str], list[str]]]:
    """The page's lines: a word for each transport, and tests."""
    text = PAGE.read_text("utf-8").splitlines()
    start = text.index(HEADING) + 2
    found = {}
    for row in text[start:]:
        if not row.startswith("|"):
            break
        title, *words, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert len(words) == len(NAMES), row
        held = {n: w.strip("*") for n, w in zip(NAMES, words, strict=True)}
        found[title] = (held, sorted(re.findall(TESTS, tests)))
    return found


def staged() -> dict[str, tuple[dict[str, str], list[str]]]:
    """What the tests of this folder say that they show."""
    for module in pkgutil.iter_modules(seat.__path__):
        if module.name.startswith("test_"):
            import_module(f"{seat.__name__}.{module.name}")
    return {title: (one.words, sorted(set(one.tests))) for title, one in seat.LINES.items()}


def test_the_page_and_the_tests_say_the_same() -> None:
    page, tests = written(), staged()
    assert page.keys() == tests.keys()
    for title, said in page.items():
        assert said == tests[title], title


def test_the_tests_exist() -> None:
    tests = Path(__file__).parents[2]
    known = {
        name
        for path in tests.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    for title, (_, named) in written().items():
        assert named, title
        assert set(named) <= known, title


def test_what_no_transport_stops_has_a_sentence() -> None:
    """A bare word in a cell would leave the reader alone with it."""
    text = PAGE.read_text("utf-8")
    behind = text[text.index(HEADING) :].split("\n\n", 1)[1]
    for title, (words, _) in written().items():
        if set(words.values()) & {"not stopped", "not offered"}:
            assert f"**{title}**" in behind, title
