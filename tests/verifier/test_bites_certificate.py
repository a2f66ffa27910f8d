"""Each rule for certificates by itself: names with more in them, spellings that are harmless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from simulation.certificates import CertificateForm
from tests.support.refusal import refused
from tests.verifier.world import World
from verifier.errors import CertificateRoleWrong

PCK_CHAIN = "pck-chain"
CertificateHook = Callable[[CertificateForm], CertificateForm]


def renamed(change: Callable[[list[x509.NameAttribute[str]]], None]) -> CertificateHook:
    def alter(form: CertificateForm) -> CertificateForm:
        parts: list[x509.NameAttribute[str]] = list(form.subject)  # type: ignore[arg-type]
        change(parts)
        return replace(form, subject=x509.Name(parts))

    return alter


def test_attacker_has_a_certificate_with_two_common_names() -> None:
    """The first is what is asked for, the second what somebody was really certified as."""

    def second(parts: list[x509.NameAttribute[str]]) -> None:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, "Somebody else"))

    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        World.create(pck=renamed(second)).verify()


def test_certificate_without_any_common_name() -> None:
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        World.create(pck=renamed(lambda parts: parts.clear())).verify()


@pytest.mark.parametrize("kind", [_ASN1Type.PrintableString, _ASN1Type.UTF8String])
def test_name_is_read_in_either_kind_of_string(kind: _ASN1Type) -> None:
    """Twin: Intel's tools have written both."""

    def spell(parts: list[x509.NameAttribute[str]]) -> None:
        parts[0] = x509.NameAttribute(NameOID.COMMON_NAME, parts[0].value, _type=kind)

    World.create(pck=renamed(spell)).verify()


def test_name_in_a_kind_of_string_that_nobody_uses() -> None:
    """Each further encoding is a further way to spell one name."""

    def spell(parts: list[x509.NameAttribute[str]]) -> None:
        parts[0] = x509.NameAttribute(
            NameOID.COMMON_NAME, parts[0].value, _type=_ASN1Type.BMPString
        )

    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        World.create(pck=renamed(spell)).verify()


@pytest.mark.parametrize(
    "kind",
    [x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier, x509.CRLDistributionPoints],
    ids=lambda kind: kind.__name__,
)
def test_known_extension_may_be_critical(kind: type[x509.ExtensionType]) -> None:
    """Twin: what is understood may insist on being understood."""

    def insist(form: CertificateForm) -> CertificateForm:
        wanted = kind.oid.dotted_string
        extensions = tuple(
            replace(e, critical=True) if e.oid == wanted else e for e in form.extensions
        )
        assert extensions != form.extensions
        return replace(form, extensions=extensions)

    World.create(pck=insist).verify()
