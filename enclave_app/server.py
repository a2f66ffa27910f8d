"""The server: identifies the peer, and sends a code and an id for every error.

    server = start_server(enclave, listen_address("127.0.0.1:0"), log)
    server.address
    server.stop()

It speaks Arrow Flight's protocol over gRPC (`ratls.flight_server`), and serves `DoExchange` alone.
Each exchange passes its guard, which turns every exception into a code and an id: one that left a
handler would be sent to the peer with its message (docs/flight.md 3.1).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from enclave_app.access import client_roots, identify
from enclave_app.answer import answer
from enclave_app.application import Enclave
from enclave_app.errors import ListenAddressUnusable
from enclave_app.worker import supervised
from policy.sections import Party
from ratls.address import Address
from ratls.bulk import BulkListener
from ratls.environment import prepare_process
from ratls.errors import AuthorizationError
from ratls.flight_server import FlightServer, Guard, Running, Send, Slots, pinned_key
from ratls.log import Log, place_of
from ratls.server_stream import ServerExchange, StreamTruncated
from ratls.serving import open_many_files

STOP_SECONDS = 5.0
WATCH_SECONDS = 1.0


class MethodNotOffered(AuthorizationError):
    """Only the six exchanges of ratls/1 are served."""

    code = "method-not-offered"
    default_fix = "use `ratls provider push`, `ratls task result` or `ratls verify server`"


class EnclaveServer:
    """Serves one enclave, over mutual TLS, to the parties of its policy."""

    def __init__(self, enclave: Enclave, address: Address, log: Log) -> None:
        """Listen; for sealed chunks beside TLS, where the policy wants it, on the next port.

        Raises: ListenAddressUnusable; what `client_roots` raises.
        """
        self._enclave, self._log = enclave, log
        limits = enclave.limits
        self._guard = Guard(
            lambda context: identify(enclave.policy, context.auth_context()),
            Slots(limits.exchanges, limits.exchanges_per_party),
            log,
            hello_seconds=limits.hello_seconds,
            silent_seconds=limits.silent_seconds,
            seconds=enclave.seconds,
        )
        self._stopped = threading.Event()
        parties = enclave.policy.voters
        roots = client_roots([p.channel_certificate for p in parties])
        self._bulk: BulkListener | None = None
        if enclave.policy.transport.bulk == "sealed":
            self._bulk = _listen_beside(address)
        try:
            self._server = FlightServer(
                address,
                lambda: enclave.identity.pair,
                lambda: roots,
                calls=limits.calls,  # one above `exchanges` is told so
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

        def served(party: Party, call: Running) -> None:
            stream = ServerExchange(
                requests,
                send,
                call.heard,
                self._bulk,
                self._enclave.limits.silent_seconds,
                context.cancel,
                pinned_key(context),
            )
            if not context.add_callback(stream.close):
                raise StreamTruncated("call", expected="one that runs", found="one that ended")
            try:
                answer(self._enclave, party, stream, self._log)
            finally:
                stream.close()

        self._guard.serve(context, send, served)

    def _refuse_method(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        def refused(party: Party, call: Running) -> None:
            raise MethodNotOffered("method", expected="do_exchange", found="another")

        self._guard.serve(context, send, refused)

    def _watch(self) -> bool:
        if self._stopped.wait(WATCH_SECONDS):
            return False
        self.cut_silent()
        return True

    def cut_silent(self) -> None:
        """As `Guard.cut_silent`."""
        self._guard.cut_silent()

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
