"""The agreed SELECT over the agreed columns, and of its groups those that hold enough persons.

    run(inputs, {"statement": "SELECT …", "max_groups": 200, …}, rule)
    # {"table": {"columns": ["region", "n"], "rows": [{"region": "north", "n": 212}, …]}}

The engine runs the statement; who stands behind each group is counted here (`sql_census`), by the
rows that the statement groups and the persons that the inputs name. A group with too few persons is
left out. Where the table has totals, `enclave_app.audit` looks at what they give away.

Counts are exact, sums and means rounded by the gate. A value that a key does not have, because the
row is a total, is absent from the row.

Parameters of a policy, beside those that the statement binds: `statement`; `max_groups`, rows that
it may make; `memory_mebibytes` and `seconds`, the limits of its engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from enclave_app.deadline import check_deadline
from enclave_app.errors import ComputeDeniedError, ReleaseDeniedError
from enclave_app.gate import Group, Inputs
from enclave_app.limits import Need, declared
from policy.computations import bound
from policy.sections import Release

if TYPE_CHECKING:
    import duckdb

    from enclave_app.computations.sql_plan import Plan

PARTS = ("duckdb", "highspy")  # packages that only images with SQL have
_CELL = 256  # bytes of a key, a name or a number in the result


class NoGroupLarge(ReleaseDeniedError):
    """No group of the table holds enough persons of each input, or all had to be hidden."""

    code = "no-group-large"
    default_fix = "agree on coarser groups, or release more subjects"


class KeyNotPlain(ComputeDeniedError):
    """A key of a group is missing beside totals, or is no number, text, truth value or day."""

    code = "key-not-plain"
    default_fix = "give the key a value with coalesce(..), and group by plain columns"


def ready() -> None:
    """The engine is locked, at the start of an enclave whose policy has SQL.

    Raises: EngineNotLocked.
    """
    from enclave_app.computations.sql_engine import require_locked

    require_locked()


def groups(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> Iterator[Group]:
    """None beside the inputs themselves: a small group is hidden, and the rest leaves."""
    return iter(())


def run(inputs: Inputs, parameters: Mapping[str, Any], rule: Release) -> dict[str, Any]:
    """The agreed outputs.

    Raises:
        StatementNotUnderstood, StatementFailed, TableTooLong, TableTooLarge, KeyNotPlain: There is
            no table.
        NoGroupLarge, AuditTooLarge: None of it may leave.
    """
    from enclave_app.computations.sql_boxes import Boxed
    from enclave_app.computations.sql_census import hidden_rows
    from enclave_app.computations.sql_engine import engine
    from enclave_app.computations.sql_plan import Plan
    from enclave_app.computations.sql_tables import register

    limits = {name: parameters[name] for name in ("memory_mebibytes", "seconds")}
    with engine(**limits) as connection:
        register(connection, inputs, parameters["statement"])
        plan = Plan.of(connection, parameters["statement"], list(inputs))
        values = bound("sql", parameters)
        check_deadline()
        most = parameters["max_groups"]
        boxed = Boxed.of(connection, plan, values, inputs, most)
        even: dict[tuple[Any, ...], int] | None = None
        if boxed is not None:
            rows = _rows(connection, boxed.shown, {}, most)
            even = boxed.evens(connection, rows)
        else:
            rows = _rows(connection, plan.shown, values, most)
        keys = [_key(plan, row) for row in rows]
        hidden = hidden_rows(connection, plan, values, keys, len(inputs), rule, even)
    shown = [row for i, row in enumerate(rows) if i not in hidden]
    if not shown:
        raise NoGroupLarge("table", expected="a group that holds enough persons", found="none")
    return {
        "table": {
            "columns": list(plan.columns),
            "rows": [
                {n: _json(plan, n, row[n]) for n in plan.columns if row[n] is not None}
                for row in shown
            ],
        }
    }


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any], most: int
) -> list[dict[str, Any]]:
    """What the statement says, in its order."""
    from enclave_app.computations.sql_engine import TableTooLarge

    found: list[dict[str, Any]] = []
    for batch in connection.sql(sql, params=dict(values)).to_arrow_reader():
        found += batch.to_pylist()
        if len(found) > most:
            raise TableTooLarge("groups", expected=f"at most {most}", found="more")
    return found


def _key(plan: Plan, row: Mapping[str, Any]) -> tuple[int, tuple[Any, ...]]:
    """Which grouping a row belongs to, and its keys; None where the grouping leaves one out."""
    place = 0
    if len(plan.sets) > 1:
        last = len(plan.keys) - 1
        mask = row["ratls_grouping"]
        kept = tuple(i for i in range(len(plan.keys)) if not mask >> (last - i) & 1)
        place = next(i for i, found in enumerate(plan.sets) if tuple(sorted(found)) == kept)
        if any(row[plan.keys[i]] is None for i in kept):
            raise KeyNotPlain("key", expected="a value beside totals", found="none")
    return place, tuple(row[name] for name in plan.keys)


def _json(plan: Plan, name: str, value: Any) -> Any:
    """A number, text or truth value. What is no count is a float, which the gate rounds."""
    aggregate = next((a for a in plan.aggregates if a.name == name), None)
    if aggregate is not None and aggregate.function in {"sum", "avg"}:
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if type(value) in {bool, int, float} or (type(value) is str and len(value) <= _CELL // 4):
        return value
    raise KeyNotPlain("key", expected="a number, text, truth value or day", found="another")


def need(parameters: Mapping[str, Any]) -> Need:
    """What its engine may take, beside the rows that it reads where they are."""
    return declared("sql", mebibytes=parameters["memory_mebibytes"])


def longest(parameters: Mapping[str, Any], outputs: Sequence[str], max_rows: Sequence[int]) -> int:
    """So many rows; in each the columns that the statement can have, by name and value."""
    columns = min(16, 1 + str(parameters["statement"]).count(","))
    return 1000 + int(parameters["max_groups"]) * columns * _CELL
