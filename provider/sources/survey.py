"""All that is wrong with a source, where a check ends at the first row that is.

    survey = Survey(dataset)
    with spec.open(survey.asked()) as source:      # the same code as of a check and a release
        for batch in source.batches(): ...         # what is wrong is noted, and refuses nothing
    survey.tallies()                               # per column and rule: how many rows, and which

Nothing that was read so is ever sent: only `provider.full_check` and `provider.describe` ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from policy.rows import BatchCheck, ValueNull
from policy.sections import Column, Dataset
from verifier.errors import RatlsError

_NAMED = 5  # rows of each kind
# Of values that are not of their column's type. To find each takes several readings of its piece;
# where nearly all are wrong, a thousand say enough. Then a piece with such a value is null as a
# whole; what other rules its other values break is counted in the pieces that fit. Nulls of the
# source itself are counted everywhere.
_MOST_MISFITS = 1000
_NO_LIMIT = 10**10  # rows: all are counted, then compared with `max_rows`


@dataclass(slots=True)
class Tally:
    """Rows that break one rule."""

    source: str  #     the file, as refusals name it
    column: str | None
    leaf: type[RatlsError]
    expected: str
    fix: str
    found: str = ""  # where it is about no rows
    count: int = 0
    more: bool = False  # there are others, which were not counted
    rows: list[int] = field(default_factory=list)  # the first of them, from 1 on

    def add(self, rows: list[int]) -> None:
        self.count += len(rows)
        self.rows = sorted(self.rows + rows)[:_NAMED]


class Survey:
    """Notes of one reading; several threads write them."""

    def __init__(
        self, dataset: Dataset, without: frozenset[str] = frozenset(), *, guessed: bool = False
    ) -> None:
        """
        Args:
            without: Columns that are known to be unreadable.
            guessed: The columns are a guess: a source may give other ones their names.
        """
        self.dataset, self.guessed = dataset, guessed
        self.columns: Mapping[str, Column] = {
            name: column for name, column in dataset.columns.items() if name not in without
        }
        self.unreadable: dict[str, RatlsError] = {}
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._misfits: dict[tuple[str, str], set[int]] = {}
        # Of pieces that are null as a whole: rows before, and which values were not null.
        self._unread: dict[tuple[str, str], list[tuple[int, pa.Array]]] = {}
        self._lock = threading.Lock()
        self._check: BatchCheck | None = None

    def asked(self) -> Surveyed:
        """The dataset to open a source with."""
        told = dict(self.dataset) | {"columns": self.columns, "max_rows": _NO_LIMIT}
        asked = Surveyed.model_construct(**told, survey=self)
        self._check = BatchCheck(asked)
        return asked

    def refuse_column(self, name: str, refusal: RatlsError) -> None:
        """A column is missing, there twice, or of another type: the first refusal of each."""
        self.unreadable.setdefault(name, refusal)

    def require_columns(self) -> None:
        """Raises: What was noted about a column first."""
        for refusal in self.unreadable.values():
            raise refusal

    def fitting(
        self,
        place: tuple[str, str],
        rows_before: int,
        length: int,
        build: Callable[[slice], pa.Array | None],
        misfit: Callable[[int], RatlsError],
        type_: pa.DataType,
        present: Callable[[slice], pa.Array],
    ) -> pa.Array:
        """All values that fit; null in place of each other one, which is noted.

        Args:
            place: Source and column.
        """
        with self._lock:
            misfits = self._misfits.setdefault(place, set())

        def parts(low: int, high: int) -> Iterator[pa.Array]:
            array = build(slice(low, high))
            if array is not None:
                yield array
            elif len(misfits) >= _MOST_MISFITS:
                self._tally(place, misfit(low), [], more=True)
                left = (rows_before + low, present(slice(low, high)))
                with self._lock:
                    self._unread.setdefault(place, []).append(left)
                yield pa.nulls(high - low, type_)
            elif high - low == 1:
                misfits.add(rows_before + low + 1)
                self._tally(place, misfit(low), [rows_before + low + 1])
                yield pa.nulls(1, type_)
            else:
                middle = (low + high) // 2
                yield from parts(low, middle)
                yield from parts(middle, high)

        return pa.concat_arrays(list(parts(0, length)))

    def misfitting(self) -> set[str]:
        """Columns with a value that is not of their type."""
        with self._lock:
            return {column for (_, column), rows in self._misfits.items() if rows}

    def look(self, source: str, batch: pa.RecordBatch, rows_before: int, validated: bool) -> None:
        """Note every value that breaks a rule of the policy.

        Raises: RowsMalformed.
        """
        assert self._check is not None  # `asked` came before the source was opened
        for name, leaf, expected, wrong in self._check.faults(batch, validated=validated):
            misfits = self._misfits.get((source, name), set())
            cut = len(misfits) >= _MOST_MISFITS
            if leaf is ValueNull:
                wrong = pc.and_not(wrong, self._replaced((source, name), rows_before, len(wrong)))
                cut = False
            rows = [rows_before + place + 1 for place in pc.indices_nonzero(wrong).to_pylist()]
            rows = [row for row in rows if row not in misfits]
            if rows:
                refusal = leaf(name, expected=expected, found="")
                self._tally((source, name), refusal, rows, more=cut)

    def _replaced(self, place: tuple[str, str], rows_before: int, length: int) -> pa.Array:
        """Which values of a batch are null here, and were not in the source."""
        found = np.zeros(length, dtype=bool)
        with self._lock:  # pieces that other threads have read ahead are in there, too
            pieces = self._unread.pop(place, [])
            ahead = [piece for piece in pieces if piece[0] >= rows_before + length]
            self._unread.setdefault(place, []).extend(ahead)
        for before, present in pieces:
            if rows_before <= before < rows_before + length:
                start = before - rows_before
                found[start : start + len(present)] = present.to_numpy(zero_copy_only=False)
        return pa.array(found)

    def _tally(
        self, place: tuple[str, str], refusal: RatlsError, rows: list[int], *, more: bool = False
    ) -> None:
        source, column = place
        with self._lock:
            tally = self._tallies.setdefault(
                (source, column, refusal.code),
                Tally(source, column, type(refusal), refusal.expected, refusal.fix),
            )
            tally.add(rows)
            tally.more |= more

    def tallies(self, *, ended: bool = True) -> list[Tally]:
        """What was noted about rows, in the order of the dataset's columns.

        Args:
            ended: Was the source read to its end? Otherwise there may be more of each.
        """
        for tally in self._tallies.values():
            tally.more |= not ended
        order = list(self.dataset.columns)
        return sorted(
            self._tallies.values(), key=lambda t: (t.source, order.index(t.column or order[0]))
        )


class Surveyed(Dataset):
    """A dataset whose source is to note what is wrong."""

    survey: Survey
