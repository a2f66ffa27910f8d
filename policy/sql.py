"""Agreed SQL: what stands in a policy must be a table of groups of persons, and nothing else.

    for fault in statement_faults(statement, inputs, parameters):
        fault.at, fault.reason, fault.fix        # character of the statement, from 1

Read by `sqlglot`, which no enclave contains. Whatever is not listed here is refused: functions by
name, everything else by its kind. The enclave reads the same text with the engine's own parser, and
has lists of its own (`enclave_app.computations.sql_plan`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from policy.sections import Dataset

logging.getLogger("sqlglot").setLevel(logging.CRITICAL)  # it would repeat the statement on stderr

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
STATEMENT_CAP = 8000  # characters
_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a statement is refused, and at which character of it, counted from 1."""

    at: int
    reason: str
    fix: str = ""


@dataclass
class _Source:
    """A table in FROM: the columns it has, and the datasets that its rows come from."""

    columns: frozenset[str]
    datasets: frozenset[str]


@dataclass
class _Reading:
    """What was seen so far."""

    inputs: Mapping[str, Dataset]
    parameters: frozenset[str]
    used: dict[str, int] = field(default_factory=dict)
    bound: set[str] = field(default_factory=set)


def statement_faults(
    statement: str, inputs: Sequence[Dataset], parameters: Sequence[str] = ()
) -> list[Fault]:
    """Everything that speaks against it, in the order of the text; empty where it is agreed SQL."""
    if len(statement) > STATEMENT_CAP:
        return [Fault(STATEMENT_CAP, f"longer than {STATEMENT_CAP} characters")]
    try:
        tokens = sqlglot.tokenize(statement, read="duckdb")
        if noted := next((t for t in tokens if t.comments), None):
            return [Fault(noted.start + 1, "a comment beside this", "comment in the policy")]
        parsed = sqlglot.parse(statement, read="duckdb")
    except (SqlglotError, RecursionError, ValueError) as error:
        said = getattr(error, "errors", None) or [{}]
        at = statement.find(said[0].get("highlight") or "\0") + 1
        return [Fault(max(1, at), "it cannot be read as one SELECT")]
    trees = [tree for tree in parsed if tree is not None]
    if len(trees) != 1 or len(parsed) != 1 or not isinstance(trees[0], exp.Select):
        second = trees[1] if len(trees) > 1 else None
        return [Fault(_at(second) if second else 1, "something other than one SELECT")]
    tree = trees[0]
    closed = list(_closed(tree))
    if closed:
        return sorted(set(closed), key=lambda fault: (fault.at, fault.reason))
    known = {dataset.id.casefold(): dataset for dataset in inputs}
    reading = _Reading(known, frozenset(name.casefold() for name in parameters))
    faults = [*_outermost(tree, reading)] or [*_unused(reading)]
    return sorted(set(faults), key=lambda fault: (fault.at, fault.reason))


def _unused(reading: _Reading) -> Iterator[Fault]:
    for name, dataset in reading.inputs.items():
        if name not in reading.used:
            yield Fault(1, f"dataset {dataset.id} is not used", "remove it from inputs")
    for name in sorted(reading.parameters - reading.bound):
        yield Fault(1, f"parameter {name} is not used", f"write ${name}, or remove it")


def _at(node: exp.Expr) -> int:
    """The first character of a node; its own position, or that of what it contains or is in."""
    starts = [n.meta["start"] for n in node.walk() if "start" in n.meta]
    if starts:
        return int(min(starts)) + 1
    return 1 if node.parent is None else _at(node.parent)


def _closed(tree: exp.Expr) -> Iterator[Fault]:
    """Kinds of nodes and functions that are not on the list, and parts of those that are."""
    for node in tree.walk():
        kind, at = type(node), _at(node)
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
                    place = _at(first) if isinstance(first, exp.Expr) else at
                    word = name.rstrip("_").replace("_", " ").upper()
                    yield Fault(place, _CLAUSES.get(name, word))
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
        case exp.Select() if any(not isinstance(s, exp.CTE | exp.Subquery | exp.Union)
                                 for s in [node.parent] if s is not None):
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


