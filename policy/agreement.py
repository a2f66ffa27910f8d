"""The agreement: a policy with its signatures, and the chain of versions before it.

    agreement = Agreement.parse(raw, known_roots())   # every signature in it is valid
    complete = agreement.require_complete()           # enough parties signed, all owners did

The file is `{"schema": "ratls-agreement/0", "versions": [envelope, …]}`, version 1 first.
Votes are counted by distinct party and distinct key; what a key id says counts for nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from policy import envelope as dsse
from policy.document import Policy, digest_text
from policy.envelope import Envelope, EnvelopeMalformed, strict_json
from policy.errors import (
    PolicyConflictError,
    PolicyExpiredError,
    PolicySignatureError,
    PolicyThresholdError,
)
from policy.references import PolicyKeysShared, key_ids
from policy.statement import instant_text
from policy.syntax import PolicyTooLarge
from policy.values import Digest

SCHEMA = "ratls-agreement/0"
VERSIONS_CAP = 64
FILE_CAP = 16 << 20


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """One version: its policy, and who signed exactly these bytes. Every signature is valid."""

    policy: Policy
    envelope: Envelope
    keyids: frozenset[str]  # of the keys that signed

    @property
    def signed(self) -> tuple[str, ...]:
        """Ids of the parties of this version that signed, in the policy's order."""
        return tuple(p.id for p in self.policy.party if p.signing_key.keyid in self.keyids)

    def votes_by(self, rule: Policy) -> tuple[str, ...]:
        """Voters of `rule` (this version or the one before) that signed this version."""
        return tuple(p.id for p in rule.voters if p.signing_key.keyid in self.keyids)

    def missing_by(self, rule: Policy) -> tuple[str, ...]:
        """Parties that must still sign; empty when `rule` is satisfied."""
        votes = set(self.votes_by(rule))
        voters = [p.id for p in rule.voters]
        owners = {d.owner for d in rule.dataset}
        needed = len(voters) if rule.agreement.threshold == "all" else rule.agreement.threshold
        absent = [v for v in voters if v not in votes]
        if len(votes) < needed:
            return tuple(absent)
        return tuple(v for v in absent if v in owners)


class SignatureInvalid(PolicySignatureError):
    """A signature on a policy is invalid."""

    code = "signature-invalid"
    default_fix = "ask that party for the agreement as it signed it"


