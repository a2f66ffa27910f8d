"""A trust domain of TDX 1.5 under a policy: what it was launched on, and what runs now."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from policy.admission import TcbDateTooOld, admit
from simulation.documents import tcb_level
from tests.policy.test_trust_domain import AGREED, AT, INTEL, svn
from tests.support.refusal import refused
from verifier.acceptance import AdvisoryUnaccepted, TcbRevoked
from verifier.verify import VerifiedQuote

LOW = AGREED.domain(min_tee_tcb_svn=f'"{svn().hex()}"')
YEAR = timedelta(days=365)


def judged(status: str, launched: bytes, now: bytes, **older: Any) -> VerifiedQuote:
    """Microcode 2 is current; microcode 1 has this status, and what `older` says."""
    tcb, fields = INTEL.platform.tcb, {"date": AT - YEAR, **older}
    levels = [
        tcb_level(tcb.components, tcb.pce_svn, tdx=svn(0, 0, 2), date=AT - timedelta(days=1)),
        tcb_level(tcb.components, tcb.pce_svn, tdx=svn(0, 0, 1), status=status, **fields),
    ]
    quote = INTEL.platform.td_quote(version=5, tee_tcb_svn=launched, tee_tcb_svn_2=now)
    collateral = INTEL.collateral(tdx=True, tcb_info=lambda d: {**d, "tcbLevels": levels})
    return INTEL.verify(quote=quote, collateral=collateral)


NEW, OLD = svn(5, 1, 2), svn(5, 1, 1)
BOTH = (
    ('tcb_statuses = ["UpToDate"]', 'tcb_statuses = ["UpToDate", "SWHardeningNeeded"]'),
    ("accepted_advisories = []", 'accepted_advisories = ["INTEL-SA-00615"]'),
)


def test_an_advisory_of_either_set_must_be_listed() -> None:
    """T17: it applies to the launch alone, or to what runs now alone."""
    for launched, now in ((NEW, OLD), (OLD, NEW)):
        found = judged("SWHardeningNeeded", launched, now, advisories=["INTEL-SA-00615"])
        with refused(AdvisoryUnaccepted, check="advisories"):
            admit(AGREED.policy(enclave=LOW, replace=BOTH[:1]), found, at=AT)
        admit(AGREED.policy(enclave=LOW, replace=BOTH), found, at=AT)


def test_the_older_date_of_both_sets_counts() -> None:
    """T19."""
    floor = ("min_tcb_date = 2020-01-01", f"min_tcb_date = {AT - YEAR / 2:%Y-%m-%d}")
    for launched, now in ((NEW, OLD), (OLD, NEW)):
        found = judged("SWHardeningNeeded", launched, now)
        with refused(TcbDateTooOld, check="tcb-date"):
            admit(AGREED.policy(enclave=LOW, replace=(BOTH[0], floor)), found, at=AT)
        admit(AGREED.policy(enclave=LOW, replace=BOTH[:1]), found, at=AT)
    admit(
        AGREED.policy(enclave=LOW, replace=(floor,)), judged("SWHardeningNeeded", NEW, NEW), at=AT
    )


def test_a_set_that_is_revoked() -> None:
    """T13: whatever the policy lists; the accepted twin is over a level that is not revoked."""
    for launched, now in ((NEW, OLD), (OLD, NEW)):
        with refused(TcbRevoked, check="tcb-status"):
            admit(AGREED.policy(enclave=LOW), judged("Revoked", launched, now), at=AT)
    admit(AGREED.policy(enclave=LOW), judged("Revoked", NEW, NEW), at=AT)
