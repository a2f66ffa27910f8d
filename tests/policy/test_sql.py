"""Agreed SQL before anybody signs: a corpus of statements, and the commands that refuse them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.agreement_file import sign_file
from policy.computations import columns_used, named_in
from policy.document import Policy, PolicyInvalid
from policy.sections import Column, Dataset
from policy.sql import statement_faults
from policy.sql_check import StatementRefused, require_statements
from policy.sql_words import FUNCTIONS
from policy.state import StudyState
from tests.support.parties import AT, ROOTS, Consortium
from tests.support.refusal import count_refusal, refused

CORPUS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors/sql/statements.json").read_text("utf-8")
)
WORLD = Consortium.create()
AGREED = "SELECT age, count(*) AS n FROM train_party_1 GROUP BY age ORDER BY age"


def datasets(names: Sequence[str]) -> list[Dataset]:
    column = Column.model_validate({"type": "string"})
    return [
        Dataset.model_validate(
            {
                "id": name,
                "owner": "alice-clinic",
                "subject": CORPUS["subject"],
                "columns": {c: {"type": column.type} for c in CORPUS["columns"][name]},
                "max_rows": 1,
            }
        )
        for name in names
    ]


def computation(statement: str, more: str = "", inputs: str = '["train_party_1"]') -> str:
    return (
        f'[[computation]]\nid = "train"\nrun = "sql"\ninputs = {inputs}\n'
        'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 3\n'
        'release = { outputs = ["table"], min_subjects_per_input = 3, significant_digits = 6 }\n'
        "[computation.parameters]\n"
        f"statement = {json.dumps(statement)}\nmax_groups = 100\nmemory_mebibytes = 64\n"
        f"seconds = 10\n{more}\n"
    )


def policy(statement: str, more: str = "") -> Policy:
    return WORLD.policy(computation=computation(statement, more))


def test_the_corpus_is_as_large_as_it_was_agreed() -> None:
    assert len(CORPUS["refused"]) >= 100
    assert len(CORPUS["accepted"]) >= 40


@pytest.mark.parametrize("case", CORPUS["refused"], ids=lambda case: case["statement"][:60])
def test_statement_that_says_more_than_groups(case: dict[str, Any]) -> None:
    """R03, R04, R09: files, other statements, strings of SQL, rows, bombs; with the place."""
    count_refusal()
    first = statement_faults(case["statement"], datasets(case["inputs"]))[0]
    assert (first.at, first.reason) == (case["at"], case["reason"])


@pytest.mark.parametrize("case", CORPUS["accepted"], ids=lambda case: case["statement"][:60])
def test_statement_of_groups(case: dict[str, Any]) -> None:
    assert not statement_faults(case["statement"], datasets(case["inputs"]), case["parameters"])


def test_policy_with_an_agreed_statement() -> None:
    require_statements(policy(AGREED))


def test_policy_with_a_statement_that_reads_files(tmp_path: Path) -> None:
    """R03: nobody signs it, and nobody takes it into force."""
    statement = "SELECT count(*) AS n FROM train_party_1 JOIN read_csv('/etc/passwd') USING (age)"
    text = WORLD.policy_text(computation=computation(statement))
    with refused(StatementRefused) as seen:
        require_statements(policy(statement))
    assert isinstance(seen.error, StatementRefused)
    (problem,) = {p.path for p in seen.error.problems}
    assert problem == "computation[0].parameters.statement"
    assert all(p.line is not None for p in seen.error.problems)
    with refused(StatementRefused):
        sign_file(tmp_path / "a.json", WORLD.agreement(text), WORLD.alice)
    with refused(StatementRefused):
        StudyState(tmp_path, ROOTS).accept(WORLD.agreement(text), WORLD.alice, AT)
    agreed = WORLD.policy_text(computation=computation(AGREED))
    StudyState(tmp_path, ROOTS).accept(WORLD.agreement(agreed), WORLD.alice, AT)


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("least = [1, 2]", "least"),
        ("Least = 1", "Least"),
        ('least = { choose = [1, "a"] }', "least"),
    ],
)
def test_parameter_that_cannot_be_bound(more: str, path: str) -> None:
    """R03: a parameter is one value of one type under a plain name, never a part of the text."""
    with refused(PolicyInvalid) as seen:
        policy(AGREED, more)
    assert isinstance(seen.error, PolicyInvalid)
    assert [p.path for p in seen.error.problems] == [f"computation[0].parameters.{path}"]


def test_statement_that_a_task_would_choose() -> None:
    with refused(PolicyInvalid) as seen:
        WORLD.policy(
            computation=computation(AGREED).replace(
                f"statement = {json.dumps(AGREED)}", 'statement = { choose = ["a", "b"] }'
            )
        )
    assert isinstance(seen.error, PolicyInvalid)
    assert [p.path for p in seen.error.problems] == ["computation[0].parameters.statement"]


def test_parameter_within_limits_and_bound() -> None:
    statement = AGREED.replace("GROUP", "WHERE age >= $least GROUP")
    require_statements(policy(statement, "least = { min = 18, max = 90 }"))
    with refused(StatementRefused):
        require_statements(policy(AGREED, "least = { min = 18, max = 90 }"))
    with refused(StatementRefused):
        require_statements(policy(statement))


def test_columns_are_those_whose_names_stand_in_the_text() -> None:
    found = policy(AGREED)
    assert columns_used(found.computation[0], [found.dataset[0]]) == ["age"]
    assert named_in('SELECT "Age" FROM t', ["age", "page", "y"]) == ["age"]


@given(
    st.lists(
        st.sampled_from(
            [
                *AGREED.split(),
                "(",
                ")",
                ",",
                "'",
                '"',
                ";",
                "$x",
                "UNION ALL",
                "WITH a AS",
                "1",
                "*",
                "JOIN",
                "USING",
                "--",
                "/*",
                "\\",
                "SELECT",
                *FUNCTIONS,
            ]
        ),
        max_size=30,
    )
)
def test_any_words_are_judged_and_nothing_else(words: list[str]) -> None:
    """A list of faults, for whatever stands there."""
    statement_faults(" ".join(words), datasets(["visits"]))


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    statement_faults(text, datasets(["visits"]))
