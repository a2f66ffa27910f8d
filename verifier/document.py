"""Signed JSON, read strictly and once, from the exact text that was signed.

Each member is taken with its exact type; True is no 1, and nothing is converted. Which documents
there are: docs/dcap.md 4.4 and 4.5.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from typing import Any, Self, TypeAlias, TypeVar

from verifier.errors import CollateralFormatError
from verifier.strict_json import JsonError, read_object
from verifier.text import read_instant

MAX_SIZE = 1 << 20
_E = TypeVar("_E", bound=StrEnum)
T = TypeVar("T")
Entry: TypeAlias = dict[str, Any]  # one object, as it was parsed


def parse_object(
    text: str, where: str, read: Callable[[str], dict[str, Any]] = read_object
) -> Fields:
    """Read one JSON object that fills `text`.

    Raises:
        CollateralMalformed: Too large, or refused by `read`.
    """
    if len(text) > MAX_SIZE:
        raise _refuse(where, f"at most {MAX_SIZE} characters", str(len(text)))
    try:
        return Fields(read(text), where)
    except JsonError as error:
        raise _refuse(where, "one JSON object", str(error)) from error


class CollateralMalformed(CollateralFormatError):
    """The collateral bundle, the TCB info or the QE identity cannot be read."""

    code = "collateral-malformed"
    default_fix = "fetch the collateral again; it must be stored byte for byte as Intel serves it"


def _refuse(where: str, expected: str, found: str) -> CollateralMalformed:
    return CollateralMalformed(where, expected=expected, found=found)


@lru_cache(maxsize=256)
def _instant(text: str) -> datetime:
    """ValueError unless it is `YYYY-MM-DDTHH:MM:SSZ` and exists.

    One of the forms of RFC 3339, section 5.6: no fraction, no offset, capitals.
    """
    return read_instant(text)


class Fields:
    """The members of one object, each taken with its exact type; the path is in every refusal."""

    def __init__(self, members: dict[str, object], where: str) -> None:
        self.members, self.where = members, where

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
        try:
            octets = binascii.unhexlify(value)  # bytes.fromhex would skip white space
        except ValueError:
            octets = b""
        if len(octets) != size:
            raise _refuse(f"{self.where}.{name}", f"{2 * size} hexadecimal digits", value[:200])
        return octets

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
        return Fields(self._typed(name, dict), f"{self.where}.{name}")

    def table(self, name: str) -> Table:
        """A list of objects of one kind, at least one."""
        values = self._typed(name, list)
        if not values:
            raise _refuse(f"{self.where}.{name}", "some entries", "none")
        return Table.of(values, f"{self.where}.{name}")

    def optional_text(self, name: str) -> str:
        """A string that may be absent, and is then empty."""
        return self.text(name) if name in self.members else ""

    def _typed(self, name: str, kind: type) -> Any:
        value = self.members.get(name)  # null is nothing too
        if type(value) is not kind:  # exact: isinstance(True, int) holds
            raise _refuse(f"{self.where}.{name}", _CALLED[kind], _CALLED[type(value)])
        return value


_CALLED: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    bool: "true or false",
    type(None): "nothing",
}


class Table:
    """Objects of one kind, read a member at a time: TCB info has hundreds of them."""

    def __init__(self, rows: list[Entry], where: str) -> None:
        self.rows, self.where = rows, where

    @classmethod
    def of(cls, values: list[Any], where: str) -> Self:
        _require_type(values, dict, where)
        return cls(values, where)

    def objects(self) -> list[Fields]:
        """Each by itself."""
        return [Fields(row, f"{self.where}[{i}]") for i, row in enumerate(self.rows)]

    def head(self, count: int) -> Table:
        return Table(self.rows[:count], self.where)

    def integers(self, name: str, *, high: int) -> list[int]:
        """An integer from 0 to `high` of each; True is none."""
        values: list[int] = self._typed(name, int)
        if min(values) < 0 or max(values) > high:
            found = f"{min(values)} to {max(values)}"
            raise _refuse(f"{self.where}[].{name}", f"0 to {high}", found)
        return values

    def each(self, name: str, find: Callable[[str], T], expected: str) -> list[T]:
        """What `find` makes of a string of each; it raises LookupError or ValueError."""
        texts = self._typed(name, str)
        try:
            return list(map(find, texts))
        except (LookupError, ValueError) as error:
            found = ", ".join(dict.fromkeys(texts))
            raise _refuse(f"{self.where}[].{name}", expected, found[:200]) from error

    def instants(self, name: str) -> list[datetime]:
        """As `Fields.instant`."""
        return self.each(name, _instant, "YYYY-MM-DDTHH:MM:SSZ, a date that exists")

    def words(self, name: str, meanings: Mapping[str, T]) -> list[T]:
        """What each word of a closed list means, exactly as written."""
        return self.each(name, meanings.__getitem__, f"one of {', '.join(meanings)}")

    def optional_texts(self, name: str) -> list[str]:
        """A string of each, which may be absent and is then empty."""
        return self._optional(name, str, "")

    def optional_lists(self, name: str) -> list[tuple[str, ...]]:
        """A list of strings of each, which may be absent and is then empty."""
        lists: list[list[str]] = self._optional(name, list, [])
        _require_type([*chain.from_iterable(lists)], str, f"{self.where}[].{name}")
        return [tuple(texts) for texts in lists]

    def table(self, name: str) -> Table:
        """One object of each."""
        return Table(self._typed(name, dict), f"{self.where}[].{name}")

    def tables(self, name: str) -> tuple[list[int], Table]:
        """A list of objects of each, at least one: how many, and all of them in one table."""
        lists: list[list[Any]] = self._typed(name, list)
        counts = list(map(len, lists))
        if not min(counts):
            raise _refuse(f"{self.where}[].{name}", "some entries", "none")
        return counts, Table.of([*chain.from_iterable(lists)], f"{self.where}[].{name}")

    def joined(self, name: str, *, count: int) -> Table:
        """A list of exactly `count` objects of each, one list behind the other."""
        counts, table = self.tables(name)
        if set(counts) != {count}:
            raise _refuse(table.where, f"{count} objects", f"{min(counts)} to {max(counts)}")
        return table

    def _typed(self, name: str, kind: type) -> list[Any]:
        return self._optional(name, kind, None)

    def _optional(self, name: str, kind: type, absent: object) -> list[Any]:
        values = [row.get(name, absent) for row in self.rows]
        _require_type(values, kind, self.where, f".{name}")
        return values


def _require_type(values: list[Any], kind: type, where: str, member: str = "") -> None:
    """All are exactly of this type: isinstance(True, int) holds."""
    if set(map(type, values)) <= {kind}:
        return
    place, found = next((i, v) for i, v in enumerate(values) if type(v) is not kind)
    raise _refuse(f"{where}[{place}]{member}", _CALLED[kind], _CALLED[type(found)])
