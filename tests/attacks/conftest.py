"""Attacks on whole desks, with the parties and enclave of the provider's tests; and channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.provider.conftest import alice, bob, carol, live, relay, world
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import LiveEnclave
from tests.support.flight_peers import Study
from tests.support.oracle import Scene, watch_process
from tests.support.relay import Relay
from tests.support.stage import Stage

__all__ = ["alice", "bob", "carol", "live", "relay", "world"]


@pytest.fixture(scope="session")
def study() -> Study:
    """Nothing in it changes."""
    return Study.create()


@pytest.fixture
def watch(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Scene], None]:
    """Has a scene look at this process, too."""
    return lambda scene: watch_process(scene, capfd, caplog, monkeypatch)


@pytest.fixture
def stage(study: Study, tmp_path: Path, watch: Callable[[Scene], None]) -> Stage:
    """A channel of the study; the test says which transport."""
    stage = Stage(study, tmp_path)
    watch(stage)
    return stage


@pytest.fixture
def looked_at(tmp_path: Path, watch: Callable[[Scene], None]) -> Scene:
    """This process and its files, whoever is attacked in it."""
    scene = Scene((CANARY.encode(),), tmp_path)
    watch(scene)
    return scene


@pytest.fixture
def scene(looked_at: Scene, alice: Desk, live: LiveEnclave, relay: Relay) -> Scene:
    """Alice's desk, the enclave, and the relay in between."""
    return desk_scene(looked_at, alice, live, relay)


def desk_scene(scene: Scene, alice: Desk, live: LiveEnclave, relay: Relay) -> Scene:
    """Another enclave than that of the fixtures is looked at in their place."""

    def honest() -> bool:
        relay.point_at(("127.0.0.1", live.server.port))
        return alice.push(alice.world.task()).commit.rows == 60

    scene.honest = honest
    scene.own.add(alice.path)
    scene.records = {"alice": alice.refusals, "enclave": lambda: live.stream.codes}
    scene.places["the wire"] = lambda: relay.recorded
    scene.places["the log of the enclave"] = lambda: live.stream.getvalue().encode()
    return scene
