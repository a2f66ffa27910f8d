"""A simulated Intel, parties that agreed on its enclave, and tasks: all that a release needs.

    world = World.create(folder, rows=2_000_000, columns=22)
    with world.enclave() as server:
        run(server, [*OURS, "release", str(world.desk()), server.address, str(parquet)])

Each provider owns one dataset. One more, which is never released, keeps the enclave from computing
with the rows: only their release is measured.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.transfer.processes import Server, serving
from benchmarks.transfer.rows import declared
from policy.agreement import CompleteAgreement
from policy.state import StudyState
from policy.task import Task
from simulation import folder as simulated
from simulation.intel import Intel, root_name
from simulation.measure import measure
from tests.support.parties import PASSPHRASE, Consortium, local_party

RATLS = str(Path(sys.executable).with_name("ratls"))
OURS = [sys.executable, "-m", "benchmarks.transfer.ours"]
PLAIN = [sys.executable, "-m", "benchmarks.transfer.plain"]
# What switches the second connection on, where the policy knows it.
BULK = '[transport]\nbulk = "sealed"\n'
HELD = 1 << 40  # bytes: more than any machine has, so that memory is the limit


@dataclass
class World:
    """Everything on disk, and a new task for each release."""

    folder: Path
    complete: CompleteAgreement
    consortium: Consortium
    providers: list[str]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def create(
        cls, folder: Path, *, rows: int, columns: int, providers: int = 1, bulk: bool = False
    ) -> World:
        """Make keys, policy and signatures. Raises: RatlsError for a policy that is refused."""
        at = datetime.now(UTC).replace(microsecond=0)
        intel = Intel.create(at)
        platform = intel.platform()
        names = [f"provider-{number:02}" for number in range(providers)]
        consortium = Consortium(
            {name: local_party(name, at) for name in (*names, "carol-lab")},
            at,
            root_name(intel.root),
            measure().hex(),
            [f"ppid:{platform.tcb.ppid.hex()}"],
        )
        owners = {_dataset(name): name for name in names} | {"never": names[0]}
        sections = {
            "train_party_1": "".join(
                f'[[dataset]]\nid = "{dataset}"\nowner = "{owner}"\nsubject = "subject"\n'
                f"columns = {declared(columns)}\nmax_rows = {1 if dataset == 'never' else rows}\n\n"
                for dataset, owner in owners.items()
            ),
            "train_party_2": "",
            "computation": _computation(list(owners)),
            "bulk": f"\n{BULK}" if bulk else "",
        }
        replace = [
            # What the simulated attester's enclave has.
            ("isv_prod_id = 0", "isv_prod_id = 1"),
            # An agreement has 64 signatures at most; there may be as many providers.
            ('threshold = "all"', f"threshold = {providers}"),
        ]
        text = consortium.policy_text(replace, **sections)
        complete = consortium.complete(text, signers=names)
        folder.mkdir()
        simulated.write(intel, platform, folder / "intel")
        (folder / "agreement.json").write_bytes(complete.agreement.encode())
        (folder / "passphrase").write_bytes(PASSPHRASE)
        return cls(folder, complete, consortium, names)

    def enclave(self, *, roomy: bool = False) -> AbstractContextManager[Server]:
        """The product's server. Args: roomy: With room for any number of rows."""
        command = [sys.executable, "-m", "benchmarks.transfer.enclave", str(HELD)]
        return serving(
            [
                *(command if roomy else [RATLS]),
                *("enclave", "serve", "--listen", "127.0.0.1:0", "--allow-simulation"),
                *("--agreement", str(self.folder / "agreement.json")),
                *("--attester", f"simulation:{self.folder / 'intel' / 'platform'}"),
            ]
        )

    def bare(self, desk: Path) -> AbstractContextManager[Server]:
        """An enclave that proves itself to this provider, and drops the rows as they come."""
        return serving([*OURS, "serve", str(desk)])

    def task(self) -> Path:
        """A new signed task, for all providers."""
        task = Task.new(self.complete.policy, "train", "carol-lab", at=datetime.now(UTC))
        path = self.folder / f"task-{next(self.numbers)}.json"
        path.write_bytes(task.seal(self.consortium.carol.operation))
        return path

    def desk(self, provider: int = 0, tasks: Sequence[Path] = ()) -> Path:
        """A file about one provider: keys, a new state with the accepted policy, and tasks.

        Args:
            tasks: Without any, a new one.
        """
        number, name = next(self.numbers), self.providers[provider]
        party, state = self.consortium.parties[name], self.folder / f"state-{number}"
        StudyState(state).accept(self.complete.agreement, party, datetime.now(UTC))
        desk = {
            "party": str(party.folder),
            "passphrase": str(self.folder / "passphrase"),
            "state": str(state),
            "tasks": [str(task) for task in tasks or [self.task()]],
            "dataset": _dataset(name),
            "intel": str(self.folder / "intel"),
            "agreement": str(self.folder / "agreement.json"),
        }
        path = self.folder / f"desk-{number}.json"
        path.write_text(json.dumps(desk), "utf-8")
        return path


def _dataset(provider: str) -> str:
    return f"rows_{provider.removeprefix('provider-')}"


def _computation(inputs: list[str]) -> str:
    return (
        '[[computation]]\nid = "train"\nrun = "summary_statistics"\n'
        f"inputs = {json.dumps(inputs)}\n"
        'parameters = { columns = ["age"] }\n'
        'submitters = ["carol-lab"]\nrecipients = ["carol-lab"]\nuses = 10_000\n'
        'release = { outputs = ["statistics"], min_subjects_per_input = 20, '
        "significant_digits = 6 }\n"
    )
