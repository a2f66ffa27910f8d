"""What this distribution adds to an installation; without it nothing simulated is accepted.

Found through the entry point `ratls.simulation`, after a policy named the root and the command said
`--allow-simulation`. Being installed is one of three permissions; `verifier.modes` makes anchors.
"""

from __future__ import annotations

from pathlib import Path

from simulation.attester import SimulatedAttester, SimulatedDomainAttester, attester_in


class Lock:
    """Implements `verifier.modes.SimulationLock`."""

    def attester(self, argument: str) -> SimulatedAttester | SimulatedDomainAttester:
        """An attester on the subfolder `platform` or `trust-domain` of a simulation."""
        return attester_in(Path(argument))


LOCK = Lock()
