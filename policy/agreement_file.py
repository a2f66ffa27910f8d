"""Agreements from files: read them, and compare them with what the reader knows to be right.

    opened = open_agreement(path, party=folder, digest=None, state=None)   # read, complete
    unverified = opened.compare(policy)     # raises; or None; or the refusal to end with
    opened.standing_text(policy)            # who withdrew from it; or that no state was asked

Anybody can make and sign an agreement, so its signatures alone prove nothing to its reader. Every
command that judges by an agreement from a file compares it with the reader's own party folder, or
with a digest that the reader knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from policy.agreement import FILE_CAP, Agreement, CompleteAgreement
from policy.document import Policy, digest_text
from policy.errors import PolicyConflict, PolicyConflictError, PolicyTrustError
from policy.machines import with_machines
from policy.merging import merge
from policy.party import LocalParty
from policy.signing import OwnSignatureMissing, require_own_signature, sign
from policy.sql_check import require_statements
from policy.state import StudyState
from verifier.errors import Exit, placed
from verifier.files import parse_file, read_file, rewrite
from verifier.modes import known_roots


class AgreementUnverified(PolicyTrustError):
    """The agreement was compared with nothing; the sender of the evidence may have made it."""

    code = "agreement-unverified"
    exit_status = Exit.UNDECIDED
    default_fix = (
        "compare the digest with the one you signed, and name it with --digest sha256:…; "
        "or name your own folder with --party DIR"
    )


@dataclass(frozen=True, slots=True)
class OpenedAgreement:
    """An agreement or draft from a file, and what the reader has to compare it with."""

    path: Path
    complete: CompleteAgreement | None  # None: an unsigned draft
    policies: tuple[Policy, ...]  #       every version, the newest last
    party: Path | None  #                 the reader's own folder
    digest: str | None  #                 that the reader knows to be right, sha256:…
    state: Path | None  #                 the reader's own state folder; None: there is none

    @property
    def agreed(self) -> CompleteAgreement:
        assert self.complete is not None  # `open_agreement` reads drafts only where it is told to
        return self.complete

    def ready(self, policy: Policy) -> Policy:
        """A version with the machines of its file, which stands beside this one."""
        return with_machines(policy, self.path.parent)

    def compare(self, policy: Policy) -> AgreementUnverified | None:
        """Compare the version that is used with the reader's party and digest.

        The reader's keys, signature or digest may also belong to a later version in the same
        file: a later version names every earlier one by digest.

        Returns:
            None: it is the agreement that the reader means.
            AgreementUnverified: the reader named nothing to compare it with. The command shows
                what it found and ends with this refusal.

        Raises: PartyNotListed, AnchorDiffers, OwnSignatureMissing, PolicyConflict, Distrusted;
            AuditError, StateCopied.
        """
        if self.state is not None:
            StudyState(self.state).standing().require_trusted(policy)
        if self.digest is not None:
            later = [digest_text(p.digest) for p in self.policies if p.version >= policy.version]
            if self.digest not in later:
                raise PolicyConflict(
                    str(self.path), expected=self.digest, found=digest_text(policy.digest)
                )
        if self.party is not None:
            local = LocalParty.load(self.party)
            if self.complete is None:
                raise OwnSignatureMissing(
                    str(self.path),
                    expected=f"signature of {local.party_id}",
                    found="none: it is a draft",
                )
            require_own_signature(self.complete, local, since=policy.version)
        if self.digest is None and self.party is None:
            return AgreementUnverified(
                str(self.path),
                expected="a party or digest to compare it with",
                found=f"none; its digest is {digest_text(policy.digest)}",
            )
        return None

    def withdrawn_from(self, policy: Policy) -> list[str]:
        """The parties that withdrew from this version, as far as the reader's state knows."""
        if self.state is None:
            return []
        return sorted(StudyState(self.state).standing().withdrawn_from(policy))

    def standing_text(self, policy: Policy) -> str:
        """What the reader's own state says of this version, for people; empty: nothing."""
        if self.state is None:
            return (
                "no state folder is here, so nothing is known of withdrawals or of keys that you "
                "distrust"
            )
        gone = ", ".join(self.withdrawn_from(policy))
        return gone and f"{gone} has withdrawn from this version: no task with it is done any more"


def open_agreement(
    path: Path, *, party: Path | None, digest: str | None, state: Path | None, drafts: bool = False
) -> OpenedAgreement:
    """Read an agreement that must be complete; with `drafts`, also an unsigned policy.

    Raises: FileUnreadable, what `Agreement.parse` and `require_complete` raise; for a draft what
        `Policy.parse` raises.
    """
    if drafts and not read_file(path, cap=FILE_CAP).lstrip().startswith(b"{"):
        draft = parse_file(path, partial(Policy.parse, known_roots=known_roots()))
        return OpenedAgreement(path, None, (draft,), party, digest, state)
    complete = read_agreement(path).require_complete()
    policies = tuple(version.policy for version in complete.agreement.versions)
    return OpenedAgreement(path, complete, policies, party, digest, state)


