"""Values computed by independent code (dcap.md section 8): parsing, signatures, level choice."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import public_point, sign_raw
from simulation.pck_extension import PckExtensionForm
from simulation.quote import HeaderForm, QuoteForm, ReportForm, qe_binding
from tests.support.refusal import refused
from verifier import ecdsa
from verifier.errors import QuoteUnsupported, TcbLevelUnmatched
from verifier.pck import PckExtension, PlatformTcb
from verifier.qe import (
    QeIdentity,
    verify_attestation_key_binding,
    verify_qe_report_signature,
    verify_quote_signature,
)
from verifier.quote import MrEnclave, MrSigner, Quote, Tee
from verifier.tcb import TcbInfo, TcbLevel, TcbStatus

COMPONENTS = bytes(range(1, 17))
PCK, ATTESTATION, TCB_SIGNER = (
    ec.derive_private_key(int.from_bytes(bytes([b]) * 32, "big"), ec.SECP256R1())
    for b in (0x11, 0x22, 0x33)
)


def quote_a() -> bytes:
    """Case A: version 3, SGX; certification data of type 1."""
    report = ReportForm(
        cpu_svn=COMPONENTS,
        flags=0x85,
        xfrm=0xE7,
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
    qe_auth_data = bytes(range(32))
    qe_report = ReportForm(
        cpu_svn=COMPONENTS,
        flags=0x15,
        xfrm=0xE7,
        mr_enclave=b"\x51" * 32,
        mr_signer=b"\x52" * 32,
        isv_prod_id=1,
        isv_svn=8,
        report_data=qe_binding(public_point(ATTESTATION), qe_auth_data),
    ).encode()
    ppid_data = bytes(range(16)) + COMPONENTS + (11).to_bytes(2, "little") + bytes(2)
    form = QuoteForm(
        header=HeaderForm(user_data=bytes(range(16)) + bytes(4)).encode(),
        report=report.encode(),
        signature=b"",
        attestation_key=b"",
        qe_report=qe_report,
        qe_report_signature=sign_raw(PCK, qe_report),
        qe_auth_data=qe_auth_data,
        certification_data=ppid_data,
        certification_data_type=1,
    )
    return form.signed_by(ATTESTATION).encode()


def test_quote_a_is_the_known_one_and_its_signatures_hold() -> None:
    raw = quote_a()
    digest = "9036f88ac7c81436313b481c32477e13f52c620a24639fed2122173be7824666"
    assert sha256(raw).hexdigest() == digest
    quote = Quote.parse(raw)
    assert (len(quote.signed), len(raw)) == (432, 1088)
    assert sha256(quote.signed).hexdigest() == (
        "245ef4c74f7c3e9ae01bdfc1aecf61b642ab4a26f69288df8553cc336298c2a8"
    )
    report = quote.report
    assert (report.flags, report.xfrm, report.isv_prod_id, report.isv_svn) == (0x85, 0xE7, 258, 772)
    assert (report.mr_enclave, report.mr_signer) == (
        MrEnclave(b"\xa1" * 32),
        MrSigner(b"\xb2" * 32),
    )
    assert (report.config_svn, report.isv_family_id) == (0x0506, b"\xe5" * 16)
    assert (report.isv_ext_prod_id, report.config_id) == (b"\xd4" * 16, b"\xc3" * 64)
    assert report.report_data == bytes(range(64))
    verify_quote_signature(quote)
    verify_attestation_key_binding(quote.auth)
    verify_qe_report_signature(quote.auth, PCK.public_key())
    assert quote.auth.signature.hex().startswith("b263d769209449680339cd2abc1fba85")
    assert quote.auth.qe_report_signature.hex().startswith("3929b3ade9c6abd14abaef65fb7c253a")
    assert sha256(quote.auth.qe_report.raw).hexdigest() == (
        "25c94597633c30bd79177d8e4d137069852f7a8a69a33cd94e456815a31df8e7"
    )


def test_quote_a_has_no_chain_to_verify() -> None:
    """N030: it names its platform; certificates would have to come from elsewhere."""
    with refused(QuoteUnsupported):
        Quote.parse(quote_a()).auth.require_pck_chain()


IDENTITY = (
    '{"id":"QE","version":2,"issueDate":"2030-01-01T00:00:00Z","nextUpdate":"2030-01-31T00:00:00Z",'
    '"tcbEvaluationDataNumber":99,"miscselect":"00000000","miscselectMask":"FFFFFFFF",'
    '"attributes":"11000000000000000000000000000000",'
    '"attributesMask":"FBFFFFFFFFFFFFFF0000000000000000",'
    '"mrsigner":"5252525252525252525252525252525252525252525252525252525252525252",'
    '"isvprodid":1,"tcbLevels":[{"tcb":{"isvsvn":8},"tcbDate":"2029-12-01T00:00:00Z",'
    '"tcbStatus":"UpToDate"},{"tcb":{"isvsvn":6},"tcbDate":"2028-12-01T00:00:00Z",'
    '"tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-99999"]}]}'
)
IDENTITY_SIGNATURE = bytes.fromhex(
    "57f8487efeb447a80802fd9f7c6e75a78b549b4011c60146a8423ce225da2e14"
    "7e9174a9916a2c0a6aba703cb2cc5ef5502d9b91d1319d7bda83e9a6b812eb0e"
)


def test_identity_text_is_signed_as_it_stands() -> None:
    text = IDENTITY.encode()
    assert sha256(text).hexdigest() == (
        "1722cc6d06bcc652260dcef4e153cbb51f50069b7515dae5d92651c9f0a4abf9"
    )
    key = TCB_SIGNER.public_key()
    assert ecdsa.signed_raw(key, IDENTITY_SIGNATURE, text)
    assert not ecdsa.signed_raw(key, IDENTITY_SIGNATURE, text.replace(b'":', b'": '))
    identity = QeIdentity.parse(IDENTITY)
    assert (identity.evaluation_data_number, identity.isv_prod_id) == (99, 1)
    assert [(level.isv_svn, level.status) for level in identity.levels] == [
        (8, TcbStatus.UP_TO_DATE),
        (6, TcbStatus.OUT_OF_DATE),
    ]
    identity.require_described(Quote.parse(quote_a()).auth.qe_report, Tee.SGX)


_REST = (2, 2, 255, 1)
_LEVELS = [  # (components 1..7, PCESVN) of FMSPC 00A067110000, L1 to L11
    ((11, 11, *_REST, 12), 13),
    ((11, 11, *_REST, 0), 13),
    ((10, 10, *_REST, 12), 13),
    ((10, 10, *_REST, 0), 13),
    ((9, 9, *_REST, 12), 13),
    ((9, 9, *_REST, 0), 13),
    ((5, 5, *_REST, 4), 11),
    ((5, 5, *_REST, 4), 10),
    ((5, 5, *_REST, 0), 11),
    ((5, 5, *_REST, 0), 10),
    ((5, 5, *_REST, 0), 5),
]
_DATE = datetime(2025, 6, 1, tzinfo=UTC)


def _tcb_info(order: list[int]) -> TcbInfo:
    levels = [
        TcbLevel((*c, *(0,) * 9), ("",) * 16, pce, TcbStatus.OUT_OF_DATE, _DATE, (f"L{n}",))
        for n, (c, pce) in enumerate(_LEVELS, start=1)
    ]
    return TcbInfo(Tee.SGX, _DATE, _DATE, bytes(6), bytes(2), 17, tuple(levels[n] for n in order))


@pytest.mark.parametrize(
    ("components", "pce_svn", "level"),
    [
        ((11, 11, *_REST, 12), 13, "L1"),
        ((11, 11, *_REST, 11), 13, "L2"),
        ((12, 10, *_REST, 12), 14, "L3"),  # N187: as a number it would be above L1
        ((11, 11, *_REST, 12), 12, "L7"),
        ((11, 11, *_REST, 3), 12, "L9"),
        ((9, 11, *_REST, 12), 13, "L5"),
        ((5, 5, *_REST, 0), 9, "L11"),
        ((255,) * 7, 65535, "L1"),
        ((5, 5, *_REST, 0), 4, None),
        ((11, 11, 2, 2, 254, 1, 12), 13, None),
    ],
)
def test_level_is_matched_component_by_component(
    components: tuple[int, ...], pce_svn: int, level: str | None
) -> None:
    """8.4: a real list of levels; comparing vectors as numbers picks a level too high."""
    tcb = PlatformTcb((*components, *(255 if components[0] == 255 else 0,) * 9), pce_svn, bytes(16))
    info = _tcb_info(list(range(11)))
    if level is None:
        with refused(TcbLevelUnmatched):
            info.level_of(tcb)
    else:
        assert info.level_of(tcb).advisory_ids == (level,)


def _extension(*, platform: bool) -> PckExtensionForm:
    return PckExtensionForm(
        ppid=bytes(range(16)),
        components=(1, 2, 3, 4, 255, *range(6, 16), 128),
        pce_svn=300,
        cpu_svn=bytes((1, 2, 3, 4, 255, *range(6, 16), 128)),
        pce_id=bytes(2),
        fmspc=bytes.fromhex("0123456789ab"),
        sgx_type=int(platform),
        piid=bytes(range(0xA0, 0xB0)) if platform else None,
        configuration=(True, False, True) if platform else None,
    )


@pytest.mark.parametrize(
    ("platform", "size", "digest"),
    [
        (False, 455, "c0f4544f835c8247e9822cc71110fbba3287a48667ad827b7002833dfd16c596"),
        (True, 557, "7972ff29ab878db8049564154ff97e017ba241d7b477db8ed4c3a1df4cca2ce7"),
    ],
)
def test_extension_of_either_authority_is_read(platform: bool, size: int, digest: str) -> None:
    raw = _extension(platform=platform).encode()
    assert (len(raw), sha256(raw).hexdigest()) == (size, digest)
    read = PckExtension.parse(raw)
    assert read.platform.fmspc.hex() == "0123456789ab"
    assert read.platform.ppid == bytes(range(16))
    assert read.tcb.components == (1, 2, 3, 4, 255, *range(6, 16), 128)
    assert read.tcb.pce_svn == 300
    assert read.platform.sgx_type == ("Scalable" if platform else "Standard")
    assert read.platform.piid == (bytes(range(0xA0, 0xB0)) if platform else None)
    flags = (
        read.platform.dynamic_platform,
        read.platform.cached_keys,
        read.platform.smt_enabled,
    )
    assert flags == ((True, False, True) if platform else (None, None, None))
