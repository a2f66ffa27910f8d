"""Write an appraisal while its checks run.

    log = AppraisalLog(QuoteCheck)
    with log.check(QuoteCheck.PCK_CHAIN) as note:
        note("serial 6af3…, issued by Intel SGX PCK Processor CA")
    appraisal = log.close()

`close` finishes only when every member of the enumeration was run, so a deleted block or a
stray `return` becomes a crash and never an acceptance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar

from verifier.appraisal import Appraisal, CheckRecord, Outcome
from verifier.errors import RatlsError

P = ParamSpec("P")


class Appraised(Protocol):
    """A decision with its own appraisal."""

    @property
    def appraisal(self) -> Appraisal: ...


A = TypeVar("A", bound=Appraised)


_PASSED, _NOT_REACHED = Outcome.PASSED, Outcome.NOT_REACHED


class AppraisalLog:
    """Collects the outcome of each of these checks, in their order."""

    __slots__ = ("_before", "_detail", "_done", "_due", "_expected", "note")

    def __init__(self, checks: Iterable[StrEnum], before: Appraisal | None = None) -> None:
        self._expected: tuple[StrEnum, ...] = tuple(checks)
        self._due = (*self._expected, None)  # by how many are done
        self._done: list[CheckRecord] = []
        self._before = before.records if before else ()
        self._detail = ""
        self.note: Callable[[str], None] = self._note

    def _note(self, text: str) -> None:
        self._detail = f"{self._detail}; {text}" if self._detail else text

    def check(self, check: StrEnum) -> AppraisalLog:
        """Run one check: `with log.check(…) as note`; `note` takes a detail for the reader."""
        if check is not self._due[len(self._done)]:
            raise AssertionError(f"check {check} ran out of turn: {self._expected}")
        self._detail = ""
        return self

    def __enter__(self) -> Callable[[str], None]:
        return self.note

    def __exit__(
        self,
        kind: type[BaseException] | None,
        refusal: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        check = self._expected[len(self._done)]
        if refusal is None:
            self._done.append(CheckRecord(check, _PASSED, self._detail))
        # A refusal from a nested appraisal keeps its own, finer record.
        elif isinstance(refusal, RatlsError) and refusal.appraisal is None:
            self._done.append(CheckRecord(check, Outcome.FAILED, str(refusal)))
            refusal.check = check.value
            refusal.appraisal = self._record()

    def include(self, decide: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> A:
        """Run several checks of this log as one decision, which records them itself."""
        try:
            decision = decide(*args, **kwargs)
        except RatlsError as refusal:
            if refusal.appraisal is not None:
                reached = refusal.appraisal.records
                self._done += [r for r in reached if r.outcome is not _NOT_REACHED]
                refusal.appraisal = self._record()
            raise
        self._done += decision.appraisal.records
        return decision

    def _record(self) -> Appraisal:
        rest = [CheckRecord(c, _NOT_REACHED) for c in self._expected[len(self._done) :]]
        return Appraisal((*self._before, *self._done, *rest))

    def close(self) -> Appraisal:
        """The finished appraisal. AssertionError, a bug, unless exactly these checks passed."""
        done = tuple([record.check for record in self._done if record.outcome is _PASSED])
        if done != self._expected:
            raise AssertionError(f"checks passed: {done}; due were {self._expected}")
        return self._record()
