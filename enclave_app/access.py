"""Who a peer is, and what it may do. Only its certificate decides, no message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from policy.channel import ChannelCertificate
from policy.document import Policy
from policy.sections import Computation, Dataset, Party
from ratls.errors import AuthorizationError, PeerIdentityError
from ratls.flight_server import party_of
from verifier.errors import ConfigError


class ServerWouldNotAuthenticate(ConfigError):
    """The server would be built without the check of its clients' certificates."""

    code = "server-would-not-authenticate"
    default_fix = "list a channel certificate for each party in the policy"


class ChannelIdentityShared(ConfigError):
    """Two parties could not be told apart by their channel certificates."""

    code = "channel-identity-shared"
    default_fix = "give each party an id and a channel key of its own"
    says = "channel certificates share a name or a key: {found}"


def client_roots(certificates: Sequence[ChannelCertificate]) -> bytes:
    """PEM of exactly the certificates that may connect; the server accepts no others.

    Raises:
        ServerWouldNotAuthenticate: There are none.
        ChannelIdentityShared: Two have one name or one key.
    """
    if not certificates:
        raise ServerWouldNotAuthenticate("clients", expected="certificates", found="none")
    names = Counter(certificate.party_id for certificate in certificates)
    keys = Counter(certificate.spki_sha256 for certificate in certificates)
    shared = {c.party_id for c in certificates if names[c.party_id] > 1 or keys[c.spki_sha256] > 1}
    if shared:
        raise ChannelIdentityShared(
            "clients", expected="a name and a key each", found=", ".join(sorted(shared))
        )
    return "".join(certificate.pem for certificate in certificates).encode("ascii")


class PeerUnknown(PeerIdentityError):
    """The channel certificate is that of no party in the policy."""

    code = "peer-unknown"
    default_fix = "use the channel certificate that the policy lists for your party"


def identify(policy: Policy, auth_context: Mapping[str, Sequence[bytes]]) -> Party:
    """The party behind an authenticated connection; no token or header counts (threats I06).

    Args:
        auth_context: As gRPC gives it: the certificate that TLS has compared with the policy's.

    Raises:
        PeerUnknown: It is that of no party, or of one that only operates.
    """
    party = party_of(policy, auth_context)
    if party is not None:
        return party
    raise PeerUnknown("peer", expected="a party of the policy", found="another certificate")


class ReleaseNotAuthorized(AuthorizationError):
    """The dataset is not the peer's, not an input of the task, or does not exist."""

    code = "release-not-authorized"
    default_fix = "release a dataset that is yours and an input of the task's computation"


def require_release(
    policy: Policy, party: Party, computation: Computation, dataset_id: str
) -> Dataset:
    """The dataset, if this party may release it for this computation.

    Raises:
        ReleaseNotAuthorized: The same for a dataset of another owner, one that is no input, and
            one that does not exist: the answer must not tell them apart.
    """
    dataset = policy.dataset_by_id(dataset_id)
    if dataset is None or dataset.owner != party.id or dataset.id not in computation.inputs:
        raise ReleaseNotAuthorized("dataset", expected="an own input of the task", found="another")
    return dataset


class ReasonNotAgreed(AuthorizationError):
    """The policy does not let providers ask why a result was denied."""

    code = "reason-not-agreed"
    default_fix = 'agree on a policy with `reasons = "own input"` in the computation\'s release'


def require_reason(
    policy: Policy, party: Party, computation: Computation, dataset_id: str
) -> Dataset:
    """The dataset, if its owner may ask which rule it breaks.

    Raises:
        ReleaseNotAuthorized: It is not this party's input, as `require_release` says.
        ReasonNotAgreed: The policy gives no reasons.
    """
    dataset = require_release(policy, party, computation, dataset_id)
    if computation.release.reasons is None:
        raise ReasonNotAgreed("reason", expected="one that the policy gives", found="none")
    return dataset


class CollectNotAuthorized(AuthorizationError):
    """The peer is no recipient of the task's computation."""

    code = "collect-not-authorized"
    default_fix = "have a recipient that the policy names fetch the result"


def require_collect(party: Party, computation: Computation) -> None:
    """The party must be a recipient of this computation.

    Raises:
        CollectNotAuthorized: It is not.
    """
    if party.id not in computation.recipients:
        raise CollectNotAuthorized("result", expected="a recipient of the task", found="another")
