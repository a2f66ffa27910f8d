"""The attacks and goals of the SEAT use-cases draft, staged for each transport.

@line("evidence replayed", refused=ALL)
def test_evidence_of_an_earlier_moment(study: Study, transport: Transport, holds: str) -> None: ...

A line of the table in docs/seat.md has one word for each transport, and the tests that show it.
`test_page.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from tests.support.transports import ALL, Transport

MINUTES = 15 * 60 + 1.0  # the policy's, until an enclave must prove itself again
Test = TypeVar("Test", bound=Callable[..., None])


@dataclass
class Line:
    """What the page must say."""

    words: dict[str, str] = field(default_factory=dict)  # by transport
    tests: list[str] = field(default_factory=list)


LINES: dict[str, Line] = {}


def elsewhere(title: str, test: str, **words: Sequence[Transport]) -> None:
    """As `line`, for a test that is not one of this folder, or belongs to another line, too."""
    _keep(title, test, {t.name: w.replace("_", " ") for w, those in words.items() for t in those})


def _keep(title: str, test: str, words: dict[str, str]) -> None:
    kept = LINES.setdefault(title, Line())
    assert not any(kept.words.get(name, word) != word for name, word in words.items()), title
    kept.words |= words
    kept.tests.append(test)


def line(title: str, **words: Sequence[Transport]) -> Callable[[Test], Test]:
    """Run the test for these transports, with the word that holds for each."""
    found = {t.name: w.replace("_", " ") for w, those in words.items() for t in those}
    chosen = [t for t in ALL if t.name in found]

    def mark(test: Test) -> Test:
        _keep(title, test.__name__, found)
        given = [pytest.param(t, found[t.name], id=t.name) for t in chosen]
        return pytest.mark.parametrize(("transport", "holds"), given)(test)

    return mark
