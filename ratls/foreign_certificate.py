"""Certificates of other attested-TLS projects, each read as the one format that the caller names.

    found = appraise_foreign(der, FORMATS["gramine"], bundle, accept, roots=roots, at=now)
    found.format.unbound      # what such a certificate does not prove, to be said with the verdict

Nothing is guessed: a certificate of another format is refused, and no other format is tried. None
of them is fresh, and none can be pinned for rows: `AdmittedCertificate` is another type. Formats:
docs/channel.md 2.1. What the strict library refuses for its form alone (old mbedTLS writes a NULL
into an algorithm: RFC 5758, section 3.2) is read by a lenient one; every check is the same.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from asn1crypto import core, pem, x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from ratls.appraise import preceded_by
from ratls.certificate import (
    FOREIGN_EVIDENCE,
    MAX_CERTIFICATE,
    EnclaveCertificateMalformed,
    EnclaveCertificateNotCurrent,
    EnclaveCertificateNotSelfSigned,
    EnclaveCertificateOversized,
    EvidenceAmbiguous,
    EvidenceCritical,
    EvidenceMissing,
    carried_spki,
)
from ratls.claims import KeyUnbound, parse_claim_map, require_key
from ratls.errors import EvidenceFormatError
from ratls.evidence import Evidence, ReportDataUnbound
from ratls.foreign_formats import DICE, MIN_RSA, Format, Key, unsuitable
from verifier import der as der_of
from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal, Outcome
from verifier.appraisal_log import AppraisalLog
from verifier.collateral import Collateral
from verifier.errors import Exit
from verifier.quote import Quote
from verifier.verify import VerifiedQuote, verify_quote

_HASHES: dict[str, hashes.HashAlgorithm] = {
    # SHA-1 too: this signature is by the certificate's own key, and nothing rests on it.
    "sha1": hashes.SHA1(),  # noqa: S303
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class ForeignCheck(StrEnum):
    """Checks on such a certificate before its quote is verified."""

    CERTIFICATE = "foreign-certificate"
    EVIDENCE = "foreign-evidence"
    KEY = "foreign-key"


class EvidenceOfAnotherFormat(EvidenceFormatError):
    """The evidence extension does not hold what the named format puts there."""

    code = "evidence-of-another-format"
    exit_status = Exit.NOT_GENUINE
    default_fix = "name the format that the server's software writes; none is tried in its place"


_SEAL = object()


@dataclass(frozen=True, slots=True)
class ForeignCertificate:
    """A certificate with a verified quote about its own key. Neither fresh nor fit to be pinned."""

    format: Format
    subject: str
    authority: bool  # CA:TRUE: its key can issue certificates
    verified: VerifiedQuote
    appraisal: Appraisal
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL or any(
            r.outcome is not Outcome.PASSED for r in self.appraisal.records
        ):
            raise TypeError("a ForeignCertificate is made by appraise_foreign alone")


def appraise_foreign(
    der: bytes,
    format: Format,
    collateral: Collateral,
    accept: Callable[[VerifiedQuote], Appraisal],
    *,
    roots: TrustAnchors,
    at: datetime,
) -> ForeignCertificate:
    """Decide whether this certificate holds a genuine, acceptable quote about its own key.

    Args:
        der: As taken from the handshake, or a file.
        format: The one that it must have.
        collateral: Of its platform.
        accept: `verifier.accept`, or a policy's admission; its appraisal covers the quote too.
        roots, at: As for `verify_quote`.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
    """
    log = AppraisalLog(ForeignCheck)
    with log.check(ForeignCheck.CERTIFICATE) as note:
        certificate = _load(der)
        key, spki = _key(der)
        _require_signed(certificate, der, key, format)
        _require_current(certificate, at)
        note(format.producer)
    with log.check(ForeignCheck.EVIDENCE) as note:
        value, ignored = _evidence(certificate, format)
        quote, claims = _quote(value, format)
        if ignored:
            note(f"not judged: {', '.join(ignored)}")
    with log.check(ForeignCheck.KEY) as note:
        _require_bound(Quote.parse(quote).report.report_data, format, claims, key, spki)
        note(format.binding)
    before = log.close()
    with preceded_by(before):
        verified = verify_quote(quote, collateral, roots=roots, at=at)
        appraisal = before + accept(verified)
    subject = certificate.subject.human_friendly
    return ForeignCertificate(format, subject, certificate.ca is True, verified, appraisal, _SEAL)


def foreign_quote(der: bytes, format: Format) -> bytes:
    """The quote in such a certificate, not verified: to fetch its collateral with.

    Raises: RatlsError, as `appraise_foreign` before it verifies the quote.
    """
    return _quote(_evidence(_load(der), format)[0], format)[0]


def foreign_der(content: bytes, format: Format) -> bytes:
    """The DER of a certificate file, which may be PEM with one in it (RFC 7468, section 5.1).

    Where an authority issued it, that one's may follow: the first is the server's own.

    Raises:
        EnclaveCertificateMalformed: PEM with none, too many, or an unreadable one.
    """
    if not content.lstrip().startswith(b"-----BEGIN"):
        return content
    try:
        found = [der for _, _, der in pem.unarmor(content, multiple=True)]
    except (ValueError, TypeError) as error:
        raise _malformed("unreadable PEM") from error
    if not found or (len(found) > 1 and not format.issued):
        raise _malformed(f"{len(found)} of them")
    return bytes(found[0])


def _load(der: bytes) -> Any:
    if len(der) > MAX_CERTIFICATE:
        raise EnclaveCertificateOversized(
            "certificate", expected=f"at most {MAX_CERTIFICATE} bytes", found=f"{len(der)}"
        )
    try:
        # The strict reader looks at the frame; the lenient one at what is inside.
        parts = der_of.children(der)
        if len(parts) != 3 or der_of.content(parts[2], der_of.BIT_STRING)[:1] != b"\0":
            raise ValueError("no certificate")
        certificate = x509.Certificate.load(der, strict=True)
        _ = certificate.native  # read to its end now, so that nothing fails later
        _ = certificate.subject.human_friendly, certificate.ca
        _ = certificate.not_valid_before, certificate.not_valid_after
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise _malformed() from error
    found = [e["extn_id"].dotted for e in certificate["tbs_certificate"]["extensions"]]
    # One of each: RFC 5280, section 4.2.
    if twice := sorted(oid for oid, count in Counter(found).items() if count > 1):
        if twice[0] in (DICE, *FOREIGN_EVIDENCE):
            raise EvidenceAmbiguous("certificate", expected="one", found="several")
        raise _malformed(f"the extension {twice[0]} twice")
    return certificate


def _malformed(found: str = "something else") -> EnclaveCertificateMalformed:
    return EnclaveCertificateMalformed("certificate", expected="one X.509 certificate", found=found)


def _key(der: bytes) -> tuple[Key, bytes]:
    spki = carried_spki(der_of.children(der)[0])
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise unsuitable("an unreadable key") from error
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA:
            raise unsuitable(f"RSA with {key.key_size} bits")
    elif not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        raise unsuitable("another kind of key")
    # One key has several encodings with other digests; only the usual one is taken (B14): a named
    # curve (RFC 5480, section 2.1.1), an RSA key with its NULL (RFC 3279, section 2.3.1).
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise unsuitable("another encoding of the key")
    return key, spki


def _require_signed(certificate: Any, der: bytes, key: Key, format: Format) -> None:
    if format.issued:
        return  # its authority is not here: `unbound` says so
    tbs, _, signature = der_of.children(der)
    algorithm = certificate["signature_algorithm"]
    try:
        # Both are the same: RFC 5280, section 4.1.1.2.
        if certificate["tbs_certificate"]["signature"].dump() != algorithm.dump():
            raise ValueError("two algorithms")
        if certificate.issuer != certificate.subject:
            raise ValueError("another issuer")
        signed = der_of.content(signature, der_of.BIT_STRING)[1:]
        digest = _HASHES[algorithm.hash_algo]
        # RFC 8017, section 8.2 and RFC 5758, section 3.2.
        if isinstance(key, rsa.RSAPublicKey) and algorithm.signature_algo == "rsassa_pkcs1v15":
            key.verify(signed, tbs, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm.signature_algo == "ecdsa":
            key.verify(signed, tbs, ec.ECDSA(digest))
        else:
            raise ValueError("another algorithm")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError) as error:
        raise EnclaveCertificateNotSelfSigned(
            "certificate",
            expected="its own signature",
            found="another issuer, or a signature that does not hold",
            fix="do not connect: the certificate is not the one that its key signed",
        ) from error


def _require_current(certificate: Any, at: datetime) -> None:
    start, end = certificate.not_valid_before, certificate.not_valid_after
    if not start <= at <= end:  # RFC 5280, section 4.1.2.5
        raise EnclaveCertificateNotCurrent(
            "certificate", expected=f"from {start:%FT%TZ} to {end:%FT%TZ}", found=f"{at:%FT%TZ}"
        )


def _evidence(certificate: Any, format: Format) -> tuple[bytes, list[str]]:
    """The content of this format's extension, and the names of evidence that is left aside."""
    there = {
        e["extn_id"].dotted: e
        for e in certificate["tbs_certificate"]["extensions"]
        if e["extn_id"].dotted in (DICE, *FOREIGN_EVIDENCE)
    }
    names = {DICE: "RA-TLS evidence"} | FOREIGN_EVIDENCE
    ours = [oid for oid in there if oid in format.oids]
    if not ours:
        raise EvidenceMissing(
            "certificate",
            expected=f"the extension {' or '.join(format.oids)} of {format.producer}",
            found=", ".join(names[oid] for oid in there) or "none",
            fix="name the format that the server's software writes; none is tried in its place",
        )
    others = [oid for oid in there if oid != ours[0]]
    if wrong := [oid for oid in others if oid not in format.beside]:
        raise EvidenceAmbiguous(
            "certificate", expected="one format", found=f"also {names[wrong[0]]}"
        )
    extension = there[ours[0]]
    if extension["critical"].native:
        raise EvidenceCritical("evidence extension", expected="non-critical", found="critical")
    value: core.OctetString = extension["extn_value"]
    return bytes(value.contents), [names[oid] for oid in others]


def _quote(value: bytes, format: Format) -> tuple[bytes, bytes]:
    """Quote and claims; no claims where the format has none."""
    if format.digest is None:
        evidence = Evidence.parse(value)
        return evidence.quote, evidence.claims
    try:
        return format.quote(value), b""
    except ValueError as error:
        raise _another_format(format) from error


def _another_format(format: Format) -> EvidenceOfAnotherFormat:
    return EvidenceOfAnotherFormat(
        "evidence extension", expected=f"what {format.producer} writes", found="something else"
    )


def _require_bound(found: bytes, format: Format, claims: bytes, key: Key, spki: bytes) -> None:
    """All 64 bytes of the report data, zeros behind the digest included."""
    if format.digest is None:
        expected = hashlib.new(format.claims_hash, claims).digest()
    else:
        expected = format.digest(key, spki)
    if not hmac.compare_digest(found, expected.ljust(64, b"\0")):
        leaf = ReportDataUnbound if format.digest is None else KeyUnbound
        raise leaf("report data of the quote", expected=format.binding, found="another digest")
    if format.digest is None:
        found_claims = parse_claim_map(claims)
        if len(found_claims) > 1 and not format.more_claims:
            raise _another_format(format)
        require_key(found_claims["pubkey-hash"], spki)
