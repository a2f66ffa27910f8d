"""What this distribution adds to an installation: the lock that production lacks.

Found through the entry point `ratls.simulation` and asked by `verifier.modes` alone, after
a policy named the root and the command said `--allow-simulation`.
"""

from __future__ import annotations

from pathlib import Path

from simulation.attester import SimulatedAttester
from verifier.anchors import Mode, TrustAnchors


class Lock:
    """Implements `verifier.modes.SimulationLock`."""

    def anchors(self, root_spki_sha256: bytes) -> TrustAnchors:
        """Anchors that believe exactly this simulated root (SHA-256 of its SPKI, 32 bytes)."""
        name = f"simulation:sha256:{root_spki_sha256.hex()}"
        return TrustAnchors(Mode.SIMULATION, root_spki_sha256, name)

    def attester(self, argument: str) -> SimulatedAttester:
        """An attester on the subfolder `platform` of a simulation."""
        return SimulatedAttester(Path(argument))


LOCK = Lock()
