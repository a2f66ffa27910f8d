"""From the bytes of a policy to TOML values, and from a path back to its line.

Bytes first, TOML second, meaning last (`document`): each step refuses before the next begins.
"""

from __future__ import annotations

import re
import tomllib
from datetime import datetime, time
from typing import Any

from policy.errors import PolicyFormatError, ResourceLimitError
from policy.problems import Problem
from policy.text import describe, hidden_character
from verifier.text import instant_fault

TEXT_CAP = 1 << 20
LINE_CAP = 64 * 1024  # characters; longer lines are no text that a person reads
# `tomllib` takes time quadratic in the parts of one dotted key: 30,000 of them took 15 s.
DOTS_CAP = 500
DEPTH_CAP = 16
_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\Z")
# `tomllib` cuts a fraction after six digits: what was signed would not be what is compared.
_FRACTION = re.compile(
    r"^[^#\n]*[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}\.", re.MULTILINE | re.ASCII
)
_INT_RANGE = range(-(2**63), 2**63)


class PolicySyntax(PolicyFormatError):
    """The text is not TOML."""

    code = "policy-syntax"
    default_fix = "correct the file at the named line and column"


def read_toml(raw: bytes, thing: str = "policy") -> dict[str, Any]:
    """The TOML document in these bytes; refusals name `thing`.

    Raises: PolicyTooLarge, PolicyEncoding, PolicySyntax.
    """
    text = _visible_text(raw, thing)
    if cut := _FRACTION.search(text):
        line = text.count("\n", 0, cut.end()) + 1
        raise PolicySyntax(f"{thing}: line {line}", expected="whole seconds", found="a fraction")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        where = "end of the text"
        if place and place[1]:
            where = f"line {place[1]}, column {place[2]}"
        raise PolicySyntax(
            f"{thing}: {where}", expected="TOML", found=ascii(_PLACE.sub("", message))[1:-1][:160]
        ) from error
    except (ValueError, RecursionError) as error:  # a number too long, nesting too deep
        found = "nesting too deep" if isinstance(error, RecursionError) else "a number too large"
        raise PolicySyntax(thing, expected="TOML", found=found) from error


class PolicyTooLarge(ResourceLimitError):
    """The policy, or its agreement, is too large."""

    code = "policy-too-large"
    default_fix = "ask its sender for the right file"


class PolicyEncoding(PolicyFormatError):
    """The text is not UTF-8, or has invisible or misleading characters."""

    code = "policy-encoding"
    default_fix = "save the file as UTF-8 with Unix line ends, without invisible characters"


def _visible_text(raw: bytes, thing: str) -> str:
    if len(raw) > TEXT_CAP:
        raise PolicyTooLarge(thing, expected=f"at most {TEXT_CAP} bytes", found=str(len(raw)))
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyEncoding(
            f"{thing}: line {line}",
            expected="UTF-8",
            found=f"another encoding at byte {error.start}",
        ) from error
    hidden = hidden_character(text, allowed="\n\t")
    if hidden is not None:
        line, column = text.count("\n", 0, hidden) + 1, hidden - text.rfind("\n", 0, hidden)
        raise PolicyEncoding(
            f"{thing}: line {line}, column {column}",
            expected="visible characters",
            found=describe(text[hidden]),
        )
    for number, content in enumerate(text.split("\n"), 1):
        if len(content) > LINE_CAP or content.count(".") > DOTS_CAP:
            raise PolicyTooLarge(
                f"{thing}: line {number}",
                expected=f"at most {LINE_CAP} characters and {DOTS_CAP} dots",
                found="more",
            )
    return text


def value_problems(value: Any, path: str, lines: LineIndex, depth: int = 0) -> list[Problem]:
    """What TOML can say and a policy must not, at any depth."""
    if depth > DEPTH_CAP:
        return [Problem(path, lines.find(path), f"at most {DEPTH_CAP} levels", "more")]
    match value:
        case dict():
            found = [p for k in value for p in _text_problems(k, path, lines, "a name")]
            for key, inner in value.items():
                found += value_problems(inner, f"{path}.{key}" if path else key, lines, depth + 1)
            return found
        case list():
            return [
                problem
                for i, inner in enumerate(value)
                for problem in value_problems(inner, f"{path}[{i}]", lines, depth + 1)
            ]
        case str():
            # An escape such as \u202e is visible in the file and not in what it says.
            return _text_problems(value, path, lines, "text")
    wanted = _scalar_fault(value)
    return [Problem(path, lines.find(path), wanted, str(value)[:40])] if wanted else []


def _scalar_fault(value: Any) -> str | None:
    match value:
        case float() if value - value != 0:
            return "a finite number"
        case bool():
            return None
        case int() if value not in _INT_RANGE:
            return "an integer of 64 bits"
        case datetime():
            # Wide years: a bound of a column may be a date of birth.
            return instant_fault(value, years=range(2, 9999))
        case time():
            return "a date-time with offset, not a time of day"
    return None


def _text_problems(text: str, path: str, lines: LineIndex, what: str) -> list[Problem]:
    # Only keys and certificates have lines of their own; elsewhere a line break could forge one.
    hidden = hidden_character(text, allowed="\n" if text.startswith("-----BEGIN ") else "")
    if hidden is None:
        return []
    return [
        Problem(path, lines.find(path), f"{what} of visible characters", describe(text[hidden]))
    ]


_TABLE = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*(?:([A-Za-z0-9_-]+)|\"([^\"\\]*)\")\s*=")
_PARENT = re.compile(r"\.[^.\[\]]*\Z|\[\d+\]\Z")


class LineIndex:
    """The line of a path in the text, as far as its lines show it.

    Only for messages: nothing is decided by it. Keys inside inline tables are found at the
    line of the key that holds the table.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        counts: dict[str, int] = {}
        prefix, quote = "", ""
        for number, line in enumerate(text.split("\n"), 1):
            if quote:  # inside a multi-line string, which holds PEM and looks like nothing else
                quote = "" if line.count(quote) % 2 else quote
                continue
            if table := _TABLE.fullmatch(line):
                prefix = table[2]
                if table[1] == "[[":
                    counts[prefix] = counts.get(prefix, -1) + 1
                    prefix = f"{prefix}[{counts[prefix]}]"
                elif (holder := prefix.partition("."))[0] in counts:  # [dataset.columns]
                    prefix = f"{holder[0]}[{counts[holder[0]]}].{holder[2]}"
                self._lines.setdefault(prefix, number)
            elif key := _KEY.match(line):
                name = key[1] if key[1] is not None else key[2]
                self._lines.setdefault(f"{prefix}.{name}" if prefix else name, number)
                opened = [q for q in ('"""', "'''") if line.count(q) % 2]
                quote = opened[0] if opened else ""

    def find(self, path: str) -> int | None:
        """The line of this path or of what holds it."""
        while path not in self._lines:
            shorter = _PARENT.sub("", path)
            if shorter == path:
                return None
            path = shorter
        return self._lines[path]
