"""Where quotes come from: the one question that an attester answers.

`ratls.evidence.make_evidence` is the only caller of `Attester.quote`: whoever could have
other bytes quoted could have evidence made that this project never wrote.
"""

from __future__ import annotations

from typing import Protocol, cast

from ratls.errors import AttesterError
from verifier.anchors import Mode
from verifier.modes import SimulationNotAllowed, simulation_lock


class Attester(Protocol):
    """The hardware, or its simulation, that vouches for the running enclave.

    With the enclave, the attester of RFC 9334, section 4.1.
    """

    mode: Mode

    def quote(self, report_data: bytes) -> bytes:
        """A fresh quote whose report carries exactly these 64 bytes.

        They are the `sgx_report_data_t` of `sgx_report.h`.
        """
        ...


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
    """
    kind, _, argument = name.partition(":")
    if kind != "simulation" or not argument:
        raise AttesterUnknown("--attester", expected="simulation:FOLDER", found=name)
    if not allow_simulation:
        raise SimulationNotAllowed("attester", expected="hardware", found=name)
    return _Simulated(cast(Attester, simulation_lock().attester(argument)))


class _Simulated:
    """Whatever an attester says of itself: what is resolved by this name is a simulation."""

    mode = Mode.SIMULATION

    def __init__(self, attester: Attester) -> None:
        self.quote = attester.quote
