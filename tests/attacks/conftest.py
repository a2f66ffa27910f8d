"""Attacks on whole desks: the parties, enclave and relay of the provider's tests."""

from __future__ import annotations

from tests.provider.conftest import alice, bob, carol, live, relay, world

__all__ = ["alice", "bob", "carol", "live", "relay", "world"]
