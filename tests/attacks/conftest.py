"""Attacks on whole desks, with the parties and enclave of the provider's tests; and channels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.provider.conftest import alice, bob, carol, live, relay, world
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import LiveEnclave
from tests.support.flight_peers import Study
from tests.support.relay import Relay

__all__ = ["alice", "bob", "carol", "live", "relay", "world"]


@pytest.fixture(scope="session")
def study() -> Study:
    """Nothing in it changes."""
    return Study.create()


@pytest.fixture
def honest(alice: Desk, live: LiveEnclave, relay: Relay) -> Iterator[None]:
    """After the attack: no row was on the wire, and the same provider serves the honest task."""
    yield
    recorded = b"".join(bytes(c.sent + c.received) for c in relay.connections)
    assert CANARY.encode() not in recorded
    assert CANARY not in live.stream.getvalue()
    relay.point_at(("127.0.0.1", live.server.port))
    assert alice.push(alice.world.task()).commit.rows == 60
