"""What the doctor says: one finding for each thing that it looked at, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from verifier.errors import Exit

LOOK = "run the doctor on the machine itself, as a user who may look there"


class Role(Enum):
    """What the machine is for."""

    ENCLAVE = "enclave"
    PROVIDER = "provider"
    VERIFIER = "verifier"


class Outcome(Enum):
    """What a finding means for the role."""

    READY = "ready"
    NOTE = "note"  #            worth knowing; the role does not need it
    UNKNOWN = "unknown"  #      could not be looked at, and is needed
    NOT_READY = "not ready"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was looked at, what a ready machine has, what was there, what mends it."""

    check: str  #  a fixed name, for programs
    what: str
    outcome: Outcome
    expected: str
    found: str
    fix: str = ""  # of a ready one: none

    def as_json(self) -> dict[str, str]:
        """One element of `findings` in the command's JSON."""
        return {
            "check": self.check,
            "what": self.what,
            "outcome": self.outcome.value,
            "expected": self.expected,
            "found": self.found,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """A row before its answer: makes each of its four findings."""

    check: str
    what: str
    expected: str
    fix: str

    def ready(self, found: str) -> Finding:
        """As it should be."""
        return Finding(self.check, self.what, Outcome.READY, self.expected, found)

    def not_ready(self, found: str, fix: str | None = None) -> Finding:
        """It is not, and the role cannot do without."""
        return self._with(Outcome.NOT_READY, found, fix)

    def unknown(self, found: str, fix: str | None = None) -> Finding:
        """It could not be looked at: never taken for ready."""
        return self._with(Outcome.UNKNOWN, found, LOOK if fix is None else fix)

    def note(self, found: str, fix: str | None = None) -> Finding:
        """It is not, and the role can do without."""
        return self._with(Outcome.NOTE, found, fix)

    def judged(self, good: bool, found: str, fix: str | None = None) -> Finding:
        """Ready, or not."""
        return self.ready(found) if good else self.not_ready(found, fix)

    def _with(self, outcome: Outcome, found: str, fix: str | None) -> Finding:
        remedy = self.fix if fix is None else fix
        return Finding(self.check, self.what, outcome, self.expected, found, remedy)


def verdict(findings: Iterable[Finding]) -> Exit:
    """0 ready, 6 not ready, 5 could not tell: what is known to be missing counts first."""
    outcomes = {finding.outcome for finding in findings}
    if Outcome.NOT_READY in outcomes:
        return Exit.NOT_ADMITTED
    if Outcome.UNKNOWN in outcomes or not outcomes:
        return Exit.UNDECIDED
    return Exit.YES
