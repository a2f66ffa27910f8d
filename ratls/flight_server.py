"""A gRPC server that offers Flight's DoExchange over mutual TLS, to the holders of listed
certificates.

    server = FlightServer(address, identity, roots, calls=80, exchange=serve, refuse=refuse)
    server.address.port
    server.stop(5.0)

gRPC refuses what is larger than a frame, or compressed, before anything is unpacked (F04), and has
one thread for each call, of a fixed number. What a call may do is decided by who gives `exchange`.
`Guard` is what each such server needs: it identifies the peer, counts its calls before it has said
anything, cuts it off when it is silent, and tells it of every error a code and an id alone.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from policy.document import Policy
from policy.errors import ResourceLimitError
from policy.sections import Party
from ratls.address import Address
from ratls.environment import prepare_process
from ratls.flight_data import DO_EXCHANGE, PIN, SERVICE
from ratls.framing import MAX_FRAME
from ratls.log import Log, bind, bound, place_of
from ratls.server_stream import refusal_status
from verifier.errors import Exit, RatlsError

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server could share the port unnoticed
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 8 * 1024),
    # Compressed messages are refused: a small one could become very large (F04).
    ("grpc.compression_enabled_algorithms_bitset", 1),  # bit 0: as it is
    ("grpc.per_message_decompression", 0),
    ("grpc.max_concurrent_streams", 32),  # of one connection
    # A stranger that connects and sends nothing is disconnected soon, as is an idle connection.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # Notices a dead connection, which would keep a thread: RFC 9113, section 6.7.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
_WAITING = 1024  # one party's burst of calls, each to be refused by its code, shuts nobody out
Send = Callable[[bytes | None], None]  # a frame, or None for the end of the call
# Frames that come, gRPC's context of the call, and the way to send.
Exchange = Callable[[Iterator[bytes], Any, Send], None]
Pair = tuple[bytes, bytes]  # PEM of a certificate and of its key
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class FlightServer:
    """Listens from its making until `stop`."""

    def __init__(
        self,
        address: Address,
        certificate: Callable[[], Pair],
        roots: Callable[[], bytes],
        *,
        calls: int,
        exchange: Exchange,
        refuse: Exchange,
    ) -> None:
        """Listen.

        Args:
            address: Port 0 takes a free one.
            certificate, roots: As for `server_credentials`.
            calls: At once; each has a thread. Some more wait for one; gRPC refuses the rest.
            exchange: Serves DoExchange; ends with `send(None)`.
            refuse: The same for every other method.

        Raises:
            RuntimeError: The address cannot be listened on.
        """
        prepare_process()
        credentials = server_credentials(certificate, roots)
        self._server = grpc.server(
            ThreadPoolExecutor(calls, thread_name_prefix="exchange"),
            handlers=[_Handlers(exchange, refuse)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=calls + _WAITING,
        )
        self.address = Address(
            address.host, self._server.add_secure_port(str(address), credentials)
        )
        self._server.start()

    def stop(self, seconds: float) -> bool:
        """Stop listening and wait a while for running calls; False if some still ran then.

        They are cut off.
        """
        # A longer grace: with the same, gRPC cuts calls off at the moment at which we look.
        orderly = self._server.stop(2 * seconds + 60).wait(seconds)
        if not orderly:
            self._server.stop(0).wait(seconds)
        return orderly


def server_credentials(
    certificate: Callable[[], Pair], roots: Callable[[], bytes]
) -> grpc.ServerCredentials:
    """Mutual TLS (RFC 8446, section 4.3.2). Connections that run go on when either changes.

    Args:
        certificate: What the server shows; asked at each handshake.
        roots: PEM of the certificates that may connect, and no others; asked likewise.
    """

    def given() -> tuple[Pair, bytes]:
        pair, listed = certificate(), roots()
        if not listed.strip():
            raise AssertionError("without roots gRPC would ask for no certificate")
        return pair, listed

    held = given()

    def made() -> grpc.ServerCertificateConfiguration:
        (pem, key), listed = held
        return grpc.ssl_server_certificate_configuration([(key, pem)], listed)

    def changed() -> Any:  # None for no change, which the stubs of gRPC do not know
        nonlocal held
        found = given()
        if found == held:
            return None
        held = found
        return made()

    # False by default, also with roots (I02).
    return grpc.dynamic_ssl_server_credentials(made(), changed, require_client_authentication=True)


def roots_of(policy: Policy) -> bytes:
    """PEM of the certificates of all parties that may call."""
    return "".join(party.channel_certificate.pem for party in policy.voters).encode()


def party_of(policy: Policy, auth_context: Mapping[str, Sequence[bytes]]) -> Party | None:
    """The party whose certificate TLS has authenticated, byte for byte; None for another.

    Args:
        auth_context: As gRPC gives it.
    """
    shown = [bytes(pem) for pem in auth_context.get("x509_pem_cert", ())]
    for party in policy.voters:
        if shown == [party.channel_certificate.pem.encode()]:
            return party
    return None


def pinned_key(context: Any) -> bytes:
    """The key that the client says it has pinned; empty for none, as from Flight's own clients."""
    found = [value for name, value in context.invocation_metadata() if name == PIN]
    return bytes(found[0]) if len(found) == 1 else b""


