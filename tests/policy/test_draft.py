"""`ratls policy new`: a draft has blanks, and lints clean once they are filled in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policy.computations import DECLARED
from policy.draft import BlockMalformed, blank_lines, blocks_in
from policy.syntax import PolicySyntax
from tests.policy.desk import APP, WORLD, Desk
from tests.policy.test_cli import filled
from tests.support.parties import instant
from tests.support.refusal import count_refusal, refused

EXPIRES = instant(WORLD.at.replace(year=WORLD.at.year + 1))
PARTIES = [
    str(word)
    for name in ("alice", "bob", "carol")
    for word in ("--party-file", getattr(WORLD, name).folder / "party.toml")
]
NEW = ("policy", "new", "--study", "s", *PARTIES, "--expires", EXPIRES)
BLOCK = """[[dataset]]
id = "train"
owner = "alice-clinic"
subject = "patient"
max_rows = 500

[dataset.columns]
patient = "string"
age = { type = "int64", min = 0, max = 120 }
y = "int64"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def problems(desk: Desk, file: Path, status: int = 0) -> list[str]:
    return [p["path"] for p in desk.json("policy", "lint", file, status=status)["problems"]]


@pytest.mark.parametrize("run", DECLARED)
def test_a_draft_lints_clean_once_its_blanks_are_filled(desk: Desk, run: str) -> None:
    """And not before: each blank is listed by its line."""
    count_refusal()
    draft = desk.folder / "policy.toml"
    told = desk.json(*NEW, "--run", run, "-o", draft)
    text = draft.read_text("utf-8")
    assert told["blank_lines"] == blank_lines(text)
    assert "$" not in text
    report = desk.json("policy", "lint", draft, status=3)
    assert report["blank_lines"] == told["blank_lines"]
    assert "fill in the blank" in {p["fix"] for p in report["problems"]}
    one, two = json.loads(text.partition("\ninputs = ")[2].partition("\n")[0])
    statement = (
        f"WITH r AS (SELECT patient, age FROM '{one}' UNION ALL SELECT patient, age FROM '{two}') "  # noqa: S608
        "SELECT sum(age) AS s FROM r"
    )
    text = text.replace("<statement>", statement.replace("'", '\\"'))
    text = filled(text).replace('key = "<column>"', 'key = "patient"')
    assert blank_lines(text) == []
    draft.write_text(text, "utf-8")
    assert problems(desk, draft) == []


def test_a_draft_from_what_everybody_sent(desk: Desk) -> None:
    """Blocks of datasets and computations: two blanks are left."""
    draft = desk.folder / "policy.toml"
    block = desk.write("alice.toml", BLOCK)
    words = (*NEW, "--dataset", block, "-o")
    desk.run(*words, draft)
    text = draft.read_text("utf-8")
    assert 'inputs = ["train"]' in text
    train = text[text.index("[[computation]]") :].replace('["<columns>"]', '["age"]')
    made = desk.write("train.toml", train.replace("<column>", "y"))
    both = desk.folder / "both.toml"
    machine = ("--machine", "ppid:" + "12" * 16, "--mr-enclave", "ab" * 32)
    told = desk.json(*words, both, "--computation", made, *machine)
    assert told["blank_lines"] == []
    assert problems(desk, both) == []
    count_refusal()
    desk.run(*words, desk.folder / "x", "--computation", made, "--run", "train", status=2)
    desk.run(*words, desk.folder / "x", "--run", "os.system", status=3)
    assert not (desk.folder / "x").exists()


def test_lines_of_a_table_of_columns_are_found(desk: Desk) -> None:
    """A block has its columns in a table of their own; a problem names the column's line."""
    count_refusal()
    sections = {"train_party_1": BLOCK.replace('"train"', '"train_party_1"') + "\n"}
    text = WORLD.policy_text(**sections).replace('y = "int64"\n', 'y = "integer"\n')
    (problem, *_) = desk.json("policy", "lint", desk.write("p.toml", text), status=3)["problems"]
    assert problem["path"] == "dataset[0].columns.y.type"
    assert problem["line"] == text.split("\n").index('y = "integer"') + 1


ROWS = "patient,age,y,name\n" + "".join(f"p{i},{40 + i % 9},{i % 2},n{i}\n" for i in range(40))


def test_a_draft_with_the_columns_of_a_table(desk: Desk) -> None:
    rows = desk.write("rows.csv", ROWS)
    draft = desk.folder / "policy.toml"
    told = desk.run(*NEW, "--schema-from", rows, "--subject", "patient", "-o", draft)
    assert "left out: 'name'" in told
    text = draft.read_text("utf-8")
    assert text.count('age = { type = "int64", min = 39, max = 49 }') == 2  # for each provider
    draft.write_text(filled(text), "utf-8")
    assert problems(desk, draft) == []
    count_refusal()
    desk.run(*NEW, "--schema-from", rows, "-o", desk.folder / "x", status=2)
    desk.run(*NEW, "--schema-from", rows, "--subject", "who", "-o", desk.folder / "x", status=3)


@pytest.mark.parametrize(
    "text", ["", BLOCK + "\n[platform]\n", '[[dataset]]\nowner = "a"\n', "a = 1"]
)
def test_a_block_that_is_another_text(desk: Desk, text: str) -> None:
    with refused(BlockMalformed):
        blocks_in(desk.write("block.toml", text), "dataset")
    with refused(PolicySyntax):
        blocks_in(desk.write("block.toml", "[[dataset"), "dataset")
    assert blocks_in(desk.write("block.toml", BLOCK), "dataset") == (BLOCK, ["train"])


def test_the_folders_that_parties_sent(desk: Desk) -> None:
    """Keys where `ratls init` makes them, or beside the dataset; neither is a refusal."""
    made, sent = desk.folder / "alice" / "keys", desk.folder / "bob"
    for folder, party in ((made, WORLD.alice), (sent, WORLD.bob)):
        folder.mkdir(parents=True)
        (folder / "party.toml").write_bytes((party.folder / "party.toml").read_bytes())
    (sent / "dataset.toml").write_text(BLOCK)
    words = ("policy", "new", made.parent, sent, "--study", "s", "--expires", EXPIRES)
    desk.run(*words, "-o", desk.folder / "p.toml")
    text = (desk.folder / "p.toml").read_text("utf-8")
    assert 'id = "alice-clinic"' in text
    assert 'id = "bob-hospital"' in text
    assert text.count("[[dataset]]") == 1
    assert BLOCK in text
    count_refusal()
    desk.run(*words, desk.folder, "-o", desk.folder / "x", status=3)
    assert not (desk.folder / "x").exists()


def test_nobody_is_asked_without_a_terminal(desk: Desk) -> None:
    """A script that forgets an option does not hang: it is told which ones."""
    count_refusal()
    told = desk.run("policy", "new", "-o", desk.folder / "x", status=2)
    assert "--study, FOLDER or --party-file, --expires" in re.sub(r"[│\s]+", " ", told)


def test_a_person_at_a_terminal_is_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy.cli_draft.can_ask", lambda: True)
    party = WORLD.alice.folder / "party.toml"
    draft = desk.folder / "policy.toml"
    answers = f"my-study\n{party}\n\n{EXPIRES}\n"
    words = ["policy", "new", "-o", str(draft)]
    done = CliRunner().invoke(APP, words, input=answers)
    assert done.exit_code == 0, done.output
    assert 'study = "my-study"' in draft.read_text("utf-8")
    count_refusal()
    ended = CliRunner().invoke(APP, ["policy", "new", "-o", str(desk.folder / "x")], input="")
    assert ended.exit_code == 2
    assert not (desk.folder / "x").exists()
