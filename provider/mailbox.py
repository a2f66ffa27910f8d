"""The scheduler as a mailbox. Its messages only wake the agent; nothing in them is trusted.

    with mailbox(address, certificate, party) as client:
        for queued in follow(client, pause=pause, lost=say): ...

`follow` continues after restarts of the scheduler, from where it was. `Inbox` runs it in a thread
of its own, for a caller with other work to do.
"""

from __future__ import annotations

import queue
import random as randomness
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any, Self

from policy.party import LocalParty
from policy.task import TaskExpired, TaskLabel
from provider.errors import EnclaveRestarted, ProviderRefusedError, TaskBoundToInstance
from ratls.address import Address
from ratls.call_thread import WAKE_SECONDS
from ratls.errors import DeadlineExceeded
from ratls.pin import ChannelIdentity
from scheduler.client import WATCH_SECONDS, SchedulerBusy, SchedulerClient, SchedulerUnreachable
from scheduler.messages import SchedulerAnswerMalformed
from scheduler.queued_task import QueuedTask, State
from verifier.backoff import Backoff
from verifier.errors import RatlsError
from verifier.files import read_file
from verifier.text import digest_text, instant_text

# These may change with the next try; every other answer is final.
PASSING = (SchedulerUnreachable, SchedulerBusy, DeadlineExceeded)
# Offers that wait for the agent; beyond these the scheduler waits.
_WAITING_OFFERS = 256


def mailbox(address: Address, certificate: Path, party: LocalParty) -> SchedulerClient:
    """A client that accepts only this certificate, and presents this party's own.

    Raises: FileUnreadable, SchedulerCertificateUnusable, EnvironmentUnsafe, and what reading the
        party's keys raises.
    """
    return SchedulerClient(address, read_file(certificate), ChannelIdentity.of(party))


def follow(
    client: SchedulerClient,
    *,
    pause: Callable[[float], bool],
    lost: Callable[[RatlsError, float], None],
    back: Callable[[], None] = lambda: None,
    random: Callable[[], float] = randomness.random,
    backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    lasting: Callable[[], float] = lambda: WATCH_SECONDS,
) -> Iterator[QueuedTask]:
    """Every queued task, then each as it comes or changes, across restarts of the scheduler.

    Args:
        pause: Waits so many seconds; True ends the iteration.
        lost: Called with the refusal and the seconds until the next try.
        back: Called once the scheduler accepts a watch again, after it was lost.
        lasting: Seconds that the next watch may last; from zero down ends the iteration.

    Raises:
        SchedulerRefused: Another try would end the same way.
    """
    cursor, failures = b"", 0
    while (seconds := lasting()) > 0:
        try:
            watch = client.watch(cursor, seconds=seconds)
            if failures and watch.let_in():
                failures = 0
                back()
            for queued in watch:
                cursor, failures = queued.cursor, 0
                yield queued
            # A scheduler that ends each watch at once is asked once a second, and no faster.
            again = backoff.seconds(0, random)
        except (*PASSING, SchedulerAnswerMalformed) as refusal:
            # The scheduler is not trusted, so a malformed answer does not end the agent.
            again = backoff.seconds(failures, random)
            failures += 1
            lost(refusal, again)
        if pause(again):
            return


