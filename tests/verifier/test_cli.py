"""`ratls collateral`: what it writes, what it leaves alone, and how it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from simulation.intel import Intel
from tests.support.refusal import count_refusal
from tests.verifier.pcs_peer import (
    PUBLISHED,
    QE,
    ROOTS,
    TCB,
    Alter,
    body,
    peer,
    says,
)
from tests.verifier.world import World
from verifier.cli import collateral
from verifier.errors import Exit
from verifier.pcs import kept_bundle

SIMULATION = ["--root", ROOTS.name, "--allow-simulation"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(collateral, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def today() -> World:
    """A world around the machine's own clock, which the command asks."""
    intel = Intel.create(datetime.now(UTC) - timedelta(hours=1))
    return World(intel, intel.platform(), intel.at)


def run_fetch(
    w: World, folder: Path, altered: dict[str, Alter] | None = None, *options: object
) -> Result:
    quoted = folder / "q.bin"
    quoted.write_bytes(w.quote() + bytes(100))  # as drivers hand it out
    with peer(folder, w.collateral(), altered) as place:
        return run(
            "fetch", quoted, "-o", folder / "b.json", "--from", place.origin,
            "--ca", place.certificate, "--root", w.intel.anchors().name,
            "--allow-simulation", *options,
        )  # fmt: skip


def test_fetch_writes_a_bundle_and_says_what_it_is(today: World, tmp_path: Path) -> None:
    result = run_fetch(today, tmp_path, None, "--json", "--early")
    assert result.exit_code == Exit.YES, result.output
    facts = json.loads(result.stdout)
    assert (facts["mode"], facts["update"], facts["quotes"]) == ("simulation", "early", 1)
    assert facts["fmspc"] == today.platform.tcb.fmspc.hex()
    assert kept_bundle(tmp_path / "b.json") == today.collateral()
    assert "SIMULATION" in result.stderr
    assert run_fetch(today, tmp_path).exit_code == Exit.YES


POISONED = body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate"))


@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_a_poisoned_answer_is_never_kept(today: World, tmp_path: Path, before: bool) -> None:
    """T22: refused each time, and what was or was not there stays so (CVE-2020-15163)."""
    count_refusal()
    file = tmp_path / "b.json"
    if before:
        run_fetch(today, tmp_path)
    kept = file.read_bytes() if before else None
    for _ in range(2):
        result = run_fetch(today, tmp_path, {TCB: POISONED}, "--json")
        assert result.exit_code == Exit.NOT_GENUINE
        assert json.loads(result.stdout)["error"]["code"] == "tcb-info-signature-invalid"
        assert (file.read_bytes() if file.exists() else None) == kept
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("altered", "status"),
    [
        pytest.param({TCB: says(404)}, Exit.UNDECIDED, id="unknown"),
        pytest.param({TCB: says(302, Location="https://x")}, Exit.UNDECIDED, id="elsewhere"),
        pytest.param({QE: body(lambda _: b"{}")}, Exit.UNUSABLE, id="unreadable"),
    ],
)
def test_fetch_ends_with_the_status_of_its_refusal(
    today: World, tmp_path: Path, altered: dict[str, Alter], status: Exit
) -> None:
    count_refusal()
    assert run_fetch(today, tmp_path, altered).exit_code == status
    assert not (tmp_path / "b.json").exists()


def test_fetch_leaves_another_file_alone(today: World, tmp_path: Path) -> None:
    count_refusal()
    (tmp_path / "b.json").write_text("notes", "utf-8")
    assert run_fetch(today, tmp_path).exit_code == Exit.UNUSABLE
    assert (tmp_path / "b.json").read_text("utf-8") == "notes"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param([], Exit.USAGE, id="nothing"),
        pytest.param(["q.bin", "--from", "https://x"], Exit.USAGE, id="no-output"),
        pytest.param(["q.bin", "-o", "b"], Exit.USAGE, id="no-address"),
        pytest.param(["q.bin", "-o", "b", "--from", "http://x"], Exit.UNUSABLE, id="plain"),
        pytest.param(["q.bin", "-o", "b", "--from", "https://x"], Exit.UNUSABLE, id="no-quote"),
        pytest.param(
            ["q.bin", "-o", "b", "--from", "https://x", "--root", ROOTS.name],
            Exit.NOT_ADMITTED,
            id="simulation-not-allowed",
        ),
    ],
)
def test_fetch_is_called_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], status: Exit
) -> None:
    count_refusal()
    monkeypatch.chdir(tmp_path)
    assert run("fetch", *options).exit_code == status
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    file = tmp_path / "bundle.json"
    file.write_bytes(PUBLISHED.raw)
    return file


def test_show_says_what_is_in_a_bundle(bundle: Path) -> None:
    result = run("show", bundle, "--at", "2026-12-01T00:00:00Z", "--json", *SIMULATION)
    assert result.exit_code == Exit.YES
    facts = json.loads(result.stdout)
    assert (facts["mode"], facts["fmspc"], facts["pce_id"]) == (
        "simulation",
        "00606a000000",
        "0000",
    )
    assert facts["earliest_expiration"] == "2026-12-25T12:00:00Z"
    assert [level["status"] for level in facts["tcb_levels"]] == ["UpToDate", "OutOfDate"]
    assert [level["isv_svn"] for level in facts["qe_levels"]] == [8, 6]
    assert facts["tcb_info_evaluation_data_number"] == 21
    assert facts["error"] is None
    people = run("show", bundle, "--at", "2026-12-01T00:00:00Z", *SIMULATION)
    assert "mode=simulation" in people.stdout
    assert "INTEL-SA-99998" in people.stdout


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "json"])
def test_show_of_a_bundle_that_ended(bundle: Path, options: list[str]) -> None:
    """Everything is said all the same; what it is good for is nothing."""
    count_refusal()
    result = run("show", bundle, "--at", "2027-06-01T00:00:00Z", *SIMULATION, *options)
    assert result.exit_code == Exit.UNDECIDED
    assert "00606a000000" in result.stdout
    if options:
        assert json.loads(result.stdout)["error"]["code"] == "collateral-not-current"


@pytest.mark.parametrize(
    ("content", "options", "status"),
    [
        pytest.param(b"{}", SIMULATION, Exit.UNUSABLE, id="unreadable"),
        pytest.param(None, SIMULATION, Exit.UNUSABLE, id="missing"),
        pytest.param(PUBLISHED.raw, [], Exit.NOT_GENUINE, id="X01-production"),
        pytest.param(PUBLISHED.raw, SIMULATION[:2], Exit.NOT_ADMITTED, id="not-allowed"),
        pytest.param(PUBLISHED.raw, ["--root", "simulation:sha256:00"], Exit.UNUSABLE, id="root"),
        pytest.param(
            PUBLISHED.raw.replace(b"OutOfDate", b"UpToDate"),
            SIMULATION,
            Exit.NOT_GENUINE,
            id="T01-altered",
        ),
    ],
)
def test_show_refuses(
    tmp_path: Path, content: bytes | None, options: list[str], status: Exit
) -> None:
    count_refusal()
    file = tmp_path / "bundle.json"
    if content is not None:
        file.write_bytes(content)
    result = run("show", file, *options)
    assert result.exit_code == status
    assert "UpToDate" not in result.stdout


@pytest.mark.parametrize("command", ["fetch", "show"])
def test_help_has_an_example(command: str) -> None:
    assert f"ratls collateral {command}" in run(command, "--help").stdout
