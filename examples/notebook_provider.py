"""A provider's notebook: cells as editors show them. It releases a data frame for a signed task.

python examples/notebook_provider.py ratls.toml task.json visits.csv DATASET [--allow-simulation]
"""

# %% Who I am, and where things are: ratls.toml says it.
import sys
from pathlib import Path

import pandas as pd

import ratls

profile, task, table, dataset, *simulated = sys.argv[1:]
client = ratls.Client(profile, allow_simulation=simulated == ["--allow-simulation"])

# %% The rows; only columns that the policy declares will leave.
visits = pd.read_csv(table)
visits["y"] = visits["y"].astype("int64")

# %% The enclave proves itself inside the stream that carries the rows.
done = client.release(Path(task).read_bytes(), **{dataset: visits})
print(f"{done[dataset].commit.rows} rows, acknowledged: {done[dataset].kept.acknowledgement}")
