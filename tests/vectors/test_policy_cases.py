"""The public cases about agreements: each gets exactly the expected answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from policy.agreement import Agreement
from policy.document import digest_text
from policy.journal_entries import AcceptedEntry
from policy.party import LocalParty
from policy.signing import require_own_signature
from policy.state import require_successor
from tests.support.parties import ROOTS
from tests.support.refusal import count_refusal
from verifier.errors import RatlsError

FILES = sorted((Path(__file__).parent / "policy").glob("*.json"))
CASES = [
    pytest.param(case, id=f"{file.stem}/{case['id']}")
    for file in FILES
    for case in json.loads(file.read_text("utf-8"))["cases"]
]


def answer(case: dict[str, Any], folder: Path) -> str:
    """As the page says that a reader answers."""
    try:
        agreement = Agreement.parse(base64.b64decode(case["agreement"]), ROOTS)
        complete = agreement.require_complete()
        if "anchor" in case:
            (folder / "party.toml").write_text(case["anchor"], "utf-8")
            require_own_signature(complete, LocalParty.load(folder))
        if "accepted_before" in case:
            versions = [digest_text(v.policy.digest) for v in complete.agreement.versions]
            before = case["accepted_before"]
            number = case.get("accepted_version") or (
                versions.index(before) + 1 if before in versions else len(versions)
            )
            entry = AcceptedEntry(study=complete.policy.study, version=number, policy=before)
            require_successor(complete, entry)
    except RatlsError as refusal:
        count_refusal()
        return refusal.code
    return "accepted"


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_answered_as_it_says(case: dict[str, Any], tmp_path: Path) -> None:
    """P01 to P19, P23."""
    assert answer(case, tmp_path) == case["expected"]


def test_the_files_are_complete() -> None:
    assert [file.stem for file in FILES] == [
        "anchors", "history", "signatures", "thresholds", "withdrawals"
    ]  # fmt: skip
    expected = [case.values[0]["expected"] for case in CASES]  # type: ignore[index]
    assert len(CASES) > 70
    assert 10 < expected.count("accepted") < len(CASES) / 2
