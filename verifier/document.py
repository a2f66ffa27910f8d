"""Signed JSON, read strictly: one reading, of the very text that was signed.

`json.loads` alone takes duplicate members, NaN, floats, huge integers, True for 1 and any depth;
where a signature check and a parser see different things, the attacker writes in between.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Never, Self, TypeAlias, TypeVar

from verifier.errors import CollateralMalformed

MAX_SIZE = 1 << 20
MAX_DEPTH = 32
_HEX = re.compile(r"[0-9A-Fa-f]*", re.ASCII)
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_E = TypeVar("_E", bound=StrEnum)
Entry: TypeAlias = dict[str, Any]  # one object, as it was parsed


def parse_object(text: str, where: str) -> Fields:
    """Read one JSON object that fills `text`.

    Raises:
        CollateralMalformed: Too large or deep, a float, a repeated member, something left over.
    """
    if len(text) > MAX_SIZE:
        raise _refuse(where, f"at most {MAX_SIZE} characters", str(len(text)))
    try:
        value = _DECODER.decode(text)
    # Unmeasured depth ends in RecursionError, an integer of thousands of digits in ValueError.
    except (ValueError, RecursionError) as error:
        raise _refuse(where, "JSON", str(error)) from error
    fields = Fields.of(value, where)
    if _deeper_than(fields.members, MAX_DEPTH):
        raise _refuse(where, f"at most {MAX_DEPTH} levels", "more")
    return fields


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _no_number(text: str) -> Never:
    raise ValueError(f"{text[:20]} is not an integer")


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is not an integer")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_float=_no_number,
    parse_constant=_no_number,
    parse_int=_integer,
)


def _deeper_than(members: dict[str, object], limit: int) -> bool:
    """Layer by layer, so that nothing here recurses."""
    layer: list[Any] = [members]
    for _ in range(limit):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]
        if not layer:
            return False
    return True


_CONTAINERS = frozenset({dict, list})


def _refuse(where: str, expected: str, found: str) -> CollateralMalformed:
    return CollateralMalformed(where, expected=expected, found=found)


def column(entries: list[Entry], member: str, where: str, *, high: int) -> list[int]:
    """One integer from 0 to `high` of each of these objects.

    Taken at once: TCB info has hundreds of them, in which nothing else decides anything.
    """
    numbers: list[Any] = [entry.get(member) for entry in entries]
    # Exact types: True is an integer too.
    if set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) > high:
        raise _refuse(f"{where}[].{member}", f"integers from 0 to {high}", "others")
    return numbers


def words(entries: list[Entry], member: str, where: str) -> list[str]:
    """One string of each of these objects, empty where there is none."""
    found: list[Any] = [entry.get(member, "") for entry in entries]
    if set(map(type, found)) != {str}:
        raise _refuse(f"{where}[].{member}", "strings", "others")
    return found


@lru_cache(maxsize=256)
def _instant(text: str) -> datetime:
    """ValueError unless it is `YYYY-MM-DDTHH:MM:SSZ` and exists."""
    if not _INSTANT.fullmatch(text):
        raise ValueError("not YYYY-MM-DDTHH:MM:SSZ")
    return datetime.fromisoformat(text)


class Fields:
    """The members of one object, each taken with its exact type; the path is in every refusal."""

    def __init__(self, members: dict[str, object], where: str) -> None:
        self.members, self.where = members, where

    @classmethod
    def of(cls, value: object, where: str) -> Self:
        if not isinstance(value, dict):
            raise _refuse(where, "an object", type(value).__name__)
        return cls(value, where)

    def require_only(self, names: set[str]) -> None:
        """Nothing but these members: what is outside a signature must not look as if inside."""
        unknown = self.members.keys() - names
        if unknown:
            raise _refuse(self.where, f"only {', '.join(sorted(names))}", min(unknown)[:60])

    def text(self, name: str) -> str:
        value: str = self._typed(name, str)
        if value.isascii():
            return value
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _refuse(f"{self.where}.{name}", "Unicode text", "a lone surrogate") from error
        return value

    def integer(self, name: str, *, high: int) -> int:
        """An integer from 0 to `high`; True is none."""
        value: int = self._typed(name, int)
        if not 0 <= value <= high:
            raise _refuse(f"{self.where}.{name}", f"0 to {high}", str(value))
        return value

    def hex(self, name: str, size: int) -> bytes:
        """Exactly `size` bytes as hexadecimal text of either case."""
        value = self._typed(name, str)
        # bytes.fromhex alone would skip white space.
        if len(value) != 2 * size or not _HEX.fullmatch(value):
            raise _refuse(f"{self.where}.{name}", f"{2 * size} hexadecimal digits", value[:200])
        return bytes.fromhex(value)

    def instant(self, name: str) -> datetime:
        """`YYYY-MM-DDTHH:MM:SSZ`, a date that exists."""
        value = self._typed(name, str)
        try:
            return _instant(value)
        except ValueError as error:
            raise _refuse(
                f"{self.where}.{name}", "YYYY-MM-DDTHH:MM:SSZ, a date that exists", value[:40]
            ) from error

    def member_of(self, name: str, closed: type[_E]) -> _E:
        """One of a closed list of strings, exactly as written."""
        value = self._typed(name, str)
        try:
            return closed(value)
        except ValueError as error:
            raise _refuse(
                f"{self.where}.{name}", f"one of {', '.join(closed)}", value[:60]
            ) from error

    def object(self, name: str) -> Fields:
        return Fields.of(self._typed(name, dict), f"{self.where}.{name}")

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, at least one."""
        values = self._typed(name, list)
        if not values:
            raise _refuse(f"{self.where}.{name}", "some entries", "none")
        return [Fields.of(v, f"{self.where}.{name}[{i}]") for i, v in enumerate(values)]

    def entries(self, name: str, *, count: int) -> list[Entry]:
        """A list of exactly `count` objects, for `column`."""
        values: list[Entry] = self._typed(name, list)
        if len(values) != count or set(map(type, values)) != {dict}:
            raise _refuse(f"{self.where}.{name}", f"{count} objects", f"{len(values)} entries")
        return values

    def optional_texts(self, name: str) -> tuple[str, ...]:
        """A list of strings that may be absent."""
        if name not in self.members:
            return ()
        values = self._typed(name, list)
        if not all(isinstance(value, str) for value in values):
            raise _refuse(f"{self.where}.{name}", "strings only", "something else")
        return tuple(values)

    def optional_text(self, name: str) -> str:
        """A string that may be absent, and is then empty."""
        return self.text(name) if name in self.members else ""

    def _typed(self, name: str, kind: type) -> Any:
        if name not in self.members:
            raise _refuse(f"{self.where}.{name}", f"a {kind.__name__}", "nothing")
        value = self.members[name]
        if type(value) is not kind:  # exact: isinstance(True, int) holds
            raise _refuse(f"{self.where}.{name}", f"a {kind.__name__}", type(value).__name__)
        return value
