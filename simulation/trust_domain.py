"""A simulated trust domain: its registers, which come from a simulated event log.

    domain = GuestMeasurement.of(measure())
    domain.registers["rtmr2"]              # hex; changes with the code

MRTD stands for a firmware; the code of the enclave is in RTMR2, as that of a true guest with its
file system in the initrd.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from simulation.event_log import guest_log
from simulation.quote import TdReportForm
from verifier.event_log import EventLog

MR_TD = hashlib.sha384(b"ratls simulation, firmware of nobody").digest()
MR_SEAM = TdReportForm().mr_seam


@dataclass(frozen=True, slots=True)
class GuestMeasurement:
    """The registers of a guest with some code, and the log that explains them."""

    log: bytes
    rtmrs: tuple[bytes, ...]  # RTMR0 to RTMR3

    @classmethod
    def of(cls, code: bytes) -> Self:
        """Of a guest with this code: 32 bytes, as `simulation.measure` has them."""
        log = guest_log(code)
        parsed = EventLog.parse(log)
        return cls(log, tuple(parsed.replay(number) for number in range(4)))

    @property
    def registers(self) -> dict[str, str]:
        """MRTD, RTMR0 to RTMR3 and MRSEAM in hex, as a policy writes them."""
        names = {f"rtmr{number}": value.hex() for number, value in enumerate(self.rtmrs)}
        return {"mr_td": MR_TD.hex(), **names, "mr_seam": MR_SEAM.hex()}

    def report(self, report_data: bytes, tee_tcb_svn: bytes) -> TdReportForm:
        """What the TDX module would say of it."""
        rtmr0, rtmr1, rtmr2, rtmr3 = self.rtmrs
        return TdReportForm(
            tee_tcb_svn=tee_tcb_svn,
            mr_td=MR_TD,
            rtmr0=rtmr0,
            rtmr1=rtmr1,
            rtmr2=rtmr2,
            rtmr3=rtmr3,
            report_data=report_data,
        )
