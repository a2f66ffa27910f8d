"""Whole releases, and each part of them, against plain Arrow Flight over mutual TLS.

    python benchmarks/release.py [--json] [--only 1,4] [--pairs N] [--rows N] [--large BYTES]
    python benchmarks/release.py --grow [--most N] | --profile

Client and server are processes of their own, new for each run; ours and theirs take turns, and what
counts is the median of the pairs' ratios. The rows are made anew from a seed. Rates are of Arrow's
bytes, GB = 10^9. `ratio` is such that larger is better where a bar stands as ">=".

1 A Parquet file, by `provider.release` to `ratls enclave serve` / read and DoPut.
2 The same with `bulk = "sealed"`.
3 The same rows as CSV / pyarrow's own CSV reader and DoPut.
4 Batches in memory, on a stream whose enclave has proved itself / DoPut; both for the second time.
5 CPU seconds of both ends for 1 GB in memory: DoPut / sealed chunks beside TLS.
6 A connection on which the enclave has proved itself, less the attester's quote, in a process that
  called it before / connection and first call. Below it, from the call of `release` to the first
  row sent: with local checks and a durable journal, which theirs has not.
7 Resident bytes of the provider beyond its imports, in a release of `--large` bytes.
8 Resident bytes of the enclave beyond those at its start, at most, to the rows it receives.

In 1 and 2 theirs is `pyarrow.parquet.read_table`, on all cores, and then DoPut; the line below it
stands against one that reads and sends batch by batch, which is quicker. `process` is the client
from its start to its exit, with all imports; all other times are of the work alone.
"""

from __future__ import annotations

import argparse
import json
import pstats
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

# Run as a file, this folder would come first, and files in it would hide packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.transfer.growth import grow
from benchmarks.transfer.plain import keys
from benchmarks.transfer.processes import ProcessFailed, Taken, finish, run, serving, start
from benchmarks.transfer.rows import GROUP, Made, write_csv, write_parquet
from benchmarks.transfer.world import OURS, PLAIN, World
from verifier.errors import RatlsError

ROWS, COLUMNS, PAIRS, LARGE, TASKS = 2_000_000, 22, 7, 2 * 10**9, 11
CASES = {
    1: "release of Parquet",
    2: 'release, bulk = "sealed"',
    3: "release of CSV",
    4: "batches in memory",
    5: 'CPU, bulk = "sealed"',
    6: "connected and proved",
    7: "provider's memory",
    8: "enclave's memory / rows",
}
GIGA, MEGA = 1e9, 1e6


@dataclass(frozen=True)
class Bar:
    """What a figure must reach, and what it should; with `most`, may have at most."""

    at_least: float
    goal: float
    most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.at_least:g}"


RELEASE, BULK, CSV, MEMORY = Bar(0.6, 0.9), Bar(0.9, 1.3), Bar(0.5, 0.8), Bar(0.95, 1.0)
CPU, FIRST = Bar(1.2, 1.5), Bar(2.5, 2.0, most=True)
PROVIDER, ENCLAVE = Bar(400, 250, most=True), Bar(1.3, 1.1, most=True)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    case: str
    ours: float | None
    theirs: float | None
    ratio: float | None
    unit: str
    bar: Bar | None = None
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.case:<30} {self.problem}"[:80]
        ours, theirs, ratio = (
            "-" if n is None else f"{n:.{d}f}"
            for n, d in ((self.ours, 2), (self.theirs, 2), (self.ratio, 2))
        )
        bar, goal = ("", "") if self.bar is None else (str(self.bar), f"{self.bar.goal:g}")
        return f"{self.case:<30} {ours:>9} {theirs:>8} {self.unit:<6} {ratio:>5} {bar:>8} {goal:>6}"


HEAD = (
    f"{'case':<30} {'ours':>9} {'theirs':>8} {'unit':<6} {'ratio':>5} {'at least':>8} {'goal':>6}"
)


@dataclass(frozen=True)
class Pair:
    """One run of ours and one of theirs, one after the other."""

    ours: Taken
    theirs: Taken
    streamed: Taken | None = None  # another of theirs


