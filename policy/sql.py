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
from policy.sql_words import AGGREGATES, Fault, closed, place

logging.getLogger("sqlglot").setLevel(logging.CRITICAL)  # it would repeat the statement on stderr

STATEMENT_CAP = 8000  # characters


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
        return [Fault(place(second) if second else 1, "something other than one SELECT")]
    tree = trees[0]
    unlisted = set(closed(tree))
    if unlisted:
        return sorted(unlisted, key=lambda fault: (fault.at, fault.reason))
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
            yield Fault(place(item), "a computed column without a name", "write AS name")
        elif name in names:
            yield Fault(place(item), f"two columns named {name!a}")
        names.add(name)
        if isinstance(inner, exp.Column):
            if inner.sql().casefold() not in keys:
                yield Fault(place(item), f"{inner.sql()!a} is not grouped by")
            given.add(inner.sql().casefold())
        elif type(inner) in AGGREGATES:
            if sets and isinstance(inner.this, exp.Distinct):
                # What hidden cells are could not be bounded.
                yield Fault(place(item), "DISTINCT cannot be added up to the totals beside it")
        else:
            yield Fault(place(item), "neither a key of GROUP BY nor one aggregate")
    if not any(type(item.unalias()) in AGGREGATES for item in tree.expressions):
        yield Fault(1, "no aggregate: the rows are about single persons")
    for key, at in keys.items():
        if key not in given:
            yield Fault(at, f"{key!a} is grouped by and not shown", "add it to the columns")
    if sets and (join := tree.find(exp.Join)) is not None:
        # Each side knows totals of its own rows. What these give away could not be bounded.
        yield Fault(place(join), "totals over a join", "group by the keys alone")
    yield from _ordered(tree, keys)


def _named(item: exp.Expr) -> str:
    """The name that a column of a SELECT has, folded; empty for what is computed without AS."""
    return item.alias_or_name.casefold() if isinstance(item, exp.Alias | exp.Column) else ""


def group_keys(tree: exp.Select) -> tuple[dict[str, int], bool]:
    """Columns that are grouped by, with their place; and: are there totals beside the groups?"""
    group = tree.args.get("group")
    if group is None:
        return {}, False
    found = {c.sql().casefold(): place(c) for c in group.find_all(exp.Column)}
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
            yield Fault(place(by), "ORDER BY something other than columns")
            return
        covered.add(by.sql().casefold())
        if by.name.casefold() in named:
            covered.add(named[by.name.casefold()].sql().casefold())
    if missing := sorted(set(keys) - covered):
        at = place(order) if order else 1
        yield Fault(at, f"ORDER BY leaves the order open: {', '.join(missing)}")


def _select(
    tree: exp.Select, outer_names: Mapping[str, _Source], reading: _Reading, *, outer: bool = False
) -> Iterator[tuple[Fault | None, _Source]]:
    """Faults of one SELECT and what is below it; its last item carries what it gives."""
    nothing, names = _Source(frozenset(), frozenset()), dict(outer_names)
    with_ = tree.args.get("with_")
    for cte in with_.expressions if with_ else ():
        source = nothing
        for fault, found_source in _query(cte.this, names, reading):
            source = found_source
            yield fault, nothing
        name = cte.alias.casefold()
        if name in names or name in reading.inputs:
            yield Fault(place(cte), f"a second table named {name!a}"), nothing
        names[name] = source
    tables: dict[str, _Source] = {}
    from_ = tree.args.get("from_")
    if from_ is None:
        yield Fault(place(tree), "a SELECT without FROM"), nothing
    for table in [
        *([from_.this] if from_ else []),
        *(j.this for j in tree.args.get("joins") or ()),
    ]:
        found: list[tuple[Fault | None, _Source]] = [*_table(table, names, reading)]
        for fault, _ in found:
            yield fault, nothing
        alias = table.alias_or_name.casefold()
        if alias in tables:
            yield Fault(place(table), f"a second table named {alias!a}"), nothing
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
        yield Fault(place(tree.args["order"]), "ORDER BY below the outermost SELECT")
    for item in tree.expressions:
        if not _named(item):
            yield Fault(place(item), "a computed column without a name", "write AS name")
    aggregates = any(isinstance(n, tuple(AGGREGATES)) for e in tree.expressions for n in e.walk())
    keys, sets = group_keys(tree)
    if sets:
        yield Fault(place(tree.args["group"]), "totals below the outermost SELECT")
    if aggregates or keys:
        grouped = {key.rpartition(".")[2].strip('"') for key in keys}
        for name in sorted(datasets):
            subject = reading.inputs[name].subject
            if subject.casefold() not in grouped:
                yield Fault(
                    place(tree),
                    f"a GROUP BY that mixes persons of {name}",
                    f"group by {subject} too",
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
        yield Fault(place(tree), "something other than SELECT or UNION ALL"), nothing


def _table(
    table: exp.Expr, names: Mapping[str, _Source], reading: _Reading
) -> Iterator[tuple[Fault | None, _Source]]:
    nothing = _Source(frozenset(), frozenset())
    if isinstance(table, exp.Subquery):
        if not table.alias:
            yield Fault(place(table), "a SELECT in FROM without a name", "write AS name"), nothing
        yield from _query(table.this, names, reading)
        return
    name = table.name.casefold()
    dataset = reading.inputs.get(name)
    if dataset is None and name not in names:
        known = ", ".join(d.id for d in reading.inputs.values())
        yield Fault(place(table), f"{table.name!a} is not an input", f"inputs: {known}"), nothing
        return
    if name in reading.used:
        # Two persons of one input in one row would be counted as one.
        yield Fault(place(table), f"{table.name!a} is used twice"), nothing
    reading.used[name] = place(table)
    if dataset is not None:
        columns = frozenset(column.casefold() for column in dataset.columns)
        yield None, _Source(columns, frozenset({name}))
    else:
        yield None, names[name]


def _columns(tree: exp.Select, tables: Mapping[str, _Source], reading: _Reading) -> Iterator[Fault]:
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
                    yield Fault(place(node), f"${name} is not a parameter", f"parameters: {known}")
            if not isinstance(node, exp.Column):
                continue
            name, table = node.name.casefold(), node.table.casefold()
            if table:
                if table not in tables or name not in tables[table].columns:
                    yield Fault(place(node), f"column {node.sql()!a} is not agreed")
                continue
            holders = [alias for alias, source in tables.items() if name in source.columns]
            if not holders and not (part is parts[2] and name in own):
                yield Fault(place(node), f"column {node.sql()!a} is not agreed")
            if len(holders) > 1 and name not in using and not (part is parts[2] and name in own):
                yield Fault(place(node), f"column {node.sql()!a} is in {' and '.join(holders)}")
    for name in sorted(using):
        if sum(name in source.columns for source in tables.values()) < 2:
            yield Fault(place(tree), f"USING column {name!a} is not in both tables")
