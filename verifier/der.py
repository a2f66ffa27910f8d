"""A strict DER reader: definite lengths, minimal encodings, nothing left over.

An element is its encoding: tag, length and content, as bytes. What is inside is read, and held to
the rules, where it is asked for. The reader goes exactly as deep as its caller asks and never
recurses, so nesting cannot exhaust it. Callers translate `DerError` into the refusal of the thing
that they read. The rules of DER are those of X.690, sections 10 and 11.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, ENUMERATED = 1, 2, 3, 4, 6, 10
UTF8_STRING, PRINTABLE_STRING, SEQUENCE, SET = 12, 19, 0x30, 0x31
UTC_TIME, GENERALIZED_TIME = 23, 24
_TIME = re.compile(rb"(\x17\x0d[0-9]{12}Z)|\x18\x0f[0-9]{14}Z")


class DerError(ValueError):
    """Not DER, or not of the expected type."""


def elements(data: bytes, tag: int | None = None) -> list[bytes]:
    """All elements that follow each other in `data`, which they must fill.

    Given a tag, all must have it, and what is inside each is returned.
    """
    found, at, end = [], 0, len(data)
    try:
        while at < end:
            start, found_tag, size = at, data[at], data[at + 1]
            at += 2
            if size >= 0x80:
                size, at = _long_size(data, size & 0x7F, at)
            if tag is not None:
                start = at
                if found_tag != tag:
                    raise _another_tag(tag, found_tag)
            elif found_tag & 0x1F == 0x1F:
                raise DerError("tag of more than one byte")
            at += size
            found.append(data[start:at])
    except IndexError:
        raise DerError("element is cut off") from None
    if at != end:  # a slice past the end is shortened silently
        raise DerError("content is cut off")
    return found


def content(element: bytes, tag: int) -> bytes:
    """What is inside, if this is one element, with this tag, and nothing behind it."""
    end = len(element)
    if end < 2:
        raise DerError("element is cut off")
    if element[0] != tag:
        raise _another_tag(tag, element[0])
    size, at = element[1], 2
    if size >= 0x80:
        size, at = _long_size(element, size & 0x7F, at)
    if at + size != end:
        raise DerError(f"{at + size} bytes expected, {end} found")
    return element[at:]


def _another_tag(expected: int, found: int) -> DerError:
    return DerError(f"tag 0x{expected:02x} expected, 0x{found:02x} found")


def children(element: bytes, tag: int = SEQUENCE) -> list[bytes]:
    """The elements inside one that has this tag."""
    return elements(content(element, tag))


def contents(element: bytes, tag: int) -> list[bytes]:
    """What is inside each element of a SEQUENCE, all of which have this tag."""
    return elements(content(element, SEQUENCE), tag)


def _long_size(data: bytes, width: int, at: int) -> tuple[int, int]:
    """A length of `width` bytes at offset `at`, and the offset after it (X.690, section 10.1)."""
    if not 1 <= width <= 3:  # none is the indefinite form; no certificate needs 16 MiB
        raise DerError("length is indefinite or too long")
    end = at + width
    size = int.from_bytes(data[at:end], "big")
    # One that is cut off is too small as well.
    if size < _LEAST[width]:
        raise DerError("length is cut off or not minimal")
    return size, end


_LEAST = (0, 0x80, 0x100, 0x10000)  # what a length of so many bytes must say, to need them


def integer(element: bytes, *, high: int, low: int = 0, tag: int = INTEGER) -> int:
    """A minimal INTEGER (or ENUMERATED) from `low` to `high` (X.690, section 8.3.2)."""
    octets = content(element, tag)
    if not octets or (len(octets) > 1 and octets[0] == 0 and octets[1] < 0x80):
        raise DerError("integer is empty or not minimal")
    value = int.from_bytes(octets, "big", signed=True)
    if not low <= value <= high:
        raise DerError(f"integer from {low} to {high} expected")
    return value


def boolean(element: bytes) -> bool:
    """A BOOLEAN: exactly 0x00 or 0xff (X.690, section 11.1)."""
    octets = content(element, BOOLEAN)
    if octets not in (b"\x00", b"\xff"):
        raise DerError("boolean is neither 00 nor ff")
    return octets == b"\xff"


def octet_string(element: bytes, size: int) -> bytes:
    """An OCTET STRING of exactly `size` bytes."""
    octets = content(element, OCTET_STRING)
    if len(octets) != size:
        raise DerError(f"{size} octets expected, {len(octets)} found")
    return octets


@lru_cache(maxsize=256)  # pure: certificates of one hierarchy share their dates
def time(element: bytes) -> datetime:
    """A UTCTime or GeneralizedTime in the one form of DER: to the second, in UTC.

    X.690, section 11.7 and section 11.8; RFC 5280, section 4.1.2.5.
    """
    match = _TIME.fullmatch(element)
    if match is None:
        raise DerError("not a time, or not in the form of DER")
    text = element[2:].decode("ascii")
    if match[1]:  # two digits of the year, 1950 to 2049: RFC 5280, section 4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    try:
        return datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
    except ValueError as error:
        raise DerError("a time that does not exist") from error


def bit_string(element: bytes) -> bytes:
    """The bytes of a BIT STRING, whose unused bits are zero (X.690, section 11.2.1)."""
    octets = content(element, BIT_STRING)
    if not octets or octets[0] > 7 or (octets[0] and not octets[1:]):
        raise DerError("bit string is cut off")
    if octets[0] and octets[-1] & ((1 << octets[0]) - 1):
        raise DerError("bit string with unused bits that are set")
    return octets[1:]


def true(element: bytes) -> bool:
    """A BOOLEAN that DER would leave out if it were false (X.690, section 11.5)."""
    if not boolean(element):
        raise DerError("false is written as absence")
    return True
