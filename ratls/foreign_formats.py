"""Formats of other projects' certificates, as a table: where the quote is, what it commits to.

    FORMATS["gramine"].unbound     # what a certificate of this format does not prove

Facts and sources: docs/channel.md 2.1. Nothing here decides; `ratls.foreign_certificate` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ratls.certificate import EnclaveCertificateKeyUnsuitable
from verifier import der as der_of
from verifier.quote import strip_file_padding

DICE = "2.23.133.5.4.9"
MIN_RSA = 2048  # bits: a shorter key can be had by who only sees the certificate
Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def unsuitable(found: str) -> EnclaveCertificateKeyUnsuitable:
    return EnclaveCertificateKeyUnsuitable(
        "certificate key",
        expected=f"EC P-256 or P-384, or RSA with {MIN_RSA} bits",
        found=found,
        fix="have the server make a stronger key, of a usual kind",
    )


# How the extension's content becomes a quote, and what the quote's report data must be.


def _bare(value: bytes) -> bytes:
    return value


def _in_octets(value: bytes) -> bytes:
    return der_of.content(value, der_of.OCTET_STRING)


def _padded(value: bytes) -> bytes:
    return strip_file_padding(_in_octets(value))


def _in_report(value: bytes) -> bytes:
    """`oe_report_header_t`: version 1, type 2 (remote), size of the quote, little-endian."""
    header, quote = value[:16], value[16:]
    if header != (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + len(quote).to_bytes(
        8, "little"
    ):
        raise ValueError("no remote Open Enclave report")
    return quote


def _spki(key: Key, spki: bytes) -> bytes:
    """As carried: RFC 5280, section 4.1.2.7."""
    return hashlib.sha256(spki).digest()


def _pem(key: Key, spki: bytes) -> bytes:
    """PUBLIC KEY, in lines of 64: RFC 7468, section 13."""
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(text + b"\0").digest()


def _pkcs1(key: Key, spki: bytes) -> bytes:
    """RSAPublicKey: RFC 8017, appendix A.1.1."""
    if not isinstance(key, rsa.RSAPublicKey):
        raise unsuitable("no RSA key")
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest()


def _point(key: Key, spki: bytes) -> bytes:
    """Uncompressed: RFC 5480, section 2.2."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise unsuitable("no EC key")
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha512(point).digest()


@dataclass(frozen=True, slots=True)
class Format:
    """One producer's certificate, as it is read here."""

    name: str
    producer: str
    oids: tuple[str, ...]  #     of the evidence, as dotted text; one of them, once
    binding: str  #              what the report data commits to, in words
    quote: Callable[[bytes], bytes] = _bare
    digest: Callable[[Key, bytes], bytes] | None = None  # None: claims, as in channel.md 3.3
    claims_hash: str = "sha256"
    more_claims: bool = False  # than the one that names the key
    beside: tuple[str, ...] = ()  # further evidence that this producer adds; not judged
    issued: bool = False  #       by an authority that is not in the certificate
    note: str = ""

    @property
    def unbound(self) -> tuple[str, ...]:
        """What such a certificate leaves open, in sentences."""
        found = [
            "nonce: none of this verifier's is in it; it may be an old copy",
            "role: the evidence of a server can be shown by a client, and the reverse",
            "policy: it does not say which agreement the enclave obeys",
            "instance: a restarted enclave, or another on the same code, looks alike",
        ]
        if self.issued:
            found.append("issuer: the authority that signed the certificate is not checked")
        return (*found, *([self.note] if self.note else []))

    @property
    def binds(self) -> dict[str, bool]:
        """For machines: what the evidence commits to."""
        return {"key": True, "nonce": False, "role": False, "policy": False, "instance": False}


_GRAMINE_LEGACY = ("0.6.9.42.840.113741.1337.6", "1.2.840.113741.1337.6")
_REPORT_OIDS = ("1.2.840.113556.10.1.1", "1.3.6.1.4.1.311.105.1")
_CLAIMS = "SHA-256 of the claims, which name the key"
FORMATS = {
    one.name: one
    for one in (
        Format("gramine", "Gramine 1.8 and later", (DICE,), _CLAIMS, beside=_GRAMINE_LEGACY),
        Format(
            "gramine-legacy",
            "Gramine and Graphene, the older extension",
            _GRAMINE_LEGACY,
            "SHA-256 of the SubjectPublicKeyInfo",
            digest=_spki,
            beside=(DICE,),
        ),
        Format("intel-sdk", "Intel SGX SDK 2.22 and later", (DICE,), _CLAIMS),
        Format(
            "intel-sdk-tdx",
            "Intel's TDX build of the same",
            (DICE,),
            "SHA-384 of the claims, which name the key",
            claims_hash="sha384",
        ),
        Format(
            "intel-sdk-legacy",
            "older Intel SGX SDKs",
            ("1.2.840.113741.1.13.1",),
            "SHA-256 of the key as PEM, with its NUL",
            digest=_pem,
        ),
        Format(
            "rats-tls",
            "rats-tls and librats",
            (DICE,),
            _CLAIMS,
            more_claims=True,
            note="claims: a nonce or others in it were chosen by the enclave's caller",
        ),
        Format(
            "rats-tls-legacy",
            "old rats-tls, with an RSA key",
            ("1.2.840.113741.1337.6",),
            "SHA-256 of the key as PKCS #1",
            digest=_pkcs1,
        ),
        Format(
            "open-enclave",
            "Open Enclave SDK",
            _REPORT_OIDS,
            "SHA-256 of the key as PEM, with its NUL",
            quote=_in_report,
            digest=_pem,
        ),
        Format(
            "azure-attestation",
            "signing certificates of Microsoft Azure Attestation",
            _REPORT_OIDS[:1],
            "SHA-256 of the key as PEM, with its NUL",
            quote=_in_octets,
            digest=_pem,
            beside=("1.2.840.113556.10.1.2",),
        ),
        Format(
            "ego",
            "EGo",
            _REPORT_OIDS[1:],
            "SHA-256 of the SubjectPublicKeyInfo",
            quote=_in_report,
            digest=_spki,
        ),
        Format(
            "dstack",
            "dstack, certificates of its KMS",
            ("1.3.6.1.4.1.62397.1.1",),
            "SHA-512 of the uncompressed point",
            quote=_padded,
            digest=_point,
            issued=True,
            note="events: the log beside the quote is not replayed",
        ),
    )
}
