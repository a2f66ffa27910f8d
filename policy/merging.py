"""Envelopes that were signed in parallel: united into one, or shown signature by signature.

    merged = merge([mine, theirs])         # one agreement with all signatures
    policy, found = signatures_in(raw, roots)   # one line each, also of those that are wrong

`merge` takes agreements, so each signature has been verified already. `signatures_in` judges none
of them good enough for anything: it says what is wrong to who has to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from policy.agreement import Agreement
from policy.chain import SignedPolicy
from policy.document import Policy, digest_text
from policy.envelope import Envelope, strict_json
from policy.errors import PolicyConflict, PolicyTrustError
from policy.keys import pre_authentication_encoding
from policy.references import key_ids
from policy.sections import Party
from policy.signing import public_keys


class KeysDiffer(PolicyTrustError):
    """The policy lists other keys for a party than that party gave to the reader."""

    code = "keys-differ"
    default_fix = "do not sign; ask that party on another way which keys are its own"


Verdict = Literal["valid", "invalid", "unknown key", "other key"]


def merge(agreements: Sequence[Agreement]) -> Agreement:
    """One agreement with every signature and withdrawal of all of these, which must be on the same
    policies.

    Raises: PolicyConflict.
    """
    first, *others = agreements
    chain = [v.policy.digest for v in first.versions]
    for other in others:
        if [v.policy.digest for v in other.versions] != chain:
            raise PolicyConflict(
                "agreements to unite",
                expected=f"all on version {first.policy.version}, {digest_text(first.digest)}",
                found=f"one on version {other.policy.version}, {digest_text(other.digest)}",
                fix="ask its signer which policy is meant; signatures on another one do not count",
            )
    versions = tuple(
        _united([agreement.versions[i] for agreement in agreements])
        for i in range(len(first.versions))
    )
    withdrawals = {w.envelope.payload: w for a in reversed(agreements) for w in a.withdrawals}
    return replace(first, versions=versions, withdrawals=tuple(withdrawals.values()))


def _united(versions: Sequence[SignedPolicy]) -> SignedPolicy:
    """The first of each key: an ECDSA or RSA key signs the same bytes differently each time."""
    first = versions[0]
    found = {s.keyid: s for v in reversed(versions) for s in reversed(v.envelope.signatures)}
    order = dict.fromkeys(s.keyid for v in versions for s in v.envelope.signatures)
    envelope = replace(first.envelope, signatures=tuple(found[keyid] for keyid in order))
    return SignedPolicy(first.policy, envelope, frozenset(found))


@dataclass(frozen=True, slots=True)
class SignatureFound:
    """One signature on the newest version, and what it is worth."""

    keyid: str
    party: str | None  # to which this version, or the one before, lists the key
    verdict: Verdict
    says: str

    def as_json(self) -> dict[str, Any]:
        return {"key": self.keyid, "party": self.party, "verdict": self.verdict, "says": self.says}


def signatures_in(raw: bytes, roots: frozenset[str]) -> tuple[Policy, tuple[SignatureFound, ...]]:
    """The newest policy of an agreement file, and every signature on it, good or not.

    Raises: EnvelopeMalformed, EnvelopeTooLarge, SignatureRepeated; what `Policy.parse` raises.
    """
    document = strict_json(raw, "agreement")
    listed = document.get("versions") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not listed:
        Agreement.parse(raw, roots)  # says what is wrong with it
        raise AssertionError("an agreement without versions was read")
    envelopes = [Envelope.from_json(entry) for entry in listed[-2:]]
    policies = [Policy.parse(e.payload, known_roots=roots) for e in envelopes]
    policy, envelope = policies[-1], envelopes[-1]
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    found = []
    for signature in envelope.signatures:
        party, verdict, says = _owner(signature.keyid, policies)
        if (
            party is not None
            and verdict == "valid"
            and not party.signing_key.holds(message, signature.sig)
        ):
            verdict, says = "invalid", "it is no signature of these bytes by this key"
        found.append(SignatureFound(signature.keyid, party.id if party else None, verdict, says))
    return policy, tuple(found)


def _owner(keyid: str, policies: Sequence[Policy]) -> tuple[Party | None, Verdict, str]:
    """Whose key this is; the newest policy is the last."""
    newest = policies[-1]
    for policy in reversed(policies):
        for party in policy.party:
            if party.signing_key.keyid == keyid:
                if policy is newest:
                    return party, "valid", ""
                return party, "valid", f"its signing key of version {policy.version}"
    for party in newest.party:
        for purpose, other in key_ids(party).items():
            if other == keyid:
                return party, "other key", f"its {purpose}, which does not sign policies"
    return None, "unknown key", "no party of this policy has this key"


@dataclass(frozen=True, slots=True)
class KeyComparison:
    """A party's keys as it gave them to the reader, held against those in the policy."""

    party: str
    differing: Mapping[str, tuple[str, str]]  # purpose: (as given, in the policy), fingerprints
    listed: bool

    @property
    def same(self) -> bool:
        return self.listed and not self.differing

    def as_json(self) -> dict[str, Any]:
        differing = {p: {"given": g, "listed": k} for p, (g, k) in self.differing.items()}
        return {"party": self.party, "listed": self.listed, "differing": differing}

    @property
    def text(self) -> str:
        if not self.listed:
            return f"{self.party} is no party of this policy"
        if not self.differing:
            return f"{self.party}: all keys are those in the policy"
        return "; ".join(
            f"{self.party}: {purpose} DOES NOT MATCH: given {given}, in the policy {listed}"
            for purpose, (given, listed) in self.differing.items()
        )


def compare_keys(policy: Policy, given: Iterable[Party]) -> tuple[KeyComparison, ...]:
    """Each party's public file against the policy."""
    found = []
    for party in given:
        listed = policy.party_by_id(party.id)
        known = public_keys(listed) if listed else {}
        own = public_keys(party)
        if "encryption_key" not in known:  # a provider needs none
            own.pop("encryption_key", None)
        differing = {
            purpose: (own.get(purpose, "none"), known.get(purpose, "none"))
            for purpose in {**own, **known}
            if own.get(purpose) != known.get(purpose)
        }
        found.append(KeyComparison(party.id, differing if listed else {}, listed is not None))
    return tuple(found)
