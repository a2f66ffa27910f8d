"""Values that a format can only spell as text, read strictly as their declared type.

Nothing is trimmed, guessed or rounded away: no blanks, no thousands separators, no sign `+`, no
leading zeros (a code like 007 is no number), no hexadecimal; a decimal comma or another order of
day and month only where the source table names it. A number that its type cannot hold is no
value of that type.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from provider.sources.exact import (
    are_plain_integers,
    are_plain_numbers,
    end_in_z,
    spelled_singles,
    spells_doubles,
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one source writes numbers and dates."""

    decimal: str = "."
    date_format: str = "%Y-%m-%d"


ISO = Spelling()

_INTEGER = r"-?(?:0|[1-9][0-9]*)"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_INFINITE = r"-?inf|Infinity|-Infinity"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BOOLS = pa.array(["true", "True", "TRUE", "t", "false", "False", "FALSE", "f"])  # t: PostgreSQL
# A time without an offset has no zone. PostgreSQL writes +00, BigQuery UTC.
_INSTANT = (
    _DAY + r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?| ?UTC)"
)
_DIRECTIVES = {
    "%Y": "(?P<year>[0-9]{4})",
    "%m": "(?P<month>[0-9]{2})",
    "%d": "(?P<day>[0-9]{2})",
    "%-m": "(?P<month>[0-9]{1,2})",
    "%-d": "(?P<day>[0-9]{1,2})",
}


def parse_text(values: pa.Array, type_: pa.DataType, spelling: Spelling = ISO) -> pa.Array | None:
    """Strings (null stays null) as `type_`; None where one of them is not such a value.

    NaN and infinity are read where they are spelled: the policy's checks decide about them.
    """
    if pa.types.is_string(type_):
        return values
    if pa.types.is_boolean(type_):
        return _booleans(values)
    if pa.types.is_integer(type_):
        return _integers(values, type_)
    if pa.types.is_floating(type_):
        return _floats(values, type_, spelling.decimal)
    if pa.types.is_date(type_) and spelling.date_format != ISO.date_format:
        values = _iso_days(values, spelling.date_format)
        return None if values is None else _cast(values, type_)
    if pa.types.is_date(type_) and (days := _plain_days(values, type_)) is not None:
        return days
    if pa.types.is_timestamp(type_):
        if _are_plain_instants(values):
            return _cast(values, type_)
        if not _match(values, _INSTANT):
            return None
        if pc.any(pc.ends_with(values, "UTC")).as_py():  # to replace costs more than to read
            values = pc.replace_substring_regex(values, " ?UTC$", "Z")
        return _cast(values, type_)
    return _cast(values, type_) if _match(values, _DAY) else None


def describe(type_: pa.DataType, spelling: Spelling = ISO) -> str:
    """What `parse_text` takes, for a refusal."""
    if pa.types.is_boolean(type_):
        return "true, false, t or f"
    if pa.types.is_integer(type_):
        return f"a whole number of {type_.bit_width} bits like 0 or -12"
    if pa.types.is_floating(type_):
        return (
            f"a number like 12, -0{spelling.decimal}5 or 1e-3 that fits into {type_.bit_width} bits"
        )
    if pa.types.is_date(type_):
        return f"a day like {_EXAMPLE.strftime(spelling.date_format)}"
    return "a time with its zone like 2026-02-03T04:05:06Z or 2026-02-03 04:05:06.25+01:00"


_EXAMPLE = datetime.date(2026, 2, 3)


def date_pattern(date_format: str) -> str | None:
    """A regular expression with the groups year, month and day; None where one is not clear."""
    parts = re.split("(%-?[a-zA-Z])", date_format)
    separators, directives = parts[0::2], parts[1::2]
    groups = [_DIRECTIVES.get(directive, "<other>") for directive in directives]
    if sorted(re.findall(r"<(\w+)>", "".join(groups))) != ["day", "month", "year"]:
        return None
    if any(re.search("[0-9A-Za-z%]", separator) for separator in separators):
        return None
    if "-" in "".join(directives) and not all(separators[1:-1]):
        return None  # 1112026 is two days
    escaped = [re.escape(separator) for separator in separators]
    return "".join(x for pair in zip(escaped, [*groups, ""], strict=True) for x in pair)


