"""Made-up rows, the same for the same numbers: as a policy declares them, as Parquet, as CSV.

    made = write_parquet(path, rows=2_000_000, columns=22)
    made.bytes               # of Arrow's buffers

A few columns of each type that a policy knows, the rest float64. Numbers fill their bytes, so that
packing does not make the file much smaller than its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

GROUP = 250_000  # rows of a row group, and of what is made at once
# Name, type in the policy; further columns are `x8`, `x9`, … of float64.
_FIRST = (
    ("subject", '"string"'),
    ("age", '{ type = "int64", min = 0, max = 120 }'),
    ("seen", '"date32"'),
    ("stored", '"timestamp[us, UTC]"'),
    ("treated", '"bool"'),
    ("note", '"string"'),
    ("code", '"int64"'),
    ("gap", '"float64?"'),
)
_MICROSECONDS = 10**15  # from 1970 on: some thirty years


@dataclass(frozen=True)
class Made:
    """What was written."""

    rows: int
    bytes: int  # of Arrow's buffers


def declared(columns: int) -> str:
    """The `columns` of a dataset, as a policy writes them."""
    return "{ " + ", ".join(f"{name} = {kind}" for name, kind in _names(columns)) + " }"


def _names(columns: int) -> list[tuple[str, str]]:
    further = [(f"x{place}", '"float64"') for place in range(len(_FIRST), columns)]
    return [*_FIRST[:columns], *further]


def group(number: int, rows: int, columns: int) -> pa.RecordBatch:
    """Rows number `number * GROUP` and following."""
    draw = np.random.default_rng(number)
    made: dict[str, pa.Array] = {
        "subject": _texts(draw, rows, b"subject-", 12),
        "age": pa.array(draw.integers(0, 121, rows)),
        "seen": pa.array(draw.integers(0, 20_000, rows).astype(np.int32), pa.date32()),
        "stored": pa.array(draw.integers(0, _MICROSECONDS, rows), pa.timestamp("us", "UTC")),
        "treated": pa.array(draw.random(rows) < 0.5),
        "note": _texts(draw, rows, b"", 10),
        "code": pa.array(draw.integers(0, 10**12, rows)),
        "gap": pa.array(draw.random(rows), mask=draw.random(rows) < 0.01),
    }
    for name, _ in _names(columns)[len(made) :]:
        made[name] = pa.array(draw.normal(50, 10, rows))
    names = [name for name, _ in _names(columns)]
    fields = [pa.field(name, made[name].type, nullable=name == "gap") for name in names]
    return pa.record_batch([made[name] for name in names], schema=pa.schema(fields))


def _texts(draw: np.random.Generator, rows: int, prefix: bytes, digits: int) -> pa.Array:
    """A text in each row: the prefix, and this many hexadecimal digits."""
    drawn = np.frombuffer(draw.bytes(rows * digits // 2).hex().encode(), np.uint8)
    fixed = np.tile(np.frombuffer(prefix, np.uint8), (rows, 1))
    letters = np.ascontiguousarray(np.hstack([fixed, drawn.reshape(rows, digits)]))
    offsets = np.arange(rows + 1, dtype=np.int32) * letters.shape[1]
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters))


def write_parquet(path: Path, rows: int, columns: int, different: int | None = None) -> Made:
    """Write one row group after the other, as pyarrow does by default.

    Args:
        different: So many groups are made; after them the same come again, which is quicker.
    """
    made: dict[int, pa.RecordBatch] = {}
    size = 0
    with pq.ParquetWriter(path, group(0, 1, columns).schema) as writer:
        for number, start in enumerate(range(0, rows, GROUP)):
            count, which = min(GROUP, rows - start), number % (different or rows)
            batch = made.get(which) or group(which, GROUP, columns)
            if different is not None:
                made[which] = batch
            batch = batch.slice(0, count)
            writer.write_batch(batch)
            size += batch.nbytes
    return Made(rows, size)


def write_csv(parquet: Path, path: Path) -> None:
    """The same rows as text."""
    options: Any = pyarrow.csv.WriteOptions(quoting_style="none")
    with (
        pq.ParquetFile(parquet) as file,
        pyarrow.csv.CSVWriter(path, file.schema_arrow, write_options=options) as writer,
    ):
        for batch in file.iter_batches(batch_size=GROUP):
            writer.write_batch(batch)
