"""What a party does with an agreement: find its own keys in it, sign it, know its own signature.

    agreement = sign(agreement, party)            # adds this party's signature
    require_own_signature(complete, party)        # lists my keys, and I signed these very bytes

The party's own folder says which keys are its own, never what a policy lists under its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from policy.agreement import Agreement, CompleteAgreement
from policy.chain import SignedPolicy
from policy.document import Policy, digest_text
from policy.errors import PartyNotListed, PolicyThresholdError, PolicyTrustError
from policy.keys import SigningSigner
from policy.party import LocalParty
from policy.sections import Party
from verifier.errors import RatlsError


class AnchorDiffers(PolicyTrustError):
    """The policy lists a key or certificate of this party that is not its own."""

    code = "anchor-differs"
    default_fix = "do not sign; find out who put that key into the policy; yours is in party.toml"


class OwnSignatureMissing(PolicyThresholdError):
    """This party has not signed the agreement."""

    code = "own-signature-missing"
    default_fix = "read the policy, then run `ratls policy sign`"
    says = "{thing} has no {expected}; it has {found}"


def require_listed(policy: Policy, party: LocalParty) -> None:
    """P06: the policy lists the keys of the party's own folder under its name.

    Raises: PartyNotListed, AnchorDiffers.
    """
    listed = policy.party_by_id(party.party_id)
    if listed is None:
        raise PartyNotListed(
            f"policy {policy.study}",
            expected=f"the party {party.party_id}",
            found=", ".join(p.id for p in policy.party),
        )
    for purpose in _PURPOSES:
        own, theirs = getattr(party.public, purpose), getattr(listed, purpose)
        # A recipient without an encryption key is refused elsewhere; a provider needs none.
        if own != theirs and not (purpose == "encryption_key" and theirs is None):
            raise AnchorDiffers(
                f"policy: {purpose} of {party.party_id}",
                expected=_fingerprint(own),
                found=_fingerprint(theirs),
            )


def sign(agreement: Agreement, party: LocalParty) -> Agreement:
    """Add this party's signature to the newest version.

    Raises: PartyNotListed, AnchorDiffers, and what reading the signing key raises.
    """
    require_listed(agreement.policy, party)
    return add_signature(agreement, party.signing)


def add_signature(agreement: Agreement, signer: SigningSigner) -> Agreement:
    """With one more signature on the newest version; whether the key may sign is not asked."""
    last = agreement.newest
    keyids = last.keyids | {signer.public.keyid}
    signed = SignedPolicy(last.policy, last.envelope.signed_by(signer), keyids)
    return replace(agreement, versions=(*agreement.versions[:-1], signed))


def require_own_signature(
    complete: CompleteAgreement, party: LocalParty, since: int | None = None
) -> None:
    """The policy lists this party as it knows itself, and it signed these very bytes.

    Args:
        since: The oldest version from which a signature counts: each later version names the
            one before by digest. None: only the newest counts.

    Raises: PartyNotListed, AnchorDiffers, OwnSignatureMissing, about the newest version.
    """
    refusals: list[RatlsError] = []
    versions = complete.agreement.versions
    # A party that left, or has new keys, still knows what it signed.
    for version in reversed(versions[(since or len(versions)) - 1 :]):
        try:
            return _require_own(version, party)
        except (PartyNotListed, AnchorDiffers, OwnSignatureMissing) as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _require_own(version: SignedPolicy, party: LocalParty) -> None:
    require_listed(version.policy, party)
    if party.party_id not in version.signed:
        raise OwnSignatureMissing(
            f"agreement {digest_text(version.policy.digest)}",
            expected=f"signature of {party.party_id}",
            found="those of " + ", ".join(version.signed),
        )


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key of a policy, compared with the policy that this party accepted before."""

    party_id: str
    purpose: str
    fingerprint: str  # 64 hex
    status: str  #      new, unchanged, changed


_PURPOSES = ("signing_key", "operation_key", "channel_certificate", "encryption_key")


def public_keys(party: Party) -> dict[str, str]:
    """Fingerprint of each key that a party has, by its purpose."""
    keys = {purpose: getattr(party, purpose) for purpose in _PURPOSES}
    return {purpose: _fingerprint(key) for purpose, key in keys.items() if key is not None}


def key_changes(policy: Policy, before: Policy | None) -> tuple[KeyChange, ...]:
    """Every key in the policy, and whether the policy before had it."""
    changes = []
    for party in policy.party:
        earlier = before.party_by_id(party.id) if before else None
        known = public_keys(earlier) if earlier else {}
        for purpose, fingerprint in public_keys(party).items():
            old = known.get(purpose)
            status = "new" if old is None else "unchanged" if old == fingerprint else "changed"
            changes.append(KeyChange(party.id, purpose, fingerprint, status))
    return tuple(changes)


def _fingerprint(key: object) -> str:
    for name in ("keyid", "fingerprint"):
        if isinstance(found := getattr(key, name, None), str):
            return found
    return "none"
