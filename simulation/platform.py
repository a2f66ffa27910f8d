"""A simulated machine: its certified keys, its quoting enclaves, and the quotes that they make.

    platform = intel.platform()
    platform.quote(bytes(64))                # of an enclave
    platform.td_quote(bytes(64))             # of a trust domain

As in `simulation.intel`, hooks alter a form before it is signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from simulation.certificates import Issued, public_point, sign_raw
from simulation.pck_extension import PckExtensionForm
from simulation.quote import (
    INIT,
    MODE64BIT,
    PROVISION_KEY,
    SGX,
    TDX,
    DescriptorForm,
    HeaderForm,
    QuoteForm,
    QuotingEnclave,
    ReportForm,
    TdReportForm,
    qe_binding,
)

T = TypeVar("T")
Hook: TypeAlias = Callable[[T], T]

QE_MR_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
QE_AUTH_DATA = bytes(range(32))
QE_ISV_SVN = 8
TD_QE_MR_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
TD_QE_ISV_SVN = 4
# The TDX module: SVN 5 of version 1, over microcode of SVN 2. The version is judged through the
# module's identity, so that levels ask for none.
TEE_TCB_SVN = bytes((5, 1, 2, *(0,) * 13))


def unaltered(value: T) -> T:
    """The hook that changes nothing."""
    return value


@dataclass(frozen=True, slots=True)
class Platform:
    """A machine: its PCK certificate and key, and two quoting enclaves with attestation keys."""

    pck: Issued
    ca: Issued
    root: Issued
    tcb: PckExtensionForm
    attestation_key: ec.EllipticCurvePrivateKey
    qe_id: bytes  # 16 bytes

    @property
    def pck_chain(self) -> bytes:
        """PEM: leaf, intermediate, root; one NUL at the end, as in genuine quotes."""
        return (self.pck.pem + self.ca.pem + self.root.pem).encode() + b"\x00"

    @property
    def td_attestation_key(self) -> ec.EllipticCurvePrivateKey:
        """The TD quoting enclave's key, derived from the other, so that it need not be stored."""
        secret = self.attestation_key.private_numbers().private_value.to_bytes(32, "big")
        digest = hashlib.sha256(b"attestation key for trust domains" + secret).digest()
        # Below 2**255, so below the order of the group too.
        return ec.derive_private_key(int.from_bytes(digest, "big") >> 1, ec.SECP256R1())

    def quoting_enclave(
        self,
        *,
        version: int = 3,
        tdx: bool = False,
        attestation_key: ec.EllipticCurvePrivateKey | None = None,
        qe_auth_data: bytes = QE_AUTH_DATA,
        qe_report: Hook[ReportForm] = unaltered,
        qe_key: ec.EllipticCurvePrivateKey | None = None,
        header: Hook[HeaderForm] = unaltered,
    ) -> QuotingEnclave:
        """The quoting enclave with its certified attestation key.

        Args:
            version: Of its quotes: 3 (not for TDX), 4 or 5.
            tdx: The one that quotes trust domains.
            attestation_key: Another key, which the QE's report then names.
            qe_report: Alters the QE's report, its report_data included, before it is signed.
            qe_key: Signs the QE's report in the place of the PCK key.
        """
        key = attestation_key or (self.td_attestation_key if tdx else self.attestation_key)
        isv_svn = TD_QE_ISV_SVN if tdx else QE_ISV_SVN
        report = ReportForm(
            cpu_svn=self.tcb.cpu_svn,
            flags=INIT | MODE64BIT | PROVISION_KEY,
            mr_enclave=(b"\x53" if tdx else b"\x51") * 32,
            mr_signer=TD_QE_MR_SIGNER if tdx else QE_MR_SIGNER,
            isv_prod_id=2 if tdx else 1,
            isv_svn=isv_svn,
            report_data=qe_binding(public_point(key), qe_auth_data),
        )
        form = HeaderForm(
            version=version,
            tee_type=TDX if tdx else SGX,
            qe_svn=isv_svn if version == 3 else 0,
            pce_svn=self.tcb.pce_svn if version == 3 else 0,
            user_data=self.qe_id + bytes(4),
        )
        raw = qe_report(report).encode()
        return QuotingEnclave(
            attestation_key=key,
            qe_report=raw,
            qe_report_signature=sign_raw(qe_key or self.pck.ec_key, raw),
            qe_auth_data=qe_auth_data,
            pck_chain=self.pck_chain,
            header=header(form).encode(),
            version=version,
        )

    def quote(
        self,
        report_data: bytes = bytes(64),
        *,
        tdx: bool = False,
        version: int | None = None,
        attestation_key: ec.EllipticCurvePrivateKey | None = None,
        qe_auth_data: bytes = QE_AUTH_DATA,
        qe_report: Hook[ReportForm] = unaltered,
        qe_key: ec.EllipticCurvePrivateKey | None = None,
        header: Hook[HeaderForm] = unaltered,
        descriptor: Hook[DescriptorForm] = unaltered,
        form: Hook[QuoteForm] = unaltered,
        **report: Any,
    ) -> bytes:
        """A quote over an enclave's report with this report_data (64 bytes).

        Args:
            tdx: Over a trust domain's; see `td_quote`.
            version: 3; or 4 or 5, which are rare for enclaves. Of a trust domain 4 or 5.
            descriptor: Alters what version 5 says about the body, before it is signed.
            form: Alters the finished form: signatures, lengths, certification data, trailing bytes.
            report: Further fields of `ReportForm`: mr_enclave, flags, xfrm, isv_svn, …
        """
        enclave = self.quoting_enclave(
            version=version or (4 if tdx else 3),
            tdx=tdx,
            attestation_key=attestation_key,
            qe_auth_data=qe_auth_data,
            qe_report=qe_report,
            qe_key=qe_key,
            header=header,
        )
        svn = {"tee_tcb_svn": TEE_TCB_SVN} if tdx else {"cpu_svn": self.tcb.cpu_svn}
        fields = {**svn, "report_data": report_data, **report}
        body = TdReportForm(**fields) if tdx else ReportForm(**fields)
        return form(enclave.quote(body, descriptor=descriptor)).encode()

    def td_quote(self, report_data: bytes = bytes(64), **altered: Any) -> bytes:
        """A quote over a trust domain's report with this report_data (64 bytes).

        Args:
            altered: As for `quote`, with fields of `TdReportForm`: mr_td, td_attributes,
                tee_tcb_svn, … `tee_tcb_svn_2` or `mr_service_td` make it a domain of TDX 1.5,
                which goes with version 5; the other one is then the module at launch, or zero.
        """
        if altered.keys() & {"tee_tcb_svn_2", "mr_service_td"}:
            altered.setdefault("tee_tcb_svn_2", altered.get("tee_tcb_svn", TEE_TCB_SVN))
            altered.setdefault("mr_service_td", bytes(48))
        return self.quote(report_data, tdx=True, **altered)
