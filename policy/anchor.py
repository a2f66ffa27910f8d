"""Is this agreement the one that is meant? Its signatures cannot say: anybody can sign one.

    brought = bring(path, party=folder, digest=None)   # read, complete, whole
    doubt = brought.doubt(policy)                      # None, or a refusal to end with; or raises

Every command that judges something by an agreement from a file goes through here. What it is held
against is the reader's own: the folder of its party, or a digest that it knows to be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from policy.agreement import FILE_CAP, Agreement, CompleteAgreement, OwnSignatureMissing
from policy.document import Policy, digest_text
from policy.envelope import EnvelopeMalformed
from policy.errors import PolicyConflict, PolicyTrustError
from policy.party import LocalParty
from verifier.errors import Exit
from verifier.files import parse_file, read_file
from verifier.modes import known_roots


class AgreementUnverified(PolicyTrustError):
    """Whoever presents evidence can bring an agreement that fits it: this one was only shown."""

    code = "agreement-unverified"
    exit_status = Exit.UNDECIDED
    default_fix = (
        "compare the digest with the one you signed, and name it with --digest sha256:…; "
        "or name your own folder with --party DIR"
    )


@dataclass(frozen=True, slots=True)
class Brought:
    """What somebody brought, and what of the reader's own it is held against."""

    path: Path
    complete: CompleteAgreement | None  # None: a draft, which nobody signed
    policies: tuple[Policy, ...]  #       every version, the newest last
    party: Path | None
    digest: str | None  #                 sha256:…

    @property
    def agreed(self) -> CompleteAgreement:
        assert self.complete is not None  # `bring` lets drafts through only where it is told to
        return self.complete

    def doubt(self, policy: Policy) -> AgreementUnverified | None:
        """Hold the version that is judged by against the reader's party and digest.

        Own keys and signature, or the known digest, may also be those of a later version of the
        same file: it names every version before it by digest.

        Returns:
            None where it is the one that is meant; where there is nothing to hold it against,
            the refusal with which the command ends, once it has shown what it found.

        Raises: PartyNotListed, AnchorDiffers, OwnSignatureMissing, PolicyConflict.
        """
        if self.digest is not None:
            self._require_digest(policy)
        if self.party is not None:
            self._require_party(policy)
        if self.digest is None and self.party is None:
            return AgreementUnverified(
                str(self.path),
                expected="an agreement that you know to be yours",
                found=f"digest {digest_text(policy.digest)} shown, not verified",
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
                str(self.path), expected=f"a signature of {local.party_id}", found="a draft"
            )
        self.complete.require_anchor(local, since=policy.version)


def bring(path: Path, *, party: Path | None, digest: str | None, drafts: bool = False) -> Brought:
    """Read an agreement that must be complete; with `drafts`, also a policy that nobody signed.

    Raises: FileUnreadable, what `Agreement.parse` and `require_complete` raise; for a draft what
        `Policy.parse` raises.
    """
    if drafts and not read_file(path, cap=FILE_CAP).lstrip().startswith(b"{"):
        draft = parse_file(path, partial(Policy.parse, known_roots=known_roots()))
        return Brought(path, None, (draft,), party, digest)
    complete = read_agreement(path).require_complete()
    policies = tuple(version.policy for version in complete.agreement.versions)
    return Brought(path, complete, policies, party, digest)


def read_agreement(path: Path) -> Agreement:
    """An agreement file, complete or not. Raises: FileUnreadable, what `Agreement.parse` raises."""
    return parse_file(path, parse_agreement, cap=FILE_CAP)


def parse_agreement(raw: bytes) -> Agreement:
    """The content of an agreement file. Raises: what `Agreement.parse` raises."""
    if not raw.startswith(b"{"):  # most often the policy.toml beside it
        raise EnvelopeMalformed(
            "agreement",
            expected="an agreement file",
            found="another text",
            fix="name the .agreement.json that `ratls policy sign` makes",
        )
    return Agreement.parse(raw, known_roots())
