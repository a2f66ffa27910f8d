"""Groups in whose first rows enough persons stand already: those are in all of its rows, too.

    found = seen(connection, plan, values, 1, 100, "SELECT … LIMIT 20000")   # {(gid, "north"), …}

How much of a group one person has, and whether anybody lacks a value, some rows do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from enclave_app.computations.sql_boxes import added, columns, grouped
from enclave_app.computations.sql_tree import PREFIX

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Plan


def seen(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    inputs: int,
    k: int,
    some: str,
) -> set[tuple[Any, ...]]:
    """Groups with k persons of an input who have each argument, and who differ in what is summed.

    Args:
        some: SQL: rows of the plan that are looked at, not all that there are.

    Returns: The `gid` of their grouping and input, and their keys.
    """
    each = range(inputs) if len(plan.sets) == 1 else [None]  # totals have all of them in one
    some = f"({some})"
    if len(each) > 1:  # the rows of a join are made once
        listed = connection.sql(f"FROM {some}", params=dict(values)).to_arrow_table()
        connection.register(some := f"{PREFIX}first", listed)
        values = {}
    found: set[tuple[Any, ...]] = set()
    for alone in each:
        sql = _sql(plan, inputs, k, some, alone)
        groups = connection.sql(sql, params=dict(values)).to_arrow_table()
        passed = np.ones(len(groups), bool)
        for j in added(plan):
            passed &= _differing(groups.column(f"lows_{j}"), groups.column(f"highs_{j}")) >= k
        kept = groups.select(["gid", *columns("key_", len(plan.keys))]).filter(
            pa.array(passed.tolist(), pa.bool_())
        )
        found.update(zip(*(column.to_pylist() for column in kept.columns), strict=True))
    return found


def _sql(plan: Plan, inputs: int, k: int, some: str, alone: int | None) -> str:
    keys, persons = columns("key_", len(plan.keys)), columns("", inputs)
    which, person, by = grouped(plan, keys, persons, alone)
    per_person = [f"{which} AS gid", *keys, f"{person} AS person"]
    lists, wanted = [], [f"count(*) >= {k}"]
    for j, argument in enumerate(columns("argument_", plan.arguments)):
        if j in added(plan):
            value = f"TRY_CAST({argument} AS DOUBLE)"
            per_person += [f"min({value}) AS low_{j}", f"max({value}) AS high_{j}"]
            lists += [f"list(low_{j}) AS lows_{j}", f"list(high_{j}) AS highs_{j}"]
        else:
            per_person.append(f"any_value({argument}) AS low_{j}")
        wanted.append(f"count(low_{j}) >= {k}")
    group = ", ".join(["gid", *keys])
    return (
        f"WITH each AS (SELECT {', '.join(per_person)} FROM {some} GROUP BY {by}) "  # noqa: S608
        f"SELECT {', '.join([group, *lists])} FROM each WHERE person IS NOT NULL "
        f"GROUP BY {group} HAVING {' AND '.join(wanted)}"
    )


def _differing(lows: pa.ChunkedArray, highs: pa.ChunkedArray) -> Any:
    """Of each group, how many persons have a value above the lowest, or below the highest."""
    low, high = (one.combine_chunks() for one in (lows, highs))
    if not len(low):
        return np.zeros(0, int)
    first = low.offsets.to_numpy()[:-1]
    of_each = low.value_lengths().to_numpy()
    least, most = (one.flatten().to_numpy(zero_copy_only=False) for one in (low, high))
    above = most > np.repeat(np.fmin.reduceat(least, first), of_each)
    below = least < np.repeat(np.fmax.reduceat(most, first), of_each)
    return np.minimum(np.add.reduceat(above, first), np.add.reduceat(below, first))
