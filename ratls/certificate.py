"""The enclave's certificate: how it is built, and what a pinned one must look like.

A self-signed certificate has no authority: its maker chooses everything in it but the evidence.
The profile exists because of what TLS stacks do with a pinned certificate: with CA:TRUE it admits
every certificate that its key signs (docs/flight.md 1.2), a critical evidence extension is refused
by all of them (RFC 5280, section 4.2), and a name is needed to connect at all. The profile:
docs/channel.md 2.2 and 3.1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from policy.channel import self_signed
from ratls.errors import (
    CertificateProfileError,
    EvidenceAmbiguousError,
    EvidenceFormatError,
    EvidenceMissingError,
    FreshnessError,
)
from verifier import der as der_of
from verifier.errors import Exit

# A name to pin, not to look up: .invalid never resolves (RFC 6761, section 6.4).
ENCLAVE_NAME = "enclave.ratls.invalid"
EVIDENCE_OID = x509.ObjectIdentifier("2.23.133.5.4.9")
ENDORSEMENTS_OID = x509.ObjectIdentifier("2.23.133.5.4.2")
MAX_CERTIFICATE = 64 * 1024
MAX_VALIDITY = timedelta(days=7)
VALIDITY = timedelta(hours=12)

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

# Formats of other producers (docs/channel.md 2.1). None is read here; beside ours it is ambiguous.
FOREIGN_EVIDENCE = {
    "0.6.9.42.840.113741.1337.6": "Gramine's legacy quote",
    "1.2.840.113741.1337.6": "a legacy quote",
    "1.2.840.113741.1.13.1": "a quote of old Intel SDKs, or an Intel PCK certificate",
    "1.2.840.113556.10.1.1": "an Open Enclave report",
    "1.2.840.113556.10.1.2": "Open Enclave evidence",
    "1.3.6.1.4.1.311.105.1": "an Open Enclave report",
    "1.3.6.1.4.1.311.105.2": "Open Enclave evidence",
    "1.3.6.1.4.1.62397.1.1": "a quote of dstack",
}


@dataclass(frozen=True, slots=True)
class EnclaveCertificate:
    """A certificate that may be pinned once its evidence is verified."""

    der: bytes
    spki: bytes  #      DER as carried in the certificate
    evidence: bytes  #  content of the evidence extension, unread


def check_certificate(der: bytes, at: datetime) -> EnclaveCertificate:
    """Read a peer's certificate and hold it against the profile.

    Raises:
        EvidenceFormatError: Not one X.509 certificate.
        EvidenceMissingError, EvidenceAmbiguousError: Not exactly one piece of evidence.
        CertificateProfileError: It may not be pinned.
        FreshnessError: It does not cover `at`, or covers too much.
    """
    certificate = load_certificate(der)
    evidence = _evidence(certificate)
    spki = _key(certificate)
    _require_self_signed(certificate)
    _require_end_entity(certificate)
    _require_name(certificate)
    _require_current(certificate, at)
    return EnclaveCertificate(der, spki, evidence)


class EnclaveCertificateOversized(EvidenceFormatError):
    """The certificate is larger than any that carries one piece of evidence."""

    code = "enclave-certificate-oversized"
    default_fix = "check the address: the peer is no enclave of this project"


class EvidenceAmbiguous(EvidenceAmbiguousError):
    """There are several pieces of evidence in one certificate."""

    code = "evidence-ambiguous"
    default_fix = (
        "check the address: an enclave shows the extension 2.23.133.5.4.9 once, and no other"
    )


def load_certificate(der: bytes) -> x509.Certificate:
    """One X.509 certificate, read to its end; held against nothing.

    Raises: EnclaveCertificateOversized, EnclaveCertificateMalformed, EvidenceAmbiguous.
    """
    if len(der) > MAX_CERTIFICATE:
        raise EnclaveCertificateOversized(
            "certificate", expected=f"at most {MAX_CERTIFICATE} bytes", found=f"{len(der)}"
        )
    try:
        # What one version of the library warns about, another refuses (old mbedTLS writes an
        # ECDSA algorithm with a NULL): the verdict must not depend on the version.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            certificate = x509.load_der_x509_certificate(der)
            # Parsed lazily by the library: touched here so that later reads cannot fail.
            _ = certificate.extensions, certificate.subject, certificate.issuer
            _ = certificate.signature_algorithm_oid, certificate.serial_number
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        # The library accepts several encodings of one signature, this code only the DER one:
        # RFC 5280, section 4.1.1.3.
        if der_of.content(der_of.children(der)[2], der_of.BIT_STRING)[:1] != b"\0":
            raise ValueError("unused bits in the signature")
    except x509.DuplicateExtension as error:  # one of each: RFC 5280, section 4.2
        if error.oid == EVIDENCE_OID:
            raise EvidenceAmbiguous("certificate", expected="one", found="several") from error
        raise _malformed(f"the extension {error.oid.dotted_string} twice") from error
    except (
        ValueError,
        TypeError,
        Warning,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise _malformed("something else") from error
    return certificate


def as_der(content: bytes) -> bytes:
    """The DER of a certificate file, which may be PEM (RFC 7468, section 5.1) with one in it.

    Raises:
        EnclaveCertificateMalformed: PEM with none, several, or an unreadable one.
    """
    # Only at the start: inside, the quote of a DER certificate carries Intel's chain as PEM.
    if not content.lstrip().startswith(b"-----BEGIN"):
        return content
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise _malformed("unreadable PEM") from error
    if len(found) != 1:
        raise _malformed(f"{len(found)} of them")
    return found[0].public_bytes(Encoding.DER)


class EnclaveCertificateMalformed(EvidenceFormatError):
    """The bytes are not one X.509 certificate in DER."""

    code = "enclave-certificate-malformed"
    default_fix = "check the file or the address: it must be one certificate of an enclave"


def _malformed(found: str) -> EnclaveCertificateMalformed:
    return EnclaveCertificateMalformed("certificate", expected="one X.509 certificate", found=found)


class EvidenceMissing(EvidenceMissingError):
    """The certificate has no evidence extension 2.23.133.5.4.9."""

    code = "evidence-missing"
    default_fix = "check the address: the peer is no attested enclave, or one of another format"


class EvidenceCritical(CertificateProfileError):
    """The evidence extension is marked critical, which no pinned TLS client would accept."""

    code = "evidence-critical"
    default_fix = "check the address: an enclave marks its evidence as not critical"


def _evidence(certificate: x509.Certificate) -> bytes:
    ours = [e for e in certificate.extensions if e.oid == EVIDENCE_OID]
    foreign = [
        FOREIGN_EVIDENCE[e.oid.dotted_string]
        for e in certificate.extensions
        if e.oid.dotted_string in FOREIGN_EVIDENCE
    ]
    if not ours:
        # No fallback to a weaker format: an attacker would strip the evidence to get it.
        raise EvidenceMissing(
            "certificate",
            expected="the evidence extension 2.23.133.5.4.9",
            found=", ".join(foreign) or "none",
        )
    if foreign:
        raise EvidenceAmbiguous("certificate", expected="one format", found=f"also {foreign[0]}")
    if ours[0].critical:
        raise EvidenceCritical("evidence extension", expected="non-critical", found="critical")
    content = ours[0].value
    if not isinstance(content, x509.UnrecognizedExtension):
        raise _malformed("an evidence extension that the library reads as something else")
    return content.value


def _key(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsuitable("an unreadable key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _unsuitable("another kind of key")
    if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise _unsuitable(key.curve.name)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # The same key has other encodings with other hashes: compressed points (RFC 5480, section 2.2),
    # explicit curves (RFC 5480, section 2.1.1). Only one, carried literally, is taken.
    if carried_spki(certificate.tbs_certificate_bytes) != spki:
        raise _unsuitable("another encoding of the key")
    return spki


class EnclaveCertificateKeyUnsuitable(CertificateProfileError):
    """The key is not an EC key on P-256 or P-384 in its plain encoding."""

    code = "enclave-certificate-key-unsuitable"
    default_fix = "check the address: an enclave's key is P-256 or P-384, uncompressed"


def _unsuitable(found: str) -> EnclaveCertificateKeyUnsuitable:
    return EnclaveCertificateKeyUnsuitable(
        "certificate key", expected="EC P-256 or P-384", found=found
    )


def carried_spki(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo exactly as it stands in a TBSCertificate (DER, version 3).

    It follows version, serial number, signature algorithm, issuer, validity and subject: RFC 5280,
    section 4.1.
    """
    return der_of.children(tbs)[6]


