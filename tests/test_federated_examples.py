"""The programs in `examples/federated`: three owners, and Flower where it is installed."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import ratls
from policy.state import StudyState
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.provider.test_rounds import at_once, clinic, desk
from tests.support.enclave import NOW, LiveEnclave
from tests.support.rounds import LOGISTIC, OWNERS_OF, asked, round_world
from tests.support.waiting import HANG_LIMIT

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples" / "federated"


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return {name: clinic(number) for number, name in enumerate(OWNERS_OF, 1)}


def as_in_examples(live: LiveEnclave, folder: Path, tables: dict[str, pa.Table]) -> list[Desk]:
    return [desk(live, folder, name, table) for name, table in tables.items()]


def test_three_owners_one_with_a_program_reach_the_pooled_accuracy(
    tmp_path: Path, tables: dict[str, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    """Within half a point of one model over all rows, which nobody here has."""
    world = round_world(**LOGISTIC | {"rounds": "5", "epochs": "8", "learning_rate": "0.3"})
    with world.running() as live:
        alice, bob, dora = as_in_examples(live, tmp_path, tables)
        task = asked(world)
        program = dora.folder / "own_training.py"
        text = (EXAMPLES / "own_training.py").read_text("utf-8")
        program.write_text(text.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
        program.chmod(0o700)
        (tmp_path / "task.json").write_bytes(task)
        take_part: Callable[..., None] = runpy.run_path(str(EXAMPLES / "owner.py"))["take_part"]

        def by_hand(one: Desk) -> None:
            own = (str(configure(one)), str(tmp_path / "task.json"), one.dataset, str(one.path))
            take_part(*own, "--allow-simulation")

        def with_a_program() -> Any:
            client = ratls.Client(configure(dora), allow_simulation=True)
            return client.train(task, program=program, train_party_3=dora.path)

        done = at_once(lambda: by_hand(alice), lambda: by_hand(bob), with_a_program)[2]
        assert "train_party_1: counted in rounds 1, 2, 3, 4, 5 of 5" in capsys.readouterr().out
        assert done.counted == (1, 2, 3, 4, 5)
        carol = Desk(world, tmp_path / "carol", live.address, world.consortium.carol)
        carol.folder.mkdir()
        StudyState(carol.state).accept(world.complete.agreement, carol.party, NOW)
        result = ratls.Client(configure(carol), allow_simulation=True).result(task)
    pooled = pa.concat_tables(tables.values())
    matrix = np.column_stack([pooled[name].to_numpy() for name in ("age", "bmi")])
    ill = pooled["y"].to_numpy()
    joint = result.as_sklearn()
    assert list(joint.feature_names_in_) == ["age", "bmi"]
    with_names = pooled.select(["age", "bmi"]).to_pandas()
    best = LogisticRegression(max_iter=1000).fit(matrix, ill).score(matrix, ill)
    assert joint.score(with_names, ill) >= best - 0.005


def flower() -> Path | None:
    """The programs of an environment that has Flower: this one, or one on the path."""
    found = shutil.which("flower-superlink", path=f"{Path(sys.executable).parent}{os.pathsep}"
                         f"{os.environ.get('PATH', '')}")  # fmt: skip
    return Path(found).parent if found else None


def test_flower_through_the_tunnel(tmp_path: Path) -> None:
    """Real SuperLink, SuperNodes and `flwr run`, which know nothing of ratls."""
    programs = flower()
    if programs is None:
        pytest.skip("FLOWER ABSENT: examples/federated/README.md says how to install it")
    command = str(Path(sys.executable).with_name("ratls"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    study = tmp_path / "study"
    subprocess.run(
        [command, "demo", "--study", "federated", "--tee", "tdx", "--keep", str(study)],
        check=True, env=environment, capture_output=True, timeout=HANG_LIMIT,
    )  # fmt: skip
    script = EXAMPLES / "flower" / "through_tunnel.py"
    run = subprocess.run(
        [sys.executable, str(script), str(study), str(programs), "--rounds", "1"],
        check=True, env=environment, capture_output=True, text=True, timeout=HANG_LIMIT * 3,
    )  # fmt: skip
    said = run.stdout.splitlines()
    assert [line.split(":")[0] for line in said[1:4]] == ["alice", "bob", "dora"]
    assert float(said[-1].rpartition(" ")[2].rstrip("%")) > 90


def test_an_app_of_flower_knows_nothing_of_ratls() -> None:
    """Its users keep their code."""
    files = [*(EXAMPLES / "flower" / "clinic").glob("*.py"), EXAMPLES / "flower" / "pyproject.toml"]
    assert len(files) == 5
    assert not [path.name for path in files if "import ratls" in path.read_text("utf-8")]
    locked = (EXAMPLES / "flower" / "requirements.txt").read_text("utf-8")
    assert "--hash=sha256:" in locked
    assert "http" not in "".join(line for line in locked.splitlines() if "--index" in line)
    assert json.dumps("flwr") not in (EXAMPLES.parent.parent / "pyproject.toml").read_text("utf-8")
