"""A real browser for pages that we write: Chromium without a window.

    shown(page)          # the words that a person sees, blanks united

It is told aloud where the program is absent: `program` is None then, and `require_program` skips,
or fails under RATLS_REQUIRE_CHROMIUM=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.waiting import HANG_LIMIT


def program() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def require_program() -> str:
    found = program()
    if found is None:
        if os.environ.get("RATLS_REQUIRE_CHROMIUM") == "1":
            pytest.fail("RATLS_REQUIRE_CHROMIUM=1 and Chromium is not installed")
        pytest.skip("CHROMIUM ABSENT: apt-get install chromium")
    return found


def shown(page: Path, profile: Path) -> str:
    """What the browser made of the page, as text. It has no network."""
    done = subprocess.run(
        [
            require_program(), "--headless", "--no-sandbox", "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--dump-dom",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
        check=True,
    )  # fmt: skip
    return words(done.stdout)


def words(html: str) -> str:
    """The text of a page without its head, blanks united."""
    reader = _Text()
    reader.feed(html)
    reader.close()
    return " ".join(" ".join(reader.found).split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("head", "style", "script"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.found.append(data)
