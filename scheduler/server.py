"""The gRPC server: identifies the caller, and sends a code and an id for every error.

    server = start_server(roster, store, certificate, Address("127.0.0.1", 0), log)
    server.address
    server.stop()

Every call passes `_guard`, which identifies the peer, counts its calls, and turns every exception
into a code and an id. An exception that left a handler would send its text to the peer.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

import grpc
from cryptography import x509
from google.protobuf.message import Message

from policy.channel import ChannelCertificate
from policy.document import digest_text
from policy.errors import ResourceLimitError
from policy.keys import spki_der
from policy.task import Task
from ratls.address import Address
from ratls.environment import prepare_process
from ratls.log import Log, bind, bound, place_of
from ratls.serving import open_many_files
from scheduler import task_service_pb2 as pb
from scheduler.certificate import OwnCertificate
from scheduler.database import StoreUnavailable
from scheduler.limits import Calls, Limits
from scheduler.messages import (
    ANSWER_CAP,
    LET_IN,
    REQUEST_CAP,
    RequestMalformed,
    read_report,
    require_digest,
    require_known_fields,
    write_status,
    write_task,
)
from scheduler.service import PeerNotServed, Roster, Service
from scheduler.store import Store
from verifier.errors import ConfigError, Exit, RatlsError

STOP_SECONDS = 5.0
POLL_SECONDS = 1.0  #    how soon a watch sees what another scheduler on this database took
PURGE_SECONDS = 30.0
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server could share the port unnoticed
    ("grpc.max_receive_message_length", REQUEST_CAP),
    ("grpc.max_send_message_length", ANSWER_CAP),
    ("grpc.max_metadata_size", 8 * 1024),
    # Compressed messages are refused: a small one could become very large.
    ("grpc.compression_enabled_algorithms_bitset", 1),  # bit 0: as it is
    ("grpc.per_message_decompression", 0),
    ("grpc.max_concurrent_streams", 16),  # of one connection
    # A stranger that connects and sends nothing is disconnected soon.
    ("grpc.server_handshake_timeout_ms", 5_000),
    # Notices a dead connection, which would keep a thread.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # The only deadline of a call that sends no request.
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]
Clock = Callable[[], datetime]


class WatchWaker:
    """Wakes the watches: at once after changes by this process, by polling after others'."""

    def __init__(self, store: Store, log: Log, clock: Clock) -> None:
        self._store, self._log, self._clock = store, log, clock
        self._news, self._newest = threading.Condition(), 0
        self._asked = self.stopped = False
        self._poller = threading.Thread(target=self._run, name="waker", daemon=True)
        self._poller.start()

    def wait(self, after: int, seconds: float, alive: Callable[[], bool]) -> None:
        """Wait for a change after this number, the end of the caller, or of the time."""
        with self._news:
            self._news.wait_for(
                lambda: self.stopped or self._newest > after or not alive(), seconds
            )

    def ask(self) -> None:
        """Something changed: let the poller look now."""
        with self._news:
            self._asked = True
            self._news.notify_all()

    def wake(self) -> None:
        """Let every wait check whether its caller is still there."""
        with self._news:
            self._news.notify_all()

    def stop(self) -> None:
        """End every wait, and the poller."""
        with self._news:
            self.stopped = True
            self._news.notify_all()
        self._poller.join()

    def _run(self) -> None:
        purged = time.monotonic() - PURGE_SECONDS
        while not self.stopped:
            try:
                if time.monotonic() - purged >= PURGE_SECONDS:
                    purged = time.monotonic()
                    if count := self._store.purge(self._clock()):
                        self._log.info("purged", tasks=count)
                self._look()
            except StoreUnavailable as refusal:
                # The calls report it to their peers; the next look tries again.
                self._log.warning("store", code=refusal.code)
            except BaseException as bug:  # noqa: BLE001 - without this thread no watch would end
                self._log.error("internal", bug=place_of(bug))
            with self._news:
                self._news.wait_for(lambda: self.stopped or self._asked, POLL_SECONDS)
                self._asked = False

    def _look(self) -> None:
        newest = self._store.newest()
        with self._news:
            self._newest = newest
            self._news.notify_all()


M = TypeVar("M", bound=Message)


class SchedulerFailed(RatlsError):
    """An unforeseen error in the scheduler."""

    code = "scheduler-failed"
    exit_status = Exit.PEER
    default_fix = "ask the operator: the log has kind and place of the error under the id"


