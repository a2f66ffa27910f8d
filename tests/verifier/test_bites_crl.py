"""Each rule for revocation lists by itself: what is odd but harmless, and what only looks so."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from simulation import der
from simulation.certificates import CrlForm, Extension
from tests.support.refusal import refused
from tests.verifier.world import AT, World, bites, extended, keeping, stored_crl, world
from verifier import Collateral, VerifiedQuote
from verifier import der as read
from verifier.certificate import ECDSA_SHA256, signed_parts
from verifier.contents import Contents
from verifier.crl import CertificateRevoked, CrlMalformed
from verifier.errors import CrlOfAnotherIssuer

W = world()
HEAD, FOOT = "-----BEGIN X509 CRL-----", "-----END X509 CRL-----"
CrlHook = Callable[[CrlForm], CrlForm]


def judge(collateral: Collateral) -> VerifiedQuote:
    return W.verify(collateral=collateral)


@pytest.mark.parametrize(
    ("head", "foot"),
    [("-----BEGIN X509 ARL-----", FOOT), (HEAD, "-----END X509 ARL-----")],
    ids=["head", "foot"],
)
def test_list_between_other_lines_is_no_pem(head: str, foot: str) -> None:
    """Cut off by length alone, any line would do, and two readers would see two texts."""

    def between(head: str, foot: str) -> Collateral:
        return stored_crl(lambda raw: f"{head}\n{base64.b64encode(raw).decode()}\n{foot}")

    bites(judge, between(HEAD, FOOT), between(head, foot), CrlMalformed, check="pck-crl")


@pytest.mark.parametrize(
    "hook",
    [
        pytest.param(extended(Extension("1.2.3.4", b"\x05\x00")), id="unknown"),
        pytest.param(extended(x509.CRLNumber(7), critical=True), id="number-critical"),
        pytest.param(
            extended(
                x509.AuthorityKeyIdentifier(W.platform.ca.key_identifier, None, None), critical=True
            ),
            id="authority-critical",
        ),
    ],
)
def test_extensions_that_take_nothing_away_are_no_obstacle(hook: CrlHook) -> None:
    """Twin: only what is critical and unknown says that the list means something else."""
    judge(W.collateral(pck_crl=hook))


def test_signature_with_unused_bits_is_another_spelling() -> None:
    """One bit less on the wire, the same number: two texts under one signature."""
    for number in range(64):
        raw = bytes.fromhex(W.collateral(pck_crl=extended(x509.CRLNumber(number))).pck_crl.decode())
        tbs, signature = signed_parts(raw)
        if signature[-1] & 1 == 0:
            break
    algorithm = raw[len(raw) - len(der.bit_string(signature)) - 12 :][:12]
    assert der.sequence(tbs, algorithm, der.tlv(3, b"\0", signature)) == raw
    other = der.sequence(tbs, algorithm, der.tlv(3, b"\1", signature))
    good, bad = (replace(W.collateral(), pck_crl=x) for x in (raw, other))
    bites(judge, good, bad, CrlMalformed, check="pck-crl")


SERIAL, DATE = der.integer(5), der.time(AT)


def well_signed(
    change: Callable[[list[bytes]], list[bytes]], *, slot: str = "pck_crl"
) -> Collateral:
    """A list of other fields, signed by its authority."""
    kept: list[CrlForm] = []
    genuine = W.collateral(**{slot: keeping(kept)})
    tbs, _ = signed_parts(bytes.fromhex(getattr(genuine, slot).decode()))
    body = der.sequence(*change(read.children(tbs)))
    key = kept[0].signer
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    altered: Any = {slot: der.sequence(body, ECDSA_SHA256, der.bit_string(signature))}
    return replace(genuine, **altered)


def listing(*entries: bytes) -> Collateral:
    """A list of entries as they are."""
    return well_signed(lambda fields: [*fields[:-1], der.sequence(*entries), fields[-1]])


def remark(size: int) -> bytes:
    """Extensions of an entry, as many bytes: one that nobody knows and nobody has to."""
    rest = size - len(der.sequence(der.sequence(der.oid("1.2.3.4"), der.octet_string(b""))))
    return der.sequence(der.sequence(der.oid("1.2.3.4"), der.octet_string(bytes(rest))))


ENTRIES = der.sequence(der.sequence(SERIAL, DATE))
LATER = der.time(AT.replace(year=2050))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f, id="none"),
        pytest.param(lambda f: [*f[:4], LATER, *f[5:]], id="ends-in-2050"),
        pytest.param(lambda f: [*f[:5], ENTRIES, *f[5:]], id="entries"),
        pytest.param(lambda f: [*f[:5], der.sequence(), *f[5:]], id="no-entries"),
    ],
)
def test_list_of_the_standard_form_is_read(change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Twin of the next: its builder signs well."""
    judge(well_signed(change))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: [der.integer(0), *f[1:]], id="version-1"),
        pytest.param(lambda f: [der.integer(2), *f[1:]], id="version-3"),
        pytest.param(lambda f: f[1:], id="no-version"),
        pytest.param(lambda f: f[:4], id="ends-after-thisUpdate"),
        pytest.param(lambda f: f[:5], id="ends-after-nextUpdate"),
        pytest.param(lambda f: [*f[:4], *f[5:]], id="no-nextUpdate"),
        pytest.param(lambda f: [*f[:4], ENTRIES, *f[5:]], id="entries-for-nextUpdate"),
        pytest.param(lambda f: [*f[:5], ENTRIES, ENTRIES, *f[5:]], id="entries-twice"),
        pytest.param(lambda f: [*f[:5], ENTRIES], id="no-extensions"),
        pytest.param(lambda f: [*f[:5], f[5], ENTRIES], id="another-order"),
        pytest.param(lambda f: [*f[:5], der.tlv(0xA1, f[5][2:])], id="another-tag"),
    ],
)
def test_list_of_another_form_is_none(change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Well signed; but what one reader finds in it, another does not."""
    with refused(CrlMalformed, check="pck-crl"):
        judge(well_signed(change))


@pytest.mark.parametrize(
    "value",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
    ],
    ids=["delta", "partial"],
)
def test_list_that_says_quietly_that_it_is_incomplete(value: x509.ExtensionType) -> None:
    """Not critical, against the standard: silent about the rest all the same."""
    with refused(CrlMalformed, check="pck-crl"):
        judge(W.collateral(pck_crl=extended(value)))


def test_key_identifiers_of_list_and_authority_that_are_both_empty_do_not_match() -> None:
    """Without a quote there is no leaf that would refuse such an authority first."""
    nameless = World.create(platform_ca=extended(x509.SubjectKeyIdentifier(b"")))
    empty = extended(x509.AuthorityKeyIdentifier(b"", None, None))
    with refused(CrlOfAnotherIssuer):
        Contents.authenticate(nameless.collateral(pck_crl=empty), nameless.intel.anchors())
    Contents.authenticate(W.collateral(), W.intel.anchors())


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(der.sequence(SERIAL, DATE), id="UTCTime"),
        pytest.param(der.sequence(SERIAL, der.time(AT.replace(year=2050))), id="GeneralizedTime"),
        pytest.param(der.sequence(der.integer(2**159 + 1), DATE), id="20-bytes"),
        pytest.param(der.sequence(SERIAL, DATE, remark(109)), id="127-bytes"),
        pytest.param(der.sequence(SERIAL, DATE, remark(110)), id="128-bytes"),
    ],
)
def test_entry_of_somebody_else_is_no_obstacle(entry: bytes) -> None:
    """Twin of the next."""
    judge(listing(entry))


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(der.sequence(), id="nothing"),
        pytest.param(der.sequence(DATE), id="no-serial"),
        pytest.param(der.sequence(der.octet_string(b"\5"), DATE), id="serial-of-another-type"),
        pytest.param(der.sequence(b"\2\0", DATE), id="empty-serial"),
        pytest.param(der.sequence(b"\2\x7f\5"), id="serial-cut-off"),
        pytest.param(der.sequence(b"\2"), id="serial-without-length"),
        pytest.param(der.sequence(SERIAL), id="no-date"),
        pytest.param(der.sequence(SERIAL, der.octet_string(bytes(13))), id="date-of-another-type"),
        pytest.param(der.sequence(SERIAL, der.tlv(0x17, b"2611251200Z")), id="date-of-a-minute"),
        pytest.param(der.sequence(SERIAL, DATE[:-1]), id="date-cut-off"),
        pytest.param(der.sequence(SERIAL, DATE, remark(110)[:-1]), id="extensions-cut-off"),
        pytest.param(der.sequence(der.integer(0), DATE), id="zero"),
        pytest.param(der.sequence(der.integer(-5), DATE), id="negative"),
        pytest.param(der.tlv(0x31, SERIAL, DATE), id="a-set"),
    ],
)
def test_entry_that_could_be_read_in_two_ways(entry: bytes) -> None:
    """An entry that is skipped, or read as another number, is a revocation that is lost."""
    with refused(CrlMalformed, check="pck-crl"):
        judge(listing(entry))


def test_serial_is_read_to_its_last_byte() -> None:
    with refused(CertificateRevoked, check="pck-crl"):
        judge(listing(der.sequence(der.integer(W.platform.pck.serial), DATE)))


def usual(serial: int, reason: int) -> bytes:
    """An entry as Intel writes them: number, date, and a reason as its one extension."""
    why = der.sequence(der.oid("2.5.29.21"), der.octet_string(der.enumerated(reason)))
    return der.sequence(der.integer(serial), DATE, der.sequence(why))


def test_each_entry_of_a_long_list_counts() -> None:
    others = [usual(2**159 + number, 1) for number in range(2000)]
    W.verify(collateral=listing(b"".join(others)))
    with refused(CertificateRevoked, check="pck-crl"):
        W.verify(collateral=listing(b"".join([*others, usual(W.platform.pck.serial, 0)])))
