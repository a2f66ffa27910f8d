"""What several results of agreed SQL tell together, and what is counted and shown of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policy.document import Policy
from policy.journal import Journal
from policy.sentences import together
from policy.state import StudyState
from policy.task import Task, TaskParameterDenied
from provider.budget import Asked, UsesExhausted, left, require_uses_left
from provider.cli_task import task as task_commands
from tests.policy.test_sql import AGREED, computation
from tests.provider.test_budget import digest, reserve
from tests.support.parties import AT, ROOTS, Consortium
from tests.support.refusal import refused
from tests.support.typed import typed

WORLD = Consortium.create()
LEAST = "SELECT sum(age) AS s FROM train_party_1 WHERE age >= $least"
RANGE = "least = { min = 18, max = 90 }"


def policy_text(*sections: str) -> str:
    return WORLD.policy_text(computation="\n".join(sections))


def policy(*sections: str) -> Policy:
    return Policy.parse(policy_text(*sections).encode(), known_roots=ROOTS)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    StudyState(tmp_path, ROOTS).accept(
        WORLD.agreement(policy_text(computation(LEAST, RANGE))), WORLD.carol, AT
    )
    return tmp_path


def test_tasks_that_differ_by_one_person_use_up_the_budget(state: Path) -> None:
    """R07: the sum of those from 40 on, less that of those from 41 on. Refused or not, each
    counts; the fourth is not released."""
    agreed = policy(computation(LEAST, RANGE))
    for number in range(3):
        reserve(state, number, agreed)
    with Journal.open(state) as journal:
        asked = Asked.of(agreed, "train", "train_party_1")
        assert left(journal.records, asked).left == 0
        require_uses_left(journal.records, asked, digest(2))  # the same task again
        with refused(UsesExhausted):
            require_uses_left(journal.records, asked, digest(3))


def test_another_statement_about_the_same_columns(state: Path) -> None:
    """R07: another text, another order of words, a filter: what is learnt is the same."""
    reserve(state, 1, policy(computation(LEAST, RANGE)))
    other = "SELECT avg(AGE) AS m FROM train_party_1 WHERE age < 50"
    with Journal.open(state) as journal:
        asked = Asked.of(policy(computation(other)), "train", "train_party_1")
        assert left(journal.records, asked).used == 1
        wider = "SELECT y, avg(age) AS m FROM train_party_1 GROUP BY y ORDER BY y"
        renamed = computation(wider).replace('id = "train"', 'id = "more"')
        assert left(journal.records, Asked.of(policy(renamed), "more", "train_party_1")).used == 0


@pytest.mark.parametrize("value", ["17", "91", "40.5", '"40"', '"40; DROP TABLE train_party_1"'])
def test_value_that_the_policy_does_not_leave_open(value: str) -> None:
    """R03: in range and of the agreed type, or no task."""
    agreed = policy(computation(LEAST, RANGE))
    with refused(TaskParameterDenied):
        Task.new(agreed, "train", "carol-lab", at=AT, parameters={"least": json.loads(value)})
    Task.new(agreed, "train", "carol-lab", at=AT, parameters={"least": 40})


def test_what_is_learnt_together_is_said() -> None:
    """Before anybody signs: two tables can be subtracted, and a task chooses by whom."""
    assert not [*together(policy(computation(AGREED)))]
    second = computation(AGREED).replace('id = "train"', 'id = "again"')
    (said,) = together(policy(computation(AGREED), second))
    assert "train and again allow" in said
    assert "6 results about age" in said
    assert len([*together(policy(computation(LEAST, RANGE)))]) == 2


def test_preview_of_a_table(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be released in shape; the journal stays as it is."""
    monkeypatch.setattr("verifier.shell.now", lambda: AT)
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    words: list[Any] = ["preview", "--party", WORLD.carol.folder, "--state", state]
    words += ["--study", policy(computation(AGREED)).study, "--computation", "train"]
    told = json.loads(typed(task_commands, (*words, "--set", "least=40", "--json")).stdout)
    assert told["table"]["columns"] == [{"name": "s", "holds": "a sum, rounded"}]
    assert told["parameters"]["least"] == 40
    assert told["uses"] == 3
    assert "s: a sum, rounded" in typed(task_commands, (*words, "--set", "least=40")).stdout
    typed(task_commands, (*words, "--set", "least=4"), status=6)
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
