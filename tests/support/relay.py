"""A recording relay whose far end can be changed: a network that reroutes its next connection."""

from __future__ import annotations

from simulation.relay import RecordingRelay


class Relay(RecordingRelay):
    """`RecordingRelay` that can be pointed elsewhere; connections already open stay."""

    def point_at(self, target: tuple[str, int]) -> None:
        self._target = target
