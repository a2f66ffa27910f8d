"""What is remembered from one quote to the next is judged anew for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import _lru_cache_wrapper
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import verifier
from tests.support.refusal import refused
from tests.verifier.world import AT, World
from verifier import Collateral
from verifier.acceptance import TcbRevoked, accept
from verifier.certificate import Certificate, RootUntrusted
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.contents import authenticate_contents
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError
from verifier.pck import authenticate_pck_chain
from verifier.qe import QeReportSignatureInvalid, QuoteSignatureInvalid
from verifier.validity import CollateralNotCurrent

DAY = timedelta(days=1)


@pytest.fixture
def warm() -> tuple[World, Collateral]:
    """A platform that was found genuine, and everything about it remembered."""
    world = World.create()
    collateral = world.collateral()
    world.verify(collateral=collateral)
    before = authenticate_contents.cache_info().hits
    world.verify(collateral=collateral)
    assert authenticate_contents.cache_info().hits == before + 1
    return world, collateral


def test_what_has_expired_meanwhile(warm: tuple[World, Collateral]) -> None:
    """T08: the same bytes, a month later; and once more at the time when they held."""
    world, collateral = warm
    with refused(CollateralNotCurrent, check="validity"):
        world.verify(collateral=collateral, at=AT + 31 * DAY)
    world.verify(collateral=collateral, at=AT + 29 * DAY)


SERIALS: dict[str, Callable[[World], tuple[str, int]]] = {
    "leaf": lambda world: ("pck_crl", world.platform.pck.serial),
    "authority": lambda world: ("root_crl", world.platform.ca.serial),
    "tcb-signer": lambda world: ("root_crl", world.intel.tcb_signer.serial),
    "root": lambda world: ("root_crl", world.intel.root.serial),
}


@pytest.mark.parametrize("which", SERIALS)
def test_what_was_revoked_meanwhile(warm: tuple[World, Collateral], which: str) -> None:
    """T12: the next list names what was believed a moment ago; the list before still does not."""
    world, collateral = warm
    crl, serial = SERIALS[which](world)
    later = world.collateral(**{crl: lambda form: replace(form, revoked=(serial,))})
    with refused(CertificateRevoked):
        world.verify(collateral=later)
    world.verify(collateral=collateral)
    with refused(CertificateRevoked):
        world.verify(collateral=later)


def test_level_that_was_revoked_meanwhile(warm: tuple[World, Collateral]) -> None:
    """T13: the next TCB info revokes the level that this platform has."""
    world, collateral = warm

    def revoke(document: dict[str, list[dict[str, object]]]) -> dict[str, object]:
        newest, *older = document["tcbLevels"]
        return {**document, "tcbLevels": [{**newest, "tcbStatus": "Revoked"}, *older]}

    accept(world.verify(collateral=collateral))
    with refused(TcbRevoked, check="tcb-status"):
        accept(world.verify(collateral=world.collateral(tcb_info=revoke)))
    accept(world.verify(collateral=collateral))


def test_another_root_remembers_nothing(warm: tuple[World, Collateral]) -> None:
    """X05: what holds under one root says nothing under another."""
    world, collateral = warm
    with refused(RootUntrusted, check="pck-chain"):
        world.verify(collateral=collateral, roots=World.create().intel.anchors())
    world.verify(collateral=collateral)


def test_what_did_not_hold_is_not_remembered(warm: tuple[World, Collateral]) -> None:
    """A refusal is worked out anew each time: there is no list of verdicts to poison or to fill."""
    world, _ = warm
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = world.collateral(tcb_info_key=stranger)
    before = authenticate_contents.cache_info().currsize
    for _ in range(2):
        with refused(TcbInfoSignatureInvalid):
            world.verify(collateral=forged)
    assert authenticate_contents.cache_info().currsize == before


@pytest.mark.parametrize(
    ("part", "leaf"),
    [("signature", QuoteSignatureInvalid), ("qe_report_signature", QeReportSignatureInvalid)],
)
def test_signatures_of_a_quote_are_verified_each_time(
    warm: tuple[World, Collateral], part: str, leaf: type[RatlsError]
) -> None:
    """Q01: all about the platform is remembered, its attestation key too; no quote is."""
    world, collateral = warm
    genuine = world.quote()
    world.verify(quote=genuine, collateral=collateral)
    forged = world.quote(form=lambda f: replace(f, **{part: bytes(31) + b"\1" + bytes(31) + b"\1"}))
    with refused(leaf):
        world.verify(quote=forged, collateral=collateral)
    world.verify(quote=genuine, collateral=collateral)


def remembering() -> list[Any]:
    """Every function of the verifier that remembers what it returned."""
    return [
        thing
        for module in iter_modules(verifier.__path__, "verifier.")
        for thing in vars(import_module(module.name)).values()
        if isinstance(thing, _lru_cache_wrapper)
    ]


def test_what_was_forgotten_and_read_anew_is_the_same(warm: tuple[World, Collateral]) -> None:
    """The certificates of a fleet push out the root, which the PCK chain still holds: it has been
    read twice then, and its end is one date all the same."""
    world, collateral = warm
    quote = world.quote()
    periods = world.verify(quote=quote, collateral=collateral).window.periods
    for remembered in remembering():
        if remembered is not authenticate_pck_chain:
            remembered.cache_clear()
    assert world.verify(quote=quote, collateral=collateral).window.periods == periods


def test_only_what_has_the_same_bytes_is_the_same() -> None:
    """A set of certificates would lose the end of one that passed for another."""
    world = World.create()
    leaf, root = (Certificate.parse(one.der) for one in (world.platform.pck, world.intel.root))
    assert leaf != root
    assert leaf != leaf.der
    assert len({leaf, root, Certificate.parse(bytes(bytearray(leaf.der)))}) == 2


def test_memory_is_bounded() -> None:
    """A fleet, or whoever sends chains without end, fills no memory."""
    assert {authenticate_contents, authenticate_pck_chain} <= set(remembering())
    for remembered in remembering():
        assert 0 < (remembered.cache_parameters()["maxsize"] or 0) <= 1024
