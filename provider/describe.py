"""A `[[dataset]]` block for the rows that a provider has, to be put into a draft.

    described = describe(spec, subject="patient")
    described.block("train_party_1", "alice-clinic")    # TOML: types and ranges, no value of a row
    described.remarks               # for the provider alone: what was left out, what to mend

The source is read by the code that checks and releases it, so what is proposed is what a check
accepts. A column whose file gives it no type gets the first type that fits all its values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from policy.errors import SchemaError
from policy.rows import ColumnMissing, arrow_type, type_name
from policy.sections import Column, Dataset
from policy.text import name_fault
from provider.identifying import Values, suspicion
from provider.sources import source_at
from provider.sources.columns import conversion, spells
from provider.sources.survey import Survey

if TYPE_CHECKING:
    from provider.sources.spec import SourceSpec

# In this order: 0 and 1 are numbers, also in SQLite, which has no other truth values.
_TRIED = ("int64", "float64", "bool", "date32", "timestamp[us, UTC]", "string")
_SUBJECTS = ("string", "int32", "int64")
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_DISCRETE = frozenset({"string", "int32", "int64"})


class SubjectUnfit(SchemaError):
    """The column that should name persons is no text and no whole number."""

    code = "subject-unfit"
    default_fix = "name the column that tells persons apart with --subject"


@dataclass(frozen=True, slots=True)
class Described:
    """What is proposed for one source."""

    subject: str
    columns: dict[str, str]  #  TOML of each column
    left_out: dict[str, str]  # columns that are not proposed, and why
    remarks: tuple[str, ...]
    max_rows: int

    def block(self, id_: str, owner: str) -> str:
        """A `[[dataset]]` of these columns."""
        return "\n".join(_lines(self, id_, owner)) + "\n"


def rows_at(path: Path, subject: str) -> Described:
    """What `ratls policy new --schema-from` asks for. Raises: as `describe`."""
    # Other providers have other numbers of rows.
    return replace(describe(source_at(path), subject=subject), max_rows=1_000_000)


def describe(spec: SourceSpec, *, subject: str) -> Described:
    """Read all rows, and propose a dataset.

    Raises:
        ColumnMissing: The source has no such subject.
        SubjectUnfit: It is of a type that names nobody.
        SourceError, SchemaError, SourceUnavailable: The source cannot be read.
    """
    names = _names(spec, subject)
    left_out: dict[str, str] = {}
    typed = _typed(names, left_out)
    typed |= _tried(spec, [n for n, type_ in names.items() if type_ is None], left_out)
    typed = {name: typed[name] for name in names if name in typed}  # in the source's order
    if typed.get(subject) not in _SUBJECTS:
        found = typed.get(subject) or left_out.get(subject, "another type")
        raise SubjectUnfit(f"column {subject!r}", expected="string, int32 or int64", found=found)
    survey = Survey(_dataset(typed, subject), guessed=True)
    seen, rows = _Seen(typed), 0
    with spec.open(survey.asked()) as source, closing(source.surveyed()) as batches:
        for batch in batches:
            rows += batch.num_rows
            seen.add(batch)
    remarks, nullable = _remarks(survey, subject)
    columns: dict[str, str] = {}
    for name, type_ in typed.items():
        why = None if name == subject else suspicion(name, seen.values.get(name))
        column = _column(type_ + "?" * (name in nullable), seen.bounds.get(name))
        if why is not None:
            left_out[name] = f"looks like a direct identifier: {why}; {_key(name)} = {column}"
        else:
            columns[name] = column
    left = (f"left out: {name!a}: {why}" for name, why in left_out.items())
    return Described(subject, columns, left_out, (*left, *remarks), _above(rows))


def _names(spec: SourceSpec, subject: str) -> dict[str, pa.DataType | None]:
    """Every column of the source, with the type that it has there."""
    asked = Survey(_dataset({}, subject), guessed=True).asked()
    with spec.open(asked) as source:
        found = source.found_columns()
        name = source.name
    names = dict(found)
    if [each for each, _ in found].count(subject) != 1:
        listed = f"it has {len(found)} columns"
        raise ColumnMissing(name, expected=f"single column {subject!r}", found=listed)
    twice = {each for each, _ in found if [n for n, _ in found].count(each) > 1}
    return {each: type_ for each, type_ in names.items() if each not in twice}


def _typed(names: dict[str, pa.DataType | None], left_out: dict[str, str]) -> dict[str, str]:
    """The policy's type of each column whose source gives one."""
    typed = {}
    for name, type_ in list(names.items()):
        if fault := name_fault(name):
            left_out[name] = f"a policy cannot name it: {fault[0]}; rename it in the source table"
            del names[name]
        elif type_ is not None and pa.types.is_null(type_):
            left_out[name] = "it has no value at all"
        elif type_ is not None:
            field = _field_for(type_)
            if field is not None:
                typed[name] = type_name(field.type)
            else:
                wanted = _nearest(type_)
                left_out[name] = f"{type_name(type_)} is no type of a policy; " + (
                    conversion(type_, _field(wanted)) if wanted else "convert the column"
                )
    return typed


def _field(type_: str) -> pa.Field:
    return pa.field("column", arrow_type(Column.model_validate({"type": type_})), nullable=False)


def _field_for(type_: pa.DataType) -> pa.Field | None:
    """The declared type that this one spells, as a check of the source says."""
    every = (*_TRIED, "int32", "float32")
    return next((field for t in every if spells(type_, field := _field(t))), None)


def _nearest(type_: pa.DataType) -> str | None:
    if pa.types.is_integer(type_):
        return "int64"
    if pa.types.is_decimal(type_) or pa.types.is_floating(type_):
        return "float64"
    if pa.types.is_timestamp(type_):
        return "timestamp[us, UTC]"
    return "date32" if pa.types.is_date(type_) else None


