"""T08, Q15: one dated thing does not cover the instant; nothing was decided then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from simulation.documents import instant
from tests.support.refusal import refused
from tests.verifier.world import AT, World, bites, put, with_, world
from verifier.acceptance import TcbRevoked, accept
from verifier.crl import CertificateRevoked
from verifier.errors import InstantMalformed, RatlsError
from verifier.qe import QuoteSignatureInvalid
from verifier.tcb import TcbInfoMismatch, TcbLevelUnmatched
from verifier.validity import CertificateNotCurrent, CollateralNotCurrent, CrlNotCurrent

SECOND = timedelta(seconds=1)
SKEW = timedelta(seconds=300)
W = world()
CERTIFICATES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "root": lambda hook: {"root": hook},
    "authority": lambda hook: {"platform_ca": hook},
    "leaf": lambda hook: {"pck": hook},
    "tcb-signer": lambda hook: {"tcb_signer": hook},
}


@pytest.mark.parametrize("which", CERTIFICATES)
@pytest.mark.parametrize(
    ("bound", "at_bound"),
    [("not_after", -SECOND), ("not_before", SECOND)],
    ids=["N072-ended", "N073-not-begun"],
)
def test_certificate_a_second_outside_its_validity(
    which: str, bound: str, at_bound: timedelta
) -> None:
    """N072, N073, N105: both ends belong to it, the second after does not; the root's too."""

    def hook_with(value: datetime) -> Callable[[Any], Any]:
        return lambda form: replace(form, **{bound: value})

    World.create(**CERTIFICATES[which](hook_with(AT))).verify()
    with refused(CertificateNotCurrent, check="validity"):
        World.create(**CERTIFICATES[which](hook_with(AT + at_bound))).verify()


@pytest.mark.parametrize("slot", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    ("member", "value", "good"),
    [
        ("nextUpdate", AT + SECOND, True),
        ("nextUpdate", AT, False),
        ("issueDate", AT + SKEW, True),
        ("issueDate", AT + SKEW + SECOND, False),
    ],
)
def test_document_at_the_edge_of_its_window(
    slot: str, member: str, value: datetime, good: bool
) -> None:
    """N109, N110, N145: the end does not belong to it; a publisher's clock may be ahead."""
    dates = {"issueDate": instant(AT - timedelta(days=9)), member: instant(value)}
    collateral = W.collateral(**{slot: put(**dates)})
    if good:
        W.verify(collateral=collateral)
    else:
        with refused(CollateralNotCurrent, check="validity"):
            W.verify(collateral=collateral)


def test_window_is_the_narrowest_of_all_parts() -> None:
    """N215: reported, so that a channel can verify again in time."""
    ends = AT + timedelta(days=3)
    issued = AT - timedelta(days=9)
    collateral = W.collateral(
        qe_identity=put(nextUpdate=instant(ends)), tcb_info=put(issueDate=instant(issued))
    )
    window = W.verify(collateral=collateral).window
    assert (window.earliest_expiration, window.earliest_issue) == (ends, issued)
    assert (window.tcb_info_issue, window.qe_identity_issue) == (issued, AT)
    leaf = World.create(pck=lambda c: replace(c, not_after=AT + SECOND))
    assert leaf.verify().window.earliest_expiration == AT + SECOND


def test_what_is_forged_is_refused_even_outside_the_window() -> None:
    """`Could not look` must never be the answer to `it is forged`."""
    late = AT + timedelta(days=4000)
    quote = W.quote(form=lambda f: replace(f, signature=bytes(64)))
    with refused(QuoteSignatureInvalid, check="quote-signature"):
        W.verify(quote=quote, at=late)


ABOUT: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], type[RatlsError]]] = {
    "another-fmspc": (put(fmspc="00906ED50001"), TcbInfoMismatch),
    "no-level": (lambda d: {**d, "tcbLevels": [_higher(d["tcbLevels"][0])]}, TcbLevelUnmatched),
    "revoked": (lambda d: {**d, "tcbLevels": [_revoked(d["tcbLevels"][0])]}, TcbRevoked),
}


def _higher(level: dict[str, Any]) -> dict[str, Any]:
    return {**level, "tcb": {**level["tcb"], "pcesvn": 65535}}


def _revoked(level: dict[str, Any]) -> dict[str, Any]:
    return {**level, "tcbStatus": "Revoked"}


@pytest.mark.parametrize("what", ABOUT)
def test_what_has_ended_says_nothing_about_a_platform(what: str) -> None:
    """An old bundle leads to `could not look`, whatever it would say, and never to a verdict."""
    change, leaf = ABOUT[what]
    collateral = W.collateral(tcb_info=change)
    with refused(leaf):
        accept(W.verify(collateral=collateral))
    with refused(CollateralNotCurrent, check="validity"):
        accept(W.verify(collateral=collateral, at=AT + timedelta(days=31)))


def test_a_revocation_outlives_its_list() -> None:
    """What was revoked once stays so: a newer list could only say the same."""
    collateral = W.collateral(pck_crl=lambda c: replace(c, revoked=(W.platform.pck.serial,)))
    for at in (AT, AT + timedelta(days=31)):
        with refused(CertificateRevoked, check="pck-crl"):
            W.verify(collateral=collateral, at=at)


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 11, 25, 12),  # noqa: DTZ001
        datetime.fromisoformat("1970-01-01T00:00:00+00:00"),
        datetime.fromisoformat("1969-12-31T23:59:59+00:00"),
    ],
    ids=["naive", "zero", "negative"],
)
def test_caller_gives_no_real_instant(at: datetime) -> None:
    """N217: an uninitialised clock says 1970, and would find everything `not yet valid`."""
    with refused(InstantMalformed):
        W.verify(at=at)


def test_instant_in_another_time_zone_is_the_same_instant() -> None:
    there = datetime.fromisoformat("2026-11-25T20:00:00+08:00")
    assert there == AT
    assert W.verify(at=there).appraisal == W.verify(at=AT).appraisal


def test_part_that_begins_this_very_instant_is_not_to_blame() -> None:
    """The TCB info just begins to count; the revocation list has ended."""
    beginning = put(issueDate=instant(AT + SKEW))
    good = W.collateral(tcb_info=beginning)
    bad = W.collateral(tcb_info=beginning, pck_crl=with_(next_update=AT))
    bites(lambda bundle: W.verify(collateral=bundle), good, bad, CrlNotCurrent, check="validity")
