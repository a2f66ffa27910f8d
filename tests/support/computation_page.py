"""Writes `docs/computations.md` (`make computations`)."""

from __future__ import annotations

from policy.show_computations import page
from tests.support.error_page import ROOT

if __name__ == "__main__":
    (ROOT / "docs" / "computations.md").write_text(page(), "utf-8")
