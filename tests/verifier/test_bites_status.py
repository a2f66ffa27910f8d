"""How the status of a launch and of now become one, in every combination."""

from __future__ import annotations

import pytest

from verifier.status import TcbStatus, relaunch

S = TcbStatus
CONFIGURATION = {
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
OUTDATED = [S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED]
CURRENT = [
    S.UP_TO_DATE,
    S.SW_HARDENING_NEEDED,
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
]


@pytest.mark.parametrize("launch", OUTDATED)
@pytest.mark.parametrize("current", CURRENT)
def test_update_beneath_an_outdated_domain_advises_a_relaunch(
    launch: TcbStatus, current: TcbStatus
) -> None:
    """A configuration that either of them needs is not forgotten over it."""
    needs = launch in CONFIGURATION or current in CONFIGURATION
    advised = S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED if needs else S.TD_RELAUNCH_ADVISED
    assert relaunch(launch, current) is advised


@pytest.mark.parametrize("launch", OUTDATED)
@pytest.mark.parametrize("current", [*OUTDATED, S.REVOKED])
def test_relaunch_onto_what_is_outdated_too_would_not_help(
    launch: TcbStatus, current: TcbStatus
) -> None:
    assert relaunch(launch, current) is launch


@pytest.mark.parametrize("launch", [*CURRENT, S.REVOKED])
@pytest.mark.parametrize("current", [*CURRENT, *OUTDATED])
def test_launch_that_is_not_outdated_decides_alone(launch: TcbStatus, current: TcbStatus) -> None:
    """A revoked launch least of all is mended by an update."""
    assert relaunch(launch, current) is launch


@pytest.mark.parametrize("launch", [*CURRENT, S.REVOKED])
def test_what_runs_now_is_revoked(launch: TcbStatus) -> None:
    """However good it was at the launch."""
    assert relaunch(launch, S.REVOKED) is S.REVOKED
