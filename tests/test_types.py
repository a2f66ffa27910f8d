"""Byte strings, keys and documents that change places are found by the type checker."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

ROOT = Path(__file__).parent.parent

# Every line that ends in SWAPPED is to be refused, and no other.
SNIPPET = """\
from datetime import datetime

from policy.agreement import Agreement
from policy.commit import Commit
from policy.document import Policy
from policy.party import LocalParty
from policy.seal import result_info
from policy.signing import add_signature
from policy.state import StudyState
from policy.statement import require_policy
from policy.task import Task, TaskLabel


def right(task: Task, commit: Commit, policy: Policy, party: LocalParty, all: Agreement) -> None:
    require_policy("task", task.policy_digest, policy)
    result_info(task.digest, policy.digest, "carol-lab")
    task.seal(party.operation)
    add_signature(all, party.signing)


def wrong(
    task: Task, commit: Commit, policy: Policy, party: LocalParty, all: Agreement,
    raw: bytes, label: TaskLabel, state: StudyState, at: datetime,
) -> None:
    require_policy("task", raw, policy)  # SWAPPED
    require_policy("commit", commit.nonce, policy)  # SWAPPED
    result_info(commit.instance, policy.digest, "carol-lab")  # SWAPPED
    state.find_by_policy_digest(commit.instance, at)  # SWAPPED
    task.seal(party.signing)  # SWAPPED
    add_signature(all, party.operation)  # SWAPPED
    task.require_signature(policy, policy.party[0].signing_key)  # SWAPPED
    Task.read(raw).require_window(at)  # SWAPPED
    label.resolved_parameters(policy)  # SWAPPED
"""


def test_swapped_arguments_do_not_pass(tmp_path: Path) -> None:
    file = tmp_path / "swapped.py"
    file.write_text(SNIPPET)
    report, trouble, _ = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(file)])
    assert not trouble
    found = {int(line) for line in re.findall(r"swapped\.py:(\d+): error", report)}
    lines = SNIPPET.splitlines()
    assert found == {n for n, line in enumerate(lines, 1) if line.endswith("SWAPPED")}, report
