"""Hold a whole source against a dataset of a policy: every fault at once, and nothing connected to.

    found = full_check(spec, dataset, needed={"train": 100})
    found.checked        # rows, batches and bytes, where nothing is wrong
    found.faults         # otherwise: column, rule, how many rows, the first of them; never a cell

A good source is read once, as for a release. Only where that refuses, a second reading collects
what else is wrong (`sources.survey`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from policy.errors import InvalidDataError, SchemaError
from provider.errors import SourceError
from provider.sources.base import SourceTooLong
from provider.sources.survey import Survey, Tally
from provider.stamps import Checked, Stamps, check_source
from verifier.errors import RatlsError

if TYPE_CHECKING:
    from policy.sections import Dataset
    from provider.sources import SourceSpec

Progress = Callable[[int, int | None], None]


class PersonsTooFew(InvalidDataError):
    """The source has fewer distinct persons than a computation asks of each input."""

    code = "persons-too-few"
    default_fix = "release rows of more persons, or agree on a lower min_subjects_per_input"
    says = "{thing} needs {expected}; the source has {found}"


@dataclass(frozen=True, slots=True)
class SourceFault:
    """One thing that is wrong."""

    code: str
    source: str
    column: str | None
    sentence: str
    fix: str
    count: int | None = None  #    rows that it is about; None where it is about none
    at_least: bool = False  #      there are more, which were not counted
    rows: tuple[int, ...] = ()  #  the first of them, from 1 on

    def __str__(self) -> str:
        return f"[{self.code}] {self.sentence}"

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "source": self.source,
            "column": self.column,
            "rows": self.count,
            "at_least": self.at_least,
            "first_rows": list(self.rows),
            "message": self.sentence,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a complete check found."""

    rows: int | None  #     read; None where the source could not be read to its end
    persons: int | None  #  distinct; None where they could not be counted
    needed: Mapping[str, int]  # persons that each computation asks of this input
    checked: Checked | None  # None where something is wrong
    faults: tuple[SourceFault, ...]
    refusal: RatlsError | None  # that a release would end with


class _Persons:
    """Counts the distinct values of the subject. Two in 2**64 may be taken for one."""

    def __init__(self, subject: str) -> None:
        self._subject, self._seen, self.complete = subject, set[int](), False
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        if self._subject in batch.schema.names:
            self.complete = True
            ids = pc.unique(batch.column(self._subject)).drop_null()
            self._seen.update(map(hash, ids.to_pylist()))

    @property
    def count(self) -> int | None:
        return len(self._seen) if self.complete else None


def full_check(
    spec: SourceSpec,
    dataset: Dataset,
    needed: Mapping[str, int],
    *,
    stamps: Stamps | None = None,
    progress: Progress = lambda rows, total: None,
) -> Found:
    """Check every row, and list all that is wrong.

    Args:
        needed: Persons that each computation asks of this input, by its id: `dry_run.Wanted`.
        stamps: Where a note of a good source is kept; None keeps none.

    Raises:
        SourceUnavailable, ConfigError: It cannot be read just now, or the table says nonsense.
    """
    persons = _Persons(dataset.subject)
    try:
        with spec.open(dataset) as source:
            checked = check_source(source, stamps, dataset, progress, look=persons.add)
    except (SourceError, SchemaError, InvalidDataError) as refusal:
        return _all_faults(spec, dataset, needed, refusal)
    faults = _too_few(dataset, persons.count, needed)
    first = next(iter(faults), None)
    return Found(
        checked.rows, persons.count, needed, None if faults else checked, _faults(faults), first
    )


def _all_faults(
    spec: SourceSpec, dataset: Dataset, needed: Mapping[str, int], first: RatlsError
) -> Found:
    """A second reading: of the columns that can be read."""
    unreadable: dict[str, RatlsError] = {}
    while True:
        survey, persons = Survey(dataset, frozenset(unreadable)), _Persons(dataset.subject)
        ended = _read(spec, survey, persons) if survey.columns else None
        if not survey.unreadable.keys() - unreadable.keys():
            break
        unreadable |= survey.unreadable
    faults = [_fault(refusal, column=name) for name, refusal in unreadable.items()]
    faults += [_tallied(tally, dataset) for tally in survey.tallies(ended=ended is None)]
    if ended is not None:
        faults.append(_fault(ended))
    complete = ended is None and bool(survey.columns)
    too_few: list[RatlsError] = []
    if complete and persons.rows > dataset.max_rows:
        name = f"dataset {dataset.id}"
        too_few.append(SourceTooLong(name, expected=str(dataset.max_rows), found="more"))
    if complete and persons.rows:
        too_few += _too_few(dataset, persons.count, needed)
    faults += _faults(too_few)
    # Nothing found: the source is another one by now. Then the first refusal stands.
    faults = faults or [_fault(first)]
    rows = persons.rows if complete else None
    counted = persons.count if complete else None
    return Found(rows, counted, needed, None, tuple(faults), first)


def _read(spec: SourceSpec, survey: Survey, persons: _Persons) -> RatlsError | None:
    """Read to the end; what ended it before, other than a column that is noted."""
    try:
        with spec.open(survey.asked()) as source, closing(source.surveyed()) as batches:
            for batch in batches:
                persons.add(batch)
    except (SourceError, SchemaError, InvalidDataError) as refusal:
        return None if refusal in survey.unreadable.values() else refusal
    return None


def _too_few(dataset: Dataset, persons: int | None, needed: Mapping[str, int]) -> list[RatlsError]:
    if persons is None:
        return []
    return [
        PersonsTooFew(
            f"computation {name}",
            expected=f"{least:,} distinct persons of {dataset.id}",
            found=f"{persons:,}",
        )
        for name, least in needed.items()
        if persons < least
    ]


def _faults(refusals: list[RatlsError]) -> tuple[SourceFault, ...]:
    return tuple(_fault(refusal) for refusal in refusals)


def _fault(refusal: RatlsError, column: str | None = None) -> SourceFault:
    return SourceFault(refusal.code, refusal.thing, column, str(refusal), refusal.fix)


def _tallied(tally: Tally, dataset: Dataset) -> SourceFault:
    listed = ", ".join(map(str, tally.rows))
    others = tally.count - len(tally.rows)
    if others or tally.more:
        listed += f" and {'at least ' if tally.more else ''}{others:,} more"
    rule = tally.expected
    if issubclass(tally.leaf, SchemaError):
        rule = f"be {rule}"
    word = "row" if tally.count == 1 else "rows"
    place = f"{tally.source}, column {tally.column!r}"
    return SourceFault(
        tally.leaf.code,
        tally.source,
        tally.column,
        f"{place}: {word} {listed} must {rule}",
        tally.fix,
        tally.count,
        tally.more,
        tuple(tally.rows),
    )
