"""Rows as a policy declares them: the Arrow schema, and checks that a batch must pass.

    schema = arrow_schema(dataset)        # declared order; not nullable unless the type ends in ?
    check_schema(batch.schema, dataset)   # names, order, types, nullability, no metadata
    check = BatchCheck(dataset)           # once for a stream
    check(batch, rows_before=0)           # the schema, the arrays themselves, every value

Nothing is cast. Messages name columns and the first wrong row, never a value. Beside
`policy.row_texts`, this is the only module of `policy` that imports pyarrow.

Almost all columns of almost all batches are fine, and two numbers can show it: the lowest and the
highest value, in one pass over a column (`_Column.is_fine`). Only where these do not show it, each
rule is asked for each row (`_faults`, `misspelled`), and that alone refuses.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from policy.errors import InvalidDataError, SchemaError
from policy.row_texts import Fault, NamesRows, all_listed, is_plainly_spelled, misspelled, unlisted
from policy.sections import Column, Dataset
from policy.values import Digest

ColumnFault = tuple[str, type[InvalidDataError], str, pa.Array]
_ROWS_NAMED = 5  # in one refusal
_LARGEST = sys.float_info.max
_TYPES: dict[str, Any] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "date32": pa.date32(),
    "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
}
_NUMBERS: dict[str, Any] = {"date32": pa.int32(), "timestamp[us, UTC]": pa.int64()}


def arrow_type(column: Column) -> pa.DataType:
    """The one Arrow type of a declared column."""
    return _TYPES[column.type]


def arrow_schema(dataset: Dataset) -> pa.Schema:
    """The dataset's columns in declared order, without metadata."""
    return pa.schema(
        [
            pa.field(name, arrow_type(column), nullable=column.nullable)
            for name, column in dataset.columns.items()
        ]
    )


def schema_digest(dataset: Dataset) -> Digest:
    """SHA-256 over names, types and nullability, each length-prefixed; 32 bytes.

    Not over Arrow's own encoding, which may change with its version.
    """
    digest = hashlib.sha256(b"ratls/1 schema")
    for name, column in dataset.columns.items():
        for part in (name, column.type, "?" if column.nullable else ""):
            encoded = part.encode("utf-8")
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return Digest(digest.digest())


class ColumnUnexpected(SchemaError):
    """A column that the policy does not declare, or one that is there twice."""

    code = "column-unexpected"
    default_fix = "remove the column from the source"
    says = "{thing} has {found}"


class ColumnMissing(SchemaError):
    """A declared column is not there."""

    code = "column-missing"
    default_fix = "give the source every column that the policy declares"

    def sentence(self) -> str:
        text = f"{self.thing} has no {self.expected}"
        return f"{text}; {self.found}" if self.found else text


class ColumnTypeDiffers(SchemaError):
    """A column has another type than declared; nothing is cast silently."""

    code = "column-type-differs"
    default_fix = "convert the column at the source"


class ColumnOrderDiffers(SchemaError):
    """The columns are not in the declared order, or carry metadata."""

    code = "column-order-differs"
    default_fix = "send the columns in the policy's order, without schema metadata"


def check_schema(schema: pa.Schema, dataset: Dataset) -> None:
    """Exactly the declared columns.

    Raises: ColumnMissing, ColumnUnexpected, ColumnTypeDiffers, ColumnOrderDiffers.
    """
    declared = dataset.columns
    try:
        names = schema.names
    except UnicodeDecodeError as error:  # Arrow takes any bytes for a name
        found = "a column name that is not UTF-8"
        raise ColumnUnexpected(f"dataset {dataset.id}", expected="UTF-8", found=found) from error
    for name in declared:
        if name not in names:
            raise ColumnMissing(f"dataset {dataset.id}", expected=f"column {name!r}", found="")
    for position, name in enumerate(names):
        if name not in declared or name in names[:position]:
            why = "twice" if name in declared else "which the policy does not declare"
            found = f"column {ascii(name)[:80]}, {why}"
            raise ColumnUnexpected(f"dataset {dataset.id}", expected="declared ones", found=found)
    expected = arrow_schema(dataset)
    for name in declared:
        wanted, found = expected.field(name), schema.field(name)
        if wanted.type != found.type or wanted.nullable != found.nullable:
            raise ColumnTypeDiffers(
                f"dataset {dataset.id}, column {name!r}",
                expected=_described(wanted),
                found=_described(found),
            )
    # Metadata is text from the other side; the policy declares none.
    if not schema.equals(expected, check_metadata=True):
        raise ColumnOrderDiffers(
            f"dataset {dataset.id}: columns",
            expected="the declared order, no metadata",
            found="another order, or metadata",
        )


