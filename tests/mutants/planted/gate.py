"""A gate that lets visitors through; `gate_checks` tests some of what it asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Never, Self


class Stopped(Exception):
    """Not let through."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody at the gate."""

    name: str
    age: int
    ticket: int

    def __post_init__(self) -> None:
        if not self.name:
            raise Stopped("no name")

    @classmethod
    def of(cls, text: str) -> Self:
        name, age, ticket = text.split(",")
        if not age.isdecimal() or not ticket.isdecimal():
            raise Stopped("no number")
        return cls(name, int(age), int(ticket))

    @property
    def adult(self) -> bool:
        return self.age >= 18 and self.age < 120

    @staticmethod
    def refuse(why: str) -> Never:
        raise Stopped(why)


@contextmanager
def opened(visitor: Visitor) -> Iterator[None]:
    if not visitor.adult:
        Visitor.refuse("a child")
    yield


@lru_cache(maxsize=8)
def ticket_of(visitor: Visitor) -> int:
    if not 0 < visitor.ticket < 1000:
        raise Stopped("ticket")
    return visitor.ticket


def require_listed(visitor: Visitor, name: str, ticket: int) -> None:
    for field, expected, found in (
        ("name", name, visitor.name),
        ("ticket", ticket, visitor.ticket),
    ):
        if expected != found:
            raise Stopped(field)


def enter(text: str, name: str = "Ada", ticket: int = 7) -> int:
    visitor = Visitor.of(text)
    require_listed(visitor, name, ticket)
    with opened(visitor):
        return ticket_of(visitor)
