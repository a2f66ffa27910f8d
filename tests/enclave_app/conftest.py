"""One consortium and one running enclave for this folder; each test signs its own tasks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.enclave import EnclaveWorld, LiveEnclave


@pytest.fixture(scope="session")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture(scope="module")
def live(world: EnclaveWorld) -> Iterator[LiveEnclave]:
    with world.running() as running:
        yield running


@pytest.fixture
def task(world: EnclaveWorld) -> bytes:
    return world.task()
