"""The attester that `--attester` names. The production enclave has no such option."""

from __future__ import annotations

from typing import cast

from ratls.attester import Attester
from ratls.errors import AttesterError
from ratls.foreign_package import require_own
from verifier.anchors import Mode
from verifier.modes import SimulationNotAllowed, simulation_installed, simulation_lock


class AttesterUnknown(AttesterError):
    """No attester of that name is installed here."""

    code = "attester-unknown"
    default_fix = "use --attester simulation:DIR with --allow-simulation"


def resolve_attester(name: str, *, allow_simulation: bool) -> Attester:
    """The attester that `--attester` names: `simulation:FOLDER`.

    Raises:
        AttesterUnknown: Nothing by that name.
        SimulationNotAllowed: A simulation, without `--allow-simulation`.
        SimulationNotInstalled: A simulation, in a production installation.
        ForeignPackage: Another package has the simulation's name.
    """
    kind, _, argument = name.partition(":")
    if kind != "simulation" or not argument:
        raise AttesterUnknown("--attester", expected="simulation:FOLDER", found=name)
    if not allow_simulation:
        raise SimulationNotAllowed("attester", expected="hardware", found=name)
    if simulation_installed():
        require_own("simulation")
    return _Simulated(cast(Attester, simulation_lock().attester(argument)))


class _Simulated:
    """The mode is fixed here: what the simulation says of itself does not count."""

    mode = Mode.SIMULATION

    def __init__(self, attester: Attester) -> None:
        self.quote = attester.quote
