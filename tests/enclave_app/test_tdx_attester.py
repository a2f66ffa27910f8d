"""`ratls enclave serve --attester tdx`: production, on whatever machine it is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave_app import serving
from enclave_app.cli import app
from ratls import tdx_guest
from ratls.attester import Attester, stated_events
from tests.support.intel import World
from tests.support.tsm import StandInKernel
from tests.support.typed import typed
from verifier.anchors import Mode


@pytest.fixture
def attesters(monkeypatch: pytest.MonkeyPatch) -> list[Attester]:
    """The attester with which the command would have served."""
    found: list[Attester] = []

    def serve(*, attester: Callable[[], Attester], **_: Any) -> None:
        found.append(attester())

    monkeypatch.setattr(serving, "serve", serve)
    return found


def test_in_a_guest_nothing_is_simulated(
    attesters: list[Attester], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X05: the mode is the hardware's, with the simulation's distribution installed or not."""
    attester, kernel = tdx_guest.TdxAttester, StandInKernel(World.create().platform)
    monkeypatch.setattr(tdx_guest, "TdxAttester", lambda **given: attester(kernel.folder, **given))
    (tmp_path / "rtmr3").write_bytes(b"")
    for name, stated in (("tdx", None), (f"tdx:{tmp_path / 'rtmr3'}", ())):
        said = typed(app, ["serve", "--agreement", "a.json", "--attester", name]).output
        assert "SIMULATION" not in said
        assert attesters[-1].mode is Mode.PRODUCTION
        assert stated_events(attesters[-1]) == stated
    assert kernel.made == 2


def test_on_any_other_machine_nothing_is_served(attesters: list[Attester]) -> None:
    """X07: before an agreement is read, and with or without leave to simulate."""
    for more in ([], ["--allow-simulation"]):
        words = ["serve", "--agreement", "a.json", "--attester", "tdx", *more]
        assert "tdx-absent" in typed(app, words, 3).output
    assert attesters == []
