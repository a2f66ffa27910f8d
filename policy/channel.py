"""A party's certificate for TLS channels: self-signed, with one URI as its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from policy.errors import PartyFolderMalformed
from policy.keys import PublicKey

URI_PREFIX = "urn:ratls:party:"
LIFETIME = timedelta(days=730)


@dataclass(frozen=True, slots=True)
class ChannelCertificate:
    """One party's certificate, checked when it was read; servers accept exactly these bytes."""

    der: bytes
    party_id: str  #         from its only name, `urn:ratls:party:<id>`
    key: PublicKey
    not_before: datetime  #  aware, UTC
    not_after: datetime

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """One PEM block in its standard form. Raises: PartyFolderMalformed."""
        try:
            certificate = x509.load_pem_x509_certificate(text.encode("ascii"))
            pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
            if pem.strip("\n") != text.strip("\n"):
                raise _refusal("one PEM block in its standard form", "another form")
            # Before its signature: checking one by a huge key of another kind would take long.
            key = PublicKey.from_crypto(certificate.public_key())
            certificate.verify_directly_issued_by(certificate)
            extensions = certificate.extensions
            basic = extensions.get_extension_for_class(x509.BasicConstraints).value
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (InvalidSignature, TypeError) as error:
            raise _refusal("a self-signed certificate", "another issuer") from error
        except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            # Texts of the library name fields of the certificate, nothing secret.
            raise _refusal("a readable certificate", ascii(str(error))[:120]) from error
        # docs/flight.md 1.2: as a root, a CA certificate would admit all that it signs.
        if basic.ca:
            raise _refusal("CA:FALSE", "CA:TRUE")
        uri = [n.value for n in names if isinstance(n, x509.UniformResourceIdentifier)]
        if len(list(names)) != 1 or len(uri) != 1 or not uri[0].startswith(URI_PREFIX):
            raise _refusal(f"exactly one name, URI:{URI_PREFIX}<id>", f"{len(list(names))} names")
        return cls(
            der=certificate.public_bytes(serialization.Encoding.DER),
            party_id=uri[0].removeprefix(URI_PREFIX),
            key=key,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )

    @property
    def pem(self) -> str:
        """Re-encoded from the DER that was checked."""
        certificate = x509.load_der_x509_certificate(self.der)
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def spki_sha256(self) -> bytes:
        return self.key.digest

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole certificate, 64 hex."""
        return hashlib.sha256(self.der).hexdigest()


def make_channel_certificate(
    key: ec.EllipticCurvePrivateKey, party_id: str, at: datetime
) -> ChannelCertificate:
    """A self-signed certificate for two years from `at`, in the one profile that is read."""
    uri = x509.UniformResourceIdentifier(URI_PREFIX + party_id)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    made = self_signed(key, f"ratls party {party_id}", purposes, known_as=uri, at=at)
    return ChannelCertificate.from_pem(
        made.public_bytes(serialization.Encoding.PEM).decode("ascii")
    )


def self_signed(
    key: ec.EllipticCurvePrivateKey,
    common_name: str,
    purposes: list[x509.ObjectIdentifier],
    *,
    known_as: x509.GeneralName,
    at: datetime,
    lifetime: timedelta = LIFETIME,
    serial: int | None = None,
    further: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate of its own key for TLS, under one name that its peers look at.

    Args:
        serial: A random one where it is None.
        further: Extensions besides those of every such certificate; not critical.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(True, *[False] * 8)  # digitalSignature alone
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        # clocks differ: a certificate made now must hold at a peer whose clock is a little behind
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([known_as]), critical=False)
    )
    for extension in further:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def _refusal(expected: str, found: str) -> PartyFolderMalformed:
    return PartyFolderMalformed("channel certificate", expected=expected, found=found)
