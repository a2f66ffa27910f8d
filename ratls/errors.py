"""Branches of the refusals of the attested connection: evidence, claims, certificate, stream.

Order and branches follow the trust chain: can the evidence be read, is it bound to this
connection, is it fresh, did the peer keep to the protocol.
"""

from __future__ import annotations

from verifier.errors import Exit, RatlsError

# Branches. All leaves: docs/errors.md.


class EvidenceFormatError(RatlsError):
    """The certificate or its evidence cannot be read strictly."""

    exit_status = Exit.UNUSABLE


class PeerIdentityError(RatlsError):
    """The authenticated peer is not in the policy."""

    exit_status = Exit.NOT_GENUINE


class AuthorizationError(RatlsError):
    """A known peer asks for something that the policy does not let it have."""

    exit_status = Exit.NOT_ADMITTED


class EvidenceMissingError(RatlsError):
    """The peer shows no evidence."""

    exit_status = Exit.NOT_GENUINE


class EvidenceAmbiguousError(RatlsError):
    """The certificate can be read in two ways."""

    exit_status = Exit.NOT_GENUINE


class CertificateProfileError(RatlsError):
    """The certificate is readable, yet not one that may be pinned."""

    exit_status = Exit.NOT_GENUINE


class BindingError(RatlsError):
    """The evidence is about another key, connection, peer, task or purpose."""

    exit_status = Exit.NOT_GENUINE


class FreshnessError(RatlsError):
    """Nothing proves that the evidence belongs to this moment."""

    exit_status = Exit.UNDECIDED


class AttesterError(RatlsError):
    """This machine cannot produce evidence."""

    exit_status = Exit.UNUSABLE


class TransportError(RatlsError):
    """The peer cannot be reached, or the connection failed."""

    exit_status = Exit.PEER


class StreamIntegrityError(RatlsError):
    """The messages of a stream are not complete, in order and as agreed."""

    exit_status = Exit.PEER


# Leaves that several modules raise.


class AttesterMixedUp(AttesterError):
    """The attester returned a quote over other bytes than those given."""

    code = "attester-mixed-up"
    default_fix = "let only one program at a time use this machine's attester"


class DeadlineExceeded(TransportError):
    """The peer did not finish in the time given."""

    code = "deadline-exceeded"
    default_fix = "try again, or give more time with --timeout"
    says = "{thing} did not come in time"


class CallFailed(TransportError):
    """The connection broke, or never opened, during a call."""

    code = "call-failed"
    default_fix = (
        "verify the enclave again: it may have stopped, restarted with another certificate, "
        "or refused your channel certificate"
    )
    says = "{thing} failed: {found}"
