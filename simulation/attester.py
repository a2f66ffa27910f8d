"""The attester of a simulated enclave: `--attester simulation:DIR/platform`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from simulation.folder import read_quoting_enclave
from simulation.measure import measure
from simulation.quote import ReportForm
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
        self._enclave = read_quoting_enclave(folder)
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