class AgreementIncomplete(PolicyThresholdError):
    """Parties that must sign have not signed."""

    code = "agreement-incomplete"
    default_fix = "have the named parties run `ratls policy sign`"
    says = "{thing} needs {expected}; {found}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Versions 1 to n with valid signatures; `require_complete` checks that they suffice."""

    versions: tuple[SignedPolicy, ...]

    @classmethod
    def parse(cls, raw: bytes, known_roots: frozenset[str]) -> Self:
        """Read an agreement file.

        Raises: PolicyTooLarge, EnvelopeMalformed, EnvelopeTooLarge, SignatureRepeated,
            EnvelopeTypeDiffers, ChainBroken, PolicyKeysShared, SignerUnknown, SignatureInvalid,
            and what `Policy.parse` raises.
        """
        if len(raw) > FILE_CAP:
            raise PolicyTooLarge(
                "agreement", expected=f"at most {FILE_CAP} bytes", found=str(len(raw))
            )
        if not raw.lstrip().startswith(b"{"):  # most often the policy.toml beside it
            raise EnvelopeMalformed(
                "the file",
                expected="an agreement",
                found="",
                fix="name the .agreement.json that `ratls policy sign` makes",
            )
        document = strict_json(raw, "agreement")
        if not isinstance(document, dict) or set(document) != {"schema", "versions"}:
            raise EnvelopeMalformed("agreement", expected="exactly schema, versions", found="other")
        if document["schema"] != SCHEMA:
            raise EnvelopeMalformed(
                "agreement.schema", expected=SCHEMA, found=ascii(document["schema"])[:60]
            )
        listed = document["versions"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= VERSIONS_CAP:
            raise EnvelopeMalformed(
                "agreement.versions", expected=f"1 to {VERSIONS_CAP} envelopes", found="other"
            )
        return cls.from_envelopes([Envelope.from_json(entry) for entry in listed], known_roots)

    @classmethod
    def from_envelopes(cls, envelopes: list[Envelope], known_roots: frozenset[str]) -> Self:
        """Read the policies, follow the chain, then verify each signature. Raises as `parse`."""
        policies = []
        for envelope in envelopes:
            envelope.require_type(dsse.POLICY)
            policies.append(Policy.parse(envelope.payload, known_roots=known_roots))
        _require_chain(policies)
        versions = []
        for i, (policy, envelope) in enumerate(zip(policies, envelopes, strict=True)):
            # Parties of the version before sign too: to consent, and to vouch for a new key.
            parties = (*policies[max(i - 1, 0)].party, *policy.party)
            signers = envelope.signers([p.signing_key for p in parties], SignatureInvalid)
            versions.append(SignedPolicy(policy, envelope, frozenset(k.keyid for k in signers)))
        return cls(tuple(versions))

    @classmethod
    def draft(
        cls, raw: bytes, known_roots: frozenset[str], before: CompleteAgreement | None = None
    ) -> Self:
        """An agreement without signatures on these policy bytes, after the versions `before`.

        Raises: what `Policy.parse` raises, ChainBroken.
        """
        earlier = [v.envelope for v in before.agreement.versions] if before else []
        return cls.from_envelopes([*earlier, Envelope(dsse.POLICY, raw, ())], known_roots)

    @property
    def newest(self) -> SignedPolicy:
        return self.versions[-1]

    @property
    def policy(self) -> Policy:
        return self.newest.policy

    @property
    def digest(self) -> Digest:
        return self.policy.digest

    @property
    def missing(self) -> tuple[str, ...]:
        """Parties that still have to sign."""
        return self.newest.missing_by(self.policy)

    def encode(self) -> bytes:
        document = {"schema": SCHEMA, "versions": [v.envelope.as_json() for v in self.versions]}
        return (json.dumps(document, indent=1) + "\n").encode("ascii")

    def require_complete(self) -> CompleteAgreement:
        """Every version has the signatures that it and the version before it ask for.

        Raises: AgreementIncomplete, PredecessorNotConsenting, KeyChangeUnsigned.
        """
        for i, version in enumerate(self.versions):
            policy = version.policy
            if missing := version.missing_by(policy):
                raise AgreementIncomplete(
                    f"agreement on {policy.study} version {policy.version}",
                    expected=_rule_text(policy),
                    found=f"{len(version.votes_by(policy))} signed, missing: {', '.join(missing)}",
                )
            if i:
                _require_consent(version, self.versions[i - 1].policy)
        return CompleteAgreement(self, _TOKEN)


_TOKEN = object()


class CompleteAgreement:
    """An agreement that enough parties signed. Only `Agreement.require_complete` can make one."""

    __slots__ = ("agreement",)

    def __init__(self, agreement: Agreement, token: object) -> None:
        if token is not _TOKEN:
            raise TypeError("a complete agreement comes from Agreement.require_complete")
        self.agreement = agreement

    @property
    def policy(self) -> Policy:
        """The newest version."""
        return self.agreement.policy

    @property
    def digest(self) -> Digest:
        return self.agreement.digest

    def in_force(self, at: datetime) -> CompleteAgreement:
        """The agreement up to the version in force at this instant: itself, or an earlier one.

        Raises: PolicyNotYetValid, PolicyExpired.
        """
        for count in range(len(self.agreement.versions), 0, -1):
            if self.agreement.versions[count - 1].policy.not_before <= at:
                held = CompleteAgreement(Agreement(self.agreement.versions[:count]), _TOKEN)
                require_window(held.policy, at)
                return held
        require_window(self.agreement.versions[0].policy, at)
        raise AssertionError("require_window accepts a policy before its first instant")


def require_not_expired(policy: Policy, at: datetime) -> None:
    """For a policy that is signed or accepted before it is in force. Raises: PolicyExpired."""
    require_window(policy, max(at, policy.not_before))


class PolicyNotYetValid(PolicyExpiredError):
    """The policy is not in force yet."""

    code = "policy-not-yet-valid"
    default_fix = "wait until its not_before, and check this machine's clock"
    says = "{thing} is in force from {expected} on, and it is {found}"


class PolicyExpired(PolicyExpiredError):
    """The policy has expired."""

    code = "policy-expired"
    default_fix = "agree on a new version"
    says = "{thing} is in force only {expected}, and it is {found}"


def require_window(policy: Policy, at: datetime) -> None:
    """P13. Raises: PolicyNotYetValid, PolicyExpired."""
    thing = f"policy {policy.study} version {policy.version}"
    if at < policy.not_before:
        raise PolicyNotYetValid(
            thing, expected=instant_text(policy.not_before), found=instant_text(at)
        )
    if at >= policy.expires:
        raise PolicyExpired(
            thing, expected=f"before {instant_text(policy.expires)}", found=instant_text(at)
        )


class ChainBroken(PolicyConflictError):
    """The versions in an agreement file are not a chain from version 1 on."""

    code = "agreement-chain-broken"
    default_fix = "start from the accepted agreement of the version before"


def _require_chain(policies: list[Policy]) -> None:
    """Version 1 first, no gaps, one study, each naming the one before; keys keep their owners."""
    for i, policy in enumerate(policies):
        links = [("version", str(i + 1), str(policy.version))]
        if i:
            before = policies[i - 1]
            links.append(("study", before.study, policy.study))
            # Only version 1 names none, which is a rule of `policy.sections`.
            named = digest_text(policy.previous or b"")
            links.append(("previous", digest_text(before.digest), named))
        for name, expected, found in links:
            if found != expected:
                thing = f"agreement.versions[{i}].{name}"
                raise ChainBroken(thing, expected=expected, found=found)
        if i:
            _require_keys_stay(policy, before)


def _require_keys_stay(policy: Policy, before: Policy) -> None:
    """P03 over versions: a key keeps its owner, or one signature would count for two parties.

    Raises: PolicyKeysShared.
    """
    owners = {keyid: party.id for party in before.party for keyid in key_ids(party).values()}
    for i, party in enumerate(policy.party):
        for purpose, keyid in key_ids(party).items():
            if owners.get(keyid, party.id) != party.id:
                raise PolicyKeysShared(
                    f"policy: party[{i}].{purpose}",
                    expected=f"a key of {party.id}",
                    found=f"that of {owners[keyid]} in version {before.version}",
                )


class PredecessorNotConsenting(PolicyThresholdError):
    """The parties of the version before did not sign this one."""

    code = "predecessor-not-consenting"
    default_fix = "have the named parties of the earlier version sign this one too"


class KeyChangeUnsigned(PolicyThresholdError):
    """A party has a new signing key, and its old key did not sign this version."""

    code = "key-change-unsigned"
    default_fix = "have that party sign with its old key too"


def _require_consent(version: SignedPolicy, before: Policy) -> None:
    """P17: the new parties alone cannot replace the old ones."""
    thing = f"agreement on {before.study} version {version.policy.version}"
    if missing := version.missing_by(before):
        raise PredecessorNotConsenting(
            thing,
            expected=f"the signatures that version {before.version} asks for",
            found=f"none by {', '.join(missing)}",
        )
    for party in version.policy.party:
        old = before.party_by_id(party.id)
        if old is None or old.signing_key == party.signing_key:
            continue
        if old.signing_key.keyid not in version.keyids:
            raise KeyChangeUnsigned(
                thing,
                expected=f"a signature of {party.id}'s old key {old.signing_key.keyid[:16]}",
                found="none",
            )


def _rule_text(policy: Policy) -> str:
    threshold = policy.agreement.threshold
    count = "all" if threshold == "all" else f"{threshold} of"
    return f"signatures of {count} {len(policy.voters)} voting parties and every dataset owner"
