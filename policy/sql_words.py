"""The closed lists of agreed SQL: kinds of nodes, functions, and what each may say.

list(closed(tree))      # faults: what stands in a statement and on no list
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

AGGREGATES: dict[type[exp.Expr], str] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
}
_SCALARS: dict[type[exp.Expr], str] = {
    exp.Abs: "abs",
    exp.Ceil: "ceil",
    exp.Coalesce: "coalesce",
    exp.Extract: "extract",
    exp.Floor: "floor",
    exp.Greatest: "greatest",
    exp.Least: "least",
    exp.Length: "length",
    exp.Lower: "lower",
    exp.Month: "month",
    exp.Nullif: "nullif",
    exp.Round: "round",
    exp.TimestampTrunc: "date_trunc",
    exp.DateTrunc: "date_trunc",
    exp.Trim: "trim",
    exp.TryCast: "try_cast",
    exp.Upper: "upper",
    exp.Year: "year",
}
FUNCTIONS = tuple(sorted({*AGGREGATES.values(), *_SCALARS.values()}))
_FORMS: tuple[type[exp.Expr], ...] = (
    exp.Select, exp.From, exp.Join, exp.Table, exp.TableAlias, exp.Subquery, exp.CTE, exp.With,
    exp.Where, exp.Group, exp.Rollup, exp.Cube, exp.GroupingSets, exp.Order, exp.Ordered, exp.Union,
    exp.Identifier, exp.Column, exp.Alias, exp.Literal, exp.Boolean, exp.Null, exp.Placeholder,
    exp.Paren, exp.Tuple, exp.Var, exp.DataType, exp.Distinct, exp.Star,
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between,
    exp.In, exp.Is, exp.Case, exp.If, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod,
    exp.Neg,
)  # fmt: skip
_ALLOWED = frozenset({*_FORMS, *AGGREGATES, *_SCALARS})
# What each of these may say; anything else that is set is refused.
_PARTS: dict[type[exp.Expr], frozenset[str]] = {
    exp.Select: frozenset({"expressions", "from_", "joins", "where", "group", "order", "with_"}),
    exp.Union: frozenset({"this", "expression", "distinct", "by_name"}),
    exp.Join: frozenset({"this", "side", "kind", "on", "using"}),
    exp.Table: frozenset({"this", "alias"}),
    exp.TableAlias: frozenset({"this"}),
    exp.Subquery: frozenset({"this", "alias"}),
    exp.CTE: frozenset({"this", "alias"}),
    exp.With: frozenset({"expressions"}),
    exp.Group: frozenset({"expressions", "rollup", "cube", "grouping_sets", "all"}),
    exp.Ordered: frozenset({"this", "desc", "nulls_first"}),
    exp.In: frozenset({"this", "expressions"}),
    exp.Column: frozenset({"this", "table"}),
    exp.Count: frozenset({"this", "big_int"}),
    exp.Trim: frozenset({"this"}),
}
_WORDS = {
    "Anonymous": "a function that is not listed",
    "AnonymousAggFunc": "a function that is not listed",
    "Columns": "COLUMNS(..)",
    "Cast": "CAST, which fails by the value",
    "Window": "a window",
    "Having": "HAVING",
    "Limit": "LIMIT",
    "Exists": "EXISTS",
    "Lambda": "a lambda",
    "Interval": "an interval",
}
_CLAUSES = {
    "db": "a table of another schema",
    "catalog": "a table of another catalogue",
    "method": "a join other than INNER or LEFT",
    "query": "a SELECT inside an expression",
    "when": "a table AT another time",
}
_KINDS = frozenset({"DOUBLE", "FLOAT", "INT", "BIGINT", "DATE", "BOOLEAN"})
_TRUNCATED = frozenset({"year", "quarter", "month", "week", "day"})
_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a statement is refused, and at which character of it, counted from 1."""

    at: int
    reason: str
    fix: str = ""


