"""The enclave's end of `ratls.flight`: serves rows of your own to the parties of a policy.

    class Visits(Service):
        def get(self, call):
            return table

    with Server(Address("127.0.0.1", 0), enclave, lambda: policy, Visits()) as server:
        server.address

Each call is one DoExchange, on which the enclave first proves itself; only then it is told what is
asked. gRPC names a client by its certificate alone. A peer has a share of the calls, may be silent
for a while, and takes no more batches at once than it has asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import pyarrow as pa

from policy.agreement import require_window
from policy.document import Policy
from policy.rows import require_consistent
from policy.sections import Party
from policy.values import Nonce
from ratls.address import Address
from ratls.claims import NO_TASK
from ratls.environment import prepare_process
from ratls.errors import AuthorizationError, PeerIdentityError
from ratls.evidence import Allowance
from ratls.flight_rows import Rows, batches_of, pieces, require_plain
from ratls.flight_server import (
    FlightServer,
    Guard,
    Running,
    Send,
    Slots,
    party_of,
    pinned_key,
    roots_of,
)
from ratls.framing import MessageUnexpected, rows_frame, schema_frame, without_metadata
from ratls.identity import EnclaveIdentity, Identities
from ratls.listener import ListenerUnusable
from ratls.log import Log, open_log
from ratls.repeated import keep_renewed, repeated
from ratls.server_stream import Caps, ServerExchange
from ratls.serving import open_many_files
from ratls.session import utc_now
from verifier.files import MEBIBYTE

COMMAND = b"ratls/1 service"
WINDOW = 16  # batches that a client may have asked for, and not yet have
GET, PUT, EXCHANGE = "get", "put", "exchange"
MOST_ROWS = Caps(rows=1 << 28, bytes=4096 * MEBIBYTE)  # of one call
_WATCH_SECONDS = 1.0


class ServiceMethodNotOffered(AuthorizationError):
    """The service has no such method."""

    code = "service-method-not-offered"
    default_fix = "ask its authors which of get, put and exchange it has"


class FlightPeerUnknown(PeerIdentityError):
    """The channel certificate is that of no party in the policy."""

    code = "flight-peer-unknown"
    default_fix = "use the channel certificate that the policy lists for your party"


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, as its certificate says, and for what. `about` is not verified."""

    party: str
    about: bytes  # a ticket of `get`; a descriptor of `put` and `exchange`