class RowsMalformed(InvalidDataError):
    """The offsets, lengths or texts of a batch are inconsistent."""

    code = "rows-malformed"
    default_fix = "write the source again with a current Arrow"


class BatchCheck:
    """The checks of one dataset, prepared once for a stream of batches."""

    def __init__(self, dataset: Dataset) -> None:
        self.schema = arrow_schema(dataset)
        self._dataset = dataset
        self._columns = [_Column(dataset, name) for name in dataset.columns]

    def __call__(
        self, batch: pa.RecordBatch, *, rows_before: int = 0, validated: bool = False
    ) -> None:
        """The schema, the arrays themselves, and every value of this batch.

        Args:
            rows_before: Rows of earlier batches, so that a refusal can name the row (from 1 on).
            validated: Its arrays were validated in full, or made in this process from values.

        Raises: as `check_schema`; RowsMalformed, ValueNull, ValueNotFinite, ValueOutsideDomain,
            ValueUnlisted, and of ids of persons PersonUnnamed, PersonSpelledWithBlanks,
            PersonSpelledInvisibly, PersonSpelledInParts, PersonSpelledInCapitals.
        """
        if not batch.schema.equals(self.schema, check_metadata=True):
            check_schema(batch.schema, self._dataset)
        if not validated:
            require_consistent(batch, f"dataset {self._dataset.id}: batch")
        for column, values in zip(self._columns, batch.columns, strict=True):
            if not column.is_fine(values):
                column.refuse(values, rows_before)

    def faults(self, batch: pa.RecordBatch, *, validated: bool = False) -> Iterator[ColumnFault]:
        """All that is wrong: for each column and rule, which rows of this batch break it.

        Raises: RowsMalformed.
        """
        if not validated:
            require_consistent(batch, f"dataset {self._dataset.id}: batch")
        for name, column, values in zip(
            self.schema.names, self._columns, batch.columns, strict=True
        ):
            if not column.is_fine(values):
                yield from ((name, *fault) for fault in column.faults(values))


def require_consistent(batch: pa.RecordBatch, thing: str) -> None:
    """Offsets, indices and texts are such that reading them is safe: Arrow trusts its sender.

    Raises: RowsMalformed.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        # Arrow's own text may quote a value.
        raise RowsMalformed(
            thing, expected="consistent arrays", found="inconsistent ones"
        ) from error


class _Column:
    """The rules of one column."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._declared, self._spelling = dataset.columns[name], dataset.spelling(name)
        self._thing = f"dataset {dataset.id}, column {name!r}"
        bounds = (self._declared.min, self._declared.max)
        self._is_float = self._declared.type in ("float32", "float64")
        self._has_numbers = bounds != (None, None) or (
            self._is_float and not self._declared.nullable
        )
        # A day or an instant is compared as the number that it is.
        self._number = _NUMBERS.get(self._declared.type)
        self._low, self._high = (None if b is None else self._as_number(b) for b in bounds)

    def _as_number(self, bound: Any) -> Any:
        scalar = _bound(bound, self._declared)
        return scalar.as_py() if self._number is None else scalar.cast(self._number).as_py()

    def is_fine(self, values: pa.Array) -> bool:
        """True: every value is. False: some value may break a rule; `refuse` looks for it."""
        if values.null_count and not self._declared.nullable:
            return False
        if self._declared.values is not None and not all_listed(values, self._declared.values):
            return False
        if self._spelling is not None:
            return self._spelling == "canonical" and is_plainly_spelled(values)
        if not self._has_numbers or not len(values):
            return True
        low, high = self._extremes(values)
        # Of no comparison with NaN, which stands for "look closer", does `is_fine` come out true.
        return (
            (low >= -_LARGEST and high <= _LARGEST if self._is_float else True)
            and (self._low is None or low >= self._low)
            and (self._high is None or high <= self._high)
        )

    def _extremes(self, values: pa.Array) -> tuple[Any, Any]:
        """Lowest and highest value. NaN where one is NaN, or where all are null."""
        if self._number is not None:
            values = values.view(self._number)
        if values.null_count:
            found = pc.min_max(values).as_py()
            if found["min"] is None:
                return np.nan, np.nan
            return found["min"], found["max"]
        numbers = values.to_numpy()  # a view; its minimum is several times as fast as Arrow's
        return numbers.min().item(), numbers.max().item()

    def refuse(self, values: pa.Array, rows_before: int) -> None:
        """Ask each rule for each row.

        Raises: The leaf of the first rule that a row breaks; nothing if all rows keep all rules.
        """
        for leaf, expected, wrong in self.faults(values):
            # The numbers of the rows, never their values.
            raise leaf(self._thing, expected=expected, found=_rows(wrong, rows_before))

    def faults(self, values: pa.Array) -> Iterator[Fault]:
        """The rules that some row breaks."""
        faults = chain(_faults(values, self._declared), misspelled(values, self._spelling))
        return (fault for fault in faults if pc.any(fault[2]).as_py())