class Inbox:
    """Runs `follow` in a thread of its own and queues what it yields.

    with Inbox(client, lost) as inbox:
        inbox.next(10.0)   # a task, or None when nothing came within 10 seconds
    """

    def __init__(
        self, client: SchedulerClient, lost: Callable[[RatlsError, float], None], **options: Any
    ) -> None:
        """
        Args:
            client: Closed with the inbox, which ends the watch that runs.
            lost: As in `follow`; called from the thread, as is `back`. It must not raise, or
                the watch would end.
            options: Of `follow`.
        """
        self._client, self._lost, self._options = client, lost, options
        self._came: queue.Queue[QueuedTask | BaseException] = queue.Queue(_WAITING_OFFERS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mailbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.close()
        self._thread.join(timeout=10)

    def next(self, seconds: float | None) -> QueuedTask | None:
        """The next offer; None if there is none within so many seconds (None: wait for one).

        Raises:
            RatlsError: The scheduler refused finally; or any exception that ended the thread.
        """
        left = inf if seconds is None else seconds
        while True:
            # In short waits: a signal that arrives at another thread is handled as this one wakes.
            step = min(left, WAKE_SECONDS)
            try:
                came = self._came.get(block=step > 0, timeout=step or None)
            except queue.Empty:
                left -= step
                if left <= 0:
                    return None
                continue
            if isinstance(came, BaseException):
                raise came
            return came

    def _follow(self) -> None:
        try:
            for queued in follow(
                self._client, pause=self._stop.wait, lost=self._say_lost, **self._options
            ):
                self._put(queued)
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - `next` raises it: a dead thread is silent
            self._put(error)

    def _say_lost(self, refusal: RatlsError, seconds: float) -> None:
        if not self._stop.is_set():
            self._lost(refusal, seconds)

    def _put(self, item: QueuedTask | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._came.put(item, timeout=0.2)
            except queue.Full:
                continue
            return


@dataclass(frozen=True, slots=True)
class Notice:
    """A queued task for display: what its envelope and what the scheduler say. Not verified.

    `task` is None where the envelope does not contain a task.
    """

    queued: QueuedTask
    task: TaskLabel | None

    @classmethod
    def of(cls, queued: QueuedTask) -> Self:
        """Never raises, so that one bad entry does not hide the others."""
        try:
            return cls(queued, TaskLabel.read(queued.envelope))
        except RatlsError:
            return cls(queued, None)

    @property
    def digest(self) -> bytes:
        """Computed here, or the scheduler's where there is no task."""
        return self.queued.digest if self.task is None else self.task.digest

    @property
    def _on_different_starts(self) -> list[str]:
        """Datasets released to different starts of the enclave; empty for at most one start."""
        statuses = self.queued.datasets
        datasets = [d.dataset for d in statuses if d.code == TaskBoundToInstance.code]
        released = (d for d in statuses if d.state is State.RELEASED and d.instance)
        starts = {d.instance: d.dataset for d in released}
        if len(starts) > 1:
            datasets += [f"{name} to {instance.hex()}" for instance, name in starts.items()]
        return [ascii(text)[1:-1] for text in datasets]  # the names are the scheduler's

    def require_one_start(self) -> None:
        """Raises: EnclaveRestarted: inputs at different starts are never computed together."""
        if datasets := self._on_different_starts:
            raise EnclaveRestarted(
                f"task {digest_text(self.digest)}",
                expected="every release to one start of the enclave",
                found=f"the enclave restarted after a release began: {', '.join(datasets)}",
            )

    def as_json(self) -> dict[str, Any]:
        task = self.task
        return {
            "task_digest": digest_text(self.digest),
            "study": task and task.study,
            "computation": task and task.computation,
            "submitter": task and task.submitter,
            "expires": task and instant_text(task.expires),
            "datasets": [
                {
                    "dataset": d.dataset,
                    "owner": d.owner,
                    "state": d.state.value,
                    "code": d.code or None,
                    "instance": d.instance.hex() or None,
                }
                for d in self.queued.datasets
            ],
        }

    def cells(self) -> tuple[str, str, str, str]:
        """Digest, computation, expiry and states, as texts; peers chose parts of them."""
        task = self.task
        what = "unreadable" if task is None else f"{task.computation} of {task.study}"
        states = ", ".join(
            f"{d.dataset} {d.state.value}{f' ({d.code})' if d.code else ''}"
            for d in self.queued.datasets
        )
        if self._on_different_starts:
            states += "; the enclave restarted: sign a new task"
        return (
            digest_text(self.digest),
            what if task is None else f"{what}, asked by {task.submitter}",
            "" if task is None else instant_text(task.expires),
            states,
        )


def seconds_left(task: TaskLabel | None, at: datetime) -> float:
    """How long the next watch for this task may last; without a task, as long as any watch.

    Raises:
        TaskExpired: No provider releases for it any more.
    """
    if task is None:
        return WATCH_SECONDS
    left = (task.expires - at).total_seconds()
    if left <= 0:
        raise TaskExpired(
            "task", expected=f"before {instant_text(task.expires)}", found=instant_text(at)
        )
    return min(left, WATCH_SECONDS)


class ReleaseRefusedElsewhere(ProviderRefusedError):
    """According to the scheduler, a provider refused. Only that provider knows for sure."""

    code = "release-refused-elsewhere"
    default_fix = "look up the code in docs/errors.md, and ask that provider"
    says = "{thing} was refused by its provider: {found}"


def outcome(notice: Notice) -> bool:
    """Has every provider released, according to the scheduler?

    Raises:
        EnclaveRestarted: Not to the same start of the enclave.
        ReleaseRefusedElsewhere: One has refused.
    """
    notice.require_one_start()
    for status in notice.queued.datasets:
        if status.state is State.REFUSED:
            raise ReleaseRefusedElsewhere(
                f"dataset {ascii(status.dataset)[1:-1]}", expected="released", found=status.code
            )
    datasets = notice.queued.datasets
    return bool(datasets) and all(status.state is State.RELEASED for status in datasets)
