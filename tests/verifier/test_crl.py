"""T11, T12: revocation lists that are absent, of somebody else, forged, or that list us."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from simulation import der
from simulation.certificates import CertificateForm, CrlForm, Extension, Issued, new_key
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import (
    AT,
    World,
    bites,
    drop,
    extended,
    keeping,
    processor_world,
    put,
    stored_crl,
    world,
)
from verifier import Collateral, VerifiedQuote
from verifier import der as read
from verifier.certificate import (
    ECDSA_SHA256,
    CertificateNotIssued,
    CertificateRoleWrong,
    IssuerChainMalformed,
    RootUntrusted,
    signed_parts,
)
from verifier.contents import Contents
from verifier.crl import CertificateRevoked, CrlMalformed, CrlSignatureInvalid, crl_der
from verifier.errors import CrlMissing, CrlOfAnotherIssuer, RatlsError
from verifier.validity import CrlNotCurrent

SECOND = timedelta(seconds=1)
STRANGER = new_key(os.urandom)
W = world()
INTEL = W.intel
CrlHook = Callable[[CrlForm], CrlForm]


def listing(*certificates: Issued) -> CrlHook:
    return lambda form: replace(form, revoked=tuple(c.serial for c in certificates))


@pytest.mark.parametrize(
    ("altered", "check"),
    [
        pytest.param({"pck_crl": listing(W.platform.pck)}, "pck-crl", id="N084-leaf"),
        pytest.param({"root_crl": listing(INTEL.platform_ca)}, "root-crl", id="N085-authority"),
        pytest.param({"root_crl": listing(INTEL.tcb_signer)}, "tcb-info", id="N105-signer"),
    ],
)
def test_revoked_certificate_is_refused(altered: dict[str, CrlHook], check: str) -> None:
    """T12: whatever the reason; a revoked key is one that somebody else may have."""
    with refused(CertificateRevoked, check=check):
        W.verify(collateral=W.collateral(**altered))


def test_revocation_without_a_reason_counts_too() -> None:
    def bare(form: CrlForm) -> CrlForm:
        return replace(form, revoked=(W.platform.pck.serial,), entry_extensions=())

    with refused(CertificateRevoked, check="pck-crl"):
        W.verify(collateral=W.collateral(pck_crl=bare))


def test_the_revocation_of_others_is_no_obstacle() -> None:
    """Twin: a list with entries, none of them ours."""
    others = listing(INTEL.processor_ca, INTEL.tcb_signer)
    W.verify(collateral=W.collateral(pck_crl=others))


def kept_in(forms: list[CertificateForm]) -> Callable[[CertificateForm], CertificateForm]:
    """Changes nothing; the form of what is issued is noted."""

    def keep(form: CertificateForm) -> CertificateForm:
        forms.append(form)
        return form

    return keep


def test_identity_has_a_signer_of_its_own_that_is_revoked() -> None:
    """N105, N143: the two documents may name different editions of the signer; both are judged."""
    forms: list[CertificateForm] = []
    w = World.create(tcb_signer=kept_in(forms))
    other = replace(forms[0], serial=4711).issue()
    bundle = put(qe_identity_issuer_chain=other.pem + w.intel.root.pem)
    w.verify(collateral=w.collateral(bundle=bundle))
    with refused(CertificateRevoked, check="qe-identity"):
        w.verify(collateral=w.collateral(bundle=bundle, root_crl=listing(other)))


def issued_by(ca: Issued) -> CrlHook:
    """The whole list as another authority would publish it: genuine, of somebody else."""

    def alter(form: CrlForm) -> CrlForm:
        form = form.extended(x509.AuthorityKeyIdentifier(ca.key_identifier, None, None))
        return replace(form, issuer=ca.subject, signer=ca.key)

    return alter


CRITICAL_UNKNOWN = Extension("1.2.3.4", b"\x05\x00", critical=True)
CRL_CASES: dict[str, tuple[CrlHook, type[RatlsError]]] = {
    "N086-key": (lambda f: replace(f, signer=STRANGER), CrlSignatureInvalid),
    "N086-name": (lambda f: replace(f, issuer=INTEL.tcb_signer.subject), CrlOfAnotherIssuer),
    "N086-key-identifier": (
        extended(x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None)),
        CrlOfAnotherIssuer,
    ),
    "N087-sister-authority": (issued_by(INTEL.processor_ca), CrlOfAnotherIssuer),
    "N088-no-number": (lambda f: f.without(x509.CRLNumber), CrlMalformed),
    "N088-no-AKI": (lambda f: f.without(x509.AuthorityKeyIdentifier), CrlMalformed),
    "N088-no-extensions": (lambda f: replace(f, extensions=()), CrlMalformed),
    "N088-unknown-critical": (extended(CRITICAL_UNKNOWN), CrlMalformed),
    "N088-delta": (extended(x509.DeltaCRLIndicator(1), critical=True), CrlMalformed),
    "N088-partial": (
        extended(
            x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
            critical=True,
        ),
        CrlMalformed,
    ),
    "entry-of-another-issuer": (
        lambda f: replace(f, revoked=(5,), entry_extensions=(CRITICAL_UNKNOWN,)),
        CrlMalformed,
    ),
    "N089-no-next-update": (lambda f: replace(f, next_update=None), CrlMalformed),
    "sha384": (lambda f: replace(f, algorithm=hashes.SHA384()), CrlMalformed),
    "inner-algorithm": (
        lambda f: replace(f, algorithm=hashes.SHA384(), outer_algorithm=hashes.SHA256()),
        CrlMalformed,
    ),
    "N089-ended": (lambda f: replace(f, next_update=AT), CrlNotCurrent),
    "N089-starts": (
        lambda f: replace(f, this_update=AT + timedelta(seconds=301)),
        CrlNotCurrent,
    ),
}


@pytest.mark.parametrize("slot", ["root_crl", "pck_crl"])
@pytest.mark.parametrize("case", CRL_CASES)
def test_attacker_bends_one_property_of_a_list(case: str, slot: str) -> None:
    """T11: each would hide a revocation behind a list that looks like one."""
    hook, leaf = CRL_CASES[case]
    check = "validity" if leaf is CrlNotCurrent else slot.replace("_", "-")
    with refused(leaf, check=check):
        W.verify(collateral=W.collateral(**{slot: hook}))


@pytest.mark.parametrize(
    "hook",
    [
        lambda f: replace(f, next_update=AT + SECOND),
        lambda f: replace(f, this_update=AT + timedelta(seconds=300)),
    ],
    ids=["last-second", "within-skew"],
)
def test_list_that_just_covers_the_instant_is_good(hook: CrlHook) -> None:
    W.verify(collateral=W.collateral(pck_crl=hook))


def test_platform_list_for_a_processor_leaf() -> None:
    """N087 the other way round: a genuine list in which this leaf can never be found."""
    w = processor_world()
    with refused(CrlOfAnotherIssuer, check="pck-crl"):
        w.verify(collateral=w.collateral(pck_crl=issued_by(w.intel.platform_ca)))


def test_root_list_in_the_place_of_the_pck_list() -> None:
    """N092: signed by the believed root, and silent about leaves."""
    with refused(CrlOfAnotherIssuer, check="pck-crl"):
        W.verify(collateral=W.collateral(bundle=lambda b: {**b, "pck_crl": b["root_ca_crl"]}))


@pytest.mark.parametrize("slot", ["root_ca_crl", "pck_crl"])
@pytest.mark.parametrize(
    "bundle",
    [lambda s: drop(s), lambda s: put(**{s: None})],
    ids=["N091-absent", "N091-null"],
)
def test_attacker_strips_a_list_from_the_bundle(bundle: Callable[[str], Any], slot: str) -> None:
    """Absence never means `nothing is revoked`."""
    with refused(CrlMissing):
        W.collateral(bundle=bundle(slot))


def pem(raw: bytes) -> str:
    text = base64.encodebytes(raw).decode()
    return f"-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n"


@pytest.mark.parametrize(
    "write",
    [pem, bytes.hex, lambda raw: raw.hex().upper(), lambda raw: f" {raw.hex()}\n\0"],
    ids=["pem", "hex", "upper-case", "white-space"],
)
def test_the_same_list_in_each_form_gives_the_same_verdict(write: Callable[[bytes], str]) -> None:
    """N093: Intel's services hand it out as PEM, as DER and as hexadecimal text of DER."""
    verified = W.verify(collateral=stored_crl(write))
    assert verified.tcb == W.verify().tcb


