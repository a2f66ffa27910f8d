"""The agreed statement as the engine reads it: keys, aggregates, and the rows of each group.

    plan = Plan.of(connection, statement, ["visits", "stays"])
    plan.shown        # the statement, with one more column where it has totals
    plan.rows         # its rows before they are grouped: keys, arguments, one person of each input

The engine's own parser gives a tree, and what is not listed here is refused. The tree is changed so
that every SELECT hands on, for each input, the person that its row is about: so the enclave counts
persons by itself, whatever the statement counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import duckdb

from enclave_app.computations.sql_tree import (
    PREFIX,
    Node,
    bare,
    column,
    function,
    grouping,
    quoted,
    walk,
)
from enclave_app.errors import ComputeDeniedError

AGGREGATES = frozenset({"count_star", "count", "sum", "avg"})
_FUNCTIONS = frozenset(
    {"+", "-", "*", "/", "//", "%", "abs", "ceil", "date_part", "date_trunc", "floor", "greatest"}
) | {"least", "length", "lower", "month", "nullif", "round", "trim", "upper", "year"}
_CLASSES = frozenset(
    {"COLUMN_REF", "CONSTANT", "PARAMETER", "COMPARISON", "CONJUNCTION", "BETWEEN", "CASE"}
) | {"CAST", "FUNCTION", "OPERATOR"}
_OPERATORS = frozenset(
    {"OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_NOT", "OPERATOR_COALESCE"}
) | {"OPERATOR_NULLIF", "COMPARE_IN", "COMPARE_NOT_IN"}
_TYPES = frozenset({"double", "float", "integer", "int", "bigint", "date", "boolean"})
_SOURCES = {
    "BASE_TABLE": frozenset({"table_name", "alias", "qualified_name"}),
    "SUBQUERY": frozenset({"subquery", "alias"}),
    "JOIN": frozenset({"left", "right", "condition", "join_type", "ref_type", "using_columns"}),
}
_NODES = {
    "SELECT_NODE": frozenset(
        {"select_list", "from_table", "where_clause", "group_expressions", "group_sets"}
    )
    | {"cte_map", "modifiers", "aggregate_handling"},
    "SET_OPERATION_NODE": frozenset({"setop_type", "setop_all", "children", "cte_map"}),
}
Key = tuple[int, tuple[Any, ...]]  # of a row of the table: its grouping, and the values of all keys
_PLACES = frozenset({"type", "query_location", "query_location_length"})


class StatementNotUnderstood(ComputeDeniedError):
    """The statement is not one whose groups of persons the enclave can count."""

    code = "statement-not-understood"
    default_fix = "check the policy with `ratls policy lint`; all parties do before they sign it"


def _refuse(what: str) -> StatementNotUnderstood:
    return StatementNotUnderstood("statement", expected="agreed SQL", found=what[:80])


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate of the outermost SELECT."""

    name: str  #             of its column
    function: str
    argument: int | None  #  which of `Plan.arguments`; None for count(*)
    distinct: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    columns: tuple[str, ...]  #              as the statement shows them
    keys: tuple[str, ...]  #                 their names among the columns, in the order of GROUP BY
    aggregates: tuple[Aggregate, ...]
    arguments: int
    # Of each argument, or key, the column that it is, where rows are those of inputs as they came.
    plain: tuple[str | None, ...]
    plain_keys: tuple[str | None, ...]
    sets: tuple[tuple[int, ...], ...]  #     groupings: which keys each has
    order: str  #                            ORDER BY and what follows, by names of columns
    shown: str  #                            SQL
    rows: str  #                             SQL

    @classmethod
    def of(
        cls, connection: duckdb.DuckDBPyConnection, statement: str, inputs: Sequence[str]
    ) -> Plan:
        """Raises: StatementNotUnderstood."""
        if PREFIX in statement.casefold():
            raise _refuse("a name of the enclave's own")
        tree = _parsed(connection, statement)
        node = tree["statements"][0]["node"]
        rows = deepcopy(tree)
        joins = _Reader(inputs).outermost(deepcopy(node))
        keys = [_required(expression, "COLUMN_REF") for expression in node["group_expressions"]]
        key_names: dict[int, str] = {}
        columns: list[str] = []
        aggregates: list[Aggregate] = []
        arguments: list[Node] = []
        for item in node["select_list"]:
            name = item["alias"] or (item["column_names"][-1] if "column_names" in item else "")
            if not name or name in columns:
                raise _refuse("a column without a name of its own")
            columns.append(name)
            if item["class"] == "COLUMN_REF":
                key_names[_place(item, keys)] = name
            elif _is_aggregate(item):
                function, of = item["function_name"].lower(), _argument(item, arguments)
                aggregates.append(Aggregate(name, function, of, bool(item["distinct"])))
            else:
                raise _refuse("a column that is neither key nor aggregate")
        if len(key_names) != len(keys) or not aggregates:
            raise _refuse("a key that is not shown, or no aggregate")
        order = _order(node, keys, [key_names[i] for i in range(len(keys))], columns)
        sets = tuple(tuple(found) for found in node["group_sets"]) or ((),)
        if len(sets) > 1 and any(a.distinct for a in aggregates):
            raise _refuse("DISTINCT beside totals")
        if len(sets) > 1 and joins:
            raise _refuse("totals over a join")
        if len(set(sets)) != len(sets):
            raise _refuse("a grouping twice")
        shown = deepcopy(tree)
        if len(sets) > 1:
            shown["statements"][0]["node"]["select_list"].append(grouping(keys))
        _Reader(inputs).ungroup(rows["statements"][0]["node"], keys, arguments)
        return cls(
            tuple(columns),
            tuple(key_names[i] for i in range(len(keys))),
            tuple(aggregates),
            len(arguments),
            tuple(_plain(given, node["from_table"], inputs) for given in arguments),
            tuple(_plain(key, node["from_table"], inputs) for key in keys),
            sets,
            order,
            _text(connection, shown),
            _text(connection, rows),
        )


