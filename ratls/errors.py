"""Refusals of the attested connection: evidence, claims, certificate, transport, stream.

Order and branches follow the trust chain: can the evidence be read, is it bound to this
connection, is it fresh, did the peer keep to the protocol.
"""

from __future__ import annotations

from policy.errors import PolicyConflictError, ResourceLimitError, ResultBindingError
from verifier.errors import (
    CollateralFetchError,
    ConfigError,
    Exit,
    ModeMismatchError,
    RatlsError,
)

# Branches. Names: threats.md section 3.


class EvidenceFormatError(RatlsError):
    """The certificate or its evidence cannot be read strictly."""

    exit_status = Exit.UNUSABLE


class PeerIdentityError(RatlsError):
    """The authenticated peer is nobody that the policy knows."""

    exit_status = Exit.NOT_GENUINE


class AuthorizationError(RatlsError):
    """A known peer asks for what is not its to ask."""

    exit_status = Exit.NOT_ADMITTED


class EvidenceMissingError(RatlsError):
    """The peer shows no evidence at all."""

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


# Can it be read?


class EnclaveCertificateMalformed(EvidenceFormatError):
    """The bytes are not one X.509 certificate in DER."""

    code = "enclave-certificate-malformed"
    default_fix = "the peer must present one plain DER certificate; rebuild the enclave's software"


class EnclaveCertificateOversized(EvidenceFormatError):
    """The certificate is larger than any that carries one piece of evidence."""

    code = "enclave-certificate-oversized"
    default_fix = "the peer is not an enclave of this project"


class EvidenceMalformed(EvidenceFormatError):
    """The evidence is not tag 60000 with quote and claims, in the strict form."""

    code = "evidence-malformed"
    exit_status = Exit.NOT_GENUINE  # unreadable evidence is none
    default_fix = "the peer must produce interoperable RA-TLS evidence (CBOR tag 60000)"


class ClaimsMalformed(EvidenceFormatError):
    """The claims are not a strict CBOR map of text to byte strings of the right sizes."""

    code = "claims-malformed"
    exit_status = Exit.NOT_GENUINE  # unreadable evidence is none
    default_fix = "the peer must write its claims as ratls/1 does"


class EvidenceMissing(EvidenceMissingError):
    """The certificate has no evidence extension 2.23.133.5.4.9."""

    code = "evidence-missing"
    default_fix = "check the address: this is no attested enclave, or one of another format"


class EvidenceAmbiguous(EvidenceAmbiguousError):
    """There are several pieces of evidence in one certificate."""

    code = "evidence-ambiguous"
    default_fix = "the enclave's certificate must carry the extension 2.23.133.5.4.9 once, alone"


# May it be pinned?


class EvidenceCritical(CertificateProfileError):
    """The evidence extension is marked critical, which no pinned TLS client would accept."""

    code = "evidence-critical"
    default_fix = "the enclave must mark its evidence non-critical"


class EnclaveCertificateIsAuthority(CertificateProfileError):
    """The certificate is not marked CA:FALSE, so its key could admit other certificates."""

    code = "enclave-certificate-is-authority"
    default_fix = "the enclave's certificate must say CA:FALSE"


class EnclaveCertificateKeyUnsuitable(CertificateProfileError):
    """The key is not an EC key on P-256 or P-384 in its plain encoding."""

    code = "enclave-certificate-key-unsuitable"
    default_fix = "the enclave's key must be P-256 or P-384, named curve, uncompressed"


class EnclaveCertificateNotSelfSigned(CertificateProfileError):
    """The certificate is not signed by its own key, or was issued by someone else."""

    code = "enclave-certificate-not-self-signed"
    default_fix = "an enclave signs its own certificate; check the address"


class EnclaveCertificateNameWrong(CertificateProfileError):
    """The certificate does not carry exactly the one name that clients ask for."""

    code = "enclave-certificate-name-wrong"
    default_fix = "the enclave's certificate must have the single SAN enclave.ratls.invalid"


class EnclaveCertificateUsageWrong(CertificateProfileError):
    """Key usage or extended key usage are not those of a TLS end entity."""

    code = "enclave-certificate-usage-wrong"
    default_fix = "the certificate needs digitalSignature, serverAuth and clientAuth"


class EnclaveCertificateChainPresented(BindingError):
    """The peer sent more than its own certificate, so evidence could sit where no key is used."""

    code = "enclave-certificate-chain-presented"
    default_fix = "the enclave must send one certificate"


