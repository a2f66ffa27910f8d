"""kill -9 at any write of sign, accept, withdraw or distrust: `killed.py`, in a clean process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import HANG_LIMIT

pytestmark = pytest.mark.slow

TESTS = Path(__file__).with_name("killed.py")


def test_killed_at_any_write() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            "0",
            "-W",
            "ignore:This process:DeprecationWarning",
            str(TESTS),
        ],  # threads of libraries
        # Those of the suite that runs this would be taken for orders.
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    made = TESTS.read_text("utf-8").count("\ndef test_")
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= made, "some of them did not run"