def test_list_in_der_is_read_too() -> None:
    collateral = W.collateral()
    raw = bytes.fromhex(collateral.pck_crl.decode())
    W.verify(collateral=replace(collateral, pck_crl=raw))


@pytest.mark.parametrize(
    ("write", "leaf"),
    [
        pytest.param(lambda r: "", CrlMissing, id="N091-empty"),
        pytest.param(lambda r: " \n\0", CrlMissing, id="N091-blank"),
        pytest.param(lambda r: "no list", CrlMalformed, id="N090-text"),
        pytest.param(lambda r: r.hex()[:-2], CrlMalformed, id="N090-truncated"),
        pytest.param(lambda r: r.hex()[:-1], CrlMalformed, id="N090-odd"),
        pytest.param(lambda r: r.hex() + "00", CrlMalformed, id="N090-trailing"),
        pytest.param(lambda r: pem(r)[:-5], CrlMalformed, id="N090-footer"),
        pytest.param(lambda r: pem(r).replace("MI", "M!", 1), CrlMalformed, id="N090-base64"),
        pytest.param(lambda r: pem(r) + pem(r), CrlMalformed, id="two-lists"),
    ],
)
def test_attacker_sends_something_else_for_a_list(
    write: Callable[[bytes], str], leaf: type[RatlsError]
) -> None:
    with refused(leaf, check="pck-crl"):
        W.verify(collateral=stored_crl(write))