def read_agreement(path: Path) -> Agreement:
    """An agreement file, complete or not. Raises: FileUnreadable, what `Agreement.parse` raises."""
    return parse_file(path, partial(_agreement, roots=known_roots()), cap=FILE_CAP)


@lru_cache(maxsize=4)
def _agreement(raw: bytes, roots: frozenset[str]) -> Agreement:
    """The same bytes are the same agreement: a connection that lasts asks for it each minute."""
    return Agreement.parse(raw, roots)


def read_policy(path: Path) -> Policy:
    """A policy.toml, or the newest policy of an agreement file (.json).

    Raises: FileUnreadable, what `Policy.parse` or `Agreement.parse` raises.
    """
    if path.suffix == ".json":
        return read_agreement(path).policy
    return parse_file(path, partial(Policy.parse, known_roots=known_roots()))


def agreement_to_sign(file: Path, store: StudyState) -> tuple[Path, Agreement]:
    """The agreement to sign and its path: an existing one, or a new one for a policy.toml."""
    if file.suffix == ".json":
        return file, read_agreement(file)
    beside = file.with_name(f"{file.stem}.agreement.json")
    if not beside.exists():
        read = read_policy(file)
        if read.version == 1:
            return beside, Agreement.draft(read.raw, known_roots())
        before, withdrawals = store.stored(read.study), store.withdrawals(read.study)
        return beside, Agreement.draft(read.raw, known_roots(), before, withdrawals)
    agreement = read_agreement(beside)
    # A policy that was edited after the first signature is another policy.
    _require_same_bytes(file, read_file(file, cap=FILE_CAP), beside, agreement)
    return beside, agreement


class PolicyBytesDiffer(PolicyConflictError):
    """The policy.toml is not the text that was signed: edited, or changed on its way by mail."""

    code = "policy-bytes-differ"
    default_fix = "sign the agreement file, which holds the signed original"
    says = "{thing} is not {expected}: {found}"


def _require_same_bytes(file: Path, raw: bytes, beside: Path, agreement: Agreement) -> None:
    """Before the text is parsed: a line end or a byte order mark is refused there, and the reader
    would look for a mistake of its author. Raises: PolicyBytesDiffer."""
    if (signed := agreement.policy.raw) == raw:
        return
    raise PolicyBytesDiffer(
        str(file),
        expected=f"the text that was signed in {beside}, {digest_text(agreement.digest)}",
        found=difference_text(signed, raw),
        fix=f"sign {beside}, which holds the signed original, and send that file to the others; "
        "or move it away to start again with the new text",
    )


def difference_text(signed: bytes, found: bytes) -> str:
    """Where two texts begin to differ, and whether a mail program did it. Shows no text."""
    if found.removeprefix(b"\xef\xbb\xbf") == signed:
        return "a byte order mark was put before its first byte"
    if found.replace(b"\r\n", b"\n") == signed:
        line = found[: found.index(b"\r\n")].count(b"\n") + 1
        return f"its line ends were changed to CR LF, from line {line} on"
    shorter = min(len(signed), len(found))
    at = next((i for i in range(shorter) if signed[i] != found[i]), shorter)
    line = signed[:at].count(b"\n") + 1
    column = at - (signed.rfind(b"\n", 0, at) + 1) + 1
    if found.rstrip(b"\n") == signed.rstrip(b"\n"):
        word = "added" if len(found) > len(signed) else "lost"
        return f"{abs(len(found) - len(signed))} line ends were {word} at its end, line {line}"
    return (
        f"the first byte that differs is number {at + 1}, line {line}, column {column}; "
        f"{len(signed)} bytes were signed, and it has {len(found)}"
    )


def merge_files(files: Sequence[Path], output: Path) -> Agreement:
    """All signatures of these files in one, united with what the output has already.

    Raises: as `read_agreement`; PolicyConflict, FileNotWritten.
    """
    read = [read_agreement(path) for path in files]
    done = merge(read)

    def unite(content: bytes | None) -> bytes:
        nonlocal done
        if content is not None:
            with placed(str(output)):
                done = merge([Agreement.parse(content, known_roots()), *read])
        return done.encode()

    rewrite(output, unite, cap=FILE_CAP)
    return done


def sign_file(path: Path, read: Agreement, local: LocalParty) -> Agreement:
    """Sign the agreement as it is now: others may have signed while this person read it.

    Raises: PolicyConflict where it became one on another policy; StatementRefused; FileNotWritten;
        what reading the signing key raises.
    """
    require_statements(read.policy)
    _ = local.signing  # asks for the passphrase before the file is locked
    done = read

    def add(content: bytes | None) -> bytes:
        nonlocal done
        now = read if content is None else Agreement.parse(content, known_roots())
        same = [v.policy.digest for v in now.versions] == [v.policy.digest for v in read.versions]
        if not same or (content is None and read.newest.keyids):
            raise PolicyConflict(
                str(path),
                expected=digest_text(read.digest),
                found="no file" if content is None else digest_text(now.digest),
                fix="read the file again, and sign again: it was changed meanwhile",
            )
        done = sign(now, local)
        return done.encode()

    rewrite(path, add, cap=FILE_CAP)
    return done
