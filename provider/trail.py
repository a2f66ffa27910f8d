"""Refusals are journalled where they happen, so that none depends on a caller to remember it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from policy.document import digest_text
from provider.errors import AuditError
from provider.journal import Entry, Journal, Refused, outcomes
from verifier.anchors import Mode
from verifier.errors import RatlsError


class Trail:
    """One release or collection, as the journal sees it. It learns `task` and `mode` on the way."""

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

    @contextmanager
    def refusals_recorded(self) -> Iterator[None]:
        """A refusal inside leaves a record with its code and the names of the checks.

        Raises:
            AuditError: The record could not be made; the refusal is its cause.
        """
        try:
            yield
        except AuditError:
            raise  # the journal itself cannot be relied on: there is nowhere to write
        except RatlsError as refusal:
            with Journal.open(self._folder) as journal:
                journal.append(self._refusal(refusal), self._clock())
            raise

    def record(self, entry: Entry) -> None:
        """Append one record; durable when this returns."""
        with Journal.open(self._folder) as journal:
            journal.append(entry, self._clock())

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The journal, held for a decision that must be recorded before anybody else decides."""
        with Journal.open(self._folder) as journal:
            yield journal

    def _refusal(self, refusal: RatlsError) -> Refused:
        return Refused(
            action=self._action,
            task=None if self.task is None else digest_text(self.task),
            dataset=self._dataset,
            code=refusal.code,
            check=refusal.check,
            checks=outcomes(refusal.appraisal),
            mode=None if self.mode is None else self.mode.value,
        )
