"""The builders against answers that independent code produced (dcap.md section 8)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from simulation import documents
from simulation.certificates import public_point, sign_raw
from simulation.pck_extension import PckExtensionForm
from simulation.quote import (
    INIT,
    MODE64BIT,
    PROVISION_KEY,
    QE_REPORT,
    TDX,
    DescriptorForm,
    HeaderForm,
    QuoteForm,
    ReportForm,
    TdReportForm,
)
from simulation.quote import qe_binding as binding
from verifier.quote import Quote
from verifier.td import TdReport

KSS = 0x80
CPU_SVN = bytes(range(1, 17))
EXTENSION = PckExtensionForm(
    ppid=bytes(range(16)),
    components=(1, 2, 3, 4, 255, *range(6, 16), 128),
    pce_svn=300,
    cpu_svn=bytes.fromhex("01020304ff060708090a0b0c0d0e0f80"),
    pce_id=bytes(2),
    fmspc=bytes.fromhex("0123456789ab"),
    sgx_type=0,
)
PROCESSOR_FORM = bytes.fromhex(
    "308201c3301e060a2a864886f84d010d01010410000102030405060708090a0b0c0d0e0f30820166060a2a864886f8"
    "4d010d0102308201563010060b2a864886f84d010d0102010201013010060b2a864886f84d010d0102020201023010"
    "060b2a864886f84d010d0102030201033010060b2a864886f84d010d0102040201043011060b2a864886f84d010d01"
    "0205020200ff3010060b2a864886f84d010d0102060201063010060b2a864886f84d010d0102070201073010060b2a"
    "864886f84d010d0102080201083010060b2a864886f84d010d0102090201093010060b2a864886f84d010d01020a02"
    "010a3010060b2a864886f84d010d01020b02010b3010060b2a864886f84d010d01020c02010c3010060b2a864886f8"
    "4d010d01020d02010d3010060b2a864886f84d010d01020e02010e3010060b2a864886f84d010d01020f02010f3011"
    "060b2a864886f84d010d010210020200803011060b2a864886f84d010d0102110202012c301f060b2a864886f84d01"
    "0d010212041001020304ff060708090a0b0c0d0e0f803010060a2a864886f84d010d0103040200003014060a2a8648"
    "86f84d010d010404060123456789ab300f060a2a864886f84d010d01050a0100"
)
PLATFORM_TAIL = bytes.fromhex(
    "0a0101301e060a2a864886f84d010d01060410a0a1a2a3a4a5a6a7a8a9aaabacadaeaf3044060a2a864886f84d010d"
    "010730363010060b2a864886f84d010d0107010101ff3010060b2a864886f84d010d0107020101003010060b2a8648"
    "86f84d010d0107030101ff"
)


def key_of(byte: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(bytes([byte]) * 32, "big"), ec.SECP256R1())


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("byte", "x"),
    [
        (0x11, "0217e617f0b6443928278f96999e69a23a4f2c152bdf6d6cdf66e5b80282d4ed"),
        (0x22, "d65a93977caa3d1b081852ff57a79e465f1660577304baead505dd3a48589cf3"),
        (0x33, "51a7580833898ea1b183cbd7350a4099078c6ef1c1e18e970cd7683035f25e7d"),
    ],
)
def test_public_keys_are_written_as_quotes_write_them(byte: int, x: str) -> None:
    """dcap.md 8.1: x || y, big-endian; a 0x04 prefix or the other order would move every byte."""
    assert public_point(key_of(byte))[:32].hex() == x


def test_processor_extension_is_byte_exact() -> None:
    """dcap.md 8.5: components 5 and 16 need two content bytes, PCESVN two, everything else one."""
    assert EXTENSION.encode() == PROCESSOR_FORM


def test_platform_extension_is_byte_exact() -> None:
    """dcap.md 8.5: the same with PIID and configuration."""
    form = replace(
        EXTENSION, sgx_type=1, piid=bytes(range(0xA0, 0xB0)), configuration=(True, False, True)
    )
    assert form.encode() == bytes.fromhex("30820229") + PROCESSOR_FORM[4:-3] + PLATFORM_TAIL


PCK, ATTESTATION = key_of(0x11), key_of(0x22)


def quoting(isv_prod_id: int) -> dict[str, Any]:
    """What all cases of dcap.md 8.2 say of the quoting enclave; the quote is not signed yet."""
    auth_data = bytes(range(32))
    report = ReportForm(
        cpu_svn=CPU_SVN,
        flags=INIT | MODE64BIT | PROVISION_KEY,
        mr_enclave=b"\x51" * 32,
        mr_signer=b"\x52" * 32,
        isv_prod_id=isv_prod_id,
        isv_svn=8,
        report_data=binding(public_point(ATTESTATION), auth_data),
    ).encode()
    return {
        "signature": b"",
        "attestation_key": b"",
        "qe_report": report,
        "qe_report_signature": sign_raw(PCK, report),
        "qe_auth_data": auth_data,
        "certification_data": bytes(range(16)) + CPU_SVN + b"\x0b\x00" + b"\x00\x00",
        "certification_data_type": 1,
    }


def test_quote_of_case_a_is_byte_exact() -> None:
    """dcap.md 8.2, A: a version 3 quote with every field set, signed as RFC 6979 says."""
    report = ReportForm(
        cpu_svn=CPU_SVN,
        flags=INIT | MODE64BIT | KSS,
        isv_ext_prod_id=b"\xd4" * 16,
        mr_enclave=b"\xa1" * 32,
        mr_signer=b"\xb2" * 32,
        config_id=b"\xc3" * 64,
        isv_prod_id=0x0102,
        isv_svn=0x0304,
        config_svn=0x0506,
        isv_family_id=b"\xe5" * 16,
        report_data=bytes(range(64)),
    )
    quote = QuoteForm(
        header=HeaderForm(user_data=bytes(range(16)) + bytes(4)).encode(),
        report=report.encode(),
        **quoting(isv_prod_id=1),
    ).signed_by(ATTESTATION)
    raw = quote.encode()
    assert (
        sha256(quote.qe_report)
        == "25c94597633c30bd79177d8e4d137069852f7a8a69a33cd94e456815a31df8e7"
    )
    assert sha256(quote.signed) == (
        "245ef4c74f7c3e9ae01bdfc1aecf61b642ab4a26f69288df8553cc336298c2a8"
    )
    assert (len(quote.signed), len(raw)) == (432, 1088)
    assert sha256(raw) == "9036f88ac7c81436313b481c32477e13f52c620a24639fed2122173be7824666"


TD_REPORT = TdReportForm(
    tee_tcb_svn=b"\x05\x01\x02" + bytes(13),
    mr_seam=b"\x31" * 48,
    mr_td=b"\x32" * 48,
    mr_config_id=b"\x33" * 48,
    mr_owner=b"\x34" * 48,
    mr_owner_config=b"\x35" * 48,
    rtmr0=b"\x36" * 48,
    rtmr1=b"\x37" * 48,
    rtmr2=b"\x38" * 48,
    rtmr3=b"\x39" * 48,
    report_data=bytes(range(64)),
)
TD_REPORT_1_5 = replace(
    TD_REPORT, tee_tcb_svn_2=b"\x06\x01\x02" + bytes(13), mr_service_td=bytes(48)
)


@pytest.mark.parametrize(
    ("version", "report", "sizes", "signed", "whole"),
    [
        pytest.param(
            4,
            TD_REPORT,
            (632, 1294),
            "1ae12e36bc86ffb8bb7b08958c95184f0153fd956b8827ce3e11aeff9d6eead4",
            "29ce83539b2815e15d930402e3f7232d39bd84bea40fd93340002db9f6e958c1",
            id="B, TDX 1.0 of version 4",
        ),
        pytest.param(
            5,
            TD_REPORT_1_5,
            (702, 1364),
            "548c7865202813563ade9ed932c7089051c1028451c322665f3946f23df4b103",
            "5590acd1d872619627cdb17e60665b7c34fa209ada93c001630d89a00cab070a",
            id="C, TDX 1.5 of version 5",
        ),
        pytest.param(
            5,
            TD_REPORT,
            (638, 1300),
            "6427efa36594e2252533e30ff7a2339b503d7d4e828dcaea521a4261664e4b0d",
            "51f938a339f1d073c7455705a665b9045d7fd7665ec5cd5d9efdaa1564f3280c",
            id="D, TDX 1.0 of version 5",
        ),
    ],
)
def test_quotes_of_trust_domains_are_byte_exact(
    version: int, report: TdReportForm, sizes: tuple[int, int], signed: str, whole: str
) -> None:
    """dcap.md 8.2, B to D: the descriptor of version 5 is signed, the QE's report wrapped."""
    header = HeaderForm(version=version, tee_type=TDX, user_data=bytes(range(16)) + bytes(4))
    body = report.encode()
    quote = QuoteForm(
        header=header.encode(),
        descriptor=DescriptorForm.of(body).encode() if version == 5 else b"",
        report=body,
        outer_type=QE_REPORT,
        **quoting(isv_prod_id=2),
    ).signed_by(ATTESTATION)
    raw = quote.encode()
    assert (
        sha256(quote.qe_report)
        == "6ba3195d2adfd4588a2006b08d84d614ec853d91375d2caec2d85f7324be31bb"
    )
    assert (len(quote.signed), len(raw)) == sizes
    assert sha256(quote.signed) == signed
    assert sha256(raw) == whole
    assert Quote.parse(raw).signed == quote.signed


