"""Vertical data: rows of two owners about one person become one row, inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from enclave_app import compute as computing
from enclave_app.computations import COMPUTATIONS
from enclave_app.compute import own_reasons, required
from enclave_app.gate import Input
from enclave_app.join import joined
from policy.advice import advices
from policy.difference import Effect, differences
from policy.document import Policy, PolicyInvalid
from policy.join import Join
from policy.sentences import computation_sentences
from policy.sql_check import require_statements
from tests.enclave_app.agreed import Agreed, computation
from tests.support.parties import Consortium
from tests.support.refusal import refused

CLINIC = '{ patient = "string", age = "float64", bmi = "float64" }'
LAB = '{ patient = "string", marker = "float64", visits = "int64", y = "int64" }'
JOIN = 'join = { key = "patient", kind = "inner", max_unmatched_share = 0.5 }'
MODEL = ("logistic_regression", 'features = ["age", "bmi", "marker"], label = "y", max_iter = 200')
MEANS = ("summary_statistics", 'columns = ["age", "marker"]')


def agreed(
    run: tuple[str, str], output: str, join: str = JOIN, *, clinic: str = CLINIC, lab: str = LAB
) -> Agreed:
    """Alice has the clinic's columns and Bob the laboratory's."""
    consortium = Consortium.create(columns=clinic)
    section = computation(*run, [output], minimum=10).replace("release =", f"{join}\nrelease =")
    text = consortium.policy_text(computation=section)
    first, second, third = text.split(f"columns = {clinic}")
    raw = f"{first}columns = {clinic}{second}columns = {lab}{third}".encode()
    return Agreed(consortium, Policy.parse(raw, known_roots=frozenset({"intel", "simulation"})))


def owners(count: int = 240, both: int = 200, seed: int = 3) -> tuple[pa.Table, pa.Table]:
    """So many persons each, of whom some are in both, in an order of their own."""
    random = np.random.default_rng(seed)
    marker = random.normal(0, 1, count)
    age = random.normal(50, 9, count)
    y = (age / 9 + marker + random.normal(0, 1, count) > 50 / 9).astype(np.int64)
    visits = random.integers(1, 9, count)
    here = pa.table(
        {
            "patient": [f"p{i}" for i in range(count)],
            "age": age,
            "bmi": random.normal(25, 4, count),
        }
    )
    names = [f"p{i}" if i < both else f"q{i}" for i in range(count)]
    there = pa.table({"patient": names, "marker": marker, "visits": visits, "y": y})
    return here, there.take(random.permutation(count))


def merged(here: pa.Table, there: pa.Table, how: Any = "inner") -> pd.DataFrame:
    return here.to_pandas().merge(there.to_pandas(), on="patient", how=how).sort_values("patient")


# What it is good for.


def test_a_model_of_features_of_two_owners() -> None:
    """The same as over the table that nobody may have, by another library."""
    here, there = owners()
    found = agreed(MODEL, "model_weights").answer(here, there)["model_weights"]
    table = merged(here, there)
    features = table[["age", "bmi", "marker"]].to_numpy()
    # The ends are pulled in, as without a join.
    k = max(1, min(10, len(table) // 20))
    for column in features.T:
        ordered = np.sort(column)
        np.clip(column, ordered[k - 1], ordered[-k], out=column)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
    model.fit((features - mean) / deviation, table["y"])
    assert found["coefficients"] == pytest.approx(model.coef_[0] / deviation, rel=1e-4)
    assert len(table) == 200


def test_statistics_of_matched_persons() -> None:
    here, there = owners()
    found = agreed(MEANS, "statistics").answer(here, there)["statistics"]
    table = merged(here, there)
    assert found["age"]["mean"] == pytest.approx(table["age"].mean(), rel=1e-5)
    assert found["marker"]["standard_deviation"] == pytest.approx(table["marker"].std(), rel=1e-5)


def test_rows_of_the_first_input_that_stay() -> None:
    """In a left join a mean of Alice's column is one over all of her rows."""
    here, there = owners()
    found = agreed(MEANS, "statistics", JOIN.replace("inner", "left")).answer(here, there)
    table = merged(here, there, "left")
    assert len(table) == 240
    assert found["statistics"]["age"]["mean"] == pytest.approx(table["age"].mean(), rel=1e-5)
    assert found["statistics"]["marker"]["mean"] == pytest.approx(table["marker"].mean(), rel=1e-5)


