"""A party at its desk: its accepted policy, its file, its state folder, the enclave's address."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policy.journal import Journal
from policy.journal_entries import AcceptedEntry, Entry, NotedEntry, PlacedEntry, RefusedEntry
from policy.party import LocalParty
from policy.state import StudyState
from provider.collect import Collection, Outputs, collect
from provider.exchange import EnclaveRequest
from provider.release import Release, release
from ratls.address import Address
from tests.support.enclave import NOW, EnclaveWorld, rows
from tests.support.refusal import Refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.collateral import Collateral
from verifier.errors import RatlsError

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

CANARY = "CANARY-7f3a"


@dataclass
class Desk:
    """One party, ready to release or collect. Change one thing and see who refuses."""

    world: EnclaveWorld
    folder: Path
    address: Address
    party: LocalParty
    dataset: str = "train_party_1"

    @classmethod
    def of(cls, who: str, world: EnclaveWorld, folder: Path, address: Address) -> Desk:
        """Alice with rows 1, Bob with rows 2, Carol with none; each has accepted the policy."""
        number = {"alice": 1, "bob": 2}.get(who, 0)
        desk = cls(
            world, folder / who, address, getattr(world.consortium, who), f"train_party_{number}"
        )
        desk.folder.mkdir()
        if number:
            desk.write(rows(number))
        StudyState(desk.state).accept(world.complete.agreement, desk.party, NOW)
        return desk

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def path(self) -> Path:
        return self.folder / "rows.parquet"

    @property
    def outputs(self) -> Outputs:
        names = ("result.json", "receipt.json", "record.json")
        return Outputs(*(self.folder / name for name in names))

    def write(self, table: pa.Table) -> None:
        """Replace the file; every row carries the canary."""
        names = pa.array([f"{CANARY}-{n}" for n in table["patient"].to_pylist()], pa.string())
        pq.write_table(table.set_column(0, "patient", names), self.path)

    def request(self, task: bytes, **changed: Any) -> EnclaveRequest:
        request = EnclaveRequest(
            task=task,
            address=self.address,
            collateral=Collateral.parse(self.world.collateral),
            party=self.party,
            state=self.state,
            allow_simulation=True,
            timeout=HANG_LIMIT,
            clock=lambda: NOW,
        )
        return replace(request, **changed)

    def push(
        self,
        task: bytes,
        *,
        dataset: str | None = None,
        progress: Callable[[int, int | None], None] = lambda rows, total: None,
        **changed: Any,
    ) -> Release:
        """`ratls provider push`, without the command."""
        return release(
            self.request(task, **changed), dataset or self.dataset, self.path, progress=progress
        )

    def fetch(self, task: bytes, **options: Any) -> Collection:
        """`ratls task result`, without the command."""
        return collect(self.request(task), self.outputs, **options)

    @property
    def journal(self) -> list[Entry]:
        """What was recorded since the policy was accepted, but for what collateral was seen."""
        with Journal.open(self.state) as journal:
            entries = [record.entry for record in journal.records]
        return [e for e in entries if not isinstance(e, PlacedEntry | AcceptedEntry | NotedEntry)]

    def refusals(self) -> list[str]:
        """The codes of those that were recorded."""
        return [entry.code for entry in self.journal if isinstance(entry, RefusedEntry)]

    @contextmanager
    def refuses(self, leaf: type[RatlsError], *, check: str | None = None) -> Any:
        """The block is refused by this leaf, and the journal's last record says the same."""
        with refused(leaf, check=check) as seen:
            yield seen
        self.require_recorded(seen)

    def require_recorded(self, seen: Refusal) -> None:
        last = self.journal[-1]
        assert isinstance(last, RefusedEntry)
        assert (last.code, last.check) == (seen.error.code, seen.check)
        if seen.check is not None:
            assert [c.check for c in last.checks if c.outcome == "failed"] == [seen.check]
