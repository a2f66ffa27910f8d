"""Genuine, and still refused: attributes that protect nothing, advisories that nobody accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from simulation.documents import qe_level, tcb_level
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import put, with_status, world
from verifier import TcbStatus, accept
from verifier.acceptance import (
    AEX_NOTIFY,
    CET,
    KSS,
    AdvisoryUnaccepted,
    EnclaveAttributesUnaccepted,
    EnclaveDebuggable,
    TcbOutOfDateTooLong,
    TcbRevoked,
    TcbStatusUnaccepted,
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


# Out of date, but not for too long.


def out_of_date(day: datetime, advisories: Sequence[str] = ()) -> VerifiedQuote:
    tcb = W.platform.tcb
    level = tcb_level(
        tcb.components,
        tcb.pce_svn,
        date=day,
        status="OutOfDate",
        advisories=advisories,
    )
    return W.verify(collateral=W.collateral(tcb_info=put(tcbLevels=[level])))


LEVEL = datetime(2026, 1, 15, tzinfo=UTC)


def test_out_of_date_is_accepted_of_recent_levels_alone() -> None:
    """T13: a status alone would accept a platform that was last updated ten years ago."""
    verified = out_of_date(LEVEL)
    accept(verified, out_of_date_since=date(2026, 1, 1))
    accept(verified, out_of_date_since=date(2026, 1, 15))
    with refused(TcbOutOfDateTooLong, check="tcb-status"):
        accept(verified, out_of_date_since=date(2026, 1, 16))
    with refused(TcbStatusUnaccepted, check="tcb-status"):
        accept(verified)


def test_the_day_holds_also_where_the_status_is_listed() -> None:
    """Two options about one thing: the stricter one counts."""
    listed = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE})
    accept(out_of_date(LEVEL), statuses=listed)
    with refused(TcbOutOfDateTooLong, check="tcb-status"):
        accept(out_of_date(LEVEL), statuses=listed, out_of_date_since=date(2026, 2, 1))


@pytest.mark.parametrize("status", ["OutOfDateConfigurationNeeded", "SWHardeningNeeded"])
def test_the_day_is_about_out_of_date_and_no_other_status(status: str) -> None:
    """A need of configuration is no matter of days."""
    verified = with_status(status)
    with refused(TcbStatusUnaccepted, check="tcb-status"):
        accept(verified, out_of_date_since=date(2000, 1, 1))
    accept(verified, statuses=frozenset({TcbStatus(status)}), out_of_date_since=date(2000, 1, 1))
    accept(verified, statuses=frozenset({TcbStatus(status)}), out_of_date_since=date(2999, 1, 1))


def test_no_day_accepts_what_is_revoked() -> None:
    with refused(TcbRevoked, check="tcb-status"):
        accept(with_status("Revoked"), out_of_date_since=date(2000, 1, 1))


def test_advisories_of_what_is_out_of_date_must_be_listed_all_the_same() -> None:
    verified = out_of_date(LEVEL, ADVISORIES)
    with refused(AdvisoryUnaccepted, check="advisories"):
        accept(verified, out_of_date_since=date(2026, 1, 1))
    accept(verified, out_of_date_since=date(2026, 1, 1), advisories=frozenset(ADVISORIES))


def test_the_oldest_part_counts_for_the_day() -> None:
    """A platform of yesterday with a quoting enclave of 2024 is as old as that."""
    tcb = W.platform.tcb
    level = tcb_level(tcb.components, tcb.pce_svn, date=LEVEL, status="OutOfDate")
    old = qe_level(1, date=datetime(2024, 1, 1, tzinfo=UTC))
    verified = W.verify(
        collateral=W.collateral(tcb_info=put(tcbLevels=[level]), qe_identity=put(tcbLevels=[old]))
    )
    with refused(TcbOutOfDateTooLong, check="tcb-status"):
        accept(verified, out_of_date_since=date(2026, 1, 1))
    accept(verified, out_of_date_since=date(2024, 1, 1))


def test_nobody_makes_a_verified_quote_but_the_verifier() -> None:
    """X: a function that takes one can rely on it; also `replace` goes through the same door."""
    count_refusal()
    good = W.verify()
    with pytest.raises(TypeError):
        VerifiedQuote(good.genuine, good.root, good.tcb, good.appraisal, object())
    with pytest.raises((TypeError, ValueError)):
        replace(good, genuine=good.genuine)  # type: ignore[call-arg]
