"""How fast a CSV file is checked, read and held against the policy, and in how much memory.

    python benchmarks/csv_source.py [--json]

MB/s of CPU time for the pass that every release makes twice. `numbers`: short cells, mostly typed.
`notes`: cells in quotes, with doubled quotes and letters of more than one byte. `packed`: `numbers`
behind gzip, by its unpacked size. The peer is Python's `csv` with `strict`, which makes lists of
the cells and converts nothing. `memory`: the most that Arrow and Python hold, in MiB.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Run as a file, this folder would come first, and files in it would hide packages of their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyarrow as pa

from benchmarks.scheduler import case
from policy.sections import Dataset
from provider.sources import parse_source

SIZE, ROUNDS, GOAL, MOST_MEMORY = 32 << 20, 3, 100, 24
WORDS = ["Schmerz", "ruhig", 'sagt ""gut""', "a, b", "über", "Verlauf"]
COLUMNS = {
    "numbers": {"patient": "string", "age": "int64", "bmi": "float64", "sbp": "int64", "y": "bool"},
    "notes": {"patient": "string", "note": "string", "age": "int64", "bmi": "float64"},
}


def numbers(draw: random.Random) -> str:
    age, bmi, pressure = draw.randrange(100), draw.random() * 40, draw.randrange(200)
    return f"p{draw.randrange(10**9)},{age},{bmi:.6f},{pressure},{draw.choice(('true', 'false'))}\n"


def notes(draw: random.Random) -> str:
    note = " ".join(draw.choices(WORDS, k=draw.randrange(3, 20)))
    return f'p{draw.randrange(10**9)},"{note}",{draw.randrange(100)},{draw.random() * 40:.6f}\n'


def write(path: Path, names: list[str], line: Callable[[random.Random], str]) -> None:
    draw = random.Random(1)  # noqa: S311 - no secret
    block = "".join(line(draw) for _ in range(20_000))
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(names) + "\n")
        for _ in range(SIZE // len(block.encode())):
            file.write(block)


def rate(size: int, run: Callable[[], object]) -> float:
    """MB/s of CPU time, the best of some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return size / min(seconds) / 1e6


def scan(path: Path, columns: dict[str, str]) -> int:
    dataset = Dataset.model_validate(
        {
            "id": "rows",
            "owner": "alice",
            "subject": "patient",
            "columns": columns,
            "max_rows": 10**8,
        }
    )
    with parse_source({"kind": "csv", "path": str(path)}, Path()).open(dataset) as source:
        return source.scan()


def plain(path: Path) -> int:
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file, strict=True))


def memory(path: Path, columns: dict[str, str]) -> float:
    tracemalloc.start()
    scan(path, columns)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (python + pa.default_memory_pool().max_memory()) / (1 << 20)


def measure(folder: Path) -> dict[str, Any]:
    results = {}
    for name, line in (("numbers", numbers), ("notes", notes)):
        path, columns = folder / f"{name}.csv", COLUMNS[name]
        write(path, list(columns), line)
        size = path.stat().st_size
        ours = rate(size, lambda p=path, c=columns: scan(p, c))
        peer = rate(size, lambda p=path: plain(p))
        results[name] = case(ours, "MB/s CPU", GOAL, peer=peer)
    path = folder / "numbers.csv"
    packed = folder / "numbers.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), compresslevel=6))
    columns = COLUMNS["numbers"]
    results["packed"] = case(
        rate(path.stat().st_size, lambda: scan(packed, columns)), "MB/s CPU", 60, peer=None
    )
    results["memory"] = case(memory(folder / "notes.csv", COLUMNS["notes"]), "MiB", MOST_MEMORY)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(Path(folder))
    if as_json:
        print(json.dumps(cases))
        return
    for name, one in cases.items():
        print(f"{name:20} {one['ours']:>9} {one['unit']}, goal {one['goal']}, peer {one['peer']}")


if __name__ == "__main__":
    main()
