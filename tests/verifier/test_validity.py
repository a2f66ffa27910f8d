"""T08, Q15: one dated thing does not cover the instant; nothing was decided then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from simulation.documents import instant
from tests.support.refusal import refused
from tests.verifier.world import AT, World, put, world
from verifier.errors import (
    CertificateNotCurrent,
    CollateralNotCurrent,
    InstantMalformed,
    QuoteSignatureInvalid,
)

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
