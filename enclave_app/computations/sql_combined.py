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

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from enclave_app.computations.combinations import Vectors, about_few, surely_many
from enclave_app.computations.sql_boxes import added, columns
from enclave_app.deadline import check_deadline

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Plan

Key = tuple[int, tuple[Any, ...]]  # a grouping, and the values of all keys
_PART = 1 << 18  # persons that are grouped, or looked at, at once
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
    parts = 1 + counted.fetchall()[0][0] // _PART
    groups = {(_mask(plan, keys[i][0]), *keys[i][1]): i for i in sorted(asked)}
    found: set[int] = set()
    for person in columns("", inputs):
        bounds: dict[tuple[Any, ...], _Bound] = {}
        for part in range(parts):
            check_deadline()
            sql = _products(
                plan, f"{person} IS NOT NULL AND hash({person}) % {parts} = {part}", person
            )
            for row in _tuples(connection.sql(sql, params=dict(values))):
                group, numbers = row[: 1 + len(plan.keys)], row[1 + len(plan.keys) :]
                if group in groups:
                    bounds.setdefault(group, _Bound()).add(np.array(numbers, np.float64))
        for group, bound in bounds.items():
            if groups[group] in found or bound.passes(k):
                continue
            check_deadline()
            if bound.persons > _PART or about_few(
                _vectors(connection, plan, values, person, group), k
            ):
                found.add(groups[group])
    return found


def _vectors(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    values: Mapping[str, Any],
    person: str,
    group: tuple[Any, ...],
) -> Vectors:
    """The numbers of each person of one group."""
    named = ["mask", *columns("key_", len(plan.keys))]
    asking = pa.table({name: [value] for name, value in zip(named, group, strict=True)})
    connection.register(_ASKED, asking)
    same = " AND ".join(f"each.{name} IS NOT DISTINCT FROM {_ASKED}.{name}" for name in named)
    shown = ", ".join(f"v_{i}" for i in range(len(_numbers(plan))))
    each = _by_person(plan, f"{person} IS NOT NULL", person)
    sql = f"SELECT {shown} FROM ({each}) AS each JOIN {_ASKED} ON {same}"  # noqa: S608
    return np.array(_tuples(connection.sql(sql, params=dict(values))), np.float64)


class _Bound:
    """What is known of a group's vectors without looking at them one by one."""

    def __init__(self) -> None:
        self.persons = 0
        self._products: Vectors | None = None
        self._largest: Vectors | None = None

    def add(self, numbers: Vectors) -> None:
        """Some of its persons: how many, products of each two numbers, largest squares."""
        width = int((np.sqrt(8 * len(numbers) + 1) - 3) / 2)  # 1 + w(w+1)/2 + w, solved for w
        upper = np.triu_indices(width)
        products = np.zeros((width, width))
        products[upper] = numbers[1 : 1 + len(upper[0])]
        products.T[upper] = products[upper]
        largest = numbers[1 + len(upper[0]) :]
        self.persons += int(numbers[0])
        self._products = products if self._products is None else self._products + products
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)

    def passes(self, k: int) -> bool:
        """No combination is about fewer than k persons."""
        assert self._products is not None
        assert self._largest is not None
        return surely_many(self._products, self._largest, k)


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


def _tuples(found: duckdb.DuckDBPyRelation) -> list[tuple[Any, ...]]:
    columns = found.to_arrow_table().columns
    return list(zip(*(column.to_pylist() for column in columns), strict=True))
