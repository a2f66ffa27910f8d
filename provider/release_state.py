"""Each task once: what the journal has about a release, and the files that it keeps.

A release is bound to one instance of the enclave before its first row. An enclave cannot detect its
clones: without the binding, a host could start two and give each other inputs.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from policy.journal_chain import JournalCut, JournalRecord
from policy.journal_entries import (
    CommittedEntry,
    ReleasedEntry,
    ReservedEntry,
    ReturnedEntry,
    UpdatedEntry,
)
from policy.statement import instant_text
from policy.values import Instance
from provider.errors import TaskBoundToInstance, TicketReplayError
from ratls.sealing import MAX_STREAMS, RELEASE_ID_SIZE, SALT_SIZE
from verifier.errors import ConfigError
from verifier.files import LockHeld, locked, own_folder, parse_file, write_atomically

_RELEASES, _ATTEMPT, _STARTED = "releases", "attempt.json", "started.json"


class TaskAlreadyReleased(TicketReplayError):
    """The rows were already released for this task and acknowledged."""

    code = "task-already-released"
    says = "{thing}: {found}"


def require_unreleased(records: tuple[JournalRecord, ...], task: str, dataset: str) -> None:
    """Raises: TaskAlreadyReleased. `task` is its digest as text."""
    for record in records:
        entry = record.entry
        if isinstance(entry, ReleasedEntry) and (entry.task, entry.dataset) == (task, dataset):
            raise TaskAlreadyReleased(
                f"task {task}, dataset {dataset}",
                expected="a task not released yet",
                found=f"{entry.rows} rows released at {instant_text(record.at)}",
            )


def require_instance(
    records: tuple[JournalRecord, ...], task: str, dataset: str, instance: Instance
) -> ReservedEntry | None:
    """The reservation of this release, None where there is none yet.

    Raises:
        TaskBoundToInstance: It is for another instance than this one.
    """
    held = reservations(records).get((task, dataset))
    if held is None or not held.counts:
        return None
    if held.entry.instance != instance.hex():
        raise TaskBoundToInstance(
            f"task {task}, dataset {dataset}",
            expected=f"enclave instance {held.entry.instance}",
            found=instance.hex(),
        )
    return held.entry


@dataclass(slots=True)
class Reservation:
    """The last reservation of a release, and what followed it."""

    entry: ReservedEntry
    returned: bool = False
    committed: bool = False

    @property
    def counts(self) -> bool:
        """May an enclave have rows that it can compute with? A commit cannot be taken back."""
        return self.committed or not self.returned


def reservations(records: Iterable[JournalRecord]) -> dict[tuple[str, str], Reservation]:
    """By task and dataset."""
    found: dict[tuple[str, str], Reservation] = {}
    for record in records:
        entry = record.entry
        if isinstance(entry, ReservedEntry):
            before = found.get((entry.task, entry.dataset))
            committed = before is not None and before.committed
            found[entry.task, entry.dataset] = Reservation(entry, committed=committed)
        elif isinstance(entry, ReturnedEntry | CommittedEntry | UpdatedEntry):
            held = found.get((entry.task, entry.dataset))
            if held is not None:
                held.returned |= isinstance(entry, ReturnedEntry)
                held.committed |= isinstance(entry, CommittedEntry | UpdatedEntry)
    return found


def ended(records: Iterable[JournalRecord], at: datetime) -> list[ReservedEntry]:
    """Reservations whose task has ended before any commit was signed.

    Without a commit no enclave computes, and no commit is signed for an expired task. So nothing
    can be learnt from rows that may have been sent. Nothing can prove that an instance is gone:
    another one that answers may be its clone.
    """
    return [
        held.entry
        for held in reservations(records).values()
        if held.entry.expires is not None
        and not held.committed
        and not held.returned
        and held.entry.expires <= instant_text(at)
    ]


class ReleaseStateDamaged(ConfigError):
    """The kept commit of an earlier attempt is missing or cannot be read."""

    code = "release-state-damaged"
    default_fix = (
        "restore the state folder from a backup made after that attempt, or ask the submitter to "
        "sign a new task with `ratls task sign`"
    )


def require_attempt(
    records: Iterable[JournalRecord], task: str, dataset: str, attempt: Attempt | None
) -> None:
    """A commit that the journal names must be in the folder, or a second one would be made.

    Raises: ReleaseStateDamaged.
    """
    held = reservations(records).get((task, dataset))
    if held is not None and held.committed and attempt is None:
        raise ReleaseStateDamaged(
            f"task {task}, dataset {dataset}", expected="the commit that was kept", found="none"
        )


def require_reservations(records: Iterable[JournalRecord], state: Path) -> None:
    """The journal has the reservation of every kept commit and update, of all tasks.

    D14: otherwise an older journal was put back with its head. Uses would be counted from the
    start, and a task could go to a second instance, as without a journal.

    Raises: JournalCut.
    """
    known = {(task.removeprefix("sha256:"), dataset) for task, dataset in reservations(records)}
    # What was signed for a round is kept by `provider.round_folder`.
    signed = state.glob("rounds/*/*/signed.json")
    for kept in (*state.glob(f"{_RELEASES}/*/*/{_ATTEMPT}"), *signed):
        task, dataset = kept.parts[-3:-1]
        if (task, dataset) not in known:
            raise JournalCut(
                "journal",
                expected=f"the reservation of task sha256:{task}, dataset {dataset}",
                found="none",
            )


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a retry needs to get the same acknowledgement; on disk before the commit is sent."""

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
            "the file", expected="a commit, its salt and evidence", found="other content"
        )