def test_visits_of_a_person_become_their_mean() -> None:
    here, there = owners()
    often = pa.concat_tables([there, there.slice(0, 120)])
    join = JOIN.replace(" }", ', means_of = ["train_party_2"] }')
    once, twice = agreed(MEANS, "statistics", join), agreed(MEANS, "statistics")
    assert once.document(here, often) == once.document(here, there)
    assert twice.answer(here, often) == "key-twice"


def test_a_table_over_joined_rows() -> None:
    """Agreed SQL sees one table, and the enclave counts its persons."""
    statement = (
        "SELECT visits, count(*) AS n FROM joined WHERE age > 30 GROUP BY visits ORDER BY visits"
    )
    parameters = (
        f"statement = {json.dumps(statement)}, max_groups = 50, memory_mebibytes = 64, seconds = 20"
    )
    join = JOIN.replace(" }", ", tells_size = true }")
    world = agreed(("sql", parameters), "table", join)
    require_statements(world.policy)
    here, there = owners()
    table = merged(here, there)
    wanted = table[table["age"] > 30].groupby("visits").size()
    found = {row["visits"]: row["n"] for row in world.answer(here, there)["table"]["rows"]}
    assert found == {int(v): int(n) for v, n in wanted.items() if n >= 10}
    assert len(found) >= 5


def test_the_order_of_rows_and_batches_says_nothing() -> None:
    """R15: bit for bit, as rows are in the order of their keys."""
    here, there = owners()
    random = np.random.default_rng(0)
    for run, output in ((MODEL, "model_weights"), (MEANS, "statistics")):
        world, documents = agreed(run, output), set()
        for size in (240, 7):
            parts = [
                pa.Table.from_batches(
                    t.take(random.permutation(len(t)))
                    .combine_chunks()
                    .to_batches(max_chunksize=size)
                )
                for t in (here, there)
            ]
            documents.add(world.document(*parts))
        assert len(documents) == 1


def test_the_worked_policy_of_the_page() -> None:
    """As docs/computations.md has it: visits of a person become means, and a model comes of it."""
    page = (Path(__file__).parents[2] / "docs/computations.md").read_text("utf-8")
    section = page.partition("## Joins\n")[2].partition("```toml\n")[2].partition("```")[0]
    section = section.replace('id = "example"', 'id = "train"').replace("= 100,", "= 20,")
    world = agreed(MEANS, "statistics")
    text = world.policy.raw.decode()
    text = text[: text.index("[[computation]]")] + section
    policy = Policy.parse(text.encode(), known_roots=frozenset({"intel", "simulation"}))
    here, there = owners()
    often = pa.concat_tables([here, here.slice(0, 100)])
    found = Agreed(world.consortium, policy).answer(often, there)["model_weights"]
    assert found["features"] == ["age", "marker"]
    assert all(coefficient > 0 for coefficient in found["coefficients"])


# Who would gain by it.


def test_provider_that_guesses_keys() -> None:
    """R06: Bob sends every number that Alice's clinic could have given, and learns of those that
    match. Without a limit her persons are described to him; with one, nothing is."""
    here, _ = owners(both=240)
    random = np.random.default_rng(1)
    guessed = pa.table(
        {
            "patient": [f"p{i}" for i in range(5000)],
            "marker": random.normal(0, 1, 5000),
            "visits": random.integers(1, 9, 5000),
            "y": random.integers(0, 2, 5000),
        }
    )
    world = agreed(MEANS, "statistics")
    assert world.answer(here, guessed) == "too-many-unmatched"
    anything = agreed(MEANS, "statistics", JOIN.replace("0.5", "1.0"))
    mean = anything.answer(here, guessed)["statistics"]["age"]["mean"]
    assert mean == pytest.approx(np.mean(here.column("age")), rel=1e-5)


def test_as_many_matches_as_were_agreed() -> None:
    """The twin: one key fewer without a match."""
    here, there = owners(count=100, both=50)
    world = agreed(MEANS, "statistics")
    assert "statistics" in world.answer(here, there)
    fewer = owners(count=100, both=49)
    assert world.answer(*fewer) == "too-many-unmatched"


def test_fewer_than_k_persons_have_a_match() -> None:
    """R05: each input has enough, and those that both have are nine."""
    world = agreed(MEANS, "statistics", JOIN.replace("0.5", "1.0"))
    assert world.answer(*owners(count=60, both=9)) == "too-few-subjects"
    assert "statistics" in world.answer(*owners(count=60, both=30))


