"""Which attester a name leads to, and that a simulated one needs to be allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratls.attester_option import AttesterUnknown, resolve_attester
from ratls.tdx_guest import TdxAbsent
from simulation import folder
from tests.support.flight_peers import Study
from tests.support.refusal import refused
from verifier.anchors import Mode
from verifier.modes import SimulationNotAllowed
from verifier.quote import Quote


def test_simulated_attester_quotes_what_it_is_given(study: Study, tmp_path: Path) -> None:
    folder.write(study.world.intel, study.world.platform, tmp_path / "intel")
    attester = resolve_attester(f"simulation:{tmp_path}/intel/platform", allow_simulation=True)
    assert attester.mode is Mode.SIMULATION
    assert Quote.parse(attester.quote(b"r" * 64)).report.report_data == b"r" * 64


@pytest.mark.parametrize(
    "name", ["", "simulation", "simulation:", "gramine", "tdx:", "TDX", "sgx:/dev/attestation"]
)
def test_name_that_leads_nowhere(name: str) -> None:
    """Never a default: an enclave without an attester must not start."""
    with refused(AttesterUnknown):
        resolve_attester(name, allow_simulation=True)


def test_simulation_that_nobody_allowed() -> None:
    """X05: the third lock."""
    with refused(SimulationNotAllowed):
        resolve_attester("simulation:anywhere", allow_simulation=False)


def test_a_guest_that_is_none() -> None:
    """X07: `tdx` is hardware alone, on whatever machine runs this test."""
    with refused(TdxAbsent):
        resolve_attester("tdx", allow_simulation=True)
