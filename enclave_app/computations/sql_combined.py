"""Numbers of one group can be added and subtracted: whom what comes out is about.

    hidden |= narrow_combinations(connection, plan, values, keys, inputs, k, asked)

`sum(cost)` less `sum(CASE WHEN age = 97 THEN 0 ELSE cost END)` is the cost of one person, and each
of the two is about many. In every combination of rows, values and sums that stand in one row of a
table, k persons of each input have a part, or none; and nobody's part is more than all others'.
That is asked where a statement counts or adds up two things; of one thing `sql_census` asks it.

A person's numbers in a group are a vector. As with directions of a model, squared length over the
least eigenvalue bounds anybody's part of any combination, and groups of many different persons are
done with that. Of others the vectors themselves are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from enclave_app.computations.combinations import Vectors, about_few, surely_many
from enclave_app.computations.sql_boxes import added, columns
from enclave_app.deadline import check_deadline

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Key, Plan

Group = tuple[Any, ...]  # a `Key` in one piece, as the engine names it
_PART = 1 << 18  # persons that are looked at at once
_UNITS = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_ASKED = "ratls_asked"


def narrow_combinations(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    keys: Sequence[Key],
    inputs: int,
    k: int,
    asked: Collection[int],
) -> set[int]:
    """Of the rows that are asked about, by number, those with a combination about too few."""
    if plan.arguments < 2 or not asked:
        return set()
    counted = connection.sql(f"SELECT count(*) FROM ({plan.rows})", params=dict(values))  # noqa: S608
    parts = 1 + counted.fetchall()[0][0] // _grouped_at_once(connection, plan)
    groups = {(_mask(plan, keys[i][0]), *keys[i][1]): i for i in sorted(asked)}
    found: set[int] = set()
    for person in columns("", inputs):
        bounds: dict[Group, _Bound] = {}
        slices = [
            f"{person} IS NOT NULL AND hash({person}) % {parts} = {part}" for part in range(parts)
        ]
        for of_part in slices:
            check_deadline()
            sql = _products(plan, of_part, person)
            named, numbers = _split(connection.sql(sql, params=dict(values)), 1 + len(plan.keys))
            for group, row in zip(named, numbers, strict=True):
                if group in groups:
                    bounds.setdefault(group, _Bound()).add(row)
        unsure = [g for g, b in bounds.items() if groups[g] not in found and not b.passes(k)]
        found |= {groups[group] for group in unsure if bounds[group].persons > _PART}
        looked_at = [group for group in unsure if bounds[group].persons <= _PART]
        ends = np.cumsum([bounds[group].persons for group in looked_at], dtype=np.int64) // _PART
        for part in sorted(set(ends.tolist())):
            some = [group for group, end in zip(looked_at, ends, strict=True) if end == part]
            for group, vectors in _vectors(connection, plan, values, person, slices, some):
                check_deadline()
                if about_few(vectors, k):
                    found.add(groups[group])
    return found


def _grouped_at_once(connection: duckdb.DuckDBPyConnection, plan: Plan) -> int:
    """How many persons take a quarter of the engine's memory."""
    ((limit,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    number, unit = str(limit).split()
    memory = float(number) * 2 ** _UNITS[unit]
    each = 64 + 16 * (len(plan.keys) + len(_numbers(plan)))  # measured, and rounded up
    return max(1, int(memory / 4 / each))


def _vectors(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    person: str,
    slices: Sequence[str],
    groups: Sequence[Group],
) -> Iterator[tuple[Group, Vectors]]:
    """The numbers of each person of these groups."""
    named = ["mask", *columns("key_", len(plan.keys))]
    asking = {"place": [*range(len(groups))]}
    asking |= {name: [group[i] for group in groups] for i, name in enumerate(named)}
    connection.register(_ASKED, pa.table(asking))
    same = " AND ".join(f"each.{name} IS NOT DISTINCT FROM {_ASKED}.{name}" for name in named)
    shown = ", ".join(["place", *(f"v_{i}" for i in range(len(_numbers(plan))))])
    found: list[tuple[list[Group], Vectors]] = []
    for of_part in slices:
        check_deadline()
        each = _by_person(plan, of_part, person)
        sql = f"SELECT {shown} FROM ({each}) AS each JOIN {_ASKED} ON {same}"  # noqa: S608
        found.append(_split(connection.sql(sql, params=dict(values)), 1))
    of_group = np.array([place for places, _ in found for (place,) in places])
    numbers = np.vstack([part for _, part in found])
    order = np.argsort(of_group, kind="stable")
    starts = np.searchsorted(of_group[order], np.arange(len(groups) + 1))
    for place, group in enumerate(groups):
        yield group, numbers[order[starts[place] : starts[place + 1]]]


class _Bound:
    """What is known of a group's vectors without looking at them one by one."""

    def __init__(self) -> None:
        self.persons = 0
        self._sums = self._largest = np.zeros(0)

    def add(self, numbers: Vectors) -> None:
        """Some of its persons: how many, products of each two numbers, largest squares."""
        width = int((np.sqrt(8 * len(numbers) + 1) - 3) / 2)  # 1 + w(w+1)/2 + w, solved for w
        sums, largest = numbers[1:-width], numbers[-width:]
        if self.persons:
            sums, largest = self._sums + sums, np.maximum(self._largest, largest)
        self.persons += int(numbers[0])
        self._sums, self._largest = sums, largest

    def passes(self, k: int) -> bool:
        """No combination is about fewer than k persons."""
        width = len(self._largest)
        products = np.zeros((width, width))
        products[np.triu_indices(width)] = self._sums
        products += np.triu(products, 1).T
        return surely_many(products, self._largest, k)


def _numbers(plan: Plan) -> list[str]:
    """What of a person stands in a row of the table: rows, values that are there, sums."""
    counts = [f"count(ratls_argument_{j})" for j in range(plan.arguments)]
    sums = [
        f"coalesce(sum(TRY_CAST(ratls_argument_{j} AS DOUBLE)), 0)" for j in sorted(added(plan))
    ]
    return ["count(*)", *counts, *sums]


def _mask(plan: Plan, place: int) -> int:
    """What GROUPING says of one grouping of keys."""
    return int("0" + "".join("01"[i not in plan.sets[place]] for i in range(len(plan.keys))), 2)


def _by_person(plan: Plan, where: str, person: str) -> str:
    """SQL: the vector of each person of one input in each group."""
    keys = columns("key_", len(plan.keys))
    vector = [f"{number}::DOUBLE AS v_{i}" for i, number in enumerate(_numbers(plan))]
    mask, by = "0", ", ".join([*keys, person])
    if len(plan.sets) > 1:
        mask = f"grouping({', '.join(keys)})"
        sets = (", ".join([*(keys[i] for i in kept), person]) for kept in plan.sets)
        by = f"GROUPING SETS ({', '.join(f'({one})' for one in sets)})"
    listed = ", ".join([f"{mask} AS mask", *keys, *vector])
    return f"SELECT {listed} FROM ({plan.rows}) WHERE {where} GROUP BY {by}"  # noqa: S608


def _products(plan: Plan, where: str, person: str) -> str:
    """SQL: of each group how many persons, products of each two of their numbers, and the largest
    squares. Sums without the rounding of one after the other: small ones are asked about."""
    width = len(_numbers(plan))
    sums = [f"fsum(v_{i} * v_{j})" for i in range(width) for j in range(i, width)]
    largest = [f"max(v_{i} * v_{i})" for i in range(width)]
    group = ", ".join(["mask", *columns("key_", len(plan.keys))])
    shown = ", ".join([group, "count(*)", *sums, *largest])
    return f"SELECT {shown} FROM ({_by_person(plan, where, person)}) GROUP BY {group}"  # noqa: S608


def _split(found: duckdb.DuckDBPyRelation, names: int) -> tuple[list[Group], Vectors]:
    """The first columns as keys, and the others as numbers."""
    table = found.to_arrow_table()
    keys = [column.to_pylist() for column in table.columns[:names]]
    numbers = [column.to_numpy() for column in table.columns[names:]]
    return [*zip(*keys, strict=True)], np.column_stack(numbers).astype(np.float64)