def _require_self_signed(certificate: x509.Certificate) -> None:
    try:
        if certificate.issuer != certificate.subject:
            raise _issued("another issuer")
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _issued("a signature that does not hold") from error


class EnclaveCertificateNotSelfSigned(CertificateProfileError):
    """The certificate is not signed by its own key, or was issued by someone else."""

    code = "enclave-certificate-not-self-signed"
    default_fix = "check the address: an enclave signs its own certificate"


def _issued(found: str) -> EnclaveCertificateNotSelfSigned:
    return EnclaveCertificateNotSelfSigned("certificate", expected="its own signature", found=found)


class EnclaveCertificateIsAuthority(CertificateProfileError):
    """The certificate is not marked CA:FALSE, so its key could admit other certificates."""

    code = "enclave-certificate-is-authority"
    default_fix = "check the address: an enclave's certificate says CA:FALSE"


class EnclaveCertificateUsageWrong(CertificateProfileError):
    """Key usage or extended key usage are not those of a TLS end entity."""

    code = "enclave-certificate-usage-wrong"
    default_fix = "check the address: an enclave uses digitalSignature, serverAuth, clientAuth"


def _require_end_entity(certificate: x509.Certificate) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    # Absent counts as CA, unlike in RFC 5280, section 4.2.1.9: grpcio accepts a leaf signed by a
    # pinned certificate without it.
    if constraints is None or constraints.ca:
        raise EnclaveCertificateIsAuthority(
            "basic constraints",
            expected="CA:FALSE",
            found="none" if constraints is None else "CA:TRUE",
        )
    usage = _extension(certificate, x509.KeyUsage)  # RFC 5280, section 4.2.1.3
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise EnclaveCertificateUsageWrong(
            "key usage", expected="digitalSignature", found="another"
        )
    purposes = _extension(certificate, x509.ExtendedKeyUsage)  # RFC 5280, section 4.2.1.12
    if purposes is None or set(purposes) != {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }:
        raise EnclaveCertificateUsageWrong(
            "extended key usage", expected="serverAuth and clientAuth", found="another"
        )