def _argument(item: Node, known: list[Node]) -> int | None:
    """Which of the arguments this aggregate has; a new one is added."""
    if not item["arguments"]:
        return None
    given = item["arguments"][0]["expression"]
    same = [i for i, other in enumerate(known) if bare(other) == bare(given)]
    if same:
        return same[0]
    known.append(given)
    return len(known) - 1


def _plain(given: Node, table: Node, inputs: Sequence[str]) -> str | None:
    """The name of the column that an argument or key is; None where it might have been changed."""
    if given["class"] != "COLUMN_REF" or not _direct(table, {name.casefold() for name in inputs}):
        return None
    return str(given["column_names"][-1])


def _direct(table: Node, inputs: set[str]) -> bool:
    if table["type"] == "JOIN":
        inner = table["join_type"] == "INNER"  # others make rows without a value
        return inner and all(_direct(table[side], inputs) for side in ("left", "right"))
    return table["type"] == "BASE_TABLE" and table["table_name"].casefold() in inputs


def _parsed(connection: duckdb.DuckDBPyConnection, statement: str) -> Node:
    found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()
    tree: Node = json.loads(found[0][0])
    if tree["error"] or len(tree["statements"]) != 1:
        raise _refuse("something other than one SELECT")
    return tree


def _text(connection: duckdb.DuckDBPyConnection, tree: Node) -> str:
    given = [json.dumps(tree)]
    found = connection.execute("SELECT json_deserialize_sql(?::JSON)", given).fetchall()
    return str(found[0][0])


def _required(expression: Node, kind: str) -> Node:
    if expression["class"] != kind:
        raise _refuse(f"{expression['class']} where {kind} belongs")
    return expression


def _same(one: Node) -> list[str]:
    return [name.casefold() for name in one["column_names"]]


def _place(item: Node, keys: Sequence[Node]) -> int:
    for i, key in enumerate(keys):
        if _same(key) == _same(item):
            return i
    raise _refuse("a column that is not grouped by")


def _is_aggregate(item: Node) -> bool:
    return item["class"] == "FUNCTION" and item["function_name"].lower() in AGGREGATES