def _tried(spec: SourceSpec, names: list[str], left_out: dict[str, str]) -> dict[str, str]:
    """The first type that fits every value of a column. Each try reads the source once."""
    typed: dict[str, str] = {}
    for type_ in _TRIED:
        names = [name for name in names if name not in typed and name not in left_out]
        if not names:
            break
        tried = _dataset(dict.fromkeys(names, type_), names[0])
        survey = Survey(tried, guessed=True)
        filled: set[str] = set()
        with spec.open(survey.asked()) as source, closing(source.surveyed()) as batches:
            for batch in batches:
                filled |= {
                    name
                    for name in names
                    if name not in filled and batch.column(name).null_count < batch.num_rows
                }
                if len(survey.misfitting()) == len(names):
                    break
        for name in names:
            if name not in survey.misfitting():
                if name in filled:
                    typed[name] = type_
                else:
                    left_out[name] = "it has no value at all"
    return typed


def _dataset(typed: dict[str, str], subject: str) -> Dataset:
    columns = {name: Column.model_validate({"type": type_}) for name, type_ in typed.items()}
    return Dataset.model_construct(
        id="columns", owner="provider", subject=subject, columns=columns, max_rows=10**10
    )


class _Seen:
    """Lowest and highest value of each column, and what its values look like."""

    def __init__(self, typed: dict[str, str]) -> None:
        self.bounds: dict[str, tuple[Any, Any]] = {}
        self.values = {name: Values() for name, type_ in typed.items() if type_ in _DISCRETE}

    def add(self, batch: pa.RecordBatch) -> None:
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if name in self.values:
                self.values[name].add(values)
            if pa.types.is_boolean(values.type) or pa.types.is_string(values.type):
                continue
            if pa.types.is_floating(values.type):
                values = values.filter(pc.is_finite(values))
            found = pc.min_max(values).as_py()
            if found["min"] is not None:
                known = self.bounds.get(name, (found["min"], found["max"]))
                self.bounds[name] = (min(known[0], found["min"]), max(known[1], found["max"]))


def _remarks(survey: Survey, subject: str) -> tuple[list[str], set[str]]:
    """What a check would refuse in the subject; the other columns with nulls, NaN or infinity."""
    remarks, nullable = [], set()
    for tally in survey.tallies():
        name = tally.column or ""
        if name == subject:
            rows = f"{tally.count:,} row{'s' * (tally.count != 1)}"
            remarks.append(f"to be mended: {name!a}: {rows} must {tally.expected}: {tally.fix}")
        elif name not in nullable:
            nullable.add(name)
            remarks.append(
                f"{name!a} has rows without a value, so its type ends in ?: such a column is no "
                "feature, label or key; fill or drop the rows to use it as one"
            )
    return remarks, nullable


def _column(type_: str, bounds: tuple[Any, Any] | None) -> str:
    """TOML of one column."""
    if bounds is not None and (rounded := outwards(type_.rstrip("?"), *bounds)) is not None:
        return f'{{ type = "{type_}", min = {rounded[0]}, max = {rounded[1]} }}'
    return f'"{type_}"'


_WHOLE = {"int32": 31, "int64": 63}


def outwards(type_: str, low: Any, high: Any) -> tuple[str, str] | None:
    """A range of round numbers that holds both bounds: TOML of its ends. None in odd years."""
    if isinstance(low, datetime):
        if not 2 < low.year <= high.year < 9997:
            return None
        return f"{low.year:04}-01-01T00:00:00Z", f"{high.year + 1:04}-01-01T00:00:00Z"
    if isinstance(low, date):
        return f"{low.year:04}-01-01", f"{high.year:04}-12-31"
    least, most = Decimal(repr(low)), Decimal(repr(high))
    step = Decimal(1).scaleb(((most - least) or abs(most) or Decimal(1)).adjusted())
    if type_ in _WHOLE:
        step = max(step, Decimal(1))
    ends = _end(least, step, ROUND_FLOOR), _end(most, step, ROUND_CEILING)
    if type_ not in _WHOLE:
        return repr(float(ends[0]) + 0.0), repr(float(ends[1]) + 0.0)  # no -0.0
    limit = 2 ** _WHOLE[type_]
    return f"{max(int(ends[0]), -limit):_}", f"{min(int(ends[1]), limit - 1):_}"


def _end(extreme: Decimal, step: Decimal, rounding: str) -> Decimal:
    """The next multiple of `step`. A round extreme, too, is somebody's: it moves, where it is more
    than the end of a scale."""
    rounded = (extreme / step).to_integral_value(rounding) * step
    if rounded == extreme and abs(extreme) > step:
        rounded += step if rounding == ROUND_CEILING else -step
    return rounded


def _above(rows: int) -> int:
    """A round number of rows that leaves some room."""
    power = int("1" + "0" * len(str(rows)))
    return next(part for part in (power // 5, power // 2, power) if part > rows)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _lines(described: Described, id_: str, owner: str) -> Iterator[str]:
    subject = described.subject
    yield "[[dataset]]"
    yield f'id = "{id_}"'
    yield f'owner = "{owner}"'
    yield f"subject = {json.dumps(subject, ensure_ascii=False)}"
    yield f"max_rows = {described.max_rows:_}"
    yield ""
    yield "# Ranges were rounded outwards. Remove every column that no computation needs."
    yield "[dataset.columns]"
    for name, column in described.columns.items():
        note = "  # names a person; counted, never released" if name == subject else ""
        yield f"{_key(name)} = {column}{note}"
