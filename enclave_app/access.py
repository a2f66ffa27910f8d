"""Who a peer is, and what it may do. The certificate decides, nothing that the peer says."""

from __future__ import annotations

from collections.abc import Sequence

from enclave_app.errors import (
    ChannelIdentityShared,
    CollectNotAuthorized,
    PeerUnknown,
    ReasonNotAgreed,
    ReleaseNotAuthorized,
    ServerWouldNotAuthenticate,
)
from policy.channel import URI_PREFIX, ChannelCertificate
from policy.document import Computation, Dataset, Party, Policy


def client_roots(certificates: Sequence[ChannelCertificate]) -> bytes:
    """PEM of exactly the certificates that may connect; the server believes nothing else.

    Raises:
        ServerWouldNotAuthenticate: There are none.
        ChannelIdentityShared: Two have one name or one key.
    """
    if not certificates:
        raise ServerWouldNotAuthenticate("clients", expected="certificates", found="none")
    names = {certificate.party_id for certificate in certificates}
    keys = {certificate.spki_sha256 for certificate in certificates}
    # Flight tells a handler the certificate's name and nothing else: it must tell parties apart.
    if not len(names) == len(keys) == len(certificates):
        raise ChannelIdentityShared("clients", expected="a name and a key each", found="one twice")
    return "".join(certificate.pem for certificate in certificates).encode("ascii")


def identify(policy: Policy, peer_identity: bytes) -> Party:
    """The party behind an authenticated connection.

    Args:
        peer_identity: Flight's word for the first name in the client's certificate, which TLS
            has compared with the policy's certificates, byte for byte.

    Raises:
        PeerUnknown: No such party, or one that only operates.
    """
    for party in policy.voters:
        if peer_identity == f"{URI_PREFIX}{party.id}".encode():
            return party
    raise PeerUnknown("peer", expected="a party of the policy", found="another name")


def require_release(
    policy: Policy, party: Party, computation: Computation, dataset_id: str
) -> Dataset:
    """The dataset, if this party may release it for this computation.

    Raises:
        ReleaseNotAuthorized: Alike for a dataset of another owner, one that is no input, and
            one that does not exist: the answer must not tell them apart.
    """
    dataset = policy.dataset_by_id(dataset_id)
    if dataset is None or dataset.owner != party.id or dataset.id not in computation.inputs:
        raise ReleaseNotAuthorized("dataset", expected="an own input of the task", found="another")
    return dataset


def require_reason(
    policy: Policy, party: Party, computation: Computation, dataset_id: str
) -> Dataset:
    """The dataset, if its owner may ask which rule it breaks.

    Raises:
        ReleaseNotAuthorized: It is not this party's input, as `require_release` says.
        ReasonNotAgreed: The policy gives nobody reasons.
    """
    dataset = require_release(policy, party, computation, dataset_id)
    if computation.release.reasons is None:
        raise ReasonNotAgreed("reason", expected="one that the policy gives", found="none")
    return dataset


def require_collect(party: Party, computation: Computation) -> None:
    """The party must be a recipient of this computation.

    Raises:
        CollectNotAuthorized: It is not.
    """
    if party.id not in computation.recipients:
        raise CollectNotAuthorized("result", expected="a recipient of the task", found="another")
