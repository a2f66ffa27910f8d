"""`docs/agreement.md` runs as it stands, in one folder, from the keys to the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import words
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parent.parent / "docs" / "agreement.md").read_text("utf-8")
BLOCK = re.compile(r"<!-- walk: (.*?) -->\n```\n(.*?)```\n", re.DOTALL)
STEPS = [
    "keys",
    "draft",
    "understand",
    "sign",
    "unite",
    "accept",
    "change",
    "try",
    "again",
    "withdraw",
]


def test_the_walk_from_the_draft_to_the_end(tmp_path: Path) -> None:
    """One shell for all blocks, as a reader has: a variable of one is used by the next."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "".join(f"echo '== {name}'\n{text}" for name, text in BLOCK.findall(PAGE))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
        check=False,
    )
    assert done.returncode == Exit.YES, done.stdout + done.stderr
    said = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", done.stdout, re.DOTALL | re.MULTILINE))
    assert [*said] == STEPS
    assert "carol-lab alone receives model_weights" in said["understand"]
    assert "3 of 3 parties signed, the agreement is complete" in said["unite"]
    # The page shows what the command says.
    (shown,) = re.findall(r"^- for carol-lab: .*$", PAGE, re.MULTILINE)
    assert shown in said["change"]
    assert "task task.json: accepted (as before)" in said["try"]
    assert "train at most 30 times" in words((tmp_path / "review.html").read_text("utf-8"))
    assert "version 2: in force for carol-lab" in said["again"]


def test_the_walk_has_every_step() -> None:
    """A block whose mark was lost would silently not run."""
    assert [name for name, _ in BLOCK.findall(PAGE)] == STEPS
    unmarked = BLOCK.sub("", PAGE)
    assert "ratls " not in "".join(re.findall(r"```\n(.*?)```", unmarked, re.DOTALL))