@dataclass(frozen=True, slots=True)
class Started:
    """A release that has begun, and has no commit yet: what going on with it needs.

    On disk before its first row is sent. The salt stays secret: with it, rows could be guessed
    from their digests.
    """

    release: bytes  # 16, its name
    salt: bytes  #    32, of the digests of its rows
    streams: int  #   connections

    def encode(self) -> bytes:
        fields = {"release": self.release.hex(), "salt": self.salt.hex(), "streams": self.streams}
        return json.dumps(fields).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: ReleaseStateDamaged."""
        try:
            fields = json.loads(raw)
            names = (bytes.fromhex(fields["release"]), bytes.fromhex(fields["salt"]))
            started = cls(*names, fields["streams"])
            sizes = len(started.release), len(started.salt)
            if sizes == (RELEASE_ID_SIZE, SALT_SIZE) and 0 < started.streams <= MAX_STREAMS:
                return started
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # falls through to the one refusal for every other content
        raise ReleaseStateDamaged(
            "the file", expected="the name of a release, its salt and streams", found="others"
        )


def release_path(state: Path, task: bytes, dataset: str) -> Path:
    """The folder of one release."""
    return state / _RELEASES / task.hex() / dataset


class ReleaseUnderWay(ConfigError):
    """Another process is releasing this dataset for this task."""

    code = "release-under-way"
    default_fix = "wait for the other process to end"
    says = "another process is releasing {thing}"


class ReleaseFolder:
    """The files of one release: `started.json` and `attempt.json` (0600: they hold the salt),
    acknowledgement, record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.acknowledgement = path / "acknowledgement.json"
        self.record = path / "record.json"

    @classmethod
    @contextmanager
    def open(cls, state: Path, task: bytes, dataset: str) -> Iterator[Self]:
        """Lock this release: two processes could make two commits.

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
        """The commit of the last attempt, sent or not.

        Raises: ReleaseStateDamaged, FileUnreadable.
        """
        path = self._path / _ATTEMPT
        return parse_file(path, Attempt.parse) if path.exists() else None

    def started(self, streams: int, random: Callable[[int], bytes]) -> Started:
        """The release to go on with, or a new one, which is stored.

        Raises: ReleaseStateDamaged, FileUnreadable, FileNotWritten.
        """
        path = self._path / _STARTED
        if path.exists():
            return parse_file(path, Started.parse)
        started = Started(random(RELEASE_ID_SIZE), random(SALT_SIZE), streams)
        write_atomically(path, started.encode(), mode=0o600)
        return started

    def forget_started(self) -> None:
        """The next release begins anew."""
        (self._path / _STARTED).unlink(missing_ok=True)

    def keep_attempt(self, attempt: Attempt) -> None:
        """Raises: FileNotWritten."""
        write_atomically(self._path / _ATTEMPT, attempt.encode(), mode=0o600)

    def keep_proof(self, acknowledgement: bytes, record: bytes) -> None:
        """Raises: FileNotWritten."""
        write_atomically(self.acknowledgement, acknowledgement, mode=0o600)
        write_atomically(self.record, record, mode=0o600)
