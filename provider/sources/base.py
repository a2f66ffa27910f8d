"""What every source promises, for every kind of source.

`scan` checks every row against the dataset before any connection is opened. `batches` gives the
same rows again, checked again, in batches of the size to send, and refuses if their number has
changed. Memory stays constant: a few batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from policy.rows import BatchCheck, ColumnMissing, ColumnTypeDiffers
from provider.errors import SourceError, SourceTableMalformed
from verifier.errors import placed
from verifier.files import MEBIBYTE

if TYPE_CHECKING:
    from policy.sections import Dataset

SMALLEST, AIM, LARGEST = MEBIBYTE, 2 * MEBIBYTE, 4 * MEBIBYTE  # bytes of a batch (flight.md 2.4)
_MOST_ROWS_READ = 131_072
_MOST_ROWS_READ_WITH_STRINGS = 8_192  # their lengths are unknown before they are read
_GUESSED_STRING = 32  # bytes
NO_NAMES: Mapping[str, str] = MappingProxyType({})


class SourceTooLong(SourceError):
    """The source has more rows than the policy lets a release carry."""

    code = "source-too-long"
    default_fix = "release a smaller selection, or agree on a higher max_rows"
    says = "{thing} has more than {expected} rows"


class SourceEmpty(SourceError):
    """The source has no rows; releasing nothing would still use up the task."""

    code = "source-empty"
    default_fix = "name the right file, and wait until its export has finished"
    says = "{thing} has no rows"


class SourceChanged(SourceError):
    """The source changed between its check and its release; the stream was not committed."""

    code = "source-changed"
    default_fix = (
        "release from a source that is not being written; the same task can be tried again"
    )


class Source(ABC):
    """One opened source, checked against one dataset of the policy."""

    # `_declared` gives arrays that were validated in full, or made from values in this process.
    validated: ClassVar[bool] = False

    def __init__(self, name: str, dataset: Dataset, rename: Mapping[str, str] = NO_NAMES) -> None:
        """
        Args:
            rename: Names of columns as the source has them, to declared ones.

        Raises:
            SourceTableMalformed: It gives a column a name that is not declared.
        """
        self._name, self._dataset, self._rename = name, dataset, rename
        self._check = BatchCheck(dataset)
        self._schema = self._check.schema
        self._scanned: int | None = None
        for new in rename.values():
            if new not in dataset.columns:
                raise SourceTableMalformed(
                    f"{name}: rename", expected="declared columns", found=ascii(new)[:80]
                )

    def scan(self) -> int:
        """Check every row; the number of rows.

        Raises:
            SourceError: It is not what the policy declares.
            SourceUnavailable: The database does not answer.
            SchemaError: A column is missing, there twice, or of another type.
            InvalidDataError: A null, a NaN, an infinity or a value outside its domain.
        """
        rows = 0
        for batch in self._checked():
            rows += batch.num_rows
            if rows > self._dataset.max_rows:
                raise SourceTooLong(self._name, expected=str(self._dataset.max_rows), found="more")
        if rows == 0:
            raise SourceEmpty(self._name, expected="at least one row", found="none")
        self._require_unchanged()
        self._scanned = rows
        return rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows again, in batches of 1 to 4 MiB (the last may be smaller), checked again.

        Raises:
            SourceChanged: Not the number of rows that `scan` found, or written meanwhile.
            RatlsError: As in `scan`; the source was written meanwhile.
        """
        if self._scanned is None:
            raise AssertionError("batches before scan: nothing was checked")
        rows = 0
        for batch in self._checked():
            rows += batch.num_rows
            if rows > self._scanned:
                break
            yield batch
        if rows != self._scanned:
            raise SourceChanged(self._name, expected=f"{self._scanned} rows", found=str(rows))
        self._require_unchanged()

    @property
    def schema(self) -> pa.Schema:
        """What the batches have: the declared columns, no metadata."""
        return self._schema

    @abstractmethod
    def _declared(self) -> Iterator[pa.RecordBatch]:
        """The declared columns, in the declared order and types; values are not yet checked."""

    @abstractmethod
    def _require_unchanged(self) -> None:
        """The source was not written since it was opened, as far as this kind can tell."""

    def _places(self, found: Sequence[str]) -> list[int]:
        """The place of each declared column; other columns stay unread."""
        places = []
        found = [self._rename.get(name, name) for name in found]
        for name in self._schema.names:
            count = found.count(name)
            if count != 1:
                others = ", ".join(ascii(other)[1:-1][:80] for other in found[:40])
                raise ColumnMissing(
                    self._name,
                    expected=f"{'single ' if count else ''}column {name!r}",
                    found=f"it has: {others}",
                )
            places.append(found.index(name))
        return places

    def _column(
        self, name: str, rows_before: int, length: int, build: Callable[[slice], pa.Array | None]
    ) -> pa.Array:
        """What `build` makes of all values; where that is None, the refusal names the first row."""
        array = build(slice(0, length))
        if array is not None:
            return array
        low, high = 0, length  # the first value that does not fit is in here
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if build(slice(low, middle)) is None else (middle, high)
        raise self._misfit(name, rows_before + low + 1)

    def _misfit(self, name: str, row: int) -> ColumnTypeDiffers:
        """A value is not of its column's type; the refusal has its row, never the value."""
        return ColumnTypeDiffers(
            f"{self._name}, column {name!r}",
            expected=self._dataset.columns[name].type,
            found=f"something else in row {row}",
            fix=self._remedy(name),
        )

    def _remedy(self, name: str) -> str | None:
        """How to convert the values in this kind of source."""
        return None

    def _checked(self) -> Iterator[pa.RecordBatch]:
        """Every row, checked against the policy, in batches fit to be sent."""
        rows = 0
        for batch in _resize(self._declared(), self._name):
            with placed(self._name):
                self._check(batch, rows_before=rows, validated=self.validated)
            yield batch
            rows += batch.num_rows


