"""How the cost of a release grows with rows, columns and providers at once.

grow(folder, most=50_000_000)
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.transfer.processes import all_at_once, finish, memory, start
from benchmarks.transfer.rows import write_parquet
from benchmarks.transfer.world import OURS, World

ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
COLUMNS = (2, 22, 100, 500)
PROVIDERS = (1, 4, 16, 64)
FEW_COLUMNS, SOME_COLUMNS, SOME_ROWS, ROWS_EACH = 8, 22, 200_000, 20_000
HEAD = (
    f"{'rows':>11} {'columns':>7} {'providers':>9} {'MB':>8} {'s':>8} {'MB/s':>7} {'CPU s/GB':>8}"
)
HEAD += f" {'memory':>7}"  # of the enclave, to the rows


def grow(folder: Path, most: int, *, as_json: bool) -> None:
    """Print one line for each size, none of them with more than `most` rows in all."""
    sizes = [
        *((rows, FEW_COLUMNS, 1) for rows in ROWS),
        *((SOME_ROWS, columns, 1) for columns in COLUMNS),
        *((ROWS_EACH, SOME_COLUMNS, providers) for providers in PROVIDERS),
    ]
    if not as_json:
        print(HEAD)
    found = []
    for number, (rows, columns, providers) in enumerate(sizes):
        if rows * providers > most:
            continue
        line = _release(folder / f"size-{number}", rows, columns, providers)
        found.append(line)
        if not as_json:
            print(
                f"{rows:>11,} {columns:>7} {providers:>9} {line['megabytes']:>8.1f} "
                f"{line['seconds']:>8.2f} {line['rate']:>7.1f} {line['cpu']:>8.2f} "
                f"{line['memory']:>7.2f}",
                flush=True,
            )
    if as_json:
        print(json.dumps(found))


def _release(folder: Path, rows: int, columns: int, providers: int) -> dict[str, float]:
    """One size. Seconds are those of the slowest client's work; CPU is of all processes."""
    world = World.create(folder, rows=rows, columns=columns, providers=providers)
    few, source = folder / "few.parquet", folder / "rows.parquet"
    write_parquet(few, 100, columns)
    made = write_parquet(source, rows, columns, different=4)
    with world.enclave(roomy=True) as server:

        def releasing(what: str, provider: int, task: Path, file: Path) -> list[str]:
            return [*OURS, what, str(world.desk(provider, [task])), server.address, str(file)]

        # The enclave's code is loaded by then.
        finish(start(releasing("release", 0, world.task(), few)))
        task = world.task()
        clients = [releasing("together", number, task, source) for number in range(providers)]
        cpu, resident = server.cpu(), memory(server.pid, "VmRSS")
        answers = all_at_once(clients)
        used = server.cpu() - cpu + sum(answer["cpu"] for answer in answers)
        most = memory(server.pid, "VmHWM") - resident
    source.unlink()
    size = made.bytes * providers
    seconds = max(answer["seconds"] for answer in answers)
    return {
        "rows": rows,
        "columns": columns,
        "providers": providers,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "rate": size / 1e6 / seconds,
        "cpu": used / size * 1e9,
        "memory": most / size,
    }