def _outermost(tree: exp.Select, reading: _Reading) -> Iterator[Fault]:
    """Keys and aggregates, in an order that leaves nothing open."""
    yield from (f for f, _ in _select(tree, {}, reading, outer=True) if f)
    keys, sets = group_keys(tree)
    names: set[str] = set()
    given: set[str] = set()
    for item in tree.expressions:
        inner = item.unalias()
        name = _named(item)
        if not name:
            yield Fault(_at(item), "a computed column without a name", "write AS name")
        elif name in names:
            yield Fault(_at(item), f"two columns named {name!a}")
        names.add(name)
        if isinstance(inner, exp.Column):
            if inner.sql().casefold() not in keys:
                yield Fault(_at(item), f"{inner.sql()!a} is not grouped by")
            given.add(inner.sql().casefold())
        elif type(inner) in AGGREGATES:
            if sets and isinstance(inner.this, exp.Distinct):
                # What hidden cells are could not be bounded.
                yield Fault(_at(item), "DISTINCT cannot be added up to the totals beside it")
        else:
            yield Fault(_at(item), "neither a key of GROUP BY nor one aggregate")
    if not any(type(item.unalias()) in AGGREGATES for item in tree.expressions):
        yield Fault(1, "no aggregate: the rows are about single persons")
    for key, at in keys.items():
        if key not in given:
            yield Fault(at, f"{key!a} is grouped by and not shown", "add it to the columns")
    yield from _ordered(tree, keys)


def _named(item: exp.Expr) -> str:
    """The name that a column of a SELECT has, folded; empty for what is computed without AS."""
    return item.alias_or_name.casefold() if isinstance(item, exp.Alias | exp.Column) else ""


def group_keys(tree: exp.Select) -> tuple[dict[str, int], bool]:
    """Columns that are grouped by, with their place; and: are there totals beside the groups?"""
    group = tree.args.get("group")
    if group is None:
        return {}, False
    found = {c.sql().casefold(): _at(c) for c in group.find_all(exp.Column)}
    return found, group.find(exp.Rollup, exp.Cube, exp.GroupingSets) is not None


def _ordered(tree: exp.Select, keys: Mapping[str, int]) -> Iterator[Fault]:
    order = tree.args.get("order")
    if not keys:
        return
    named = {item.alias_or_name.casefold(): item.unalias() for item in tree.expressions}
    covered: set[str] = set()
    for ordered in order.expressions if order else ():
        by = ordered.this
        if not isinstance(by, exp.Column):
            if isinstance(by, exp.Var) and by.name.upper() == "ALL":
                return
            yield Fault(_at(by), "ORDER BY something other than columns")
            return
        covered.add(by.sql().casefold())
        if by.name.casefold() in named:
            covered.add(named[by.name.casefold()].sql().casefold())
    if missing := sorted(set(keys) - covered):
        at = _at(order) if order else 1
        yield Fault(at, f"ORDER BY leaves the order open: {', '.join(missing)}")


def _select(
    tree: exp.Select, outer_names: Mapping[str, _Source], reading: _Reading, *, outer: bool = False
) -> Iterator[tuple[Fault | None, _Source]]:
    """Faults of one SELECT and what is below it; its last item carries what it gives."""
    nothing, names = _Source(frozenset(), frozenset()), dict(outer_names)
    with_ = tree.args.get("with_")
    for cte in with_.expressions if with_ else ():
        source = nothing
        for fault, source in _query(cte.this, names, reading):
            yield fault, nothing
        name = cte.alias.casefold()
        if name in names or name in reading.inputs:
            yield Fault(_at(cte), f"a second table named {name!a}"), nothing
        names[name] = source
    tables: dict[str, _Source] = {}
    from_ = tree.args.get("from_")
    if from_ is None:
        yield Fault(_at(tree), "a SELECT without FROM"), nothing
    for table in [*([from_.this] if from_ else []), *(j.this for j in tree.args.get("joins") or ())]:
        found: list[tuple[Fault | None, _Source]] = [*_table(table, names, reading)]
        for fault, _ in found:
            yield fault, nothing
        alias = table.alias_or_name.casefold()
        if alias in tables:
            yield Fault(_at(table), f"a second table named {alias!a}"), nothing
        tables[alias] = found[-1][1]
    for fault in _columns(tree, tables, reading):
        yield fault, nothing
    datasets = frozenset().union(*(source.datasets for source in tables.values()))
    if not outer:
        for fault in _inner(tree, datasets, reading):
            yield fault, nothing
    given = frozenset(item.alias_or_name.casefold() for item in tree.expressions)
    yield None, _Source(given, datasets)


