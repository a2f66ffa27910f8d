"""A task in the queue: its exact bytes, the state of its inputs, a cursor to continue from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_STORE_SIZE, _CHANGE_SIZE = 16, 8


class State(StrEnum):
    """What a dataset's owner reported. A hint: only acknowledgements and receipts prove it."""

    WAITING = "waiting"
    RELEASED = "released"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """One input of a task."""

    dataset: str
    owner: str
    state: State = State.WAITING
    code: str = ""  # of docs/errors.md, where the state is REFUSED
    instance: bytes = b""  # 16, of the enclave's start, where it is RELEASED and was said


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one queue: everything that changed later has a higher number."""

    store: bytes = bytes(_STORE_SIZE)  # 16 random bytes that name the queue; zero names none
    change: int = 0

    def encode(self) -> bytes:
        """24 bytes, opaque to clients."""
        return self.store + self.change.to_bytes(_CHANGE_SIZE, "big")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Anything unreadable starts from the beginning: a task may be seen twice, never missed."""
        if len(raw) != _STORE_SIZE + _CHANGE_SIZE:
            return cls()
        return cls(raw[:_STORE_SIZE], int.from_bytes(raw[_STORE_SIZE:], "big"))


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """Nothing in it is verified: the receiver verifies the envelope."""

    digest: bytes  #    SHA-256 of the task's payload, 32 bytes, as the scheduler says
    envelope: bytes  #  the signed task as it was submitted
    datasets: tuple[DatasetStatus, ...]
    cursor: bytes  #    opaque: `watch` with it shows later changes
