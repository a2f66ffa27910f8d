"""From protobuf messages to values and back; what is received is checked strictly."""

from __future__ import annotations

import re

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from policy.errors import ResourceLimitError, TicketFormatError
from ratls.errors import TransportError
from scheduler import task_service_pb2 as pb
from scheduler.queued_task import DatasetStatus, QueuedTask, State

DIGEST_SIZE = 32
INSTANCE_SIZE = 16
ENVELOPE_CAP = 64 * 1024  #        a task with 64 parameters has a few KiB
REQUEST_CAP = ENVELOPE_CAP + 1024
ANSWER_CAP = 4 << 20
LET_IN = "ratls-let-in"  # metadata of a watch that has begun; a failed call has none
_CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_CODE_CAP = 64
_DATASETS_CAP = 256
_NAME_CAP = 256
WIRE_STATES = {
    State.WAITING: pb.DatasetState.WAITING,
    State.RELEASED: pb.DatasetState.RELEASED,
    State.REFUSED: pb.DatasetState.REFUSED,
}
_READ_STATES = {wire: state for state, wire in WIRE_STATES.items()}


class TaskOversized(ResourceLimitError):
    """A task is larger than the scheduler accepts."""

    code = "task-oversized"
    default_fix = "send rows as datasets: a task contains a few parameters"


def require_task_size(envelope: bytes) -> None:
    """Raises: TaskOversized."""
    if len(envelope) > ENVELOPE_CAP:
        raise TaskOversized(
            "task", expected=f"at most {ENVELOPE_CAP} bytes", found=str(len(envelope))
        )


class RequestMalformed(TicketFormatError):
    """A request holds a field that is unknown, missing, or of another size."""

    code = "request-malformed"
    default_fix = "run the same version on both sides"


def require_known_fields(request: Message) -> None:
    """Refuse unknown fields: one may narrow what is asked for, so it must not be ignored.

    Raises:
        RequestMalformed: There is one.
    """
    if len(UnknownFieldSet(request)):
        raise RequestMalformed("request", expected="known fields", found="another")


def require_digest(digest: bytes) -> bytes:
    """Raises: RequestMalformed."""
    if len(digest) != DIGEST_SIZE:
        raise RequestMalformed("digest", expected="32 bytes", found=f"{len(digest)}")
    return digest


def is_code(text: str) -> bool:
    """Whether it has the form of a code. Peers choose it, and other peers print it."""
    return len(text) <= _CODE_CAP and _CODE.fullmatch(text) is not None


def is_instance(instance: bytes, state: State) -> bool:
    """Whether a report of this state may name this instance of an enclave."""
    return instance == b"" or (state is State.RELEASED and len(instance) == INSTANCE_SIZE)


def read_report(request: pb.ReportRequest) -> tuple[bytes, str, State, str, bytes]:
    """Task digest, dataset, state, code, instance. Raises: RequestMalformed."""
    state = _READ_STATES.get(request.state)
    if state not in (State.RELEASED, State.REFUSED):
        raise RequestMalformed("state", expected="released or refused", found="another")
    if not (is_code(request.code) if state is State.REFUSED else request.code == ""):
        raise RequestMalformed("code", expected="one with a refusal, else none", found="other")
    if not is_instance(request.instance, state):
        raise RequestMalformed("instance", expected="16 bytes with a release", found="other")
    digest = require_digest(request.task_digest)
    return digest, request.dataset, state, request.code, request.instance


def write_status(status: DatasetStatus) -> pb.DatasetStatus:
    """For the wire."""
    return pb.DatasetStatus(
        dataset=status.dataset,
        owner=status.owner,
        state=WIRE_STATES[status.state],
        code=status.code,
        instance=status.instance,
    )


def write_task(task: QueuedTask) -> pb.QueuedTask:
    """For the wire."""
    return pb.QueuedTask(
        task_digest=task.digest,
        envelope=task.envelope,
        datasets=[write_status(status) for status in task.datasets],
        cursor=task.cursor,
    )


def read_status(message: pb.DatasetStatus) -> DatasetStatus:
    """What a scheduler says of a dataset. Raises: SchedulerAnswerMalformed."""
    state = _READ_STATES.get(message.state)
    if state is None or not (is_code(message.code) if state is State.REFUSED else not message.code):
        raise malformed("the state of a dataset", "another")
    if not is_instance(message.instance, state):
        raise malformed("16 bytes that name an enclave's start", "others")
    if len(message.dataset) > _NAME_CAP or len(message.owner) > _NAME_CAP:
        raise malformed("names of at most 256 characters", "longer ones")
    return DatasetStatus(message.dataset, message.owner, state, message.code, message.instance)


def read_task(message: pb.QueuedTask) -> QueuedTask:
    """What a scheduler offers. Raises: SchedulerAnswerMalformed."""
    if len(message.task_digest) != DIGEST_SIZE or len(message.envelope) > ENVELOPE_CAP:
        raise malformed("a digest of 32 bytes and a task of at most 64 KiB", "others")
    if len(message.datasets) > _DATASETS_CAP or len(message.cursor) > _NAME_CAP:
        raise malformed("at most 256 datasets and a short cursor", "more")
    datasets = tuple(read_status(status) for status in message.datasets)
    return QueuedTask(message.task_digest, message.envelope, datasets, message.cursor)


class SchedulerAnswerMalformed(TransportError):
    """The scheduler's answer does not have the agreed form."""

    code = "scheduler-answer-malformed"
    default_fix = "run the same version on both sides, and check the scheduler's address"


def malformed(expected: str, found: str) -> SchedulerAnswerMalformed:
    return SchedulerAnswerMalformed("the scheduler's answer", expected=expected, found=found)
