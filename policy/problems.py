"""Turns pydantic's errors into problems that the author of a policy understands."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

PROBLEMS_CAP = 200  # that are listed, and that are looked for


class Unfit(ValueError):
    """A validator's error; `field` where it is about one field of a table."""

    def __init__(self, expected: str, found: str, *, field: str = "") -> None:
        super().__init__(expected, found)
        self.expected, self.found, self.field = expected, found, field


_SHORT = Repr()
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxlevel = 4
_SHORT.maxstring = _SHORT.maxother = 80


def shortened(value: Any) -> str:
    """What was found, in at most 80 characters; a large value is not written out for that."""
    return ascii(_SHORT.repr(value))[1:-1][:80]


LineOf = Callable[[str], int | None]  # the line of a path, see `policy.syntax.LineIndex`


def no_line(path: str) -> None:
    """Where there is no text to point into."""


_ARM = re.compile(r"(function-|literal\[|constrained-|tuple\[|\[key\]|(int|str)\Z)")


def join(path: str, location: tuple[Any, ...]) -> str:
    """`party[2]` and ("roles", 0) give `party[2].roles[0]`."""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(part, str):
            path += f".{part}" if path else part
    return path


_THE_FIELD, _A_KNOWN_FIELD = "this field", "a known field"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error: where it is, what is expected, what was found."""

    path: str  #          like `party[2].roles[0]`, counted from 0
    line: int | None  #   in the file, counted from 1; None where it cannot be located
    expected: str
    found: str
    fix: str = ""

    @property
    def place(self) -> str:
        return self.path if self.line is None else f"{self.path} (line {self.line})"

    @property
    def sentence(self) -> str:
        if self.expected == _THE_FIELD:
            return f"{self.place} is missing"
        if self.expected == _A_KNOWN_FIELD:
            return f"{self.place} is not a known field"
        return f"{self.place}: expected {self.expected}, found {self.found}"

    def __str__(self) -> str:
        return self.sentence + (f" ({self.fix})" if self.fix else "")


def unknown_field(name: str, known: Collection[str], path: str, line_of: LineOf) -> Problem:
    """P10: an unknown field is refused; the nearest known name is suggested."""
    close = get_close_matches(name[:128], known, n=1)
    fix = f"did you mean {close[0]}?" if close else "known here: " + ", ".join(sorted(known))
    return Problem(path, line_of(path), _A_KNOWN_FIELD, f"the unknown field {name!a}", fix)


def from_pydantic(
    error: ValidationError, model: type[BaseModel], path: str, line_of: LineOf = no_line
) -> list[Problem]:
    """One problem per place, also for a union that fails in every arm."""
    problems: dict[str, Problem] = {}
    entries = error.errors(include_url=False)
    # A misspelt name is two problems, unknown and missing: the one with the hint comes first.
    entries = sorted(entries, key=lambda e: e["type"] != "extra_forbidden")[:PROBLEMS_CAP]
    places = [_place(entry["loc"], path) for entry in entries]
    for entry in entries:
        place = _place(entry["loc"], path)
        if entry["type"] == "too_short" and any(p.startswith(f"{place}[") for p in places):
            continue  # pydantic counts valid entries only; the invalid ones are listed already
        if entry["type"] == "extra_forbidden":
            holder = _model_at(model, entry["loc"])
            known = [f.alias or n for n, f in holder.model_fields.items()]
            problem = unknown_field(str(entry["loc"][-1]), known, place, line_of)
        else:
            expected, found, place = _described(entry, place)
            problem = Problem(place, line_of(place), expected, found)
        problems.setdefault(place, problem)
    return list(problems.values())


def _place(location: tuple[int | str, ...], path: str) -> str:
    # Union arms and validators appear as parts like `tuple[...]`, `int`, `literal['all']`.
    parts = [p for p in location if isinstance(p, int) or not _ARM.match(p)]
    return join(path, tuple(parts))


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location[:-1]:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            for inner in (annotation, *get_args(annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    model = inner
    return model


_WORDS = {  # by pydantic's name of the error; braces stand for what it adds
    "missing": _THE_FIELD,
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "text of the form {pattern}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "int_type": "an integer",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "datetime_type": "a date-time with offset, like 2026-11-01T00:00:00Z",
    "date_type": "a date, like 2026-11-01",
    "date_from_datetime_inexact": "a date, like 2026-11-01",
    "too_short": "at least one entry",
    "too_long": "fewer entries",
}


def _described(entry: Any, place: str) -> tuple[str, str, str]:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "value_error":
        fault: Unfit = context["error"]
        return fault.expected, fault.found, join(place, (fault.field,)) if fault.field else place
    found = "nothing" if kind == "missing" else shortened(entry["input"])
    words = _WORDS[kind].format_map(context) if kind in _WORDS else entry["msg"]
    return words, found, place
