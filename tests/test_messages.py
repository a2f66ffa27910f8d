"""`docs/messages.md` has every refusal once, so that people read all of them."""

from __future__ import annotations

import re

from tests.support.error_page import leaves
from tests.support.message_page import PAGE


def test_every_refusal_stands_on_the_page_once() -> None:
    found = re.findall(r"`\[([a-z0-9-]+)\]`", PAGE.read_text("utf-8"))
    assert sorted(found) == sorted(leaf.code for leaf in leaves())


def test_every_line_has_word_sentence_and_remedy() -> None:
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("- "):
            assert re.fullmatch(
                r"- (refused|undecided|unusable|failed) `\[.+\]` .+ \*To do:\* .+", line
            )
