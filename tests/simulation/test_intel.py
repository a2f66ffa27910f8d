"""Each hook breaks exactly one link: the real verifier names that link and no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from simulation import documents
from simulation.certificates import Extension, new_key, sign_raw
from simulation.intel import DAY, PCK_CN, SECOND, Intel
from simulation.quote import DEBUG, QuoteForm
from tests.support.intel import AT, World
from tests.support.refusal import refused
from verifier import errors
from verifier.acceptance import EnclaveDebuggable, accept
from verifier.certificate import (
    CertificateMalformed,
    CertificateNotIssued,
    CertificateRoleWrong,
    RootUntrusted,
)
from verifier.collateral import QeIdentitySignatureInvalid, TcbInfoSignatureInvalid
from verifier.crl import CertificateRevoked, CrlMalformed, CrlSignatureInvalid
from verifier.document import CollateralMalformed
from verifier.errors import RatlsError
from verifier.pck import PckExtensionMalformed
from verifier.qe import (
    AttestationKeyUnbound,
    QeIdentityMismatch,
    QeNotIntels,
    QeReportSignatureInvalid,
    QeTcbLevelUnmatched,
    QuoteSignatureInvalid,
)
from verifier.quote import QuoteMalformed, QuoteUnsupported
from verifier.tcb import TcbInfoMismatch, TcbStatus
from verifier.validity import CertificateNotCurrent, CollateralNotCurrent, CrlNotCurrent
from verifier.verify import QuoteCheck

Alteration = dict[str, Any]


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


def test_the_default_world_is_up_to_date(world: World) -> None:
    """The accepted twin of every refusal below."""
    verified = world.verify()
    accept(verified)
    assert verified.tcb.status is TcbStatus.UP_TO_DATE
    assert verified.platform.ppid == world.platform.tcb.ppid
    assert verified.platform.piid == world.platform.tcb.piid
    assert verified.quote.report.report_data == bytes(range(64))


def test_a_platform_of_the_processor_ca_is_up_to_date_too() -> None:
    """Five elements instead of seven in the extension, another CA, another CRL."""
    verified = World.create(processor=True).verify()
    assert verified.tcb.status is TcbStatus.UP_TO_DATE
    assert verified.platform.piid is None


@pytest.mark.parametrize("days", [0, 29])
def test_the_default_world_holds_for_thirty_days(world: World, days: int) -> None:
    world.verify(at=AT + days * DAY)


@pytest.mark.parametrize("late", [-DAY, 30 * DAY])
def test_a_judge_outside_the_thirty_days_decides_nothing(world: World, late: timedelta) -> None:
    """An old bundle might hide what was revoked since."""
    with refused(CollateralNotCurrent, check=QuoteCheck.VALIDITY):
        world.verify(collateral=_without_crl_dates(world), at=AT + late)


def _without_crl_dates(world: World) -> Any:
    def wide(form: Any) -> Any:
        return replace(form, this_update=AT - 2 * DAY, next_update=AT + 60 * DAY)

    return world.collateral(root_crl=wide, pck_crl=wide)


@pytest.mark.parametrize(
    "twin",
    [lambda w: Intel.create(AT), lambda w: w.intel.twin()],
    ids=["same names", "same names, serials and identifiers"],
)
def test_an_evil_twin_of_intel_is_not_believed(
    world: World, twin: Callable[[World], Intel]
) -> None:
    """N060, N061: everything that can be read is equal; only the keys are others."""
    evil = twin(world)
    platform = evil.platform()
    collateral = replace(world, intel=evil, platform=platform).collateral()
    world.verify(quote=platform.quote(), collateral=collateral, roots=evil.anchors())
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        world.verify(quote=platform.quote(), collateral=collateral)


def test_a_twin_shares_all_but_the_keys(world: World) -> None:
    twin = world.intel.twin()
    for name in ("root", "processor_ca", "platform_ca", "tcb_signer"):
        mine, other = getattr(world.intel, name), getattr(twin, name)
        assert (mine.subject, mine.serial) == (other.subject, other.serial)
        assert mine.key_identifier == other.key_identifier
        assert mine.spki_sha256 != other.spki_sha256
    authority = x509.load_der_x509_certificate(twin.platform_ca.der)
    authority.verify_directly_issued_by(x509.load_der_x509_certificate(twin.root.der))


UNKNOWN = Extension("1.2.3.4", b"\x05\x00", critical=True)
CERTIFICATES: list[tuple[str, Alteration, type[RatlsError], QuoteCheck]] = [
    (
        "N063 the intermediate is signed by another key",
        {"platform_ca": lambda c: replace(c, signer=new_key())},
        CertificateNotIssued,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N064 the leaf names another issuer",
        {"pck": lambda c: replace(c, issuer=c.subject)},
        CertificateNotIssued,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N065 the leaf's name only contains the right one",
        {"pck": lambda c: c.named(f"{PCK_CN} 2")},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N067 the leaf is a CA",
        {"pck": lambda c: c.extended(x509.BasicConstraints(True, None), critical=True)},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N069 the leaf is signed with SHA-384",
        {"pck": lambda c: replace(c, algorithm=hashes.SHA384())},
        CertificateMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N069 the leaf says another algorithm outside than inside",
        {"pck": lambda c: replace(c, outer_algorithm=hashes.SHA384())},
        CertificateMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N069 the intermediate is of X.509 version 1",
        {"platform_ca": lambda c: replace(c, version=1)},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N070 the leaf names no authority key",
        {"pck": lambda c: c.without(x509.AuthorityKeyIdentifier)},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N071 the leaf has an unknown critical extension",
        {"pck": lambda c: c.extended(UNKNOWN)},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N072 the intermediate ended a second ago",
        {"platform_ca": lambda c: replace(c, not_after=AT - SECOND)},
        CertificateNotCurrent,
        QuoteCheck.VALIDITY,
    ),
    (
        "N072 the root ended a second ago",
        {"root": lambda c: replace(c, not_after=AT - SECOND)},
        CertificateNotCurrent,
        QuoteCheck.VALIDITY,
    ),
    (
        "N067 the root is no CA",
        {"root": lambda c: c.extended(x509.BasicConstraints(False, None), critical=True)},
        CertificateRoleWrong,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N073 the leaf begins in a second",
        {"pck": lambda c: replace(c, not_before=AT + SECOND)},
        CertificateNotCurrent,
        QuoteCheck.VALIDITY,
    ),
    (
        "N075 a Platform CA's leaf has five elements",
        {"sgx": lambda e: replace(e, piid=None, configuration=None).encode()},
        PckExtensionMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N077 the TCB lacks an element",
        {"sgx": lambda e: e.encode(tcb=lambda elements: elements[1:])},
        PckExtensionMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N078 a component of 256",
        {"sgx": lambda e: replace(e, components=(256, *e.components[1:])).encode()},
        PckExtensionMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N082 the configuration has two entries",
        {"sgx": lambda e: e.encode(configuration=lambda elements: elements[:2])},
        PckExtensionMalformed,
        QuoteCheck.PCK_CHAIN,
    ),
    (
        "N104 the signer of collateral has another name",
        {"tcb_signer": lambda c: c.named("Intel SGX Something")},
        CertificateRoleWrong,
        QuoteCheck.TCB_INFO,
    ),
    (
        "N105 the signer of collateral ended a second ago",
        {"tcb_signer": lambda c: replace(c, not_after=AT - SECOND)},
        CertificateNotCurrent,
        QuoteCheck.VALIDITY,
    ),
]


@pytest.mark.parametrize(
    ("altered", "leaf", "check"), [c[1:] for c in CERTIFICATES], ids=[c[0] for c in CERTIFICATES]
)
def test_attacker_alters_a_certificate_and_signs_all_below(
    altered: Alteration, leaf: type[RatlsError], check: QuoteCheck
) -> None:
    with refused(leaf, check=check):
        World.create(**altered).verify()


def test_attacker_gives_the_intermediate_an_rsa_key() -> None:
    """N069: the chain may verify; quotes know one kind of key."""
    key = rsa.generate_private_key(65537, 2048)
    with refused(CertificateMalformed, check=QuoteCheck.PCK_CHAIN):
        World.create(platform_ca=lambda c: replace(c, key=key)).verify()


def test_attacker_gives_the_leaf_a_key_on_another_curve() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    world = World.create(pck=lambda c: replace(c, key=key))
    with refused(CertificateRoleWrong, check=QuoteCheck.PCK_CHAIN):
        world.verify(quote=world.quote(qe_key=new_key()))


def _unbound(form: QuoteForm) -> QuoteForm:
    return form.signed_by(new_key())


QUOTES: list[tuple[str, Alteration, type[RatlsError], QuoteCheck]] = [
    (
        "N009 another vendor's quoting enclave",
        {"header": lambda h: replace(h, qe_vendor_id=bytes(16))},
        QuoteUnsupported,
        QuoteCheck.QUOTE_FORMAT,
    ),
    (
        "N016 the signature data is said to be shorter than it is",
        {"form": lambda q: replace(q, signature_data_len=600)},
        QuoteMalformed,
        QuoteCheck.QUOTE_FORMAT,
    ),
    (
        "N017 a byte follows the quote",
        {"form": lambda q: replace(q, trailing=b"\x01")},
        QuoteMalformed,
        QuoteCheck.QUOTE_FORMAT,
    ),
    (
        "N020 more auth data is announced than there is",
        {"form": lambda q: replace(q, qe_auth_data_len=65535)},
        QuoteMalformed,
        QuoteCheck.QUOTE_FORMAT,
    ),
    (
        "N030 the certification data is of another type",
        {"form": lambda q: replace(q, certification_data_type=4)},
        QuoteUnsupported,
        QuoteCheck.QUOTE_FORMAT,
    ),
    (
        "N041 the signature is zero",
        {"form": lambda q: replace(q, signature=bytes(64))},
        QuoteSignatureInvalid,
        QuoteCheck.QUOTE_SIGNATURE,
    ),
    (
        "N042 the quote is signed by another key than it carries",
        {"form": lambda q: replace(q, signature=sign_raw(new_key(), q.signed))},
        QuoteSignatureInvalid,
        QuoteCheck.QUOTE_SIGNATURE,
    ),
    (
        "N045 a key that the quoting enclave never saw",
        {"form": _unbound},
        AttestationKeyUnbound,
        QuoteCheck.KEY_BINDING,
    ),
    (
        "N047 the second half of the binding is not zero",
        {"qe_report": lambda r: replace(r, report_data=r.report_data[:32] + b"\x01" * 32)},
        AttestationKeyUnbound,
        QuoteCheck.KEY_BINDING,
    ),
    (
        "N048 the quoting enclave's report is signed by another key",
        {"qe_key": new_key()},
        QeReportSignatureInvalid,
        QuoteCheck.QE_REPORT_SIGNATURE,
    ),
    (
        "N146 another signer's quoting enclave",
        {"qe_report": lambda r: replace(r, mr_signer=bytes(32))},
        QeNotIntels,
        QuoteCheck.QE_MATCH,
    ),
]


@pytest.mark.parametrize(
    ("altered", "leaf", "check"), [c[1:] for c in QUOTES], ids=[c[0] for c in QUOTES]
)
def test_attacker_alters_a_quote_and_signs_all_below(
    world: World, altered: Alteration, leaf: type[RatlsError], check: QuoteCheck
) -> None:
    with refused(leaf, check=check):
        world.verify(quote=world.quote(**altered))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_auth_data_of_any_size_is_bound_and_accepted(world: World, size: int) -> None:
    """N021."""
    world.verify(quote=world.quote(qe_auth_data=bytes(size)))


def test_another_attestation_key_that_is_vouched_for_is_accepted(world: World) -> None:
    """The twin of N045."""
    world.verify(quote=world.quote(attestation_key=new_key()))


def test_a_debug_enclave_is_authentic_and_not_accepted(world: World) -> None:
    """N212: fields of the report are given by their names."""
    verified = world.verify(quote=world.quote(flags=0x05 | DEBUG))
    with refused(EnclaveDebuggable):
        accept(verified)


def _revoked(serial: int) -> Callable[[Any], Any]:
    return lambda form: replace(form, revoked=(serial,))


COLLATERAL: list[tuple[str, Callable[[World], Alteration], type[RatlsError], QuoteCheck]] = [
    (
        "N084 the leaf is revoked",
        lambda w: {"pck_crl": _revoked(w.platform.pck.serial)},
        CertificateRevoked,
        QuoteCheck.PCK_CRL,
    ),
    (
        "N085 the intermediate is revoked",
        lambda w: {"root_crl": _revoked(w.intel.platform_ca.serial)},
        CertificateRevoked,
        QuoteCheck.ROOT_CRL,
    ),
    (
        "N086 a list with the right name, by another key",
        lambda w: {"pck_crl": lambda c: replace(c, signer=new_key())},
        CrlSignatureInvalid,
        QuoteCheck.PCK_CRL,
    ),
    (
        "N086 a list of another issuer",
        lambda w: {"pck_crl": lambda c: replace(c, issuer=w.intel.processor_ca.subject)},
        errors.CrlOfAnotherIssuer,
        QuoteCheck.PCK_CRL,
    ),
    (
        "N088 a list without a number",
        lambda w: {"pck_crl": lambda c: c.without(x509.CRLNumber)},
        CrlMalformed,
        QuoteCheck.PCK_CRL,
    ),
    (
        "N088 a list that only holds changes",
        lambda w: {"root_crl": lambda c: c.extended(x509.DeltaCRLIndicator(1), critical=True)},
        CrlMalformed,
        QuoteCheck.ROOT_CRL,
    ),
    (
        "N089 a list without an end",
        lambda w: {"pck_crl": lambda c: replace(c, next_update=None)},
        CrlMalformed,
        QuoteCheck.PCK_CRL,
    ),
    (
        "N089 a list that ended",
        lambda w: {"root_crl": lambda c: replace(c, next_update=AT)},
        CrlNotCurrent,
        QuoteCheck.VALIDITY,
    ),
    (
        "N103 TCB info signed by the PCK key",
        lambda w: {"tcb_info_key": w.platform.pck.key},
        TcbInfoSignatureInvalid,
        QuoteCheck.TCB_INFO,
    ),
    (
        "N102 a space is put into the signed identity",
        lambda w: {"bundle": lambda b: b | {"qe_identity": b["qe_identity"] + " "}},
        QeIdentitySignatureInvalid,
        QuoteCheck.QE_IDENTITY,
    ),
    (
        "N111 TCB info of another model",
        lambda w: {"tcb_info": lambda d: d | {"fmspc": "00906EA10000"}},
        TcbInfoMismatch,
        QuoteCheck.PLATFORM_MATCH,
    ),
    (
        "N125 a second fmspc, signed",
        lambda w: {"tcb_info_text": lambda t: t[:-1] + ',"fmspc":"00906EA10000"}'},
        CollateralMalformed,
        QuoteCheck.TCB_INFO,
    ),
    (
        "N144 the identity of another enclave",
        lambda w: {"qe_identity": lambda d: d | {"id": "QVE"}},
        QeIdentityMismatch,
        QuoteCheck.QE_IDENTITY,
    ),
    (
        "N151 the quoting enclave is older than every level",
        lambda w: {"qe_identity": lambda d: d | {"tcbLevels": [documents.qe_level(9, date=AT)]}},
        QeTcbLevelUnmatched,
        QuoteCheck.QE_LEVEL,
    ),
]


@pytest.mark.parametrize(
    ("altered", "leaf", "check"), [c[1:] for c in COLLATERAL], ids=[c[0] for c in COLLATERAL]
)
def test_attacker_alters_collateral_that_is_signed_again(
    world: World,
    altered: Callable[[World], Alteration],
    leaf: type[RatlsError],
    check: QuoteCheck,
) -> None:
    with refused(leaf, check=check):
        world.verify(collateral=world.collateral(**altered(world)))


@pytest.mark.parametrize("status", ["OutOfDate", "ConfigurationNeeded", "Revoked"])
def test_levels_are_what_the_test_says(world: World, status: str) -> None:
    tcb = world.platform.tcb
    level = documents.tcb_level(
        tcb.components, tcb.pce_svn, date=AT, status=status, advisories=["INTEL-SA-99997"]
    )
    collateral = world.collateral(tcb_info=lambda d: d | {"tcbLevels": [level]})
    verified = world.verify(collateral=collateral)
    assert (verified.tcb.status, verified.tcb.advisory_ids) == (status, ("INTEL-SA-99997",))


def test_the_same_random_bytes_give_the_same_world() -> None:
    """What a failing test printed can be made again; two worlds of other bytes share nothing."""

    def counting(start: bytes) -> Callable[[int], bytes]:
        state = [start]

        def random(size: int) -> bytes:
            state[0] = hashlib.sha256(state[0]).digest()
            return hashlib.shake_256(state[0]).digest(size)

        return random

    def everything(start: bytes) -> tuple[bytes, bytes]:
        intel = Intel.create(AT, random=counting(start))
        platform = intel.platform()
        return platform.quote(), intel.collateral(platform)

    assert everything(b"a") == everything(b"a")
    assert everything(b"a") != everything(b"b")


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_serial_numbers_are_positive_and_fit_in_twenty_octets(byte: bytes) -> None:
    """RFC 5280: a negative or longer one makes some readers refuse the certificate."""

    def constant(size: int) -> bytes:
        return byte * size

    assert 0 < Intel.create(AT, random=constant).root.serial < 1 << 159
