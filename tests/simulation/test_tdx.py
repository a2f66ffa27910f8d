"""Trust domains of a simulated Intel: an unaltered world verifies, each hook breaks one link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simulation import documents
from simulation.certificates import new_key, public_point
from simulation.intel import TDX_COMPONENTS
from simulation.platform import TEE_TCB_SVN
from simulation.quote import QE_REPORT, SEPT_VE_DISABLE, DescriptorForm, QuoteForm
from tests.support.intel import AT, REPORT_DATA, World
from tests.support.refusal import refused
from verifier.acceptance import (
    AcceptanceCheck,
    ServiceTdUnaccepted,
    TdAttributesUnaccepted,
    TdDebuggable,
    accept,
)
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.qe import (
    AttestationKeyUnbound,
    QeIdentityMismatch,
    QeNotIntels,
    QeReportSignatureInvalid,
    QuoteSignatureInvalid,
)
from verifier.quote import (
    ExtendedTdReportUnsupported,
    Quote,
    QuoteMalformed,
    QuoteUnsupported,
    Tee,
)
from verifier.tcb import TcbInfoMismatch, TcbLevelUnmatched, TcbStatus
from verifier.td import TdReport
from verifier.tdx_module import TdxModuleLevelUnmatched, TdxModuleMismatch
from verifier.verify import QuoteCheck, VerifiedQuote, verify_quote

Alteration = dict[str, Any]
OLD_MODULE = bytes((2, 1, 2, *(0,) * 13))


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


def td_collateral(world: World, **altered: Any) -> Collateral:
    return world.collateral(tdx=True, **altered)


def td_quote(world: World, **altered: Any) -> bytes:
    return world.platform.td_quote(REPORT_DATA, **altered)


def verify(
    world: World, *, quote: bytes | None = None, collateral: Collateral | None = None
) -> VerifiedQuote:
    """The genuine world of trust domains, but for what is given."""
    return world.verify(
        quote=td_quote(world) if quote is None else quote,
        collateral=collateral or td_collateral(world),
    )


# The accepted twins of every refusal below


@pytest.mark.parametrize(
    ("version", "altered", "signed"),
    [
        pytest.param(4, {}, 632, id="TDX 1.0, version 4"),
        pytest.param(5, {}, 638, id="TDX 1.0, version 5"),
        pytest.param(5, {"tee_tcb_svn_2": TEE_TCB_SVN}, 702, id="TDX 1.5, version 5"),
    ],
)
def test_an_unaltered_world_is_up_to_date(
    world: World, version: int, altered: Alteration, signed: int
) -> None:
    verified = verify(world, quote=td_quote(world, version=version, **altered))
    accept(verified)
    quote = verified.quote
    assert isinstance(quote.report, TdReport)
    assert (quote.header.version, quote.tee, len(quote.signed)) == (version, Tee.TDX, signed)
    assert quote.report.report_data == REPORT_DATA
    assert verified.tcb.status is verified.tcb.module_status is TcbStatus.UP_TO_DATE


def test_a_platform_of_the_processor_ca_quotes_trust_domains_too() -> None:
    assert verify(World.create(processor=True)).tcb.status is TcbStatus.UP_TO_DATE


@pytest.mark.parametrize(("version", "signed"), [(3, 432), (4, 432), (5, 438)])
def test_an_enclave_is_quoted_in_every_version(world: World, version: int, signed: int) -> None:
    verified = verify_quote(
        world.quote(version=version),
        world.collateral(),
        roots=world.intel.anchors(),
        at=AT,
        newer_sgx=True,
    )
    accept(verified)
    assert (verified.quote.tee, len(verified.quote.signed)) == (Tee.SGX, signed)
    assert verified.quote.enclave.report_data == REPORT_DATA


def test_enclaves_and_trust_domains_are_quoted_with_keys_of_their_own(world: World) -> None:
    """With one key for both, a verifier that mixes the two quoting enclaves up would pass."""
    enclave, domain = Quote.parse(world.quote()), Quote.parse(td_quote(world))
    assert enclave.auth.attestation_key == public_point(world.platform.attestation_key)
    assert domain.auth.attestation_key == public_point(world.platform.td_attestation_key)
    assert enclave.auth.attestation_key != domain.auth.attestation_key
    assert enclave.auth.qe_report.mr_enclave != domain.auth.qe_report.mr_enclave


def test_the_key_of_a_quoting_enclave_lasts(world: World) -> None:
    assert td_quote(world) == td_quote(world)


def test_either_field_of_tdx_1_5_brings_the_other(world: World) -> None:
    alone = td_quote(world, version=5, mr_service_td=b"\x01" * 48)
    both = td_quote(world, version=5, mr_service_td=b"\x01" * 48, tee_tcb_svn_2=TEE_TCB_SVN)
    assert alone == both


# Framing


def _descriptor(kind: int, size: int) -> Alteration:
    return {"version": 5, "descriptor": lambda _: DescriptorForm(kind, size)}


def _form(**members: Any) -> Alteration:
    return {"form": lambda q: replace(q, **members)}


FRAMING: list[tuple[str, Alteration, type[RatlsError]]] = [
    (
        "N007 a trust domain in version 3",
        {"header": lambda h: replace(h, version=3)},
        QuoteUnsupported,
    ),
    (
        "N010 a trust domain's report under an enclave's header",
        {"header": lambda h: replace(h, tee_type=0)},
        QuoteUnsupported,
    ),
    ("N011 an extended body", _descriptor(4, 885), ExtendedTdReportUnsupported),
    ("N011 a body of a type to come", _descriptor(5, 885), QuoteUnsupported),
    ("N012 a body one byte shorter", _descriptor(2, 583), QuoteMalformed),
    ("N012 a body of any size", _descriptor(2, 0xFFFFFFFF), QuoteMalformed),
    ("N013 an enclave's body in a domain's quote", _descriptor(1, 384), QuoteMalformed),
    ("TDX 1.0 that says it is 1.5", _descriptor(3, 648), QuoteMalformed),
    ("N014 signature data of version 3", _form(outer_type=None), QuoteMalformed),
    (
        "N014 signature data of version 3 in version 5",
        {"version": 5, **_form(outer_type=None)},
        QuoteMalformed,
    ),
    ("N025 bytes inside the wrapper", _form(inner_slack=b"\0"), QuoteMalformed),
    ("N025 bytes behind the wrapper", _form(slack=b"\0"), QuoteMalformed),
    ("N025 the wrapper ends early", _form(outer_len=600), QuoteMalformed),
    ("N025 the wrapper is endless", _form(outer_len=0xFFFFFFFF), QuoteMalformed),
    ("N027 another wrapper", _form(outer_type=5), QuoteMalformed),
    (
        "N028 a wrapper in the wrapper",
        _form(certification_data_type=QE_REPORT),
        QuoteMalformed,
    ),
    (
        "a version 4 with the fields of TDX 1.5",
        {"tee_tcb_svn_2": TEE_TCB_SVN},
        QuoteMalformed,
    ),
]


@pytest.mark.parametrize(("altered", "leaf"), [c[1:] for c in FRAMING], ids=[c[0] for c in FRAMING])
def test_attacker_frames_a_quote_otherwise_and_signs_it(
    world: World, altered: Alteration, leaf: type[RatlsError]
) -> None:
    with refused(leaf, check=QuoteCheck.QUOTE_FORMAT):
        verify(world, quote=td_quote(world, **altered))


def test_attacker_wraps_the_signature_data_of_version_3(world: World) -> None:
    """N014, the other way round."""
    raw = world.quote(form=lambda q: replace(q, outer_type=QE_REPORT))
    with refused(QuoteMalformed, check=QuoteCheck.QUOTE_FORMAT):
        world.verify(quote=raw)


@pytest.mark.parametrize("version", [4, 5])
def test_newer_quotes_of_enclaves_have_to_be_asked_for(world: World, version: int) -> None:
    """N008."""
    with refused(QuoteUnsupported, check=QuoteCheck.QUOTE_FORMAT):
        world.verify(quote=world.quote(version=version))


def test_attacker_changes_the_descriptor_after_the_signature(world: World) -> None:
    """A TDX 1.5 report cut to 1.0 would lose what runs now; the descriptor is signed for that."""

    def shortened(form: QuoteForm) -> QuoteForm:
        body = form.report[:584]
        return replace(form, report=body, descriptor=DescriptorForm.of(body).encode())

    raw = td_quote(world, version=5, tee_tcb_svn_2=TEE_TCB_SVN, form=shortened)
    with refused(QuoteSignatureInvalid, check=QuoteCheck.QUOTE_SIGNATURE):
        verify(world, quote=raw)


# Signatures, and which quoting enclave

QUOTES: list[tuple[str, Alteration, type[RatlsError], QuoteCheck]] = [
    (
        "N045 a key that the quoting enclave never saw",
        {"form": lambda q: q.signed_by(new_key())},
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
        "N149 the quoting enclave is the one for enclaves",
        {"qe_report": lambda r: replace(r, isv_prod_id=1)},
        QeNotIntels,
        QuoteCheck.QE_MATCH,
    ),
    (
        "N160 somebody else's TDX module",
        {"mr_signer_seam": b"\x01" * 48},
        TdxModuleMismatch,
        QuoteCheck.PLATFORM_MATCH,
    ),
    (
        "N161 a TDX module that is no production module",
        {"seam_attributes": b"\x01" + bytes(7)},
        TdxModuleMismatch,
        QuoteCheck.PLATFORM_MATCH,
    ),
    (
        "N163 a TDX module of a version that Intel does not know",
        {"tee_tcb_svn": bytes((5, 2, *(0,) * 14))},
        TdxModuleMismatch,
        QuoteCheck.PLATFORM_MATCH,
    ),
    (
        "N166 a TDX module older than every level",
        {"tee_tcb_svn": bytes((1, 1, 2, *(0,) * 13))},
        TdxModuleLevelUnmatched,
        QuoteCheck.TCB_LEVEL,
    ),
]


@pytest.mark.parametrize(
    ("altered", "leaf", "check"), [c[1:] for c in QUOTES], ids=[c[0] for c in QUOTES]
)
def test_attacker_alters_a_quote_and_signs_all_below(
    world: World, altered: Alteration, leaf: type[RatlsError], check: QuoteCheck
) -> None:
    with refused(leaf, check=check):
        verify(world, quote=td_quote(world, **altered))


# Collateral


def test_collateral_of_the_other_technology_says_nothing(world: World) -> None:
    """N110: the same platform, the same signer, another question."""
    with refused(TcbInfoMismatch, check=QuoteCheck.PLATFORM_MATCH):
        verify(world, collateral=world.collateral())
    with refused(TcbInfoMismatch, check=QuoteCheck.PLATFORM_MATCH):
        world.verify(collateral=td_collateral(world))


def test_the_identity_of_the_other_quoting_enclave(world: World) -> None:
    """N144."""

    def with_identity_of(other: Collateral, own: Collateral) -> Collateral:
        return replace(
            own, qe_identity=other.qe_identity, qe_identity_signature=other.qe_identity_signature
        )

    sgx, tdx = world.collateral(), td_collateral(world)
    with refused(QeIdentityMismatch, check=QuoteCheck.QE_MATCH):
        verify(world, collateral=with_identity_of(sgx, tdx))
    with refused(QeIdentityMismatch, check=QuoteCheck.QE_MATCH):
        world.verify(collateral=with_identity_of(tdx, sgx))


def test_tcb_info_without_module_identities(world: World) -> None:
    """N163; a module of version 0 needs none."""

    def without(document: Alteration) -> Alteration:
        return {n: m for n, m in document.items() if n != "tdxModuleIdentities"}

    collateral = td_collateral(world, tcb_info=without)
    with refused(TdxModuleMismatch, check=QuoteCheck.PLATFORM_MATCH):
        verify(world, collateral=collateral)
    version_0 = td_quote(world, tee_tcb_svn=bytes(TDX_COMPONENTS))
    verified = verify(world, quote=version_0, collateral=collateral)
    assert verified.tcb.module_status is None
    assert verified.tcb.status is TcbStatus.UP_TO_DATE


def _level(status: str, tdx: bytes | tuple[int, ...] = TDX_COMPONENTS) -> Callable[[World], Any]:
    def level(world: World) -> Any:
        tcb = world.platform.tcb
        level = documents.tcb_level(
            tcb.components, tcb.pce_svn, date=AT, status=status, tdx=tuple(tdx)
        )
        return td_collateral(world, tcb_info=lambda d: d | {"tcbLevels": [level]})

    return level


@pytest.mark.parametrize("status", ["OutOfDate", "ConfigurationNeeded", "Revoked"])
def test_levels_are_what_the_test_says(world: World, status: str) -> None:
    assert verify(world, collateral=_level(status)(world)).tcb.status == status


def test_a_trust_domain_below_every_level(world: World) -> None:
    """N171: microcode of SVN 2 under a level that asks for 3."""
    with refused(TcbLevelUnmatched, check=QuoteCheck.TCB_LEVEL):
        verify(world, collateral=_level("UpToDate", (5, 0, 3, *(0,) * 13))(world))


def test_an_old_module_makes_the_domain_out_of_date(world: World) -> None:
    """N167: the default identity has a lower level; its advisory is passed on."""
    tcb = verify(world, quote=td_quote(world, tee_tcb_svn=OLD_MODULE)).tcb
    assert (tcb.platform_status, tcb.module_status) == ("UpToDate", "OutOfDate")
    assert (tcb.status, tcb.advisory_ids) == ("OutOfDate", ("INTEL-SA-99996",))


def test_a_module_updated_beneath_a_running_domain(world: World) -> None:
    """N192."""
    raw = td_quote(world, version=5, tee_tcb_svn=OLD_MODULE, tee_tcb_svn_2=TEE_TCB_SVN)
    tcb = verify(world, quote=raw).tcb
    assert tcb.status is TcbStatus.TD_RELAUNCH_ADVISED
    assert tcb.current_status is TcbStatus.UP_TO_DATE


# What is genuine and not accepted


@pytest.mark.parametrize(
    ("altered", "leaf"),
    [
        pytest.param({"td_attributes": SEPT_VE_DISABLE | 1}, TdDebuggable, id="N172 debuggable"),
        pytest.param({"td_attributes": 0}, TdAttributesUnaccepted, id="N173 no SEPT"),
        pytest.param({"xfam": 0x2}, TdAttributesUnaccepted, id="N176 no x87"),
        pytest.param(
            {"version": 5, "mr_service_td": b"\x01" * 48},
            ServiceTdUnaccepted,
            id="N175 bound to a service domain",
        ),
    ],
)
def test_fields_of_the_report_are_given_by_their_names(
    world: World, altered: Alteration, leaf: type[RatlsError]
) -> None:
    verified = verify(world, quote=td_quote(world, **altered))
    with refused(leaf) as refusal:
        accept(verified)
    assert refusal.check == AcceptanceCheck.ATTRIBUTES
