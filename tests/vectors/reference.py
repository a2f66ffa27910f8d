"""The cases of `docs/dcap.md` section 5, and what each expects there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.pages import Page

_CLASS = re.compile(r"[A-Z]+(?:_[A-Z]+)+|CRL|EXPIRED|POLICY")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its section, and its column of what is expected."""

    section: str
    expect: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The failure classes that the column names; none where it speaks of something else."""
        return tuple(_CLASS.findall(self.expect))


_PAGE = Page.read("dcap")
LINES = {name: Line(_PAGE.under[name], expect) for name, (_, expect) in _PAGE.rows.items()}
