"""Genuine, and still refused: attributes that protect nothing, advisories that nobody accepted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.refusal import count_refusal, refused
from tests.verifier.world import with_status, world
from verifier import TcbStatus, accept
from verifier.acceptance import (
    AEX_NOTIFY,
    CET,
    KSS,
    AdvisoryUnaccepted,
    EnclaveAttributesUnaccepted,
    EnclaveDebuggable,
    require_attributes,
)
from verifier.verify import VerifiedQuote

W = world()
PRODUCTION = 0x05
HARDENING = frozenset({TcbStatus.SW_HARDENING_NEEDED})


def with_flags(flags: int, **more: Any) -> VerifiedQuote:
    return W.verify(quote=W.quote(flags=flags, **more))


def test_debug_enclave_is_authentic_and_refused() -> None:
    """N212: its host reads and writes its memory. No option accepts it."""
    verified = with_flags(PRODUCTION | 0x02)
    with refused(EnclaveDebuggable, check="attributes"):
        accept(verified, statuses=frozenset(TcbStatus) - {TcbStatus.REVOKED})
    with refused(EnclaveDebuggable):
        require_attributes(verified.quote.report, flags=0x07, flags_mask=2**64 - 1)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(PRODUCTION & ~0x01, id="INIT-off"),
        pytest.param(PRODUCTION & ~0x04, id="MODE64BIT-off"),
        pytest.param(PRODUCTION | 0x10, id="PROVISION_KEY"),
        pytest.param(PRODUCTION | 0x20, id="EINITTOKEN_KEY"),
        *(pytest.param(PRODUCTION | 1 << b, id=f"reserved-{b}") for b in (3, 8, 9, 11, 63)),
    ],
)
def test_attribute_outside_the_defaults_is_refused(flags: int) -> None:
    """dcap.md 4.10: keys that only Intel's own enclaves need, and bits that mean nothing yet."""
    with refused(EnclaveAttributesUnaccepted, check="attributes"):
        accept(with_flags(flags))


@pytest.mark.parametrize("extra", [0, CET, KSS, AEX_NOTIFY, CET | KSS | AEX_NOTIFY])
def test_attributes_that_protect_alike_are_accepted(extra: int) -> None:
    accept(with_flags(PRODUCTION | extra))


@pytest.mark.parametrize(
    ("asked", "good"),
    [
        ({"flags": PRODUCTION, "flags_mask": 2**64 - 1}, True),
        ({"flags": PRODUCTION | KSS, "flags_mask": 2**64 - 1}, False),
        ({"flags": PRODUCTION | KSS, "flags_mask": KSS}, False),
        ({"xfrm": 0xE7, "xfrm_mask": 2**64 - 1}, True),
        ({"xfrm": 0x03, "xfrm_mask": 0xFC}, False),
        ({"misc_select": 0, "misc_select_mask": 2**32 - 1}, True),
        ({"misc_select": 1, "misc_select_mask": 1}, False),
    ],
)
def test_caller_fixes_further_attributes(asked: dict[str, int], good: bool) -> None:
    """A masked bit must be as in the value, in every one of the three fields."""
    report = W.verify().quote.report
    if good:
        require_attributes(report, **asked)
    else:
        with refused(EnclaveAttributesUnaccepted):
            require_attributes(report, **asked)


def test_provisioning_key_may_be_listed_but_never_slips_in() -> None:
    report = with_flags(PRODUCTION | 0x10).quote.report
    require_attributes(report, flags=0x10, flags_mask=0x10)
    with refused(EnclaveAttributesUnaccepted):
        require_attributes(report, flags=0, flags_mask=0x80)


def test_caller_cannot_ask_for_an_uninitialised_enclave() -> None:
    """A mask that covers INIT with the value 0 does not turn the default round."""
    with refused(EnclaveAttributesUnaccepted):
        require_attributes(with_flags(0x04).quote.report, flags=0, flags_mask=2**64 - 1)


ADVISORIES = ("INTEL-SA-00334", "INTEL-DOC-10000")


@pytest.mark.parametrize(
    "accepted",
    [None, frozenset(), frozenset(ADVISORIES[:1]), frozenset({"INTEL-SA-0033", *ADVISORIES[1:]})],
)
def test_accepted_status_with_an_advisory_that_nobody_accepted(
    accepted: frozenset[str] | None,
) -> None:
    """T17: also for documents that announce the end of servicing."""
    verified = with_status("SWHardeningNeeded", ADVISORIES)
    with refused(AdvisoryUnaccepted, check="advisories"):
        accept(verified, statuses=HARDENING, advisories=accepted)


def test_accepted_status_with_accepted_advisories() -> None:
    verified = with_status("SWHardeningNeeded", ADVISORIES)
    accept(verified, statuses=HARDENING, advisories=frozenset({*ADVISORIES, "INTEL-SA-1"}))
    accept(with_status("SWHardeningNeeded"), statuses=HARDENING)


def test_advisory_on_an_up_to_date_level_informs_by_default() -> None:
    """N202: Intel attaches advisories to UpToDate too; who lists advisories refuses others."""
    verified = with_status("UpToDate", ADVISORIES)
    assert verified.tcb.advisory_ids == ADVISORIES
    accept(verified)
    with refused(AdvisoryUnaccepted, check="advisories"):
        accept(verified, advisories=frozenset())


def test_nobody_makes_a_verified_quote_but_the_verifier() -> None:
    """X: a function that takes one can rely on it; also `replace` goes through the same door."""
    count_refusal()
    good = W.verify()
    with pytest.raises(TypeError):
        VerifiedQuote(good.genuine, good.root, good.tcb, good.appraisal, object())
    with pytest.raises((TypeError, ValueError)):
        replace(good, genuine=good.genuine)  # type: ignore[call-arg]
