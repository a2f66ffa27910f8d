"""`ratls simulation`: what it prints is complete, says what it is, and destroys nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from simulation.cli import app
from simulation.measure import measure
from tests.support.refusal import count_refusal, refused
from verifier.anchors import RootName, TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.collateral import Collateral
from verifier.errors import Exit
from verifier.modes import simulation_lock
from verifier.quote import Quote, Tee
from verifier.verify import QuoteCheck, verify_quote


def ratls_simulation(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(result: Result) -> dict[str, object]:
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_new_makes_a_folder_and_names_what_a_policy_needs(tmp_path: Path) -> None:
    result = ratls_simulation("new", str(tmp_path / "intel"), "--json")
    facts = answer(result)
    assert result.exit_code == Exit.YES
    assert facts["mode"] == "simulation"
    assert facts["root"] == (tmp_path / "intel" / "root.txt").read_text("utf-8").strip()
    assert facts["mr_enclave"] == measure().hex()
    assert (len(str(facts["fmspc"])), len(str(facts["ppid"]))) == (12, 32)
    assert Path(str(facts["collateral"])).is_file()
    kind, _, argument = str(facts["attester"]).partition(":")
    assert kind == "simulation"
    simulation_lock().attester(argument)


def test_new_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    """A root that is overwritten ends every policy that names it."""
    count_refusal()
    ratls_simulation("new", str(tmp_path / "intel"))
    before = (tmp_path / "intel" / "root.txt").read_bytes()
    result = ratls_simulation("new", str(tmp_path / "intel"), "--json")
    assert result.exit_code == Exit.UNUSABLE
    assert answer(result)["error"]["code"] == "simulation-folder-not-empty"  # type: ignore[index]
    assert (tmp_path / "intel" / "root.txt").read_bytes() == before


def test_renew_keeps_the_root(tmp_path: Path) -> None:
    made = answer(ratls_simulation("new", str(tmp_path / "intel"), "--json"))
    renewed = ratls_simulation("renew", str(tmp_path / "intel"), "--json")
    assert renewed.exit_code == Exit.YES
    assert answer(renewed) == made


def test_renew_refuses_what_new_did_not_make(tmp_path: Path) -> None:
    count_refusal()
    result = ratls_simulation("renew", str(tmp_path), "--json")
    assert result.exit_code == Exit.UNUSABLE
    assert answer(result)["error"]["code"] == "simulation-folder-unusable"  # type: ignore[index]


def test_measure_prints_what_a_policy_has_as_mr_enclave() -> None:
    assert ratls_simulation("measure").stdout.splitlines()[-1] == measure().hex()
    assert answer(ratls_simulation("measure", "--json"))["mr_enclave"] == measure().hex()


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("command", ["new", "renew", "measure"])
def test_every_command_says_that_it_is_a_simulation(
    tmp_path: Path, command: str, options: list[str]
) -> None:
    """Output that is copied elsewhere must not pass for a statement about hardware."""
    arguments = [] if command == "measure" else [str(tmp_path / "intel")]
    if command == "renew":
        ratls_simulation("new", *arguments)
    result = ratls_simulation(command, *arguments, *options)
    assert "SIMULATION" in result.stderr


@pytest.mark.parametrize("command", [[], ["new"], ["renew"], ["nothing"], ["new", "a", "b"]])
def test_wrong_usage_ends_with_its_own_status(command: list[str]) -> None:
    count_refusal()
    assert ratls_simulation(*command).exit_code == Exit.USAGE


@pytest.mark.parametrize("command", ["new", "renew", "measure"])
def test_help_has_an_example(command: str) -> None:
    result = ratls_simulation(command, "--help")
    assert f"ratls simulation {command}" in result.stdout


@pytest.mark.parametrize("tee", list(Tee))
def test_a_quote_that_is_evidence_of_nothing(tmp_path: Path, tee: Tee) -> None:
    """Genuine below the simulated root alone; of a form that no connection takes for evidence."""
    count_refusal()
    made, file = tmp_path / "intel", tmp_path / "quote.bin"
    ratls_simulation("new", str(made))
    words = ["quote", str(made), "-o", str(file), "--tee", tee.value, "--json"]
    facts = answer(ratls_simulation(*words))
    quote = Quote.parse(file.read_bytes())
    assert (facts["mode"], quote.tee) == ("simulation", tee)
    assert any(quote.report.report_data[32:])
    bundle = Collateral.parse(Path(str(facts["collateral"])).read_bytes())
    root = RootName.parse((made / "root.txt").read_text("utf-8").strip()).anchors
    verify_quote(file.read_bytes(), bundle, roots=root, at=datetime.now(UTC))
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        verify_quote(file.read_bytes(), bundle, roots=TrustAnchors.intel(), at=datetime.now(UTC))
    again = ratls_simulation(*words)
    assert again.exit_code == Exit.UNUSABLE
    assert answer(again)["error"]["code"] == "file-not-written"  # type: ignore[index]
