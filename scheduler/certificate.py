"""The scheduler's own key and certificate: made once, kept, pinned by its clients.

    own = own_certificate(folder, at)        # scheduler.key 0600, scheduler.crt
    check_pin(pem)                           # what a client may pin

It is self-signed. Clients get the file from the scheduler's operator; with a wrong one they would
use another mailbox, which they do not trust either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from policy.channel import self_signed
from policy.errors import KeyPermissions
from policy.keys import spki_der
from verifier.errors import ConfigError
from verifier.files import locked, make_folder, parse_file, read_secret, write_new
from verifier.text import instant_text

SCHEDULER_NAME = "scheduler.ratls.invalid"  # .invalid never resolves: a name to pin
KEY_FILE, CERTIFICATE_FILE = "scheduler.key", "scheduler.crt"
_FILE_CAP = 64 * 1024


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """The server's certificate and its key."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)


class SchedulerKeyDiffers(ConfigError):
    """The key in the scheduler's folder is missing, or belongs to another certificate."""

    code = "scheduler-key-differs"
    default_fix = "restore scheduler.key, or remove both files and hand out the new certificate"


class SchedulerCertificateNotCurrent(ConfigError):
    """The scheduler's certificate does not cover this instant."""

    code = "scheduler-certificate-not-current"
    says = "{thing} is valid {expected}, and it is {found}"
    default_fix = (
        "check the clock; if it has expired, remove scheduler.key and scheduler.crt, start the "
        "scheduler again, and give its new certificate to every party"
    )


def own_certificate(folder: Path, at: datetime) -> OwnCertificate:
    """The key and certificate in this folder; made now where there are none.

    Raises:
        SchedulerCertificateUnusable, SchedulerCertificateNotCurrent: The stored one cannot serve.
        SchedulerKeyDiffers: The key is missing, unreadable or of another certificate.
        KeyPermissions: Others may read the key.
        FileUnreadable, FileNotWritten: The folder cannot be read or written.
    """
    key_file, certificate_file = folder / KEY_FILE, folder / CERTIFICATE_FILE
    # Two that start at once must not both make a key.
    make_folder(folder)
    with locked(folder / ".lock"):
        if not key_file.exists() and not certificate_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_new(key_file, pem, mode=0o600)
        key_pem, key = _read_key(key_file)
        if not certificate_file.exists():  # also after a crash between the two files
            write_new(certificate_file, _make(key, at), mode=0o644)
    certificate = parse_file(certificate_file, check_pin, cap=_FILE_CAP)
    if spki_der(certificate.public_key()) != spki_der(key.public_key()):
        raise SchedulerKeyDiffers(
            str(key_file), expected="the key of scheduler.crt", found="another key"
        )
    if not certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc:
        raise SchedulerCertificateNotCurrent(
            str(certificate_file),
            expected=f"from {instant_text(certificate.not_valid_before_utc)} "
            f"to {instant_text(certificate.not_valid_after_utc)}",
            found=instant_text(at),
        )
    return OwnCertificate(certificate.public_bytes(Encoding.PEM), key_pem)


def check_pin(pem: bytes) -> x509.Certificate:
    """Exactly one certificate in the profile that `own_certificate` makes.

    Raises:
        SchedulerCertificateUnusable: It is not. As an anchor, an authority's certificate would
            admit all that its key signs; no certificate would mean the system's roots.
    """
    try:
        listed = x509.load_pem_x509_certificates(pem)
        if len(listed) != 1:
            raise _unusable("exactly one certificate", str(len(listed)))
        certificate = listed[0]
        certificate.verify_directly_issued_by(certificate)
        extensions = certificate.extensions
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise _unusable("CA:FALSE", "CA:TRUE")
        # Each of the two alone keeps the TLS library from taking what this key has signed.
        if extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise _unusable("a key usage without keyCertSign", "one with it")
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound, UnsupportedAlgorithm) as error:
        raise _unusable(
            "one PEM certificate with basic constraints, key usage and name", "other"
        ) from error
    except InvalidSignature as error:
        raise _unusable("a self-signed certificate", "another issuer") from error
    if list(names) != [x509.DNSName(SCHEDULER_NAME)]:
        raise _unusable(f"exactly one name, DNS:{SCHEDULER_NAME}", "other names")
    # The one cipher that `ratls.environment` leaves to TLS 1.2 is for RSA: with an EC key, TLS 1.3.
    if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
        raise _unusable("an EC key", "another")
    return certificate


class SchedulerCertificateUnusable(ConfigError):
    """A file is not exactly one certificate of a scheduler."""

    code = "scheduler-certificate-unusable"
    default_fix = "use scheduler.crt from the folder that `ratls scheduler serve --state` names"


def _unusable(expected: str, found: str) -> SchedulerCertificateUnusable:
    return SchedulerCertificateUnusable(
        "the scheduler's certificate", expected=expected, found=found
    )


def _make(key: ec.EllipticCurvePrivateKey, at: datetime) -> bytes:
    purposes, name = [ExtendedKeyUsageOID.SERVER_AUTH], x509.DNSName(SCHEDULER_NAME)
    made = self_signed(key, "ratls scheduler", purposes, known_as=name, at=at)
    return made.public_bytes(Encoding.PEM)


def _read_key(path: Path) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    if not path.exists():
        raise SchedulerKeyDiffers(str(path), expected="the key of scheduler.crt", found="no file")
    pem = read_secret(path, cap=_FILE_CAP, exposed=KeyPermissions)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SchedulerKeyDiffers(str(path), expected="a PEM key", found="another file") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SchedulerKeyDiffers(str(path), expected="an EC key", found="another kind")
    return pem, key
