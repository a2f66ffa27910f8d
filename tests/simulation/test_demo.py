"""`ratls demo`, as a newcomer runs it: real processes, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from simulation.demo import STEPS
from simulation.demo_federated import OWNERS, ROUNDS
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow

RATLS = str(Path(sys.executable).with_name("ratls"))
# The simulated measurement follows PYTHONPATH, so the demo must not inherit one.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The demo with its temporary files in `folder`, where a test can see what is left."""
    return subprocess.Popen(
        [RATLS, "demo", *options],
        env=ENVIRONMENT | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_whole_job_runs_and_leaves_what_was_asked_for(tmp_path: Path) -> None:
    run = demo(tmp_path, "--keep", str(tmp_path / "kept"))
    output, _ = run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.YES, output[-3000:]
    assert re.findall(r"(\d+)/(\d+) .* SIMULATION", output) == [
        (str(step), str(STEPS)) for step in range(1, STEPS + 1)
    ]
    kept = tmp_path / "kept"
    model = json.loads((kept / "carol" / "model.json").read_text("utf-8"))["model_weights"]
    assert len(model["coefficients"]) == len(model["features"]) == 30
    assert "ratls provider push" in (kept / "commands.sh").read_text("utf-8")
    lines = (kept / "alice" / "state" / "journal.jsonl").read_text("utf-8").splitlines()
    journal = [json.loads(line) for line in lines]
    # The policy and the collateral, the refusal of the altered enclave, then the release.
    assert [line["entry"]["kind"] for line in journal] == [
        "placed",
        "accepted",
        "noted",
        "refused",
        "reserved",
        "committed",
        "released",
    ]
    assert journal[3]["entry"]["check"] == "measurement"


def test_an_agreed_table_is_shown(tmp_path: Path) -> None:
    """A statement that reads files is refused, small groups stay, the rest is what it should be."""
    run = demo(tmp_path, "--study", "sql", "--keep", str(tmp_path / "kept"))
    output, _ = run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.YES, output[-3000:]
    assert "stays inside" in output
    table = json.loads((tmp_path / "kept" / "carol" / "table.json").read_text("utf-8"))["table"]
    assert table["columns"] == ["band", "ill", "patients", "marker_2"]
    assert "low" not in {row.get("band") for row in table["rows"]}


def test_three_owners_train_and_send_no_row(tmp_path: Path) -> None:
    """Rows are refused, the receipts of all rounds hold offline, the model is as good as pooled."""
    run = demo(tmp_path, "--study", "federated", "--keep", str(tmp_path / "kept"))
    output, _ = run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.YES, output[-3000:]
    assert "[rows-not-asked]" in output
    model = json.loads((tmp_path / "kept" / "carol" / "model.json").read_text("utf-8"))["model"]
    assert len(model["coefficients"]) == len(model["features"]) == 30
    for who in OWNERS:
        kept = tmp_path / "kept" / who / "state"
        assert len([*kept.glob("rounds/*/*/round-*.receipt.json")]) == model["round"] == ROUNDS
        assert not (kept / "releases").exists()


def test_agreed_trees_are_shown(tmp_path: Path) -> None:
    """Too many leaves are refused, and what leaves is about as good as plain scikit-learn."""
    run = demo(tmp_path, "--study", "trees", "--keep", str(tmp_path / "kept"))
    output, _ = run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.YES, output[-3000:]
    assert "expected an integer from 2 to 32, found 1000" in output
    released = json.loads((tmp_path / "kept" / "carol" / "trees.json").read_text("utf-8"))
    assert 20 <= len(released["model_weights"]["trees"]) <= 36
    assert released["metrics"]["auc"] > 0.9
    assert (tmp_path / "kept" / "carol" / "trees.skops").is_file()


def test_the_whole_job_runs_with_a_trust_domain(tmp_path: Path) -> None:
    """The same parties and rows; the policy lists the guest's registers, and the refusal of one
    with other code ends with the event in which it differs."""
    run = demo(tmp_path, "--tee", "tdx", "--keep", str(tmp_path / "kept"))
    output, _ = run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.YES, output[-3000:]
    kept = tmp_path / "kept"
    assert 'tee = "tdx"' in (kept / "policy.toml").read_text("utf-8")
    assert "[rtmr2-not-listed]" in output
    assert re.search(r"refused \[event-not-expected\].*Linux initrd", output)
    model = json.loads((kept / "carol" / "model.json").read_text("utf-8"))["model_weights"]
    assert len(model["coefficients"]) == 30


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_processes_and_removes_its_files(
    tmp_path: Path, stop: signal.Signals
) -> None:
    """Stopped while an enclave listens: a demo that left a server and keys behind would be a
    newcomer's first impression."""
    count_refusal()
    run = demo(tmp_path)
    assert run.stdout is not None
    line = next(line for line in run.stdout if "(process " in line)
    enclave = int(line.split("(process ")[1].split(")")[0])
    os.kill(enclave, 0)  # it is there
    run.send_signal(stop)
    run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(enclave, 0)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("ratls-demo-")] == []


def test_an_existing_folder_is_not_written_into(tmp_path: Path) -> None:
    count_refusal()
    run = demo(tmp_path, "--keep", tempfile.mkdtemp(dir=tmp_path))
    run.communicate(timeout=HANG_LIMIT)
    assert run.returncode == Exit.UNUSABLE
