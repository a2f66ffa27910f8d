"""Refusals name the bits that are not as they should be, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refused
from tests.verifier.world import world
from verifier.acceptance import (
    EnclaveAttributesUnaccepted,
    TdAttributesUnaccepted,
    TdDebuggable,
    accept,
    require_attributes,
)
from verifier.bits import FLAGS, MOST, STATE, TD_ATTRIBUTES, differing
from verifier.errors import RatlsError

W = world()
SEPT_VE = 1 << 28


@pytest.mark.parametrize(
    ("altered", "leaf", "found"),
    [
        ({"td_attributes": SEPT_VE | 1}, TdDebuggable, "DEBUG (bit 0) is on"),
        ({"td_attributes": SEPT_VE | 0x28}, TdDebuggable, "bit 3 is on, PERF_PROF (bit 5) is on"),
        (
            {"td_attributes": 1 << 27 | 1 << 31 | 1 << 62},
            TdAttributesUnaccepted,
            "0x4000000088000000: SEPT_VE_DISABLE (bit 28) is off, LASS (bit 27) is on, "
            "KL (bit 31) is on, TPA (bit 62) is on",
        ),
        (
            {"td_attributes": SEPT_VE, "xfam": 0x1 | 1 << 10},
            TdAttributesUnaccepted,
            "0x401: SSE (bit 1) is off, PASID (bit 10) is on",
        ),
    ],
)
def test_bits_of_a_trust_domain_are_named(
    altered: dict[str, Any], leaf: type[RatlsError], found: str
) -> None:
    """N173: the operator has to know which switch to turn; PERFMON may be on and is not named."""
    quote = W.platform.td_quote(bytes(64), **altered)
    verified = W.verify(quote=quote, collateral=W.collateral(tdx=True))
    with refused(leaf, check="attributes") as refusal:
        accept(verified)
    assert refusal.error.found == found
    perfmon = W.platform.td_quote(bytes(64), td_attributes=SEPT_VE | 1 << 63)
    accept(W.verify(quote=perfmon, collateral=W.collateral(tdx=True)))


def test_bits_of_an_enclave_are_named() -> None:
    """M07: the key that only Intel's enclaves need, and a bit that the caller asked for."""
    report = W.verify(quote=W.quote(flags=0x11)).quote.report
    with refused(EnclaveAttributesUnaccepted) as refusal:
        require_attributes(report)
    assert "MODE64BIT (bit 2) is off, PROVISION_KEY (bit 4) is on" in refusal.error.found
    good = W.verify().quote.report
    with refused(EnclaveAttributesUnaccepted) as refusal:
        require_attributes(good, xfrm=1 << 18, xfrm_mask=1 << 18)
    assert "AMX data (bit 18) is off" in refusal.error.found
    with refused(EnclaveAttributesUnaccepted) as refusal:
        require_attributes(good, misc_select=1, misc_select_mask=1)
    assert "EXINFO (bit 0) is off" in refusal.error.found


@given(off=st.integers(0, 2**64 - 1), on=st.integers(0, 2**64 - 1))
@pytest.mark.parametrize("names", [FLAGS, STATE, TD_ATTRIBUTES])
def test_no_bit_is_lost(names: dict[int, str], off: int, on: int) -> None:
    """Each is named, or counted."""
    told = differing(names, off=off, on=on)
    total = off.bit_count() + on.bit_count()
    named = told.count(" is ")
    assert named == min(total, MOST)
    assert (f"and {total - MOST} more" in told) == (total > MOST)
