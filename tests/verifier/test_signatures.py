"""Q01 to Q06: forged signatures, swapped keys, an application in the quoting enclave's place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import new_key, public_point, sign_raw
from simulation.quote import QuoteForm, ReportForm, qe_binding
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import world
from verifier.ecdsa import ORDER, signed_raw
from verifier.errors import RatlsError
from verifier.qe import (
    AttestationKeyUnbound,
    QeNotIntels,
    QeReportSignatureInvalid,
    QuoteSignatureInvalid,
)

ATTESTATION = world().platform.attestation_key
STRANGER = new_key(os.urandom)
Alter = Callable[[QuoteForm], QuoteForm]


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


# Q06: r and s out of range, or the ones for which a careless library accepts any message.
DEGENERATE = {
    "N041-zero": bytes(64),
    "N041-r0": raw(0, 1),
    "N041-s0": raw(1, 0),
    "N041-rn": raw(ORDER, 1),
    "N041-sn": raw(1, ORDER),
    "N041-11": raw(1, 1),
    "N041-max": b"\xff" * 64,
}


def little_endian(signature: bytes) -> bytes:
    return signature[:32][::-1] + signature[32:][::-1]


def signing(part: slice) -> Alter:
    return lambda form: replace(form, signature=sign_raw(ATTESTATION, form.signed[part]))


@pytest.mark.parametrize(
    "form",
    [
        *(
            pytest.param(lambda f, s=s: replace(f, signature=s), id=name)
            for name, s in DEGENERATE.items()
        ),
        pytest.param(
            lambda f: replace(f, signature=sign_raw(STRANGER, f.signed)), id="N042-other-key"
        ),
        pytest.param(signing(slice(48)), id="N043-header-only"),
        pytest.param(signing(slice(48, None)), id="N043-body-only"),
        pytest.param(lambda f: replace(f, signature=little_endian(f.signature)), id="N050"),
        pytest.param(
            lambda f: replace(f, report=ReportForm(mr_enclave=b"\x77" * 32).encode()), id="Q01"
        ),
    ],
)
def test_attacker_forges_the_quote_signature(form: Alter) -> None:
    """The chain and the binding are genuine; only the report is not what was signed."""
    with refused(QuoteSignatureInvalid, check="quote-signature"):
        world().verify(quote=world().quote(form=form))


def test_high_s_is_the_same_signature() -> None:
    """Twin of the above: (r, n - s) is valid ECDSA, so a signature identifies nothing."""

    def negate(form: QuoteForm) -> QuoteForm:
        r, s = (int.from_bytes(form.signature[i : i + 32], "big") for i in (0, 32))
        return replace(form, signature=raw(r, ORDER - s))

    world().verify(quote=world().quote(form=negate))


@pytest.mark.parametrize(
    ("signature", "name"),
    [(s, n) for n, s in DEGENERATE.items()] + [(None, "N048-attestation-key")],
)
def test_attacker_forges_the_qe_report_signature(signature: bytes | None, name: str) -> None:
    """Q03: without the PCK key nobody can speak for the quoting enclave."""

    def alter(form: QuoteForm) -> QuoteForm:
        forged = signature or sign_raw(ATTESTATION, form.qe_report)
        return replace(form, qe_report_signature=forged)

    with refused(QeReportSignatureInvalid, check="qe-report-signature"):
        world().verify(quote=world().quote(form=alter))


def test_attacker_signs_the_qe_report_with_the_intermediates_key() -> None:
    """N048: a key of the same hierarchy in another role."""
    with refused(QeReportSignatureInvalid, check="qe-report-signature"):
        world().verify(quote=world().quote(qe_key=world().intel.platform_ca.ec_key))


def test_attacker_grafts_the_chain_of_another_platform() -> None:
    """Q12: both parts are genuine, of two machines."""
    other = world().intel.platform()
    with refused(QeReportSignatureInvalid, check="qe-report-signature"):
        world().verify(
            quote=world().quote(form=lambda f: replace(f, certification_data=other.pck_chain))
        )


def test_attacker_signs_with_a_key_the_quoting_enclave_never_saw() -> None:
    """N045, Q02: both halves are well signed; only the link between them is missing."""
    with refused(AttestationKeyUnbound, check="key-binding"):
        world().verify(quote=world().quote(form=lambda f: f.signed_by(STRANGER)))


def test_an_attestation_key_that_the_quoting_enclave_vouches_for_is_believed() -> None:
    """Twin: the same stranger's key, once the binding names it."""
    world().verify(quote=world().quote(attestation_key=STRANGER))


POINT, AUTH = public_point(ATTESTATION), bytes(range(32))


@pytest.mark.parametrize(
    "report_data",
    [
        pytest.param(qe_binding(POINT, b""), id="N046-key-only"),
        pytest.param(qe_binding(AUTH, POINT), id="N046-reversed"),
        pytest.param(qe_binding(POINT, AUTH)[:32] + b"\x01" * 32, id="N047-upper-half"),
        pytest.param(bytes(64), id="zero"),
    ],
)
def test_quoting_enclave_vouches_for_something_else(report_data: bytes) -> None:
    """The PCK key signed it, but it does not name this attestation key and nothing else."""
    with refused(AttestationKeyUnbound, check="key-binding"):
        world().verify(quote=world().quote(qe_report=lambda r: replace(r, report_data=report_data)))


