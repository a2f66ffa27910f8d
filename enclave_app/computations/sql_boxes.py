"""One pass over the rows of a statement: the numbers of each group, and how persons share them.

    boxed = Boxed.of(connection, plan, values, inputs=1, most=200)   # None: it cannot be done so
    connection.sql(boxed.shown)     # the statement's rows, added up from those of the boxes
    connection.sql(boxed.even)      # groups in which no person has more than half

Persons are put into four boxes of each input by the last bits of what stands for them, and rows are
added up by group and box. A person is in one box, so that no person has more than the box that has
most; and over all boxes the numbers of a group are the statement's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from enclave_app.computations.sql_plan import Plan
from enclave_app.computations.sql_tree import PREFIX, quoted
from enclave_app.gate import Inputs

if TYPE_CHECKING:
    import duckdb

_LAST_BITS = 3  #     of a person: which box
_MOST_INPUTS = 2  #   more have too many boxes together
_TABLE = f"{PREFIX}boxed"


@dataclass(frozen=True, slots=True)
class Boxed:
    """What stands in the boxes, as a table of the engine."""

    shown: str  # SQL: what the statement says
    # SQL: the groups in which no person of an input can have more than half, or lack a value.
    even: str

    @classmethod
    def of(
        cls,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        values: Mapping[str, Any],
        inputs: Inputs,
        most: int,
    ) -> Boxed | None:
        """None where the numbers of boxes do not add up to those of groups, or are too many.

        Args:
            most: Rows that the statement may make. With more in the boxes than these could fill,
                nothing is kept, and the statement itself is run.
        """
        if len(inputs) > _MOST_INPUTS or any(a.distinct for a in plan.aggregates):
            return None
        persons, keys = columns("", len(inputs)), columns("key_", len(plan.keys))
        boxes = [f"{person} & {_LAST_BITS} AS {person}" for person in persons]
        by = ", ".join(str(i + 1) for i in range(len(keys) + len(inputs)))
        sums = ["count(*) AS n", *_parts(plan, inputs)]
        sql = f"SELECT {', '.join([*keys, *boxes, *sums])} FROM ({plan.rows}) GROUP BY {by}"  # noqa: S608
        found: list[pa.RecordBatch] = []
        reader = connection.sql(sql, params=dict(values)).to_arrow_reader()
        room = most * (_LAST_BITS + 2) ** len(inputs)  # null is a box, too
        for batch in reader:
            found.append(batch)
            room -= batch.num_rows
            if room < 0:
                return None
        connection.register(_TABLE, pa.Table.from_batches(found, reader.schema))
        return cls(_shown(plan, keys), _even(plan, keys, persons))


def columns(prefix: str, count: int) -> list[str]:
    """Names of columns that the enclave adds."""
    return [f"{PREFIX}{prefix}{i}" for i in range(count)]


def added(plan: Plan) -> frozenset[int]:
    """Arguments whose values show in the result."""
    return frozenset(
        a.argument
        for a in plan.aggregates
        if a.argument is not None and a.function in {"sum", "avg"}
    )


def gid(plan: Plan, place: int, person: int, inputs: int) -> int:
    """What GROUPING says of one grouping of keys, with the persons of one input."""
    parts = [i in plan.sets[place] for i in range(len(plan.keys))]
    parts += [i == person for i in range(inputs)]
    return int("".join("0" if kept else "1" for kept in parts), 2)


def grouped(
    plan: Plan, keys: Sequence[str], persons: Sequence[str], alone: int | None = None
) -> tuple[str, str, str]:
    """SQL for each grouping with the persons of each input: its `gid`, its person, GROUP BY.

    Args:
        alone: The one input whose persons are asked for; of a statement without totals.
    """
    if len(plan.sets) == len(persons) == 1:
        alone = 0
    if alone is not None:  # which takes the engine a fraction of the time
        which = gid(plan, 0, alone, len(persons))
        return str(which), persons[alone], ", ".join([*keys, persons[alone]])
    sets = ", ".join(
        f"({', '.join([*(keys[i] for i in found), person])})"
        for found in plan.sets
        for person in persons
    )
    whole = f"grouping({', '.join([*keys, *persons])})"
    return whole, f"coalesce({', '.join(persons)})", f"GROUPING SETS ({sets})"


def _parts(plan: Plan, inputs: Inputs) -> list[str]:
    """How many rows have each argument; its sum; and its sum without signs."""
    parts: list[str] = []
    for j, name in enumerate(plan.plain):
        argument = f"{PREFIX}argument_{j}"
        # What is counted or added up already costs the engine nothing to have again.
        counted = "*" if name is not None and _complete(inputs, name) else argument
        parts.append(f"count({counted}) AS c_{j}")
        if j in added(plan):
            size = argument
            if name is None or not _never_negative(inputs, name):
                size = f"abs(TRY_CAST({argument} AS DOUBLE))"
            parts += [f"sum({argument}) AS s_{j}", f"sum({size}) AS a_{j}"]
    return parts


def _columns(inputs: Inputs, name: str) -> Iterator[pa.ChunkedArray]:
    """Whatever a statement means by this name is one of them."""
    for table, _ in inputs.values():
        for column in table.column_names:
            if column.casefold() == name.casefold():
                yield table.column(column)


def _complete(inputs: Inputs, name: str) -> bool:
    return all(not column.null_count for column in _columns(inputs, name))


def _never_negative(inputs: Inputs, name: str) -> bool:
    return all(
        (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
        and not column.null_count
        and all(bool(chunk.to_numpy().min(initial=0) >= 0) for chunk in column.chunks)
        for column in _columns(inputs, name)
    )


def _shown(plan: Plan, keys: list[str]) -> str:
    named = dict(zip(plan.keys, keys, strict=True))
    numbers = {
        a.name: {
            "count_star": "sum(n)::BIGINT",
            "count": f"sum(c_{a.argument})::BIGINT",
            "sum": f"sum(s_{a.argument})",
            # As the engine has it: a sum, divided by how many there are.
            "avg": f"sum(s_{a.argument}) / nullif(sum(c_{a.argument}), 0)",
        }[a.function]
        for a in plan.aggregates
    }
    items = [f"{named.get(n) or numbers[n]} AS {quoted(n)}" for n in plan.columns]
    if len(plan.sets) > 1:
        items.append(f"grouping({', '.join(keys)}) AS {PREFIX}grouping")
    sets = ", ".join(f"({', '.join(keys[i] for i in found)})" for found in plan.sets)
    by = f"GROUP BY GROUPING SETS ({sets})" if keys else ""
    return f"SELECT {', '.join(items)} FROM {_TABLE} {by} {plan.order}"  # noqa: S608


def _even(plan: Plan, keys: list[str], persons: list[str]) -> str:
    """As the census has it, so far as boxes say it."""
    numbers = ["n", *(f"c_{j}" for j in range(plan.arguments))]
    numbers += [f"a_{j}" for j in sorted(added(plan))]
    which, box, by = grouped(plan, keys, persons)
    each = [f"{which} AS gid", *keys, f"{box} AS box", *(f"sum({x}) AS {x}" for x in numbers)]
    wanted = ["2 * max(n) <= sum(n)"]
    # How many lack a value is not known here: nobody may.
    wanted += [f"sum(n) = sum(c_{j})" for j in range(plan.arguments)]
    wanted += [f"2 * max(a_{j}) <= sum(a_{j}) * {1 + 1e-9}" for j in sorted(added(plan))]
    group = ", ".join(["gid", *keys])
    return (
        f"WITH each AS (SELECT {', '.join(each)} FROM {_TABLE} GROUP BY {by}) "  # noqa: S608
        f"SELECT {group} FROM each WHERE box IS NOT NULL GROUP BY {group} "
        f"HAVING {' AND '.join(wanted)}"
    )
