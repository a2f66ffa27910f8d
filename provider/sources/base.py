"""What every source promises, for every kind of source.

    for chunk in source.chunks():       # once: each row is read, checked and made ready to be sent
        send(chunk.message)
    # only now: the source was complete, allowed, and not written meanwhile

A refusal may come after any chunk, so nothing may count before all have come. `scan` checks all
rows and gives none. Memory stays constant: a few batches.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import pyarrow as pa

from policy.rows import BatchCheck, ColumnMissing, ColumnTypeDiffers
from policy.values import Digest
from provider.errors import SourceError, SourceTableMalformed
from provider.sources.ahead import ahead, mapped
from provider.sources.survey import Surveyed
from ratls.framing import message_digest
from verifier.errors import RatlsError, placed
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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as they are sent."""

    batch: pa.RecordBatch
    message: pa.Buffer  # Arrow IPC, of the batch alone
    digest: Digest  #     SHA-256 of the message

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Self:
        message = batch.serialize()
        return cls(batch, message, message_digest(message))


class RowsSeen:
    """Counts rows, and their digest: SHA-256 over the digests of all chunks."""

    def __init__(self) -> None:
        self.rows = self.batches = self.bytes = 0
        self._hash = hashlib.sha256(b"ratls/1 rows of a source")

    def add(self, chunk: Chunk) -> None:
        """The next chunk. Its message has the number of its rows."""
        self.rows += chunk.batch.num_rows
        self.batches += 1
        self.bytes += chunk.message.size
        self._hash.update(chunk.digest)

    def digest(self) -> Digest:
        """32 bytes."""
        return Digest(self._hash.digest())


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """One local file, as it was when it was opened; whoever writes to it changes one of these."""

    read: str  # how: kind, dialect, names given to columns
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Source(ABC):
    """One opened source, checked against one dataset of the policy."""

    # `_declared` gives arrays that were validated in full, or made from values in this process.
    validated: ClassVar[bool] = False
    threads: ClassVar[bool] = True  # it may be read in another thread than it was opened in

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
        # Where all that is wrong is wanted, and not the first of it.
        self._survey = dataset.survey if isinstance(dataset, Surveyed) else None
        known = (self._survey.dataset if self._survey else dataset).columns
        guessed = self._survey is not None and self._survey.guessed
        for new in rename.values():
            if new not in known and not guessed:
                raise SourceTableMalformed(
                    f"{name}: rename", expected="declared columns", found=ascii(new)[:80]
                )

    def scan(self) -> int:
        """Check every row; the number of rows. `batches` then expects this number.

        Raises: as `batches`.
        """
        self._scanned = sum(batch.num_rows for batch in self.batches())
        return self._scanned

    def batches(self, *, checked: bool = False) -> Iterator[pa.RecordBatch]:
        """Every row, in batches of 1 to 4 MiB (the last may be smaller).

        Args:
            checked: An earlier check of this very content holds: values are not looked at.

        Raises:
            SourceError: It is not what the policy declares.
            SourceUnavailable: The database does not answer.
            SchemaError: A column is missing, there twice, or of another type.
            InvalidDataError: A null, a NaN, an infinity or a value outside its domain.
            SourceChanged: Not the number of rows that `scan` found, or written meanwhile.
        """
        rows = self._counted(checked)
        return ahead(rows) if self.threads else rows

    def surveyed(self) -> Generator[pa.RecordBatch, None, None]:
        """Every row, for the survey that the source was opened for, which notes what is wrong.

        Raises: SourceError, and SchemaError for columns that cannot be read.
        """
        return self._counted(checked=True)

    def _counted(self, checked: bool) -> Generator[pa.RecordBatch, None, None]:
        rows = 0
        try:
            for batch in self._rows(checked):
                rows += batch.num_rows
                if self._scanned is not None and rows > self._scanned:
                    break
                self._require_few(rows)
                yield batch
        except RatlsError:
            self._require_one_state()
            raise
        if self._scanned not in (None, rows):
            raise SourceChanged(self._name, expected=f"{self._scanned} rows", found=str(rows))
        self._require_some(rows)
        self._require_unchanged()

    def _require_few(self, rows: int) -> None:
        if rows > self._dataset.max_rows:
            raise SourceTooLong(self._name, expected=str(self._dataset.max_rows), found="more")

    def _require_some(self, rows: int) -> None:
        if rows == 0:
            raise SourceEmpty(self._name, expected="at least one row", found="none")

    def chunks(self, expected: Digest | None = None) -> Generator[Chunk, None, None]:
        """Every row, as it is sent.

        Args:
            expected: `RowsSeen.digest` of an earlier check, which is not made again.

        Raises: as `batches`; SourceChanged: Not the rows of the earlier check.
        """
        seen = RowsSeen()
        for chunk in mapped(Chunk.of, self.batches(checked=expected is not None)):
            seen.add(chunk)
            yield chunk
        if expected not in (None, seen.digest()):
            raise SourceChanged(
                self._name, expected="the rows that were checked earlier", found="other rows"
            )

    def expected_rows(self) -> int | None:
        """How many rows there should be, where the source tells without being read.

        Raises: SourceTooLong, SourceEmpty.
        """
        rows = self._scanned if self._scanned is not None else self._told_rows()
        if rows is not None:
            self._require_few(rows)
            self._require_some(rows)
        return rows

    def _told_rows(self) -> int | None:
        return None

    def identity(self) -> tuple[FileIdentity, ...] | None:
        """Which files are read, and how; None where a later look cannot tell a change."""
        return None

    @property
    def name(self) -> str:
        """What refusals call it."""
        return self._name

    @property
    def schema(self) -> pa.Schema:
        """What the batches have: the declared columns, no metadata."""
        return self._schema

    @abstractmethod
    def found_columns(self) -> list[tuple[str, pa.DataType | None]]:
        """Every column, by the name that it has here; None where the source gives no type."""

    @abstractmethod
    def _declared(self) -> Iterator[pa.RecordBatch]:
        """The declared columns, in the declared order and types; values are not yet checked."""

    @abstractmethod
    def _require_unchanged(self) -> None:
        """The source was not written since it was opened, as far as this kind can tell."""

    def _require_one_state(self) -> None:  # noqa: B027 - most kinds have one state
        """What was refused is not a mixture of two states, where reading can give one."""

    def _places(self, found: Sequence[str]) -> list[int]:
        """The place of each declared column; other columns stay unread."""
        places = []
        found = self._renamed(found)
        for name in self._schema.names:
            count = found.count(name)
            if count != 1:
                others = ", ".join(ascii(other)[1:-1][:80] for other in found[:40])
                refusal = ColumnMissing(
                    self._name,
                    expected=f"{'single ' if count else ''}column {name!r}",
                    found=f"it has: {others}",
                )
                self._refuse_column(name, refusal)
            else:
                places.append(found.index(name))
        self._require_columns()
        return places

    def _renamed(self, found: Sequence[str]) -> list[str]:
        return [self._rename.get(name, name) for name in found]

    def _refuse_column(self, name: str, refusal: RatlsError) -> None:
        """Raises: `refusal`, at once or, in a survey, by `_require_columns`."""
        if self._survey is None:
            raise refusal
        self._survey.refuse_column(name, refusal)

    def _require_columns(self) -> None:
        if self._survey is not None:
            self._survey.require_columns()

    def _column(
        self,
        name: str,
        rows_before: int,
        length: int,
        build: Callable[[slice], pa.Array | None],
        misfit: Callable[[int], ColumnTypeDiffers],
        present: Callable[[slice], pa.Array],
    ) -> pa.Array:
        """What `build` makes of all values; None refuses, with `misfit` of the first such place.

        `present` says which of them are not null, whatever else they are.
        """
        array = build(slice(0, length))
        if array is not None:
            return array
        if self._survey is not None:
            type_, place = self._schema.field(name).type, (self._name, name)
            return self._survey.fitting(place, rows_before, length, build, misfit, type_, present)
        low, high = 0, length  # the first value that does not fit is in here
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if build(slice(low, middle)) is None else (middle, high)
        raise misfit(low)

    def _rows(self, checked: bool) -> Iterator[pa.RecordBatch]:
        """Every row, in batches fit to be sent, held against the policy unless that was done."""
        rows = 0
        for batch in _resize(self._looked_at(), self._name):
            if self._survey is None and not checked:
                with placed(self._name):
                    self._check(batch, rows_before=rows, validated=self.validated)
            yield batch
            rows += batch.num_rows

    def _looked_at(self) -> Iterator[pa.RecordBatch]:
        """The batches as they were read. A survey notes what is wrong in each before the next one
        is read: a file may be cut there."""
        rows = 0
        for batch in self._declared():
            if self._survey is not None:
                self._survey.look(self._name, batch, rows, self.validated)
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
        return chain.from_iterable(source._declared() for source in self._sources)

    def _rows(self, checked: bool) -> Iterator[pa.RecordBatch]:
        """Each checked by its own source, so that a refusal names file and row."""
        each = chain.from_iterable(source._rows(checked) for source in self._sources)
        return _resize(each, self._name)

    def found_columns(self) -> list[tuple[str, pa.DataType | None]]:
        return self._sources[0].found_columns()

    def _told_rows(self) -> int | None:
        told = [source._told_rows() for source in self._sources]
        return None if None in told else sum(rows for rows in told if rows is not None)

    def identity(self) -> tuple[FileIdentity, ...] | None:
        each = [source.identity() for source in self._sources]
        return None if None in each else tuple(chain.from_iterable(i for i in each if i))

    def _require_unchanged(self) -> None:
        self._require_same_parts()
        for source in self._sources:
            source._require_unchanged()

    def _require_one_state(self) -> None:
        for source in self._sources:
            source._require_one_state()


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
