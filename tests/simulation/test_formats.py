"""What we write has the shape of what Intel publishes: only names, keys and values differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from simulation import documents, pck_extension
from simulation.certificates import CrlForm, intel_name
from simulation.intel import PCK_CN, PLATFORM_CA_CN, ROOT_CN, TCB_SIGNER_CN
from simulation.pck_extension import PckExtensionForm
from simulation.quote import (
    QE_REPORT,
    TDX,
    DescriptorForm,
    HeaderForm,
    QuoteForm,
    ReportForm,
    TdReportForm,
)
from tests.support.intel import World
from verifier.pck import SGX_TYPES, PckExtension
from verifier.quote import EnclaveReport, Quote, strip_file_padding
from verifier.td import TdReport

GENUINE = "sgx-00606a000000-platform-20260730-eval21.json"
GENUINE_TDX = "tdx-00806f050000-platform-20260612-eval21.json"
UNUSABLE = {"synthetic", "cert-type-1", "cert-type-3", "damaged-pck-chain"}
SGX_EXTENSION = x509.ObjectIdentifier(pck_extension.OID)
Bundle = dict[str, str]


@pytest.fixture(scope="module")
def genuine(vectors: Path) -> Bundle:
    return dict(json.loads((vectors / "collateral" / GENUINE).read_bytes()))


@pytest.fixture(scope="module")
def genuine_tdx(vectors: Path) -> Bundle:
    return dict(json.loads((vectors / "collateral" / GENUINE_TDX).read_bytes()))


@pytest.fixture(scope="module")
def ours_tdx() -> Bundle:
    world = World.create()
    return dict(json.loads(world.intel.collateral(world.platform, tdx=True)))


@pytest.fixture(scope="module")
def ours() -> Bundle:
    world = World.create()
    # A root CRL has no entry as a rule; a PCK CRL of today has many.
    return dict(json.loads(world.intel.collateral(world.platform, pck_crl=_revoke_somebody)))


def _revoke_somebody(form: CrlForm) -> CrlForm:
    return replace(form, revoked=(1,))


@pytest.fixture(scope="module")
def genuine_quotes(vectors: Path) -> list[bytes]:
    quotes = _recorded(vectors, "/sgx-v3")
    assert len(quotes) > 40
    return quotes


@pytest.fixture(scope="module")
def genuine_td_quotes(vectors: Path) -> list[bytes]:
    quotes = _recorded(vectors, "/tdx-v")
    assert {Quote.parse(raw).header.version for raw in quotes} == {4, 5}
    return quotes


def _recorded(vectors: Path, kind: str) -> list[bytes]:
    index = json.loads((vectors / "index.json").read_bytes())
    names = [q["file"] for q in index["quotes"] if not UNUSABLE & set(q["tags"])]
    return [strip_file_padding((vectors / name).read_bytes()) for name in names if kind in name]


def shape(value: Any) -> Any:
    """Names in their order and types of values; of a list, its first element."""
    if isinstance(value, dict):
        return [(name, shape(member)) for name, member in value.items()]
    if isinstance(value, list):
        return [shape(element) for element in value[:1]]
    return type(value).__name__


def profile(extensions: x509.Extensions) -> list[tuple[str, bool]]:
    return [(e.oid.dotted_string, e.critical) for e in extensions]


def pck_of(quote: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(Quote.parse(quote).auth.require_pck_chain())[0]


def test_bundle_has_exactly_the_members_of_a_genuine_one(genuine: Bundle, ours: Bundle) -> None:
    """Another member, or one less, and the two would need two readers."""
    assert list(ours) == list(genuine)


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_documents_have_intels_member_order(genuine: Bundle, ours: Bundle, name: str) -> None:
    """A reader that depends on the order would be tested on ours and fail on genuine ones."""
    theirs, mine = (json.loads(bundle[name]) for bundle in (genuine, ours))
    for document in (theirs, mine):  # advisories come with some levels only
        document["tcbLevels"][0].pop("advisoryIDs", None)
    assert shape(mine) == shape(theirs)


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_documents_for_trust_domains_have_intels_member_order(
    genuine_tdx: Bundle, ours_tdx: Bundle, name: str
) -> None:
    """The module and its identities between number and levels; the same components' labels."""
    theirs, mine = (json.loads(bundle[name]) for bundle in (genuine_tdx, ours_tdx))
    for document in (theirs, mine):
        document["tcbLevels"][0].pop("advisoryIDs", None)
    assert shape(mine) == shape(theirs)
    constant = {"id", "version", "tcbType", "tdxModule", "mrsigner", "isvprodid", "attributes"}
    assert {n: mine[n] for n in constant & mine.keys()} == {
        n: theirs[n] for n in constant & theirs.keys()
    }


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_genuine_documents_are_as_compact_as_ours(genuine: Bundle, name: str) -> None:
    """The signed text has no whitespace and keeps its order, so ours is written in that way."""
    assert documents.compact(json.loads(genuine[name])) == genuine[name]


