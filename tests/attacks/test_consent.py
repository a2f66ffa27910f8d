"""Consent is typed (S16): silence, a pipe, or a yes without its object never sign or accept.

A script that pipes nothing, or `n`, into `ratls policy sign` used to sign; so did one whose policy
file was exchanged after somebody had read it and written `--yes` into the script.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from policy import cli_sign
from policy.cli_sign import ConsentMissing
from policy.document import digest_text
from tests.policy.desk import APP, WORLD, Desk
from tests.support.refusal import count_refusal

OTHER = "sha256:" + "0" * 64


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Asking:
    """A command that needs consent, ready to run but for that."""

    def __init__(self, desk: Desk, command: str) -> None:
        self.desk = desk
        named = ["--party", str(WORLD.alice.folder)]
        if command == "sign":
            self.file = desk.write("study.toml", WORLD.policy_text())
        else:
            self.file = desk.write("study.agreement.json", WORLD.agreement_bytes())
        if command in ("sign", "withdraw"):
            named += ["--passphrase-file", str(desk.pass_file)]
        what = str(self.file)
        if command == "distrust":
            desk.accept(self.file, "alice-clinic")
            what, named = digest_text(WORLD.policy().digest), []
        self.words = ["policy", command, what, *named, "--state", str(desk.folder / "state")]
        self.before = files(desk.folder)

    def run(self, *more: str, typed: str = "") -> Result:
        result = CliRunner().invoke(APP, [*self.words, *more], input=typed)
        assert "Traceback" not in result.output
        return result

    def refuses(self, *more: str, typed: str = "") -> Result:
        """Exit status 2, and not a byte is written anywhere."""
        count_refusal()
        result = self.run(*more, typed=typed)
        assert result.exit_code == 2, result.output
        assert files(self.desk.folder) == self.before
        return result

    def done(self) -> bool:
        return files(self.desk.folder) != self.before


@pytest.fixture(params=["sign", "accept", "withdraw", "distrust"])
def asking(desk: Desk, request: pytest.FixtureRequest) -> Asking:
    return Asking(desk, request.param)


@pytest.mark.parametrize("typed", ["", "n\n", "y\n", "yes\n" * 9])
def test_a_pipe_is_taken_for_an_answer(asking: Asking, typed: str) -> None:
    """`echo n |` signed; `yes |` must not either: a pipe has read nothing."""
    said = asking.refuses("--json", typed=typed)
    assert json.loads(said.stdout)["error"]["code"] == ConsentMissing.code


@pytest.mark.parametrize("words", [["--yes"], ["--yes", "--json"], ["--yes", ""], ["--yes", "y"]])
def test_a_script_says_yes_to_whatever_stands_there(asking: Asking, words: list[str]) -> None:
    asking.refuses(*words)


def test_the_policy_was_exchanged_after_it_was_read(asking: Asking) -> None:
    """The digest is that of another policy than the file has now."""
    said = asking.refuses("--yes", OTHER, "--json")
    assert json.loads(said.stdout)["error"]["code"] == ConsentMissing.code


def test_the_digest_of_what_was_read_is_consent(asking: Asking) -> None:
    """The honest twin, in a script."""
    done = asking.run(*asking.desk.yes(asking.file))
    assert done.exit_code == 0, done.output
    assert asking.done()


@pytest.mark.parametrize(("answer", "status"), [("n\n", 2), ("", 2), ("\n", 2), ("y\n", 0)])
def test_a_person_answers_at_a_terminal(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    """Declined: exit status 2, nothing written. A plain return is no yes."""
    count_refusal()
    monkeypatch.setattr(cli_sign, "can_ask", lambda: True)
    result = asking.run(typed=answer)
    assert result.exit_code == status, result.output
    assert asking.done() == (status == 0)


@pytest.mark.parametrize(
    ("stdin", "stderr", "able"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_who_does_not_see_the_question_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, stdin: bool, stderr: bool, able: bool
) -> None:
    """With stderr in a file the question is never seen, and a stray return would answer it."""

    def stream(terminal: bool) -> io.StringIO:
        made = io.StringIO()
        made.isatty = lambda: terminal  # type: ignore[method-assign]
        return made

    monkeypatch.setattr("sys.stdin", stream(stdin))
    monkeypatch.setattr("sys.stderr", stream(stderr))
    assert cli_sign.can_ask() is able


def test_every_command_with_a_yes_wants_its_digest() -> None:
    """The kind: no command of this installation has a `--yes` that names nothing."""
    import typer.main

    from ratls.cli import build

    def walk(command: Any, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}".strip())
        for option in command.params:
            if "--yes" in option.opts:
                found.append(path)
                assert not option.is_flag, path

    found: list[str] = []
    walk(typer.main.get_command(build()), "")
    assert sorted(found) == [
        "policy accept",
        "policy distrust",
        "policy sign",
        "policy withdraw",
    ]
