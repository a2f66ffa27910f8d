"""The gRPC shell over real TLS: who gets in, what leaks out, who can hold it up."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ratls.address import Address
from ratls.log import open_log
from ratls.pin import ChannelIdentity
from scheduler import task_service_pb2 as pb
from scheduler.certificate import SCHEDULER_NAME, own_certificate
from scheduler.client import SchedulerBusy, SchedulerClient, SchedulerRefused, SchedulerUnreachable
from scheduler.database import StoreUnavailable, queue_file
from scheduler.limits import Limits
from scheduler.queued_task import QueuedTask, State
from scheduler.server import SchedulerAddressUnusable, start_server
from scheduler.service import Roster, Service
from scheduler.store import Store
from scheduler.task_service_pb2_grpc import TaskServiceStub
from tests.support.parties import Consortium, TaskWorld, local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.scheduler import NOW, LiveScheduler, channel, running_scheduler
from tests.support.waiting import HANG_LIMIT, eventually

Rpc = Callable[..., Any]


@pytest.fixture
def live(tmp_path: Path, world: Consortium) -> Iterator[LiveScheduler]:
    with running_scheduler(tmp_path, [world.complete()]) as running:
        yield running


@contextmanager
def bare_channel(live: LiveScheduler, *credentials: bytes) -> Iterator[TaskServiceStub]:
    """A client without our checks. `credentials`: key and certificate, or nothing."""
    with grpc.secure_channel(
        str(live.address),
        grpc.ssl_channel_credentials(live.certificate.cert_pem, *credentials),
        options=[("grpc.ssl_target_name_override", SCHEDULER_NAME)],
    ) as opened:
        yield TaskServiceStub(opened)


def code(refusal: Any) -> str:
    assert isinstance(refusal.error, SchedulerRefused)
    return refusal.error.peer_code


class Watcher:
    """Collects what a watch shows, in a thread, and waits for what is due."""

    def __init__(self, client: SchedulerClient, cursor: bytes = b"") -> None:
        self.watch = client.watch(cursor, seconds=HANG_LIMIT)
        self.seen: list[QueuedTask] = []
        self.error: Exception | None = None
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for task in self.watch:
                with self._came:
                    self.seen.append(task)
                    self._came.notify_all()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.seen) >= count, HANG_LIMIT), self.error

    def end(self) -> None:
        """After the server has ended it."""
        self._thread.join(HANG_LIMIT)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self.watch.cancel()
        self.end()


def test_a_job_passes_through(live: LiveScheduler, world: Consortium, tasks: TaskWorld) -> None:
    carol, alice = live.client(world.carol), live.client(world.alice)
    watcher = Watcher(alice)
    digest = carol.submit(tasks.signed())
    watcher.wait_for(1)
    assert watcher.seen[0].envelope == tasks.signed()
    alice.report(digest, "train_party_1", State.RELEASED)
    live.client(world.bob).report(digest, "train_party_2", State.REFUSED, "task-expired")
    watcher.wait_for(2)
    (task,) = carol.list()
    assert [(d.owner, d.state.value, d.code) for d in task.datasets] == [
        ("alice-clinic", "released", ""),
        ("bob-hospital", "refused", "task-expired"),
    ]
    assert carol.list(task_digest=digest) == (task,)
    assert carol.list(task_digest=bytes(32)) == ()
    watcher.stop()
    assert watcher.error is None


def _minted_by_alice(world: Consortium) -> tuple[bytes, bytes]:
    """A certificate that Alice's listed key signs for somebody else, in Carol's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = load_pem_private_key(world.alice.channel_key_pem, None)
    assert isinstance(issuer, ec.EllipticCurvePrivateKey)
    listed = x509.load_pem_x509_certificate(world.alice.channel_certificate_pem)
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:ratls:party:carol-lab")])
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ratls party carol-lab")]))
        .issuer_name(listed.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(san, critical=False)
        .sign(issuer, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, made.public_bytes(Encoding.PEM)


def test_strangers_do_not_get_past_the_handshake(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld
) -> None:
    """I01, I03: nobody, the same name with other keys, the scheduler itself, a minted identity."""
    count_refusal()
    impostor = local_party("carol-lab", NOW, copy=1)
    for credentials in (
        (),
        (impostor.channel_key_pem, impostor.channel_certificate_pem),
        (live.certificate.key_pem, live.certificate.cert_pem),
        _minted_by_alice(world),
    ):
        with bare_channel(live, *credentials) as stub:
            with pytest.raises(grpc.RpcError) as refusal:
                stub.Submit(pb.SubmitRequest(envelope=tasks.signed()), timeout=HANG_LIMIT)
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.RpcError) as refusal:
                list(stub.Watch(pb.WatchRequest(), timeout=HANG_LIMIT))
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert live.log == "", "no handler was entered"
    assert live.client(world.carol).list() == ()


def test_an_identity_from_a_header_counts_for_nothing(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld
) -> None:
    """I07: behind some proxies a header carries the name. Here Alice stays Alice."""
    count_refusal()
    alice = (world.alice.channel_key_pem, world.alice.channel_certificate_pem)
    headers = (
        ("x-forwarded-client-cert", "urn:ratls:party:carol-lab"),
        ("authorization", "Bearer carol-lab"),
        ("x509_pem_cert", "carol"),
    )
    with bare_channel(live, *alice) as stub, pytest.raises(grpc.RpcError) as refusal:
        stub.Submit(pb.SubmitRequest(envelope=tasks.signed()), timeout=HANG_LIMIT, metadata=headers)
    assert "submitter-differs" in str(refusal.value.details())
    live.client(world.carol).submit(tasks.signed())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_tls_13_is_served(
    live: LiveScheduler, world: Consortium, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(cadata=live.certificate.cert_pem.decode())
    pair = tmp_path / "carol.pem"
    pair.write_bytes(world.carol.channel_key_pem + world.carol.channel_certificate_pem)
    context.load_cert_chain(pair)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(
        (live.address.host, live.address.port), timeout=HANG_LIMIT
    ) as raw:
        if version is ssl.TLSVersion.TLSv1_2:
            count_refusal()
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(raw, server_hostname=SCHEDULER_NAME)
        else:
            with context.wrap_socket(raw, server_hostname=SCHEDULER_NAME) as tls:
                assert tls.version() == "TLSv1.3"


def test_plain_text_is_not_served(live: LiveScheduler) -> None:
    count_refusal()
    with grpc.insecure_channel(str(live.address)) as opened, pytest.raises(grpc.RpcError):
        TaskServiceStub(opened).List(pb.ListRequest(), timeout=HANG_LIMIT)


def test_a_policy_that_ran_out_closes_the_door_to_its_parties(
    tmp_path: Path, world: Consortium
) -> None:
    """The handshake still admits them: the list of certificates is fixed at the start."""
    later = lambda: NOW + timedelta(days=31)  # noqa: E731
    with running_scheduler(tmp_path, [world.complete()], clock=later) as live:
        with refused(SchedulerRefused) as refusal:
            live.client(world.carol).list()
        assert code(refusal) == "peer-not-served"


def test_refusals_carry_code_and_id_and_nothing_else(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld
) -> None:
    """S28. The operator finds the same id in the log."""
    forged = tasks.signed().replace(b'"sig":"', b'"sig":"AAAA', 1)
    with refused(SchedulerRefused) as refusal:
        live.client(world.carol).submit(forged)
    assert code(refusal) == "task-signature-invalid"
    assert isinstance(refusal.error, SchedulerRefused)
    assert refusal.error.correlation_id in live.log
    cause = refusal.error.__cause__
    assert isinstance(cause, grpc.Call)
    assert cause.details() == f"refused: task-signature-invalid ({refusal.error.correlation_id})"


def test_a_bug_tells_the_peer_nothing(
    live: LiveScheduler, world: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("patient-0042 in /srv/rows")

    monkeypatch.setattr(Service, "page", broken)
    carol = live.client(world.carol)
    with refused(SchedulerRefused) as refusal:
        carol.list()
    assert code(refusal) == "scheduler-failed"
    with refused(SchedulerRefused) as refusal:
        list(carol.watch())
    assert code(refusal) == "scheduler-failed"
    assert "patient" not in live.log
    assert "ZeroDivisionError at" in live.log


def test_a_database_that_fails_may_be_tried_again(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no refusal of the task: the same task is taken once there is room."""
    carol, add = live.client(world.carol), Store.add

    def full(*_: object) -> None:
        raise StoreUnavailable("queue.sqlite", expected="room", found="none")

    monkeypatch.setattr(Store, "add", full)
    with refused(SchedulerBusy):
        carol.submit(tasks.signed())
    monkeypatch.setattr(Store, "add", add)
    assert carol.submit(tasks.signed()) == tasks.task().digest


def report(**change: Any) -> pb.ReportRequest:
    return pb.ReportRequest(**{"task_digest": bytes(32), "dataset": "d", **change})


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("List", pb.ListRequest(policy_digest=b"short")),
        ("List", pb.ListRequest(task_digest=b"x" * 33)),
        ("Report", report()),
        ("Report", report(state=pb.DatasetState.WAITING)),
        ("Report", report(state=pb.DatasetState.REFUSED)),
        ("Report", report(state=pb.DatasetState.REFUSED, code="\x1b[2J")),
        ("Report", report(state=pb.DatasetState.RELEASED, code="x")),
        ("Report", report(state=pb.DatasetState.RELEASED, task_digest=bytes(31))),
        ("List", pb.ListRequest.FromString(b"\xfa\x01\x01x")),
        ("Submit", pb.SubmitRequest.FromString(b"\x12\x01x")),
    ],
)
def test_malformed_requests(
    live: LiveScheduler, world: Consortium, call: str, request_: Any
) -> None:
    """A field that is unknown here may narrow what is asked: it is never answered as if absent."""
    count_refusal()
    carol = (world.carol.channel_key_pem, world.carol.channel_certificate_pem)
    with bare_channel(live, *carol) as stub:
        method: Rpc = getattr(stub, call)
        with pytest.raises(grpc.RpcError) as refusal:
            method(request_, timeout=HANG_LIMIT)
        assert str(refusal.value.details()).startswith("refused: request-malformed (")
        assert stub.List(pb.ListRequest(), timeout=HANG_LIMIT).tasks == []


def test_bytes_that_are_no_message(live: LiveScheduler, world: Consortium) -> None:
    count_refusal()
    credentials = grpc.ssl_channel_credentials(
        live.certificate.cert_pem,
        world.carol.channel_key_pem,
        world.carol.channel_certificate_pem,
    )
    name = [("grpc.ssl_target_name_override", SCHEDULER_NAME)]
    with grpc.secure_channel(str(live.address), credentials, options=name) as opened:
        for method, raw in (
            ("Submit", b"\xff\xff\xff"),
            ("Submit", bytes(70_000)),  # above the cap: refused before it is read
            ("Destroy", b""),
        ):
            rpc: Rpc = opened.unary_unary(f"/ratls.scheduler.v1.TaskService/{method}")
            with pytest.raises(grpc.RpcError):
                rpc(raw, timeout=HANG_LIMIT)
    assert live.client(world.carol).list() == ()


def test_a_restart_loses_nothing_and_keeps_the_pin(
    tmp_path: Path, world: Consortium, tasks: TaskWorld
) -> None:
    """The agent's watch breaks; from its cursor it sees what came in between, and only that."""
    complete = world.complete()
    with running_scheduler(tmp_path, [complete]) as live:
        port = live.address.port
        live.client(world.carol).submit(tasks.signed())
        watcher = Watcher(live.client(world.alice))
        watcher.wait_for(1)
        live.server.stop()
        watcher.end()
    with running_scheduler(tmp_path, [complete], port=port) as again:
        assert again.certificate == live.certificate
        second = again.client(world.carol).submit(tasks.signed(id="ee" * 16))
        resumed = Watcher(again.client(world.alice), watcher.seen[-1].cursor)
        resumed.wait_for(1)
        assert [t.digest for t in resumed.seen] == [second]
        assert len(again.client(world.carol).list()) == 2
        resumed.stop()


def test_two_schedulers_on_one_database(
    tmp_path: Path, world: Consortium, tasks: TaskWorld, database: sqlalchemy.URL
) -> None:
    """Submitted at one, watched at the other; submitted at both, stored once."""
    complete = world.complete()
    with (
        running_scheduler(tmp_path / "one", [complete], database=database) as one,
        running_scheduler(tmp_path / "two", [complete], database=database) as two,
    ):
        watcher = Watcher(two.client(world.alice))
        digest = one.client(world.carol).submit(tasks.signed())
        assert two.client(world.carol).submit(tasks.signed()) == digest
        watcher.wait_for(1)
        two.client(world.alice).report(digest, "train_party_1", State.RELEASED)
        (task,) = one.client(world.carol).list()
        assert task.datasets[0].state is State.RELEASED
        watcher.stop()


def test_one_party_cannot_take_every_watch(
    tmp_path: Path, world: Consortium, tasks: TaskWorld
) -> None:
    """D11: an agent in a loop of broken watches; others watch and submit, and it may report."""
    limits = Limits(watches_per_party=2, calls_per_party=3)
    with running_scheduler(tmp_path, [world.complete()], limits=limits) as live:
        alice = live.client(world.alice)
        digest = live.client(world.carol).submit(tasks.signed())
        watchers = [Watcher(alice) for _ in range(2)]
        for watcher in watchers:
            watcher.wait_for(1)
        with refused(SchedulerBusy):
            list(alice.watch(seconds=HANG_LIMIT))
        other = Watcher(live.client(world.bob))
        other.wait_for(1)
        alice.report(digest, "train_party_1", State.RELEASED)
        watchers[0].stop()
        replacement = _once_there_is_room(alice)
        replacement.wait_for(1)
        for watcher in (watchers[1], other, replacement):
            watcher.stop()


def _once_there_is_room(client: SchedulerClient) -> Watcher:
    """The server learns of a cancelled call a moment later."""

    def watching() -> Watcher | None:
        watcher = Watcher(client)
        eventually(lambda: watcher.seen or watcher.error)
        if watcher.error is None:
            return watcher
        assert isinstance(watcher.error, SchedulerBusy)
        return watcher.end()

    return eventually(watching)


def test_a_watch_ends_by_itself(tmp_path: Path, world: Consortium, tasks: TaskWorld) -> None:
    """A thread is lent, never given; whoever watches comes again."""
    limits = Limits(watch_seconds=0.2)
    with running_scheduler(tmp_path, [world.complete()], limits=limits) as live:
        live.client(world.carol).submit(tasks.signed())
        assert len(list(live.client(world.alice).watch(seconds=HANG_LIMIT))) == 1


def test_expired_tasks_are_no_longer_listed(
    tmp_path: Path, world: Consortium, tasks: TaskWorld
) -> None:
    now = [NOW]
    clock: Callable[[], datetime] = lambda: now[0]  # noqa: E731
    with running_scheduler(tmp_path, [world.complete()], clock=clock) as live:
        carol = live.client(world.carol)
        carol.submit(tasks.signed())
        assert len(carol.list()) == 1
        now[0] = NOW + timedelta(hours=1)
        assert carol.list() == ()
        with refused(SchedulerRefused) as refusal:
            carol.submit(tasks.signed())
        assert code(refusal) == "task-expired"


def test_what_passes_through_shows_no_task(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld
) -> None:
    """D12: a recorder on the network sees neither names, nor bytes of the task, nor who asks."""
    count_refusal()
    with Relay((live.address.host, live.address.port)) as relay:
        there = Address.parse(relay.address)
        live.client(world.carol, address=there).submit(tasks.signed())
        assert len(live.client(world.alice, address=there).list()) == 1
    seen = b"".join(bytes(c.sent + c.received) for c in relay.connections)
    assert len(seen) > 4000
    for canary in (tasks.signed()[20:60], b"carol-lab", b"alice-clinic", b"train_party_1"):
        assert canary not in seen


def test_a_client_that_pins_another_certificate(
    live: LiveScheduler, world: Consortium, tmp_path: Path
) -> None:
    """D01: somebody else listens at the address. It learns nothing, and is told nothing."""
    other = own_certificate(tmp_path / "other", NOW)
    with SchedulerClient(
        live.address, other.cert_pem, channel(world.carol), timeout=HANG_LIMIT
    ) as carol:
        with refused(SchedulerUnreachable):
            carol.list()
        with refused(SchedulerUnreachable):
            list(carol.watch())
    assert live.log == ""


def test_ports_that_cannot_be_used(live: LiveScheduler, tmp_path: Path, world: Consortium) -> None:
    """Without `so_reuseport` off, a second server would share the port in silence."""
    store = Store.open(queue_file(tmp_path / "other.sqlite"))
    for address in (live.address, Address("203.0.113.1", 0)):
        with refused(SchedulerAddressUnusable):
            start_server(Roster([world.complete()]), store, live.certificate, address, open_log())
    store.close()


def test_a_channel_identity_is_per_client(
    live: LiveScheduler, world: Consortium, tasks: TaskWorld
) -> None:
    """Channels of one process to one address may share a connection, and with it an identity."""
    carol, alice = live.client(world.carol), live.client(world.alice)
    carol.submit(tasks.signed())
    with refused(SchedulerRefused) as refusal:
        alice.submit(tasks.signed(id="ab" * 16))
    assert code(refusal) == "submitter-differs"
    assert isinstance(channel(world.alice), ChannelIdentity)
