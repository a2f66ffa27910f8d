"""What this party accepted: one durable file per study, the newest agreement with its chain.

    state = StudyState(folder)
    state.accept(agreement, party, at)                  # the one explicit act that creates it
    state.current("my-study", at)                       # the version in force, or a refusal
    state.find_by_policy_digest(task.policy_digest, at)

Absence is never a first use (S13). A version that is not yet in force is kept, and the one
before it holds until then. What is stored is verified again each time it is read.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from policy.agreement import (
    FILE_CAP,
    Agreement,
    CompleteAgreement,
    require_not_expired,
    require_window,
)
from policy.document import digest_text
from policy.errors import (
    PolicyConflict,
    PolicyNotAccepted,
    PolicyRollback,
    StateCorrupt,
    StateMissing,
)
from policy.party import LocalParty
from policy.text import SLUG
from verifier.errors import FileUnreadable, RatlsError
from verifier.files import locked, own_folder, read_file, write_atomically
from verifier.modes import known_roots

_SUFFIX = ".agreement.json"


class StudyState:
    """Accepted agreements of one party, in `folder`/studies."""

    def __init__(self, folder: Path, roots: frozenset[str] | None = None) -> None:
        self.folder = folder / "studies"
        self._roots = known_roots() if roots is None else roots

    def accept(self, agreement: Agreement, party: LocalParty, at: datetime) -> CompleteAgreement:
        """Take a complete agreement into force, from its `not_before` on.

        Accepting the stored one again changes nothing.

        Raises: what `require_complete` and `require_anchor` raise; PolicyExpired,
            PolicyRollback, PolicyConflict, StateCorrupt, FileNotWritten, LockHeld, LocksMissing.
        """
        complete = agreement.require_complete()
        complete.require_anchor(party)
        require_not_expired(complete.policy, at)
        # One writer at a time: two that accept at once must not both see the old version.
        with own_folder(self.folder.parent, self.folder.name), locked(self.folder / ".lock"):
            stored = self.stored(complete.policy.study)
            if stored is not None:
                _require_successor(complete, stored)
            if stored is None or stored.digest != complete.digest:
                write_atomically(self._path(complete.policy.study), agreement.encode(), mode=0o600)
        return complete

    def stored(self, study: str) -> CompleteAgreement | None:
        """The newest accepted agreement of a study, in force or not; None where there is none.

        Raises: StateCorrupt.
        """
        path = self._path(study)
        if not path.exists():
            return None
        try:
            complete = Agreement.parse(
                read_file(path, cap=FILE_CAP), self._roots
            ).require_complete()
        except FileUnreadable:
            raise
        except RatlsError as refusal:
            raise StateCorrupt(
                str(path), expected="the agreement that was accepted", found=refusal.code
            ) from refusal
        if complete.policy.study != study:
            raise StateCorrupt(str(path), expected=study, found=complete.policy.study)
        return complete

    def current(self, study: str, at: datetime) -> CompleteAgreement:
        """The agreement in force at this instant.

        Raises: StateMissing, StateCorrupt, PolicyExpired, PolicyNotYetValid.
        """
        stored = self.stored(study) if SLUG.fullmatch(study) else None
        if stored is None:
            raise StateMissing(
                f"study {ascii(study)[:80]}", expected="an accepted agreement", found="none"
            )
        return stored.in_force(at)

    def find_by_policy_digest(self, digest: bytes, at: datetime) -> CompleteAgreement:
        """The agreement in force whose policy has this digest.

        Raises: StateMissing (nothing accepted at all), PolicyNotAccepted, PolicyRollback (it was
            followed by a newer one), PolicyNotYetValid, PolicyExpired, StateCorrupt.
        """
        studies = self.studies()
        if not studies:
            raise StateMissing(str(self.folder), expected="an accepted agreement", found="none")
        for study in studies:
            stored = self.stored(study)
            policies = [v.policy for v in stored.agreement.versions] if stored else []
            named = next((p for p in policies if p.digest == digest), None)
            if named is None or stored is None:
                continue
            current = stored.in_force(at)
            if current.digest == digest:
                return current
            require_window(named, at)
            raise PolicyRollback(
                f"policy of {study}",
                expected=f"version {current.policy.version}, which is in force",
                found=f"version {named.version}",
            )
        raise PolicyNotAccepted(
            "policy", expected=f"one accepted for {', '.join(studies)}", found=digest_text(digest)
        )

    def studies(self) -> list[str]:
        """Names of the studies of which an agreement was accepted."""
        names = (p.name.removesuffix(_SUFFIX) for p in self.folder.glob(f"*{_SUFFIX}"))
        return sorted(n for n in names if SLUG.fullmatch(n))

    def _path(self, study: str) -> Path:
        return self.folder / f"{study}{_SUFFIX}"


def _require_successor(offered: CompleteAgreement, stored: CompleteAgreement) -> None:
    """P12, P16: never lower, never another one of the same version, never another history.

    Raises: PolicyRollback, PolicyConflict.
    """
    new, old = offered.agreement.versions, stored.agreement.versions
    study = stored.policy.study
    shared = min(len(new), len(old))
    for i in range(shared):
        if new[i].policy.digest != old[i].policy.digest:
            raise PolicyConflict(
                f"study {study} version {i + 1}",
                expected=digest_text(old[i].policy.digest),
                found=digest_text(new[i].policy.digest),
            )
    if len(new) < len(old):
        raise PolicyRollback(
            f"study {study}", expected=f"version {len(old)} or later", found=f"version {len(new)}"
        )