def _inner(tree: exp.Select, datasets: frozenset[str], reading: _Reading) -> Iterator[Fault]:
    """A SELECT that others build on keeps persons apart, and its columns have names."""
    if tree.args.get("order"):
        yield Fault(_at(tree.args["order"]), "ORDER BY below the outermost SELECT")
    for item in tree.expressions:
        if not _named(item):
            yield Fault(_at(item), "a computed column without a name", "write AS name")
    aggregates = any(isinstance(n, tuple(AGGREGATES)) for e in tree.expressions for n in e.walk())
    keys, sets = group_keys(tree)
    if sets:
        yield Fault(_at(tree.args["group"]), "totals below the outermost SELECT")
    if aggregates or keys:
        grouped = {key.rpartition(".")[2].strip('"') for key in keys}
        for name in sorted(datasets):
            subject = reading.inputs[name].subject
            if subject.casefold() not in grouped:
                yield Fault(
                    _at(tree), f"a GROUP BY that mixes persons of {name}", f"group by {subject} too"
                )


def _query(
    tree: exp.Expr, names: Mapping[str, _Source], reading: _Reading
) -> Iterator[tuple[Fault | None, _Source]]:
    if isinstance(tree, exp.Union):
        sides = []
        for side in (tree.this, tree.expression):
            found = [*_query(side, names, reading)]
            yield from ((fault, source) for fault, source in found)
            sides.append(found[-1][1])
        yield None, _Source(sides[0].columns, sides[0].datasets | sides[1].datasets)
    elif isinstance(tree, exp.Select):
        yield from _select(tree, names, reading)
    else:
        nothing = _Source(frozenset(), frozenset())
        yield Fault(_at(tree), "something other than SELECT or UNION ALL"), nothing


def _table(
    table: exp.Expr, names: Mapping[str, _Source], reading: _Reading
) -> Iterator[tuple[Fault | None, _Source]]:
    nothing = _Source(frozenset(), frozenset())
    if isinstance(table, exp.Subquery):
        if not table.alias:
            yield Fault(_at(table), "a SELECT in FROM without a name", "write AS name"), nothing
        yield from _query(table.this, names, reading)
        return
    name = table.name.casefold()
    dataset = reading.inputs.get(name)
    if dataset is None and name not in names:
        known = ", ".join(d.id for d in reading.inputs.values())
        yield Fault(_at(table), f"{table.name!a} is not an input", f"inputs: {known}"), nothing
        return
    if name in reading.used:
        # Two persons of one input in one row would be counted as one.
        yield Fault(_at(table), f"{table.name!a} is used twice"), nothing
    reading.used[name] = _at(table)
    if dataset is not None:
        columns = frozenset(column.casefold() for column in dataset.columns)
        yield None, _Source(columns, frozenset({name}))
    else:
        yield None, names[name]


def _columns(
    tree: exp.Select, tables: Mapping[str, _Source], reading: _Reading
) -> Iterator[Fault]:
    """Each column is one of an agreed dataset or of a SELECT below; each parameter is declared."""
    own = {item.alias.casefold() for item in tree.expressions if item.alias}
    using = {
        i.name.casefold() for j in tree.args.get("joins") or () for i in j.args.get("using") or ()
    }
    parts = [tree.args.get(part) for part in ("where", "group", "order")]
    ons = [join.args.get("on") for join in tree.args.get("joins") or ()]
    for part in [*tree.expressions, *parts, *ons]:
        for node in part.walk() if part is not None else ():
            if isinstance(node, exp.Placeholder):
                name = node.name.casefold()
                reading.bound.add(name)
                if name not in reading.parameters:
                    known = ", ".join(sorted(reading.parameters)) or "none"
                    yield Fault(_at(node), f"${name} is not a parameter", f"parameters: {known}")
            if not isinstance(node, exp.Column):
                continue
            name, table = node.name.casefold(), node.table.casefold()
            if table:
                if table not in tables or name not in tables[table].columns:
                    yield Fault(_at(node), f"column {node.sql()!a} is not agreed")
                continue
            holders = [alias for alias, source in tables.items() if name in source.columns]
            if not holders and not (part is parts[2] and name in own):
                yield Fault(_at(node), f"column {node.sql()!a} is not agreed")
            if len(holders) > 1 and name not in using and not (part is parts[2] and name in own):
                yield Fault(_at(node), f"column {node.sql()!a} is in {' and '.join(holders)}")
    for name in sorted(using):
        if sum(name in source.columns for source in tables.values()) < 2:
            yield Fault(_at(tree), f"USING column {name!a} is not in both tables")
