"""The line that other programs rely on, and the text for people."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import verifier
from simulation.documents import tcb_level
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import AT, DATE, World, put, world
from verifier import Collateral, TcbStatus, TrustAnchors, accept, verify_quote
from verifier.acceptance import StatusNeverAcceptable
from verifier.errors import Exit
from verifier.received import ReceivedQuote
from verifier.report import QuoteReport, report_quote

W = world()
FIELDS = (
    "file verdict authentic mode tee quote_version tcb_status tcb_date tcb_evaluation_data_number "
    "advisory_ids parts collateral measurement platform checks error"
)


def report(quote: bytes | None = None, collateral: Collateral | None = None) -> QuoteReport:
    return report_quote(
        ReceivedQuote.of_file(W.quote() if quote is None else quote),
        collateral or W.collateral(),
        file="q.bin",
        roots=W.intel.anchors(),
        at=AT,
    )


def outcomes(answer: QuoteReport) -> dict[str, str]:
    checks = json.loads(json.dumps(answer.machine))["checks"]
    return {check["check"]: check["outcome"] for check in checks}


def test_accepted_quote_is_reported_with_all_fields() -> None:
    answer = report(W.quote() + bytes(70))
    line = json.loads(json.dumps(answer.machine))
    assert set(line) == set(FIELDS.split())
    assert (line["verdict"], line["authentic"], line["error"]) == ("accepted", True, None)
    assert (line["mode"], line["tee"], line["quote_version"]) == ("simulation", "sgx", 3)
    assert (line["tcb_status"], line["tcb_evaluation_data_number"]) == ("UpToDate", 21)
    assert line["measurement"]["mr_enclave"] == "a1" * 32
    assert line["measurement"]["flags"] == "0500000000000000"
    assert line["platform"]["ppid"] == W.platform.tcb.ppid.hex()
    assert line["collateral"] == {
        "earliest_issue": "2026-11-25T12:00:00Z",
        "earliest_expiration": "2026-12-25T12:00:00Z",
    }
    assert set(outcomes(answer).values()) == {"passed"}
    assert answer.exit_status is Exit.YES
    assert "mode=simulation" in answer.people


@pytest.mark.parametrize(
    ("quote", "collateral", "status", "verdict", "authentic", "check"),
    [
        pytest.param(b"junk", {}, 3, "refused", None, "quote-format", id="unreadable"),
        pytest.param(
            W.quote(form=lambda f: replace(f, signature=bytes(64))),
            {},
            4,
            "refused",
            False,
            "quote-signature",
            id="forged",
        ),
        pytest.param(
            None, {"tcb_info": put(version=2)}, 5, "undecided", None, "tcb-info", id="undecided"
        ),
        pytest.param(W.quote(flags=0x07), {}, 6, "refused", True, "attributes", id="debug"),
    ],
)
def test_each_kind_of_refusal_has_its_exit_status(
    quote: bytes | None,
    collateral: dict[str, object],
    status: int,
    verdict: str,
    authentic: bool | None,
    check: str,
) -> None:
    """`Bad`, `could not look` and `not allowed` must never be taken for each other."""
    count_refusal()
    answer = report(quote, W.collateral(**collateral))
    line = json.loads(json.dumps(answer.machine))
    assert set(line) == set(FIELDS.split())
    assert answer.exit_status == status
    assert (line["verdict"], line["authentic"]) == (verdict, authentic)
    assert line["error"]["check"] == check
    assert outcomes(answer)[check] == "failed"
    assert (line["measurement"] is None) == (authentic is not True)
    assert "not reached" in answer.people or check == "tcb-level"


def test_out_of_date_platform_is_explained() -> None:
    """Every old sample is OutOfDate today; people must see why, and what it would take."""
    count_refusal()
    tcb = W.platform.tcb
    newer = tcb_level((99, *tcb.components[1:]), tcb.pce_svn, date=DATE)
    older = tcb_level(
        tcb.components, tcb.pce_svn, date=DATE, status="OutOfDate", advisories=["INTEL-SA-1"]
    )
    collateral = W.collateral(tcb_info=put(tcbLevels=[newer, older]))
    refusal = report(collateral=collateral)
    assert refusal.exit_status == 6
    assert "Early Microcode Update (SGX component 1): SVN 15, needs 99" in refusal.people
    narrow = "--accept-out-of-date-since 2026-06-01 --accept-advisory INTEL-SA-1"
    assert narrow in refusal.people
    accepted = report_quote(
        ReceivedQuote(W.quote()),
        collateral,
        file="q.bin",
        roots=W.intel.anchors(),
        at=AT,
        acceptance=partial(
            accept,
            statuses=frozenset({TcbStatus.OUT_OF_DATE}),
            advisories=frozenset({"INTEL-SA-1"}),
        ),
    )
    assert accepted.exit_status == 0


def test_attacker_writes_to_the_terminal() -> None:
    """A certificate's name is free until its role is checked: here it would print a verdict."""
    count_refusal()
    evil = World.create(pck=lambda c: c.named("x\x1b[2K\rq.bin: accepted\nq.bin"))
    answer = report_quote(
        ReceivedQuote(evil.quote()),
        evil.collateral(),
        file="q.bin",
        roots=evil.intel.anchors(),
        at=AT,
    )
    assert answer.exit_status == 4
    assert "\x1b" not in answer.people
    assert "q.bin: accepted" not in answer.people.splitlines()


def test_mistake_of_the_caller_is_no_verdict() -> None:
    """N211: asking to accept Revoked must not read as `this quote is refused`."""
    with refused(StatusNeverAcceptable):
        report_quote(
            ReceivedQuote(W.quote()),
            W.collateral(),
            file="q.bin",
            roots=W.intel.anchors(),
            at=AT,
            acceptance=partial(accept, statuses=frozenset({TcbStatus.REVOKED})),
        )


def test_example_in_the_package_docstring_runs() -> None:
    example = (verifier.__doc__ or "").split("\n\n")[1]
    names = {"raw": W.quote(), "collateral": W.collateral(), "now": AT, "accept": accept}

    class Anchors:
        intel = W.intel.anchors

    namespace: dict[str, Any] = {**names, "verify_quote": verify_quote, "TrustAnchors": Anchors}
    exec("\n".join(line.strip() for line in example.splitlines()), namespace)  # noqa: S102
    assert namespace["verified"].mode == "simulation"


def test_every_exported_name_exists_and_no_other() -> None:
    for name in verifier.__all__:
        assert getattr(verifier, name).__name__ == name
    count_refusal()
    with pytest.raises(AttributeError):
        _ = verifier.verify_nothing


def test_intels_anchor_is_the_production_key() -> None:
    anchors = TrustAnchors.intel()
    assert anchors.mode == "production"
    assert anchors.root_spki_sha256.hex().startswith("a0af031289f5d5d4132f91860")
    count_refusal()
    with pytest.raises(ValueError, match="32 bytes"):
        replace(anchors, root_spki_sha256=b"")