def _order(node: Node, keys: Sequence[Node], names: Sequence[str], columns: Sequence[str]) -> str:
    """R15: the order of groups must not depend on that of rows. Empty where there is one row."""
    orders = [o for m in node["modifiers"] for o in m["orders"]]
    shown = {name.casefold(): name for name in columns}
    by_key = {tuple(_same(key)): name for key, name in zip(keys, names, strict=True)}
    found: list[str] = []
    for order in orders:
        by = order["expression"]
        if by["class"] == "STAR" and not by.get("expr") and len(orders) == 1:
            return f"ORDER BY ALL {_direction(order)}"
        if by["class"] != "COLUMN_REF":
            raise _refuse("an order by something other than columns")
        named = _same(by)
        name = (shown.get(named[0]) if len(named) == 1 else None) or by_key.get(tuple(named))
        if name is None:
            raise _refuse("an order by a column that is not shown")
        found.append(f"{quoted(name)} {_direction(order)}")
    said = {text.rpartition('"')[0] + '"' for text in found}
    if any(quoted(name) not in said for name in names):
        raise _refuse("an order that leaves a key out")
    return f"ORDER BY {', '.join(found)}" if found else ""


_DIRECTIONS = {"ORDER_DEFAULT": "", "ASCENDING": "ASC", "DESCENDING": "DESC"}
_NULLS = {"ORDER_DEFAULT": "", "NULLS FIRST": "NULLS FIRST", "NULLS LAST": "NULLS LAST"}


def _direction(order: Node) -> str:
    known = order["type"] in _DIRECTIONS and order["null_order"] in _NULLS
    if not known:
        raise _refuse("an order of another kind")
    return f"{_DIRECTIONS[order['type']]} {_NULLS[order['null_order']]}".strip()


