"""The certificate's profile: one genuine certificate, and each thing in it that must not differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ratls.certificate import (
    ENCLAVE_NAME,
    EVIDENCE_OID,
    FOREIGN_EVIDENCE,
    EnclaveCertificateIsAuthority,
    EnclaveCertificateKeyUnsuitable,
    EnclaveCertificateLongLived,
    EnclaveCertificateMalformed,
    EnclaveCertificateNameWrong,
    EnclaveCertificateNotCurrent,
    EnclaveCertificateNotSelfSigned,
    EnclaveCertificateOversized,
    EnclaveCertificateUsageWrong,
    EvidenceAmbiguous,
    EvidenceCritical,
    EvidenceMissing,
    build_certificate,
    check_certificate,
)
from simulation import der as write
from tests.support.intel import AT
from tests.support.refusal import refused
from verifier import der as read
from verifier.errors import RatlsError

KEY = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
EVIDENCE = bytes(200)
END_ENTITY = x509.BasicConstraints(False, None)
BOTH_PURPOSES = x509.ExtendedKeyUsage([Eku.SERVER_AUTH, Eku.CLIENT_AUTH])
ONE_NAME = x509.SubjectAlternativeName([x509.DNSName(ENCLAVE_NAME)])


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(**set_to: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        **{
            "digital_signature": True,
            "content_commitment": False,
            "key_encipherment": False,
            "data_encipherment": False,
            "key_agreement": False,
            "key_cert_sign": False,
            "crl_sign": False,
            "encipher_only": False,
            "decipher_only": False,
        }
        | set_to
    )


def evidence(oid: str = EVIDENCE_OID.dotted_string, critical: bool = False) -> tuple[Any, bool]:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), EVIDENCE), critical


@dataclass(frozen=True)
class Form:
    """A certificate before it is signed."""

    key: Any = KEY
    signer: Any = None
    issuer: str = "an enclave"
    days: float = 3
    starts: timedelta = timedelta(hours=-1)
    basic: Any = END_ENTITY
    usage: Any = field(default_factory=usage)
    purposes: Any = BOTH_PURPOSES
    names: Any = ONE_NAME
    evidences: tuple[Any, ...] = field(default_factory=lambda: (evidence(),))

    def issue(self) -> bytes:
        signer = self.signer or self.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(name("an enclave"))
            .issuer_name(name(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(7)
            .not_valid_before(AT + self.starts)
            .not_valid_after(AT + self.starts + timedelta(days=self.days))
        )
        extensions = [(e, False) for e in (self.basic, self.usage, self.purposes, self.names) if e]
        for extension, critical in (*extensions, *self.evidences):
            builder = builder.add_extension(extension, critical)
        hash_ = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(signer, hash_).public_bytes(Encoding.DER)


def resigned(edit: Callable[[list[bytes]], None]) -> bytes:
    """The genuine certificate with the parts of its TBSCertificate edited and signed again."""
    tbs, algorithm, _ = read.children(Form().issue())
    parts = read.children(tbs)
    edit(parts)
    body = write.sequence(*parts)
    signature = KEY.sign(body, ec.ECDSA(hashes.SHA256()))
    return write.sequence(body, algorithm, write.bit_string(signature))


@pytest.mark.parametrize("form", [Form(), Form(key=P384), Form(days=7)])
def test_the_profile_is_accepted(form: Form) -> None:
    certificate = check_certificate(form.issue(), AT)
    assert certificate.evidence == EVIDENCE
    assert certificate.spki == form.key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_what_is_built_here_fits_the_profile() -> None:
    built = build_certificate(KEY, EVIDENCE, b"i" * 16, 7, AT)
    assert check_certificate(built.public_bytes(Encoding.DER), AT).evidence == EVIDENCE
    assert built.subject != build_certificate(KEY, EVIDENCE, b"j" * 16, 7, AT).subject


def test_resigning_alone_changes_nothing() -> None:
    assert check_certificate(resigned(lambda parts: None), AT).evidence == EVIDENCE


WRONG: dict[str, tuple[Form, type[RatlsError]]] = {
    "ordinary server, B05": (Form(evidences=()), EvidenceMissing),
    "critical evidence": (Form(evidences=(evidence(critical=True),)), EvidenceCritical),
    "CA:TRUE": (Form(basic=x509.BasicConstraints(True, 0)), EnclaveCertificateIsAuthority),
    "no basic constraints": (Form(basic=None), EnclaveCertificateIsAuthority),
    "P-521": (
        Form(key=ec.generate_private_key(ec.SECP521R1())),
        EnclaveCertificateKeyUnsuitable,
    ),
    "secp256k1": (
        Form(key=ec.generate_private_key(ec.SECP256K1())),
        EnclaveCertificateKeyUnsuitable,
    ),
    "RSA": (
        Form(key=rsa.generate_private_key(65537, 2048)),
        EnclaveCertificateKeyUnsuitable,
    ),
    "Ed25519": (
        Form(key=ed25519.Ed25519PrivateKey.generate()),
        EnclaveCertificateKeyUnsuitable,
    ),
    "signed by another key, B13": (Form(signer=P384), EnclaveCertificateNotSelfSigned),
    "another issuer": (Form(issuer="a CA"), EnclaveCertificateNotSelfSigned),
    "no name": (Form(names=None), EnclaveCertificateNameWrong),
    "another name": (
        Form(names=x509.SubjectAlternativeName([x509.DNSName("localhost")])),
        EnclaveCertificateNameWrong,
    ),
    "a second name": (
        Form(names=x509.SubjectAlternativeName([x509.DNSName(ENCLAVE_NAME), x509.DNSName("x")])),
        EnclaveCertificateNameWrong,
    ),
    "the name as URI": (
        Form(names=x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ENCLAVE_NAME)])),
        EnclaveCertificateNameWrong,
    ),
    "no key usage": (Form(usage=None), EnclaveCertificateUsageWrong),
    "may sign certificates": (
        Form(usage=usage(key_cert_sign=True)),
        EnclaveCertificateUsageWrong,
    ),
    "may not sign": (
        Form(usage=usage(digital_signature=False, key_agreement=True)),
        EnclaveCertificateUsageWrong,
    ),
    "client only": (
        Form(purposes=x509.ExtendedKeyUsage([Eku.CLIENT_AUTH])),
        EnclaveCertificateUsageWrong,
    ),
    "any purpose": (
        Form(purposes=x509.ExtendedKeyUsage([Eku.ANY_EXTENDED_KEY_USAGE])),
        EnclaveCertificateUsageWrong,
    ),
    "expired": (Form(starts=timedelta(days=-4)), EnclaveCertificateNotCurrent),
    "not yet valid": (Form(starts=timedelta(hours=1)), EnclaveCertificateNotCurrent),
    "decades, B22": (Form(days=9000), EnclaveCertificateLongLived),
    "a second too long": (Form(days=7 + 1 / 86400), EnclaveCertificateLongLived),
    "over 64 KiB": (
        Form(evidences=((x509.UnrecognizedExtension(EVIDENCE_OID, bytes(65536)), False),)),
        EnclaveCertificateOversized,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_thing_differs(case: str) -> None:
    form, leaf = WRONG[case]
    with refused(leaf):
        check_certificate(form.issue(), AT)


@pytest.mark.parametrize("oid", FOREIGN_EVIDENCE)
def test_legacy_evidence_alone_is_no_evidence(oid: str) -> None:
    """Downgrade: whoever can strip the evidence would choose the weaker format."""
    with refused(EvidenceMissing):
        check_certificate(replace(Form(), evidences=(evidence(oid),)).issue(), AT)


@pytest.mark.parametrize("oid", FOREIGN_EVIDENCE)
def test_legacy_evidence_beside_ours_is_ambiguous(oid: str) -> None:
    """B12: two readers of one certificate could believe two quotes."""
    with refused(EvidenceAmbiguous):
        check_certificate(replace(Form(), evidences=(evidence(), evidence(oid))).issue(), AT)


def _extensions(parts: list[bytes]) -> list[bytes]:
    (sequence,) = read.children(parts[-1], parts[-1][0])
    return read.children(sequence)


def test_evidence_twice_is_ambiguous() -> None:
    """B12: libraries differ in which of two equal extensions they return."""

    def edit(parts: list[bytes]) -> None:
        extensions = _extensions(parts)
        parts[-1] = write.tlv(0xA3, write.sequence(*extensions, extensions[-1]))

    with refused(EvidenceAmbiguous):
        check_certificate(resigned(edit), AT)


def test_another_extension_twice_is_malformed() -> None:
    def edit(parts: list[bytes]) -> None:
        extensions = _extensions(parts)
        parts[-1] = write.tlv(0xA3, write.sequence(*extensions, extensions[0]))

    with refused(EnclaveCertificateMalformed):
        check_certificate(resigned(edit), AT)


def test_the_key_as_a_compressed_point() -> None:
    """B14: libraries load it as the same key, whose hash would then be another's."""

    def edit(parts: list[bytes]) -> None:
        point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        algorithm = read.children(parts[6])[0]
        parts[6] = write.sequence(algorithm, write.bit_string(point))

    with refused(EnclaveCertificateKeyUnsuitable):
        check_certificate(resigned(edit), AT)


