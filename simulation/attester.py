"""The attesters of the simulation, each named by its folder.

`--attester simulation:DIR/platform` is that of an enclave, `simulation:DIR/trust-domain` that of a
TDX guest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from simulation.folder import SimulationFolderUnusable, read_quoting_enclave
from simulation.measure import measure
from simulation.platform import TEE_TCB_SVN
from simulation.quote import TDX, QuotingEnclave, ReportForm
from simulation.trust_domain import GuestMeasurement
from verifier.anchors import Mode

# Simulated enclaves are signed with no key: a hashed name.
MR_SIGNER = hashlib.sha256(b"ratls simulation, signed by nobody").digest()


class SimulatedAttester:
    """Implements `ratls.attester.Attester`: quotes reports about this very process."""

    mode: Mode = Mode.SIMULATION

    def __init__(self, folder: Path, mr_enclave: bytes | None = None) -> None:
        """Measure now; as with hardware, code that is loaded later does not change it.

        Args:
            folder: The subfolder `platform` of a simulation.
            mr_enclave: 32 bytes; None measures what is installed.

        Raises:
            SimulationFolderUnusable: The folder is not one of a simulation.
        """
        self._enclave = _read(folder, tdx=False)
        self._mr_enclave = measure() if mr_enclave is None else mr_enclave

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote, version 3, over exactly these 64 bytes."""
        if len(report_data) != 64:
            raise ValueError("report_data has 64 bytes")
        report = ReportForm(
            # The QE ran on the same processor, so its report has the CPUSVN.
            cpu_svn=self._enclave.qe_report[:16],
            mr_enclave=self._mr_enclave,
            mr_signer=MR_SIGNER,
            report_data=report_data,
        )
        return self._enclave.quote(report).encode()


class SimulatedDomainAttester:
    """Implements `ratls.attester.Attester`: quotes reports of a guest with this very code."""

    mode: Mode = Mode.SIMULATION

    def __init__(self, folder: Path, code: bytes | None = None) -> None:
        """Measure now; as with hardware, code that is loaded later does not change it.

        Args:
            folder: The subfolder `trust-domain` of a simulation.
            code: 32 bytes; None measures the installed packages.

        Raises:
            SimulationFolderUnusable: The folder is not one of a simulation.
        """
        self._enclave = _read(folder, tdx=True)
        self._guest = GuestMeasurement.of(measure() if code is None else code)

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote, version 4, over exactly these 64 bytes."""
        if len(report_data) != 64:
            raise ValueError("report_data has 64 bytes")
        return self._enclave.quote(self._guest.report(report_data, TEE_TCB_SVN)).encode()


def attester_in(folder: Path) -> SimulatedAttester | SimulatedDomainAttester:
    """The attester whose folder this is. Raises: SimulationFolderUnusable."""
    if read_quoting_enclave(folder).tee_type == TDX:
        return SimulatedDomainAttester(folder)
    return SimulatedAttester(folder)


def _read(folder: Path, *, tdx: bool) -> QuotingEnclave:
    enclave = read_quoting_enclave(folder)
    if (enclave.tee_type == TDX) != tdx:
        kinds = ("of enclaves", "of trust domains")
        raise SimulationFolderUnusable(
            str(folder), expected=f"the attester {kinds[tdx]}", found=f"that {kinds[not tdx]}"
        )
    return enclave
