"""Two verifiers, one question, one form of answer: ours, and the package `dcap-qvl`.

    question = Question(quote, bundle, root, at)
    compare(question, peer).outcome  # Outcome.BOTH, NEITHER, ONLY_THERE, ONLY_HERE, …

Where they differ, `divergences` knows why, by name, or nobody does.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from tests.differential.divergences import ACCEPTED_HERE, ACCEPTED_THERE, OTHER_VERDICT, Divergence
from tests.differential.peer import Peer
from tests.differential.question import Answer, Question
from verifier.acceptance import accept
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.tcb import TcbStatus
from verifier.verify import verify_quote

# What the other verifier answers with: all but one. Their callers look at the status.
ANSWERED = frozenset(TcbStatus) - {TcbStatus.REVOKED}


class Outcome(StrEnum):
    """How the two answers stand to each other. The last two are violations unless named."""

    BOTH = "accepted by both, same verdict"
    NEITHER = "refused by both"
    ONLY_THERE = "accepted there, refused here"
    OTHER_VERDICT = "accepted by both, other verdict"
    ONLY_HERE = "accepted here, refused there"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both answers, and the divergence that explains them where they differ."""

    ours: Answer
    theirs: Answer
    outcome: Outcome
    divergence: Divergence | None

    @property
    def violation(self) -> bool:
        """Accepted, or believed in another way, where the other verifier has a reason not to."""
        unexplained = self.outcome in (Outcome.ONLY_HERE, Outcome.OTHER_VERDICT)
        return (unexplained and self.divergence is None) or self.ours.crashed


def compare(question: Question, peer: Peer) -> Comparison:
    """Ask both. Never raises: an exception that is no refusal is an answer too, and a violation."""
    peer.ask(question)
    ours = answer_here(question)
    theirs = peer.answer()
    if not ours.accepted and not theirs.accepted:
        return Comparison(ours, theirs, Outcome.NEITHER, None)
    if not ours.accepted:
        outcome, known = Outcome.ONLY_THERE, ACCEPTED_THERE
    elif not theirs.accepted:
        outcome, known = Outcome.ONLY_HERE, ACCEPTED_HERE
    elif ours.verdict == theirs.verdict:
        return Comparison(ours, theirs, Outcome.BOTH, None)
    else:
        outcome, known = Outcome.OTHER_VERDICT, OTHER_VERDICT
    named = (d for d in known if _recognised(d, question, ours, theirs))
    return Comparison(ours, theirs, outcome, next(named, None))


def _recognised(known: Divergence, question: Question, ours: Answer, theirs: Answer) -> bool:
    try:
        return known.recognises(question, ours, theirs)
    except (ValueError, LookupError, TypeError, AttributeError, RatlsError):
        return False  # the part that it looks at cannot be read: nothing is explained


def answer_here(question: Question) -> Answer:
    """`verify_quote`, then `accept` for every status that the other verifier answers with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # whoever runs with -W error must see refusals too
            verified = verify_quote(
                question.quote,
                Collateral.parse(question.bundle),
                roots=question.root.anchors,
                at=datetime.fromtimestamp(question.at, UTC),
            )
            accept(verified, statuses=ANSWERED, advisories=frozenset(verified.tcb.advisory_ids))
    except RatlsError as refusal:
        return Answer(False, refusal.code)
    except Exception as error:  # noqa: BLE001 - any of them is a finding, not the end of a run
        return Answer(False, f"{type(error).__name__}: {error}", crashed=True)
    tcb = verified.tcb
    return Answer(True, str(tcb.status), advisories=frozenset(tcb.advisory_ids), verified=verified)