def place(node: exp.Expr) -> int:
    """The first character of a node; its own position, or that of what it contains or is in."""
    starts = [n.meta["start"] for n in node.walk() if "start" in n.meta]
    if starts:
        return int(min(starts)) + 1
    return 1 if node.parent is None else place(node.parent)


def closed(tree: exp.Expr) -> Iterator[Fault]:
    """Kinds of nodes and functions that are not on the list, and parts of those that are."""
    for node in tree.walk():
        kind, at = type(node), place(node)
        if node.depth > _DEPTH:
            yield Fault(at, "deeper than a person reads")
            return
        if kind not in _ALLOWED:
            yield Fault(at, _unlisted(node), f"functions: {', '.join(FUNCTIONS)}")
            continue
        parts = _PARTS.get(kind)
        if parts is not None:
            for name, value in node.args.items():
                if value and name not in parts:
                    first = value[0] if isinstance(value, list) else value
                    here = place(first) if isinstance(first, exp.Expr) else at
                    word = name.rstrip("_").replace("_", " ").upper()
                    yield Fault(here, _CLAUSES.get(name, word))
        if fault := _wrong(node):
            yield Fault(at, fault)


def _unlisted(node: exp.Expr) -> str:
    name = type(node).__name__
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return f"{str(node.this)[:40]!a} is not a listed function"
    if isinstance(node, exp.Func) and name not in _WORDS:
        return f"{node.sql_name().lower()!a} is not a listed function"
    return _WORDS.get(name, f"{name.upper()} is not agreed SQL")


def _wrong(node: exp.Expr) -> str | None:
    match node:
        case exp.Identifier() if node.name.casefold().startswith("ratls_"):
            return f"the name {node.name[:40]!a}, which the enclave uses"
        case exp.Star() if not isinstance(node.parent, exp.Count):
            return "*, which has no list of columns"
        case exp.Distinct() if not isinstance(node.parent, exp.Count) or len(node.expressions) != 1:
            return "DISTINCT outside count(DISTINCT column)"
        case exp.Union() if node.args.get("distinct") or type(node) is not exp.Union:
            return "a set operation other than UNION ALL"
        case exp.Union() if node.args.get("by_name"):
            return "BY NAME"
        case exp.Placeholder() if not node.name.isidentifier():
            return "a parameter without a name"
        case exp.Join() if str(node.kind).upper() not in ("", "INNER") or str(
            node.side
        ).upper() not in ("", "LEFT"):
            return "a join other than INNER or LEFT"
        case exp.Join() if not node.args.get("using") and not _equality(node.args.get("on")):
            return "a join without USING, or ON with an equality"
        case exp.Table() if not isinstance(node.this, exp.Identifier):
            return "a table that is no name"
        case exp.TryCast() if node.to.this.value not in _KINDS or node.to.expressions:
            return f"TRY_CAST to something other than {', '.join(sorted(_KINDS))}"
        case exp.TimestampTrunc() | exp.DateTrunc() | exp.Extract():
            unit = node.args.get("unit") if not isinstance(node, exp.Extract) else node.this
            if unit is None or unit.name.lower() not in _TRUNCATED:
                return f"a part of a date other than {', '.join(sorted(_TRUNCATED))}"
        case exp.Select() if any(
            not isinstance(s, exp.CTE | exp.Subquery | exp.Union)
            for s in [node.parent]
            if s is not None
        ):
            return "a SELECT inside an expression"
        case exp.Subquery() if not isinstance(node.parent, exp.From | exp.Join):
            return "a SELECT inside an expression"
        case exp.Union() if not isinstance(node.parent, exp.CTE | exp.Subquery | exp.Union):
            return "UNION ALL outside WITH or FROM"
    return None


def _equality(on: exp.Expr | None) -> bool:
    """Is it one equality of two columns, or several joined by AND?"""
    while isinstance(on, exp.Paren):
        on = on.this
    if isinstance(on, exp.And):
        return _equality(on.this) or _equality(on.expression)
    return isinstance(on, exp.EQ) and all(
        isinstance(side, exp.Column) for side in (on.this, on.expression)
    )
