"""Judge the evidence that a peer sent: its certificate, and its answer to a challenge.

    admitted = appraise_certificate(der, expectation, at=now)
    fresh = appraise_challenge(evidence, admitted, challenge, expectation, at=now)

Both run the same chain: evidence, binding, claims, then the quote up to Intel's root, then the
policy. `AdmittedCertificate` and `FreshEvidence` exist only as results of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum

from policy.admission import Admission, AdmissionCheck, admit, named_enclaves
from policy.document import Policy
from policy.values import Digest, Nonce
from ratls.certificate import check_certificate
from ratls.claims import ROLE_SERVER, CertificateClaims, ChallengeClaims, require_equal, require_key
from ratls.evidence import Evidence
from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal, CheckRecord, Outcome
from verifier.appraisal_log import AppraisalLog
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.verify import QuoteCheck, VerifiedQuote, verify_quote


class CertificateCheck(StrEnum):
    """Checks on a certificate before its quote is verified."""

    PROFILE = "certificate-profile"
    EVIDENCE = "certificate-evidence"
    REPORT_DATA = "certificate-report-data"
    CLAIMS = "certificate-claims"


class ChallengeCheck(StrEnum):
    """Checks on the answer to a challenge before its quote is verified."""

    EVIDENCE = "challenge-evidence"
    REPORT_DATA = "challenge-report-data"
    CLAIMS = "challenge-claims"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The verifier's own policy, collateral and roots. Nothing in it comes from the peer.

    Endorsements (RFC 9334, section 8.2) and reference values (RFC 9334, section 8.3).
    """

    policy: Policy
    collateral: Collateral
    roots: TrustAnchors
    enclave_name: str | None = None  # one `[[enclave]]` of the policy; None means any of them
    role: bytes = ROLE_SERVER  # of the peer in this connection

    def __post_init__(self) -> None:
        """Raises: EnclaveNotInPolicy."""
        named_enclaves(self.policy, self.enclave_name)  # told now, not of a peer's measurement

    def claims(self, context: bytes) -> dict[str, bytes]:
        """The claims whose values follow from the policy and the roots."""
        return {
            "context": context,
            "role": self.role,
            "mode": self.roots.mode.value.encode(),
            "policy-hash": self.policy.digest,
        }

    def admit(
        self, verified: VerifiedQuote, events: tuple[bytes, ...] | None, at: datetime
    ) -> Admission:
        """The policy's own checks; `events` are those that the evidence states.

        Raises: what `policy.admission.admit` raises.
        """
        name = self.enclave_name
        return admit(self.policy, verified, at=at, enclave_name=name, rtmr3_events=events)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What this verifier asked for. Sizes in bytes."""

    nonce: Nonce  #             32, fresh and its own
    peer_spki_sha256: bytes  #  32, of its own channel certificate
    task_digest: Digest  #      32, zero without a task
    sealing_key_hash: bytes = b""  # 32, of the key that came with the answer; empty for none
    binder: bytes = b""  # 32, own exporter value for the peer's end; empty where there is none


_SEAL = object()


@dataclass(frozen=True, slots=True)
class AdmittedCertificate:
    """A certificate whose enclave the policy admits. Whether it is there now: FreshEvidence.

    An attestation result in the words of RFC 9334, section 8.4.
    """

    der: bytes
    spki: bytes
    claims: CertificateClaims
    verified: VerifiedQuote
    admission: Admission
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        _require_seal(seal, self.appraisal)

    def __repr__(self) -> str:
        enclave, instance = self.admission.enclave.name, self.claims.instance.hex()
        return f"<AdmittedCertificate of {enclave}, instance {instance}>"


@dataclass(frozen=True, slots=True)
class FreshEvidence:
    """Evidence made for this nonce, this party and this task, by the enclave of the certificate.

    Fresh by its nonce: RFC 9334, section 10.2.
    """

    raw: bytes
    claims: ChallengeClaims
    verified: VerifiedQuote
    admission: Admission
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        _require_seal(seal, self.appraisal)

    def __repr__(self) -> str:
        enclave, instance = self.admission.enclave.name, self.claims.instance.hex()
        return f"<FreshEvidence of {enclave}, instance {instance}>"


def _require_seal(seal: object, appraisal: Appraisal) -> None:
    if seal is not _SEAL or any(r.outcome is not Outcome.PASSED for r in appraisal.records):
        raise TypeError("only an appraisal that passed makes this")


def appraise_certificate(
    der: bytes, expectation: Expectation, *, at: datetime
) -> AdmittedCertificate:
    """Decide whether this certificate may be pinned.

    Args:
        der: As taken from the handshake.
        expectation: The verifier's own policy, collateral and roots.
        at: Moment of judgement, aware, UTC.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
    """
    log = AppraisalLog(CertificateCheck)
    with _to_be_followed_by(QuoteCheck, AdmissionCheck):
        with log.check(CertificateCheck.PROFILE):
            certificate = check_certificate(der, at)
        with log.check(CertificateCheck.EVIDENCE):
            evidence = Evidence.parse(certificate.evidence)
        with log.check(CertificateCheck.REPORT_DATA):
            evidence.require_bound()
        with log.check(CertificateCheck.CLAIMS) as note:
            claims = CertificateClaims.parse(evidence.claims)
            require_equal(claims, expectation.claims(claims.CONTEXT), certificate.spki)
            _note_unknown(note, claims)
    verified, admission, appraisal = _appraise_quote(
        evidence.quote, claims.events, expectation, at, log.close()
    )
    return AdmittedCertificate(der, certificate.spki, claims, verified, admission, appraisal, _SEAL)


def presented_quote(der: bytes, *, at: datetime) -> bytes:
    """The quote in a certificate of the profile, which is about this certificate's key.

    It is not verified: this serves to fetch the collateral with which it can be.

    Raises:
        RatlsError: The certificate is not of the profile, or its evidence is about something else.
    """
    certificate = check_certificate(der, at)
    evidence = Evidence.parse(certificate.evidence)
    evidence.require_bound()
    require_key(CertificateClaims.parse(evidence.claims).pubkey_hash, certificate.spki)
    return evidence.quote


def appraise_challenge(
    raw: bytes,
    admitted: AdmittedCertificate,
    challenge: Challenge,
    expectation: Expectation,
    *,
    at: datetime,
) -> FreshEvidence:
    """Decide whether the enclave behind the pinned certificate answered this very challenge.

    Key, instance and receipt key must be those of the certificate; everything else is compared
    with the verifier's own values.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
    """
    own = expectation.claims(ChallengeClaims.CONTEXT) | {
        "instance": admitted.claims.instance,
        "receipt-key-hash": admitted.claims.receipt_key_hash,
        "peer-hash": challenge.peer_spki_sha256,
        "task-hash": challenge.task_digest,
        "sealing-key-hash": challenge.sealing_key_hash,
        "binder": challenge.binder,
        "nonce": challenge.nonce,
    }
    return appraise_fresh(raw, own, admitted.spki, expectation, at=at)


def appraise_fresh(
    raw: bytes, own: dict[str, bytes], spki: bytes, expectation: Expectation, *, at: datetime
) -> FreshEvidence:
    """The chain of a challenge's answer, against values that are all given.

    Callers outside a connection (receipts) take them from a document whose signature and
    meaning they have checked.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
    """
    log = AppraisalLog(ChallengeCheck)
    with _to_be_followed_by(QuoteCheck, AdmissionCheck):
        with log.check(ChallengeCheck.EVIDENCE):
            evidence = Evidence.parse(raw)
        with log.check(ChallengeCheck.REPORT_DATA):
            evidence.require_bound()
        with log.check(ChallengeCheck.CLAIMS) as note:
            claims = ChallengeClaims.parse(evidence.claims)
            _require_all_given(own)
            require_equal(claims, own, spki)
            _note_unknown(note, claims)
    verified, admission, appraisal = _appraise_quote(
        evidence.quote, claims.events, expectation, at, log.close()
    )
    return FreshEvidence(raw, claims, verified, admission, appraisal, _SEAL)


def require_still_admitted(
    admitted: AdmittedCertificate, fresh: FreshEvidence, expectation: Expectation, *, at: datetime
) -> None:
    """Judge again, at this instant, what a connection that lasts once proved (D15).

    Raises:
        RatlsError: Certificate, collateral, platform or policy have turned against it meanwhile.
    """
    appraise_certificate(admitted.der, expectation, at=at)
    quote = Evidence.parse(fresh.raw).quote
    verified = verify_quote(quote, expectation.collateral, roots=expectation.roots, at=at)
    expectation.admit(verified, fresh.claims.events, at)


def _require_all_given(own: dict[str, bytes]) -> None:
    # A claim left out here would pass unread: that is a bug and must not look like a verdict.
    if own.keys() != set(ChallengeClaims.names()) - {"pubkey-hash"}:
        raise AssertionError(f"claims left out: {sorted(own)}")


def _note_unknown(note: Callable[[str], None], claims: CertificateClaims) -> None:
    if claims.unknown:
        note(f"ignored claims: {', '.join(ascii(name) for name in claims.unknown)}")


def _appraise_quote(
    quote: bytes,
    events: tuple[bytes, ...] | None,
    expectation: Expectation,
    at: datetime,
    before: Appraisal,
) -> tuple[VerifiedQuote, Admission, Appraisal]:
    with preceded_by(before):
        with _to_be_followed_by(AdmissionCheck):
            verified = verify_quote(quote, expectation.collateral, roots=expectation.roots, at=at)
        admission = expectation.admit(verified, events, at)
    return verified, admission, before + admission.appraisal


@contextmanager
def preceded_by(before: Appraisal) -> Iterator[None]:
    """Add the checks that passed before the block to the record of a refusal inside it."""
    try:
        yield
    except RatlsError as refusal:
        refusal.appraisal = before + (refusal.appraisal or Appraisal())
        raise


@contextmanager
def _to_be_followed_by(*checks: type[StrEnum]) -> Iterator[None]:
    """Add the checks that come after the block, as not reached, to a refusal inside it."""
    try:
        yield
    except RatlsError as refusal:
        rest = tuple(CheckRecord(c.value, Outcome.NOT_REACHED) for kind in checks for c in kind)
        refusal.appraisal = (refusal.appraisal or Appraisal()) + Appraisal(rest)
        raise
