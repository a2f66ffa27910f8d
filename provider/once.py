"""Each task once: what the journal says about it, and the files that one release leaves behind.

A release is bound to one instance of the enclave before its first row. SGX cannot see its own
clones: without the binding, a host could start two and collect different inputs in each.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from provider.errors import (
    ReleaseStateDamaged,
    ReleaseUnderWay,
    TaskAlreadyReleased,
    TaskBoundToInstance,
    UsesExhausted,
)
from provider.journal import Record, Released, Reserved
from verifier.errors import LockHeld
from verifier.files import locked, own_folder, read_file, write_atomically


def require_unreleased(records: tuple[Record, ...], task: str, dataset: str) -> None:
    """Raises: TaskAlreadyReleased. `task` is its digest as text."""
    for record in records:
        entry = record.entry
        if isinstance(entry, Released) and (entry.task, entry.dataset) == (task, dataset):
            raise TaskAlreadyReleased(
                f"task {task}, dataset {dataset}",
                expected="a task not released yet",
                found=f"{entry.rows} rows released at {record.at:%Y-%m-%dT%H:%M:%SZ}",
            )


def require_instance(
    records: tuple[Record, ...], task: str, dataset: str, instance: bytes
) -> Reserved | None:
    """The reservation of this release, None where there is none yet.

    Raises:
        TaskBoundToInstance: It is for another instance than this one.
    """
    for record in records:
        entry = record.entry
        if isinstance(entry, Reserved) and (entry.task, entry.dataset) == (task, dataset):
            if entry.instance != instance.hex():
                raise TaskBoundToInstance(
                    f"task {task}, dataset {dataset}",
                    expected=f"enclave instance {entry.instance}",
                    found=instance.hex(),
                )
            return entry
    return None


def require_uses_left(
    records: tuple[Record, ...], task: str, *, study: str, computation: str, uses: int
) -> None:
    """A computation's `uses` are tasks for which rows may have left, whatever came of them.

    Counted over all versions of the policy: a new version alone brings no new uses.

    Raises: UsesExhausted.
    """
    others = {
        r.entry.task
        for r in records
        if isinstance(r.entry, Reserved)
        and (r.entry.study, r.entry.computation) == (study, computation)
    } - {task}
    if len(others) >= uses:
        raise UsesExhausted(
            f"computation {computation}",
            expected=f"fewer than {uses} tasks",
            found=str(len(others)),
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a retry needs to get the very same acknowledgement. Durable before it is sent."""

    commit: bytes  #    the signed envelope
    salt: bytes  #      32, of the digest in the commit; the provider alone can open that digest
    evidence: bytes  #  the challenge evidence that was appraised for the commit's nonce

    def encode(self) -> bytes:
        return json.dumps({k: b64encode(v).decode() for k, v in asdict(self).items()}).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: ReleaseStateDamaged."""
        try:
            fields = json.loads(raw)
            attempt = cls(**{k: b64decode(v, validate=True) for k, v in fields.items()})
            if attempt.encode() == raw and len(attempt.salt) == 32:
                return attempt
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # falls through to the one refusal for every other content
        raise ReleaseStateDamaged(
            "kept attempt", expected="commit, salt, evidence", found="other bytes"
        )


def release_path(state: Path, task: bytes, dataset: str) -> Path:
    """Where the files of one release stand."""
    return state / "releases" / task.hex() / dataset


class ReleaseFolder:
    """The files of one release: `attempt.json` (0600, holds the salt), acknowledgement, record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.acknowledgement = path / "acknowledgement.json"
        self.record = path / "record.json"

    @classmethod
    @contextmanager
    def open(cls, state: Path, task: bytes, dataset: str) -> Iterator[Self]:
        """Hold this release exclusively: two processes would race for one commit.

        Raises: ReleaseUnderWay, FileNotWritten, LocksMissing.
        """
        path = release_path(state, task, dataset)
        with ExitStack() as held:
            held.enter_context(own_folder(state, *path.relative_to(state).parts))
            try:
                held.enter_context(locked(path / "lock", wait=0))
            except LockHeld as error:
                raise ReleaseUnderWay(
                    f"dataset {dataset}", expected="one release at a time", found="another process"
                ) from error
            yield cls(path)

    def attempt(self) -> Attempt | None:
        """The commit that was about to be sent, or was sent, the last time.

        Raises: ReleaseStateDamaged, FileUnreadable.
        """
        path = self._path / "attempt.json"
        return Attempt.parse(read_file(path)) if path.exists() else None

    def keep_attempt(self, attempt: Attempt) -> None:
        """Raises: FileNotWritten."""
        write_atomically(self._path / "attempt.json", attempt.encode(), mode=0o600)

    def keep_proof(self, acknowledgement: bytes, record: bytes) -> None:
        """Raises: FileNotWritten."""
        write_atomically(self.acknowledgement, acknowledgement, mode=0o600)
        write_atomically(self.record, record, mode=0o600)
