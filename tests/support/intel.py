"""A valid world in one line: an Intel, one of its platforms, and the verifier that judges both.

    world = World.create()
    world.verify()  # UpToDate
    world.verify(quote=world.quote(header=lambda h: replace(h, version=4)))
    World.create(platform_ca=lambda c: c.named("Some CA")).verify()

The last two have one thing wrong each; all the hooks are those of `simulation.intel`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from simulation.intel import Intel
from simulation.platform import Platform
from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.verify import VerifiedQuote, verify_quote

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
_AUTHORITIES = {"root", "processor_ca", "platform_ca", "tcb_signer"}


@dataclass(frozen=True, slots=True)
class World:
    """One Intel, one platform, one instant. What `verify` is not given is genuine."""

    intel: Intel
    platform: Platform
    at: datetime = AT

    @classmethod
    def create(cls, at: datetime = AT, **altered: Any) -> World:
        """Hooks of `Intel.create` and `Intel.platform`, by their names there."""
        authorities = {name: altered.pop(name) for name in _AUTHORITIES & altered.keys()}
        intel = Intel.create(at, **authorities)
        return cls(intel, intel.platform(**altered), at)

    def with_platform(self, **altered: Any) -> World:
        """Another platform of the same Intel; arguments of `Intel.platform`."""
        return replace(self, platform=self.intel.platform(**altered))

    def quote(self, report_data: bytes = REPORT_DATA, **altered: Any) -> bytes:
        """A quote of the platform; arguments of `Platform.quote`."""
        return self.platform.quote(report_data, **altered)

    def collateral(self, **altered: Any) -> Collateral:
        """Parsed collateral of the platform; arguments of `Intel.collateral`."""
        return Collateral.parse(self.intel.collateral(self.platform, **altered))

    def verify(
        self,
        *,
        quote: bytes | None = None,
        collateral: Collateral | None = None,
        roots: TrustAnchors | None = None,
        at: datetime | None = None,
    ) -> VerifiedQuote:
        """Ask the real verifier about the genuine world, but for what is given here."""
        return verify_quote(
            self.quote() if quote is None else quote,
            collateral or self.collateral(),
            roots=roots or self.intel.anchors(),
            at=at or self.at,
        )
