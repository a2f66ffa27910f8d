"""A strict DER reader for what is looked at byte by byte: definite, minimal, nothing left over.

It goes exactly as deep as its caller asks and never recurses, so nesting cannot exhaust it.
Callers translate `DerError` into the refusal of the thing that they read.
"""

from __future__ import annotations

from typing import NamedTuple

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, ENUMERATED = 1, 2, 3, 4, 6, 10
UTF8_STRING, PRINTABLE_STRING, SEQUENCE, SET = 12, 19, 0x30, 0x31


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


def elements(data: bytes) -> list[Element]:
    """All elements that follow each other in `data`, which they must fill."""
    found, at = [], 0
    while at < len(data):
        element = _element(data, at)
        found.append(element)
        at += len(element.raw)
    return found


def only(data: bytes) -> Element:
    """The one element that fills `data`."""
    element = _element(data, 0)
    if len(element.raw) != len(data):
        raise DerError(f"{len(data) - len(element.raw)} bytes follow the element")
    return element


def _element(data: bytes, start: int) -> Element:
    header = data[start : start + 2]
    if len(header) < 2:
        raise DerError("element is cut off")
    tag, size, at = header[0], header[1], start + 2
    if tag & 0x1F == 0x1F:
        raise DerError("tag of more than one byte")
    if size >= 0x80:
        width = size & 0x7F
        if not 1 <= width <= 3:  # 0x80 is the indefinite form; no certificate needs 16 MiB
            raise DerError("length is indefinite or too long")
        octets = data[at : at + width]
        size, at = int.from_bytes(octets, "big"), at + width
        if len(octets) < width or size < 0x80 or octets[0] == 0:
            raise DerError("length is cut off or not minimal")
    if at + size > len(data):
        raise DerError("content is cut off")
    return Element(tag, data[at : at + size], data[start : at + size])


def integer(element: Element, *, high: int, tag: int = INTEGER) -> int:
    """A minimal INTEGER (or ENUMERATED) from 0 to `high`."""
    content = element.expect(tag)
    if not content or (len(content) > 1 and content[0] == 0 and content[1] < 0x80):
        raise DerError("integer is empty or not minimal")
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value <= high:
        raise DerError(f"integer from 0 to {high} expected")
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
