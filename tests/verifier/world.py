"""A valid world in which a test changes one thing: an Intel, a platform, an instant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import shake_256
from itertools import count
from typing import Any

from simulation.documents import tcb_level
from simulation.intel import Intel, Platform
from verifier import Collateral, TrustAnchors, VerifiedQuote, verify_quote

AT = datetime(2030, 6, 15, 12, tzinfo=UTC)
DATE = datetime(2030, 1, 1, tzinfo=UTC)  # of the levels that tests write
_counter = count()


def not_random(size: int) -> bytes:
    """Other bytes at each call, the same ones in each run."""
    return shake_256(b"tests/verifier %d" % next(_counter)).digest(size)


@dataclass(frozen=True)
class World:
    """Intel and one platform, with what they would publish and say."""

    intel: Intel
    platform: Platform
    at: datetime = AT

    @classmethod
    def create(cls, *, platform: dict[str, Any] | None = None, **intel: Any) -> World:
        """Each keyword is a hook of `Intel.create`; `platform` holds those of `Intel.platform`."""
        made = Intel.create(AT, random=not_random, **intel)
        return cls(made, made.platform(**(platform or {})))

    def quote(self, **altered: Any) -> bytes:
        return self.platform.quote(bytes(range(64)), **altered)

    def collateral(self, **altered: Any) -> Collateral:
        return Collateral.parse(self.intel.collateral(self.platform, **altered))

    def verify(
        self,
        *,
        quote: bytes | None = None,
        collateral: Collateral | None = None,
        roots: TrustAnchors | None = None,
        at: datetime | None = None,
    ) -> VerifiedQuote:
        return verify_quote(
            self.quote() if quote is None else quote,
            collateral or self.collateral(),
            roots=roots or self.intel.anchors(),
            at=at or self.at,
        )


@cache
def world() -> World:
    """The unaltered one, on a platform of the Platform CA."""
    return World.create()


@cache
def processor_world() -> World:
    """The unaltered one, on a platform of the Processor CA."""
    return World.create(platform={"processor": True})


def put(**members: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A hook that sets members of a document."""
    return lambda document: {**document, **members}


def drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A hook that removes one member of a document."""
    return lambda document: {k: v for k, v in document.items() if k != name}


def with_status(status: str, advisories: Sequence[str] = ()) -> VerifiedQuote:
    """A verified quote of a platform at a level with this status and these advisories."""
    tcb = world().platform.tcb
    level = tcb_level(tcb.components, tcb.pce_svn, date=DATE, status=status, advisories=advisories)
    return world().verify(collateral=world().collateral(tcb_info=put(tcbLevels=[level])))