class Bench:
    """The rows, the worlds, and the runs that several cases use."""

    def __init__(self, folder: Path, rows: int, pairs: int, large: int) -> None:
        self._folder, self._rows, self._pairs, self._large = folder, rows, pairs, large
        self._tls = folder / "tls"
        self._tls.mkdir()
        keys(self._tls)

    # What is made once

    @cached_property
    def made(self) -> Made:
        return write_parquet(self.parquet, self._rows, COLUMNS)

    @property
    def parquet(self) -> Path:
        return self._folder / "rows.parquet"

    @cached_property
    def few(self) -> Path:
        path = self._folder / "few.parquet"
        write_parquet(path, min(100, self._rows), COLUMNS)
        return path

    @cached_property
    def world(self) -> World:
        return World.create(self._folder / "world", rows=self._rows, columns=COLUMNS)

    @cached_property
    def bulk(self) -> World:
        """Raises: RatlsError where the policy does not know such a transfer."""
        return World.create(self._folder / "bulk", rows=self._rows, columns=COLUMNS, bulk=True)

    # One run

    def ours(self, world: World, source: Path, *, roomy: bool = False) -> Taken:
        """One release, to an enclave that has seen one before: its code is loaded by then."""
        with world.enclave(roomy=roomy) as server:

            def releasing(file: Path) -> list[str]:
                return [*OURS, "release", str(world.desk()), server.address, str(file)]

            finish(start(releasing(self.few)))
            return run(server, releasing(source))

    def theirs(self, what: str, *source: Path) -> Taken:
        with serving([*PLAIN, "serve", str(self._tls)]) as server:
            return run(server, [*PLAIN, what, str(self._tls), server.address, *map(str, source)])

    def pairs(self, ours: Callable[[], Taken], theirs: Callable[[], Taken]) -> list[Pair]:
        def pair(turn: int) -> Pair:
            if turn % 2:  # whoever comes second finds the machine warmer
                other = theirs()
                return Pair(ours(), other)
            return Pair(ours(), theirs())

        return [pair(turn) for turn in range(self._pairs)]

    def of_parquet(self, world: World) -> list[Pair]:
        assert self.made.rows
        return [
            Pair(
                self.ours(world, self.parquet),
                self.theirs("parquet", self.parquet),
                self.theirs("streamed", self.parquet),
            )
            for _ in range(self._pairs)
        ]

    # Runs that several cases use

    @cached_property
    def releases(self) -> list[Pair]:
        return self.of_parquet(self.world)

    @cached_property
    def bulk_releases(self) -> list[Pair]:
        return self.of_parquet(self.bulk)

    # Lines

    def rate(self, case: str, pairs: list[Pair], bar: Bar, *, whole: bool = True) -> list[Line]:
        gigabytes = self.made.bytes / GIGA

        def rate(taken: Taken) -> float:
            return gigabytes * 1000 / taken.seconds

        def process(taken: Taken) -> float:
            return gigabytes * 1000 / taken.process

        lines = [_compared(case, pairs, rate, "MB/s", bar)]
        if pairs[0].streamed is not None:
            lines.append(
                _compared("    / read in batches", pairs, rate, "MB/s", bar, side="streamed")
            )
        if whole:
            lines.append(_compared("    process", pairs, process, "MB/s"))
        return [*lines, _cpu("    CPU of both ends", pairs, gigabytes), *self._ends(pairs)]

    def _ends(self, pairs: list[Pair]) -> Iterator[Line]:
        for end, cpu in (
            ("client", lambda taken: taken.client_cpu),
            ("server", lambda taken: taken.server_cpu),
        ):
            yield _compared(f"    CPU of the {end}", pairs, cpu, "s", smaller=True)

    # Cases

    def case_1(self) -> list[Line]:
        return self.rate(_named(1), self.releases, RELEASE)

    def case_2(self) -> list[Line]:
        return self.rate(_named(2), self.bulk_releases, BULK)

    def case_3(self) -> list[Line]:
        assert self.made.rows
        path = self._folder / "rows.csv"
        write_csv(self.parquet, path)
        pairs = self.pairs(
            lambda: self.ours(self.world, path), lambda: self.theirs("csv", path, self.parquet)
        )
        path.unlink()
        return self.rate(_named(3), pairs, CSV)

    def case_4(self) -> list[Line]:
        assert self.made.rows

        def ours() -> Taken:
            return self.in_memory(self.world, "memory")

        pairs = self.pairs(ours, self.put_from_memory)
        return self.rate(_named(4), pairs, MEMORY, whole=False)

    def in_memory(self, world: World, what: str) -> Taken:
        """Batches in memory, to an end that has seen them before: its memory has grown by then."""
        desk = world.desk()
        with world.bare(desk) as server:
            command = [*OURS, what, str(desk), server.address]
            finish(start([*command, str(self.parquet)]))
            return run(server, [*command, str(self.parquet)])

    def put_from_memory(self) -> Taken:
        with serving([*PLAIN, "serve", str(self._tls)]) as server:
            command = [*PLAIN, "memory", str(self._tls), server.address]
            finish(start([*command, str(self.parquet)]))
            return run(server, [*command, str(self.parquet)])

    def case_5(self) -> list[Line]:
        gigabytes = self.made.bytes / GIGA
        pairs = self.pairs(lambda: self.in_memory(self.bulk, "sealed"), self.put_from_memory)
        return [
            _cpu(_named(5), pairs, gigabytes, CPU),
            *self._ends(pairs),
            _cpu("    whole releases of 2", self.bulk_releases, gigabytes),
        ]

    def case_6(self) -> list[Line]:
        def ours() -> Taken:
            with self.world.enclave() as server:
                desk = str(self.world.desk(tasks=[self.world.task() for _ in range(TASKS)]))
                return run(server, [*OURS, "first", desk, server.address, str(self.few)])

        pairs = self.pairs(ours, lambda: self.theirs("first"))
        return [
            _first(_named(6), pairs, "proof", FIRST),
            # From the call of `release`: with the local checks and the journal, which theirs lacks.
            _first("    until the first row left", pairs, "first"),
        ]

    def case_7(self) -> list[Line]:
        path = self._folder / "large.parquet"
        few = write_parquet(path, min(GROUP, self._rows), COLUMNS)
        rows = round(self._large * few.rows / few.bytes)
        made = write_parquet(path, rows, COLUMNS, different=1)
        world = World.create(self._folder / "large", rows=rows, columns=COLUMNS)
        taken = self.ours(world, path, roomy=True)
        path.unlink()
        ours = taken.client_memory / MEGA
        case = f"{_named(7)}, {made.bytes / GIGA:.1f} GB"
        return [
            Line(case, ours, None, None, "MB", PROVIDER),
            _enclave("    enclave / rows", [taken], made.bytes),
        ]

    def case_8(self) -> list[Line]:
        ours = [pair.ours for pair in self.releases]
        return [_enclave(_named(8), ours, self.made.bytes, ENCLAVE)]

    def lines(self, chosen: list[int]) -> Iterator[Line]:
        for number in chosen:
            try:
                yield from getattr(self, f"case_{number}")()
            except RatlsError as refusal:
                yield _without(number, f"not available: {refusal.code}")
            except ProcessFailed as failed:
                print(failed, file=sys.stderr)
                yield _without(number, FAILED)

    def profile(self) -> None:
        """What the client of case 1 spends its own time with."""
        assert self.made.rows
        path = self._folder / "profile"
        with self.world.enclave() as server:
            desk = str(self.world.desk())
            command = [sys.executable, "-m", "cProfile", "-o", str(path), *OURS[1:]]
            finish(start([*command, "release", desk, server.address, str(self.parquet)]))
        pstats.Stats(str(path)).strip_dirs().sort_stats("tottime").print_stats(15)


