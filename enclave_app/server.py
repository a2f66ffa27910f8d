"""The Flight server: identifies the peer, and sends a code and an id for every error.

    server = start_server(enclave, listen_address("127.0.0.1:0"), log)
    server.address
    server.stop()

Only `DoExchange` is served; all other methods get the same refusal. Each exchange passes `_guard`,
which identifies the peer, takes a slot, and turns every exception into a code and an id. An
exception that left a handler would be sent to the peer with its message and traceback
(docs/flight.md 3.1).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from enclave_app.access import client_roots, identify
from enclave_app.answer import answer
from enclave_app.application import Enclave
from enclave_app.errors import ListenAddressUnusable
from enclave_app.limits import Slots
from policy.sections import Party
from ratls.address import Address
from ratls.environment import prepare_process
from ratls.errors import AuthorizationError
from ratls.framing import Kind
from ratls.log import Log, bind, bound, place_of
from ratls.server_stream import ServerExchange, flight_refusal
from ratls.serving import open_many_files
from verifier.errors import Exit, RatlsError

STOP_SECONDS = 5.0


class MethodNotOffered(AuthorizationError):
    """Only the four exchanges of ratls/1 are served."""

    code = "method-not-offered"
    default_fix = "use `ratls provider push`, `ratls task result` or `ratls verify server`"


class CallFilter(flight.ServerMiddlewareFactory):
    """Refuses a call before it is looked at: every other method, and one exchange too many.

    Other methods are refused here and not in the methods: what `get_schema` raises is sent with
    traceback and paths, Flight's own errors too (pyarrow 26).

    Exchanges are counted here, since each has a thread from here on and its handler starts only
    once the peer has sent something: it would never count thousands of silent calls (F18). The
    peer is not identified yet.
    """

    def __init__(self, slots: Slots, log: Log) -> None:
        super().__init__()
        self._slots, self._log = slots, log

    def start_call(self, info: Any, headers: Any) -> flight.ServerMiddleware:
        """Called by Flight at the start of each call, once TLS has authenticated the peer."""
        try:
            if info.method != flight.FlightMethod.DO_EXCHANGE:
                raise MethodNotOffered("method", expected="do_exchange", found="another")
            self._slots.start()
        except RatlsError as refusal:
            number = secrets.token_hex(8)
            self._log.warning("refused", id=number, code=refusal.code)
            raise flight_refusal(refusal, number) from None
        return _Counted(self._slots)


class _Counted(flight.ServerMiddleware):
    """A call that was accepted, until it ends."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def call_completed(self, exception: Any) -> None:
        """Called by Flight at the end of the call, also of a silent one."""
        self._slots.end()


class ServerFailed(RatlsError):
    """An unforeseen error in the enclave."""

    code = "internal"
    exit_status = Exit.PEER
    default_fix = "ask the operator: the log has kind and place of the error under the id"


class EnclaveServer(flight.FlightServerBase):
    """Serves one enclave, over mutual TLS, to the parties of its policy."""

    def __init__(self, enclave: Enclave, address: Address, log: Log) -> None:
        self._enclave, self._log, self._host = enclave, log, address.host
        self._slots = Slots(enclave.limits)
        parties = enclave.policy.voters
        # No auth handler: it would replace the certificate's identity by one from a header
        # (threats I06, I07). `verify_client` is False by default, also with roots (I02).
        super().__init__(
            f"grpc+tls://{address}",
            tls_certificates=[(enclave.identity.certificate_pem, enclave.identity.key_pem)],
            verify_client=True,
            root_certificates=client_roots([p.channel_certificate for p in parties]),
            middleware={"call-filter": CallFilter(self._slots, log)},
        )

    @property
    def address(self) -> str:
        """`HOST:PORT` as it is reached."""
        return str(Address(self._host, self.port))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """The four exchanges of ratls/1: release, collect, reason, attest."""
        with self._guard(context) as (party, log):
            kind = Kind.of(descriptor)
            answer(self._enclave, kind, party, ServerExchange(reader, writer, context), log)

    @contextmanager
    def _guard(self, context: Any) -> Iterator[tuple[Party, Log]]:
        number = secrets.token_hex(8)
        log = self._log
        with bound(id=number):
            try:
                party = identify(self._enclave.policy, context.peer_identity())
                bind(party=party.id)
                with self._slots.hold(party.id):
                    yield party, log
                return
            except RatlsError as refusal:
                log.warning("refused", code=refusal.code)
                told = flight_refusal(refusal, number)
            except BaseException as bug:  # noqa: BLE001 - also a panic of a library
                # A bug: its text may hold cell values, so only kind and place are logged.
                log.error("internal", bug=place_of(bug))
                failed = ServerFailed("enclave", expected="an answer", found="an error")
                told = flight_refusal(failed, number)
        raise told from None

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Stop listening and wait a while for running calls; False if some still run.

        A stalled client would hold `shutdown` without limit (docs/flight.md 3.3).
        """
        waiting = threading.Thread(target=self.shutdown, daemon=True)
        waiting.start()
        waiting.join(seconds)
        return not waiting.is_alive()


def start_server(enclave: Enclave, address: Address, log: Log) -> EnclaveServer:
    """Listen. From now on the parties may connect.

    Raises:
        ListenAddressUnusable: The port is in use, or the address is not this machine's.
        ServerWouldNotAuthenticate, ChannelIdentityShared: As `client_roots` says.
        EnvironmentUnsafe: The environment would log keys or rows.
    """
    prepare_process()
    open_many_files()
    try:
        return EnclaveServer(enclave, address, log)
    except (pa.ArrowException, OSError) as error:
        raise ListenAddressUnusable(
            str(address), expected="a free port of this machine", found="one in use, or another's"
        ) from error
