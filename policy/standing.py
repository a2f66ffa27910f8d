"""What a journal says about agreements: which were accepted, who withdrew, what is distrusted.

    standing = Standing.of(records)
    standing.accepted[policy.study].version
    standing.withdrawn_from(policy)         # parties that take no part in it any more
    standing.require_trusted(policy)        # or a refusal: it, or a key in it, is distrusted here

Only the journal decides. It is a hash chain, so nothing in it can be taken back unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policy.document import Policy, digest_text
from policy.errors import PolicyTrustError
from policy.journal_chain import JournalRecord
from policy.journal_entries import AcceptedEntry, DistrustedEntry, WithdrawnEntry
from policy.references import key_ids
from policy.withdrawal import PartyWithdrew


class Distrusted(PolicyTrustError):
    """This party distrusts the policy, or a key that it lists."""

    code = "distrusted"
    default_fix = (
        "agree on a new version without it; if it was listed by mistake, run "
        "`ratls policy distrust DIGEST --lift`"
    )
    says = "{thing} is distrusted here: {found}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Read from the whole journal; later records count over earlier ones."""

    accepted: Mapping[str, AcceptedEntry]  #                  the newest, by study
    withdrawn: Mapping[tuple[str, str], WithdrawnEntry]  #    the newest, by study and party
    distrusted: frozenset[str]  #                             digests of keys and policies

    @classmethod
    def of(cls, records: Iterable[JournalRecord]) -> Standing:
        accepted: dict[str, AcceptedEntry] = {}
        withdrawn: dict[tuple[str, str], WithdrawnEntry] = {}
        distrusted: set[str] = set()
        for entry in (record.entry for record in records):
            match entry:
                case AcceptedEntry():  # versions only grow, so the last is the newest
                    accepted[entry.study] = entry
                case WithdrawnEntry():
                    before = withdrawn.get((entry.study, entry.party))
                    if before is None or before.version <= entry.version:
                        withdrawn[entry.study, entry.party] = entry
                case DistrustedEntry(lifted=False):
                    distrusted.add(entry.digest)
                case DistrustedEntry():
                    distrusted.discard(entry.digest)
        return cls(accepted, withdrawn, frozenset(distrusted))

    def withdrawn_from(self, policy: Policy) -> frozenset[str]:
        """The parties whose withdrawal covers this version."""
        return frozenset(
            party
            for (study, party), entry in self.withdrawn.items()
            if study == policy.study and entry.version >= policy.version
        )

    def require_return(self, policy: Policy, keyids: frozenset[str]) -> None:
        """A party that withdrew is listed again only with its own signature, at any threshold.

        Args:
            keyids: Of the keys that signed this policy.

        Raises: PartyWithdrew.
        """
        for party in policy.party:
            if (policy.study, party.id) in self.withdrawn and party.signing_key.keyid not in keyids:
                raise PartyWithdrew(
                    f"study {policy.study}, and version {policy.version} lacks its signature",
                    expected="its signature, or a version without it",
                    found=party.id,
                )

    def require_trusted(self, policy: Policy) -> None:
        """P22: it is not distrusted here, and no key that it lists is. Raises: Distrusted."""
        if not self.distrusted:
            return
        thing = f"policy {policy.study} version {policy.version}"
        for name, digest in named_digests(policy):
            if digest in self.distrusted:
                raise Distrusted(thing, expected="none that is", found=f"{name}, {digest}")


def named_digests(policy: Policy) -> list[tuple[str, str]]:
    """What in a policy can be distrusted: itself and each key; what it is, and its digest."""
    found = [("the policy itself", digest_text(policy.digest))]
    for party in policy.party:
        for purpose, keyid in key_ids(party).items():
            found.append((f"{purpose} of {party.id}", f"sha256:{keyid}"))
        shown = f"sha256:{party.channel_certificate.fingerprint}"
        found.append((f"channel_certificate of {party.id}", shown))
    return found