@pytest.mark.parametrize(("both", "leaves"), [(100, True), (99, False), (91, False), (90, True)])
def test_the_few_who_have_no_match(both: int, leaves: bool) -> None:
    """R08: Alice knows the mean of all of her hundred rows, and so that of the one left out."""
    found = agreed(MEANS, "statistics").answer(*owners(count=100, both=both))
    assert (found if isinstance(found, str) else "") == ("" if leaves else "unmatched-too-few")


def test_households_in_which_few_persons_are_many_rows() -> None:
    """R06: joined on another column, each input's persons are counted: Bob's rows are of nine."""
    clinic = CLINIC.replace(" }", ', household = "int64" }')
    lab = LAB.replace(" }", ', household = "int64" }')
    join = JOIN.replace('"patient"', '"household"')
    world = agreed(MEANS, "statistics", join, clinic=clinic, lab=lab)
    here, there = owners(count=100, both=100)
    numbers = pa.array(range(100))
    here = here.append_column("household", numbers)
    few = pa.array([f"p{i % 9}" for i in range(100)])
    many = there.append_column("household", numbers)
    assert "statistics" in world.answer(here, many)
    assert world.answer(here, many.set_column(0, "patient", few)) == "too-few-subjects"


def test_no_outcome_tells_how_many_matched() -> None:
    """R15, R20: a result, and each refusal that depends on rows, is as long as every other."""
    world = agreed(MEANS, "statistics")
    long = {len(world.document(*owners(both=both))) for both in (240, 230, 200)}
    assert len(long) == 1
    denial = computing.denied(world.policy, world.task).ciphertexts["carol-lab"]
    outcome = computing.compute(world.policy, world.task, owners())
    assert len(outcome.ciphertexts["carol-lab"]) == len(denial)  # type: ignore[union-attr]


def test_provider_is_told_of_its_own_rows_alone() -> None:
    """That a key is twice among them, and never what has a match."""
    consortium = agreed(MEANS, "statistics").consortium
    base = agreed(MEANS, "statistics")
    text = base.policy.raw.decode().replace(
        "significant_digits = 6 }", 'significant_digits = 6, reasons = "own input" }'
    )
    policy = Policy.parse(text.encode(), known_roots=frozenset({"intel", "simulation"}))
    task = Agreed(consortium, policy).task
    here, there = owners(both=0)
    twice = pa.concat_tables([there, there.slice(0, 1)])
    assert own_reasons(policy, task, [here, there], lambda: None) == {
        "train_party_1": "",
        "train_party_2": "",
    }
    found = own_reasons(policy, task, [here, twice], lambda: None)
    assert found == {"train_party_1": "", "train_party_2": "key-twice"}


# What a policy must say.


@pytest.mark.parametrize(
    ("join", "path"),
    [
        (JOIN.replace('"patient"', '"age"'), "computation[0].join.key"),
        (JOIN.replace('"patient"', '"nothing"'), "computation[0].join.key"),
        (JOIN.replace('"inner"', '"outer"'), "computation[0].join.kind"),
        (JOIN.replace("0.5", "1.5"), "computation[0].join.max_unmatched_share"),
        (
            JOIN.replace(", max_unmatched_share = 0.5", ""),
            "computation[0].join.max_unmatched_share",
        ),
        (JOIN.replace(" }", ', means_of = ["other"] }'), "computation[0].join.means_of[0]"),
        (JOIN.replace(" }", ", means_of = [] }"), "computation[0].join.means_of"),
    ],
)
def test_join_that_is_not_agreed(join: str, path: str) -> None:
    agreed(MEANS, "statistics")
    with refused(PolicyInvalid) as seen:
        agreed(MEANS, "statistics", join)
    assert path in {problem.path for problem in seen.error.problems}


def test_output_that_tells_how_many_matched() -> None:
    """The number of rows with a value is the number of matches."""
    with refused(PolicyInvalid) as seen:
        agreed(MEANS, "counts")
    assert {problem.path for problem in seen.error.problems} == {"computation[0].join.tells_size"}
    told = agreed(MEANS, "counts", JOIN.replace(" }", ", tells_size = true }"))
    assert told.answer(*owners())["counts"] == {"age": 200, "marker": 200}


