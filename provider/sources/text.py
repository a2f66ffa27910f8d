"""Values that a format can only spell as text, read strictly as their declared type.

Nothing is trimmed, guessed or rounded away: no blanks, no thousands separators, no decimal
comma, no sign `+`, no leading zeros (a code like 007 is no number), no hexadecimal. A number
that its type cannot hold is no value of that type.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = r"-?(0|[1-9][0-9]*)"
_FLOAT = _INTEGER + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_INFINITE = r"-?inf|Infinity|-Infinity"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BOOL = r"true|True|TRUE|false|False|FALSE"
# A time without an offset is in nobody's zone.
_INSTANT = _DAY + r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:?[0-9]{2})"


def parse_text(values: pa.Array, type_: pa.DataType) -> pa.Array | None:
    """Strings (null stays null) as `type_`; None where any of them does not spell such a value.

    NaN and infinity are read where they are spelled: the policy's checks decide about them.
    """
    if pa.types.is_string(type_):
        return values
    if not _all(pc.match_substring_regex(values, f"^({_spelling(type_)})$")):
        return None
    try:
        parsed = pc.cast(values, type_)
    except pa.ArrowInvalid:  # the 30th of February, or more than the type holds
        return None
    if pa.types.is_floating(type_):
        spelled = pc.match_substring_regex(values, f"^({_INFINITE})$")
        if not _all(pc.equal(pc.is_inf(parsed), spelled)):  # 1e999 became infinite
            return None
    return parsed


def _spelling(type_: pa.DataType) -> str:
    if pa.types.is_boolean(type_):
        return _BOOL
    if pa.types.is_integer(type_):
        return _INTEGER
    if pa.types.is_floating(type_):
        return f"{_FLOAT}|{_INFINITE}|nan|NaN"
    return _DAY if pa.types.is_date(type_) else _INSTANT


def _all(values: pa.Array) -> bool:
    """Every value that is not null is true."""
    return pc.all(values, min_count=0).as_py() is not False