ROOT_PEM, CA_PEM = INTEL.root.pem, INTEL.platform_ca.pem
TWIN = INTEL.twin()


@pytest.mark.parametrize(
    ("chain", "leaf"),
    [
        pytest.param(INTEL.processor_ca.pem + ROOT_PEM, CrlOfAnotherIssuer, id="sister"),
        pytest.param(INTEL.tcb_signer.pem + ROOT_PEM, CertificateRoleWrong, id="signer"),
        pytest.param(TWIN.platform_ca.pem + TWIN.root.pem, RootUntrusted, id="twin"),
        pytest.param(CA_PEM, IssuerChainMalformed, id="one"),
        pytest.param(CA_PEM + ROOT_PEM + ROOT_PEM, IssuerChainMalformed, id="three"),
        pytest.param(ROOT_PEM + CA_PEM, CertificateRoleWrong, id="reversed"),
        pytest.param("", IssuerChainMalformed, id="empty"),
    ],
)
def test_issuer_chain_of_the_list_is_of_somebody_else(chain: str, leaf: type[RatlsError]) -> None:
    """dcap.md 4.3: it must be the quote's own authority, by key."""
    with refused(leaf, check="pck-crl"):
        W.verify(collateral=W.collateral(bundle=put(pck_crl_issuer_chain=chain)))


