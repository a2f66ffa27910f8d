"""What is said about a manifest or an image: refused, doubtful, or for a person to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a reviewing party takes it."""

    REFUSE = "refuse"
    WARN = "warn"
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about one key or file."""

    level: Level
    key: str
    expected: str
    found: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.key if self.line is None else f"line {self.line}: {self.key}"
        if self.level is Level.SHOW:
            return f"{place} = {self.found}: {self.expected}"
        return f"{place}: expected {self.expected}, found {self.found}"

    def as_json(self) -> dict[str, object]:
        return {
            "level": self.level.value,
            "key": self.key,
            "line": self.line,
            "expected": self.expected,
            "found": self.found,
        }


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is Level.REFUSE]


def shown(value: object, cap: int = 100) -> str:
    """A value of a manifest, safe to print, and short."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= cap else f"{text[:cap]}…"


def refuse(key: str, expected: str, value: object) -> Finding:
    return Finding(Level.REFUSE, key, expected, shown(value))


def placed(findings: Iterable[Finding], lines: dict[str, int]) -> Iterator[Finding]:
    """Each with the line of its key, or of the table above it."""
    for found in findings:
        key = found.key
        while key and key not in lines:
            key = key.rpartition(".")[0]
        line = lines.get(key)
        yield Finding(found.level, found.key, found.expected, found.found, line)
