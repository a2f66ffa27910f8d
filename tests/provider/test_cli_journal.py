"""`ratls provider journal`: what an auditor reads, and what somebody else did to the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from policy.journal import Journal, JournalMissing, Reading
from policy.journal_chain import JournalAltered, JournalCut, JournalHeadLost
from policy.rows import ValueNotFinite
from provider.cli_provider import provider
from tests.provider.desk import CANARY, Desk
from tests.provider.test_cli import require_refused
from tests.provider.test_journal import AT, reserved, written
from tests.support.enclave import EnclaveWorld, rows
from tests.support.refusal import count_refusal, refused


def journal(*line: str | Path) -> Result:
    return CliRunner().invoke(provider, ["journal", *map(str, line)])


def answers(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_release_is_shown(world: EnclaveWorld, alice: Desk) -> None:
    alice.push(world.task())
    shown = answers(journal("show", "--state", alice.state, "--json"))
    assert [x["kind"] for x in shown] == [
        "placed",
        "accepted",
        "noted",
        "reserved",
        "committed",
        "released",
    ]
    assert [x["seq"] for x in shown] == [0, 1, 2, 3, 4, 5]
    people = journal("show", "--state", alice.state)
    assert "60 rows" in people.stdout
    assert "(simulation)" in people.stdout
    assert CANARY not in people.stdout


def test_a_refusal_is_shown_without_a_cell(world: EnclaveWorld, alice: Desk) -> None:
    """L01."""
    alice.write(rows(1, bmi=[float("nan")] * 60))
    with alice.refuses(ValueNotFinite):
        alice.push(world.task())
    people = journal("show", "--state", alice.state)
    assert f"[{ValueNotFinite.code}]" in people.stdout
    assert CANARY not in people.stdout


def test_one_task_of_many(tmp_path: Path) -> None:
    written(tmp_path, 4)
    task = f"sha256:{2:064x}"
    shown = answers(journal("show", "--state", tmp_path, "--task", task, "--json"))
    assert [x["task"] for x in shown] == [task]
    other = ("show", "--state", tmp_path, "--dataset", "another")
    assert answers(journal(*other, "--json")) == []
    assert "none of" in journal(*other).stderr


def test_an_export_is_the_journal_byte_for_byte(tmp_path: Path) -> None:
    """Whoever has it can check the chain again, with a dozen lines of any language."""
    written(tmp_path / "state")
    output = tmp_path / "out.jsonl"
    (told,) = answers(journal("export", "--state", tmp_path / "state", "-o", output, "--json"))
    assert output.read_bytes() == (tmp_path / "state" / "journal.jsonl").read_bytes()
    previous = "sha256:" + "0" * 64
    for line in output.read_bytes().splitlines():
        assert json.loads(line)["previous"] == previous
        previous = f"sha256:{hashlib.sha256(line).hexdigest()}"
    assert (told["lines"], told["head"]) == (4, previous)
    seen = journal("export", "--state", tmp_path / "state", "-o", output, "--json")
    require_refused(seen, "file-not-written", 3)


def test_an_older_journal_is_put_back_with_its_head(tmp_path: Path) -> None:
    """L06. All that is in the folder fits together; only a head noted elsewhere tells."""
    state = written(tmp_path / "state", 2)
    old = {p: p.read_bytes() for p in state.iterdir()}
    with Journal.open(state) as opened:
        opened.append(reserved(9), AT)
    (noted,) = answers(journal("verify", "--state", state, "--json"))
    assert answers(journal("verify", "--state", state, "--head", noted["head"], "--json"))
    for path, content in old.items():
        path.write_bytes(content)
    assert journal("verify", "--state", state).exit_code == 0
    seen = journal("verify", "--state", state, "--head", noted["head"], "--json")
    require_refused(seen, "journal-cut", 3)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "AB" * 32, "ab" * 32])
def test_a_head_that_is_none(tmp_path: Path, text: str) -> None:
    """A slip of the hand must not look like a journal that was cut."""
    count_refusal()
    assert journal("verify", "--state", written(tmp_path), "--head", text).exit_code == 2
    assert journal("show", "--state", tmp_path, "--task", text).exit_code == 2


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_a_folder_without_a_journal(tmp_path: Path, command: str) -> None:
    """A wrong --state must not read as an empty, faultless journal; nor is one begun there."""
    more: list[str | Path] = ["-o", tmp_path / "out"] if command == "export" else []
    seen = journal(command, "--state", tmp_path / "none", "--json", *more)
    require_refused(seen, JournalMissing.code, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "verify", "export"])
@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda raw: raw[: raw.rfind(b"\n", 0, -1) + 1], JournalCut, id="cut"),
        pytest.param(lambda raw: raw.replace(b"study", b"buddy", 1), JournalAltered, id="edited"),
        pytest.param(lambda raw: raw + raw.splitlines(True)[-1], JournalAltered, id="repeated"),
    ],
)
def test_somebody_edits_the_lines(
    tmp_path: Path, command: str, change: Callable[[bytes], bytes], leaf: Any
) -> None:
    """Nothing of it is shown or exported as if it were the truth."""
    path = written(tmp_path / "state") / "journal.jsonl"
    path.write_bytes(change(path.read_bytes()))
    more: list[str | Path] = ["-o", tmp_path / "out"] if command == "export" else []
    seen = journal(command, "--state", tmp_path / "state", "--json", *more)
    require_refused(seen, leaf.code, 3)
    assert len(seen.stdout.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """A line without its end is healed by the next release, never by an auditor."""
    path = written(tmp_path) / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":"2026')
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    reading = Reading.of(tmp_path)
    assert (reading.head.count, reading.raw) == (4, whole)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_copy_without_its_head(tmp_path: Path) -> None:
    """Without a head nothing says that the end is there."""
    written(tmp_path)
    (tmp_path / "journal.head").rename(tmp_path / "kept")
    with refused(JournalHeadLost):
        Reading.of(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "journal.head")
    assert Reading.of(tmp_path).head.count == 4


def test_the_help_shows_an_example() -> None:
    for command in ("show", "verify", "export"):
        assert "Example: ratls " in journal(command, "--help").output
