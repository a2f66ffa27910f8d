"""What a signer reads: the policy in sentences, and what a new version changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.difference import HEADINGS, Difference, differences, markdown
from policy.document import Policy, digest_text
from policy.sentences import sections
from tests.policy.desk import WORLD, Desk
from tests.support.parties import ROOTS, Consortium

FIRST = WORLD.policy()
RELEASE = "computation.train.release"


def second(*replace: tuple[str, str], **sections_: str) -> Policy:
    """Version 2, with these pieces of version 1 replaced."""
    text = WORLD.policy_text(
        replace, version="2", previous=f'"{digest_text(FIRST.digest)}"', **sections_
    )
    return Policy.parse(text.encode(), known_roots=ROOTS)


def changes(new: Policy, old: Policy = FIRST) -> list[Difference]:
    """All but what differs in every new version."""
    return [d for d in differences(old, new) if d.path not in ("version", "previous")]


def test_each_party_reads_what_it_gives_and_receives() -> None:
    parts = {s.heading: " ".join(s.sentences) for s in sections(FIRST)}
    assert [*parts] == [
        "The agreement",
        "alice-clinic (provider)",
        "bob-hospital (provider)",
        "carol-lab (recipient and submitter)",
        "Where it is computed",
    ]
    alice = parts["alice-clinic (provider)"]
    assert "lets columns age, bmi and y of train_party_1 be used for train" in alice
    assert "at most 10 times, until" in alice
    assert "carol-lab alone receives model_weights" in alice
    assert "carol-lab may start train" in parts["carol-lab (recipient and submitter)"]
    assert WORLD.mr_enclave in parts["Where it is computed"]


def test_what_is_left_open_is_said() -> None:
    open_ = WORLD.policy(
        replace=[
            ('features = ["age", "bmi"]', 'features = ["age"]'),
            ("[" + ", ".join(f'"{m}"' for m in WORLD.machines) + "]", '"any genuine platform"'),
            (
                "min_isv_svn = 0",
                'min_isv_svn = 0\nattributes = { flags_mask = "3700000000000000" }',
            ),
        ]
    )
    said = " ".join(s for part in sections(open_) for s in part.sentences)
    assert "No computation uses bmi of train_party_1" in said
    assert "who runs it is not known" in said
    assert "not the usual ones" in said


def test_names_of_another_script_are_shown_by_their_numbers() -> None:
    world = Consortium.create(
        WORLD.at,
        columns='{ patient = "string", "年龄" = "int64", y = "int64" }',
        features='["年龄"]',
    )
    said = " ".join(s for part in sections(world.policy()) for s in part.sentences)
    assert r"年龄 ('\u5e74\u9f84')" in said


@pytest.mark.parametrize(
    ("old", "new", "path", "effect"),
    [
        ("uses = 10", "uses = 30", "computation.train.uses", "allows"),
        ("uses = 10", "uses = 3", "computation.train.uses", "forbids"),
        ("uses = 10", "uses = 10\nmin_owners = 2", "computation.train.min_owners", "forbids"),
        ("_input = 20", "_input = 10", f"{RELEASE}.min_subjects_per_input", "allows"),
        ("_input = 20", "_input = 30", f"{RELEASE}.min_subjects_per_input", "forbids"),
        ("digits = 6", "digits = 5", "computation.train.release.significant_digits", "forbids"),
        ("max = 5000", "max = 5001", "computation.train.parameters.max_iter", "allows"),
        ("max = 5000", "max = 4999", "computation.train.parameters.max_iter", "forbids"),
        ('["age", "bmi"]', '["bmi"]', "computation.train.parameters.features", "allows"),
        (
            "{ min = 50, max = 5000 }",
            "{ choose = [50, 60] }",
            "computation.train.parameters.max_iter",
            "forbids",
        ),
        (
            "significant_digits = 6",
            'significant_digits = 6, reasons = "own input"',
            "computation.train.release.reasons",
            "allows",
        ),
        ('["UpToDate"]', '["UpToDate", "OutOfDate"]', "platform.tcb_statuses", "allows"),
        ("ries = []", 'ries = ["INTEL-SA-00001"]', "platform.accepted_advisories", "allows"),
        ("_number = 1", "_number = 2", "platform.min_tcb_evaluation_data_number", "forbids"),
        ("2020-01-01", "2019-01-01", "platform.min_tcb_date", "allows"),
        ("age_days = 30", "age_days = 31", "platform.max_collateral_age_days", "allows"),
        ("machines = [", 'machines = ["ppid:' + "cd" * 16 + '", ', "platform.machines", "allows"),
        ("min_isv_svn = 0", "min_isv_svn = 1", "enclave.joint-training-1.0.min_isv_svn", "forbids"),
        (WORLD.mr_enclave, "ab" * 32, "enclave.joint-training-1.0.mr_enclave", "allows"),
        ('threshold = "all"', "threshold = 2", "threshold", "allows"),
        ('["provider"]', '["provider", "operator"]', "party.alice-clinic.roles", "allows"),
    ],
)  # fmt: skip
def test_a_change_is_told_with_its_direction(old: str, new: str, path: str, effect: str) -> None:
    later = second((old, new))
    found = {d.path: d.effect for d in changes(later)}
    assert found.pop(path) == effect
    if effect == "forbids":  # and the way back is a new permission
        assert {d.path: d.effect for d in changes(FIRST, later)}[path] == "allows"
    # What one text is for two datasets or parties differs for both.
    assert all(other.split(".")[2:] == path.split(".")[2:] for other in found)


def test_raised_uses_say_for_whom_and_of_whose_rows() -> None:
    """Version 2 raised `uses` from 3 to 30, and the signer saw "unchanged" ten times."""
    (found,) = changes(second(("uses = 10", "uses = 30")))
    assert (found.whom, found.rows) == (("carol-lab",), ("alice-clinic", "bob-hospital"))
    assert "at most 30 times" in str(found)
    assert "before 10" in str(found)


def test_entries_that_come_or_go_are_told_whole() -> None:
    more = '[[computation]]\nid = "count"\nrun = "private_set_intersection"\n'
    more += 'inputs = ["train_party_1", "train_party_2"]\nparameters = { key = "patient" }\n'
    more += 'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 1\n'
    more += 'release = { outputs = ["intersection_ids"], min_subjects_per_input = 20, '
    more += "significant_digits = 6 }\n"
    wider = second(computation=WORLD.sections()["computation"] + more)
    (came,) = changes(wider)
    assert (came.effect, came.path) == ("allows", "computation.count")
    assert "intersection_ids" in came.text
    (gone,) = changes(FIRST, wider)
    assert (gone.effect, gone.path) == ("forbids", "computation.count")


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        ('bmi = "float64", y', 'bmi = "float64?", y', "allows"),
        ("max = 120", "max = 121", "allows"),
        ("max = 120", "max = 119", "forbids"),
        (", max = 120", "", "allows"),
        (', y = "int64"', ', y = "int64", z = "int64"', "allows"),
    ],
)
def test_columns_are_compared_by_their_domains(old: str, new: str, effect: str) -> None:
    world = Consortium.create(WORLD.at, features='["age"]')
    first = world.policy()
    text = world.policy_text([(old, new)], version="2", previous=f'"{digest_text(first.digest)}"')
    found = changes(Policy.parse(text.encode(), known_roots=ROOTS), first)
    assert {d.effect for d in found} == {effect}
    assert all(d.path.startswith("dataset.train_party_") for d in found)


def test_a_table_that_demands_more_of_machines_allows_nothing() -> None:
    platform = WORLD.sections()["platform"]
    wanted = second(platform=platform + "[platform.configuration]\nallow_smt = true\n\n")
    assert {d.effect for d in changes(wanted)} == {"forbids"}
    assert {d.effect for d in changes(FIRST, wanted)} == {"allows"}


def test_a_value_without_a_known_direction_counts_as_a_new_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A field that somebody adds to the schema must not be left out of the diff."""
    monkeypatch.setattr(
        "policy.difference.as_json",
        lambda policy: {"version": 1, "a_new_field": policy.version},
    )
    found = [d for d in differences(FIRST, second()) if d.path == "a_new_field"]
    assert [d.effect for d in found] == ["allows"]


