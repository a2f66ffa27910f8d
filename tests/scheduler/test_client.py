"""A scheduler that lies, stalls or is not there: the client gets a value or a typed refusal."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ratls.address import Address
from ratls.environment import EnvironmentUnsafe
from ratls.errors import DeadlineExceeded
from scheduler import task_service_pb2 as pb
from scheduler.certificate import OwnCertificate, SchedulerCertificateUnusable, own_certificate
from scheduler.client import SchedulerBusy, SchedulerClient, SchedulerRefused, SchedulerUnreachable
from scheduler.messages import SchedulerAnswerMalformed, TaskOversized
from scheduler.queued_task import State
from scheduler.task_service_pb2_grpc import TaskServiceServicer, add_TaskServiceServicer_to_server
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.scheduler import NOW, channel
from tests.support.waiting import HANG_LIMIT, given_time


class Liar(TaskServiceServicer):
    """Answers what it is told to; each answer may be an exception-raising function."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def _answer(self, call: str, context: grpc.ServicerContext) -> Any:
        answer = self._answers[call]
        return answer(context) if callable(answer) else answer

    def Submit(self, request: pb.SubmitRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._answer("submit", context)

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._answer("list", context)

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        yield from self._answer("watch", context)

    def Report(self, request: pb.ReportRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._answer("report", context)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnCertificate:
    return own_certificate(tmp_path_factory.mktemp("scheduler"), NOW)


@contextmanager
def lying(
    own: OwnCertificate, world: Consortium, *, timeout: float = HANG_LIMIT, **answers: Any
) -> Iterator[SchedulerClient]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_TaskServiceServicer_to_server(Liar(**answers), server)
    credentials = grpc.ssl_server_credentials([(own.key_pem, own.cert_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    address = Address("127.0.0.1", port)
    try:
        with SchedulerClient(address, own.cert_pem, channel(world.carol), timeout=timeout) as made:
            yield made
    finally:
        server.stop(None)


def aborting(status: grpc.StatusCode, text: str) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(status, text)


def task(**change: Any) -> pb.QueuedTask:
    fields: dict[str, Any] = {"task_digest": bytes(32), "envelope": b"{}", "cursor": b"c" * 24}
    fields["datasets"] = [pb.DatasetStatus(dataset="d", owner="o", state=pb.DatasetState.WAITING)]
    return pb.QueuedTask(**fields | change)


def test_an_honest_answer_is_taken(own: OwnCertificate, world: Consortium) -> None:
    status = pb.DatasetStatus(dataset="d", owner="o", state=pb.DatasetState.REFUSED, code="a-b")
    with lying(
        own,
        world,
        submit=pb.SubmitAnswer(task_digest=bytes(32)),
        list=pb.ListAnswer(tasks=[task()]),
        watch=[task(), task()],
        report=pb.ReportAnswer(status=status),
    ) as client:
        assert client.submit(b"{}") == bytes(32)
        assert len(client.list()) == 1
        assert len(list(client.watch())) == 2
        assert client.report(bytes(32), "d", State.REFUSED, "a-b").code == "a-b"


BAD_STATUS = [
    pb.DatasetStatus(dataset="d", owner="o"),
    pb.DatasetStatus(dataset="d", state=pb.DatasetState.WAITING, code="why"),
    pb.DatasetStatus(dataset="d", state=pb.DatasetState.REFUSED),
    pb.DatasetStatus(dataset="d", state=pb.DatasetState.REFUSED, code="\x1b[31mreleased"),
    pb.DatasetStatus(dataset="d", state=pb.DatasetState.REFUSED, code="a" * 65),
    pb.DatasetStatus(dataset="d" * 300, state=pb.DatasetState.WAITING),
]
BAD_TASK = [
    task(task_digest=b""),
    task(task_digest=bytes(33)),
    task(envelope=bytes(65537)),
    task(cursor=bytes(300)),
    task(datasets=[pb.DatasetStatus(state=pb.DatasetState.WAITING)] * 300),
    *[task(datasets=[status]) for status in BAD_STATUS],
]


@pytest.mark.parametrize("bad", BAD_TASK)
def test_malformed_tasks(own: OwnCertificate, world: Consortium, bad: pb.QueuedTask) -> None:
    """What is shown to people, and kept by agents, has its size and form."""
    with lying(own, world, list=pb.ListAnswer(tasks=[bad]), watch=[task(), bad]) as client:
        with refused(SchedulerAnswerMalformed):
            client.list()
        seen = iter(client.watch())
        next(seen)
        with refused(SchedulerAnswerMalformed):
            next(seen)


@pytest.mark.parametrize("bad", BAD_STATUS)
def test_malformed_states(own: OwnCertificate, world: Consortium, bad: pb.DatasetStatus) -> None:
    with (
        lying(own, world, report=pb.ReportAnswer(status=bad)) as client,
        refused(SchedulerAnswerMalformed),
    ):
        client.report(bytes(32), "d", State.RELEASED)


@pytest.mark.parametrize("digest", [b"", b"short", bytes(33)])
def test_a_digest_of_another_size(own: OwnCertificate, world: Consortium, digest: bytes) -> None:
    with (
        lying(own, world, submit=pb.SubmitAnswer(task_digest=digest)) as client,
        refused(SchedulerAnswerMalformed),
    ):
        client.submit(b"{}")


@pytest.mark.parametrize("tasks", [[], [task(cursor=b"")], [task()]])
def test_an_endless_list(
    own: OwnCertificate, world: Consortium, tasks: list[pb.QueuedTask]
) -> None:
    """It would keep an agent from every other task, for as long as the scheduler likes."""
    with (
        lying(own, world, list=pb.ListAnswer(tasks=tasks, more=True)) as client,
        refused(SchedulerAnswerMalformed),
    ):
        client.list()


def test_a_list_whose_pages_never_end(own: OwnCertificate, world: Consortium) -> None:
    """Each page goes on, with the same tasks: only the time of the whole list ends that."""
    pages = iter(range(10**9))

    def page(_: grpc.ServicerContext) -> pb.ListAnswer:
        return pb.ListAnswer(tasks=[task(cursor=next(pages).to_bytes(24, "big"))], more=True)

    with lying(own, world, timeout=0.5, list=page) as client, refused(DeadlineExceeded):
        client.list()


def test_an_answer_larger_than_any_may_be(own: OwnCertificate, world: Consortium) -> None:
    answer = pb.ListAnswer(tasks=[task(envelope=bytes(60_000))] * 80)
    with lying(own, world, list=answer) as client, refused(SchedulerBusy):
        client.list()


@pytest.mark.parametrize(
    ("status", "text", "leaf"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "refused: a-b (0123456789abcdef)", SchedulerRefused),
        (grpc.StatusCode.INTERNAL, "refused: a-b (0123456789abcdef)", SchedulerRefused),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused: a-b (0123456789abcdef)", SchedulerBusy),
        (grpc.StatusCode.UNAVAILABLE, "refused: a-b (0123456789abcdef)", SchedulerBusy),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", SchedulerBusy),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", SchedulerUnreachable),
        (grpc.StatusCode.PERMISSION_DENIED, "refused: A_B (1)", SchedulerUnreachable),
        (grpc.StatusCode.UNKNOWN, "\x1b[2J all is well", SchedulerUnreachable),
    ],
)
def test_refusals_are_told_apart(
    own: OwnCertificate, world: Consortium, status: grpc.StatusCode, text: str, leaf: Any
) -> None:
    """What may be tried again, and what may not; the peer's own words are never shown."""
    said = aborting(status, text)
    with lying(own, world, submit=said, list=said, report=said, watch=said) as client:
        for call in (
            lambda: client.submit(b"{}"),
            client.list,
            lambda: client.report(bytes(32), "d", State.RELEASED),
            lambda: list(client.watch()),
        ):
            with refused(leaf) as refusal:
                call()
            assert "all is well" not in str(refusal.error)
            assert "\x1b" not in str(refusal.error)


def silent(context: grpc.ServicerContext) -> None:
    """Not a word more, until the call is over."""
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait()


def quiet(context: grpc.ServicerContext) -> Iterator[pb.QueuedTask]:
    yield task()
    silent(context)


def test_silence_has_an_end(own: OwnCertificate, world: Consortium) -> None:
    with lying(own, world, timeout=0.3, list=silent) as client, refused(DeadlineExceeded):
        client.list()


def test_a_watch_ends_with_its_time(own: OwnCertificate, world: Consortium) -> None:
    """Not a failure: whoever watches goes on from the cursor."""
    with lying(own, world, watch=quiet) as client:

        def watched(seconds: float) -> int:
            (_,) = client.watch(seconds=seconds)
            return 1

        assert given_time(watched, 0.3, ValueError)


def test_a_watch_is_cancelled_from_another_thread(own: OwnCertificate, world: Consortium) -> None:
    with lying(own, world, watch=quiet) as client:
        watch = client.watch(seconds=HANG_LIMIT)
        for _ in watch:
            threading.Thread(target=watch.cancel).start()


def test_nobody_listens(own: OwnCertificate, world: Consortium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
    with (
        SchedulerClient(address, own.cert_pem, channel(world.carol), timeout=HANG_LIMIT) as client,
        refused(SchedulerUnreachable),
    ):
        client.list()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_tls_13_is_spoken(
    own: OwnCertificate, world: Consortium, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The right certificate, over an old protocol: no request is sent."""
    pair = tmp_path / "scheduler.pem"
    pair.write_bytes(own.key_pem + own.cert_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(pair)
    context.set_alpn_protocols(["h2"])
    outcome: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            connection.settimeout(HANG_LIMIT)
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    outcome.append(tls.version())
            except OSError as error:
                outcome.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        with (
            SchedulerClient(
                address, own.cert_pem, channel(world.carol), timeout=HANG_LIMIT
            ) as client,
            refused(SchedulerUnreachable),
        ):
            client.list()
        thread.join()
    if version is ssl.TLSVersion.TLSv1_3:
        assert outcome == ["TLSv1.3"], "the twin: the handshake is completed"
    else:
        assert isinstance(outcome[0], ssl.SSLError)


def test_a_task_that_no_scheduler_takes_is_not_sent(own: OwnCertificate, world: Consortium) -> None:
    with lying(own, world, submit=pb.SubmitAnswer(task_digest=bytes(32))) as client:
        with refused(TaskOversized):
            client.submit(bytes(65537))
        client.submit(bytes(65536))


@pytest.mark.parametrize(
    ("state", "code"),
    [(State.WAITING, ""), (State.RELEASED, "x"), (State.REFUSED, ""), (State.REFUSED, "A B")],
)
def test_a_report_that_says_nothing(
    own: OwnCertificate, world: Consortium, state: State, code: str
) -> None:
    """A bug of the caller's, not of the scheduler's."""
    count_refusal()
    with lying(own, world) as client, pytest.raises(ValueError, match="released"):
        client.report(bytes(32), "d", state, code)


def test_no_pin_no_client(own: OwnCertificate, world: Consortium) -> None:
    """An empty file would mean the system's roots: anybody with a domain could be the scheduler."""
    for pin in (b"", own.cert_pem * 2, world.alice.channel_certificate_pem):
        with refused(SchedulerCertificateUnusable):
            SchedulerClient(Address("127.0.0.1", 1), pin, channel(world.carol))


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE"])
def test_an_environment_that_writes_keys(
    own: OwnCertificate, world: Consortium, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "all")
    with refused(EnvironmentUnsafe):
        SchedulerClient(Address("127.0.0.1", 1), own.cert_pem, channel(world.carol))


@pytest.mark.parametrize("name", ["https_proxy", "grpc_proxy", "http_proxy"])
def test_a_proxy_in_the_environment_is_not_used(
    own: OwnCertificate, world: Consortium, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would choose where the connection goes, and learn when tasks are asked for."""
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with lying(own, world, list=pb.ListAnswer()) as client:
        assert client.list() == ()
