"""The scheduler's certificate is made once, kept, and nothing else is pinned for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from policy.errors import KeyPermissions
from scheduler.certificate import (
    SCHEDULER_NAME,
    SchedulerCertificateNotCurrent,
    SchedulerCertificateUnusable,
    SchedulerKeyDiffers,
    check_pin,
    own_certificate,
)
from tests.support.refusal import refused
from tests.support.scheduler import NOW
from verifier.errors import RatlsError
from verifier.files import FileNotWritten


def test_made_once_and_kept(tmp_path: Path) -> None:
    """Clients pin it: another one after a restart would lock everybody out."""
    made = own_certificate(tmp_path / "new", NOW)
    assert own_certificate(tmp_path / "new", NOW + timedelta(days=700)) == made
    assert (tmp_path / "new" / "scheduler.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    certificate = check_pin(made.cert_pem)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert b"PRIVATE" not in repr(made).encode()


def test_eight_that_start_at_once_make_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: own_certificate(tmp_path, NOW), range(8)))
    assert len({m.cert_pem for m in made}) == 1


def test_killed_between_key_and_certificate(tmp_path: Path) -> None:
    before = own_certificate(tmp_path, NOW)
    (tmp_path / "scheduler.crt").unlink()
    after = own_certificate(tmp_path, NOW)
    assert after.key_pem == before.key_pem


def test_readable_by_others(tmp_path: Path) -> None:
    own_certificate(tmp_path, NOW)
    (tmp_path / "scheduler.key").chmod(0o640)
    with refused(KeyPermissions):
        own_certificate(tmp_path, NOW)


@pytest.mark.parametrize("days", [-1, 730])
def test_a_certificate_that_no_client_would_accept_now(tmp_path: Path, days: int) -> None:
    own_certificate(tmp_path, NOW)
    with refused(SchedulerCertificateNotCurrent):
        own_certificate(tmp_path, NOW + timedelta(days=days))


def _swap_key(folder: Path) -> None:
    own_certificate(folder / "other", NOW)
    os.replace(folder / "other" / "scheduler.key", folder / "scheduler.key")


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("damage", "leaf"),
    [
        (_swap_key, SchedulerKeyDiffers),
        (lambda folder: (folder / "scheduler.key").unlink(), SchedulerKeyDiffers),
        (_write("scheduler.key", b""), SchedulerKeyDiffers),
        (_write("scheduler.key", b"-----BEGIN PRIVATE KEY-----\n"), SchedulerKeyDiffers),
        (_write("scheduler.crt", b""), SchedulerCertificateUnusable),
        (_write("scheduler.crt", b"\xff" * 100), SchedulerCertificateUnusable),
    ],
)
def test_damaged_files(
    tmp_path: Path, damage: Callable[[Path], None], leaf: type[RatlsError]
) -> None:
    """Never mended in silence: a new certificate is something that people must hand out."""
    own_certificate(tmp_path, NOW)
    damage(tmp_path)
    with refused(leaf):
        own_certificate(tmp_path, NOW)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(FileNotWritten):
        own_certificate(tmp_path / "file" / "state", NOW)


def pem(**change: Any) -> bytes:
    """A certificate as `own_certificate` makes it, but for one thing."""
    key = change.get("key") or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "any")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    if (ca := change.get("ca", False)) is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if (cert_sign := change.get("cert_sign", False)) is not None:
        usage = [True, False, False, False, False, cert_sign, False, False, False]
        builder = builder.add_extension(x509.KeyUsage(*usage), critical=True)
    if names := change.get("names", [SCHEDULER_NAME]):
        san = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(change.get("issuer") or key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "wrong",
    [
        pem(ca=True),
        pem(ca=None),
        pem(cert_sign=True),
        pem(cert_sign=None),
        pem(names=[]),
        pem(names=["enclave.ratls.invalid"]),
        pem(names=[SCHEDULER_NAME, "other.invalid"]),
        pem(issuer=ec.generate_private_key(ec.SECP256R1())),
        pem(key=rsa.generate_private_key(65537, 2048)),
        pem() + pem(),
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
    ids=[
        "authority",
        "unmarked",
        "signs-certificates",
        "without-usage",
        "nameless",
        "another",
        "two",
        "issued",
        "rsa",
        "both",
        "none",
        "garbage",
    ],
)
def test_what_cannot_be_pinned(wrong: bytes) -> None:
    """An authority would admit what its key signs; no certificate means the system's roots."""
    with refused(SchedulerCertificateUnusable):
        check_pin(wrong)
    check_pin(pem())
