"""What a table of agreed SQL would look like, before anything is spent: columns, limits, rules.

    shape(computation, inputs)["columns"]        # [{"name": "region", "holds": "a key"}, …]

Nothing but the policy is read, so nothing about rows can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlglot
from sqlglot import exp

from policy.parameters import Fixed
from policy.sections import Computation, Dataset
from policy.sql import group_keys
from policy.sql_words import AGGREGATES

_HOLDS = {"count": "a count, exact", "sum": "a sum, rounded", "avg": "a mean, rounded"}


def shape(computation: Computation, inputs: Sequence[Dataset]) -> dict[str, Any]:
    """Of a computation with an agreed statement."""
    given = {n: p.value for n, p in computation.parameters.items() if isinstance(p, Fixed)}
    tree = sqlglot.parse_one(str(given["statement"]), read="duckdb")
    assert isinstance(tree, exp.Select)  # as `policy.sql` demands
    keys, totals = group_keys(tree)
    rule = computation.release
    return {
        "columns": [{"name": i.alias_or_name, "holds": _holds(i)} for i in tree.expressions],
        "keys": len(keys),
        "totals": totals,
        "persons_per_group_and_input": rule.min_subjects_per_input,
        "significant_digits": rule.significant_digits,
        "inputs": [f"{d.id} of {d.owner}" for d in inputs],
    }


def _holds(item: exp.Expr) -> str:
    kind = AGGREGATES.get(type(item.unalias()))
    return "a key" if kind is None else _HOLDS[kind]


def shape_lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    k = found["persons_per_group_and_input"]
    lines = [f"  {column['name']}: {column['holds']}" for column in found["columns"]]
    lines.append(f"  a row leaves where at least {k} persons of each input are in its group,")
    lines.append("  where no person has more than half of it, and where values differ;")
    lines.append(
        "  the same holds for whatever its numbers give when they are added and subtracted"
    )
    if found["totals"]:
        lines.append("  with totals: rows are hidden besides, where sums would give others away")
    return lines