FAILED = "failed: see stderr"


def _named(number: int) -> str:
    return f"{number} {CASES[number]}"


def _without(number: int, problem: str) -> Line:
    return Line(_named(number), None, None, None, "", problem=problem)


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _compared(
    case: str,
    pairs: list[Pair],
    of: Callable[[Taken], float],
    unit: str,
    bar: Bar | None = None,
    *,
    smaller: bool = False,
    side: str = "theirs",
) -> Line:
    """Medians of both, and of the pairs' ratios; with `smaller`, less is better."""
    ours, theirs = ([of(getattr(p, name)) for p in pairs] for name in ("ours", side))
    ratio = None  # of nothing there is none
    if all(ours) and all(theirs):
        ratio = _median((t / o if smaller else o / t) for o, t in zip(ours, theirs, strict=True))
    return Line(case, statistics.median(ours), statistics.median(theirs), ratio, unit, bar)


def _cpu(case: str, pairs: list[Pair], gigabytes: float, bar: Bar | None = None) -> Line:
    return _compared(case, pairs, lambda t: t.cpu / gigabytes, "s/GB", bar, smaller=True)


def _first(case: str, pairs: list[Pair], name: str, bar: Bar | None = None) -> Line:
    ours = [p.ours.answer[name] - p.ours.answer["quote"] for p in pairs]
    theirs = [p.theirs.answer["first"] for p in pairs]
    ratio = _median(o / t for o, t in zip(ours, theirs, strict=True))
    mine, others = (statistics.median(side) * 1000 for side in (ours, theirs))
    return Line(case, mine, others, ratio, "ms", bar)


def _enclave(case: str, runs: list[Taken], size: int, bar: Bar | None = None) -> Line:
    most = _median(taken.server_memory / size for taken in runs)
    return Line(case, most * size / MEGA, size / MEGA, most, "MB", bar)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--only", metavar="N,N", help="cases; default: all")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"default: {PAIRS}")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default: {ROWS}")
    parser.add_argument("--large", type=float, default=LARGE, help=f"bytes; default: {LARGE:.0e}")
    parser.add_argument("--grow", action="store_true", help="how cost grows, instead")
    parser.add_argument("--most", type=float, default=5e7, help="rows of --grow; default: 5e7")
    parser.add_argument("--profile", action="store_true", help="where the client is, instead")
    chosen = parser.parse_args()
    cases = [n for n in CASES if not chosen.only or str(n) in chosen.only.split(",")]
    if not cases or min(chosen.pairs, chosen.rows) < 1:
        parser.error(f"--only: cases are {list(CASES)}; pairs and rows from 1 on")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.grow:
            grow(folder, int(chosen.most), as_json=chosen.json)
            return 0
        bench = Bench(folder, chosen.rows, chosen.pairs, int(chosen.large))
        if chosen.profile:
            bench.profile()
            return 0
        if not chosen.json:
            print(HEAD)
        lines = []
        for line in bench.lines(cases):
            lines.append(line)
            if not chosen.json:
                print(line, flush=True)
        if chosen.json:
            print(json.dumps([asdict(line) for line in lines]))
    return int(any(line.problem == FAILED for line in lines))


if __name__ == "__main__":
    sys.exit(main())
