"""Who stands behind each group of a table: persons of each input, counted by the enclave.

    hidden_rows(connection, plan, values, keys, inputs=2, rule)     # numbers of rows that stay

A group stays where, in any input, fewer than k persons are in it; where fewer than k have a value
that is counted or added up, or lack one; where all but fewer than k have the same value; or where
one person has more than half of its rows or of a sum.

Counted twice, if need be. First persons are put into a fixed number of boxes, by their hash, and
boxes stand for persons: a group has no more boxes than persons, and nobody has more than the box.
So a group that passes like that passes; only for the others persons themselves are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from enclave_app.audit import Measure, protected
from enclave_app.deadline import check_deadline
from policy.sections import Release

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Plan

Key = tuple[int, tuple[Any, ...]]  # a grouping, and the values of all keys
_BOXES_OF_EACH = 2  # boxes for each person that is demanded: a large group fills them all


def hidden_rows(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    keys: Sequence[Key],
    inputs: int,
    rule: Release,
) -> set[int]:
    """The rows of the table, by number, that must not leave."""
    k = rule.min_subjects_per_input
    boxes = 1 << (k * _BOXES_OF_EACH).bit_length()
    hidden = set(range(len(keys)))
    for size in (boxes, None):
        if not hidden:
            return hidden
        check_deadline()
        found = connection.sql(_census(plan, inputs, size), params=dict(values)).to_arrow_table()
        hidden = _small(plan, keys, found.to_pylist(), inputs, k)
    if len(plan.sets) > 1 and hidden:
        check_deadline()
        table, measures = _leaves(connection, plan, values, keys, inputs, k)
        hidden = protected(table, measures, hidden, [place for place, _ in keys])
    return hidden


def _columns(prefix: str, count: int) -> list[str]:
    return [f"ratls_{prefix}{i}" for i in range(count)]


def _added(plan: Plan) -> frozenset[int]:
    """Arguments whose values show in the result."""
    return frozenset(
        a.argument
        for a in plan.aggregates
        if a.argument is not None and a.function in {"sum", "avg"}
    )


def _gid(plan: Plan, place: int, person: int, inputs: int) -> int:
    """What GROUPING says of one grouping of keys, with the persons of one input."""
    parts = [i in plan.sets[place] for i in range(len(plan.keys))]
    parts += [i == person for i in range(inputs)]
    return int("".join("0" if kept else "1" for kept in parts), 2)


def _census(plan: Plan, inputs: int, boxes: int | None) -> str:
    """SQL: for each grouping, its keys and each input, how many persons there are, and of what."""
    keys, persons = _columns("key_", len(plan.keys)), _columns("", inputs)
    added = _added(plan)
    box = "" if boxes is None else f" % {boxes}"
    shown = [
        *keys,
        *(f"ratls_argument_{j} IS NOT NULL AS ratls_has_{j}" for j in range(plan.arguments)),
        *(f"TRY_CAST(ratls_argument_{j} AS DOUBLE) AS ratls_value_{j}" for j in sorted(added)),
        *(f"{person}{box} AS {person}" for person in persons),
    ]
    per_person = [f"grouping({', '.join([*keys, *persons])}) AS gid", *keys, "count(*) AS n"]
    per_person += [f"coalesce({', '.join(persons)}) AS person"]
    per_group = ["gid", *keys, "count(*) AS persons", "max(n) AS most_n", "sum(n) AS all_n"]
    windows = []
    for j in range(plan.arguments):
        per_person.append(f"count(*) FILTER (ratls_has_{j}) AS c_{j}")
        per_group.append(f"count(*) FILTER (c_{j} > 0) AS with_{j}")
        per_group.append(f"count(*) FILTER (c_{j} < n) AS without_{j}")
    for j in sorted(added):
        value = f"ratls_value_{j}"
        per_person += [f"min({value}) AS low_{j}", f"max({value}) AS high_{j}"]
        per_person += [f"sum(abs({value})) AS sum_{j}"]
        windows += [f"min(low_{j}) OVER w AS lowest_{j}", f"max(high_{j}) OVER w AS highest_{j}"]
        per_group += [f"count(*) FILTER (high_{j} > lowest_{j}) AS above_{j}"]
        per_group += [f"count(*) FILTER (low_{j} < highest_{j}) AS below_{j}"]
        per_group += [f"max(sum_{j}) AS most_{j}", f"sum(sum_{j}) AS all_{j}"]
    sets = ", ".join(
        f"({', '.join([*(keys[i] for i in found), person])})"
        for found in plan.sets
        for person in persons
    )
    partition = ", ".join(["gid", *keys])
    return (  # names are numbers, and `plan.rows` is what the parties signed
        f"WITH listed AS (SELECT {', '.join(shown)} FROM ({plan.rows})), "  # noqa: S608
        f"each AS (SELECT {', '.join(per_person)} FROM listed GROUP BY GROUPING SETS ({sets})), "
        f"ranged AS (SELECT {', '.join(['*', *windows])} FROM each WHERE person IS NOT NULL "
        f"WINDOW w AS (PARTITION BY {partition})) "
        f"SELECT {', '.join(per_group)} FROM ranged GROUP BY {partition}"
    )


def _small(
    plan: Plan, keys: Sequence[Key], census: Iterable[Mapping[str, Any]], inputs: int, k: int
) -> set[int]:
    """Rows with a group that is too small, or that one person dominates."""
    names, added = _columns("key_", len(plan.keys)), _added(plan)
    fine = {
        (counted["gid"], tuple(counted[name] for name in names))
        for counted in census
        if _fine(counted, plan.arguments, added, k)
    }
    return {
        i
        for i, (place, values) in enumerate(keys)
        if not all((_gid(plan, place, p, inputs), values) in fine for p in range(inputs))
    }


def _fine(counted: Mapping[str, Any], arguments: int, added: frozenset[int], k: int) -> bool:
    return (
        counted["persons"] >= k
        and 2 * counted["most_n"] <= counted["all_n"]
        and all(
            counted[f"with_{j}"] >= k and (counted[f"without_{j}"] or k) >= k
            for j in range(arguments)
        )
        and all(
            counted[f"above_{j}"] >= k
            and counted[f"below_{j}"] >= k
            and 2 * counted[f"most_{j}"] <= counted[f"all_{j}"] * (1 + 1e-9)
            for j in added
        )
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
    names, persons = _columns("key_", len(plan.keys)), _columns("", inputs)
    parts = ["count(*)"] + [f"count(ratls_argument_{j})" for j in range(plan.arguments)]
    parts += [f"sum(TRY_CAST(ratls_argument_{j} AS DOUBLE))" for j in sorted(_added(plan))]
    lows = [f"min(TRY_CAST(ratls_argument_{j} AS DOUBLE))" for j in sorted(_added(plan))]
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
