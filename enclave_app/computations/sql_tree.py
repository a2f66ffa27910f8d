"""Pieces of the engine's trees of statements: made, looked through, compared.

column("v", "region", alias="ratls_key_0")
[node["class"] for node in walk(tree)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

Node = dict[str, Any]
PREFIX = "ratls_"  # of the columns that the enclave adds; no statement contains it


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def bare(tree: Any) -> Any:
    """Without where in the text it stands."""
    if isinstance(tree, dict):
        return {n: bare(v) for n, v in tree.items() if not n.startswith("query_location")}
    return [*map(bare, tree)] if isinstance(tree, list) else tree


def walk(node: Any) -> Iterator[Node]:
    """Every expression and type in it."""
    if isinstance(node, dict):
        if "class" in node:
            yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def column(*names: str, alias: str = "") -> Node:
    """A column of a table, or of whatever has it."""
    return {
        "class": "COLUMN_REF", "type": "COLUMN_REF", "alias": alias, "column_names": [*names],
        "query_location": 0, "query_location_length": 0,
    }  # fmt: skip


def function(name: str, argument: Node, alias: str) -> Node:
    """A function of one argument."""
    return {
        "class": "FUNCTION", "type": "FUNCTION", "alias": alias, "function_name": name,
        "schema": "", "filter": None, "order_bys": {"type": "ORDER_MODIFIER", "orders": []},
        "distinct": False, "is_operator": False, "export_state": False, "catalog": "",
        "arguments": [{"name": "", "expression": argument}],
        "qualified_name": {"path": [name]}, "is_legacy_function_call": False,
        "query_location": 0, "query_location_length": 0,
    }  # fmt: skip


def grouping(keys: Sequence[Node]) -> Node:
    """Which of the keys a row is a total over."""
    return {
        "class": "OPERATOR", "type": "GROUPING_FUNCTION", "alias": f"{PREFIX}grouping",
        "children": [deepcopy(key) for key in keys],
        "query_location": 0, "query_location_length": 0,
    }  # fmt: skip
