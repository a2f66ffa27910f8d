"""`docs/messages.md` has every refusal once, so that people read all of them."""

from __future__ import annotations

import re

from tests.support.error_page import leaves
from tests.support.message_page import PAGE


def test_every_refusal_stands_on_the_page_once() -> None:
    found = re.findall(r"`\[([a-z0-9-]+)\]`", PAGE.read_text("utf-8"))
    assert sorted(found) == sorted(leaf.code for leaf in leaves())


def test_a_test_met_every_refusal() -> None:
    """A leaf that no test raises has no example, and perhaps no user."""
    assert "no test met it" not in PAGE.read_text("utf-8")
