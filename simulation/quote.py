"""Quotes as forms: fields can be altered before lengths and signatures are computed.

Header, reports and descriptor name their fields in the order of the wire, and are packed in it.

SGX of versions 3, 4 and 5; TDX 1.0 and 1.5 of versions 4 and 5. Layouts: dcap.md 1.1 to 1.6. All
integers little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Self, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import public_point, sign_raw

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
INIT, DEBUG, MODE64BIT, PROVISION_KEY = 0x01, 0x02, 0x04, 0x10
SEPT_VE_DISABLE = 1 << 28  # of a trust domain: it notices pages that are added or removed
SGX, TDX = 0x00, 0x81  #     TEE types
PCK_CHAIN, QE_REPORT = 5, 6  # types of certification data


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderForm:
    """The 48 bytes before the report."""

    version: int = 3
    attestation_key_type: int = 2  # ECDSA-256-with-P-256
    tee_type: int = SGX
    qe_svn: int = 0  # reserved since version 4, like the next
    pce_svn: int = 0
    qe_vendor_id: bytes = INTEL_QE_VENDOR
    user_data: bytes = bytes(20)  # QE id (16 bytes), then zeros

    def encode(self) -> bytes:
        return struct.pack("<HHIHH16s20s", *astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportForm:
    """An enclave report, 384 bytes. The defaults are a production enclave."""

    cpu_svn: bytes = bytes(16)
    misc_select: int = 0
    reserved1: bytes = bytes(12)
    isv_ext_prod_id: bytes = bytes(16)
    flags: int = INIT | MODE64BIT
    xfrm: int = 0xE7  # x87, SSE, AVX, AVX-512
    mr_enclave: bytes = b"\xa1" * 32
    reserved2: bytes = bytes(32)
    mr_signer: bytes = b"\xb2" * 32
    reserved3: bytes = bytes(32)
    config_id: bytes = bytes(64)
    isv_prod_id: int = 1
    isv_svn: int = 1
    config_svn: int = 0
    reserved4: bytes = bytes(42)
    isv_family_id: bytes = bytes(16)
    report_data: bytes = bytes(64)

    def encode(self) -> bytes:
        return struct.pack("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s", *astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReportForm:
    """A trust domain's report: 584 bytes of TDX 1.0; with the last two fields 648, of TDX 1.5.

    The defaults are a production domain over a production module, of TDX 1.0.
    """

    tee_tcb_svn: bytes = bytes(16)  # SVN of the TDX module, its version, SVN of the microcode
    mr_seam: bytes = b"\x31" * 48
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: int = SEPT_VE_DISABLE
    xfam: int = 0x602E7  # as XFRM, with AMX
    mr_td: bytes = b"\x32" * 48
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmr0: bytes = b"\x36" * 48
    rtmr1: bytes = b"\x37" * 48
    rtmr2: bytes = b"\x38" * 48
    rtmr3: bytes = bytes(48)
    report_data: bytes = bytes(64)
    tee_tcb_svn_2: bytes | None = None  # of the module that runs now
    mr_service_td: bytes | None = None

    def encode(self) -> bytes:
        *fixed, tee_tcb_svn_2, mr_service_td = astuple(self)
        body = struct.pack("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s", *fixed)
        return body + (tee_tcb_svn_2 or b"") + (mr_service_td or b"")


@dataclass(frozen=True, slots=True)
class DescriptorForm:
    """Version 5 says before the body what the body is: 6 bytes, signed like everything there."""

    body_type: int  # 1 SGX, 2 TDX 1.0, 3 TDX 1.5
    body_size: int

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The right descriptor of this body."""
        return cls({384: 1, 584: 2, 648: 3}[len(body)], len(body))

    def encode(self) -> bytes:
        return struct.pack("<HI", *astuple(self))


AnyReport: TypeAlias = ReportForm | TdReportForm


def qe_binding(attestation_key: bytes, qe_auth_data: bytes) -> bytes:
    """The QE's report_data: SHA-256(attestation key || auth data), then 32 zero bytes."""
    return hashlib.sha256(attestation_key + qe_auth_data).digest() + bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteForm:
    """All parts of a quote. A length of None is counted when the quote is encoded.

    Versions 4 and 5 wrap what follows the attestation key: `outer_type` is then 6, otherwise None.
    """

    header: bytes
    report: bytes
    signature: bytes
    attestation_key: bytes  #      x || y
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_data: bytes
    certification_data_type: int = PCK_CHAIN
    qe_auth_data_len: int | None = None
    certification_data_len: int | None = None
    signature_data_len: int | None = None
    trailing: bytes = b""
    descriptor: bytes = b""  #        of version 5, 6 bytes
    outer_type: int | None = None
    outer_len: int | None = None
    inner_slack: bytes = b""  #       inside the wrapper, behind the certification data
    slack: bytes = b""  #             inside the signature data, behind everything

    @property
    def signed(self) -> bytes:
        """What the attestation key signs: header, descriptor if any, and report."""
        return self.header + self.descriptor + self.report

    def signed_by(self, key: ec.EllipticCurvePrivateKey) -> Self:
        """With this attestation key and its signature; the QE's report stays as it is."""
        return replace(
            self, attestation_key=public_point(key), signature=sign_raw(key, self.signed)
        )

    def encode(self) -> bytes:
        certified = b"".join(
            [
                self.qe_report,
                self.qe_report_signature,
                struct.pack("<H", _counted(self.qe_auth_data_len, self.qe_auth_data)),
                self.qe_auth_data,
                struct.pack("<H", self.certification_data_type),
                struct.pack("<I", _counted(self.certification_data_len, self.certification_data)),
                self.certification_data,
                self.inner_slack,
            ]
        )
        if self.outer_type is not None:
            wrapper = struct.pack("<HI", self.outer_type, _counted(self.outer_len, certified))
            certified = wrapper + certified
        signature_data = self.signature + self.attestation_key + certified + self.slack
        length = struct.pack("<I", _counted(self.signature_data_len, signature_data))
        return self.signed + length + signature_data + self.trailing


def _counted(length: int | None, content: bytes) -> int:
    return len(content) if length is None else length


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """Signs the quotes of a platform: an attestation key, and the QE's signed report on it.

    One of SGX quotes enclaves; a TD's quoting enclave, in SGX itself, quotes trust domains.
    """

    attestation_key: ec.EllipticCurvePrivateKey
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes  # PEM: leaf, intermediate, root, then one NUL as in genuine quotes
    header: bytes  #     48 bytes
    version: int = 3  #  the layout of its quotes; the header may name another

    @property
    def tee_type(self) -> int:
        """SGX or TDX: what it quotes, as its header says."""
        return int.from_bytes(self.header[4:8], "little")

    def quote(
        self,
        report: AnyReport,
        *,
        descriptor: Callable[[DescriptorForm], DescriptorForm] = lambda form: form,
    ) -> QuoteForm:
        """A quote over this report; `.encode()` gives its bytes."""
        body = report.encode()
        described = descriptor(DescriptorForm.of(body)).encode() if self.version > 4 else b""
        return QuoteForm(
            header=self.header,
            report=body,
            signature=b"",
            attestation_key=b"",
            qe_report=self.qe_report,
            qe_report_signature=self.qe_report_signature,
            qe_auth_data=self.qe_auth_data,
            certification_data=self.pck_chain,
            descriptor=described,
            outer_type=QE_REPORT if self.version > 3 else None,
        ).signed_by(self.attestation_key)
