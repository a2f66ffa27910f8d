"""Each rule for certificates by itself: names with more in them, spellings that are harmless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from simulation import der
from simulation.certificates import CertificateForm
from tests.support.refusal import refused
from tests.verifier.world import bites, judge_pck, judge_quote, with_, world
from verifier.certificate import CertificateMalformed, CertificateRoleWrong, read_name, split_pem
from verifier.der import DerError

PCK_CHAIN = "pck-chain"
CertificateHook = Callable[[CertificateForm], CertificateForm]


def renamed(change: Callable[[list[x509.NameAttribute[str]]], None]) -> CertificateHook:
    def alter(form: CertificateForm) -> CertificateForm:
        parts: list[x509.NameAttribute[str]] = list(form.subject)  # type: ignore[arg-type]
        change(parts)
        return replace(form, subject=x509.Name(parts))

    return alter


def second(parts: list[x509.NameAttribute[str]]) -> None:
    """The first is what is asked for, the second what somebody was really certified as."""
    parts.append(x509.NameAttribute(NameOID.COMMON_NAME, "Somebody else"))


@pytest.mark.parametrize("change", [second, list.clear], ids=["two", "none"])
def test_attacker_has_a_certificate_without_its_one_common_name(change: Any) -> None:
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        judge_pck(renamed(change))


@pytest.mark.parametrize("kind", [_ASN1Type.PrintableString, _ASN1Type.UTF8String])
def test_name_is_read_in_the_kinds_of_string_of_intels_tools_and_no_other(kind: _ASN1Type) -> None:
    """Each further encoding is a further way to spell one name."""

    def spelled(kind: _ASN1Type) -> CertificateHook:
        def spell(parts: list[x509.NameAttribute[str]]) -> None:
            parts[0] = x509.NameAttribute(NameOID.COMMON_NAME, parts[0].value, _type=kind)

        return renamed(spell)

    other = spelled(_ASN1Type.BMPString)
    bites(judge_pck, spelled(kind), other, CertificateRoleWrong, check=PCK_CHAIN)


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

    judge_pck(insist)


CHAIN = world().platform.pck_chain.rstrip(b"\0")


def with_chain(pem: bytes) -> bytes:
    return world().quote(form=with_(certification_data=pem))


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(CHAIN.rstrip().removesuffix(b"-----END CERTIFICATE-----"), id="no-end"),
        pytest.param(b"x\n" + CHAIN, id="text-before"),
        pytest.param(CHAIN.replace(b"-----\n-----", b"-----\nx\n-----", 1), id="text-between"),
        pytest.param(CHAIN + b"x", id="text-behind"),
        pytest.param(CHAIN.replace(b"CERTIFICATE-----\nMI", b"CERTIFICATE-----\n\nMI"), id="blank"),
        pytest.param(
            CHAIN.replace(b"\n", b"\r\n").replace(b"-\r\nMI", b"-\r\n\r\nMI"), id="blank-CRLF"
        ),
    ],
)
def test_text_around_and_inside_certificates(pem: bytes) -> None:
    """What one reader skips, another may take for headers or for a certificate of its own."""
    judge_quote(with_chain(CHAIN.replace(b"\n", b"\r\n")))
    good, bad = with_chain(CHAIN), with_chain(pem)
    bites(judge_quote, good, bad, CertificateMalformed, check=PCK_CHAIN)


def test_no_certificate_at_all() -> None:
    with refused(CertificateMalformed):
        split_pem(b" \n", "chain")


COMMON = der.sequence(der.oid("2.5.4.3"), der.tlv(12, b"Intel"))
COUNTRY = der.sequence(der.oid("2.5.4.6"), der.tlv(19, b"US"))


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(der.tlv(0x31), id="empty"),
        pytest.param(der.tlv(0x31, b"\x30"), id="cut-off"),
        pytest.param(der.tlv(0x31, COUNTRY, COMMON), id="two-pairs"),
        pytest.param(der.tlv(0x31, COMMON, COUNTRY), id="two-pairs-the-other-way-round"),
        pytest.param(der.tlv(0x31, b"\x31" + COUNTRY[1:]), id="a-set-for-a-pair"),
        pytest.param(der.tlv(0x31, COUNTRY[:-1]), id="short"),
        pytest.param(COUNTRY, id="a-pair-for-a-set"),
    ],
)
def test_part_of_a_name_is_no_pair(part: bytes) -> None:
    """Behind a first pair, a second one could name somebody else."""
    assert read_name(der.sequence(der.tlv(0x31, COMMON), der.tlv(0x31, COUNTRY)))[0] == "Intel"
    with pytest.raises(DerError):
        read_name(der.sequence(der.tlv(0x31, COMMON), part))
    with pytest.raises(DerError):
        read_name(der.sequence(part))


def test_pair_without_anything_in_it_is_another_part() -> None:
    """Twin: what is no common name is compared as bytes, and not understood."""
    empty = der.sequence()
    assert read_name(der.sequence(der.tlv(0x31, empty))) == ("", (empty,))
