"""One world for all tests of this folder; a live enclave, a relay and desks for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ratls.address import Address
from tests.provider.desk import Desk
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.relay import Relay


@pytest.fixture(scope="session")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture
def live(world: EnclaveWorld) -> Iterator[LiveEnclave]:
    with world.running() as live:
        yield live


@pytest.fixture
def relay(live: LiveEnclave) -> Iterator[Relay]:
    with Relay(("127.0.0.1", live.server.port)) as relay:
        yield relay


@pytest.fixture
def alice(world: EnclaveWorld, relay: Relay, tmp_path: Path) -> Desk:
    """Alice reaches the enclave through the recording relay."""
    return Desk.of("alice", world, tmp_path, Address.parse(relay.address))


@pytest.fixture
def bob(world: EnclaveWorld, live: LiveEnclave, tmp_path: Path) -> Desk:
    return Desk.of("bob", world, tmp_path, live.address)


@pytest.fixture
def carol(world: EnclaveWorld, live: LiveEnclave, tmp_path: Path) -> Desk:
    return Desk.of("carol", world, tmp_path, live.address)
