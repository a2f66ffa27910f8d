"""Fields of a fixed layout, cut out of its bytes where they are asked for.

    @dataclass(frozen=True, slots=True)
    class Report:
        raw: bytes  # its size is checked where it is made
        isv_svn = Integer(258, 2)

The table of offsets is written once, in the class, and reads like the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class HasRaw(Protocol):
    """Something that holds its bytes."""

    @property
    def raw(self) -> bytes: ...


class Octets:
    """`size` bytes at offset `at`, in the order of the wire."""

    __slots__ = ("_part",)

    def __init__(self, at: int, size: int) -> None:
        self._part = slice(at, at + size)

    def __get__(self, holder: HasRaw, owner: object = None) -> bytes:
        return holder.raw[self._part]


class Integer:
    """A little-endian unsigned integer of `size` bytes at offset `at`."""

    __slots__ = ("_part",)

    def __init__(self, at: int, size: int) -> None:
        self._part = slice(at, at + size)

    def __get__(self, holder: HasRaw, owner: object = None) -> int:
        return int.from_bytes(holder.raw[self._part], "little")


class Typed(Generic[T]):
    """`size` bytes at offset `at`, as a type of their own."""

    __slots__ = ("_kind", "_part")

    def __init__(self, at: int, size: int, kind: Callable[[bytes], T]) -> None:
        self._part, self._kind = slice(at, at + size), kind

    def __get__(self, holder: HasRaw, owner: object = None) -> T:
        return self._kind(holder.raw[self._part])
