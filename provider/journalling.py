"""Records refusals in the journal where they happen, so that no caller can forget it.

A repeated refusal is recorded once: repeating a task must not fill the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from policy.document import digest_text
from policy.errors import AuditError
from policy.journal import Journal, StateCopied, has_begun
from policy.journal_chain import JournalRecord
from policy.journal_entries import Entry, RefusedEntry, Step, outcomes
from verifier.anchors import Mode
from verifier.errors import RatlsError


class Journalling:
    """What is known so far about one release or collection, for its record in the journal."""

    def __init__(
        self,
        folder: Path,
        action: Literal["release", "collect"],
        clock: Callable[[], datetime],
        dataset: str | None = None,
    ) -> None:
        self._folder, self._action, self._clock = folder, action, clock
        self._dataset = dataset
        self.task: bytes | None = None
        self.mode: Mode | None = None
        self.step: Step = "local"
        self.rows: int | None = None  # that have left

    @contextmanager
    def refusals_recorded(self) -> Iterator[None]:
        """A refusal inside leaves a record with its code and the names of the checks.

        Raises:
            AuditError: The record could not be made; the refusal is its cause.
        """
        try:
            yield
        except (AuditError, StateCopied):
            raise  # the journal itself is damaged: nothing can be recorded
        except RatlsError as refusal:
            # Without an accepted policy there is no journal; the refusal is StateMissing.
            if has_begun(self._folder):
                entry = self._refusal(refusal)
                with self.journal() as journal:
                    if not _stands(journal.records, entry):
                        journal.append(entry, self._clock())
            raise

    def record(self, entry: Entry) -> None:
        """Append one record; durable when this returns."""
        with self.journal() as journal:
            journal.append(entry, self._clock())

    def journal(self) -> AbstractContextManager[Journal]:
        """The locked journal, for a decision and its record in one step."""
        return Journal.open(self._folder)

    def _refusal(self, refusal: RatlsError) -> RefusedEntry:
        return RefusedEntry(
            action=self._action,
            task=None if self.task is None else digest_text(self.task),
            dataset=self._dataset,
            code=refusal.code,
            check=refusal.check,
            checks=outcomes(refusal.appraisal),
            mode=None if self.mode is None else self.mode.value,
            step=self.step,
            rows=self.rows,
        )


def _stands(records: tuple[JournalRecord, ...], refusal: RefusedEntry) -> bool:
    """Is this the last that was recorded about this task and dataset?"""
    about = (refusal.task, refusal.dataset)
    for record in reversed(records):
        entry = record.entry
        if (getattr(entry, "task", None), getattr(entry, "dataset", None)) == about:
            return entry == refusal
    return False
