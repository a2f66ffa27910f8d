"""How often something may still be learnt from a dataset: `uses`, counted by its provider.

    asked = Asked.of(policy, "train", "train_party_1", place)
    require_uses_left(records, asked, task)        # or a refusal
    left(records, asked)                           # Budget(uses, tasks by study, reserved)

Counted per dataset and what is learnt from it, over every study and version in the journal. A new
name of the computation, another case of a name, a new version, another study, or another name of
the dataset over the same file brings no new uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from policy.computations import columns_used
from policy.document import Policy, digest_text
from policy.errors import TicketScopeError
from policy.journal_chain import JournalRecord
from policy.journal_entries import ReservedEntry
from policy.sections import Computation
from provider.release_state import Reservation, reservations


class UsesExhausted(TicketScopeError):
    """The computation has had as many tasks as the policy allows."""

    code = "uses-exhausted"
    default_fix = "agree on a policy version with more `uses`; `ratls provider budget` counts them"
    says = "{thing} has had {found} tasks; the policy allows {expected}"


def learnt(policy: Policy, computation: Computation) -> str:
    """What is learnt from its inputs, whatever it is called: digest of its `run` and columns.

    R07: two results are subtracted. Under a second id, or renamed in a new version, the same
    computation would have all its uses again. Columns differ in more than case.
    """
    return _learnt(computation.run, {name.casefold() for name in _columns(policy, computation)})


def _columns(policy: Policy, computation: Computation) -> set[str]:
    known = {dataset.id: dataset for dataset in policy.dataset}
    return set(columns_used(computation, [known[name] for name in computation.inputs]))


def _learnt(run: str, columns: set[str]) -> str:
    named = json.dumps([run, sorted(columns)]).encode()
    return digest_text(hashlib.sha256(named).digest())


def place_digest(place: str) -> str | None:
    """Of where rows are, as the journal keeps it; None for rows in memory."""
    text = b"ratls source\0" + place.encode("utf-8", "surrogatepass")
    return digest_text(hashlib.sha256(text).digest()) if place else None


@dataclass(frozen=True, slots=True)
class Asked:
    """One dataset in one computation of a policy, and everything that its uses are counted by."""

    study: str
    computation: str
    dataset: str
    place: str | None  #           digest of where its rows are
    learnt: frozenset[str]  #      in the form of now and of older versions
    uses: int

    @classmethod
    def of(cls, policy: Policy, computation: str, dataset: str, place: str = "") -> Asked:
        """`place` as `SourceSpec.place` says it; empty where it is not known."""
        found = policy.computation_by_id(computation)
        assert found is not None  # `Task.open` refuses what the policy does not have
        same = learnt(policy, found)
        # Where one policy lists it twice, the stricter rule holds.
        uses = min(
            c.uses for c in policy.computation if learnt(policy, c) == same and dataset in c.inputs
        )
        forms = frozenset({same, _learnt(found.run, _columns(policy, found))})
        return cls(policy.study, computation, dataset, place_digest(place), forms, uses)

    def counts(self, entry: ReservedEntry) -> bool:
        """Is this a use of the same?"""
        if entry.dataset.casefold() != self.dataset.casefold() and (
            self.place is None or entry.place != self.place
        ):
            return False
        named = (entry.study, entry.computation.casefold())
        return entry.learnt in self.learnt or named == (self.study, self.computation.casefold())


@dataclass(frozen=True, slots=True)
class Budget:
    """What was used of a budget."""

    uses: int
    tasks: Mapping[str, frozenset[str]]  # digests of tasks that count, by study
    reserved: frozenset[str]  #            of these, tasks for which no commit was signed yet

    @property
    def used(self) -> int:
        return sum(map(len, self.tasks.values()))

    @property
    def left(self) -> int:
        return max(0, self.uses - self.used)


def spent(records: Iterable[JournalRecord], asked: Asked) -> Iterator[Reservation]:
    """Releases that count: for which rows may have been sent, also where they failed.

    R07: a refusal that depends on rows is an answer, and nobody but the recipient can tell it from
    a result: both count. A returned reservation does not count: no row was sent.
    """
    for held in reservations(records).values():
        if held.counts and asked.counts(held.entry):
            yield held


def left(records: Iterable[JournalRecord], asked: Asked) -> Budget:
    """The budget of `asked` now."""
    return _budget(asked.uses, spent(records, asked))


def of_dataset(records: Iterable[JournalRecord], dataset: str) -> Budget:
    """Every task that had rows of a dataset, whatever was computed, in any study."""
    name = dataset.casefold()
    held = reservations(records).values()
    return _budget(0, (h for h in held if h.counts and h.entry.dataset.casefold() == name))


def _budget(uses: int, held: Iterable[Reservation]) -> Budget:
    tasks: dict[str, set[str]] = {}
    reserved: set[str] = set()
    committed: set[str] = set()
    for one in held:
        tasks.setdefault(one.entry.study, set()).add(one.entry.task)
        (committed if one.committed else reserved).add(one.entry.task)
    by_study = {study: frozenset(found) for study, found in tasks.items()}
    return Budget(uses, by_study, frozenset(reserved - committed))


def require_uses_left(records: Iterable[JournalRecord], asked: Asked, task: str) -> None:
    """`task` is one of at most `uses` tasks. The same task again is not another use.

    Raises: UsesExhausted.
    """
    others = {held.entry.task for held in spent(records, asked)} - {task}
    if len(others) >= asked.uses:
        raise UsesExhausted(
            f"dataset {asked.dataset}, computation {asked.computation}",
            expected=str(asked.uses),
            found=str(len(others)),
        )
