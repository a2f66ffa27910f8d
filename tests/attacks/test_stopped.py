"""S27, R16: an enclave that is told to stop in the middle of a long computation.

What was begun is cut and nothing of it leaves. Parties are told, the use counts as one, no file is
left, and the next start serves the next task. Processes as they are typed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from policy.document import digest_text
from policy.journal_entries import UpdatedEntry
from policy.state import StudyState
from policy.task import Task
from provider.rounds import TookPart, take_part
from ratls.address import Address, PeerUnreachable
from ratls.cli import build
from ratls.peer_refusal import PeerRefused
from simulation.folder import write
from simulation.intel import root_name
from simulation.measure import measure
from tests.enclave_app.agreed import computation
from tests.provider.desk import Desk
from tests.provider.test_rounds import at_once, clinic
from tests.support import rounds
from tests.support.enclave import NOW, EnclaveWorld, rows
from tests.support.flight_peers import PlatformAttester
from tests.support.intel import World
from tests.support.parties import Consortium
from tests.support.waiting import HANG_LIMIT, eventually

import pyarrow.parquet as pq  # isort: skip - after tests.support.enclave, which prepares the process

pytestmark = pytest.mark.slow

# Both take minutes with many rows, and nothing with few.
PAIRS = (
    "SELECT a.y AS y, count(*) AS n, avg(a.bmi) AS bmi FROM train_party_1 AS a JOIN train_party_2 "
    "AS b ON a.y = b.y GROUP BY a.y ORDER BY y"
)
SQL = f'statement = "{PAIRS}", max_groups = 100, memory_mebibytes = 512, seconds = 3600'
TREES = (
    'features = ["age"], label = "y", predict = "class", bins = 250, learning_rate = 0.1, '
    "trees = { min = 1, max = 500 }, leaves = { min = 2, max = 15 }"
)
MANY = 40_000


@dataclass
class Operator:
    """Who starts and stops the enclave, and the parties that use it."""

    world: EnclaveWorld
    folder: Path
    desks: dict[str, Desk] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, section: str, owners: int = 2) -> Operator:
        intel = World.create(NOW)
        machine = f"ppid:{intel.platform.tcb.ppid.hex()}"
        options: dict[str, Any] = {
            "root": root_name(intel.intel.root), "mr_enclave": measure().hex(),
            "machines": [machine],
        }  # fmt: skip
        if owners == 3:
            agreed = rounds.consortium(owners, **options)
        else:
            agreed = Consortium.create(NOW, **options)
        simulated = [("isv_prod_id = 0", "isv_prod_id = 1")]
        text = agreed.policy_text(simulated, computation=section)
        complete = agreed.complete(text, signers=list(agreed.parties))
        attester = PlatformAttester(intel.platform)
        operator = cls(EnclaveWorld(agreed, intel, attester, complete), folder)
        write(intel.intel, intel.platform, folder / "intel")
        (folder / "agreement.json").write_bytes(complete.agreement.encode())
        for name in ("spill", "temporary"):
            (folder / name).mkdir()
        return operator

    @contextmanager
    def enclave(self) -> Iterator[subprocess.Popen[str]]:
        """A process that serves; every desk knows where."""
        words: list[str | Path] = [
            Path(sys.executable).with_name("ratls"), "enclave", "serve", "--allow-simulation",
            "--agreement", self.folder / "agreement.json", "--listen", "127.0.0.1:0",
            "--attester", f"simulation:{self.folder / 'intel' / 'platform'}",
            "--spill", self.folder / "spill",
        ]  # fmt: skip
        surroundings = os.environ | {"TMPDIR": str(self.folder / "temporary")}
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
        ) as child:
            assert child.stdout is not None
            word, address = child.stdout.readline().split()
            assert word == "ready"
            for desk in self.desks.values():
                desk.address = Address.parse(address)
            try:
                yield child
            finally:
                child.kill()

    def ended(self, child: subprocess.Popen[str], number: int, task: bytes) -> int:
        """Send the signal; the status. One line names the task, none says that it has a result."""
        child.send_signal(number)
        output, log = child.communicate(timeout=HANG_LIMIT)
        assert output == ""
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        named = [line["task_digest"] for line in lines if line["event"] == "ended"]
        assert named == [digest_text(Task.read(task).digest)]
        assert not [
            line for line in lines if line["event"] in {"computed", "collected", "internal"}
        ]
        assert not [*(self.folder / "spill").iterdir(), *(self.folder / "temporary").rglob("*")]
        return child.returncode

    def budget(self, who: str) -> tuple[int, int]:
        """What `ratls provider budget` shows: spent, and reserved."""
        desk = self.desks[who]
        words = ("--party", desk.party.folder, "--state", desk.state, "--json")
        done = CliRunner().invoke(build("provider"), ["provider", "budget", *map(str, words)])
        (found,) = json.loads(done.stdout)["budgets"]
        return found["spent"], found["reserved"]


@pytest.mark.parametrize(
    ("section", "large", "small", "number", "status"),
    [
        (computation("sql", SQL, ["table"]), {}, {}, signal.SIGTERM, 0),
        (
            computation("boosted_trees", TREES, ["model_weights"], minimum=10, digits=4),
            {"trees": 500, "leaves": 8},
            {"trees": 2, "leaves": 2},
            signal.SIGINT,
            130,
        ),
    ],
    ids=["sql, SIGTERM", "trees, Ctrl-C"],
)
def test_stopped_while_it_computes(
    section: str,
    large: dict[str, Any],
    small: dict[str, Any],
    number: signal.Signals,
    status: int,
    tmp_path: Path,
) -> None:
    operator = Operator.of(tmp_path, section)
    world = operator.world
    for name in ("alice", "bob", "carol"):
        operator.desks[name] = Desk.of(name, world, tmp_path, Address("127.0.0.1", 1))
    alice, bob, carol = operator.desks.values()
    task, computing, found = world.task(parameters=large), threading.Event(), []

    def waiting(missing: str) -> None:
        if missing == "still computing":
            computing.set()

    def push(task: bytes, count: int) -> None:
        for desk, seed in ((alice, 1), (bob, 2)):
            desk.write(rows(seed, count))
            desk.push(task)

    with operator.enclave() as child:
        push(task, MANY)

        def stop() -> None:
            assert computing.wait(HANG_LIMIT)
            found.append(operator.ended(child, number, task))

        with carol.refuses(PeerUnreachable):
            at_once(lambda: carol.fetch(task, wait=HANG_LIMIT, waiting=waiting), stop)
    assert found == [status]
    assert not carol.outputs.result.exists()
    assert operator.budget("alice") == operator.budget("bob") == (1, 0)  # it was computed with
    with operator.enclave():  # its twin: few rows, and nobody stops it
        again = world.task(parameters=small)
        push(again, 400)
        assert carol.fetch(again, wait=HANG_LIMIT).size > 0
    assert operator.budget("alice") == operator.budget("bob") == (2, 0)


def test_stopped_between_rounds(tmp_path: Path) -> None:
    """The party that waits for the others is told at once, and not when its call is cut."""
    operator = Operator.of(tmp_path, rounds.computation(**rounds.LOGISTIC), owners=3)
    world = operator.world
    for seed, (dataset, owner) in enumerate(rounds.OWNERS_OF.items(), 1):
        party = world.consortium.parties[owner]
        desk = Desk(world, tmp_path / owner, Address("127.0.0.1", 1), party, dataset)
        desk.folder.mkdir()
        pq.write_table(clinic(seed), desk.path)
        StudyState(desk.state).accept(world.complete.agreement, party, NOW)
        operator.desks[owner] = desk

    def trains(desk: Desk, task: bytes) -> TookPart:
        return take_part(desk.request(task), desk.dataset, desk.path)

    alice = operator.desks["alice-clinic"]
    task = rounds.asked(world)
    with operator.enclave() as child:
        found: list[int] = []

        def stop() -> None:
            eventually(lambda: [e for e in alice.journal if isinstance(e, UpdatedEntry)])
            found.append(operator.ended(child, signal.SIGTERM, task))

        with alice.refuses(PeerRefused) as seen:
            at_once(partial(trains, alice, task), stop)
        assert seen.error.peer_code == "rounds-stopped"
    assert found == [0]
    assert sum(operator.budget("alice-clinic")) == 1
    again = rounds.asked(world)
    with operator.enclave():
        done = at_once(*(partial(trains, desk, again) for desk in operator.desks.values()))
    assert all(one.counted == (1, 2) for one in done)
    assert sum(operator.budget("alice-clinic")) == 2
