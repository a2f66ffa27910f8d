"""The page `docs/messages.md`: every refusal once, as a user reads it (`make messages`).

The suite runs with `--messages=FOLDER`; each process notes there what refusals said, and
the page takes of each leaf the first by the name of the test. It is read by people: nothing
tests a wording, `tests/test_messages.py` only that no leaf is missing.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.error_page import PACKAGES, ROOT, leaves
from verifier.errors import RatlsError

PAGE = ROOT / "docs" / "messages.md"
# What differs between two runs of the same tests.
_VARYING = (
    (re.compile(r"/[\w./-]*pytest-of-[^/]*/pytest-\d+/(popen-gw\d+/)?[^/ ]+/"), ""),
    (re.compile(r"/\S*/(?=tests/|docs/|verifier/|build/|\.venv/)"), ""),
    (re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b"), r"\1…"),
    (re.compile(r"127\.0\.0\.1:\d+|localhost:\d+"), "127.0.0.1:7443"),
    (re.compile(r"\(id [0-9a-f…]+\)"), "(id 0123…)"),
    (re.compile(r"/queue\d+\?host=\S+?(?=:)"), "/queue"),
    (re.compile(r"\s+"), " "),
)


class Recorder:
    """Notes what every refusal of this process said, once the test that met it is over."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._file = folder / f"{worker}.json"
        self._met: list[RatlsError] = []
        self._seen: dict[str, tuple[bool, str, str, str, str]] = {}

    def install(self) -> None:
        made = RatlsError.__init__

        def noted(error: RatlsError, *args: Any, **options: Any) -> None:
            made(error, *args, **options)
            self._met.append(error)

        RatlsError.__init__ = noted  # type: ignore[method-assign]

    def settle(self, item: pytest.Item) -> None:
        """Ask what was met in this test for its words: only now has it all its parts."""
        drawn = hasattr(getattr(item, "function", None), "hypothesis")  # another one each time
        for error in self._met:
            if error.found in ("one", "another") and error.thing == "thing":
                continue  # built by a test, from parts that no user sees
            known = self._seen.get(error.code)
            if known is None or (drawn, item.nodeid) <= known[:2]:
                word, said, fix = error.exit_status.word, plain(error), plain(error.fix)
                self._seen[error.code] = (drawn, item.nodeid, word, said, fix)
        self._met.clear()

    def write(self) -> None:
        self._file.write_text(json.dumps(self._seen), "utf-8")


def plain(said: object) -> str:
    """One line without what varies, short enough for a page."""
    text = str(said)
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text.strip().replace("|", "\\|")[:400]


def page(folder: Path) -> str:
    """The whole page, from what all processes of a run noted."""
    seen: dict[str, list[Any]] = {}
    for file in sorted(folder.glob("*.json")):
        for code, found in json.loads(file.read_text("utf-8")).items():
            if code not in seen or found[:2] < seen[code][:2]:
                seen[code] = found
    lines = [
        "# What each refusal says",
        "",
        "One example of every refusal, as a person reads it; taken from the tests by",
        "`make messages`.",
        "What each code means stands in [errors.md](errors.md). Codes stay, wordings may change.",
    ]
    for package in PACKAGES:
        ours = [leaf for leaf in leaves() if leaf.__module__.split(".")[0] == package]
        if ours:
            lines += ["", f"## {package}", ""]
        for leaf in ours:
            if leaf.code in seen:
                _, _, word, sentence, fix = seen[leaf.code]
                lines.append(f"- {word} `[{leaf.code}]` {sentence}. *To do:* {fix}")
            else:
                # Met in processes of their own, or told as a code alone: what it means stands in.
                meaning = (leaf.__doc__ or "").strip().split("\n")[0].rstrip(".")
                word, fix = leaf.exit_status.word, leaf.default_fix or "see the message"
                lines.append(f"- {word} `[{leaf.code}]` {meaning}. *To do:* {fix}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])), "utf-8")