class _Reader:
    """Reads one tree: refuses what is not listed, and finds which inputs each table is made of."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = {name.casefold(): {i} for i, name in enumerate(inputs)}
        self._count = len(inputs)
        self._used: set[str] = set()
        self._joins = False

    def outermost(self, node: Node) -> bool:
        """Is there a join? Raises: StatementNotUnderstood."""
        if node["type"] != "SELECT_NODE":
            raise _refuse(node["type"])
        self._sources(node, self._with(node, {}))
        if missing := set(self._inputs) - self._used:
            raise _refuse(f"no use of input {min(missing)}")
        return self._joins

    def ungroup(self, node: Node, keys: Sequence[Node], arguments: Sequence[Node]) -> None:
        """The same rows, one by one: keys, arguments, and the person of each input."""
        sources = self._sources(node, self._with(node, {}))
        named = [
            *({**key, "alias": f"{PREFIX}key_{i}"} for i, key in enumerate(keys)),
            *({**given, "alias": f"{PREFIX}argument_{i}"} for i, given in enumerate(arguments)),
        ]
        node["select_list"] = [*map(deepcopy, named), *self._persons(sources, grouped=False)]
        node |= {"group_expressions": [], "group_sets": [], "modifiers": []}

    def _persons(self, sources: Mapping[str, set[int]], *, grouped: bool) -> Iterator[Node]:
        """For each input its person, out of the one table that has it."""
        for i in range(self._count):
            holder = next((a for a, has in sources.items() if i in has), next(iter(sources)))
            name = f"{PREFIX}{i}"
            if grouped:  # one person for each row of a group: never more than there are
                yield function("max", column(holder, name), name)
            else:
                yield column(holder, name, alias=name)

    def _with(self, node: Node, names: Mapping[str, set[int]]) -> dict[str, set[int]]:
        known = dict(names)
        for entry in node["cte_map"]["map"]:
            value = entry["value"]
            if value["aliases"] or value["key_targets"] or value["payload_aggregates"]:
                raise _refuse("WITH of another kind")
            name = entry["key"].casefold()
            if name in known or name in self._inputs:
                raise _refuse("a table twice")
            known[name] = self._query(value["query_node"], known)
        return known

    def _query(self, node: Node, names: Mapping[str, set[int]]) -> set[int]:
        """An inner query; it hands on persons afterwards."""
        if node["type"] == "SET_OPERATION_NODE":
            _only(node, _NODES[node["type"]])
            union = node["setop_type"] == "UNION" and node["setop_all"]
            if not union or node["cte_map"]["map"] or node["modifiers"]:
                raise _refuse("a set operation other than UNION ALL")
            return set(chain.from_iterable(self._query(c, names) for c in node["children"]))
        sources = self._sources(node, self._with(node, names))
        if node["modifiers"]:
            raise _refuse("an order below the outermost SELECT")
        if len(node["group_sets"]) > 1:
            raise _refuse("totals below the outermost SELECT")
        grouped = bool(node["group_expressions"]) or any(
            _is_aggregate(found) for item in node["select_list"] for found in walk(item)
        )
        node["select_list"] += self._persons(sources, grouped=grouped)
        return set(chain.from_iterable(sources.values()))

    def _sources(self, node: Node, names: Mapping[str, set[int]]) -> dict[str, set[int]]:
        """The tables of FROM by the name they have there, and the inputs in each."""
        if node["type"] != "SELECT_NODE":
            raise _refuse(node["type"])
        _only(node, _NODES["SELECT_NODE"])
        if node["aggregate_handling"] != "STANDARD_HANDLING":
            raise _refuse("GROUP BY ALL")
        for modifier in node["modifiers"]:
            if modifier["type"] != "ORDER_MODIFIER":
                raise _refuse(modifier["type"])
        found: dict[str, set[int]] = {}
        self._table(node["from_table"], names, found)
        for item in [*node["select_list"], *node["group_expressions"]]:
            _expression(item, aggregate=True)
        if node["where_clause"] is not None:
            _expression(node["where_clause"])
        return found

    def _table(
        self, table: Node, names: Mapping[str, set[int]], found: dict[str, set[int]]
    ) -> None:
        allowed = _SOURCES.get(table["type"])
        if allowed is None:
            raise _refuse(table["type"])
        if table["type"] == "JOIN":
            self._joins = True
            _only(table, allowed | {"nearest_count", "nearest_order_type"})
            if table["join_type"] not in {"INNER", "LEFT"} or table["ref_type"] != "REGULAR":
                raise _refuse(f"{table['join_type']} {table['ref_type']} JOIN")
            self._table(table["left"], names, found)
            self._table(table["right"], names, found)
            if table["condition"] is not None:
                _expression(table["condition"])
            if not table["using_columns"] and not _equality(table["condition"]):
                raise _refuse("a join without an equality")
            return
        _only(table, allowed)
        if table["type"] == "SUBQUERY":
            alias, has = table["alias"], self._query(table["subquery"]["node"], names)
        else:
            name = table["table_name"].casefold()
            alias = table["alias"] or table["table_name"]
            if name in self._used or len(table["qualified_name"]["path"]) != 1:
                raise _refuse("a table that is used twice, or of another catalogue")
            self._used.add(name)
            if name not in self._inputs and name not in names:
                raise _refuse("a table that is no input")
            has = names[name] if name in names else self._inputs[name]
        if not alias or alias in found:
            raise _refuse("two tables of one name")
        found[alias] = has


def _equality(condition: Node | None) -> bool:
    """Does it demand that two columns are equal, whatever else it demands?"""
    if condition is None:
        return False
    if condition["type"] == "CONJUNCTION_AND":
        return any(map(_equality, condition["children"]))
    sides = [condition[side] for side in ("left", "right") if side in condition]
    return condition["type"] == "COMPARE_EQUAL" and all(s["class"] == "COLUMN_REF" for s in sides)


def _only(node: Node, allowed: frozenset[str]) -> None:
    """Nothing but these members says anything."""
    for name, value in node.items():
        if name not in allowed and name not in _PLACES and value and value != {"map": []}:
            if name == "modifiers":
                continue  # looked at where it may stand
            raise _refuse(name)


def _expression(tree: Node, *, aggregate: bool = False) -> None:
    """Only listed classes, operators, functions and types.

    Raises: StatementNotUnderstood.
    """
    for node in walk(tree):
        kind = node["class"]
        if kind == "TYPE":
            if node["type_name"].lower() not in _TYPES:
                raise _refuse(node["type_name"])
            continue
        if kind not in _CLASSES:
            raise _refuse(kind)
        if kind == "OPERATOR" and node["type"] not in _OPERATORS:
            raise _refuse(node["type"])
        if kind == "CAST" and not node["try_cast"]:
            raise _refuse("CAST")
        if kind == "FUNCTION":
            name = node["function_name"].lower()
            if name not in _FUNCTIONS and not (aggregate and name in AGGREGATES):
                raise _refuse(f"function {name}")
            if (
                node["filter"] is not None
                or node["order_bys"]["orders"]
                or node["schema"]
                or len(node["qualified_name"]["path"]) != 1
                or (node["distinct"] and name != "count")
            ):
                raise _refuse(f"a form of {name}")