P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(bytes(64), id="zero"),
        pytest.param(raw(1, 1), id="off-curve"),
        pytest.param(raw(P, 0), id="x=p"),
    ],
)
def test_attestation_key_is_no_key(point: bytes) -> None:
    """N044: the quoting enclave vouches for it, so only the curve check is left."""

    def alter(form: QuoteForm) -> QuoteForm:
        report = bytearray(form.qe_report)
        report[320:384] = qe_binding(point, form.qe_auth_data)
        signature = sign_raw(world().platform.pck.ec_key, bytes(report))
        return replace(
            form, attestation_key=point, qe_report=bytes(report), qe_report_signature=signature
        )

    with refused(QuoteSignatureInvalid, check="quote-signature"):
        world().verify(quote=world().quote(form=alter))


def rogue(report: ReportForm) -> ReportForm:
    """An application of the attacker's own, on a genuine machine, saying what a QE says."""
    return replace(report, mr_signer=b"\x66" * 32, isv_prod_id=7, isv_svn=99)


@pytest.mark.parametrize(
    "qe_report",
    [
        pytest.param(rogue, id="N049-N155-Q04"),
        pytest.param(lambda r: replace(r, mr_signer=b"\x66" * 32), id="N146"),
        pytest.param(lambda r: replace(r, isv_prod_id=2), id="N147"),
        pytest.param(lambda r: replace(r, misc_select=1), id="N148"),
        pytest.param(lambda r: replace(r, flags=r.flags & ~0x10), id="N149"),
        pytest.param(lambda r: replace(r, flags=r.flags | 0x80), id="N149-extra"),
        pytest.param(lambda r: replace(r, flags=r.flags | 0x02), id="N150-Q05-debug"),
    ],
)
def test_attacker_runs_a_quoting_enclave_of_its_own(
    qe_report: Callable[[ReportForm], ReportForm],
) -> None:
    """CVE-2026-22696: the PCK signature is genuine; only the identity gives it away."""
    with refused(QeNotIntels, check="qe-match"):
        world().verify(quote=world().quote(qe_report=qe_report))


def test_quoting_enclave_may_differ_outside_the_masks() -> None:
    """Twin of N148 and N149: MODE64BIT and XFRM are outside Intel's mask, MRENCLAVE is free."""
    world().verify(
        quote=world().quote(
            qe_report=lambda r: replace(r, flags=r.flags & ~0x04, xfrm=7, mr_enclave=bytes(32))
        )
    )


def test_debug_quoting_enclave_is_refused_whatever_the_mask() -> None:
    """N150: an identity whose mask forgets DEBUG would let the host read the attestation key."""
    collateral = world().collateral(
        qe_identity=lambda d: {**d, "attributesMask": "F9FFFFFFFFFFFFFF0000000000000000"}
    )
    world().verify(collateral=collateral)
    debug = world().quote(qe_report=lambda r: replace(r, flags=r.flags | 0x02))
    with refused(QeNotIntels, check="qe-match"):
        world().verify(quote=debug, collateral=collateral)


def test_one_flipped_bit_anywhere_is_refused() -> None:
    """N040: header, report, signatures, key, QE report, auth data, lengths; one bit per byte."""
    count_refusal()
    genuine, collateral = world().quote(), world().collateral()
    world().verify(quote=genuine, collateral=collateral)
    for at in range(1054):  # up to where the PEM text of the chain begins
        flipped = bytearray(genuine)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(RatlsError) as refusal:
            world().verify(quote=bytes(flipped), collateral=collateral)
        assert refusal.value.check is not None


def test_raw_signature_of_another_length_is_none() -> None:
    """A DER signature in the raw field, as one builder of collateral writes it."""
    count_refusal()
    from verifier.ecdsa import signed_raw

    message = b"message"
    der_signature = STRANGER.sign(message, ec.ECDSA(hashes.SHA256()))
    assert signed_raw(STRANGER.public_key(), sign_raw(STRANGER, message), message)
    assert not signed_raw(STRANGER.public_key(), der_signature, message)


# The range of r and s is checked here, before and whatever the library checks.


KEY = new_key(os.urandom)
MESSAGE = b"header and report"


class Careless:
    """A key whose library says yes to everything, as one did in CVE-2022-21449."""

    def verify(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(raw(0, 0), id="zero"),
        pytest.param(raw(0, 1), id="r-zero"),
        pytest.param(raw(1, 0), id="s-zero"),
        pytest.param(raw(ORDER, 1), id="r-order"),
        pytest.param(raw(1, ORDER), id="s-order"),
        pytest.param(raw(2**256 - 1, 1), id="r-largest"),
        pytest.param(raw(1, 2**256 - 1), id="s-largest"),
    ],
)
def test_attacker_finds_a_library_that_forgets_the_range(signature: bytes) -> None:
    careless: Any = Careless()
    assert not signed_raw(careless, signature, MESSAGE)


@pytest.mark.parametrize("signature", [raw(1, 1), raw(ORDER - 1, 1), raw(1, ORDER - 1)])
def test_numbers_inside_the_range_are_left_to_the_library(signature: bytes) -> None:
    """Twin: the ends of the range belong to it."""
    careless: Any = Careless()
    assert signed_raw(careless, signature, MESSAGE)


def test_signature_of_another_length_is_none() -> None:
    """One more zero in front of s says the same number in 65 bytes."""
    genuine = sign_raw(KEY, MESSAGE)
    assert signed_raw(KEY.public_key(), genuine, MESSAGE)
    assert not signed_raw(KEY.public_key(), genuine[:32] + b"\0" + genuine[32:], MESSAGE)
