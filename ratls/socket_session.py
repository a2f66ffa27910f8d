"""Who is at the other end of an attested connection, and the session of such a connection.

session = session_of(tls, shown, verifier, seconds, client=True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policy.document import Policy
from ratls.appraise import AdmittedCertificate
from ratls.evidence import Allowance
from ratls.session import Challenger, Session, Verifier, binder
from ratls.tls import Shown, TlsEnd


@dataclass(frozen=True, slots=True)
class SocketPeer:
    """The other end, by its certificate: a party of the policy, or an enclave that it admits."""

    spki_sha256: bytes
    party: str | None
    admitted: AdmittedCertificate | None

    @property
    def name(self) -> str:
        """For slots and logs."""
        if self.party is not None:
            return self.party
        assert self.admitted is not None
        return f"enclave {self.admitted.claims.instance.hex()}"


def session_of(
    tls: TlsEnd[SocketPeer],
    shown: Shown,
    verifier: Verifier | None,
    seconds: Callable[[], float],
    *,
    client: bool,
    policy: Policy | None = None,
    still: Callable[[], None] = lambda: None,
) -> Session:
    """The session of a connection whose handshake has ended.

    Args:
        policy: Of this end, where it is an enclave; what it verifies by, if left out.
        still: As for `Session`.
    """
    peer = tls.peer
    challenger = None
    if peer.admitted is not None:
        assert verifier is not None
        theirs = binder(tls.export, tls.peer_der)
        challenger = Challenger(peer.admitted, shown.spki_sha256, verifier, binder=theirs)
    if policy is None and shown.prover is not None:
        assert verifier is not None
        policy = verifier.expect().policy
    return Session(
        client=client,
        prover=shown.prover,
        peer_spki_sha256=peer.spki_sha256,
        own_binder=binder(tls.export, shown.der),
        challenger=challenger,
        still=still,
        seconds=seconds,
        allowance=None if policy is None else Allowance.agreed(policy, seconds),
    )
