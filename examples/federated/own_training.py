#!/usr/bin/env python3
"""A program that trains in place of scikit-learn: `ratls provider train --program own_training.py`.

It is given a folder with `global.arrow`, the joint model, and leaves `update.arrow`, the model
after training. Its rows are where it knows them to be: here beside the program.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# As agreed in the policy: all owners scale alike.
DOMAINS, LABEL = {"age": (0, 120), "bmi": (10, 60)}, "y"
STEPS, SPEED = 200, 2.0


def train(model: np.ndarray, matrix: np.ndarray, ill: np.ndarray) -> np.ndarray:
    """Steps downhill; what one owner finds alone is not yet the joint model."""
    for _ in range(STEPS):
        wrong = np.exp(-np.logaddexp(0, -matrix @ model)) - ill
        model = model - SPEED * matrix.T @ wrong / len(ill)
    return model


folder = Path(sys.argv[1])
given = pa.ipc.open_file(folder / "global.arrow").read_all()  # name, shape, values
model = np.concatenate([values.values for values in given.column("values")])
rows = pq.read_table(Path(__file__).with_name("rows.parquet"))
scaled = [
    (rows[name].to_numpy() - (low + high) / 2) / ((high - low) / 2)
    for name, (low, high) in DOMAINS.items()
]
matrix = np.column_stack([*scaled, np.ones(len(rows))])
model = train(model, matrix, rows[LABEL].to_numpy())
values = pa.array([model[:-1], model[-1:]], given.schema.field("values").type)
update = given.set_column(2, given.schema.field("values"), values)
with (
    pa.OSFile(str(folder / "update.arrow"), "wb") as sink,
    pa.ipc.new_file(sink, given.schema) as to,
):
    to.write_table(update)
