"""Arrow's columns compared with the declared ones: nothing is cast but other spellings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from policy.rows import ColumnTypeDiffers, type_name
from provider.errors import SourceUnreadable
from provider.sources.base import Source

# Names of one zone. Summer time, leap seconds and history differ in all others.
_UTC = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "Zulu", "+00:00", "+0000", "+00"})
_IN_PYARROW = {"bool": "pa.bool_()", "timestamp[us, UTC]": 'pa.timestamp("us", "UTC")'}


class ArrowColumns(Source):
    """A source that comes as Arrow arrays with types of their own."""

    _found: list[tuple[str, pa.DataType | None]]

    def found_columns(self) -> list[tuple[str, pa.DataType | None]]:
        return self._found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Around every call of Arrow that reads: its exceptions become refusals."""
        try:
            yield
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            # Arrow's own message may quote what it could not read: it stays in the cause.
            raise SourceUnreadable(
                self._name, expected="Arrow columns", found="something else"
            ) from error

    def _check_types(self, found: pa.Schema) -> list[int]:
        """The place of each declared column, all of the declared types.

        Raises:
            ColumnMissing: A declared column is absent, or there twice.
            ColumnTypeDiffers: A declared column has another type.
        """
        with self._reading():  # a name need not be UTF-8
            names, types = found.names, found.types
        self._found = list(zip(self._renamed(names), types, strict=True))
        places = self._places(names)
        for field, place in zip(self._schema, places, strict=True):
            type_ = types[place]
            if not spells(type_, field):
                refusal = ColumnTypeDiffers(
                    f"{self._name}, column {field.name!r}",
                    expected=type_name(field.type),
                    found=type_name(type_),
                    fix=conversion(type_, field),
                )
                self._refuse_column(field.name, refusal)
        self._require_columns()
        return places

    def _batch(self, arrays: list[pa.Array]) -> pa.RecordBatch:
        """The declared columns in the declared Arrow types, without metadata."""
        declared = [_as(a, t) for a, t in zip(arrays, self._schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(declared, schema=self._schema)


def spells(type_: pa.DataType, field: pa.Field) -> bool:
    """Is it the declared type, or another spelling with the same values and no other meaning?

    `large_string`, `string_view` and dictionaries of strings; UTC under another name; a column
    without any value where the policy allows nulls.
    """
    if pa.types.is_null(type_):
        return bool(field.nullable)
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        type_ = pa.string()
    if pa.types.is_timestamp(type_) and type_.tz in _UTC:
        type_ = pa.timestamp(type_.unit, "UTC")
    return bool(type_ == field.type)


def _as(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        if pa.types.is_string_view(array.type.value_type):  # which Arrow cannot take from
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(wanted))
        array = array.cast(array.type.value_type)
    return array if array.type == wanted else array.cast(wanted)


def conversion(found: pa.DataType, field: pa.Field) -> str:
    """How to convert a column when the file is made. `column` is an Arrow array."""
    wanted = type_name(field.type)
    arrow = _IN_PYARROW.get(wanted, f"pa.{wanted}()")
    step = f"column.cast({arrow})"
    if pa.types.is_null(found):
        return f"fill the column ({wanted}), or end its type in ? in the policy"
    if pa.types.is_timestamp(found) and found.tz is None and pa.types.is_timestamp(field.type):
        # The same digits are another instant in each zone.
        step = f'pc.assume_timezone(column, "Europe/Zurich").cast({arrow})'
        return f"add the time zone, for example in pyarrow: {step}"
    return f"convert the column where the file is made, for example in pyarrow: {step}"
