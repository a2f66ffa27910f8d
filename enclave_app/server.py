"""The server: identifies the peer, and sends a code and an id for every error.

    server = start_server(enclave, listen_address("127.0.0.1:0"), log)
    server.address
    server.stop()

It speaks Arrow Flight's protocol over gRPC (`ratls.flight_server`), and serves `DoExchange` alone.
Each call is counted for the certificate that TLS has authenticated, before it has said anything,
and a peer that is silent for too long is cut off. Each exchange passes `_guard`, which turns every
exception into a code and an id: one that left a handler would be sent to the peer with its message
(docs/flight.md 3.1).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from enclave_app.access import client_roots, identify
from enclave_app.answer import answer
from enclave_app.application import Enclave
from enclave_app.errors import ListenAddressUnusable
from enclave_app.limits import Slots
from enclave_app.worker import supervised
from policy.sections import Party
from ratls.address import Address
from ratls.bulk import BulkListener
from ratls.environment import prepare_process
from ratls.errors import AuthorizationError
from ratls.flight_server import FlightServer, Send
from ratls.log import Log, bind, bound, place_of
from ratls.server_stream import ServerExchange, refusal_status
from ratls.serving import open_many_files
from verifier.errors import Exit, RatlsError

Heard = Callable[[], None]  # called for each frame of a peer's
STOP_SECONDS = 5.0
WATCH_SECONDS = 1.0


class MethodNotOffered(AuthorizationError):
    """Only the six exchanges of ratls/1 are served."""

    code = "method-not-offered"
    default_fix = "use `ratls provider push`, `ratls task result` or `ratls verify server`"


@dataclass(slots=True)
class _Call:
    """A call that runs, and until when its peer may be silent, by the monotonic clock."""

    context: Any
    until: float


class ServerFailed(RatlsError):
    """An unforeseen error in the enclave."""

    code = "internal"
    exit_status = Exit.PEER
    default_fix = "ask the operator: the log has kind and place of the error under the id"


class EnclaveServer:
    """Serves one enclave, over mutual TLS, to the parties of its policy."""

    def __init__(self, enclave: Enclave, address: Address, log: Log) -> None:
        """Listen; for sealed chunks beside TLS, where the policy wants it, on the next port.

        Raises: ListenAddressUnusable; what `client_roots` raises.
        """
        self._enclave, self._log = enclave, log
        self._slots = Slots(enclave.limits)
        self._running: dict[str, _Call] = {}
        self._stopped = threading.Event()
        parties = enclave.policy.voters
        roots = client_roots([p.channel_certificate for p in parties])
        self._bulk: BulkListener | None = None
        if enclave.policy.transport.bulk == "sealed":
            self._bulk = _listen_beside(address)
        try:
            self._server = FlightServer(
                address,
                (enclave.identity.certificate_pem, enclave.identity.key_pem),
                roots,
                calls=enclave.limits.calls,  # one above `exchanges` is told so
                exchange=self._exchange,
                refuse=self._refuse_method,
            )
        except RuntimeError as error:
            if self._bulk is not None:
                self._bulk.end()
            raise _unusable(address) from error
        self.port = self._server.address.port
        self.address = str(self._server.address)  # as it is reached
        supervised("silence", self._watch, self._bug)
        if self._bulk is not None:
            supervised("bulk", self._bulk.step, self._bug)

    def _exchange(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        """The six exchanges of ratls/1: release, collect, reason, attest, withdraw, round."""

        def served(party: Party, heard: Heard) -> None:
            silent = self._enclave.limits.silent_seconds
            stream = ServerExchange(requests, send, heard, self._bulk, silent, context.cancel)
            if not context.add_callback(stream.close):
                raise MethodNotOffered("call", expected="one that runs", found="one that ended")
            try:
                answer(self._enclave, party, stream, self._log)
            finally:
                stream.close()

        self._guard(context, send, served)

    def _refuse_method(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        def refused(party: Party, heard: Heard) -> None:
            raise MethodNotOffered("method", expected="do_exchange", found="another")

        self._guard(context, send, refused)

    def _guard(self, context: Any, send: Send, serve: Callable[[Party, Heard], None]) -> None:
        number = secrets.token_hex(8)
        told: RatlsError | None = None
        with bound(id=number):
            try:
                party = identify(self._enclave.policy, context.auth_context())
                bind(party=party.id)
                with self._slots.hold(party.id), self._watched(number, context) as heard:
                    serve(party, heard)
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
    def _watched(self, number: str, context: Any) -> Iterator[Heard]:
        """The call is ended if its peer is silent for too long; the function says that it spoke."""
        limits, seconds = self._enclave.limits, self._enclave.seconds
        call = _Call(context, seconds() + limits.hello_seconds)

        def heard() -> None:
            call.until = seconds() + limits.silent_seconds

        self._running[number] = call
        try:
            yield heard
        finally:
            del self._running[number]

    def _watch(self) -> bool:
        if self._stopped.wait(WATCH_SECONDS):
            return False
        self.cut_silent()
        return True

    def cut_silent(self) -> None:
        """Once a second: end calls whose peers have been silent for too long (F10, F18)."""
        now = self._enclave.seconds()
        for call in list(self._running.values()):
            if call.until <= now:
                call.context.cancel()

    def _bug(self, thread: str, bug: BaseException) -> None:
        self._log.error("internal", thread=thread, bug=place_of(bug))

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Stop listening and wait a while for running calls; False if some still ran then.

        They are cut off.
        """
        self._stopped.set()
        if self._bulk is not None:
            self._bulk.close()
        return self._server.stop(seconds)


def _listen_beside(address: Address) -> BulkListener:
    """For sealed chunks: on the next port, or any free one where any was asked for."""
    beside = Address(address.host, address.port + 1 if address.port else 0)
    if beside.port > 0xFFFF:
        raise _unusable(beside)
    try:
        return BulkListener(beside)
    except OSError as error:
        raise _unusable(beside) from error


def _unusable(address: Address) -> ListenAddressUnusable:
    return ListenAddressUnusable(
        str(address), expected="a free port of this machine", found="one in use, or another's"
    )


def start_server(enclave: Enclave, address: Address, log: Log) -> EnclaveServer:
    """Listen. From now on the parties may connect.

    Raises:
        ListenAddressUnusable: The port is in use, or the address is not this machine's.
        ServerWouldNotAuthenticate, ChannelIdentityShared: As `client_roots` says.
        EnvironmentUnsafe: The environment would log keys or rows.
    """
    prepare_process()
    open_many_files()
    return EnclaveServer(enclave, address, log)
