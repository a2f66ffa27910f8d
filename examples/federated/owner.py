"""An owner takes part in the rounds of a task: trains at home, and sends no row.

python examples/federated/owner.py ratls.toml task.json DATASET rows.parquet [--allow-simulation]
"""

import sys
from pathlib import Path

import ratls


def take_part(profile: str, task: str, dataset: str, rows: str, *simulated: str) -> None:
    client = ratls.Client(profile, allow_simulation=simulated == ("--allow-simulation",))
    done = client.train(Path(task).read_bytes(), **{dataset: rows})
    print(f"{dataset}: counted in rounds {', '.join(map(str, done.counted))} of {done.rounds}")
    print(f"receipts, for `ratls verify receipt --rounds`: {done.kept.folder}")


if __name__ == "__main__":
    take_part(*sys.argv[1:])
