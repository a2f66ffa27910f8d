"""Genuine trust domains under a policy that was drafted from their own quotes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policy.admission import admit
from policy.document import Policy, PolicyInvalid
from policy.domain_admission import MrTdNotListed, Rtmr1NotListed, Rtmr2NotListed
from policy.draft import block_of
from tests.conftest import vectors_folder
from tests.support.parties import AT, Consortium
from tests.support.refusal import count_refusal, refused
from verifier import Collateral, TrustAnchors
from verifier.acceptance import ServiceTdUnaccepted
from verifier.errors import CollateralStaleError
from verifier.quote import strip_file_padding
from verifier.td import TdReport
from verifier.verify import VerifiedQuote, verify_quote

AGREED = Consortium.create(AT, root="intel", machines="any genuine platform")


def _cases() -> list[Any]:
    """One for each genuine trust domain with a status that a policy can list."""
    top, found = vectors_folder(), []
    for folder in [top, top / "field"] if top else []:
        index = folder / "index.json"
        for quote in json.loads(index.read_text("utf-8"))["quotes"] if index.exists() else []:
            for case in quote["cases"]:
                status = case["expected"].get("tcb_status")
                named = quote["parse"]["tee"].lower() == "tdx"
                if named and status not in (None, "Revoked"):
                    found.append(pytest.param(folder, quote, case, id=case["id"]))
                    break
    return found or [pytest.param(None, None, None, id="absent")]


def judged(folder: Path, quote: dict[str, Any], case: dict[str, Any]) -> VerifiedQuote:
    return verify_quote(
        strip_file_padding((folder / quote["file"]).read_bytes()),
        Collateral.parse((folder / case["collateral"]).read_bytes()),
        roots=TrustAnchors.intel(),
        at=datetime.fromtimestamp(case["time"], UTC),
    )


def drafted(verified: VerifiedQuote, *replace: tuple[str, str]) -> Policy:
    """Everything as this quote has it, in a policy that was in force at its time."""
    tcb = verified.tcb
    statuses = {tcb.status, tcb.current_status or tcb.status}
    advisories = ", ".join(f'"{name}"' for name in tcb.advisory_ids)
    text = AGREED.policy_text(
        not_before="2020-01-01T00:00:00Z",
        enclave=block_of(verified.quote.report) + "\n",
        replace=[
            ('"UpToDate"', ", ".join(f'"{status}"' for status in statuses)),
            ("accepted_advisories = []", f"accepted_advisories = [{advisories}]"),
            ("max_collateral_age_days = 30", "max_collateral_age_days = 3650"),
            *replace,
        ],
    )
    return Policy.parse(text.encode(), known_roots=frozenset({"intel"}))


@pytest.mark.parametrize(("folder", "quote", "case"), _cases())
def test_a_genuine_guest_is_admitted_by_its_own_registers_alone(
    vectors: Path, folder: Path, quote: dict[str, Any], case: dict[str, Any]
) -> None:
    """M08: whatever stands in registers of the field, the draft lists it, and nothing else fits."""
    try:
        verified = judged(folder, quote, case)
    except CollateralStaleError:  # judged elsewhere: nothing is decided about it
        return count_refusal()
    at, report = datetime.fromtimestamp(case["time"], UTC), verified.quote.report
    assert isinstance(report, TdReport)
    if not (any(report.rtmr1) and any(report.rtmr2)):
        # On Azure another firmware measures the kernel, and none of it is in the quote. Without
        # RTMR2 the command line may be any.
        with refused(PolicyInvalid):
            drafted(verified)
        return None
    bound = report.mr_service_td
    listed: tuple[tuple[str, str], ...] = ()
    if bound is not None and any(bound):
        with refused(ServiceTdUnaccepted, check="attributes"):
            admit(drafted(verified), verified, at=at)
        listed = (('tee = "tdx"', f'tee = "tdx"\nservice_tds = ["{bound.hex()}"]'),)
    admit(drafted(verified, *listed), verified, at=at)
    for name, leaf in LEAVES:
        other = (f'{name} = "{getattr(report, name).hex()}"', f'{name} = "{"77" * 48}"')
        with refused(leaf, check="measurement"):
            admit(drafted(verified, *listed, other), verified, at=at)
    return None


LEAVES = (("mr_td", MrTdNotListed), ("rtmr1", Rtmr1NotListed), ("rtmr2", Rtmr2NotListed))
