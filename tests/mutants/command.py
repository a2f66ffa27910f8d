"""The mutation run as a process of its own, for tests: it must not alter the one they run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


def mutation_run(*arguments: str) -> dict[str, Any]:
    """What `python -m tests.mutants --json` prints; see there for the arguments and members."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--json", *arguments],
        cwd=ROOT,
        # Those of the suite that runs this would be taken for orders.
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
