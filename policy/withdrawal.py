"""A withdrawal: a party's signed word that it takes no part any more.

    withdrawal = Withdrawal.of(policies, "alice-clinic")
    raw = withdrawal.signed(party.signing)
    SignedWithdrawal.open(Envelope.parse(raw), policies)     # by that party, of this very study
    require_taking_part(policy, "train", "carol-lab", withdrawn)

It names every version that it covers, so one version of an agreement is enough to judge it. What it
ends: each computation that the party owns an input of or receives the result of, and its own tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import Field

from policy import envelope as dsse
from policy import values
from policy.document import Policy, digest_text
from policy.envelope import Envelope
from policy.errors import PartyNotListed, PolicySignatureError, PolicyTrustError
from policy.fields import Slug
from policy.keys import SigningSigner
from policy.statement import Digest, PolicyDigestDiffers, PolicyStatement, require_study

VERSIONS_CAP = 64  # of one study


class WithdrawalSignatureInvalid(PolicySignatureError):
    """The withdrawal is not signed by the signing key of the party that it names."""

    code = "withdrawal-signature-invalid"
    default_fix = "ask that party for its withdrawal as it signed it"


class Withdrawal(PolicyStatement):
    """Signed with the party's signing key, as a policy is."""

    payload_type: ClassVar[str] = dsse.WITHDRAWAL
    noun: ClassVar[str] = "withdrawal"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = WithdrawalSignatureInvalid

    study: Slug
    # Digests of the versions before the one that `policy_digest` names, version 1 first.
    earlier: Annotated[tuple[Digest, ...], Field(strict=False, max_length=VERSIONS_CAP - 1)]
    party: Slug

    @classmethod
    def of(cls, policies: Sequence[Policy], party: str) -> Self:
        """From the last of these versions, signed or not, and all before it; version 1 first."""
        digests = [policy.digest for policy in policies]
        return cls(
            study=policies[-1].study,
            policy_digest=digests[-1],
            earlier=tuple(digests[:-1]),
            party=party,
        )

    @classmethod
    def named_study(cls, raw: bytes) -> str:
        """What it says of itself, its signature unchecked: enough to find the versions.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed.
        """
        return cls._parse(raw)[0].study

    @classmethod
    def digest_of(cls, raw: bytes) -> values.Digest:
        """Its digest, the signature unchecked. Raises: as `named_study`."""
        return cls._parse(raw)[0].digest

    @classmethod
    def version_of(cls, envelope: Envelope) -> int:
        """The newest version that it covers, the signature unchecked. Raises: as `named_study`."""
        return cls._read(envelope).version

    def signed(self, signer: SigningSigner) -> bytes:
        """The envelope, signed with the key that agreed: no key of an agent can leave."""
        return Envelope(self.payload_type, self.payload, ()).signed_by(signer).encode()

    @property
    def version(self) -> int:
        """The newest that it covers."""
        return len(self.earlier) + 1

    @classmethod
    def open(cls, raw: bytes, policies: Sequence[Policy]) -> Withdrawal:
        """As `SignedWithdrawal.open`. Raises: EnvelopeTooLarge, and what that raises."""
        return SignedWithdrawal.open(Envelope.parse(raw), policies).document

    def _listed_by(self, policies: Sequence[Policy]) -> Policy:
        """The newest of these versions that it covers; it names no other history."""
        require_study(self.noun, self.study, policies[0])
        for policy, digest in zip(policies, (*self.earlier, self.policy_digest), strict=False):
            if policy.digest != digest:
                raise PolicyDigestDiffers(
                    f"the {self.noun}",
                    expected=digest_text(policy.digest),
                    found=digest_text(digest),
                )
        return policies[min(len(policies), self.version) - 1]


@dataclass(frozen=True, slots=True)
class SignedWithdrawal:
    """A withdrawal whose signature holds, as it was received."""

    document: Withdrawal
    envelope: Envelope

    @classmethod
    def open(cls, envelope: Envelope, policies: Sequence[Policy]) -> Self:
        """A withdrawal from these versions, signed with the key that the newest of them lists.

        Args:
            policies: The versions that the reader knows, version 1 first. It may cover more.

        Raises: EnvelopeTypeDiffers, EnvelopeMalformed, DocumentMalformed, StudyDiffers,
            PolicyDigestDiffers, PartyNotListed, SignerUnknown, WithdrawalSignatureInvalid.
        """
        document = Withdrawal._read(envelope)
        policy = document._listed_by(policies)
        party = policy.party_by_id(document.party)
        if party is None:
            raise PartyNotListed(
                "withdrawal: party",
                expected=" or ".join(p.id for p in policy.party),
                found=document.party,
                fix="withdraw from a version that lists this party",
            )
        envelope.signers((party.signing_key,), WithdrawalSignatureInvalid)
        return cls(document, envelope)


class PartyWithdrew(PolicyTrustError):
    """A party without which the computation is not agreed has withdrawn."""

    code = "party-withdrew"
    default_fix = "agree on a new version without that party, or with its signature"
    says = "{found} has withdrawn from {thing}"


def needed(policy: Policy, computation: str, submitter: str) -> frozenset[str]:
    """The parties without which a task is not agreed: it ends with each of them.

    The owners of its inputs, its submitter, and the recipients of its result.
    """
    asked = policy.computation_by_id(computation)
    assert asked is not None  # `Task.open` refuses what the policy does not have
    owners = {d.owner for d in policy.dataset if d.id in asked.inputs}
    return frozenset({*owners, submitter, *asked.recipients})


def require_taking_part(
    policy: Policy, computation: str, submitter: str, withdrawn: Collection[str]
) -> None:
    """No party that a task needs has withdrawn. Raises: PartyWithdrew."""
    if withdrawn and (
        gone := sorted(needed(policy, computation, submitter).intersection(withdrawn))
    ):
        raise PartyWithdrew(
            f"policy {policy.study} version {policy.version}",
            expected="all parties of the computation",
            found=", ".join(gone),
        )
