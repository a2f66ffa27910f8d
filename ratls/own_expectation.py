"""What a party expects of an enclave, from its own files as they are at this moment.

    expected = own_expectation(agreement, party, collateral, anchors, state=folder)

Whatever judges a connection that lasts asks again: a new version in the file, a withdrawal
or a distrusted key in the state folder, and newer revocation lists count from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from policy.agreement_file import open_agreement
from policy.journal import Reading, has_begun
from policy.options import known_state
from policy.party import LocalParty
from policy.seen import require_newest
from policy.state import StudyState
from policy.withdrawal import PartyWithdrew
from ratls.appraise import Expectation
from ratls.session import utc_now
from verifier.anchors import TrustAnchors
from verifier.bundles import read_collateral
from verifier.user_folder import user_folder


def own_expectation(
    agreement: Path,
    party: Path,
    collateral: Path,
    anchors: Callable[[str], TrustAnchors],
    *,
    state: Path | None = None,
    enclave: str | None = None,
) -> Expectation:
    """Read agreement, state and collateral, and compare them with what this party has signed.

    Args:
        party: Its folder.
        anchors: Of the root that the policy names; refuses one that the caller does not allow.
        state: Its state folder; the user's own, if left out.
        enclave: One enclave of the policy; any of them, if left out.

    Raises:
        RatlsError: A file cannot be read; the agreement is not this party's, is not in force, is
            older than one that was accepted here, or this party has withdrawn from it; or the
            collateral is older than some that was seen here.
    """
    folder = user_folder("state") if state is None else state
    known = known_state(folder)
    brought = open_agreement(agreement, party=party, digest=None, state=known)
    policy = brought.ready(brought.agreed.in_force(utc_now()).policy)
    brought.compare(policy)
    if known is not None:
        StudyState(known).require_newest(brought.agreed.policy)
    own = LocalParty.load(party).party_id
    if own in brought.withdrawn_from(policy):
        raise PartyWithdrew(
            f"policy {policy.study} version {policy.version}", expected="your party", found=own
        )
    roots = anchors(policy.platform.root)
    bundle = read_collateral(collateral)
    records = Reading.of(folder).records if has_begun(folder) else ()
    require_newest(folder, records, bundle, roots)
    return Expectation(policy, bundle, roots, enclave)