def test_comments_and_order_change_nothing() -> None:
    text = WORLD.policy_text() + "# uses = 1000\n"
    assert changes(Policy.parse(text.encode(), known_roots=ROOTS)) == []


def test_the_answer_can_be_pasted_into_a_review() -> None:
    new = second(("uses = 10", "uses = 30"))
    lines = markdown(FIRST, new, differences(FIRST, new)).split("\n")
    assert [line for line in lines if line.startswith("## ")] == [
        f"## {heading}" for heading in HEADINGS.values()
    ]
    assert lines.index("## Newly allowed") < lines.index("## No longer allowed")


def test_the_commands_show_and_diff(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    old = desk.write("old.toml", FIRST.raw)
    new = desk.write("new.toml", second(("uses = 10", "uses = 30")).raw)
    told = desk.run("policy", "diff", old, new)
    assert "- for carol-lab: train at most 30 times over each dataset, before 10" in told
    facts = desk.json("policy", "diff", old, new)["differences"]
    assert facts[0]["path"] == "computation.train.uses"
    assert "carol-lab alone receives" in desk.run("policy", "show", old)
    assert "min 50, max 5000" in desk.run("policy", "show", old, "--fields")
    assert desk.json("policy", "show", old)["says"][0]["heading"] == "The agreement"
    desk.run("policy", "diff", old, desk.write("bad.toml", "x = 1\n"), status=3)


def test_the_signer_sees_sentences_and_then_the_change(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first = desk.write("study.toml", FIRST.raw)
    assert "carol-lab alone receives model_weights" in desk.sign(first, "alice-clinic")
    for name in ("bob-hospital", "carol-lab"):
        desk.sign(first, name)
    agreed = desk.folder / "study.agreement.json"
    assert "carol-lab alone receives" in desk.accept(agreed, "alice-clinic")
    later = desk.write("study-2.toml", second(("uses = 10", "uses = 30")).raw)
    told = desk.sign(later, "alice-clinic")
    assert "train at most 30 times over each dataset, before 10" in told
    assert "alone receives" not in told