class Service:
    """What a server does. A method that a subclass does not have is refused.

    Rows that come end by themselves only where all of them have come: act after their end. An
    error of yours leaves as a code and an id; a `RatlsError` has a code of its own.
    """

    def get(self, call: Call) -> Rows:
        """The rows that a ticket stands for."""
        raise _not_offered(GET)

    def put(self, call: Call, rows: pa.RecordBatchReader) -> bytes | None:
        """Take rows; what to tell the party that sent them."""
        raise _not_offered(PUT)

    def exchange(self, call: Call, rows: pa.RecordBatchReader) -> Rows:
        """Take rows, then give some."""
        raise _not_offered(EXCHANGE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server holds at most."""

    calls: int = 80  #  each has a thread
    served: int = 64  # of them; more are told so
    served_per_party: int = 8
    hello_seconds: float = 15.0  #  from the start of a call to its first frame
    silent_seconds: float = 120.0  # while the peer is waited for
    call_seconds: float = 3600.0
    rows: Caps = MOST_ROWS  # that one call brings


class Server:
    """Listens from its making until `close`."""

    def __init__(
        self,
        address: Address,
        identity: EnclaveIdentity,
        policy: Callable[[], Policy],
        service: Service,
        *,
        clock: Callable[[], datetime] = utc_now,
        seconds: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        log: Log | None = None,
    ) -> None:
        """Listen.

        Args:
            address: Port 0 takes a free one.
            identity: What this enclave shows and proves; its certificate is renewed in time.
            policy: Lists the parties that may call; asked for each, and while calls run.
            log: Refusals, by code and id; stderr, if left out.

        Raises:
            ListenerUnusable: The port is in use, or the address is not this machine's.
            EnvironmentUnsafe: The environment would log keys or rows.
        """
        prepare_process()
        open_many_files()
        self._policy, self._service, self._clock = policy, service, clock
        self._limits, self._log = limits or Limits(), log or open_log()
        self._seconds = seconds
        self.identities = Identities(identity)
        self._guard = Guard(
            self._party,
            Slots(self._limits.served, self._limits.served_per_party),
            self._log,
            hello_seconds=self._limits.hello_seconds,
            silent_seconds=self._limits.silent_seconds,
            call_seconds=self._limits.call_seconds,
            seconds=seconds,
        )
        try:
            self._server = FlightServer(
                address,
                lambda: self.identities.current.pair,
                lambda: roots_of(policy()),
                calls=self._limits.calls,
                exchange=self._exchange,
                refuse=self._refuse,
            )
        except RuntimeError as error:
            raise ListenerUnusable(
                str(address), expected="a free port of this machine", found="one in use"
            ) from error
        self.address = self._server.address
        self._stopped = (
            keep_renewed(self.identities, clock, self._log),
            repeated(self, _WATCH_SECONDS, Server.cut, self._log),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, seconds: float = 5.0) -> bool:
        """Stop listening, and wait a while for running calls; False if some were cut off."""
        for thread in self._stopped:
            thread.set()
        return self._server.stop(seconds)

    def _party(self, context: Any) -> Party:
        """Who calls. Raises: FlightPeerUnknown, PolicyExpired."""
        policy = self._policy()
        require_window(policy, self._clock())
        party = party_of(policy, context.auth_context())
        if party is None:
            raise FlightPeerUnknown("peer", expected="a party of the policy", found="another")
        return party

    def _refuse(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        def refused(party: Party, running: Running) -> None:
            raise _not_offered("do_exchange")

        self._guard.serve(context, send, refused)

    def _exchange(self, requests: Iterator[bytes], context: Any, send: Send) -> None:
        def served(party: Party, running: Running) -> None:
            identity = self.identities.of(pinned_key(context))
            allowance = Allowance.agreed(self._policy(), self._seconds)
            spki = party.channel_certificate.spki_sha256

            def prove(nonce: Nonce) -> None:
                allowance.spend()
                stream.send_evidence(identity.answer_challenge(nonce, spki, NO_TASK))

            stream = _Stream(requests, send, running, prove)
            stream.begin()
            method, about = stream.request()
            self._serve(method, Call(party.id, about), stream)

        self._guard.serve(context, send, served)

    def _serve(self, method: str, call: Call, stream: _Stream) -> None:
        service, caps = self._service, self._limits.rows
        if method == GET:
            stream.give(service.get(call))
        elif method == PUT:
            rows = stream.take(caps)
            answer = service.put(call, rows)
            for _ in rows:  # a service that looked at a part: the rest must be whole, too
                pass
            stream.acknowledge(answer or b"")
        elif method == EXCHANGE:
            rows = stream.take(caps)
            given = service.exchange(call, rows)
            for _ in rows:
                pass
            stream.give(given)
        else:
            raise _not_offered(method)

    def cut(self) -> None:
        """Once a second: end calls of silent peers, and of parties that may call no more."""
        self._guard.cut_silent()
        for running in list(self._guard.running.values()):
            try:
                self._party(running.context)
            except Exception:  # noqa: BLE001 - logged where the call ends
                running.context.cancel()


class _Stream(ServerExchange):
    """One call. A peer that is waited for may be silent for a while; the service takes its time."""

    def __init__(
        self,
        requests: Iterator[bytes],
        send: Send,
        running: Running,
        prove: Callable[[Nonce], None],
    ) -> None:
        def sent(frame: bytes) -> None:
            running.heard()
            send(frame)
            running.busy()

        super().__init__(requests, sent)
        self._running, self._prove, self._begun = running, prove, False

    def _next(self) -> Any:
        if self._begun:
            self._running.heard()
        frame = super()._next()
        self._begun = True
        self._running.busy()
        return frame

    def begin(self) -> None:
        """The first frames: a challenge, which is answered before anything is told or asked."""
        if self.command() != COMMAND:
            raise MessageUnexpected("descriptor", expected=COMMAND.decode(), found="another")
        hello = self.hello()
        if hello.task or hello.dataset or hello.release:
            raise MessageUnexpected("hello", expected="a nonce alone", found="more")
        self._prove(hello.nonce)

    def request(self) -> tuple[str, bytes]:
        """Method, and what it is about."""
        _, members = self._message("request")
        return members["method"], members["about"]

    def take(self, caps: Caps) -> pa.RecordBatchReader:
        """The rows that come, up to the message that says that these were all.

        Raises: what `batches` raises, and RowsMalformed; from the reader, too.
        """
        schema = self.schema()

        def batches() -> Iterator[pa.RecordBatch]:
            for _, batch in self.batches(caps, self._prove):
                require_consistent(batch, "batch")
                yield batch

        return pa.RecordBatchReader.from_batches(schema, batches())

    def give(self, rows: Rows) -> None:
        """Send rows, as many as are asked for, and wait until all were received.

        Raises: ColumnTypeNotCarried, MessageOversized; what ended the call.
        """
        schema, batches = batches_of(rows)
        require_plain(schema)
        schema = without_metadata(schema)
        self._send(schema_frame(schema))
        asked = number = count = 0
        for batch in batches:
            for piece in pieces(pa.RecordBatch.from_arrays(batch.columns, schema=schema)):
                while not asked:
                    asked = self._asked()
                self._send(rows_frame(piece, number))
                asked, number, count = asked - 1, number + 1, count + piece.num_rows
                # What was asked for meanwhile stays in the queue of gRPC, in its order.
        self._say("complete", batches=number, rows=count)
        while not self._done():
            pass

    def _asked(self) -> int:
        """How many more; 0 after another message."""
        name, members = self._message("more", "challenge")
        if name == "challenge":
            self._prove(Nonce(members["nonce"]))
            return 0
        if not 0 < members["batches"] <= WINDOW:
            raise MessageUnexpected("more", expected=f"1 to {WINDOW}", found="another number")
        return int(members["batches"])

    def _done(self) -> bool:
        name, members = self._message("received", "more", "challenge")
        if name == "challenge":
            self._prove(Nonce(members["nonce"]))
        return name == "received"


def _not_offered(method: str) -> ServiceMethodNotOffered:
    return ServiceMethodNotOffered(
        "method", expected="one that this service has", found=ascii(method)[:40]
    )
