"""What a stranger copies works: the programs in `examples/`, and the blocks of `docs/api.md`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.support.enclave import EnclaveWorld, LiveEnclave, rows
from tests.support.refusal import count_refusal
from verifier.anchors import TrustAnchors

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@dataclass
class Scene:
    """An enclave that listens, and the desks of the parties."""

    world: EnclaveWorld
    live: LiveEnclave
    folder: Path

    def desk(self, who: str) -> Desk:
        return Desk.of(who, self.world, self.folder, self.live.address)


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture
def scene(world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A simulation's root stands in for Intel's where a program names that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrustAnchors, "intel", world.intel.intel.anchors)
    with world.running() as live:
        yield Scene(world, live, tmp_path)


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_there_are_five_and_each_is_short() -> None:
    assert len(EXAMPLES) == 5
    for path in EXAMPLES:
        assert len(path.read_text("utf-8").splitlines()) < 30, path.name
        assert f"run({path.name!r}" in Path(__file__).read_text("utf-8").replace('"', "'")


def test_verify_a_quote(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("quote.bin").write_bytes(scene.world.attester.quote(bytes(range(64))))
    Path("collateral.json").write_bytes(scene.world.collateral)
    asked = ("quote.bin", "collateral.json")
    run("verify_quote.py", *asked, bytes(range(64)).hex(), monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith("UpToDate ")
    count_refusal()
    with pytest.raises(SystemExit, match="report-data-differs"):
        run("verify_quote.py", *asked, bytes(64).hex(), monkeypatch=monkeypatch)


def test_a_notebook_of_a_provider(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = configure(scene.desk("alice"))
    Path("task.json").write_bytes(scene.world.task())
    rows(1).to_pandas().to_csv("visits.csv", index=False)
    asked = (profile, "task.json", "visits.csv", "train_party_1")
    run("notebook_provider.py", *asked, "--allow-simulation", monkeypatch=monkeypatch)
    assert capsys.readouterr().out.startswith("60 rows, acknowledged: ")


# docs/api.md, and the docstrings of what a caller gets


@pytest.fixture
def names(scene: Scene, study: Study) -> Iterator[dict[str, Any]]:
    """What the page and the docstrings speak of, in the working folder."""
    Path("collateral.json").write_bytes(scene.world.collateral)
    Path("policy.agreement.json").write_bytes(scene.world.complete.agreement.encode())
    Path("passphrase").write_bytes(PASSPHRASE + b"\n")
    with ExitStack() as stack:
        queue = stack.enter_context(
            running_scheduler(scene.folder / "scheduler", [scene.world.complete])
        )
        for who in ("alice", "bob", "carol"):
            desk = scene.desk(who)
            (desk.folder / "scheduler.crt").write_bytes(queue.certificate.cert_pem)
            configure(desk, str(queue.address))
            for file in desk.party.folder.iterdir():  # the party's folder, where the page has it
                (desk.folder / file.name).write_bytes(file.read_bytes())
                (desk.folder / file.name).chmod(0o600)
        yield {
            "ratls": ratls,
            "raw": scene.world.attester.quote(bytes(range(64))),
            "mine": bytes(range(64)),
            "frame": rows(1).to_pandas(),
            "other_frame": rows(2).to_pandas(),
            "new_rows": rows(3).to_pandas()[["age", "bmi"]],
        }


def test_every_block_of_the_page_runs(scene: Scene, names: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    assert text.count("```") == 2 * len(blocks)
    names["address"] = str(served(scene))
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)  # noqa: S102
    assert names["answer"] == b"QUESTION"
    assert names["model"].n_features_in_ == 2
