"""What tables of a policy and signed documents have in common: strict types, and ids as fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from policy.problems import Unfit
from policy.text import Fault, identifier_fault, slug_fault


class Strict(BaseModel):
    """Strict types, no unknown field, never changed."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True
    )


def faultless(fault: Callable[[str], Fault | None], what: str = "") -> AfterValidator:
    """A validator of texts in which `fault` finds none; `what` begins its sentence."""

    def check(text: str) -> str:
        if found := fault(text):
            raise Unfit(what + found[0], found[1])
        return text

    return AfterValidator(check)


Slug = Annotated[str, faultless(slug_fault)]
Identifier = Annotated[str, faultless(identifier_fault)]


def _hexadecimal(size: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text) != 2 * size or set(text) - set("0123456789abcdef"):
            raise Unfit(f"{2 * size} lower-case hex digits", f"{text[:80]!r}")
        return text

    return check


def not_zero(text: str) -> str:
    """A measurement of nothing names nothing."""
    if not text.strip("0"):
        raise Unfit("a value that is not all zero", "zero")
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """No entry stands in the list twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise Unfit("each entry once", f"{value!r} twice")
        seen.add(value)
    return values


def little_endian(text: str) -> int:
    """The number in a hex text with the lowest byte first, as in a quote."""
    return int.from_bytes(bytes.fromhex(text), "little")


hex48 = _hexadecimal(48)
Hex4 = Annotated[str, AfterValidator(_hexadecimal(4))]
Hex6 = Annotated[str, AfterValidator(_hexadecimal(6))]
Hex8 = Annotated[str, AfterValidator(_hexadecimal(8))]
Hex16 = Annotated[str, AfterValidator(_hexadecimal(16))]
Hex32 = Annotated[str, AfterValidator(_hexadecimal(32)), AfterValidator(not_zero)]
Hex48OrZero = Annotated[str, AfterValidator(hex48)]
Hex48 = Annotated[str, AfterValidator(hex48), AfterValidator(not_zero)]


# `strict=False` lets a TOML array become a tuple; its entries are still read strictly.
def at_most(count: int) -> BeforeValidator:
    """A validator of the length of a list or table, before its entries are looked at (P24)."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple | dict) and len(value) > count:
            raise Unfit(f"at most {count} entries", str(len(value)))
        return value

    return BeforeValidator(check)


LIST_CAP = 256
ONE_OR_MORE = (
    Field(strict=False, min_length=1),
    AfterValidator(distinct),
    at_most(LIST_CAP),
)
