"""Versions of a policy, one after another: what each owes to all those before it.

    chain = Chain()
    signers = chain.add(policy)          # follows the versions before; the keys that may sign it
    chain.require_consent(signed, withdrawn)

A key belongs to one party and one purpose for ever, and a party changes its keys with its own old
signing key: both are looked for in every earlier version, not in the last one alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from policy.document import Policy, digest_text
from policy.envelope import Envelope
from policy.errors import PolicyConflictError, PolicyThresholdError
from policy.keys import SigningKey
from policy.references import PolicyKeysShared, key_ids
from policy.sections import Party


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

    def votes_by(self, rule: Policy, consenting: Collection[str] = ()) -> tuple[str, ...]:
        """Voters of `rule` (this version or the one before) that signed this version, or that
        consent to it without a signature.
        """
        return tuple(
            p.id for p in rule.voters if p.signing_key.keyid in self.keyids or p.id in consenting
        )

    def missing_by(self, rule: Policy, consenting: Collection[str] = ()) -> tuple[str, ...]:
        """Parties that must still sign; empty when `rule` is satisfied."""
        votes = set(self.votes_by(rule, consenting))
        voters = [p.id for p in rule.voters]
        owners = {d.owner for d in rule.dataset}
        needed = len(voters) if rule.agreement.threshold == "all" else rule.agreement.threshold
        absent = [v for v in voters if v not in votes]
        if len(votes) < needed:
            return tuple(absent)
        return tuple(v for v in absent if v in owners)


class ChainBroken(PolicyConflictError):
    """The versions in an agreement file are not a chain from version 1 on."""

    code = "agreement-chain-broken"
    default_fix = "start from the accepted agreement of the version before"


class PredecessorNotConsenting(PolicyThresholdError):
    """The parties of the version before did not sign this one."""

    code = "predecessor-not-consenting"
    default_fix = "have the named parties of the earlier version sign this one too"


class KeyChangeUnsigned(PolicyThresholdError):
    """A party has another key or came back, and its old signing key did not sign this version."""

    code = "key-change-unsigned"
    default_fix = (
        "have that party sign with its old key too; one that lost it joins under a new party id"
    )


@dataclass(frozen=True, slots=True)
class _KeyUse:
    """The one use that a key has in all versions."""

    party: str
    purpose: str
    version: int  # that listed it last


@dataclass(slots=True)
class Chain:
    """The versions so far, oldest first."""

    policies: list[Policy] = field(default_factory=list)
    _uses: dict[str, _KeyUse] = field(default_factory=dict)  # by key id, of all versions
    # Each party as the last version before the newest listed it, also one that left since.
    _earlier: dict[str, Party] = field(default_factory=dict)

    def add(self, policy: Policy) -> list[SigningKey]:
        """Take in the next version; the keys whose signatures on it mean something.

        These are its own parties', those of the version before (to consent), and the old ones of
        its parties (to vouch for their new keys, also after an absence).

        Raises: ChainBroken, PolicyKeysShared.
        """
        before = self.policies[-1] if self.policies else None
        _require_link(policy, before)
        self._require_keys_stay(policy)
        if before is not None:
            self._earlier |= {party.id: party for party in before.party}
        self.policies.append(policy)
        earlier = [self._earlier[p.id] for p in policy.party if p.id in self._earlier]
        parties = (*policy.party, *(before.party if before else ()), *earlier)
        return [party.signing_key for party in parties]

    def _require_keys_stay(self, policy: Policy) -> None:
        """P03, P23: a key keeps its owner and its purpose, or one signature would count for two.

        Raises: PolicyKeysShared.
        """
        for i, party in enumerate(policy.party):
            for purpose, keyid in key_ids(party).items():
                use = self._uses.get(keyid)
                if use is not None and (use.party, use.purpose) != (party.id, purpose):
                    raise PolicyKeysShared(
                        f"policy: party[{i}].{purpose}",
                        expected="a key that no version listed elsewhere",
                        found=f"the {use.purpose} of {use.party} in version {use.version}",
                    )
                self._uses[keyid] = _KeyUse(party.id, purpose, policy.version)

    def require_consent(self, signed: SignedPolicy, withdrawn: Collection[str]) -> None:
        """The newest version, `signed`, has the signatures that those before it ask for.

        P17, P23: new parties alone cannot replace the old ones, and no threshold replaces a
        party's own old key.

        Args:
            withdrawn: Parties that withdrew from the version before. That counts as their consent
                to this version, if it does not list them.

        Raises: PredecessorNotConsenting, KeyChangeUnsigned.
        """
        if len(self.policies) < 2:
            return
        policy, before = self.policies[-1], self.policies[-2]
        thing = f"agreement on {before.study} version {policy.version}"
        gone = {name for name in withdrawn if policy.party_by_id(name) is None}
        if missing := signed.missing_by(before, gone):
            raise PredecessorNotConsenting(
                thing,
                expected=f"the signatures that version {before.version} asks for",
                found=f"none by {', '.join(missing)}",
            )
        for party in policy.party:
            old = self._earlier.get(party.id)
            if old is None or old.signing_key.keyid in signed.keyids:
                continue
            if before.party_by_id(party.id) is None or _keys(old) != _keys(party):
                raise KeyChangeUnsigned(
                    thing,
                    expected=f"a signature of {party.id}'s old key {old.signing_key.keyid[:16]}",
                    found="none",
                )


def _keys(party: Party) -> tuple[object, ...]:
    """Everything that speaks for a party; a certificate with other dates is another one."""
    return (
        party.signing_key,
        party.operation_key,
        party.channel_certificate,
        party.encryption_key,
    )


def _require_link(policy: Policy, before: Policy | None) -> None:
    """P16, P18: version 1 first, no gap, one study, each naming the one before.

    Raises: ChainBroken.
    """
    number = 1 if before is None else before.version + 1
    links = [("version", str(number), str(policy.version))]
    if before is not None:
        links.append(("study", before.study, policy.study))
        # Only version 1 names none, which is a rule of `policy.sections`.
        links.append(("previous", digest_text(before.digest), digest_text(policy.previous or b"")))
    for name, expected, found in links:
        if found != expected:
            thing = f"agreement.versions[{number - 1}].{name}"
            raise ChainBroken(thing, expected=expected, found=found)