def test_column_that_both_have() -> None:
    """Which of them is meant, nobody could say."""
    lab = LAB.replace(" }", ', age = "float64" }')
    with refused(PolicyInvalid) as seen:
        agreed(MEANS, "statistics", lab=lab)
    assert {problem.path for problem in seen.error.problems} == {
        "computation[0].parameters.columns"
    }


def test_column_named_like_one_of_the_enclaves() -> None:
    """It would take the place of the persons, who are then whatever its provider says."""
    lab = LAB.replace("marker", "ratls_person_0")
    run = (MEANS[0], MEANS[1].replace("marker", "ratls_person_0"))
    with refused(PolicyInvalid) as seen:
        agreed(run, "statistics", lab=lab)
    assert {problem.path for problem in seen.error.problems} == {
        "computation[0].parameters.columns"
    }
    keyed = [text.replace("patient", "Ratls_person_1") for text in (CLINIC, LAB)]
    with refused(PolicyInvalid) as seen:
        agreed(
            MEANS, "statistics", JOIN.replace("patient", "Ratls_person_1"),
            clinic=CLINIC[:-2] + ', Ratls_person_1 = "int64" }', lab=keyed[1],
        )  # fmt: skip
    assert "computation[0].join.key" in {problem.path for problem in seen.error.problems}


def test_label_of_several_rows() -> None:
    """A mean of labels is none."""
    join = JOIN.replace(" }", ', means_of = ["train_party_2"] }')
    with refused(PolicyInvalid) as seen:
        agreed(MODEL, "model_weights", join)
    assert {problem.path for problem in seen.error.problems} == {"computation[0].parameters.label"}


def test_what_the_parties_read() -> None:
    """Who signs is told what is joined, how, and what is said about its size."""
    policy = agreed(MEANS, "statistics").policy
    said = " ".join(computation_sentences(policy, policy.computation[0]))
    for words in ("rows of train_party_1 and train_party_2", "patient", "50%", "nothing says"):
        assert words in said


def test_what_lint_says_of_many_guessed_keys() -> None:
    """Advice, not a refusal: two owners may share few persons."""
    path = "computation[0].join.max_unmatched_share"
    for share, said in (("0.5", False), ("0.6", True)):
        policy = agreed(MEANS, "statistics", JOIN.replace("0.5", share)).policy
        assert (path in {found.path for found in advices(policy)}) == said


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        ("0.5", "0.6", "allows"),
        ("0.6", "0.5", "forbids"),
        (" }", ", tells_size = true }", "allows"),
        (" }", ', means_of = ["train_party_2"] }', "allows"),
    ],
)
def test_what_another_version_allows(old: str, new: str, effect: Effect) -> None:
    """Who signs the next version reads what it lets others learn."""
    texts = [JOIN.replace("0.5", old) if old != " }" else JOIN]
    texts.append(texts[0].replace(old, new))
    before, after = (agreed(MEANS, "statistics", text).policy for text in texts)
    found = [d for d in differences(before, after) if ".join" in d.path]
    assert [d.effect for d in found] == [effect]


# As it is made.


def test_three_inputs_in_the_order_of_their_keys() -> None:
    rows = {
        name: Input(pa.table({"k": keys, name: [float(key) for key in keys]}), "k")
        for name, keys in (("a", [3, 1, 2, 9]), ("b", [2, 3, 7, 1]), ("c", [1, 5, 3, 2]))
    }
    join = Join(key="k", kind="inner", max_unmatched_share=1.0)
    [only] = joined(join, rows).views
    assert only["joined"].table.to_pydict() == {
        "k": [1, 2, 3],
        "a": [1.0, 2.0, 3.0],
        "b": [1.0, 2.0, 3.0],
        "c": [1.0, 2.0, 3.0],
    }
    left = joined(join.model_copy(update={"kind": "left"}), rows).views[0]["joined"].table
    assert left.column("b").to_pylist() == [1.0, 2.0, 3.0, None]


def test_its_memory_is_counted() -> None:
    """What a join takes beside its rows is asked for before a row is released."""
    world = agreed(MEANS, "statistics")
    alone = COMPUTATIONS["summary_statistics"].need(world.task.resolved_parameters(world.policy))
    needed = required(world.policy, world.task, 1 << 40)
    assert needed.per_row > alone.per_row
    assert needed.copies == alone.copies + 2
