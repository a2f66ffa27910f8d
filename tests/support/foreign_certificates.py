"""Certificates as other projects write them, with quotes of a simulated platform.

    shown = foreign(world, FORMATS["open-enclave"])                     # all valid
    foreign(world, FORMATS["dstack"], report_data=bytes(64))            # one thing changed

`shown.der` and `shown.key` serve a TLS handshake, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ratls import cbor
from ratls.claims import key_hash
from ratls.foreign_formats import FORMATS, Format
from simulation import der as write
from tests.support.intel import World

RSA = rsa.generate_private_key(65537, 2048)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Shown:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def expected_report_data(format: Format, key: Any, claims: bytes) -> bytes:
    """What each producer's documentation says, written here a second time."""
    public = key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found = {
        "gramine-legacy": lambda: hashlib.sha256(spki),
        "ego": lambda: hashlib.sha256(spki),
        "intel-sdk-legacy": lambda: hashlib.sha256(pem + b"\0"),
        "open-enclave": lambda: hashlib.sha256(pem + b"\0"),
        "azure-attestation": lambda: hashlib.sha256(pem + b"\0"),
        "rats-tls-legacy": lambda: hashlib.sha256(
            public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        ),
        "dstack": lambda: hashlib.sha512(
            public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        ),
        "intel-sdk-tdx": lambda: hashlib.sha384(claims),
    }.get(format.name, lambda: hashlib.sha256(claims))()
    return found.digest().ljust(64, b"\0")


def foreign(
    world: World,
    format: Format,
    *,
    report_data: bytes | None = None,
    bound_key: Any = None,
    claims: dict[str, bytes] | None = None,
    critical: bool = False,
    further: tuple[str, ...] = (),
    signer: Any = None,
    at: datetime | None = None,
    oid: str | None = None,
    key: Any = None,
    cut: int | None = None,
    **report: Any,
) -> Shown:
    """A certificate of this format; each argument changes one thing.

    Args:
        bound_key: The key that the quote is about; the certificate's own by default.
        claims: More than the one that names the key.
        further: Identifiers of further extensions, each holding the same evidence.
        signer: A key that signs the certificate in place of its own.
        cut: How many bytes of the extension are left.
        report: Further fields of the quote's report.
    """
    made = key or (
        RSA if format.name == "rats-tls-legacy" else ec.generate_private_key(ec.SECP256R1())
    )
    bound = bound_key or made
    spki = bound.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    buffer = cbor.encode({"pubkey-hash": key_hash(spki), **(claims or {})})
    wanted = report_data or expected_report_data(format, bound, buffer)
    tdx = format.name in ("dstack", "intel-sdk-tdx")
    quote = (world.platform.td_quote if tdx else world.platform.quote)(wanted, **report)
    value = _value(format, quote, buffer)[:cut]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"a server of {format.name}")])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KMS CA")])
    start = at or world.at - timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer if format.issued else name)
        .public_key(made.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=365))
        .add_extension(x509.BasicConstraints(False, None), critical=False)
    )
    for identifier in (oid or format.oids[0], *further):
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(identifier), value)
        builder = builder.add_extension(extension, critical=critical)
    signing = signer or (OTHER_KEY if format.issued else made)
    return Shown(builder.sign(signing, hashes.SHA256()), made)


def _value(format: Format, quote: bytes, claims: bytes) -> bytes:
    if format.name in ("open-enclave", "ego"):
        head = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
        return head + len(quote).to_bytes(8, "little") + quote
    if format.name == "azure-attestation":
        return write.tlv(4, quote)
    if format.name == "dstack":
        return write.tlv(4, quote + bytes(70))
    if format.digest is None:
        return cbor.encode(cbor.Tagged(60000, [quote, claims]))
    return quote


def reads_like(format: Format) -> set[str]:
    """Formats that differ in their producer alone: the same bytes are a certificate of each."""
    alike = {"gramine", "intel-sdk", "rats-tls"}
    return alike if format.name in alike else {format.name} & FORMATS.keys()
