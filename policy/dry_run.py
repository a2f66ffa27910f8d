"""How recorded quotes and tasks fare under a new version of a policy, and under the old one.

    before, now = (quote_outcome(received, bundles, policy) for policy in (old, new))
    Fare("quote.bin", "quote", before, now).changed
    before, now = task_outcomes(raw_task, (old, new))

Nothing is released or signed by it. Both versions are judged as if they were in force: whether one
is over, or has not begun, is no question of what it allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from policy.admission import admit
from policy.document import Policy
from policy.task import Task, open_task
from verifier.appraisal import Appraisal
from verifier.bundles import Bundles
from verifier.errors import Exit, RatlsError
from verifier.received import ReceivedQuote
from verifier.report import report_quote
from verifier.text import printable
from verifier.verify import VerifiedQuote

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer under one version."""

    word: str  #         accepted, refused, undecided, not genuine, unusable
    code: str = ""  #    of the refusal
    says: str = ""  #    in one line

    @classmethod
    def of(cls, refusal: RatlsError | None) -> Outcome:
        if refusal is None:
            return cls("accepted")
        word = "refused" if refusal.exit_status is Exit.NOT_ADMITTED else refusal.exit_status.word
        return cls(word, refusal.code, printable(refusal.sentence()))

    def __str__(self) -> str:
        return self.word if not self.code else f"{self.word} [{self.code}] {self.says}"

    def as_json(self) -> dict[str, str]:
        return {"outcome": self.word, "code": self.code, "says": self.says}


@dataclass(frozen=True, slots=True)
class Fare:
    """One recorded quote or task under both versions."""

    file: str
    kind: Literal["quote", "task"]
    old: Outcome | None  # None: there is no old version
    new: Outcome

    @property
    def changed(self) -> bool:
        return self.old is not None and (self.old.word, self.old.code) != (
            self.new.word,
            self.new.code,
        )

    @property
    def lines(self) -> tuple[str, ...]:
        if self.old is None or not self.changed:
            same = " (as before)" if self.old is not None else ""
            return (f"{self.kind} {self.file}: {self.new}{same}",)
        return (
            f"{self.kind} {self.file}: CHANGED",
            f"  before: {self.old}",
            f"  now:    {self.new}",
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "kind": self.kind,
            "old": self.old and self.old.as_json(),
            "new": self.new.as_json(),
            "changed": self.changed,
        }


def quote_outcome(received: ReceivedQuote, bundles: Bundles, policy: Policy) -> Outcome:
    """A quote that was read, with the collateral for it, at the instant of the bundles."""
    lasting = replace(policy, not_before=ALWAYS[0], expires=ALWAYS[1])

    def acceptance(verified: VerifiedQuote) -> Appraisal:
        return admit(lasting, verified, at=bundles.at).appraisal

    try:
        collateral = bundles.collateral_for(received)
    except RatlsError as refusal:
        return Outcome.of(refusal)
    report = report_quote(
        received,
        collateral,
        file="",
        roots=bundles.roots,
        at=bundles.at,
        acceptance=acceptance,
    )
    return Outcome.of(report.refusal)


def task_outcomes(raw: bytes, versions: Sequence[Policy]) -> tuple[Outcome, ...]:
    """What each version says of a task that was signed under one of them.

    The signature is checked under the version that the task names; under the others, whether its
    submitter could sign the same request. Its own window is not asked: it is recorded, so over.
    """
    named: list[Policy] = []

    def policy_for(task: Any) -> Policy:
        named.extend(p for p in versions if p.digest == task.policy_digest)
        return named[0] if named else versions[-1]  # which refuses: another digest

    try:
        task, _ = open_task(raw, policy_for, None)
    except RatlsError as refusal:
        return (Outcome.of(refusal),) * len(versions)
    return tuple(_same_request(task, policy) for policy in versions)


def _same_request(task: Task, policy: Policy) -> Outcome:
    lasting = replace(policy, not_before=ALWAYS[0], expires=ALWAYS[1])
    given, at = task.parameters, task.issued_at
    try:
        Task.new(lasting, task.computation, task.submitter, at=at, parameters=given)
    except RatlsError as refusal:
        return Outcome.of(refusal)
    return Outcome.of(None)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What somebody kept: quotes by file with the collateral of their time, and signed tasks."""

    quotes: Sequence[tuple[str, ReceivedQuote | RatlsError]] = ()
    tasks: Sequence[tuple[str, bytes]] = ()

    def fares(
        self,
        old: Policy | None,
        new: Policy,
        bundles: Callable[[Policy], Bundles],
    ) -> tuple[Fare, ...]:
        """Each under both versions, those that change first."""
        versions = [new] if old is None else [old, new]
        found = []
        if self.quotes:
            judged = {p.digest: bundles(p) for p in versions}
            for file, received in self.quotes:
                outcomes = tuple(
                    Outcome.of(received)
                    if isinstance(received, RatlsError)
                    else quote_outcome(received, judged[p.digest], p)
                    for p in versions
                )
                found.append(_fare(file, "quote", outcomes))
        for file, raw in self.tasks:
            found.append(_fare(file, "task", task_outcomes(raw, versions)))
        return tuple(sorted(found, key=lambda fare: not fare.changed))


def _fare(file: str, kind: Literal["quote", "task"], outcomes: tuple[Outcome, ...]) -> Fare:
    return Fare(file, kind, outcomes[0] if len(outcomes) > 1 else None, outcomes[-1])