def test_ecdsa_algorithm_with_a_null_as_old_mbedtls_writes_it() -> None:
    """Strict readers refuse it; that must be a refusal and never a skipped check."""
    genuine = Form().issue()
    plain = bytes.fromhex("300a06082a8648ce3d040302")
    tbs, _, _ = read.children(genuine)
    padded = bytes.fromhex("300c06082a8648ce3d0403020500")
    body = write.sequence(*(e.replace(plain, padded) for e in read.children(tbs)))
    assert len(body) == len(tbs) + 2
    signature = write.bit_string(KEY.sign(body, ec.ECDSA(hashes.SHA256())))
    with refused(EnclaveCertificateMalformed):
        check_certificate(write.sequence(body, padded, signature), AT)


def test_signature_of_its_own_key_over_something_else() -> None:
    genuine = bytearray(Form().issue())
    genuine[-1] ^= 1
    with refused(EnclaveCertificateNotSelfSigned):
        check_certificate(bytes(genuine), AT)


@pytest.mark.parametrize("raw", [b"", b"\0", Form().issue() + b"\0", b"0" * 100])
def test_something_else_than_one_certificate(raw: bytes) -> None:
    with refused(EnclaveCertificateMalformed):
        check_certificate(raw, AT)


def test_no_prefix_of_a_certificate_is_read() -> None:
    genuine = Form().issue()
    for end in range(0, len(genuine), 7):
        with refused(EnclaveCertificateMalformed):
            check_certificate(genuine[:end], AT)


GENUINE = Form().issue()


@given(st.integers(0, len(GENUINE) - 1), st.integers(1, 255))
def test_one_changed_byte_is_a_refusal(at: int, change: int) -> None:
    """The self-signature covers everything, so nothing changed may pass, nor crash."""
    raw = bytearray(GENUINE)
    raw[at] ^= change
    with pytest.raises(RatlsError):
        check_certificate(bytes(raw), AT)