@pytest.mark.parametrize("chain", ["pck_crl_issuer_chain", "tcb_info_issuer_chain"])
def test_certificates_have_the_genuine_profile(genuine: Bundle, ours: Bundle, chain: str) -> None:
    """Order and criticality of extensions, key usage and constraints, signer and root."""
    theirs, mine = (
        x509.load_pem_x509_certificates(bundle[chain].encode()) for bundle in (genuine, ours)
    )
    assert [profile(c.extensions) for c in mine] == [profile(c.extensions) for c in theirs]
    for kind in (x509.KeyUsage, x509.BasicConstraints):
        assert [c.extensions.get_extension_for_class(kind).value for c in mine] == [
            c.extensions.get_extension_for_class(kind).value for c in theirs
        ]
    assert [c.signature_algorithm_oid for c in mine] == [c.signature_algorithm_oid for c in theirs]


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_crls_have_the_genuine_profile(genuine: Bundle, ours: Bundle, name: str) -> None:
    """cRLNumber and AKI, neither critical; entries with their reason."""
    theirs, mine = (x509.load_der_x509_crl(bytes.fromhex(b[name])) for b in (genuine, ours))
    assert profile(mine.extensions) == profile(theirs.extensions)
    assert [profile(e.extensions) for e in list(mine)[:1]] == [
        profile(e.extensions) for e in list(theirs)[:1]
    ]


@pytest.mark.parametrize(
    ("common_name", "pick"),
    [
        (ROOT_CN, lambda b: x509.load_pem_x509_certificates(b["pck_crl_issuer_chain"].encode())[1]),
        (
            PLATFORM_CA_CN,
            lambda b: x509.load_pem_x509_certificates(b["pck_crl_issuer_chain"].encode())[0],
        ),
        (
            TCB_SIGNER_CN,
            lambda b: x509.load_pem_x509_certificates(b["tcb_info_issuer_chain"].encode())[0],
        ),
    ],
)
def test_names_differ_in_the_organisation_alone(
    genuine: Bundle, common_name: str, pick: Callable[[Bundle], x509.Certificate]
) -> None:
    """Byte for byte, so order of attributes and string types too."""
    subject = pick(genuine).subject
    assert subject.public_bytes() == intel_name(common_name, "Intel Corporation").public_bytes()
    assert subject.public_bytes() != intel_name(common_name).public_bytes()


def test_pck_certificates_have_the_genuine_profile(genuine_quotes: list[bytes]) -> None:
    """Six extensions in one order; the SGX extension is not critical in genuine ones."""
    ours = pck_of(World.create().quote())
    for theirs in map(pck_of, genuine_quotes):
        assert profile(ours.extensions) == profile(theirs.extensions)
        name = intel_name(PCK_CN, "Intel Corporation")
        assert theirs.subject.public_bytes() == name.public_bytes()


def test_genuine_sgx_extensions_are_rebuilt_byte_for_byte(genuine_quotes: list[bytes]) -> None:
    for certificate in map(pck_of, genuine_quotes):
        raw = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value.public_bytes()
        read = PckExtension.parse(raw)
        who = read.platform
        flags = bool(who.dynamic_platform), bool(who.cached_keys), bool(who.smt_enabled)
        form = PckExtensionForm(
            ppid=who.ppid,
            components=read.tcb.components,
            pce_svn=read.tcb.pce_svn,
            cpu_svn=read.tcb.cpu_svn,
            pce_id=who.pce_id,
            fmspc=who.fmspc,
            sgx_type=SGX_TYPES.index(who.sgx_type),
            piid=who.piid,
            configuration=None if who.piid is None else flags,
        )
        assert form.encode() == raw


def test_genuine_quotes_of_trust_domains_are_rebuilt_byte_for_byte(
    genuine_td_quotes: list[bytes],
) -> None:
    """Both bodies, the descriptor of version 5, and the lengths of both wrappers."""
    for raw in genuine_td_quotes:
        quote = Quote.parse(raw)
        assert isinstance(quote.report, TdReport)
        values = {name: getattr(quote.report, name) for name in TdReportForm.__slots__}
        body = TdReportForm(**values).encode()
        form = form_of(
            quote,
            body,
            descriptor=DescriptorForm.of(body).encode() if quote.header.version == 5 else b"",
            outer_type=QE_REPORT,
        )
        assert form.encode() == raw


def form_of(quote: Quote, body: bytes, **more: Any) -> QuoteForm:
    """The quote as the simulation would write it, around a report's bytes."""
    header, auth = quote.header, quote.auth
    tee = {} if isinstance(quote.report, EnclaveReport) else {"tee_type": TDX}
    return QuoteForm(
        header=HeaderForm(
            version=header.version,
            qe_svn=header.qe_svn,
            pce_svn=header.pce_svn,
            user_data=header.user_data,
            **tee,
        ).encode(),
        report=body,
        signature=auth.signature,
        attestation_key=auth.attestation_key,
        qe_report=report_form(auth.qe_report).encode(),
        qe_report_signature=auth.qe_report_signature,
        qe_auth_data=auth.qe_auth_data,
        certification_data=auth.certification_data,
        **more,
    )


def report_form(report: EnclaveReport) -> ReportForm:
    names = [name for name in ReportForm.__slots__ if not name.startswith("reserved")]
    values = {name: getattr(report, name) for name in names}
    values |= {name: values[name].value for name in ("mr_enclave", "mr_signer")}
    return ReportForm(**values)


def test_genuine_quotes_are_rebuilt_byte_for_byte(genuine_quotes: list[bytes]) -> None:
    """Offsets, byte orders and the lengths that are counted."""
    for raw in genuine_quotes:
        quote = Quote.parse(raw)
        form = form_of(quote, report_form(quote.enclave).encode())
        assert form.encode() == raw


def test_certification_data_ends_as_in_most_genuine_quotes(genuine_quotes: list[bytes]) -> None:
    """A NUL follows the PEM, which a reader must not take for damage."""
    end = b"-----END CERTIFICATE-----\n\x00"
    assert sum(raw.endswith(end) for raw in genuine_quotes) > len(genuine_quotes) / 2
    assert World.create().quote().endswith(end)
