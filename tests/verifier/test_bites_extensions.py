"""Each rule for extensions by itself: one value, one spelling."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest

from simulation import der
from simulation.certificates import CertificateForm, Extension
from tests.support.refusal import refused
from tests.verifier.world import bites, extended, judge_pck
from verifier.certificate import CertificateMalformed, CertificateRoleWrong
from verifier.errors import RatlsError

PCK_CHAIN = "pck-chain"
CONSTRAINTS, USAGE = "2.5.29.19", "2.5.29.15"
Hook = Callable[[CertificateForm], CertificateForm]


def valued(oid: str, value: bytes) -> Hook:
    return extended(Extension(oid, value, critical=True))


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        pytest.param(CONSTRAINTS, der.sequence(), id="no-CA"),
        pytest.param(USAGE, der.tlv(3, b"\7\x80"), id="signatures"),
        pytest.param(USAGE, der.tlv(3, b"\6\xc0"), id="signatures-and-more"),
    ],
)
def test_values_of_a_leaf_are_read(oid: str, value: bytes) -> None:
    """Twin of the next."""
    judge_pck(valued(oid, value))


@pytest.mark.parametrize(
    ("oid", "value", "leaf"),
    [
        pytest.param(CONSTRAINTS, der.sequence(der.boolean(False)), CertificateMalformed, id="no"),
        pytest.param(
            CONSTRAINTS, der.sequence(der.boolean(True)), CertificateRoleWrong, id="CA-without-end"
        ),
        pytest.param(
            CONSTRAINTS,
            der.sequence(der.boolean(True), der.integer(0), der.integer(0)),
            CertificateMalformed,
            id="three-parts",
        ),
        pytest.param(
            CONSTRAINTS,
            der.sequence(der.boolean(True), der.integer(256)),
            CertificateMalformed,
            id="path-of-256",
        ),
        pytest.param(USAGE, der.tlv(3, b"\0"), CertificateRoleWrong, id="no-usage"),
        pytest.param(USAGE, der.tlv(3, b""), CertificateMalformed, id="no-bits"),
        pytest.param(USAGE, der.tlv(3, b"\7\x81"), CertificateMalformed, id="unused-bit-set"),
    ],
)
def test_values_of_another_form(oid: str, value: bytes, leaf: type[RatlsError]) -> None:
    with refused(leaf, check=PCK_CHAIN):
        judge_pck(valued(oid, value))


@dataclass(frozen=True, slots=True)
class Spelled(Extension):
    """An extension whose critical flag is written as these bytes."""

    flag: bytes = b""

    def encode(self) -> bytes:
        return der.sequence(der.oid(self.oid), self.flag, der.octet_string(self.value))


@pytest.mark.parametrize(
    ("flag", "good"),
    [
        pytest.param(b"", True, id="absent"),
        pytest.param(der.boolean(False), False, id="false"),
        pytest.param(b"\1\1\1", False, id="one"),
        pytest.param(der.integer(0), False, id="integer"),
        pytest.param(der.boolean(True) * 2, False, id="twice"),
    ],
)
def test_critical_flag_has_one_spelling(flag: bytes, good: bool) -> None:
    """`false` in so many words is read as true by one and as absent by another."""
    hook = extended(Spelled("1.2.3.4", b"\5\0", flag=flag))
    with nullcontext() if good else refused(CertificateMalformed, check=PCK_CHAIN):
        judge_pck(hook)


@dataclass(frozen=True, slots=True)
class Unnamed(Extension):
    """An extension whose name is another kind of value."""

    def encode(self) -> bytes:
        return der.sequence(der.octet_string(b"\x2a\3\4"), der.octet_string(self.value))


def test_extension_is_named_by_an_object_identifier() -> None:
    """What one reader takes for an unknown name, another takes for the end of the list."""
    good, bad = (extended(kind("1.2.3.4", b"\5\0")) for kind in (Extension, Unnamed))
    bites(judge_pck, good, bad, CertificateMalformed, check=PCK_CHAIN)


@pytest.mark.parametrize("inside", [b"", b"\6", b"\6\3\x2a", b"\6\3\x2a\3\4"])
def test_extension_that_ends_too_early(inside: bytes) -> None:
    class Cut(Extension):
        def encode(self) -> bytes:
            return der.sequence(inside)

    with refused(CertificateMalformed, check=PCK_CHAIN):
        judge_pck(extended(Cut("1.2.3.4", b"")))


def test_all_that_is_known_may_be_critical_at_once() -> None:
    def insist(form: CertificateForm) -> CertificateForm:
        return replace(form, extensions=tuple(replace(e, critical=True) for e in form.extensions))

    judge_pck(insist)
