"""Certificates and CRLs in Intel's profile, as forms that are altered first and signed last.

    form = replace(form, not_after=yesterday).extended(x509.BasicConstraints(True, None))
    form.issue().der

Profile: dcap.md 2.2 and 3.8. Names carry Intel's common names, which verifiers check, and an
organisation that cannot be mistaken.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from simulation import der
from verifier.ecdsa import ORDER

Random: TypeAlias = Callable[[int], bytes]
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ORGANISATION = "Simulation - not Intel"

_ECDSA_WITH = {
    "sha1": "1.2.840.10045.4.1",
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
}
_RSA_WITH_SHA256 = "1.2.840.113549.1.1.11"


def new_key(random: Random = os.urandom) -> ec.EllipticCurvePrivateKey:
    """A P-256 key from 48 random bytes (FIPS 186-5 A.2.1: extra bits keep the scalar unbiased)."""
    scalar = int.from_bytes(random(48), "big") % (ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """x || y, 32 bytes each, big-endian: how quotes write a P-256 key."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """r || s, 32 bytes each, big-endian, deterministic (RFC 6979): quotes and collateral."""
    signature = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def new_serial(random: Random = os.urandom) -> int:
    """A positive serial number of at most 20 octets (RFC 5280, 4.1.2.2)."""
    return int.from_bytes(random(20), "big") >> 1 or 1


def intel_name(common_name: str, organisation: str = ORGANISATION) -> x509.Name:
    """CN, O, L, ST, C in Intel's order."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """keyCertSign and cRLSign for a CA; digitalSignature and nonRepudiation for the others."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, slots=True)
class Extension:
    """One X.509 extension; `value` is the DER inside its octet string."""

    oid: str
    value: bytes
    critical: bool = False

    @classmethod
    def of(cls, value: x509.ExtensionType, *, critical: bool = False) -> Self:
        return cls(value.oid.dotted_string, value.public_bytes(), critical)

    def encode(self) -> bytes:
        flag = der.boolean(True) if self.critical else b""
        return der.sequence(der.oid(self.oid), flag, der.octet_string(self.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What certificates and CRLs have in common before they are signed."""

    issuer: x509.Name
    signer: PrivateKey
    extensions: tuple[Extension, ...]
    algorithm: hashes.HashAlgorithm
    outer_algorithm: hashes.HashAlgorithm | None = None  # None: the one that is signed

    def extended(self, value: x509.ExtensionType | Extension, *, critical: bool = False) -> Self:
        """With this extension in the place of the one with its OID, or at the end."""
        new = value if isinstance(value, Extension) else Extension.of(value, critical=critical)
        if all(old.oid != new.oid for old in self.extensions):
            return replace(self, extensions=(*self.extensions, new))
        kept = tuple(new if old.oid == new.oid else old for old in self.extensions)
        return replace(self, extensions=kept)

    def without(self, kind: type[x509.ExtensionType]) -> Self:
        """Without the extension of this kind."""
        kept = tuple(e for e in self.extensions if e.oid != kind.oid.dotted_string)
        return replace(self, extensions=kept)

    def _signed(self, body: bytes) -> bytes:
        outer = _algorithm_identifier(self.signer, self.outer_algorithm or self.algorithm)
        if isinstance(self.signer, rsa.RSAPrivateKey):
            signature = self.signer.sign(body, padding.PKCS1v15(), self.algorithm)
        else:
            # Deterministic, so that a world made from the same random bytes is the same world.
            scheme = ec.ECDSA(self.algorithm, deterministic_signing=True)
            signature = self.signer.sign(body, scheme)
        return der.sequence(body, outer, der.bit_string(signature))

    def _encoded_extensions(self) -> bytes:
        return der.sequence(*(e.encode() for e in self.extensions))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateForm(Form):
    """A certificate before it is signed. Validity is inclusive at both ends."""

    subject: x509.Name
    serial: int
    not_before: datetime
    not_after: datetime
    key: PrivateKey
    version: int = 3  # 1 writes neither version nor extensions

    def named(self, common_name: str) -> Self:
        """With another subject CN."""
        return replace(self, subject=intel_name(common_name))

    def issue(self) -> Issued:
        """Sign."""
        version3 = self.version == 3
        body = der.sequence(
            der.tlv(0xA0, der.integer(2)) if version3 else b"",
            der.integer(self.serial),
            _algorithm_identifier(self.signer, self.algorithm),
            self.issuer.public_bytes(),
            der.sequence(der.time(self.not_before), der.time(self.not_after)),
            self.subject.public_bytes(),
            spki(self.key),
            der.tlv(0xA3, self._encoded_extensions()) if version3 else b"",
        )
        return Issued(
            der=self._signed(body),
            key=self.key,
            subject=self.subject,
            serial=self.serial,
            key_identifier=self._key_identifier(),
        )

    def _key_identifier(self) -> bytes:
        wanted = x509.SubjectKeyIdentifier.oid.dotted_string
        found = next((e.value for e in self.extensions if e.oid == wanted), None)
        # An OCTET STRING of less than 128 bytes: two bytes of tag and length stand before it.
        return found[2:] if found else key_identifier(self.key)


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed certificate with its key, and what is needed to issue below it."""

    der: bytes
    key: PrivateKey
    subject: x509.Name
    serial: int
    key_identifier: bytes

    @property
    def pem(self) -> str:
        return ssl.DER_cert_to_PEM_cert(self.der)

    @property
    def spki_sha256(self) -> bytes:
        return hashlib.sha256(spki(self.key)).digest()

    @property
    def ec_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, where it has to sign what only ECDSA signs."""
        if not isinstance(self.key, ec.EllipticCurvePrivateKey):
            raise TypeError("quotes and collateral are signed with P-256 keys")
        return self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class CrlForm(Form):
    """A revocation list before it is signed; `next_update` None leaves it out."""

    this_update: datetime
    next_update: datetime | None
    revoked: tuple[int, ...] = ()
    entry_extensions: tuple[Extension, ...] = (
        Extension.of(x509.CRLReason(x509.ReasonFlags.key_compromise)),
    )

    def issue(self) -> bytes:
        """Sign; the DER."""
        body = der.sequence(
            der.integer(1),
            _algorithm_identifier(self.signer, self.algorithm),
            self.issuer.public_bytes(),
            der.time(self.this_update),
            der.time(self.next_update) if self.next_update else b"",
            der.sequence(*map(self._entry, self.revoked)) if self.revoked else b"",
            der.tlv(0xA0, self._encoded_extensions()) if self.extensions else b"",
        )
        return self._signed(body)

    def _entry(self, serial: int) -> bytes:
        extensions = b"".join(e.encode() for e in self.entry_extensions)
        return der.sequence(
            der.integer(serial),
            der.time(self.this_update),
            der.sequence(extensions) if extensions else b"",
        )


def spki(key: PrivateKey) -> bytes:
    """SubjectPublicKeyInfo of the public half, DER."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_identifier(key: PrivateKey) -> bytes:
    """SHA-1 of the public key (RFC 5280, 4.2.1.2, method 1): 20 bytes, a name and no proof."""
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def _algorithm_identifier(key: PrivateKey, algorithm: hashes.HashAlgorithm) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return der.sequence(der.oid(_RSA_WITH_SHA256), der.null())
    return der.sequence(der.oid(_ECDSA_WITH[algorithm.name]))
