"""The attester that `--attester` names. An enclave of SGX in production has no such option."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ratls.attester import Attester, StatesEvents
from ratls.errors import AttesterError
from ratls.foreign_package import require_own
from verifier.anchors import Mode
from verifier.modes import SimulationNotAllowed, simulation_installed, simulation_lock


class AttesterUnknown(AttesterError):
    """No attester of that name is installed here."""

    code = "attester-unknown"
    default_fix = "use --attester tdx in a TDX guest; or simulation:DIR with --allow-simulation"


def resolve_attester(name: str, *, allow_simulation: bool) -> Attester:
    """The attester that `--attester` names: `tdx`, `tdx:FILE` or `simulation:FOLDER`.

    The file holds the digests that extended RTMR3, if a policy lists them.

    Raises:
        AttesterUnknown: Nothing by that name.
        SimulationNotAllowed: A simulation, without `--allow-simulation`.
        SimulationNotInstalled: A simulation, in a production installation.
        AttesterError, EvidenceMissingError: This machine has no such attester.
        ForeignPackage: Another package has the simulation's name.
    """
    kind, _, argument = name.partition(":")
    if name == "tdx" or (kind == "tdx" and argument):
        from ratls.tdx_guest import TdxAttester

        return TdxAttester(events=Path(argument) if argument else None)
    if kind != "simulation" or not argument:
        raise AttesterUnknown(
            "--attester", expected="tdx, tdx:FILE or simulation:DIR", found=ascii(name)
        )
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
        if isinstance(attester, StatesEvents):
            self.rtmr3_events = attester.rtmr3_events