@pytest.mark.parametrize("form", [TD_REPORT, TD_REPORT_1_5], ids=["TDX 1.0", "TDX 1.5"])
def test_every_field_of_a_trust_domain_stands_where_the_verifier_reads_it(
    form: TdReportForm,
) -> None:
    """dcap.md 1.4: in the known answers some fields are zero, and could change places unseen."""
    distinct = replace(
        form,
        mr_signer_seam=b"\x41" * 48,
        seam_attributes=bytes(range(8)),
        td_attributes=0x0102030405060708,
        xfam=0x1112131415161718,
        mr_service_td=form.mr_service_td and b"\x42" * 48,
    )
    read = TdReport(distinct.encode())
    names = TdReportForm.__slots__
    assert {n: getattr(read, n) for n in names} == {n: getattr(distinct, n) for n in names}


def test_signed_json_is_byte_exact() -> None:
    """dcap.md 8.3: member order, no whitespace, r || s in hex."""
    level = {"tcb": {"isvsvn": 8}, "tcbDate": "2029-12-01T00:00:00Z", "tcbStatus": "UpToDate"}
    older = {"tcb": {"isvsvn": 6}, "tcbDate": "2028-12-01T00:00:00Z", "tcbStatus": "OutOfDate"}
    identity = {
        "id": "QE",
        "version": 2,
        "issueDate": "2030-01-01T00:00:00Z",
        "nextUpdate": "2030-01-31T00:00:00Z",
        "tcbEvaluationDataNumber": 99,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "52" * 32,
        "isvprodid": 1,
        "tcbLevels": [level, older | {"advisoryIDs": ["INTEL-SA-99999"]}],
    }
    text = documents.compact(identity)
    assert len(text) == 569
    assert documents.signature(key_of(0x33), text) == (
        "57f8487efeb447a80802fd9f7c6e75a78b549b4011c60146a8423ce225da2e14"
        "7e9174a9916a2c0a6aba703cb2cc5ef5502d9b91d1319d7bda83e9a6b812eb0e"
    )
