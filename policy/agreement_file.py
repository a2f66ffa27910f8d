"""Agreements from files: read them, and compare them with what the reader knows to be right.

    opened = open_agreement(path, party=folder, digest=None)   # read, complete
    unverified = opened.compare(policy)     # raises; or None; or the refusal to end with

Anybody can make and sign an agreement, so its signatures alone prove nothing to its reader. Every
command that judges by an agreement from a file compares it with the reader's own party folder, or
with a digest that the reader knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from policy.agreement import FILE_CAP, Agreement, CompleteAgreement
from policy.document import Policy, digest_text
from policy.errors import PolicyConflict, PolicyTrustError
from policy.party import LocalParty
from policy.signing import OwnSignatureMissing, require_own_signature
from verifier.errors import Exit
from verifier.files import parse_file, read_file
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

    @property
    def agreed(self) -> CompleteAgreement:
        assert self.complete is not None  # `open_agreement` reads drafts only where it is told to
        return self.complete

    def compare(self, policy: Policy) -> AgreementUnverified | None:
        """Compare the version that is used with the reader's party and digest.

        The reader's keys, signature or digest may also belong to a later version in the same
        file: a later version names every earlier one by digest.

        Returns:
            None: it is the agreement that the reader means.
            AgreementUnverified: the reader named nothing to compare it with. The command shows
                what it found and ends with this refusal.

        Raises: PartyNotListed, AnchorDiffers, OwnSignatureMissing, PolicyConflict.
        """
        if self.digest is not None:
            self._require_digest(policy)
        if self.party is not None:
            self._require_party(policy)
        if self.digest is None and self.party is None:
            return AgreementUnverified(
                str(self.path),
                expected="a party or digest to compare it with",
                found=f"none; its digest is {digest_text(policy.digest)}",
            )
        return None

    def _require_digest(self, policy: Policy) -> None:
        later = [digest_text(p.digest) for p in self.policies if p.version >= policy.version]
        if self.digest not in later:
            raise PolicyConflict(
                str(self.path), expected=str(self.digest), found=digest_text(policy.digest)
            )

    def _require_party(self, policy: Policy) -> None:
        assert self.party is not None
        local = LocalParty.load(self.party)
        if self.complete is None:
            raise OwnSignatureMissing(
                str(self.path),
                expected=f"signature of {local.party_id}",
                found="none: it is a draft",
            )
        require_own_signature(self.complete, local, since=policy.version)


def open_agreement(
    path: Path, *, party: Path | None, digest: str | None, drafts: bool = False
) -> OpenedAgreement:
    """Read an agreement that must be complete; with `drafts`, also an unsigned policy.

    Raises: FileUnreadable, what `Agreement.parse` and `require_complete` raise; for a draft what
        `Policy.parse` raises.
    """
    if drafts and not read_file(path, cap=FILE_CAP).lstrip().startswith(b"{"):
        draft = parse_file(path, partial(Policy.parse, known_roots=known_roots()))
        return OpenedAgreement(path, None, (draft,), party, digest)
    complete = read_agreement(path).require_complete()
    policies = tuple(version.policy for version in complete.agreement.versions)
    return OpenedAgreement(path, complete, policies, party, digest)


def read_agreement(path: Path) -> Agreement:
    """An agreement file, complete or not. Raises: FileUnreadable, what `Agreement.parse` raises."""
    return parse_file(path, partial(Agreement.parse, known_roots=known_roots()), cap=FILE_CAP)


def read_policy(path: Path) -> Policy:
    """A policy.toml, or the newest policy of an agreement file (.json).

    Raises: FileUnreadable, what `Policy.parse` or `Agreement.parse` raises.
    """
    if path.suffix == ".json":
        return read_agreement(path).policy
    return parse_file(path, partial(Policy.parse, known_roots=known_roots()))
