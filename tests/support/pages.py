"""The pages of `docs/` that code and tests cite: their sections, and the rows of their tables.

Page.read("dcap").sections          # {"4.9", …}
Page.read("threats").rows["B09"]    # the cells behind the id
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

DOCS = Path(__file__).parent.parent.parent / "docs"
NAMES = ("threats", "dcap", "channel", "flight", "gramine", "tdx")
_HEADING = re.compile(r"#{2,4} (?:(\d+(?:\.\d+)*)\.? )?(.+)")
_ROW = re.compile(r"\| ([A-Z]\d{1,3}) \| (.+) \|")


@dataclass(frozen=True)
class Page:
    """What can be cited of one page."""

    sections: frozenset[str]  #          numbers of headings
    rows: dict[str, tuple[str, ...]]  #  id of a row to its other cells
    under: dict[str, str]  #             id of a row to the number, or the text, of its heading
    text: str

    @classmethod
    @cache
    def read(cls, name: str) -> Self:
        """The page of this name. One id stands in one row."""
        return cls.of((DOCS / f"{name}.md").read_text("utf-8"))

    @classmethod
    def of(cls, text: str) -> Self:
        sections: set[str] = set()
        rows: dict[str, tuple[str, ...]] = {}
        under: dict[str, str] = {}
        heading = ""
        for line in text.splitlines():
            if found := _HEADING.fullmatch(line):
                heading = found[1] or found[2]
                assert heading not in sections, f"two sections {heading}"
                sections.add(heading)
            elif found := _ROW.fullmatch(line):
                assert found[1] not in rows, f"two rows {found[1]}"
                rows[found[1]] = tuple(cell.strip() for cell in found[2].split(" | "))
                under[found[1]] = heading
        return cls(frozenset(s for s in sections if s[0].isdigit()), rows, under, text)
