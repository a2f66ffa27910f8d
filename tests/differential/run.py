"""Many mutants, on several workers: what both verifiers said of them, counted."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from tests.differential.bases import mutants
from tests.differential.compare import Comparison, Outcome, compare
from tests.differential.mutants import Mutant
from tests.differential.peer import Peer

_REPORT_EVERY = 250  # mutants, so that a progress line moves


@dataclass(slots=True)
class Tally:
    """Counts of one or of all workers, and each violation in words."""

    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)  #        our answers: code or `accepted`
    divergences: Counter[str] = field(default_factory=Counter)  #  by name, where one explains
    unnamed: Counter[str] = field(default_factory=Counter)  #      refused here alone, by our code
    operators: Counter[str] = field(default_factory=Counter)
    ended: int = 0  #                                              processes of the other verifier
    violations: list[str] = field(default_factory=list)

    @property
    def mutants(self) -> int:
        return self.outcomes.total()

    def count(self, mutant: Mutant, result: Comparison) -> None:
        self.outcomes[result.outcome] += 1
        self.codes["accepted" if result.ours.accepted else result.ours.reason] += 1
        self.operators[mutant.operator.split(" then ")[0]] += 1
        self.ended += result.theirs.crashed
        if result.divergence:
            self.divergences[f"{result.outcome}: {result.divergence.name}"] += 1
        elif result.outcome is Outcome.ONLY_THERE:
            self.unnamed[result.ours.reason] += 1
        if result.violation:
            self.violations.append(describe(mutant, result))

    def add(self, other: Tally) -> None:
        for name in ("outcomes", "codes", "divergences", "unnamed", "operators"):
            getattr(self, name).update(getattr(other, name))
        self.ended += other.ended
        self.violations += other.violations


def describe(mutant: Mutant, result: Comparison) -> str:
    """One line from which the mutant can be made again."""
    ours, theirs = (
        f"{'accepted' if a.accepted else 'refused'}, {a.reason[:160]}, {sorted(a.advisories)}"
        for a in (result.ours, result.theirs)
    )
    return f"{mutant}: {result.outcome}; here {ours}; there {theirs}"


def run(
    *,
    count: int,
    seed: int,
    vectors: Path | None,
    workers: int = 1,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Judge the mutants 0 to `count` of a seed. With one worker, in this process."""
    total = Tally()
    if workers == 1:
        _work(total.add, count, seed, vectors, 0, 1)
        return total
    context = multiprocessing.get_context("spawn")
    queue: Queue[Tally] = context.Queue()
    processes = [
        context.Process(target=_work_apart, args=(queue, count, seed, vectors, n, workers))
        for n in range(workers)
    ]
    for process in processes:
        process.start()
    while total.mutants < count:
        try:
            total.add(queue.get(timeout=10))
        except Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a worker ended; its trace stands above") from None
        progress(total)
    for process in processes:
        process.join()
    return total


def _work_apart(
    queue: Queue[Tally], count: int, seed: int, vectors: Path | None, first: int, step: int
) -> None:
    _work(queue.put, count, seed, vectors, first, step)


def _work(
    report: Callable[[Tally], None],
    count: int,
    seed: int,
    vectors: Path | None,
    first: int,
    step: int,
) -> None:
    """Every `step`th mutant, so that all workers meet the same mixture."""
    source, tally = mutants(seed, vectors), Tally()
    with Peer() as peer:
        for index in range(first, count, step):
            mutant = source.make(index)
            tally.count(mutant, compare(mutant.question, peer))
            if tally.mutants == _REPORT_EVERY:
                report(tally)
                tally = Tally()
    report(tally)