def check_batch(batch: pa.RecordBatch, dataset: Dataset, *, rows_before: int = 0) -> None:
    """`BatchCheck` for a single batch.

    Raises: as there.
    """
    BatchCheck(dataset)(batch, rows_before=rows_before)


def _rows(wrong: pa.Array, rows_before: int) -> str:
    """`row 3`, or `rows 3, 8, 12, 13, 20 and 4 more`."""
    places = [rows_before + p + 1 for p in pc.indices_nonzero(wrong).to_pylist()]
    listed = ", ".join(map(str, places[:_ROWS_NAMED]))
    more = f" and {len(places) - _ROWS_NAMED} more" if len(places) > _ROWS_NAMED else ""
    return f"{'row' if len(places) == 1 else 'rows'} {listed}{more}"


class ValueNull(NamesRows, InvalidDataError):
    """A null in a column that must not have one."""

    code = "value-null"
    default_fix = "fill or drop the row at the source; only a type that ends in ? takes nulls"


class ValueNotFinite(NamesRows, InvalidDataError):
    """NaN or infinity in a column that must not have one."""

    code = "value-not-finite"
    default_fix = "fill or drop the row at the source; only a type that ends in ? takes these"


class ValueOutsideDomain(NamesRows, InvalidDataError):
    """A value outside the declared minimum and maximum."""

    code = "value-outside-domain"
    default_fix = "correct the row at the source, or agree on a wider domain"


def _faults(values: pa.Array, column: Column) -> Iterator[Fault]:
    """For each rule of a column: its refusal, the rule in words, and which rows break it."""
    if not column.nullable:
        if values.null_count:  # for a column without nulls there is nothing to search
            yield ValueNull, "not be null", pc.is_null(values)
        if column.type in ("float32", "float64"):
            yield ValueNotFinite, "be a finite number", pc.invert(pc.is_finite(values))
    if column.values is not None:
        yield unlisted(values, column.values)
    for bound, outside in ((column.min, pc.less), (column.max, pc.greater)):
        if bound is not None:
            # Null and NaN compare as not outside: where a column allows them, they mean "missing".
            yield ValueOutsideDomain, _domain(column), outside(values, _bound(bound, column))


def _bound(bound: Any, column: Column) -> pa.Scalar:
    if column.type in ("float32", "float64"):
        # A float32 column is compared as float64: rounding the bound would move the domain.
        return pa.scalar(float(bound), pa.float64())
    return pa.scalar(bound, arrow_type(column))


def _domain(column: Column) -> str:
    if column.max is None:
        return f"be at least {column.min}"
    if column.min is None:
        return f"be at most {column.max}"
    return f"be from {column.min} to {column.max}"


def type_name(type_: pa.DataType) -> str:
    """A type in the policy's words, where it has one; Arrow calls float64 `double`."""
    return next((name for name, known in _TYPES.items() if known == type_), str(type_)[:120])


def _described(field: pa.Field) -> str:
    return type_name(field.type) + ("?" if field.nullable else "")
