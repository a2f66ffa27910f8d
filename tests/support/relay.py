"""A recording relay whose far end can be changed, and which breaks where a test says."""

from __future__ import annotations

from typing import Self

from simulation.relay import Connection, RecordingRelay


class Relay(RecordingRelay):
    """`RecordingRelay` that can be pointed elsewhere; connections already open stay."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.left: int | None = None  # bytes of clients until every connection breaks, once
        self.connections = _Counting(self)

    def point_at(self, target: tuple[str, int]) -> None:
        self._target = target

    @property
    def recorded(self) -> bytes:
        """All that passed, in both directions."""
        return b"".join(bytes(c.sent + c.received) for c in self.connections)

    def cut_after(self, size: int) -> None:
        """Break all connections once so many more bytes have come; later ones are let through."""
        self.left = size

    def count(self, size: int) -> None:
        if self.left is not None:
            self.left -= size
            if self.left <= 0:
                self.left = None
                self.cut()


class _Counting(list[Connection]):
    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def append(self, record: Connection) -> None:
        record.sent = _Counted(self._relay)
        super().append(record)


class _Counted(bytearray):
    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def __iadd__(self, data: bytes) -> Self:  # type: ignore[override]
        super().__iadd__(data)
        self._relay.count(len(data))
        return self
