"""The tables that a statement sees: of each input the agreed columns, and who each row is about.

register(connection, inputs, statement)
connection.sql("SELECT region, ratls_0 FROM visits")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from enclave_app.computations.sql_tree import PREFIX, quoted
from enclave_app.gate import Inputs
from policy.computations import named_in

if TYPE_CHECKING:
    import duckdb

_LOOKED_AT = 10_000  # persons, to see whether their last bits differ


def register(connection: duckdb.DuckDBPyConnection, inputs: Inputs, statement: str) -> None:
    """Of each input the columns that the statement names, under the name of the dataset."""
    for i, (dataset, (table, subject)) in enumerate(inputs.items()):
        names = dict.fromkeys([*named_in(statement, table.column_names), subject])
        connection.register(f"{PREFIX}rows_{i}", table.select([*names]))
        person = _person(table.column(subject), subject)
        see_persons(connection, i, dataset, person, len(inputs))


def _person(subjects: pa.ChunkedArray, name: str) -> str:
    """SQL: a number for the person of a row, whose last bits differ from those of others.

    Of a whole number itself; of anything else, or where all end alike, a hash. Two that fall
    together count as one, which is on the safe side.
    """
    if boxes_differ(subjects, 0):
        return f"{quoted(name)}::BIGINT"
    return f"(hash({quoted(name)}) >> 1)::BIGINT"


def boxes_differ(subjects: pa.ChunkedArray, bit: int) -> bool:
    """Are these whole numbers, whose two bits from this one on spread the first of them evenly?"""
    first = subjects.slice(0, _LOOKED_AT)
    if not pa.types.is_integer(first.type) or first.null_count or not len(first):
        return False
    found = np.bincount(first.to_numpy() >> bit & 3, minlength=4)
    return bool(5 * found.max() < 2 * len(first))


def see_persons(
    connection: duckdb.DuckDBPyConnection, i: int, dataset: str, person: str, inputs: int
) -> None:
    """The table of a dataset, with a column for each input that tells its persons apart."""
    others = ", ".join(
        f"{person if j == i else 'NULL::BIGINT'} AS {PREFIX}{j}" for j in range(inputs)
    )
    view = f"CREATE VIEW {quoted(dataset)} AS SELECT *, {others} FROM {PREFIX}rows_{i}"  # noqa: S608
    connection.execute(view)
