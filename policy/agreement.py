"""The agreement: a policy with its signatures, and the chain of versions before it.

    agreement = Agreement.parse(raw, known_roots())   # every signature in it is valid
    complete = agreement.require_complete()           # enough parties signed, all owners did

The file is `{"schema": "ratls-agreement/0", "versions": [envelope, …]}`, version 1 first. Beside
`versions` it may have `withdrawals`: with that of a party, a successor needs no signature of it.
Votes are counted by distinct party and distinct key; what a key id says counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from policy import envelope as dsse
from policy.chain import Chain, SignedPolicy
from policy.document import Policy
from policy.envelope import Envelope, EnvelopeMalformed, strict_json
from policy.errors import PolicyExpiredError, PolicySignatureError, PolicyThresholdError
from policy.statement import instant_text
from policy.syntax import PolicyTooLarge
from policy.values import Digest
from policy.withdrawal import VERSIONS_CAP, SignedWithdrawal

SCHEMA = "ratls-agreement/0"
FILE_CAP = 4 << 20  # bytes; JSON of this size is read in half a second


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
    withdrawals: tuple[SignedWithdrawal, ...] = ()

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
        # Most often the policy.toml beside it; a byte order mark is named by the reader below.
        if not raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            raise EnvelopeMalformed(
                "the file",
                expected="an agreement",
                found="",
                fix="name the .agreement.json that `ratls policy sign` makes",
            )
        document = strict_json(raw, "agreement")
        if not isinstance(document, dict) or document.keys() - {"withdrawals"} != _MEMBERS:
            raise EnvelopeMalformed("agreement", expected="exactly schema, versions", found="other")
        if document["schema"] != SCHEMA:
            raise EnvelopeMalformed(
                "agreement.schema", expected=SCHEMA, found=ascii(document["schema"])[:60]
            )
        listed = [
            [Envelope.from_json(entry) for entry in _listed(document, name, least)]
            for name, least in (("versions", 1), ("withdrawals", 0))
        ]
        return cls.from_envelopes(listed[0], known_roots, listed[1])

    @classmethod
    def from_envelopes(
        cls,
        envelopes: Sequence[Envelope],
        known_roots: frozenset[str],
        withdrawals: Sequence[Envelope] = (),
    ) -> Self:
        """Read version after version: each follows those before, and its signatures are valid.

        One that is followed by another must be complete, too, before that other one is read: what
        reading costs is paid for with valid signatures (P24).

        Raises: as `parse`, and for an earlier version as `require_complete`.
        """
        chain, versions = Chain(), list[SignedPolicy]()
        for place, envelope in enumerate(envelopes):
            envelope.require_type(dsse.POLICY)
            policy = Policy.parse(envelope.payload, known_roots=known_roots)
            signers = envelope.signers(chain.add(policy), SignatureInvalid)
            signed = SignedPolicy(policy, envelope, frozenset(k.keyid for k in signers))
            versions.append(signed)
            if place + 1 < len(envelopes):
                _require_signed(signed)
        read = tuple(SignedWithdrawal.open(e, chain.policies) for e in withdrawals)
        return cls(tuple(versions), read)

    @classmethod
    def draft(
        cls,
        raw: bytes,
        known_roots: frozenset[str],
        before: CompleteAgreement | None = None,
        withdrawals: Sequence[Envelope] = (),
    ) -> Self:
        """An agreement without signatures on these policy bytes, after the versions `before`.

        Raises: what `Policy.parse` raises, ChainBroken, PolicyKeysShared; what `Withdrawal.open`
            raises.
        """
        agreed = before.agreement if before else None
        earlier = [v.envelope for v in agreed.versions] if agreed else []
        known = [w.envelope for w in agreed.withdrawals] if agreed else []
        return cls.from_envelopes(
            [*earlier, Envelope(dsse.POLICY, raw, ())],
            known_roots,
            [*known, *(w for w in withdrawals if w not in known)],
        )

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
        if self.withdrawals:
            document |= {"withdrawals": [w.envelope.as_json() for w in self.withdrawals]}
        return (json.dumps(document, indent=1) + "\n").encode("ascii")

    def require_complete(self) -> CompleteAgreement:
        """Every version has the signatures that it and the versions before it ask for.

        Raises: AgreementIncomplete, PredecessorNotConsenting, KeyChangeUnsigned.
        """
        chain = Chain()
        for version in self.versions:
            _require_signed(version)
            chain.add(version.policy)
            before = version.policy.version - 1
            chain.require_consent(version, self.withdrawn(since=before, until=before))
        return CompleteAgreement(self, _TOKEN)

    def withdrawn(self, *, since: int, until: int = VERSIONS_CAP) -> frozenset[str]:
        """The parties with a withdrawal from one of these versions as the newest it covers."""
        documents = (w.document for w in self.withdrawals)
        return frozenset(w.party for w in documents if since <= w.version <= until)


_MEMBERS = frozenset({"schema", "versions"})


def _listed(document: dict[str, Any], name: str, least: int) -> list[Any]:
    listed = document.get(name, [])
    if not isinstance(listed, list) or not least <= len(listed) <= VERSIONS_CAP:
        raise EnvelopeMalformed(
            f"agreement.{name}", expected=f"{least} to {VERSIONS_CAP} envelopes", found="other"
        )
    return listed


def _require_signed(version: SignedPolicy) -> None:
    """Raises: AgreementIncomplete."""
    policy = version.policy
    if missing := version.missing_by(policy):
        raise AgreementIncomplete(
            f"agreement on {policy.study} version {policy.version}",
            expected=_rule_text(policy),
            found=f"{len(version.votes_by(policy))} signed, missing: {', '.join(missing)}",
        )


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
                earlier = Agreement(self.agreement.versions[:count], self.agreement.withdrawals)
                held = CompleteAgreement(earlier, _TOKEN)
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


def _rule_text(policy: Policy) -> str:
    threshold = policy.agreement.threshold
    count = "all" if threshold == "all" else f"{threshold} of"
    return f"signatures of {count} {len(policy.voters)} voting parties and every dataset owner"
