"""The record of a decision: each check that ran, the one that failed, those not reached.

Data alone; `verifier.appraisal_log` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What became of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


class CheckRecord(NamedTuple):
    """One line of an appraisal."""

    check: str  # a member of the enumeration of checks that it belongs to
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """All checks of one decision, in the order in which they ran."""

    records: tuple[CheckRecord, ...] = ()

    def __add__(self, later: Appraisal) -> Appraisal:
        return Appraisal(self.records + later.records)

    @property
    def stopped_at(self) -> str | None:
        """Name of the check that failed; None when all passed."""
        return next((r.check for r in self.records if r.outcome is Outcome.FAILED), None)

    def as_json(self) -> list[dict[str, str]]:
        """The `checks` member of the commands' JSON."""
        return [
            {"check": str(r.check), "outcome": r.outcome.value, "detail": r.detail}
            for r in self.records
        ]
