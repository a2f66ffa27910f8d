"""The TDX module's report on one trust domain: the body of a TDX quote.

TDX 1.0 has 584 bytes; 1.5 appends two fields. Layout: `sgx_report2_body_t` in `sgx_quote_4.h`
(TDX DCAP Quoting Library API, appendix A.3.2) and `sgx_report2_body_v1_5_t` in `sgx_quote_5.h`;
a table is in docs/dcap.md 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from verifier.layout import Integer, Octets

TD_1_0, TD_1_5 = 584, 648  # bytes
# Of TDATTRIBUTES (TDX DCAP Quoting Library API, appendix A.3.4): bits 0 to 7 each end the domain's
# protection (DEBUG, profiling, reserved ones).
TD_UNPROTECTED = 0xFF
SEPT_VE_DISABLE, PKS, PERFMON = 1 << 28, 1 << 30, 1 << 63


@dataclass(frozen=True, slots=True)
class TdReport:
    """Measurements and attributes of a trust domain. Names are Intel's."""

    raw: bytes
    # The module's SVN, its major version, the microcode's SVN; then others.
    tee_tcb_svn = Octets(0, 16)
    mr_seam = Octets(16, 48)  #         SHA-384 of the TDX module
    mr_signer_seam = Octets(64, 48)  #  zero for a module signed by Intel
    seam_attributes = Octets(112, 8)
    td_attributes = Integer(120, 8)
    xfam = Integer(128, 8)
    mr_td = Octets(136, 48)  #          SHA-384 of what was loaded when the domain was built
    mr_config_id = Octets(184, 48)
    mr_owner = Octets(232, 48)
    mr_owner_config = Octets(280, 48)
    rtmr0 = Octets(328, 48)  #          these four are extended at run time
    rtmr1 = Octets(376, 48)
    rtmr2 = Octets(424, 48)
    rtmr3 = Octets(472, 48)
    report_data = Octets(520, 64)

    @property
    def tee_tcb_svn_2(self) -> bytes | None:
        """16 bytes: of the module that runs now, after an update beneath the domain; TDX 1.5."""
        return self.raw[584:600] if len(self.raw) == TD_1_5 else None

    @property
    def svns(self) -> tuple[bytes, ...]:
        """TEE_TCB_SVN of the launch and, with TDX 1.5, of now."""
        return (self.tee_tcb_svn, *([self.raw[584:600]] if len(self.raw) == TD_1_5 else []))

    @property
    def mr_service_td(self) -> bytes | None:
        """48 bytes: of the service domains bound to this one, zero for none; TDX 1.5."""
        return self.raw[600:648] if len(self.raw) == TD_1_5 else None