# Is it bound?


class ReportDataUnbound(BindingError):
    """The quote was not made over these claims."""

    code = "report-data-unbound"
    default_fix = "do not connect: the quote was made for something else"


class ClaimMissing(BindingError):
    """The evidence does not commit to something that it must commit to."""

    code = "claim-missing"
    default_fix = "the peer does not speak ratls/1"


class ClaimOfAnotherPurpose(BindingError):
    """Evidence for a certificate carries claims of a challenge."""

    code = "claim-of-another-purpose"
    default_fix = "do not connect: the evidence was made for another exchange"


class ContextMismatch(BindingError):
    """The evidence was made for another purpose or protocol version."""

    code = "context-mismatch"
    default_fix = "do not connect: the evidence was made for another exchange"


class RoleMismatch(BindingError):
    """The evidence was made for the other role, or is a reflection."""

    code = "role-mismatch"
    default_fix = "do not connect: the evidence was made for another role"


class KeyUnbound(BindingError):
    """The evidence is about another TLS key than the one shown."""

    code = "key-unbound"
    default_fix = "do not connect: someone shows the evidence of another server"


class InstanceChanged(BindingError):
    """The enclave that answers is another start than the one that was verified."""

    code = "instance-changed"
    default_fix = "the enclave restarted: verify it again; what was released needs a new task"


class ReceiptKeyUnbound(BindingError):
    """The evidence does not vouch for the key that signs receipts."""

    code = "receipt-key-unbound"
    default_fix = "do not rely on this receipt"


class ReceiptOutsidePolicy(ResultBindingError):
    """The document names parties, datasets or a computation that the policy does not combine."""

    code = "receipt-outside-policy"
    default_fix = "use the agreement under which the document was made"


class PeerHashMismatch(BindingError):
    """The evidence was made for another party."""

    code = "peer-hash-mismatch"
    default_fix = (
        "someone forwards another party's challenge, or the enclave knows you by another key"
    )


class TaskHashMismatch(BindingError):
    """The evidence was made for another task."""

    code = "task-hash-mismatch"
    default_fix = "someone forwards the evidence of another task"


class PolicyHashMismatch(PolicyConflictError):
    """The enclave serves another policy."""

    code = "policy-hash-mismatch"
    default_fix = "compare `ratls policy show` on both sides; the enclave must serve your agreement"


class ModeClaimMismatch(ModeMismatchError):
    """The evidence says simulation where production is demanded, or the reverse."""

    code = "mode-claim-mismatch"
    default_fix = "production and simulation never meet; check the address and the policy's root"


# Is it fresh?


class NonceMismatch(FreshnessError):
    """The evidence answers another nonce: it is a replay."""

    code = "nonce-mismatch"
    # Somebody answered with evidence of another moment: that is a verdict, not a lack of one.
    exit_status = Exit.NOT_GENUINE
    default_fix = "do not connect: old evidence is being replayed"


class EnclaveCertificateLongLived(FreshnessError):
    """The certificate is valid for longer than an enclave's start should last."""

    code = "enclave-certificate-long-lived"
    exit_status = Exit.NOT_GENUINE
    default_fix = "the enclave must make its certificate at start, for seven days at most"


class EnclaveCertificateNotCurrent(FreshnessError):
    """The certificate does not cover the instant of judgement."""

    code = "enclave-certificate-not-current"
    default_fix = "check this machine's clock; restart the enclave if its certificate has expired"


class NoFreshProof(FreshnessError):
    """Only the certificate was judged, and it could be a copy of an old one."""

    code = "no-fresh-proof"
    default_fix = "name your party with --party DIR, or say --certificate-only if that is enough"


class CollateralNotNamed(CollateralFetchError):
    """There is no collateral to judge a quote with."""

    code = "collateral-not-named"
    default_fix = (
        "ratls collateral fetch --enclave HOST:PORT -o FILE "
        "--from https://api.trustedservices.intel.com; then name it: --collateral"
    )


# Does this machine do its part?


class AttesterUnknown(AttesterError):
    """No attester of that name is installed here."""

    code = "attester-unknown"
    default_fix = "use --attester simulation:DIR with --allow-simulation"


class AttesterMixedUp(AttesterError):
    """The attester returned a quote over something else than what was asked."""

    code = "attester-mixed-up"
    default_fix = "let only one program at a time ask this machine's attester"