class EnclaveCertificateNameWrong(CertificateProfileError):
    """The certificate does not carry exactly the one name that clients ask for."""

    code = "enclave-certificate-name-wrong"
    default_fix = "check the address: an enclave's only name is enclave.ratls.invalid"


def _require_name(certificate: x509.Certificate) -> None:
    names = _extension(certificate, x509.SubjectAlternativeName)  # RFC 5280, section 4.2.1.6
    if names is None or list(names) != [x509.DNSName(ENCLAVE_NAME)]:
        raise EnclaveCertificateNameWrong(
            "subject alternative name",
            expected=f"only {ENCLAVE_NAME}",
            found="none" if names is None else "another",
        )


class EnclaveCertificateLongLived(FreshnessError):
    """The certificate is valid for longer than an enclave's start should last."""

    code = "enclave-certificate-long-lived"
    exit_status = Exit.NOT_GENUINE
    default_fix = "check the address: an enclave's certificate is valid for seven days at most"


class EnclaveCertificateNotCurrent(FreshnessError):
    """The certificate does not cover the instant of judgement."""

    code = "enclave-certificate-not-current"
    says = "the enclave's certificate is valid {expected}, and it is {found}"
    default_fix = (
        "check this machine's clock, then connect again; "
        "the enclave's log says why it has no newer one"
    )


def _require_current(certificate: x509.Certificate, at: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end - start > MAX_VALIDITY:
        raise EnclaveCertificateLongLived(
            "certificate", expected=f"at most {MAX_VALIDITY.days} days", found=str(end - start)
        )
    if not start <= at <= end:  # both belong to it: RFC 5280, section 4.1.2.5
        raise EnclaveCertificateNotCurrent(
            "certificate", expected=f"from {start:%FT%TZ} to {end:%FT%TZ}", found=f"{at:%FT%TZ}"
        )


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def build_certificate(
    key: ec.EllipticCurvePrivateKey,
    evidence: bytes,
    instance: bytes,
    serial: int,
    at: datetime,
    endorsements: bytes = b"",
) -> x509.Certificate:
    """The self-signed certificate of one key of an enclave's start; valid for twelve hours.

    Args:
        endorsements: Content of the extension with collateral; none if empty. Verifiers believe
            Intel's signatures in it, so it may come from the host.
    """
    stapled = [x509.UnrecognizedExtension(ENDORSEMENTS_OID, endorsements)] if endorsements else []
    # Two pins with one subject confuse TLS stacks, so each name is another: instance and serial.
    return self_signed(
        key,
        f"ratls-enclave-{instance.hex()}-{serial % 2**32:08x}",
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        known_as=x509.DNSName(ENCLAVE_NAME),
        at=at,
        lifetime=VALIDITY,
        serial=serial,
        further=[x509.UnrecognizedExtension(EVIDENCE_OID, evidence), *stapled],
    )
