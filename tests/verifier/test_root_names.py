"""How policies and commands name a root of trust."""

from __future__ import annotations

import pytest

from tests.support.refusal import refused
from verifier.anchors import Mode, RootMalformed, RootName, TrustAnchors

KEY = bytes(range(32))
SIMULATED = f"simulation:sha256:{KEY.hex()}"


def test_intel_is_the_root_of_production() -> None:
    name = RootName.parse("intel")
    assert (str(name), name.mode, name.anchors) == (
        "intel",
        Mode.PRODUCTION,
        TrustAnchors.intel(),
    )


def test_a_simulated_root_is_named_by_its_key() -> None:
    name = RootName.parse(SIMULATED)
    assert (str(name), name.mode) == (SIMULATED, Mode.SIMULATION)
    assert name.anchors == TrustAnchors(Mode.SIMULATION, KEY, SIMULATED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Intel",
        "intel ",
        "simulation",
        SIMULATED[:-1],
        SIMULATED + "0",
        SIMULATED + "\n",
        SIMULATED.upper(),
        SIMULATED.replace("simulation", "production"),
    ],
)
def test_another_spelling_names_no_root(text: str) -> None:
    """A root that two parties read differently would let one of them accept a simulation."""
    with refused(RootMalformed):
        RootName.parse(text)
