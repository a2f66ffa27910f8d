"""Who stands behind each group of a table: persons of each input, counted by the enclave.

    hidden_rows(connection, plan, values, keys, inputs=2, rule)     # numbers of rows that stay

A group stays where, in any input, fewer than k persons are in it; where fewer than k have a value
that is counted or added up, or lack one; where all but fewer than k have the same value; or where
one person has more than half of its rows or of a sum.

Counted up to four times. First the persons in some rows (`sql_first`), together with what
`sql_boxes` knows of all rows; then those in all rows of small groups. Then persons are put into a
fixed number of boxes, which stand for them: a group has no more boxes than persons, and no person
has more than the box. What passes so, passes; only for other groups persons themselves are
counted, in all of their rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from enclave_app.audit import Measure, beside_sides, protected
from enclave_app.computations.sql_boxes import added, columns, gid, grouped, tuples
from enclave_app.computations.sql_combined import narrow_combinations
from enclave_app.computations.sql_first import seen
from enclave_app.computations.sql_tree import PREFIX
from enclave_app.deadline import check_deadline
from policy.sections import Release

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Key, Plan

_MOST_ROWS = 1 << 19  # that are looked at first
_MANY_ROWS = 1 << 21  # of groups that are counted again
_LEFT = f"{PREFIX}left"
_BOXES_OF_EACH = 2  # boxes for each person that is demanded: a large group fills them all


def hidden_rows(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    keys: Sequence[Key],
    inputs: int,
    rule: Release,
    even: Mapping[tuple[Any, ...], int] | None = None,
) -> set[int]:
    """The rows of the table, by number, that must not leave.

    Args:
        even: Groups, by `gid` and keys, in which nobody has more than half, and their rows. It
            spares a pass, and changes no answer.
    """
    k = rule.min_subjects_per_input
    hidden = set(range(len(keys)))

    def see(some: str) -> None:
        check_deadline()
        found = seen(connection, plan, values, inputs, k, some)
        hidden.difference_update(_held(plan, keys, found.intersection(even or ()), inputs))

    if even:
        rows = _rows_looked_at(even, k)
        see(f"SELECT * FROM ({plan.rows}) LIMIT {rows}")  # noqa: S608
        left = [keys[i] for i in sorted(hidden)]
        if left and _are_few(plan, left, inputs, even):
            see(_rows_of(connection, plan, values, left))
    for boxes in (1 << (k * _BOXES_OF_EACH).bit_length(), None):
        left = [keys[i] for i in sorted(hidden)]
        if left and (boxes is None or not _are_few(plan, left, inputs, even)):
            check_deadline()
            rows_of = _rows_of(connection, plan, values, left)
            sql = _Counting(plan, inputs, boxes=boxes).sql(k, rows_of)
            found = tuples(connection.sql(sql, params=dict(values)))
            hidden -= _held(plan, keys, found, inputs)
    shown = set(range(len(keys))) - hidden
    hidden |= narrow_combinations(connection, plan, values, keys, inputs, k, shown)
    if hidden and (inputs > 1 or len(plan.sets) > 1):
        check_deadline()
        table, measures = _leaves(connection, plan, values, keys, inputs, k)
        if len(plan.sets) > 1:
            hidden = protected(table, measures, hidden, [place for place, _ in keys])
        elif _joined(measures[0]):
            hidden = _beside_sides(plan, table, measures, keys, hidden, k)
    return hidden


def _rows_looked_at(even: Mapping[tuple[Any, ...], int], k: int) -> int:
    """So many that the smallest group that may pass has enough among them, if they are mixed."""
    gid = min(group[0] for group in even)
    sizes = [rows for group, rows in even.items() if rows >= k and group[0] == gid] or [k]
    enough = k + 5 * math.isqrt(k) + 5  # of mixed rows so many vary by the root of their number
    return min(sum(sizes) * enough // min(sizes), _MOST_ROWS)


def _are_few(
    plan: Plan,
    groups: Sequence[Key],
    inputs: int,
    even: Mapping[tuple[Any, ...], int] | None,
) -> bool:
    """Have these groups so few rows that their persons are counted as soon as boxes are?"""
    known = even or {}
    sizes = (known.get((gid(plan, place, 0, inputs), *key), _MANY_ROWS) for place, key in groups)
    return len(plan.sets) == 1 and sum(sizes) < _MANY_ROWS


def _rows_of(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    groups: Sequence[Key],
) -> str:
    """SQL: the rows of these groups alone, where each row is in one group."""
    if len(plan.sets) > 1 or not plan.keys:
        return plan.rows
    none = f"SELECT * FROM ({plan.rows}) LIMIT 0"  # noqa: S608
    kinds = connection.sql(none, params=dict(values)).to_arrow_table().schema
    names = columns("key_", len(plan.keys))
    left = {
        name: pa.array([key[i] for _, key in groups], kinds.field(name).type)
        for i, name in enumerate(names)
    }
    connection.register(_LEFT, pa.table(left))
    same = " AND ".join(f"r.{name} IS NOT DISTINCT FROM l.{name}" for name in names)
    return f"SELECT r.* FROM ({plan.rows}) AS r SEMI JOIN {_LEFT} AS l ON {same}"  # noqa: S608


def _joined(rows: Measure) -> bool:
    """Is some row about persons of two inputs?"""
    return bool((sum(rows.known) < rows.values).any())


def _beside_sides(
    plan: Plan,
    table: Sequence[frozenset[int]],
    measures: Sequence[Measure],
    keys: Sequence[Key],
    hidden: set[int],
    k: int,
) -> set[int]:
    """Whoever has not all of the keys may know what the groups add up to over those it lacks.

    That a provider lacks one key alone is the most that it can know.
    """
    margins: dict[tuple[int, tuple[Any, ...]], list[int]] = {}
    for lacking in range(len(plan.keys)):
        for group, (_, found) in enumerate(keys):
            own = (*found[:lacking], *found[lacking + 1 :])
            margins.setdefault((lacking, own), []).append(group)
    counts = [
        [float(measure.values[[*leaves]].sum()) for leaves in table]
        for measure in measures[: plan.arguments + 1]
    ]
    return beside_sides([*margins.values()], counts, hidden, k)


def _held(
    plan: Plan, keys: Sequence[Key], passed: Collection[tuple[Any, ...]], inputs: int
) -> set[int]:
    """Rows of the table whose group passed with the persons of every input."""
    return {
        i
        for i, (place, values) in enumerate(keys)
        if all((gid(plan, place, p, inputs), *values) in passed for p in range(inputs))
    }


@dataclass(frozen=True, slots=True)
class _Counting:
    """One way to count the persons of each group, for each grouping and each input."""

    plan: Plan
    inputs: int
    boxes: int | None = None  # boxes instead of persons

    def sql(self, k: int, rows: str) -> str:
        """Groups that pass, as their `gid` and their keys.

        Args:
            rows: SQL that gives them.
        """
        plan = self.plan
        sums = sorted(added(plan))
        keys, persons = columns("key_", len(plan.keys)), columns("", self.inputs)
        which, person, by = grouped(plan, keys, persons)
        box = "" if self.boxes is None else f" % {self.boxes}"
        listed = [
            *keys,
            *(f"ratls_argument_{j} IS NOT NULL AS has_{j}" for j in range(plan.arguments)),
            *(f"TRY_CAST(ratls_argument_{j} AS DOUBLE) AS value_{j}" for j in sums),
            *(f"{one}{box} AS {one}" for one in persons),
        ]
        per_person = [f"{which} AS gid", *keys, f"{person} AS person", "count(*) AS n"]
        ends, wanted = ["gid", *keys], [f"count(*) >= {k}", "2 * max(n) <= sum(n)"]
        for j in range(plan.arguments):
            per_person.append(f"count(*) FILTER (has_{j}) AS c_{j}")
            wanted.append(f"count(*) FILTER (c_{j} > 0) >= {k}")
            wanted.append(f"count(*) FILTER (c_{j} < n) NOT BETWEEN 1 AND {k - 1}")
        for j in sums:
            per_person += [f"min(value_{j}) AS low_{j}", f"max(value_{j}) AS high_{j}"]
            ends += [f"min(low_{j}) AS lowest_{j}", f"max(high_{j}) AS highest_{j}"]
            wanted.append(f"count(*) FILTER (high_{j} > lowest_{j}) >= {k}")
            wanted.append(f"count(*) FILTER (low_{j} < highest_{j}) >= {k}")
            per_person.append(f"sum(abs(value_{j})) AS size_{j}")
            wanted.append(f"2 * max(size_{j}) <= sum(size_{j}) * {1 + 1e-9}")
        group = ["gid", *keys]
        with_ends = "persons"
        if sums:
            same = (f"persons.{one} IS NOT DISTINCT FROM ends.{one}" for one in group)
            with_ends = f"persons JOIN ends ON {' AND '.join(same)}"
        shown = ", ".join(f"persons.{one}" for one in group)
        return (  # names are numbers, and `plan.rows` is what the parties signed
            f"WITH listed AS (SELECT {', '.join(listed)} FROM ({rows})), "  # noqa: S608
            f"each AS (SELECT {', '.join(per_person)} FROM listed GROUP BY {by}), "
            "persons AS (SELECT * FROM each WHERE person IS NOT NULL), "
            f"ends AS (SELECT {', '.join(ends)} FROM persons GROUP BY {', '.join(group)}) "
            f"SELECT {shown} FROM {with_ends} GROUP BY {shown} HAVING {' AND '.join(wanted)}"
        )


def _leaves(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    keys: Sequence[Key],
    inputs: int,
    k: int,
) -> tuple[list[frozenset[int]], list[Measure]]:
    """The smallest groups that the table's rows are sums of, and what adds up over them."""
    names, persons = columns("key_", len(plan.keys)), columns("", inputs)
    parts = ["count(*)"] + [f"count(ratls_argument_{j})" for j in range(plan.arguments)]
    parts += [f"sum(TRY_CAST(ratls_argument_{j} AS DOUBLE))" for j in sorted(added(plan))]
    lows = [f"min(TRY_CAST(ratls_argument_{j} AS DOUBLE))" for j in sorted(added(plan))]
    alone = [
        " AND ".join(f"{q} IS {'NOT ' if q == person else ''}NULL" for q in persons)
        for person in persons
    ]
    shown = [f"{part} AS all_{m}" for m, part in enumerate(parts)]
    shown += [
        f"{part} FILTER ({own}) AS own_{i}_{m}"
        for i, own in enumerate(alone)
        for m, part in enumerate(parts)
    ]
    shown += [f"{low} AS low_{m}" for m, low in enumerate(lows)]
    by = f" GROUP BY {', '.join(names)}" if names else ""
    sql = f"SELECT {', '.join([*names, *shown])} FROM ({plan.rows}){by}"  # noqa: S608
    leaves = connection.sql(sql, params=dict(values)).to_arrow_table().to_pylist()
    table = [
        frozenset(
            n
            for n, leaf in enumerate(leaves)
            if all(leaf[names[i]] == found[i] for i in plan.sets[place])
        )
        for place, found in keys
    ]

    def numbers(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([leaf[name] or 0 for leaf in leaves], np.float64)

    measures = []
    for m in range(len(parts)):
        counts = m <= plan.arguments
        low = "" if counts else f"low_{m - plan.arguments - 1}"
        signed = not counts and any((leaf[low] or 0) < 0 for leaf in leaves)
        # The one provider of all rows learns nothing; of two each knows a part.
        own = [numbers(f"own_{i}_{m}") for i in range(inputs)] if inputs > 1 else []
        known = (numbers(f"all_{m}") * 0, *own)
        measures.append(Measure(numbers(f"all_{m}"), known, signed, k if counts else 0.0))
    return table, measures
