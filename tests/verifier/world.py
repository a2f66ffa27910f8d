"""What the verifier's tests alter: the shared worlds, and hooks for members of documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from simulation.documents import tcb_level
from tests.support.intel import AT, World
from tests.support.refusal import refused
from verifier import Collateral, VerifiedQuote
from verifier.errors import RatlsError

__all__ = [
    "AT",
    "DATE",
    "World",
    "bites",
    "drop",
    "extended",
    "judge_pck",
    "judge_quote",
    "keeping",
    "processor_world",
    "put",
    "stored_crl",
    "with_",
    "with_status",
    "world",
]

T = TypeVar("T")
Hook = Callable[[Any], Any]
DATE = datetime(2026, 6, 1, tzinfo=UTC)  # of the levels that tests write


@cache
def world() -> World:
    """The unaltered one, on a platform of the Platform CA."""
    return World.create()


@cache
def processor_world() -> World:
    """The unaltered one, on a platform of the Processor CA."""
    return World.create(processor=True)


def bites(
    judge: Callable[[T], object],
    good: T,
    bad: T,
    leaf: type[RatlsError],
    *,
    check: str | None = None,
) -> None:
    """One check by itself: the good one passes, and the bad one, altered in one thing, does not."""
    judge(good)
    with refused(leaf, check=check):
        judge(bad)


def judge_quote(quote: bytes) -> VerifiedQuote:
    """A quote in the unaltered world."""
    return world().verify(quote=quote)


def judge_pck(hook: Hook) -> VerifiedQuote:
    """A quote of a platform whose PCK certificate is altered."""
    return world().with_platform(pck=hook).verify()


def with_(**fields: object) -> Hook:
    """A hook that replaces fields of a form."""
    return lambda form: replace(form, **fields)


def extended(value: Any, *, critical: bool = False) -> Hook:
    """A hook that gives a certificate or a list this extension."""
    return lambda form: form.extended(value, critical=critical)


def keeping(kept: list[T]) -> Callable[[T], T]:
    """A hook that alters nothing; the form is kept, to be issued again with other fields."""

    def hook(form: T) -> T:
        kept.append(form)
        return form

    return hook


def stored_crl(write: Callable[[bytes], str]) -> Collateral:
    """The unaltered collateral, its list of PCK certificates written in another way."""
    hook: Hook = lambda b: {**b, "pck_crl": write(bytes.fromhex(b["pck_crl"]))}  # noqa: E731
    return world().collateral(bundle=hook)


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
