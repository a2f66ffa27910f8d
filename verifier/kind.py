"""Kinds of platforms: one bundle of collateral is for one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from verifier.certificate import PLATFORM_CA, Certificate
from verifier.quote import Tee


@dataclass(frozen=True, slots=True)
class PlatformKind:
    """What collateral a platform needs; a request for it contains no more than this."""

    tee: Tee
    fmspc: bytes  #  6
    ca: str  #       `platform` or `processor`: which of Intel's authorities issued its PCK

    @classmethod
    def of(cls, tee: Tee, fmspc: bytes, authority: Certificate) -> Self:
        """The kind whose PCK certificates this authority issues."""
        ca = "platform" if authority.common_name == PLATFORM_CA else "processor"
        return cls(tee, fmspc, ca)

    def __str__(self) -> str:
        return f"{self.tee} {self.fmspc.hex()} {self.ca}"
