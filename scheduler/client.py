"""Client of one scheduler: pinned to its certificate, with a deadline for every call.

    with SchedulerClient(address, pinned_certificate_pem, channel) as scheduler:
        digest = scheduler.submit(envelope)
        for task in scheduler.list(): ...
        for task in scheduler.watch(cursor): cursor = task.cursor
        scheduler.report(digest, "train_party_1", State.RELEASED)

Answers are not trusted. The client never retries by itself: after `SchedulerUnreachable`,
`SchedulerBusy` or `DeadlineExceeded` its caller may, since the caller knows how long to wait.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

import grpc

from ratls.address import Address
from ratls.environment import prepare_process
from ratls.errors import DeadlineExceeded, TransportError
from ratls.pin import CLIENT_OPTIONS, ChannelIdentity, close_channel
from scheduler import task_service_pb2 as pb
from scheduler.certificate import SCHEDULER_NAME, check_pin
from scheduler.messages import (
    ANSWER_CAP,
    DIGEST_SIZE,
    LET_IN,
    WIRE_STATES,
    is_code,
    malformed,
    read_status,
    read_task,
    require_task_size,
)
from scheduler.queued_task import DatasetStatus, QueuedTask, State
from scheduler.task_service_pb2_grpc import TaskServiceStub

CALL_SECONDS = 20.0
WATCH_SECONDS = 600.0
LISTED_CAP = 100_000
LISTED_BYTES = 64 << 20  # of all envelopes of a list
_REFUSAL = re.compile(r"refused: ([a-z0-9-]{1,64}) \(([0-9a-f]{16})\)", re.ASCII)
_OPTIONS = [
    *CLIENT_OPTIONS,
    ("grpc.ssl_target_name_override", SCHEDULER_NAME),
    ("grpc.max_receive_message_length", ANSWER_CAP),
]


class SchedulerClient:
    """One channel to one scheduler. It connects with the first call; threads may share it."""

    def __init__(
        self,
        address: Address,
        certificate_pem: bytes,
        channel: ChannelIdentity,
        *,
        timeout: float = CALL_SECONDS,
    ) -> None:
        """
        Args:
            certificate_pem: `scheduler.crt`, the only certificate that is accepted.
            timeout: Seconds for each call but `watch`; for a list, for all its pages.

        Raises:
            SchedulerCertificateUnusable: Not exactly one scheduler's certificate.
            EnvironmentUnsafe: The environment would log keys or traffic.
        """
        prepare_process()
        check_pin(certificate_pem)
        self._timeout = timeout
        self._channel = grpc.secure_channel(
            str(address),
            grpc.ssl_channel_credentials(certificate_pem, channel.key_pem, channel.cert_pem),
            options=_OPTIONS,
        )
        self._stub = TaskServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every call that runs, and the connection."""
        close_channel(self._channel)

    def submit(self, envelope: bytes) -> bytes:
        """Hand in a signed task. Once this returns, the scheduler keeps it until it expires.

        Returns:
            The digest under which it is kept, 32 bytes.

        Raises:
            TaskOversized: No scheduler takes it.
            SchedulerRefused, SchedulerBusy, SchedulerUnreachable, DeadlineExceeded.
        """
        require_task_size(envelope)
        with _errors_translated():
            answer = self._stub.Submit(pb.SubmitRequest(envelope=envelope), timeout=self._timeout)
        if len(answer.task_digest) != DIGEST_SIZE:
            raise malformed("a digest of 32 bytes", f"{len(answer.task_digest)}")
        return answer.task_digest

    def list(
        self, *, policy_digest: bytes = b"", task_digest: bytes = b""
    ) -> tuple[QueuedTask, ...]:
        """Every unexpired task of the policies that list this party, the last changed last.

        Args:
            policy_digest, task_digest: 32 bytes each; empty leaves the condition out.

        Raises:
            SchedulerRefused, SchedulerBusy, SchedulerUnreachable, DeadlineExceeded,
            SchedulerAnswerMalformed.
        """
        found: dict[bytes, QueuedTask] = {}
        more, cursor, end = True, b"", time.monotonic() + self._timeout
        size = 0
        while more:
            request = pb.ListRequest(
                policy_digest=policy_digest, task_digest=task_digest, cursor=cursor
            )
            with _errors_translated():
                answer = self._stub.List(request, timeout=max(0, end - time.monotonic()))
            tasks = [read_task(message) for message in answer.tasks]
            for task in tasks:
                found.pop(task.digest, None)  # it changed while we read: its new place counts
                found[task.digest] = task
                size += len(task.envelope)
            more = answer.more
            endless = len(found) > LISTED_CAP or size > LISTED_BYTES
            if more and (not tasks or tasks[-1].cursor == cursor or endless):
                raise malformed("pages that come to an end", "an endless list")
            cursor = tasks[-1].cursor if tasks else b""
        return tuple(found.values())

    def watch(self, cursor: bytes = b"", *, seconds: float = WATCH_SECONDS) -> Watch:
        """Tasks that changed after the cursor, then each as it comes or changes.

        Args:
            cursor: Of the last task seen; empty for everything that is queued.
            seconds: Afterwards the iteration ends, without an error: watch again from the cursor.
        """
        return Watch(self._stub.Watch(pb.WatchRequest(cursor=cursor), timeout=seconds))

    def report(
        self, task_digest: bytes, dataset: str, state: State, code: str = "", instance: bytes = b""
    ) -> DatasetStatus:
        """Report what became of one's own dataset; the status that the scheduler now shows.

        Args:
            state: RELEASED, or REFUSED with the code of the refusal.
            instance: Of the enclave that it was released to, 16 bytes; empty: not said.

        Raises:
            SchedulerRefused, SchedulerBusy, SchedulerUnreachable, DeadlineExceeded,
            SchedulerAnswerMalformed.
        """
        if state is State.WAITING or is_code(code) != (state is State.REFUSED):
            raise ValueError("released without a code, or refused with one")
        request = pb.ReportRequest(
            task_digest=task_digest,
            dataset=dataset,
            state=WIRE_STATES[state],
            code=code,
            instance=instance,
        )
        with _errors_translated():
            answer = self._stub.Report(request, timeout=self._timeout)
        return read_status(answer.status)


