"""A strict DER reader for what is looked at byte by byte: definite, minimal, nothing left over.

It goes exactly as deep as its caller asks and never recurses, so nesting cannot exhaust it.
Callers translate `DerError` into the refusal of the thing that they read.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, ENUMERATED = 1, 2, 3, 4, 6, 10
UTF8_STRING, PRINTABLE_STRING, SEQUENCE, SET = 12, 19, 0x30, 0x31
UTC_TIME, GENERALIZED_TIME = 23, 24
_TIME = {
    UTC_TIME: re.compile(rb"([0-9]{2})[0-9]{10}Z"),
    GENERALIZED_TIME: re.compile(rb"[0-9]{14}Z"),
}


class DerError(ValueError):
    """Not DER, or not of the expected type."""


class Element(NamedTuple):
    """One element: tag, content, and the whole encoding."""

    tag: int
    content: bytes
    raw: bytes

    def expect(self, tag: int) -> bytes:
        """The content, if the tag is this one."""
        if self.tag != tag:
            raise DerError(f"tag 0x{tag:02x} expected, 0x{self.tag:02x} found")
        return self.content

    def children(self, tag: int = SEQUENCE) -> list[Element]:
        """The elements inside, if the tag is this one."""
        return elements(self.expect(tag))


# Directly: certificates have hundreds of elements, and the generated constructor costs as much
# as reading one does.
_element = tuple.__new__


def elements(data: bytes) -> list[Element]:
    """All elements that follow each other in `data`, which they must fill."""
    found, at, end = [], 0, len(data)
    while at < end:
        start, at = at, at + 2
        if at > end:
            raise DerError("element is cut off")
        tag, size = data[start], data[start + 1]
        if tag & 0x1F == 0x1F:
            raise DerError("tag of more than one byte")
        if size >= 0x80:
            size, at = _long_size(data, size & 0x7F, at)
        stop = at + size
        if stop > end:
            raise DerError("content is cut off")
        found.append(_element(Element, (tag, data[at:stop], data[start:stop])))
        at = stop
    return found


def only(data: bytes) -> Element:
    """The one element that fills `data`."""
    found = elements(data)
    if len(found) != 1:
        raise DerError(f"{len(found)} elements where one was expected")
    return found[0]


def _long_size(data: bytes, width: int, at: int) -> tuple[int, int]:
    """A length of `width` bytes at offset `at`, and the offset after it."""
    if not 1 <= width <= 3:  # none is the indefinite form; no certificate needs 16 MiB
        raise DerError("length is indefinite or too long")
    octets = data[at : at + width]
    size = int.from_bytes(octets, "big")
    if len(octets) < width or size < 0x80 or octets[0] == 0:
        raise DerError("length is cut off or not minimal")
    return size, at + width


def integer(element: Element, *, high: int, low: int = 0, tag: int = INTEGER) -> int:
    """A minimal INTEGER (or ENUMERATED) from `low` to `high`."""
    content = element.expect(tag)
    if not content or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise DerError("integer is empty or not minimal")
    value = int.from_bytes(content, "big", signed=True)
    if not low <= value <= high:
        raise DerError(f"integer from {low} to {high} expected")
    return value


def boolean(element: Element) -> bool:
    """A BOOLEAN: exactly 0x00 or 0xff."""
    content = element.expect(BOOLEAN)
    if content not in (b"\x00", b"\xff"):
        raise DerError("boolean is neither 00 nor ff")
    return content == b"\xff"


def octets(element: Element, size: int) -> bytes:
    """An OCTET STRING of exactly `size` bytes."""
    content = element.expect(OCTET_STRING)
    if len(content) != size:
        raise DerError(f"{size} octets expected, {len(content)} found")
    return content


def time(element: Element) -> datetime:
    """A UTCTime or GeneralizedTime in the one form of DER: to the second, in UTC."""
    return _instant(element.tag, element.content)


@lru_cache(maxsize=256)  # pure: certificates of one hierarchy share their dates
def _instant(tag: int, content: bytes) -> datetime:
    form = _TIME.get(tag)
    match = form.fullmatch(content) if form else None
    if match is None:
        raise DerError("not a time, or not in the form of DER")
    text = content.decode("ascii")
    if tag == UTC_TIME:  # two digits of the year, 1950 to 2049 (RFC 5280)
        text = ("19" if text >= "50" else "20") + text
    try:
        return datetime.fromisoformat(f"{text[:8]}T{text[8:14]}+00:00")
    except ValueError as error:
        raise DerError("a time that does not exist") from error


def bits(element: Element) -> bytes:
    """The bytes of a BIT STRING, whose unused bits at the end are zero."""
    content = element.expect(BIT_STRING)
    if not content or content[0] > 7 or (content[0] and not content[1:]):
        raise DerError("bit string is cut off")
    if content[0] and content[-1] & ((1 << content[0]) - 1):
        raise DerError("bit string with unused bits that are set")
    return content[1:]


def true(element: Element) -> bool:
    """A BOOLEAN that DER would leave out if it were false."""
    if not boolean(element):
        raise DerError("false is written as absence")
    return True