class SgxAbsent(EvidenceMissingError):
    """This process does not run inside an SGX enclave under Gramine."""

    code = "sgx-absent"
    exit_status = Exit.UNUSABLE  # nobody was judged: it is this machine that shows no evidence
    default_fix = "start the enclave with gramine-sgx; gramine-direct protects nothing"


class RemoteAttestationOff(EvidenceMissingError):
    """The enclave's manifest does not ask for DCAP quotes."""

    code = "remote-attestation-off"
    exit_status = Exit.UNUSABLE
    default_fix = 'the manifest must say sgx.remote_attestation = "dcap"; sign it again'


class QuoteNotMade(AttesterError):
    """The platform or its quoting service could not make a report or a quote."""

    code = "quote-not-made"
    default_fix = "the cause stands in Gramine's log on the host: look for the AESM error there"


class AttestationDeviceUnusable(AttesterError):
    """A file of the attestation device does not behave as Gramine's does."""

    code = "attestation-device-unusable"
    default_fix = "run the enclave under the Gramine version that its manifest was made for"


class QuoteOfAnotherEnclave(AttesterError):
    """The host's quoting service answered with a quote of another enclave."""

    code = "quote-of-another-enclave"
    default_fix = "the host hands out foreign quotes: restart its quoting service, or do not use it"


class EnvironmentUnsafe(ConfigError):
    """An environment variable would write keys or traffic to a log."""

    code = "environment-unsafe"
    default_fix = "unset the variable and start again"


class AddressMalformed(ConfigError):
    """An address is not HOST:PORT."""

    code = "address-malformed"
    default_fix = "write HOST:PORT, for example 127.0.0.1:7443 or [::1]:7443"


class PinUnusable(ConfigError):
    """There is not exactly one verified certificate to pin, or the address is not numeric."""

    code = "pin-unusable"
    default_fix = "probe and appraise the enclave at a resolved address first"


# Did the other side do its part?


class PeerUnreachable(TransportError):
    """No connection to the address could be made."""

    code = "peer-unreachable"
    default_fix = "is the enclave running, and is the address right?"


class HandshakeFailed(TransportError):
    """The peer does not complete a TLS 1.3 handshake with a certificate."""

    code = "handshake-failed"
    default_fix = "the peer must speak TLS 1.3 and present its certificate"


class HandshakeOversized(TransportError):
    """The peer sends more than any handshake has, and does not end it."""

    code = "handshake-oversized"
    default_fix = "the peer is not an enclave of this project; check the address"


class CallFailed(TransportError):
    """The connection broke, or never opened, during a call."""

    code = "call-failed"
    default_fix = (
        "verify the enclave again: it may have stopped, restarted with another certificate, "
        "or refused your channel certificate"
    )


class DeadlineExceeded(TransportError):
    """The peer did not finish in the time given."""

    code = "deadline-exceeded"
    default_fix = "try again, or give more time with --timeout"


class AnswerMissing(TransportError):
    """The stream ended where an answer was due."""

    code = "answer-missing"
    default_fix = "nothing is known to have arrived; try again with the same task and enclave"


class PeerRefused(TransportError):
    """The other side refused, and says why with one of its codes."""

    code = "peer-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the enclave's answer",
            expected="the next message",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id


class MessageUnexpected(StreamIntegrityError):
    """A message is malformed, or not the one that is due."""

    code = "message-unexpected"
    default_fix = "both sides must run the same version"


class SequenceBroken(StreamIntegrityError):
    """A batch is missing, doubled or out of order."""

    code = "sequence-broken"
    default_fix = "release again with the same task"


class StreamTruncated(StreamIntegrityError):
    """The stream ended before its commit: nothing of it counts."""

    code = "stream-truncated"
    default_fix = "release again with the same task"


class MessageOversized(ResourceLimitError):
    """One message exceeds its cap."""

    code = "message-oversized"
    exit_status = Exit.PEER
    default_fix = "send smaller batches (1 to 4 MiB)"


class StreamOversized(ResourceLimitError):
    """The rows or bytes of a whole stream exceed their cap."""

    code = "stream-oversized"
    exit_status = Exit.PEER
    default_fix = "the policy's max_rows limits a dataset"


class AnswerNotOpened(ResourceLimitError):
    """The peer's answer is compressed, larger than its kind may be, or rows: it was not opened."""

    code = "answer-not-opened"
    exit_status = Exit.PEER
    default_fix = "the enclave must run the agreed version: its answers are small and plain"