class _Handlers(grpc.GenericRpcHandler):
    """Calls by name: DoExchange, and a refusal for every other method of Flight."""

    def __init__(self, exchange: Exchange, refuse: Exchange) -> None:
        self._exchange, self._refuse = _pushing(exchange), _pushing(refuse)

    def service(self, handler_call_details: Any) -> _Handler | None:
        """Called by gRPC for each call. None: there is no such service."""
        method = handler_call_details.method
        if not method.startswith(f"/{SERVICE}/"):
            return None
        return self._exchange if method == DO_EXCHANGE else self._refuse


def _pushing(exchange: Exchange) -> _Handler:
    """A handler that is given a function to send with, and says itself when the call ends.

    gRPC otherwise pulls answers out of a generator; here the order of steps stands in the code.
    """

    def serve(requests: Iterator[bytes], context: Any, send_response_callback: Send) -> None:
        exchange(requests, context, send_response_callback)

    serve.experimental_non_blocking = True  # type: ignore[attr-defined]
    return grpc.stream_stream_rpc_method_handler(serve)


class ExchangesExhausted(ResourceLimitError):
    """Too many exchanges run at once."""

    code = "exchanges-exhausted"
    default_fix = "wait until your other calls have ended, then try again"


class Slots:
    """Counts exchanges, in all and by party, from their start: each has a thread."""

    def __init__(self, most: int, most_per_party: int) -> None:
        self._most, self._most_per_party, self._lock = most, most_per_party, threading.Lock()
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, party: str) -> Iterator[None]:
        """One slot for the block.

        Raises:
            ExchangesExhausted: The party's share, or the server's, is in use.
        """
        with self._lock:
            mine, all_of_them = self._running[party], self._running.total()
            if mine >= self._most_per_party or all_of_them >= self._most:
                raise ExchangesExhausted(
                    "exchanges at once",
                    expected=f"at most {self._most_per_party} of a party",
                    found=f"{mine} of this party, {all_of_them} in all",
                )
            self._running[party] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[party] -= 1


class ServerFailed(RatlsError):
    """An unforeseen error in the enclave."""

    code = "internal"
    exit_status = Exit.PEER
    default_fix = "ask the operator: the log has kind and place of the error under the id"


class Running:
    """A call that runs, and until when its peer may be silent, by the monotonic clock."""

    def __init__(self, context: Any, guard: Guard) -> None:
        self.context, self._guard = context, guard
        self._ends = guard.seconds() + guard.call_seconds
        self.until = guard.seconds() + guard.hello_seconds

    def heard(self) -> None:
        """The peer spoke, or is asked for something: it may be silent for a while from now on."""
        self.until = min(self._ends, self._guard.seconds() + self._guard.silent_seconds)

    def busy(self) -> None:
        """It is this end that takes its time."""
        self.until = self._ends


class Guard:
    """Around each exchange of a server. Its owner calls `cut_silent` once a second."""

    def __init__(
        self,
        identify: Callable[[Any], Party],
        slots: Slots,
        log: Log,
        *,
        hello_seconds: float,
        silent_seconds: float,
        seconds: Callable[[], float],
        call_seconds: float = math.inf,
    ) -> None:
        """Begin.

        Args:
            identify: The party behind a call's context, or a refusal.
            hello_seconds: From the start of a call to its first frame.
            silent_seconds: Between two frames.
            seconds: A monotonic clock.
            call_seconds: For all of a call.
        """
        self._identify, self.slots, self._log = identify, slots, log
        self.hello_seconds, self.silent_seconds = hello_seconds, silent_seconds
        self.call_seconds, self.seconds = call_seconds, seconds
        self.running: dict[str, Running] = {}

    def serve(self, context: Any, send: Send, answer: Callable[[Party, Running], None]) -> None:
        """One call, from its start to its end: every exception becomes a code and an id."""
        number = secrets.token_hex(8)
        told: RatlsError | None = None
        with bound(id=number):
            try:
                party = self._identify(context)
                bind(party=party.id)
                with self.slots.hold(party.id), self._watched(number, context) as running:
                    answer(party, running)
            except RatlsError as refusal:
                self._log.warning("refused", code=refusal.code)
                told = refusal
            except BaseException as bug:  # noqa: BLE001 - also a panic of a library
                # A bug: its text may hold cell values, so only kind and place are logged.
                self._log.error("internal", bug=place_of(bug))
                told = ServerFailed("enclave", expected="an answer", found="an error")
        if told is not None:
            status, text, details = refusal_status(told, number)
            context.set_code(status)
            context.set_details(text)
            context.set_trailing_metadata(details)
        send(None)  # the end of the call, with that status

    @contextmanager
    def _watched(self, number: str, context: Any) -> Iterator[Running]:
        call = self.running[number] = Running(context, self)
        try:
            yield call
        finally:
            del self.running[number]

    def cut_silent(self) -> None:
        """End calls whose peers have been silent for too long (F10, F18)."""
        now = self.seconds()
        for call in list(self.running.values()):
            if call.until <= now:
                call.context.cancel()