def test_reissued_authority_with_the_same_key_is_the_same_authority() -> None:
    """dcap.md 2.3: Intel reissued its PCK authorities; certificates differ, name and key do not."""
    forms: list[CertificateForm] = []
    w = World.create(platform_ca=kept_in(forms))
    reissued = replace(forms[0], serial=4711, not_after=AT + timedelta(days=9000)).issue()
    bundle = put(pck_crl_issuer_chain=reissued.pem + w.intel.root.pem)
    w.verify(collateral=w.collateral(bundle=bundle))
    with refused(CertificateRevoked, check="pck-crl"):
        w.verify(collateral=w.collateral(bundle=bundle, root_crl=listing(reissued)))
    forged = replace(forms[0], serial=4711, signer=STRANGER).issue()
    with refused(CertificateNotIssued, check="pck-crl"):
        bundle = put(pck_crl_issuer_chain=forged.pem + w.intel.root.pem)
        w.verify(collateral=w.collateral(bundle=bundle))


@pytest.mark.parametrize(
    "fields",
    [[], [der.integer(1)], [der.integer(1), ECDSA_SHA256], [der.integer(0), ECDSA_SHA256] * 2],
    ids=len,
)
def test_list_with_hardly_anything_inside(fields: list[bytes]) -> None:
    """What is missing must not be looked for behind the end."""
    raw = der.sequence(der.sequence(*fields), ECDSA_SHA256, der.bit_string(b"\x30\x00"))
    with refused(CrlMalformed, check="root-crl"):
        W.verify(collateral=replace(W.collateral(), root_ca_crl=raw))


@given(st.binary(max_size=300))
def test_garbage_for_a_list_is_a_typed_refusal(junk: bytes) -> None:
    count_refusal()
    with pytest.raises(RatlsError) as refusal:
        W.verify(collateral=replace(W.collateral(), root_ca_crl=b"\x30" + junk))
    assert refusal.value.check == "root-crl"


def test_every_prefix_of_a_list_is_a_typed_refusal() -> None:
    count_refusal()
    collateral = W.collateral()
    raw = bytes.fromhex(collateral.root_ca_crl.decode())
    for size in range(1, len(raw)):
        with pytest.raises(RatlsError) as refusal:
            W.verify(collateral=replace(collateral, root_ca_crl=raw[:size]))
        assert refusal.value.check == "root-crl"


# Each rule by itself: what is odd but harmless, and what only looks so.


HEAD, FOOT = "-----BEGIN X509 CRL-----", "-----END X509 CRL-----"


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


def listing_entries(*entries: bytes) -> Collateral:
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
    judge(listing_entries(entry))


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
        judge(listing_entries(entry))


def test_serial_is_read_to_its_last_byte() -> None:
    with refused(CertificateRevoked, check="pck-crl"):
        judge(listing_entries(der.sequence(der.integer(W.platform.pck.serial), DATE)))


def usual(serial: int, reason: int) -> bytes:
    """An entry as Intel writes them: number, date, and a reason as its one extension."""
    why = der.sequence(der.oid("2.5.29.21"), der.octet_string(der.enumerated(reason)))
    return der.sequence(der.integer(serial), DATE, der.sequence(why))


def test_each_entry_of_a_long_list_counts() -> None:
    others = [usual(2**159 + number, 1) for number in range(2000)]
    W.verify(collateral=listing_entries(b"".join(others)))
    with refused(CertificateRevoked, check="pck-crl"):
        W.verify(collateral=listing_entries(b"".join([*others, usual(W.platform.pck.serial, 0)])))


@pytest.mark.parametrize(
    ("write", "called"),
    [
        pytest.param(lambda raw: b"0x" + raw.hex().encode(), "0x", id="0x"),
        pytest.param(lambda raw: b"0X" + raw.hex().encode(), "0x", id="0X"),
        pytest.param(base64.b64encode, "base64", id="base64"),
    ],
)
def test_list_in_a_form_that_is_not_read(write: Callable[[bytes], bytes], called: str) -> None:
    """And 0x is not taken for DER, which starts with the same byte."""
    raw = bytes.fromhex(W.collateral().root_ca_crl.decode())
    assert crl_der(raw.hex().encode(), "CRL") == raw
    with refused(CrlMalformed) as seen:
        crl_der(write(raw), "CRL")
    assert called in seen.error.found
