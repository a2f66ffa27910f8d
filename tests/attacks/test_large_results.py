"""What a result costs its recipient, who has not judged it yet: F09."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ratls.client_call import AnswerNotOpened
from ratls.framing import MessageUnexpected
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("case", "outcome", "most"),
    [
        pytest.param("large-result", "Result", 200, id="the-largest-that-is-taken"),
        pytest.param("endless", MessageUnexpected.code, 200, id="parts-without-end"),
        pytest.param("giant", AnswerNotOpened.code, 16, id="giant-announcement"),
    ],
)
def test_a_result_costs_what_it_is(case: str, outcome: str, most: int) -> None:
    """F09: 64 MiB are held twice at most, and of a larger one nothing is taken."""
    count_refusal()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile_enclave", case],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
        check=True,
    )
    spent = json.loads(done.stdout)
    assert spent["outcome"] == outcome
    assert spent["mib"] < most