class _Call(Protocol):
    """What a watch needs of gRPC's call."""

    def cancel(self) -> bool: ...

    def initial_metadata(self) -> Any: ...

    def __iter__(self) -> Iterator[pb.QueuedTask]: ...


class SchedulerUnreachable(TransportError):
    """The scheduler could not be reached. May be tried again."""

    code = "scheduler-unreachable"
    default_fix = (
        "check that the scheduler runs at this address, with the certificate that you pin and with "
        "the agreement that lists yours"
    )
    says = "the scheduler does not answer ({found})"


class Watch:
    """The tasks of one watch, as they come. Iterate in one thread; `cancel` from any."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._cancelled = False

    def cancel(self) -> None:
        """End the iteration, also one that waits."""
        self._cancelled = True
        self._call.cancel()

    def let_in(self) -> bool:
        """Wait until the scheduler lets this watch in, or it fails; the iteration says why."""
        return any(key == LET_IN for key, _ in self._call.initial_metadata())

    def __iter__(self) -> Iterator[QueuedTask]:
        """
        Raises:
            SchedulerRefused, SchedulerBusy, SchedulerUnreachable, SchedulerAnswerMalformed.
        """
        try:
            with _errors_translated():
                for message in self._call:
                    yield read_task(message)
        except DeadlineExceeded:
            return  # the time that was asked for is over
        except SchedulerUnreachable:
            if not self._cancelled:
                raise
        finally:
            self._call.cancel()  # a caller that stops iterating must not hold the server's thread


class SchedulerBusy(TransportError):
    """The scheduler cannot take the call now. May be tried again, later."""

    code = "scheduler-busy"
    default_fix = "try again later; docs/errors.md explains the code"
    says = "the scheduler cannot take the call now: {found}"


class SchedulerRefused(TransportError):
    """The scheduler refused, and gave its reason as a code. Trying again changes nothing."""

    code = "scheduler-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"
    says = "the scheduler refused: {peer_code} (id {correlation_id})"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the scheduler's answer",
            expected="the call to be taken",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id


@contextmanager
def _errors_translated() -> Iterator[None]:
    """Translate gRPC's errors. Their text is not shown: the peer writes part of it."""
    try:
        yield
    except grpc.RpcError as error:
        status = error.code() if isinstance(error, grpc.Call) else None
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded(
                "the scheduler's answer", expected="one in time", found="none"
            ) from error
        text = (error.details() if isinstance(error, grpc.Call) else None) or ""
        refusal = _REFUSAL.fullmatch(text)
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED or (
            status is grpc.StatusCode.UNAVAILABLE and refusal
        ):
            found = f"refused: {refusal[1]} (id {refusal[2]})" if refusal else "too many calls"
            raise SchedulerBusy(
                "the scheduler's answer", expected="the call to be taken", found=found
            ) from error
        if refusal:
            raise SchedulerRefused(peer_code=refusal[1], correlation_id=refusal[2]) from error
        raise SchedulerUnreachable(
            "the scheduler", expected="an answer", found=status.name if status else "no status"
        ) from error