def _booleans(values: pa.Array) -> pa.Array | None:
    which = pc.index_in(values, _BOOLS)
    return pc.less(which, 4) if which.null_count == values.null_count else None


def _integers(values: pa.Array, type_: pa.DataType) -> pa.Array | None:
    parsed = _cast(values, type_)
    if parsed is None or are_plain_integers(values):
        return parsed
    return parsed if _match(values, _INTEGER) else None


def _floats(values: pa.Array, type_: pa.DataType, decimal: str) -> pa.Array | None:
    if not pa.types.is_float64(type_) or decimal != ".":
        return _patterned_floats(values, type_, decimal)
    doubles = _cast(values, type_)
    if doubles is None:
        return None
    plain = are_plain_numbers(values, doubles)
    if plain.all():
        return doubles
    others = pa.array(~plain)  # usually a few in a column, if any
    if _patterned_floats(values.filter(others), type_, decimal) is None:
        return None
    return doubles


def _patterned_floats(values: pa.Array, type_: pa.DataType, decimal: str) -> pa.Array | None:
    """Each text is compared with patterns: several times as slow as reading it."""
    point, is_double = re.escape(decimal), pa.types.is_float64(type_)
    # Most columns are plain throughout, and one pattern reads as fast as another.
    plain = is_double and _match(values, _plain(point))
    if not plain and not _match(
        values, rf"{_INTEGER}(?:{point}[0-9]+)?{_EXPONENT}|{_INFINITE}|nan|NaN"
    ):
        return None
    if decimal != ".":
        values = pc.replace_substring(values, decimal, ".")
    doubles = _cast(values, pa.float64())
    if plain or doubles is None:
        return doubles
    if pc.any(pc.is_inf(doubles), min_count=0).as_py():
        spelled = pc.match_substring_regex(values, f"^(?:{_INFINITE})$")
        if not _all(pc.equal(pc.is_inf(doubles), spelled)):  # 1e999 became infinite
            return None
    if not is_double:
        return spelled_singles(values, doubles)
    return doubles if spells_doubles(values, doubles) else None


@cache
def _plain(point: str) -> str:
    """Numbers that are the nearest double by their length alone: see `spells_doubles`."""
    fractions = [rf"0{point}0*[0-9]{{1,17}}"]
    fractions += [rf"[1-9][0-9]{{{i}}}{point}[0-9]{{1,{16 - i}}}" for i in range(15)]
    return rf"-?(?:0|[1-9][0-9]{{0,14}}|{'|'.join(fractions)})(?:[eE][+-]?[0-9]{{1,2}})?"


def _plain_days(values: pa.Array, type_: pa.DataType) -> pa.Array | None:
    """Days, where each text has ten characters: then Arrow reads one form alone."""
    lengths = pc.min_max(pc.binary_length(values)).as_py()
    return _cast(values, type_) if lengths["min"] == lengths["max"] == 10 else None


def _are_plain_instants(values: pa.Array) -> bool:
    """Ends each in Z, and has it room for exactly the seconds, and up to six digits after them?

    Arrow reads hours and minutes alone, too, which are shorter.
    """
    lengths = pc.min_max(pc.binary_length(values)).as_py()
    low, high = lengths["min"], lengths["max"]
    return low is not None and low >= 20 and high <= 27 and end_in_z(values)


def _iso_days(values: pa.Array, date_format: str) -> pa.Array | None:
    pattern = date_pattern(date_format)
    assert pattern is not None  # the source table was refused otherwise
    parts = pc.extract_regex(values, f"^{pattern}$")
    if parts.null_count != values.null_count:
        return None
    year, month, day = (pc.struct_field(parts, part) for part in ("year", "month", "day"))
    two = [pc.utf8_lpad(part, 2, "0") for part in (month, day)]
    return pc.binary_join_element_wise(year, *two, "-")


def _cast(values: pa.Array, type_: pa.DataType) -> pa.Array | None:
    try:
        return pc.cast(values, type_)
    except pa.ArrowInvalid:  # the 30th of February, or more than the type holds
        return None


def _match(values: pa.Array, pattern: str) -> bool:
    return _all(pc.match_substring_regex(values, f"^(?:{pattern})$"))


def _all(values: pa.Array) -> bool:
    """Every value that is not null is true."""
    return pc.all(values, min_count=0).as_py() is not False
