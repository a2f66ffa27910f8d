"""Strict CBOR: the few types that this project uses, in one form each.

    decode(encode({"type": "hello"})) == {"type": "hello"}

General decoders accept duplicate keys (the last wins), trailing bytes, indefinite and over-long
lengths, and build dates and bignums on demand (measured with cbor2 6.3): two readers of one
message could then disagree. Here every value has exactly one encoding except for the order of map
keys, which `encode` fixes and `decode` leaves free: RFC 8949, section 4.2.1 and RFC 8949, section
5.6; docs/channel.md 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import cbor2

Tagged = cbor2.CBORTag  # a tag and its content: RFC 8949, section 3.4
Value: TypeAlias = "int | bytes | str | list[Value] | dict[str, Value] | Tagged"
MAX_DEPTH = 4
MAX_ITEMS = 4096  # strings, numbers and containers of one input; a message has some tens


class NotStrict(ValueError):
    """These bytes are not one strict item. Callers translate it to their own refusal."""


def encode(value: Value) -> bytes:
    """Deterministic encoding: shortest lengths, keys ordered by length and then by bytes.

    The order is that of RFC 8949, section 4.2.3.
    """
    return cbor2.dumps(value, canonical=True)


def decode(raw: bytes) -> Value:
    """Read exactly one item: unsigned, bytes, text, array, map with text keys; a tag only
    around the whole.

    Raises:
        NotStrict: Another type, another form, deeper than MAX_DEPTH, more than MAX_ITEMS, or
            bytes left over.
    """
    value, end = _item(raw, 0, MAX_DEPTH, iter(range(MAX_ITEMS)))
    if end != len(raw):
        raise NotStrict(f"{len(raw) - end} bytes after the item")
    return value


def _head(raw: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument in its shortest form, and where the head ends (RFC 8949, section 3)."""
    if at >= len(raw):
        raise NotStrict(f"end of input at byte {at}")
    major, info = raw[at] >> 5, raw[at] & 0x1F
    if info < 24:
        return major, info, at + 1
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info)
    if size is None or at + 1 + size > len(raw):
        raise NotStrict(f"indefinite or cut head at byte {at}")  # RFC 8949, section 3.2
    argument = int.from_bytes(raw[at + 1 : at + 1 + size], "big")
    # Half the range of each width belongs to the next shorter one.
    if argument < (24 if size == 1 else 1 << (8 * size // 2)):
        raise NotStrict(f"over-long head at byte {at}")
    return major, argument, at + 1 + size


def _item(raw: bytes, at: int, depth: int, budget: Iterator[int]) -> tuple[Value, int]:
    if depth == 0:
        raise NotStrict("nested too deeply")
    # Each byte may be an item, and each takes a microsecond: 64 MB would take a minute.
    if next(budget, None) is None:
        raise NotStrict(f"more than {MAX_ITEMS} items")
    major, argument, at = _head(raw, at)
    if major == 0:
        return argument, at
    if major in (2, 3):
        return _string(raw, at, argument, text=major == 3)
    # An element takes at least a byte: a count beyond the input is refused before any loop.
    if major in (4, 5) and argument > len(raw) - at:
        raise NotStrict("more elements than bytes")
    if major == 4:
        items: list[Value] = []
        for _ in range(argument):
            item, at = _item(raw, at, depth - 1, budget)
            items.append(item)
        return items, at
    if major == 5:
        return _map(raw, at, argument, depth, budget)
    if major == 6 and depth == MAX_DEPTH:  # only the whole may have a tag
        content, at = _item(raw, at, depth - 1, budget)
        return Tagged(argument, content), at
    raise NotStrict(f"type {major} is not used here")


def _string(raw: bytes, at: int, size: int, *, text: bool) -> tuple[Value, int]:
    if size > len(raw) - at:
        raise NotStrict(f"string of {size} bytes, {len(raw) - at} there")
    content = raw[at : at + size]
    if not text:
        return content, at + size
    try:
        return content.decode("utf-8"), at + size
    except UnicodeDecodeError as error:
        raise NotStrict("text is not UTF-8") from error  # RFC 8949, section 3.1


def _map(raw: bytes, at: int, count: int, depth: int, budget: Iterator[int]) -> tuple[Value, int]:
    pairs: dict[str, Value] = {}
    for _ in range(count):
        key, at = _item(raw, at, depth - 1, budget)
        if not isinstance(key, str):
            raise NotStrict("a key is not text")
        if key in pairs:
            raise NotStrict(f"key {key[:40]!r} twice")
        pairs[key], at = _item(raw, at, depth - 1, budget)
    return pairs, at
