"""What comes from the wire becomes a value or a typed refusal, whatever it is."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from scheduler import task_service_pb2 as pb
from scheduler.messages import (
    RequestMalformed,
    SchedulerAnswerMalformed,
    is_code,
    read_report,
    read_status,
    read_task,
    require_digest,
    require_known_fields,
    write_status,
    write_task,
)
from scheduler.queued_task import Cursor, DatasetStatus, QueuedTask, State
from tests.support.error_page import leaves
from tests.support.refusal import count_refusal, refused

ROOT = Path(__file__).parent.parent.parent
STATUSES = st.builds(
    DatasetStatus,
    st.text(min_size=1, max_size=20),
    st.text(min_size=1, max_size=20),
    st.sampled_from([State.WAITING, State.RELEASED]),
) | st.builds(
    DatasetStatus, st.text(max_size=9), st.text(max_size=9), st.just(State.REFUSED), st.just("a-b")
)


@given(
    st.builds(
        QueuedTask,
        st.binary(min_size=32, max_size=32),
        st.binary(max_size=200),
        st.lists(STATUSES, max_size=4).map(tuple),
        st.binary(max_size=24),
    )
)
def test_a_task_survives_the_wire(task: QueuedTask) -> None:
    raw = write_task(task).SerializeToString()
    assert read_task(pb.QueuedTask.FromString(raw)) == task


@given(st.binary(max_size=300))
def test_garbage(raw: bytes) -> None:
    count_refusal()
    # What is no message at all is answered by gRPC, with a fixed text.
    with suppress(DecodeError, SchedulerAnswerMalformed):
        read_task(pb.QueuedTask.FromString(raw))
    with suppress(DecodeError, SchedulerAnswerMalformed):
        read_status(pb.DatasetStatus.FromString(raw))
    with suppress(DecodeError, RequestMalformed):
        request = pb.ReportRequest.FromString(raw)
        require_known_fields(request)
        read_report(request)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back_as_it_was(store: bytes, change: int) -> None:
    assert Cursor.decode(Cursor(store, change).encode()) == Cursor(store, change)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_cursor(raw: bytes) -> None:
    found = Cursor.decode(raw)
    assert found.encode() == raw or found == Cursor()


def test_every_code_of_ours_may_be_reported() -> None:
    assert [leaf.code for leaf in leaves() if not is_code(leaf.code)] == []


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a--b", "A", "a b", "a\n", "ä", "a" * 65, "refused: a", "\x1b[31m"]
)
def test_what_is_no_code(text: str) -> None:
    count_refusal()
    assert not is_code(text)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_digests_of_another_size(size: int) -> None:
    with refused(RequestMalformed):
        require_digest(bytes(size))
    assert require_digest(bytes(32)) == bytes(32)


@pytest.mark.parametrize("state", list(State))
def test_states_on_the_wire(state: State) -> None:
    status = DatasetStatus("d", "o", state, "a-b" if state is State.REFUSED else "")
    assert read_status(write_status(status)) == status


@pytest.mark.parametrize(
    "request_",
    [pb.SubmitRequest, pb.ListRequest, pb.WatchRequest, pb.ReportRequest],
    ids=lambda kind: kind.__name__,
)
def test_unknown_fields(request_: type[Message]) -> None:
    with refused(RequestMalformed):
        require_known_fields(request_.FromString(b"\xf8\x07\x01"))
    require_known_fields(request_())


def test_the_generated_code_is_that_of_the_contract(tmp_path: Path) -> None:
    """A reviewer reads the .proto; what runs must be made from it."""
    source = "scheduler/task_service.proto"
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}",
            f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", source,
        ],
        cwd=ROOT,
        check=True,
    )  # fmt: skip
    for made in (tmp_path / "scheduler").iterdir():
        assert made.read_bytes() == (ROOT / "scheduler" / made.name).read_bytes(), made.name