class JoinedSource(Source):
    """Several sources, one after the other, as one."""

    def __init__(
        self,
        sources: Sequence[Source],
        dataset: Dataset,
        name: str,
        require_unchanged: Callable[[], None],
    ) -> None:
        super().__init__(name, dataset)
        self._sources, self._require_same_parts = sources, require_unchanged

    def _declared(self) -> Iterator[pa.RecordBatch]:
        """Each checked by its own source, so that a refusal names file and row."""
        return chain.from_iterable(source._checked() for source in self._sources)

    def _checked(self) -> Iterator[pa.RecordBatch]:
        return _resize(self._declared(), self._name)

    def _require_unchanged(self) -> None:
        self._require_same_parts()
        for source in self._sources:
            source._require_unchanged()


def rows_per_read(schema: pa.Schema) -> int:
    """How many rows make about one batch, by the widths of their columns."""
    widths = [_GUESSED_STRING if pa.types.is_string(t) else t.bit_width / 8 for t in schema.types]
    has_strings = any(pa.types.is_string(t) for t in schema.types)
    most = _MOST_ROWS_READ_WITH_STRINGS if has_strings else _MOST_ROWS_READ
    return max(1, min(most, int(AIM / sum(widths))))


def _resize(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """Join small batches and cut large ones."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= SMALLEST:
            yield from _cut(_joined(waiting), size, name)
            waiting, size = [], 0
    if waiting:
        yield from _cut(_joined(waiting), size, name)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class SourceRowTooLarge(SourceError):
    """A single row is larger than a message may be."""

    code = "source-row-too-large"
    default_fix = "shorten the longest strings of the source"


def _cut(batch: pa.RecordBatch, size: int, name: str) -> Iterator[pa.RecordBatch]:
    if batch.num_rows == 0:
        return
    if size <= LARGEST:
        yield batch
        return
    if batch.num_rows == 1:
        raise SourceRowTooLarge(name, expected=f"rows of at most {LARGEST} bytes", found="more")
    parts = -(-size // AIM)
    step = max(1, min(batch.num_rows - 1, batch.num_rows // parts))
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        yield from _cut(part, part.nbytes, name)
