"""The record of an appraisal: each check that ran, the one that failed, those not reached.

    log = AppraisalLog(QuoteCheck)
    with log.check(QuoteCheck.PCK_CHAIN) as note:
        note("serial 6af3…, issued by Intel SGX PCK Processor CA")
    appraisal = log.close()

`close` finishes only when every member of the enumeration was run, so a deleted block or a
stray `return` becomes a crash and never an acceptance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from verifier.errors import RatlsError


class Outcome(StrEnum):
    """What became of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """One line of an appraisal."""

    check: str
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
            {"check": r.check, "outcome": r.outcome.value, "detail": r.detail} for r in self.records
        ]


class AppraisalLog:
    """Collects the outcome of each member of one enumeration of checks, in its order."""

    def __init__(self, checks: type[StrEnum], before: Appraisal | None = None) -> None:
        self._expected: tuple[StrEnum, ...] = tuple(checks)
        self._done: list[CheckRecord] = []
        self._before = before or Appraisal()

    @contextmanager
    def check(self, check: StrEnum) -> Iterator[Callable[[str], None]]:
        """Run one check; the value is a function that notes a detail for the reader."""
        due = self._expected[len(self._done)] if len(self._done) < len(self._expected) else None
        if check is not due:
            raise AssertionError(f"check {check} ran where {due} was due")
        details: list[str] = []
        try:
            yield details.append
        except RatlsError as refusal:
            # A refusal from a nested appraisal keeps its own, finer record.
            if refusal.appraisal is None:
                self._done.append(CheckRecord(check.value, Outcome.FAILED, str(refusal)))
                refusal.check = check.value
                refusal.appraisal = self._record()
            raise
        self._done.append(CheckRecord(check.value, Outcome.PASSED, "; ".join(details)))

    def _record(self) -> Appraisal:
        rest = tuple(
            CheckRecord(c.value, Outcome.NOT_REACHED) for c in self._expected[len(self._done) :]
        )
        return self._before + Appraisal(tuple(self._done) + rest)

    def close(self) -> Appraisal:
        """The finished appraisal. AssertionError, a bug, when a check was left out."""
        if len(self._done) != len(self._expected):
            raise AssertionError(f"checks left out: {self._expected[len(self._done) :]}")
        return self._record()
