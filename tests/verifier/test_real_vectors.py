"""Genuine quotes, judged with genuine collateral at the instant for which it was published."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import vectors_folder
from tests.support.refusal import count_refusal, refused
from verifier import Collateral, TrustAnchors
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.quote import strip_file_padding
from verifier.received import ReceivedQuote
from verifier.report import QuoteReport, report_quote
from verifier.verify import QuoteCheck, verify_quote

CODES = json.loads((Path(__file__).parent.parent / "vectors" / "codes.json").read_text("utf-8"))


def _cases(*inside: str) -> list[Any]:
    folder = vectors_folder()
    if folder is None:
        return [pytest.param(None, None, id="absent")]
    index = json.loads(folder.joinpath(*inside, "index.json").read_text("utf-8"))
    return [pytest.param(q, c, id=c["id"]) for q in index["quotes"] for c in q["cases"]]


def judge(vectors: Path, quote: dict[str, Any], case: dict[str, Any], time: int) -> QuoteReport:
    return report_quote(
        ReceivedQuote.of_file((vectors / quote["file"]).read_bytes()),
        Collateral.parse((vectors / case["collateral"]).read_bytes()),
        file=quote["file"],
        roots=TrustAnchors.intel(),
        at=datetime.fromtimestamp(time, UTC),
    )


@pytest.mark.parametrize(("quote", "case"), _cases())
def test_genuine_quote_gets_the_verdict_of_both_reference_verifiers(
    vectors: Path, quote: dict[str, Any], case: dict[str, Any]
) -> None:
    """Status and advisories too, also where only the attributes or the status refuse it."""
    report, expected = judge(vectors, quote, case, case["time"]), case["expected"]
    if report.exit_status:
        count_refusal()
    if "error_class" not in expected:
        assert report.machine["authentic"] is True
        assert report.exit_status == (0 if expected["tcb_status"] == "UpToDate" else 6)
    else:
        error = report.machine["error"]
        assert error["code"] in CODES["vectors"][expected["error_class"]]  # type: ignore[index]
        assert error["code"] in CODES["exit"][str(int(report.exit_status))]  # type: ignore[index]
    if expected.get("error_class") == "no-matching-tcb-level":
        # Every signature holds: genuine, and refused for what the platform lacks.
        assert (report.machine["authentic"], report.machine["tcb_status"]) == (True, None)
        assert report.exit_status == 6
        assert report.machine["platform"]
        assert report.machine["measurement"]
        below = [p for p in report.machine["parts"] if p["level"] is None]  # type: ignore[attr-defined]
        assert below
        assert all(part["short"] for part in below)
    elif report.machine["authentic"]:
        assert report.machine["tcb_status"] == expected["tcb_status"]
        assert set(report.machine["advisory_ids"]) == set(expected["advisory_ids"])  # type: ignore[call-overload]


@pytest.mark.parametrize(("quote", "case"), _cases("field"))
def test_quote_from_the_field_gets_the_verdict_of_two_verifiers(
    vectors: Path, quote: dict[str, Any], case: dict[str, Any]
) -> None:
    """Recorded from services since: verdict, status and advisories, with collateral of the time."""
    report, expected = judge(vectors / "field", quote, case, case["time"]), case["expected"]
    if report.exit_status:
        count_refusal()
    assert expected["outcome"] == "verified"
    assert report.machine["authentic"] is True
    assert report.exit_status == (0 if expected["tcb_status"] == "UpToDate" else 6)
    assert report.machine["tcb_status"] == expected["tcb_status"]
    assert set(report.machine["advisory_ids"]) == set(expected["advisory_ids"])  # type: ignore[call-overload]
    parsed = quote["parse"]
    assert (report.machine["quote_version"], report.machine["tee"]) == (
        parsed["version"],
        parsed["tee"],
    )


def test_no_quote_from_the_field_is_left_out(vectors: Path) -> None:
    """Each file there is judged, with the bytes that the index names."""
    index = json.loads((vectors / "field" / "index.json").read_text("utf-8"))
    there = {file.name for file in (vectors / "field" / "quotes").iterdir()}
    assert {Path(quote["file"]).name for quote in index["quotes"]} == there
    for quote in index["quotes"]:
        raw = (vectors / "field" / quote["file"]).read_bytes()
        assert sha256(raw).hexdigest() == quote["sha256"]
        assert quote["cases"]


@pytest.mark.parametrize(("quote", "case"), _cases())
def test_genuine_quote_is_undecided_where_the_collateral_does_not_reach(
    vectors: Path, quote: dict[str, Any], case: dict[str, Any]
) -> None:
    """An hour before it starts, an hour after its first part ends, 400 days later: never `bad`.

    What is unreadable or forged by itself stays so at any time; that Intel lists no level for a
    platform is Intel's word, and holds only while it covers the instant.
    """
    count_refusal()
    decided = judge(vectors, quote, case, case["time"])
    error = decided.machine["error"]
    before = list(QuoteCheck)[: list(QuoteCheck).index(QuoteCheck.ROOT_CRL)]
    for_ever = error is not None and error["check"] in before  # type: ignore[index]
    for other in case["other_times"]:
        report = judge(vectors, quote, case, other["time"])
        assert report.exit_status == (decided.exit_status if for_ever else 5), other["label"]
        assert report.machine["verdict"] == ("refused" if for_ever else "undecided")


def test_published_collateral_with_an_altered_text_is_refused(vectors: Path) -> None:
    """Somebody's test data: dates in the year 3000, the signature of the text before."""
    (case,) = json.loads((vectors / "index.json").read_text("utf-8"))["negative_collateral"]
    with refused(TcbInfoSignatureInvalid, check="tcb-info"):
        verify_quote(
            strip_file_padding((vectors / case["quote"]).read_bytes()),
            Collateral.parse((vectors / case["file"]).read_bytes()),
            roots=TrustAnchors.intel(),
            at=datetime.fromtimestamp(case["time"], UTC),
        )
