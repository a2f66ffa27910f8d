"""What tables of a policy and signed documents have in common: strict types, and ids as fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

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