class TaskServer:
    """The four calls. Their names are those of `task_service.proto`.

    Each is served as a stream of exactly one request, which on the wire is the same. A handler of
    a single request starts only when that has come: a call that never sends it would hold a thread
    that is counted for no party, and a few hundred such calls would shut out all parties.
    """

    def __init__(
        self, service: Service, waker: WatchWaker, limits: Limits, log: Log, clock: Clock
    ) -> None:
        self._service, self._waker, self._limits = service, waker, limits
        self._log, self._clock, self._calls = log, clock, Calls(limits)

    def handlers(self) -> grpc.GenericRpcHandler:
        """For a gRPC server."""
        service = pb.DESCRIPTOR.services_by_name["TaskService"]
        found = {}
        for method in service.methods:
            serve = (
                grpc.stream_stream_rpc_method_handler
                if method.server_streaming
                else grpc.stream_unary_rpc_method_handler
            )
            found[method.name] = serve(
                getattr(self, method.name),
                getattr(pb, method.input_type.name).FromString,
                getattr(pb, method.output_type.name).SerializeToString,
            )
        return grpc.method_handlers_generic_handler(service.full_name, found)

    def Submit(  # noqa: N802
        self, requests: Iterator[pb.SubmitRequest], context: grpc.ServicerContext
    ) -> pb.SubmitAnswer:
        """Store a task."""
        with self._guard("submit", requests, context) as (peer, request):
            with suppress(RatlsError):  # for the log alone; not verified
                bind(task_digest=digest_text(Task.read(request.envelope).digest))
            digest = self._service.submit(peer, request.envelope, self._clock())
            self._waker.ask()
            return pb.SubmitAnswer(task_digest=digest)

    def List(  # noqa: N802
        self, requests: Iterator[pb.ListRequest], context: grpc.ServicerContext
    ) -> pb.ListAnswer:
        """Show a page of tasks."""
        with self._guard("list", requests, context) as (peer, request):
            offer = self._service.page(
                peer,
                request.cursor,
                self._clock(),
                policy_digest=_given(request.policy_digest),
                task_digest=_given(request.task_digest),
            )
            return pb.ListAnswer(tasks=[write_task(t) for t in offer.tasks], more=offer.more)

    def Watch(  # noqa: N802
        self, requests: Iterator[pb.WatchRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.QueuedTask]:
        """Show tasks as they come and change."""
        with self._guard("watch", requests, context, watch=True) as (peer, request):
            context.add_callback(self._waker.wake)  # a peer that leaves frees its thread at once
            context.send_initial_metadata(((LET_IN, "1"),))  # before there is any task
            cursor, end = request.cursor, time.monotonic() + self._limits.watch_seconds
            while context.is_active() and not self._waker.stopped and time.monotonic() < end:
                offer = self._service.page(peer, cursor, self._clock())
                for task in offer.tasks:
                    yield write_task(task)
                    cursor = task.cursor
                if not offer.more:
                    cursor = self._service.cursor(offer.change)
                    self._waker.wait(offer.change, end - time.monotonic(), context.is_active)

    def Report(  # noqa: N802
        self, requests: Iterator[pb.ReportRequest], context: grpc.ServicerContext
    ) -> pb.ReportAnswer:
        """Store what became of a dataset."""
        with self._guard("report", requests, context) as (peer, request):
            digest, dataset, state, code, instance = read_report(request)
            status = self._service.report(
                peer, digest, dataset, state, code, self._clock(), instance
            )
            self._waker.ask()
            return pb.ReportAnswer(status=write_status(status))

    @contextmanager
    def _guard(
        self,
        call: str,
        requests: Iterator[M],
        context: grpc.ServicerContext,
        *,
        watch: bool = False,
    ) -> Iterator[tuple[bytes, M]]:
        number = secrets.token_hex(8)
        with bound(id=number, call=call):
            try:
                peer = _peer(context)
                bind(peer=peer.hex()[:16], party=self._service.roster.name_of(peer))
                with self._calls.hold(peer, watch=watch):
                    request = _only(requests)
                    if named := getattr(request, "task_digest", b""):
                        bind(task_digest=digest_text(named[:32]))
                    yield peer, request
                return
            except GeneratorExit:
                raise  # a watch whose peer has left
            except RatlsError as refusal:
                self._log.warning("refused", code=refusal.code)
                status, code = _status(refusal), refusal.code
            except BaseException as bug:  # noqa: BLE001 - else its text is sent to the peer
                self._log.error("internal", bug=place_of(bug))
                status, code = grpc.StatusCode.INTERNAL, SchedulerFailed.code
        context.abort(status, f"refused: {code} ({number})")


class SchedulerServer:
    """A server that listens, until it is stopped."""

    def __init__(
        self, server: grpc.Server, threads: ThreadPoolExecutor, waker: WatchWaker, address: Address
    ) -> None:
        self._server, self._threads, self._waker = server, threads, waker
        self.address = address

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Stop listening and wait a while for running calls; False if some still run."""
        self._waker.stop()
        ended = self._server.stop(seconds / 2).wait(seconds)
        # A call ends for its peer before its handler returns the store's connection.
        handlers = threading.Thread(target=self._threads.shutdown, daemon=True)
        handlers.start()
        handlers.join(seconds)
        return ended and not handlers.is_alive()


class SchedulerAddressUnusable(ConfigError):
    """The scheduler cannot listen where it was told to."""

    code = "scheduler-address-unusable"
    default_fix = "choose another port, or 0 for a free one"
    says = "cannot listen: {thing} is not {expected}"


def start_server(
    roster: Roster,
    store: Store,
    certificate: OwnCertificate,
    address: Address,
    log: Log,
    *,
    limits: Limits | None = None,
    clock: Clock = lambda: datetime.now(UTC),
) -> SchedulerServer:
    """Listen. From now on the parties may call.

    Raises:
        SchedulerAddressUnusable: The port is in use, or the address is not this machine's.
        EnvironmentUnsafe: The environment would log keys or traffic.
    """
    prepare_process()
    open_many_files()
    limits = limits or Limits()
    threads = ThreadPoolExecutor(limits.calls, thread_name_prefix="call")
    server = grpc.server(threads, options=_OPTIONS, maximum_concurrent_rpcs=limits.calls)
    # Only the parties' certificates are accepted: no system roots, no identity from a header.
    credentials = grpc.ssl_server_credentials(
        [(certificate.key_pem, certificate.cert_pem)],
        root_certificates=_roots(roster.certificates),
        require_client_auth=True,
    )
    try:
        port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise SchedulerAddressUnusable(
            str(address), expected="a free port of this machine", found="one in use, or another's"
        ) from error
    waker = WatchWaker(store, log, clock)
    service = Service(roster, store, limits)
    server.add_generic_rpc_handlers((TaskServer(service, waker, limits, log, clock).handlers(),))
    server.start()
    return SchedulerServer(server, threads, waker, Address(address.host, port))


def _roots(certificates: tuple[ChannelCertificate, ...]) -> bytes:
    assert certificates, "a policy has voters"  # no roots at all would mean those of the system
    return "".join(certificate.pem for certificate in certificates).encode("ascii")


def _peer(context: grpc.ServicerContext) -> bytes:
    """SHA-256 of the key of the certificate that TLS authenticated.

    Raises:
        PeerNotServed: There is not exactly one.
    """
    # Typed as one value, but a tuple of values.
    shown: object = context.auth_context().get("x509_pem_cert")
    if not isinstance(shown, list | tuple) or len(shown) != 1:
        raise PeerNotServed("peer", expected="one certificate", found="another number")
    key = x509.load_pem_x509_certificate(shown[0]).public_key()
    return hashlib.sha256(spki_der(key)).digest()


def _only(requests: Iterator[M]) -> M:
    """The one request of a call.

    Raises:
        RequestMalformed: Another number of them, or another form.
    """
    try:
        request = next(requests)
        more = next(requests, None)
    except (StopIteration, grpc.RpcError) as error:  # the peer has gone, or cannot be read
        raise RequestMalformed("call", expected="a request", found="none") from error
    if more is not None:
        raise RequestMalformed("call", expected="one request", found="another")
    require_known_fields(request)
    return request


def _given(digest: bytes) -> bytes | None:
    return require_digest(digest) if digest else None


def _status(refusal: RatlsError) -> grpc.StatusCode:
    """The status tells a client whether to try again; the code tells why."""
    if isinstance(refusal, StoreUnavailable):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(refusal, ResourceLimitError):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return {
        Exit.NOT_GENUINE: grpc.StatusCode.UNAUTHENTICATED,
        Exit.NOT_ADMITTED: grpc.StatusCode.PERMISSION_DENIED,
    }.get(refusal.exit_status, grpc.StatusCode.INVALID_ARGUMENT)
