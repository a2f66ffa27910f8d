"""What is asked of both verifiers, and what each of them says."""

from __future__ import annotations

from dataclasses import dataclass

from verifier.anchors import TrustAnchors
from verifier.verify import VerifiedQuote


@dataclass(frozen=True, slots=True)
class Root:
    """The root that both believe: its DER for the other verifier, None for its built-in one."""

    anchors: TrustAnchors
    der: bytes | None


@dataclass(frozen=True, slots=True)
class Question:
    """Is this quote good, by this collateral (a bundle, JSON), under this root, then?"""

    quote: bytes
    bundle: bytes
    root: Root
    at: int  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Answer:
    """Accepted, with a TCB status, or not, with a reason: our code or their text."""

    accepted: bool
    reason: str
    advisories: frozenset[str] = frozenset()
    verified: VerifiedQuote | None = None  #  ours alone
    crashed: bool = False

    @property
    def verdict(self) -> tuple[str, frozenset[str]]:
        return self.reason, self.advisories
