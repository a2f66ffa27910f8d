"""Parameters of a computation: fixed by the policy, or left to the task within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from policy.problems import Unfit
from policy.text import identifier_fault

T = TypeVar("T")
CHOICES_CAP = 256  # values that a task may choose from
ENTRIES_CAP = 4096  # of a list; a dataset has as many columns at most
Value = bool | int | float | str | tuple[Any, ...]  # tuples hold scalars of one kind


@dataclass(frozen=True, slots=True)
class Fixed:
    """The policy gives the value; a task cannot set it."""

    value: Value

    def values(self) -> tuple[Value, ...]:
        return (self.value,)


@dataclass(frozen=True, slots=True)
class Choice:
    """The task chooses one of these; the type must be equal too."""

    choose: tuple[Value, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.choose))

    def allows(self, value: Value) -> bool:
        return any(same(value, option) for option in self.choose)

    def values(self) -> tuple[Value, ...]:
        return self.choose


@dataclass(frozen=True, slots=True)
class Range:
    """The task gives a number between these, both included; an integer if both are integers."""

    min: int | float
    max: int | float

    def __str__(self) -> str:
        kind = "an integer " if type(self.min) is type(self.max) is int else ""
        return f"{kind}between {self.min} and {self.max}"

    def allows(self, value: Value) -> bool:
        kinds = (int,) if type(self.min) is type(self.max) is int else (int, float)
        return type(value) in kinds and self.min <= value <= self.max  # type: ignore[operator]

    def values(self) -> tuple[Value, ...]:
        return ()


Parameter = Fixed | Choice | Range


def same(left: Value, right: Value) -> bool:
    """Equal in value and in kind: True is not 1, and 1 is not 1.0."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def _by_kind(value: Value) -> tuple[Any, ...]:
    """Equal for values that are the `same`; a list has values of one kind."""
    return (type(value), type(value[0]) if isinstance(value, tuple) else None, value)


def read_table(value: Any, read: Callable[[str, Any], T]) -> dict[str, T]:
    """A table of parameters by name, each read by `read`. Raises: Unfit."""
    if not isinstance(value, dict) or len(value) > 64:
        raise Unfit("a table of at most 64 parameters", "another value")
    for name in value:
        if fault := identifier_fault(name):
            raise Unfit(f"parameter names of {fault[0]}", fault[1])
    return {name: read(name, entry) for name, entry in value.items()}


def parse_parameter(name: str, value: Any) -> Parameter:
    """One entry of `parameters`. Raises: Unfit."""
    if not isinstance(value, dict):
        return Fixed(as_value(name, value))
    if set(value) == {"choose"}:
        options = value["choose"]
        if not isinstance(options, list) or not 1 <= len(options) <= CHOICES_CAP:
            raise Unfit(f"{name}.choose of 1 to {CHOICES_CAP} values", "none, or more")
        chosen = tuple(as_value(name, option) for option in options)
        if len(set(map(_by_kind, chosen))) < len(chosen):
            raise Unfit(f"{name}.choose with each value once", "one twice")
        return Choice(chosen)
    if set(value) == {"min", "max"}:
        low, high = value["min"], value["max"]
        if type(low) not in (int, float) or type(high) not in (int, float) or low > high:
            raise Unfit(f"{name}.min and {name}.max as numbers, min not above max", "other")
        return Range(low, high)
    raise Unfit(
        f"{name} as a value, {{ choose = [..] }} or {{ min = , max = }}", f"{sorted(value)[:4]}"
    )


def as_value(name: str, value: Any) -> Value:
    """A scalar or a list of scalars of one kind. Raises: Unfit."""
    if isinstance(value, list | tuple):
        entries = tuple(value)
        if not 1 <= len(entries) <= ENTRIES_CAP:
            raise Unfit(f"{name} as a list of 1 to {ENTRIES_CAP} values", "none, or more")
        if any(type(e) not in (int, float, str) for e in entries):
            raise Unfit(f"{name} as a list of numbers or texts", "another list")
        if len({type(e) for e in entries}) > 1:
            raise Unfit(f"{name} as a list of one kind", "a mixed list")
        return entries
    if type(value) in (bool, int, float, str):
        return value  # type: ignore[no-any-return]
    raise Unfit(f"{name} as a number, text, truth value or list", type(value).__name__)


def plain(values: Mapping[str, Value]) -> dict[str, Any]:
    """For JSON and display: tuples as lists."""
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
