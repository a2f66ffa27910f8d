"""JSON objects, read strictly: what `json.loads` accepts silently is refused.

A repeated member, a float, -0 for 0, any depth: RFC 8259, section 4, section 6 and section 9,
leave them to the reader. Where a signature check and a parser see different things, the attacker
writes in between (docs/dcap.md 3.6). To look at each object as it is made costs more than to read
it. But outside the strings of valid JSON, each colon is a member that was written, and the
brackets show how deep it is: they are counted instead.
"""

from __future__ import annotations

import json
from typing import Any, Never

MAX_DEPTH = 32


class JsonError(ValueError):
    """Not JSON, or not in the one form that is read here."""


def read_object(text: str) -> dict[str, Any]:
    """The one object that fills `text`.

    Raises:
        JsonError: None does; a member appears twice; a number is no integer, or is -0; it
            is nested deeper than `MAX_DEPTH`.
    """
    objects: list[dict[str, Any]] = []

    def keep(made: dict[str, Any]) -> dict[str, Any]:
        objects.append(made)
        return made

    value = _decode(json.JSONDecoder(object_hook=keep, **_INTEGERS), text)
    marks = _marks(text)
    if marks.count(b":") != sum(map(len, objects)):
        raise JsonError("a member appears twice")
    if _deeper_than(marks, MAX_DEPTH):
        raise JsonError(f"more than {MAX_DEPTH} levels")
    return value


def read_flat_object(text: str) -> dict[str, Any]:
    """The one object that fills `text`, of which the caller takes nothing but strings.

    Nested values are never looked at, so their depth does not matter. Faster where `text` is full
    of escapes.

    Raises:
        JsonError: None does; a member appears twice; a number is no integer, or is -0.
    """
    return _decode(_FLAT, text)


def _decode(decoder: json.JSONDecoder, text: str) -> dict[str, Any]:
    try:
        value = decoder.decode(text)
    # A hundred thousand levels end in RecursionError, thousands of digits in ValueError.
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from error
    if not isinstance(value, dict):
        raise JsonError(f"no object, but {type(value).__name__}")
    return value


class _Integers(dict[str, int]):
    """The value of an integer's text; those of one byte are looked up, hundreds in a document."""

    def __missing__(self, text: str) -> int:
        if text == "-0":
            raise ValueError("-0 is not an integer")
        return int(text)


def _no_integer(text: str) -> Never:
    raise ValueError(f"{text[:20]} is not an integer")


def members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


_INTEGERS: dict[str, Any] = {
    "parse_int": _Integers((str(number), number) for number in range(256)).__getitem__,
    "parse_float": _no_integer,
    "parse_constant": _no_integer,
}
_FLAT = json.JSONDecoder(object_pairs_hook=members_once, **_INTEGERS)


def _marks(text: str) -> bytes:
    """The colons and brackets outside the strings of valid JSON."""
    if "\\" in text:
        # Escaped backslashes first: the quote behind two of them is none that is escaped.
        text = text.replace(r"\\", "").replace(r"\"", "")
    marks = text.encode("utf-8", "surrogatepass").translate(None, _NO_MARKS)
    # Most strings are now two quotes side by side; without them, what is outside stays outside.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])


def _deeper_than(marks: bytes, limit: int) -> bool:
    """Remove all innermost pairs of brackets at once, `limit` times; is anything left?"""
    brackets, taken = marks.translate(_ONE_KIND, b":"), 0
    while brackets and taken < limit:
        brackets, taken = brackets.replace(b"{}", b""), taken + 1
    return bool(brackets)


_NO_MARKS = bytes(set(range(256)) - set(b'":[]{}'))
_ONE_KIND = bytes.maketrans(b"[]", b"{}")
