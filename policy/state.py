"""What this party accepted: one file per study, with the newest agreement and those before it.

    state = StudyState(folder)
    state.accept(agreement, party, at)                  # nothing else creates a state
    state.current("my-study", at)                       # the version in force, or a refusal
    state.find_by_policy_digest(task.policy_digest, at)
    state.require_taking_part(policy, task.computation, task.submitter)   # nobody has withdrawn
    state.keep_withdrawal(withdrawal, at)               # durable, like a version

The journal names what was accepted, so a file that is missing, older or different is refused
(S13). A version that is not yet in force is kept; until then the version before it is in force.
A stored agreement is verified when it is read; the same bytes once in a process.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path

from policy.agreement import (
    FILE_CAP,
    Agreement,
    CompleteAgreement,
    require_not_expired,
    require_window,
)
from policy.document import Policy, digest_text
from policy.envelope import Envelope
from policy.errors import PolicyConflict, PolicyConflictError, StateError
from policy.journal import Journal, Reading, has_begun, require_place
from policy.journal_entries import AcceptedEntry, DistrustedEntry, WithdrawnEntry
from policy.machines import machines_path
from policy.party import LocalParty
from policy.signing import require_own_signature
from policy.sql_check import require_statements
from policy.standing import Standing
from policy.text import SLUG
from policy.values import Digest
from policy.withdrawal import Withdrawal, require_taking_part
from verifier.errors import RatlsError
from verifier.files import FileUnreadable, own_folder, parse_file, read_file, write_atomically
from verifier.modes import known_roots

_SUFFIX = ".agreement.json"
_AGAIN = "get the agreement of that version from another party, and run `ratls policy accept` on it"


class StateCorrupt(StateError):
    """The stored agreement is not the one that was accepted."""

    code = "state-corrupt"
    default_fix = "restore the state folder from a backup, then compare digests with the others"


class StateMissing(StateError):
    """No agreement of this study was accepted here, or its file is missing."""

    code = "state-missing"
    default_fix = "run `ratls policy accept AGREEMENT`, or name the right --state"


class PolicyRollback(PolicyConflictError):
    """The version is lower than the accepted one, or no longer in force."""

    code = "policy-rollback"
    default_fix = "use the newest agreement"


class PolicyNotAccepted(PolicyConflictError):
    """A document names a policy that this party did not accept."""

    code = "policy-not-accepted"
    default_fix = (
        "compare policy digests with its sender; accept the agreement first if it is right"
    )
    says = "the policy with digest {found} was not accepted here"


@lru_cache(maxsize=4)
def _complete(raw: bytes, roots: frozenset[str]) -> CompleteAgreement:
    """The same bytes are the same agreement: a release asks for it several times."""
    return Agreement.parse(raw, roots).require_complete()


class StudyState:
    """Accepted agreements of one party, in `folder`/studies."""

    def __init__(self, folder: Path, roots: frozenset[str] | None = None) -> None:
        self.root, self.folder = folder, folder / "studies"
        self.roots = known_roots() if roots is None else roots

    def accept(
        self, agreement: Agreement, party: LocalParty, at: datetime, machines: bytes = b""
    ) -> CompleteAgreement:
        """Take a complete agreement into force, from its `not_before` on.

        The first one begins the journal. Accepting the stored one again changes nothing.
        `machines` is the content of the file that the policy names for its fleet, to be kept.

        Raises: what `require_complete` and `require_own_signature` raise; PolicyExpired,
            PolicyRollback, PolicyConflict, Distrusted, PartyWithdrew, FileNotWritten, LockHeld,
            LocksMissing; StatementRefused; AuditError, StateCopied for the content of the folder.
        """
        complete = agreement.require_complete()
        require_own_signature(complete, party)
        require_not_expired(complete.policy, at)
        require_statements(complete.policy)
        study, versions = complete.policy.study, complete.agreement.versions
        keyids = complete.agreement.newest.keyids
        path, raw = self.path(study), agreement.encode()
        accepted = AcceptedEntry(
            study=study, version=len(versions), policy=digest_text(complete.digest)
        )
        # Two processes that accept at once must not both see the old version.
        with Journal.begin(self.root, at) as journal:
            standing = Standing.of(journal.records)
            standing.require_trusted(complete.policy)
            standing.require_return(complete.policy, keyids)
            newest = standing.accepted.get(study)
            if newest is not None:
                require_successor(complete, newest)
            # First the record: after a crash the state asks for this agreement again.
            if newest != accepted:
                journal.append(accepted, at)
            if not path.exists() or read_file(path, cap=FILE_CAP) != raw:
                with own_folder(self.root, self.folder.name):
                    write_atomically(path, raw, mode=0o600)
            for signed in complete.agreement.withdrawals:
                self._keep(journal, signed.document, signed.envelope.encode(), at)
            fleet = machines_path(complete.policy, self.folder)
            if fleet is not None and machines:
                write_atomically(fleet, machines, mode=0o600)
        return complete

    def stored(self, study: str) -> CompleteAgreement | None:
        """The newest accepted agreement of a study, in force or not; None where there is none.

        Raises:
            StateMissing: It was accepted, and its file is gone.
            StateCorrupt: The file holds another one, or an older one, than was accepted.
            AuditError, StateCopied: The journal is damaged, or the folder is a copy.
        """
        newest = self.standing().accepted.get(study)
        path = self.path(study)
        if newest is None and not path.exists():
            return None
        if newest is None:
            raise StateCorrupt(
                str(path), expected="a study that the journal knows", found="another", fix=_AGAIN
            )
        if not path.exists():
            raise StateMissing(str(path), expected=f"version {newest.version}", found="no file")
        try:
            complete = _complete(read_file(path, cap=FILE_CAP), self.roots)
        except FileUnreadable:
            raise
        except RatlsError as refusal:
            raise StateCorrupt(
                str(path), expected="the agreement that was accepted", found=refusal.code
            ) from refusal
        if complete.policy.study != study:
            raise StateCorrupt(str(path), expected=study, found=complete.policy.study)
        if digest_text(complete.digest) != newest.policy:
            raise StateCorrupt(
                str(path),
                expected=f"version {newest.version}, {newest.policy}",
                found=f"version {complete.policy.version}, {digest_text(complete.digest)}",
                fix=_AGAIN,
            )
        return complete

    def accepted_in(self, offered: Agreement) -> Policy | None:
        """The newest accepted version, read from this agreement; None where it does not have it.

        Raises: AuditError, StateCopied.
        """
        newest = self.standing().accepted.get(offered.policy.study)
        policies = [version.policy for version in offered.versions]
        return next(
            (p for p in policies if newest and digest_text(p.digest) == newest.policy), None
        )

    def predecessor_of(self, offered: Agreement) -> Policy | None:
        """What this party accepted last, or the version before in this agreement."""
        stored = self.stored(offered.policy.study)
        if stored is not None:
            return stored.policy
        return offered.versions[-2].policy if len(offered.versions) > 1 else None

    def current(self, study: str, at: datetime) -> CompleteAgreement:
        """The agreement in force at this instant.

        Raises: StateMissing, StateCorrupt, PolicyExpired, PolicyNotYetValid, Distrusted.
        """
        return self._trusted(self.require(study).in_force(at))

    def require(self, study: str) -> CompleteAgreement:
        """What was accepted of this study. Raises: StateMissing; as `stored`."""
        stored = self.stored(study) if SLUG.fullmatch(study) else None
        if stored is None:
            known = " or ".join(self.studies())
            raise StateMissing(
                f"study {ascii(study)[:80]}",
                expected=f"one that was accepted here, {known}" if known else "an agreement",
                found="another name" if known else "none",
            )
        return stored

    def find_by_policy_digest(self, digest: Digest, at: datetime) -> CompleteAgreement:
        """The agreement in force that has this policy digest.

        Raises: StateMissing (nothing accepted at all), PolicyNotAccepted, PolicyRollback (it was
            followed by a newer one), PolicyNotYetValid, PolicyExpired, StateCorrupt, Distrusted.
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
                return self._trusted(current)
            require_window(named, at)
            raise PolicyRollback(
                f"policy of {study}",
                expected=f"version {current.policy.version}, which is in force",
                found=f"version {named.version}",
            )
        raise PolicyNotAccepted(
            "policy", expected=f"one accepted for {', '.join(studies)}", found=digest_text(digest)
        )

    def require_taking_part(self, policy: Policy, computation: str, submitter: str) -> None:
        """As `policy.withdrawal.require_taking_part`, of the withdrawals that are kept here.

        Raises: PartyWithdrew; AuditError, StateCopied.
        """
        gone = self.standing().withdrawn_from(policy)
        require_taking_part(policy, computation, submitter, gone)

    def keep_withdrawal(self, raw: bytes, at: datetime) -> Withdrawal:
        """Take a party's withdrawal into force. It ends what it ends from now on, and for good.

        Raises: StateMissing (nothing of its study was accepted), StateCorrupt; what
            `Withdrawal.open` raises; FileNotWritten, LockHeld, LocksMissing; AuditError,
            StateCopied.
        """
        stored = self.stored(Withdrawal.named_study(raw))
        if stored is None:
            raise StateMissing(
                "the study that it names", expected="an accepted agreement", found="none"
            )
        withdrawal = Withdrawal.open(raw, [v.policy for v in stored.agreement.versions])
        with Journal.open(self.root) as journal:
            self._keep(journal, withdrawal, raw, at)
        return withdrawal

    def _keep(self, journal: Journal, withdrawal: Withdrawal, raw: bytes, at: datetime) -> None:
        entry = WithdrawnEntry(
            study=withdrawal.study,
            party=withdrawal.party,
            version=withdrawal.version,
            policy=digest_text(withdrawal.policy_digest),
            withdrawal=digest_text(withdrawal.digest),
        )
        key = (withdrawal.study, withdrawal.party)
        known = Standing.of(journal.records).withdrawn.get(key)
        # First the record, which alone decides: the file is there to be shown to others.
        if known is None or known.version < entry.version:
            journal.append(entry, at)
        if known is None or known.version <= entry.version:
            with own_folder(self.root, self.folder.name):
                write_atomically(self.withdrawal_path(*key), raw, mode=0o600)

    def withdrawals(self, study: str) -> list[Envelope]:
        """The withdrawals of a study as they were received, for the agreement that follows.

        Raises: StateMissing, FileUnreadable, EnvelopeMalformed; AuditError, StateCopied.
        """
        found = []
        for key, entry in self.standing().withdrawn.items():
            if key[0] != study:
                continue
            path = self.withdrawal_path(*key)
            if not path.exists():
                raise StateMissing(
                    str(path),
                    expected=f"the withdrawal {entry.withdrawal}",
                    found="no file",
                    fix="get it from another party, and run `ratls policy state receive` on it",
                )
            found.append(parse_file(path, Envelope.parse))
        return found

    def distrust(self, digest: str, at: datetime, *, lifted: bool = False) -> None:
        """Refuse every policy with this digest, or with a key of it, until it is lifted.

        Raises: AuditError, StateCopied, LockHeld, LocksMissing.
        """
        with Journal.open(self.root) as journal:
            if (digest in Standing.of(journal.records).distrusted) == lifted:
                journal.append(DistrustedEntry(digest=digest, lifted=lifted), at)

    def studies(self) -> list[str]:
        """Names of the studies of which an agreement was accepted. Raises: as `stored`."""
        names = (p.name.removesuffix(_SUFFIX) for p in self.folder.glob(f"*{_SUFFIX}"))
        return sorted({*self.standing().accepted, *(n for n in names if SLUG.fullmatch(n))})

    def standing(self) -> Standing:
        """What the journal says; nothing, where there is none. Raises: AuditError, StateCopied."""
        if not has_begun(self.root):
            return Standing.of(())
        reading = Reading.of(self.root)
        require_place(reading.records, self.root)
        return Standing.of(reading.records)

    def _trusted(self, agreement: CompleteAgreement) -> CompleteAgreement:
        self.standing().require_trusted(agreement.policy)
        return agreement

    def require_newest(self, policy: Policy) -> bool:
        """Is something of its study accepted here? Then no later version than this one.

        Raises: PolicyRollback, PolicyConflict, StateCorrupt; AuditError, StateCopied.
        """
        stored = self.stored(policy.study)
        if stored is None:
            return False
        if stored.policy.version > policy.version:
            raise PolicyRollback(
                f"study {policy.study}",
                expected=f"version {stored.policy.version} or later",
                found=f"version {policy.version}",
                fix="run `ratls policy state export` for the newest one",
            )
        if stored.policy.version == policy.version and stored.digest != policy.digest:
            raise PolicyConflict(
                f"study {policy.study} version {policy.version}",
                expected=digest_text(stored.digest),
                found=digest_text(policy.digest),
            )
        return True

    def restore(self, path: Path, raw: bytes) -> None:
        """Put back a file that the journal names. Raises: FileNotWritten."""
        with own_folder(self.root, self.folder.name):
            write_atomically(path, raw, mode=0o600)

    def withdrawal_path(self, study: str, party: str) -> Path:
        """Where the withdrawal of a party is kept."""
        return self.folder / f"{study}.{party}.withdrawal.json"  # neither has a dot

    def path(self, study: str) -> Path:
        """Where its accepted agreement is kept."""
        return self.folder / f"{study}{_SUFFIX}"


def require_successor(offered: CompleteAgreement, newest: AcceptedEntry) -> None:
    """P12, P16: no lower version, no other policy of the same version, no other history.

    Each version names the digest of the one before, so one digest fixes all versions before it.

    Raises: PolicyRollback, PolicyConflict.
    """
    versions, study = offered.agreement.versions, newest.study
    if len(versions) < newest.version:
        raise PolicyRollback(
            f"study {study}",
            expected=f"version {newest.version} or later",
            found=f"version {len(versions)}",
        )
    found = digest_text(versions[newest.version - 1].policy.digest)
    if found != newest.policy:
        raise PolicyConflict(
            f"study {study} version {newest.version}", expected=newest.policy, found=found
        )
