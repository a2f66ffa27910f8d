"""One pass over the rows of a statement: the numbers of each group, and how persons share them.

    boxed = Boxed.of(connection, plan, values, inputs=1, most=200)   # None: it cannot be done so
    connection.sql(boxed.shown)     # the statement's rows, added up from those of the boxes
    boxed.evens(connection, rows)   # groups in which no person has more than half, and their rows

Persons are put into four boxes of each input by the last bits of what stands for them, and rows are
added up by group and box. A person is in one box, so that no person has more than the box that has
most; and over all boxes the numbers of a group are the statement's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from enclave_app.computations.sql_plan import Plan
from enclave_app.computations.sql_tables import boxes_differ
from enclave_app.computations.sql_tree import PREFIX, quoted
from enclave_app.gate import Inputs

if TYPE_CHECKING:
    import duckdb

_LAST_BITS = 3  #     of a person: which box
_MOST_INPUTS = 2  #   more have too many boxes together
_MOST_BITS = 14  #    of a key that shares a USMALLINT with a box
_TABLE = f"{PREFIX}boxed"
_NUMBER, _EVEN, _ROWS = f"{PREFIX}number", f"{PREFIX}even", f"{PREFIX}rows"


@dataclass(frozen=True, slots=True)
class Boxed:
    """What stands in the boxes, as a table of the engine."""

    keys: tuple[str, ...]
    shown: str  # SQL: what the statement says
    # SQL: the groups in which no person of an input can have more than half, or lack a value, and
    # how many rows they have. None where `shown` says so: a group is even by its own boxes.
    even: str | None

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
        sums = ["count(*) AS n", *_parts(plan, inputs)]
        bit = _bit_above(plan, inputs)
        if bit is None:
            boxes = [f"{person} & {_LAST_BITS} AS {person}" for person in persons]
            by = ", ".join(str(i + 1) for i in range(len(keys) + len(inputs)))
            sql = f"SELECT {', '.join([*keys, *boxes, *sums])} FROM ({plan.rows}) GROUP BY {by}"  # noqa: S608
        else:
            (key,), (person,), box = keys, persons, _LAST_BITS << bit
            number = f"({key} | ({person} & {box}))::USMALLINT"
            inner = f"SELECT {number} AS {_NUMBER}, {', '.join(sums)}"
            inner = f"{inner} FROM ({plan.rows}) GROUP BY {_NUMBER}"
            split = (
                f"{_NUMBER}::INT & {(1 << bit) - 1} AS {key}, {_NUMBER}::INT >> {bit} AS {person}"
            )
            sql = f"SELECT {split}, * EXCLUDE {_NUMBER} FROM ({inner})"  # noqa: S608
        connection.execute(f"CREATE TEMP TABLE {_TABLE} AS {sql}", dict(values))
        room = most * (_LAST_BITS + 2) ** len(inputs)  # null is a box, too
        ((made,),) = tuples(connection.sql(f"SELECT count(*) FROM {_TABLE}"))  # noqa: S608
        if made > room:
            return None
        if len(plan.sets) == len(persons) == 1:
            even = _wanted(plan, f"FILTER ({persons[0]} IS NOT NULL)")
            more = [f"{even} AS {_EVEN}", f"sum(n)::BIGINT AS {_ROWS}"]
            return cls(plan.keys, _shown(plan, keys, more), None)
        return cls(plan.keys, _shown(plan, keys), _even(plan, keys, persons))

    def evens(
        self, connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]
    ) -> dict[tuple[Any, ...], int]:
        """The `gid` and keys of the groups that are even, and how many rows each has.

        Args:
            rows: Of `shown`.
        """
        if self.even is not None:
            return {tuple(group): rows for *group, rows in tuples(connection.sql(self.even))}
        return {(0, *(row[name] for name in self.keys)): row[_ROWS] for row in rows if row[_EVEN]}


def columns(prefix: str, count: int) -> list[str]:
    """Names of columns that the enclave adds."""
    return [f"{PREFIX}{prefix}{i}" for i in range(count)]


def tuples(found: duckdb.DuckDBPyRelation) -> set[tuple[Any, ...]]:
    """The rows of an answer, which differ."""
    table = found.to_arrow_table()
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


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


def _bit_above(plan: Plan, inputs: Inputs) -> int | None:
    """The bit above all values of the only key, where two bits of a person can stand beside them.

    One small number is grouped by in two thirds of the time. None where the key is no column of
    whole numbers from 0 on, or where these bits do not tell persons apart.
    """
    key = plan.plain_keys[0] if len(inputs) == len(plan.keys) == 1 else None
    if key is None:
        return None
    most = 0
    for column in _columns(inputs, key):
        if not pa.types.is_integer(column.type) or column.null_count or not len(column):
            return None
        ends = pc.min_max(column)
        if ends["min"].as_py() < 0:
            return None
        most = max(most, ends["max"].as_py())
    ((table, subject),) = inputs.values()
    bit, persons = most.bit_length(), table.column(subject)
    return (
        bit if bit <= _MOST_BITS and boxes_differ(persons, bit) and not persons.null_count else None
    )


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


def _shown(plan: Plan, keys: list[str], more: Sequence[str] = ()) -> str:
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
    items += more
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
    group = ", ".join(["gid", *keys])
    return (
        f"WITH each AS (SELECT {', '.join(each)} FROM {_TABLE} GROUP BY {by}) "  # noqa: S608
        f"SELECT {group}, sum(n)::BIGINT FROM each WHERE box IS NOT NULL GROUP BY {group} "
        f"HAVING {_wanted(plan)}"
    )


def _wanted(plan: Plan, of: str = "") -> str:
    """No box has more than half of the rows or of a sum, of the boxes that `of` picks."""
    wanted = [f"2 * max(n) {of} <= sum(n) {of}"]
    # How many lack a value is not known here: nobody may.
    wanted += [f"sum(n) {of} = sum(c_{j}) {of}" for j in range(plan.arguments)]
    for j in sorted(added(plan)):
        wanted.append(f"2 * max(a_{j}) {of} <= sum(a_{j}) {of} * {1 + 1e-9}")
    return " AND ".join(wanted)
