"""A state folder that lost files gets back exactly what its journal names, and nothing else.

    found = repair(state, [raw])   # agreements and withdrawals from other parties
    require_repaired(found)        # found[0].file, found[0].outcome

The journal itself cannot be made again: it alone knows what was released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from policy.agreement import Agreement
from policy.document import digest_text
from policy.envelope import Envelope
from policy.journal import Journal
from policy.state import StateCorrupt, StateMissing, StudyState
from policy.withdrawal import Withdrawal
from verifier.errors import RatlsError
from verifier.files import FileUnreadable

Outcome = Literal["good", "restored", "missing", "damaged", "unknown to the journal"]


@dataclass(frozen=True, slots=True)
class Mended:
    """One file of the folder, and what became of it."""

    file: str
    outcome: Outcome


def exported(state: StudyState, study: str) -> Agreement:
    """What was accepted, with the withdrawals that are known here, as others can accept it.

    Raises: StateMissing, and what `StudyState.stored` and `withdrawals` raise.
    """
    stored = state.require(study)
    agreement, policies = stored.agreement, [v.policy for v in stored.agreement.versions]
    known = [w.envelope for w in agreement.withdrawals]
    added = [w for w in state.withdrawals(study) if w not in known]
    # One that covers versions beyond these is for others to send.
    return Agreement.from_envelopes(
        [v.envelope for v in agreement.versions],
        state.roots,
        [*known, *(w for w in added if _covers_at_most(w, len(policies)))],
    )


def _covers_at_most(envelope: Envelope, versions: int) -> bool:
    return Withdrawal.version_of(envelope) <= versions


def repair(state: StudyState, offered: Sequence[bytes]) -> list[Mended]:
    """Restore what is missing or damaged from what was offered. Files that are good stay.

    Raises: AuditError, StateCopied (the journal is not to be mended here); what reading the
        offered files raises; FileNotWritten, LockHeld, LocksMissing.
    """
    with Journal.open(state.root):
        pass  # cuts off the line that a crash left unfinished
    agreements, withdrawals = _read(offered, state.roots)
    found = []
    for study in state.studies():
        found.append(_study(state, study, agreements))
    for (study, party), entry in state.standing().withdrawn.items():
        path = state.withdrawal_path(study, party)
        outcome = _withdrawal_outcome(state, study, party, entry.withdrawal)
        raw = withdrawals.get(entry.withdrawal)
        stored = state.stored(study) if raw is not None else None
        if outcome != "good" and raw is not None and stored is not None:
            Withdrawal.open(raw, [v.policy for v in stored.agreement.versions])
            state.restore(path, raw)
            outcome = "restored"
        found.append(Mended(str(path), outcome))
    return found


def _study(state: StudyState, study: str, agreements: Sequence[Agreement]) -> Mended:
    path, entry = state.path(study), state.standing().accepted.get(study)
    if entry is None:
        return Mended(str(path), "unknown to the journal")
    outcome: Outcome = "good"
    try:
        state.stored(study)
    except StateMissing:
        outcome = "missing"
    except (StateCorrupt, FileUnreadable):
        outcome = "damaged"
    if outcome == "good":
        return Mended(str(path), outcome)
    for agreement in agreements:
        versions = agreement.versions[: entry.version]
        if digest_text(versions[-1].policy.digest) != entry.policy:
            continue
        kept = tuple(w for w in agreement.withdrawals if w.document.version <= len(versions))
        complete = replace(agreement, versions=versions, withdrawals=kept).require_complete()
        state.restore(path, complete.agreement.encode())
        return Mended(str(path), "restored")
    return Mended(str(path), outcome)


def _withdrawal_outcome(state: StudyState, study: str, party: str, digest: str) -> Outcome:
    path = state.withdrawal_path(study, party)
    try:
        if not path.exists():
            return "missing"
        kept = Withdrawal.digest_of(path.read_bytes())
    except (RatlsError, OSError):
        return "damaged"
    return "good" if digest_text(kept) == digest else "damaged"


def _read(
    offered: Sequence[bytes], roots: frozenset[str]
) -> tuple[list[Agreement], dict[str, bytes]]:
    """Agreements, and withdrawals by digest. Raises: what reading them raises."""
    agreements: list[Agreement] = []
    withdrawals: dict[str, bytes] = {}
    for raw in offered:
        if b'"payloadType"' in raw and b'"versions"' not in raw:
            withdrawals[digest_text(Withdrawal.digest_of(raw))] = raw
            continue
        agreement = Agreement.parse(raw, roots)
        agreements.append(agreement)
        for signed in agreement.withdrawals:
            withdrawals[digest_text(signed.document.digest)] = signed.envelope.encode()
    return agreements, withdrawals


def require_repaired(found: Sequence[Mended]) -> None:
    """Everything that the journal names is there. Raises: StateMissing, StateCorrupt."""
    for mended in found:
        if mended.outcome == "missing":
            raise StateMissing(
                mended.file,
                expected="what the journal names",
                found="no file",
                fix="run `ratls policy state export` where it is whole, and repair from that file",
            )
        if mended.outcome in ("damaged", "unknown to the journal"):
            raise StateCorrupt(mended.file, expected="what the journal names", found=mended.outcome)
