"""`ratls doctor`: what it prints, how it ends, and what it writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from ratls.cli import build
from ratls.start import main
from tests.ratls.test_names import command, overwrite
from tests.support.machines import plain_machine, sgx_machine, tdx_guest
from tests.support.typed import typed
from tests.verifier.pcs_peer import PUBLISHED, peer
from verifier.errors import Exit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    return build("doctor")


def run(app: typer.Typer, *words: object, status: Exit = Exit.YES) -> Result:
    return typed(app, ["doctor", *words], status)


def machine_answer(result: Result) -> dict[str, Any]:
    (line,) = result.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def test_a_ready_machine(app: typer.Typer, tmp_path: Path) -> None:
    folder = sgx_machine(tmp_path).write()
    result = run(app, "--role", "enclave", "--sysroot", folder)
    assert result.stdout.endswith("\nenclave: ready\n")
    assert "NOT READY" not in result.stdout
    answer = machine_answer(run(app, "--role", "enclave", "--sysroot", folder, "--json"))
    assert (answer["verdict"], answer["roles"]) == ("ready", {"enclave": "ready"})
    assert {finding["outcome"] for finding in answer["findings"]} == {"ready"}


def test_a_machine_that_is_not_ready(app: typer.Typer, tmp_path: Path) -> None:
    machine = sgx_machine(tmp_path)
    machine.gone("/dev/sgx_enclave")
    machine.facts["cpuid"] = None
    folder = machine.write()
    result = run(app, "--role", "enclave", "--sysroot", folder, status=Exit.NOT_ADMITTED)
    assert "NOT READY  /dev/sgx_enclave: nothing\n" in result.stdout
    assert "UNKNOWN" in result.stdout
    answer = machine_answer(
        run(app, "--role", "enclave", "--sysroot", folder, "--json", status=Exit.NOT_ADMITTED)
    )
    assert answer["verdict"] == "not ready"
    for finding in answer["findings"]:
        assert finding.keys() == {"check", "what", "outcome", "expected", "found", "fix"}
        assert finding["fix"] or finding["outcome"] != "not ready"


def test_a_machine_of_which_too_little_is_known(app: typer.Typer, tmp_path: Path) -> None:
    """Unknown never means ready, and is no verdict either."""
    machine = plain_machine(tmp_path)
    machine.facts["packages"] = None
    result = run(app, "--role", "verifier", "--sysroot", machine.write(), status=Exit.UNDECIDED)
    assert result.stdout.endswith("\nverifier: could not tell\n")


def test_without_a_role_all_three_are_asked(app: typer.Typer, tmp_path: Path) -> None:
    """And the worst counts. What all of them need is said once."""
    result = run(app, "--sysroot", plain_machine(tmp_path).write(), status=Exit.NOT_ADMITTED)
    assert result.stdout.endswith("\nenclave: not ready\nprovider: ready\nverifier: ready\n")
    assert result.stdout.count("our own packages") == 1


def test_a_guest_has_rows_of_its_own(app: typer.Typer, tmp_path: Path) -> None:
    result = run(app, "--role", "enclave", "--sysroot", tdx_guest(tmp_path).write())
    assert "configfs" in result.stdout or "/sys/kernel/config/tsm/report" in result.stdout
    assert "SGX" not in result.stdout


def test_lines_fit_where_they_are_not_commands(app: typer.Typer, tmp_path: Path) -> None:
    """At 80 columns; a command stays in one piece, to be copied."""
    (tmp_path / "doctor.json").write_text(
        plain_machine(tmp_path / "x").write().joinpath("doctor.json").read_text()
    )
    result = run(app, "--sysroot", tmp_path, status=Exit.NOT_ADMITTED)
    remedy = False
    for line in result.stdout.splitlines():
        remedy = line.startswith(" " * 11 + "to do:") or (remedy and line.startswith(" " * 21))
        assert remedy or len(line) <= 80, line


def test_what_another_machine_says_cannot_forge_a_line(app: typer.Typer, tmp_path: Path) -> None:
    machine = plain_machine(tmp_path)
    machine.facts["packages"] = {"policy": "\x1b[2J\nenclave: ready"}
    result = run(app, "--role", "verifier", "--sysroot", machine.write(), status=Exit.NOT_ADMITTED)
    assert "\x1b" not in result.stdout
    assert "\nenclave: ready\n" not in result.stdout


def test_collecting(app: typer.Typer, tmp_path: Path) -> None:
    """From this machine; what is there already stays."""
    archive = tmp_path / "node7.tar.gz"
    words = ("--role", "verifier", "--collect", archive)
    result = run(app, *words, "--sysroot", plain_machine(tmp_path / "m").write())
    assert f"written: {archive}" in result.stderr
    run(app, *words, "--sysroot", plain_machine(tmp_path / "n").write(), status=Exit.UNUSABLE)
    assert archive.stat().st_size < 10_000


def test_this_machine(app: typer.Typer, tmp_path: Path) -> None:
    """Whatever it is, with a service that answers, and with today's dates or others."""
    with peer(tmp_path, PUBLISHED) as place:
        result = command(
            tmp_path, "doctor", "--role", "verifier", "--json", "--timeout", "60",
            "--from", place.origin, "--ca", str(place.certificate),
        )  # fmt: skip
    answer = json.loads(result.stdout)
    found = {finding["check"]: finding for finding in answer["findings"]}
    assert found["collateral-service"]["outcome"] == "ready"
    assert found["packages"]["outcome"] == "ready"
    assert "collateral covers 20" in found["clock"]["found"]
    assert result.returncode in (Exit.YES, Exit.NOT_ADMITTED)


def test_a_foreign_package_is_named(tmp_path: Path) -> None:
    """Every other command refuses; the doctor does without it, and says whose it is."""
    overwrite(tmp_path, "scheduler")
    result = command(tmp_path, "doctor", "--role", "verifier", "--json")
    assert result.returncode == Exit.NOT_ADMITTED
    (row,) = (f for f in json.loads(result.stdout)["findings"] if f["check"] == "packages")
    assert row["found"] == "`scheduler` is of scheduler 0.8.2"
    assert "pip uninstall scheduler &&" in row["fix"]
    assert "venv" in row["fix"]
    assert "FOREIGN CODE RAN" not in result.stderr


@pytest.mark.parametrize("words", [["--role", "judge"], ["--timeout", "0"], ["--sysroot="]])
def test_wrong_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ratls", "doctor", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == Exit.USAGE
    assert os.path.basename(sys.argv[0]) == "ratls"
    assert "Traceback" not in capsys.readouterr().err
