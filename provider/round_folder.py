"""What a party keeps of a task's rounds: receipts, the newest model, and what it signed last."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policy.round_receipt import RoundReceipt
from provider.release_state import ReleaseStateDamaged, ReleaseUnderWay
from verifier.files import LockHeld, locked, own_folder, parse_file, write_atomically

_ROUNDS, _SIGNED, _MODEL = "rounds", "signed.json", "model.arrow"


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed for a round, newest last: one of them may count."""

    round: int
    updates: tuple[bytes, ...]  # envelopes

    def newest(self, number: int) -> bytes:
        """For this round; empty where there is none."""
        return self.updates[-1] if self.round == number and self.updates else b""

    def encode(self) -> bytes:
        updates = [b64encode(update).decode() for update in self.updates]
        return json.dumps({"round": self.round, "updates": updates}).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: ReleaseStateDamaged."""
        try:
            fields = json.loads(raw)
            updates = tuple(b64decode(text, validate=True) for text in fields["updates"])
            found = cls(fields["round"], updates)
            if type(found.round) is int and found.encode() == raw:
                return found
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # falls through to the one refusal for every other content
        raise ReleaseStateDamaged("the file", expected="a round and its update", found="others")


class RoundFolder:
    """The files of one task's rounds: receipts with their records, the newest model, and what was
    signed last."""

    def __init__(self, path: Path) -> None:
        self.folder, self.model = path, path / _MODEL

    @classmethod
    @contextmanager
    def open(cls, state: Path, task: bytes, dataset: str) -> Iterator[Self]:
        """Lock them: two processes could sign two updates for one round.

        Raises: ReleaseUnderWay, FileNotWritten, LocksMissing.
        """
        path = state / _ROUNDS / task.hex() / dataset
        with ExitStack() as held:
            held.enter_context(own_folder(state, *path.relative_to(state).parts))
            try:
                held.enter_context(locked(path / "lock", wait=0))
            except LockHeld as error:
                raise ReleaseUnderWay(
                    f"dataset {dataset}", expected="one process at a time", found="another"
                ) from error
            yield cls(path)

    def receipt(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}.receipt.json"

    def receipts(self) -> list[RoundReceipt]:
        """All of them, by round. Raises: FileUnreadable, and what `RoundReceipt.open` raises."""
        found = sorted(self.folder.glob("round-*.receipt.json"))
        return [parse_file(path, RoundReceipt.open) for path in found]

    def last(self) -> RoundReceipt | None:
        """The newest receipt. Raises: as `receipts`."""
        found = sorted(self.folder.glob("round-*.receipt.json"))
        return parse_file(found[-1], RoundReceipt.open) if found else None

    def keep(self, receipt: RoundReceipt, raw: bytes, record: bytes) -> None:
        """The record first: a receipt that is there has one. Raises: FileNotWritten."""
        path = self.receipt(receipt.round)
        write_atomically(path.with_name(path.name.replace("receipt", "record")), record, mode=0o600)
        write_atomically(path, raw, mode=0o600)

    def signed(self) -> Signed:
        """For the newest round that anything was signed for.

        Raises: ReleaseStateDamaged, FileUnreadable.
        """
        path = self.folder / _SIGNED
        return parse_file(path, Signed.parse) if path.exists() else Signed(0, ())

    def sign(self, number: int, update: bytes) -> None:
        """Keep one more, before it is sent. Raises: FileNotWritten."""
        before = self.signed()
        earlier = before.updates if before.round == number else ()
        self.keep_signed(Signed(number, (*earlier, update)))

    def keep_signed(self, signed: Signed) -> None:
        """Raises: FileNotWritten."""
        write_atomically(self.folder / _SIGNED, signed.encode(), mode=0o600)
