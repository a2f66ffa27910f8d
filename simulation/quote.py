"""SGX quotes, version 3, as forms that are altered first, signed and measured out last.

Layouts: dcap.md 1.1, 1.3 and 1.5. All integers little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import public_point, sign_raw

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
INIT, DEBUG, MODE64BIT, PROVISION_KEY = 0x01, 0x02, 0x04, 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderForm:
    """The 48 bytes before the report."""

    version: int = 3
    attestation_key_type: int = 2  # ECDSA-256-with-P-256
    tee_type: int = 0  # SGX
    qe_svn: int = 0
    pce_svn: int = 0
    qe_vendor_id: bytes = INTEL_QE_VENDOR
    user_data: bytes = bytes(20)  # QE id (16 bytes), then zeros

    def encode(self) -> bytes:
        return struct.pack(
            "<HHIHH16s20s",
            self.version,
            self.attestation_key_type,
            self.tee_type,
            self.qe_svn,
            self.pce_svn,
            self.qe_vendor_id,
            self.user_data,
        )


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
        return struct.pack(
            "<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s",
            self.cpu_svn,
            self.misc_select,
            self.reserved1,
            self.isv_ext_prod_id,
            self.flags,
            self.xfrm,
            self.mr_enclave,
            self.reserved2,
            self.mr_signer,
            self.reserved3,
            self.config_id,
            self.isv_prod_id,
            self.isv_svn,
            self.config_svn,
            self.reserved4,
            self.isv_family_id,
            self.report_data,
        )


def qe_binding(attestation_key: bytes, qe_auth_data: bytes) -> bytes:
    """The QE's report_data: SHA-256(attestation key || auth data), then 32 zero bytes."""
    return hashlib.sha256(attestation_key + qe_auth_data).digest() + bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteForm:
    """All parts of a quote. A length of None is counted when the quote is encoded."""

    header: bytes
    report: bytes
    signature: bytes
    attestation_key: bytes  #      x || y
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_data: bytes
    certification_data_type: int = 5  # PCK chain in PEM
    qe_auth_data_len: int | None = None
    certification_data_len: int | None = None
    signature_data_len: int | None = None
    trailing: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the attestation key signs: header and report, 432 bytes."""
        return self.header + self.report

    def signed_by(self, key: ec.EllipticCurvePrivateKey) -> Self:
        """With this attestation key and its signature; the QE's report stays as it is."""
        return replace(
            self, attestation_key=public_point(key), signature=sign_raw(key, self.signed)
        )

    def encode(self) -> bytes:
        signature_data = b"".join(
            [
                self.signature,
                self.attestation_key,
                self.qe_report,
                self.qe_report_signature,
                struct.pack("<H", _counted(self.qe_auth_data_len, self.qe_auth_data)),
                self.qe_auth_data,
                struct.pack("<H", self.certification_data_type),
                struct.pack("<I", _counted(self.certification_data_len, self.certification_data)),
                self.certification_data,
            ]
        )
        length = struct.pack("<I", _counted(self.signature_data_len, signature_data))
        return self.signed + length + signature_data + self.trailing


def _counted(length: int | None, content: bytes) -> int:
    return len(content) if length is None else length


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """What signs quotes on a platform: an attestation key, and the QE's certified word for it."""

    attestation_key: ec.EllipticCurvePrivateKey
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes  # PEM: leaf, intermediate, root, then one NUL as in genuine quotes
    header: bytes  #     48 bytes

    def quote(self, report: ReportForm) -> QuoteForm:
        """A quote over this report; `.encode()` gives its bytes."""
        return QuoteForm(
            header=self.header,
            report=report.encode(),
            signature=b"",
            attestation_key=b"",
            qe_report=self.qe_report,
            qe_report_signature=self.qe_report_signature,
            qe_auth_data=self.qe_auth_data,
            certification_data=self.pck_chain,
        ).signed_by(self.attestation_key)
