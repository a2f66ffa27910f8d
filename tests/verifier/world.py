"""What the verifier's tests alter: the shared worlds, and hooks for members of documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from simulation.documents import tcb_level
from tests.support.intel import AT, World
from verifier import VerifiedQuote

__all__ = ["AT", "DATE", "World", "drop", "processor_world", "put", "with_status", "world"]

DATE = datetime(2026, 6, 1, tzinfo=UTC)  # of the levels that tests write


@cache
def world() -> World:
    """The unaltered one, on a platform of the Platform CA."""
    return World.create()


@cache
def processor_world() -> World:
    """The unaltered one, on a platform of the Processor CA."""
    return World.create(processor=True)


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
