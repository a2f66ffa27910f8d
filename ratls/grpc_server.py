"""What makes a gRPC server one of an attested enclave; the clients' end is `ratls.grpc`.

    attestation = Attestation(enclave_identity, lambda: policy)
    server = grpc.server(pool, interceptors=[attestation.interceptor])
    attestation.add_to(server)
    server.add_secure_port("127.0.0.1:7443", attestation.credentials())

A call is refused on a connection on which the enclave was not challenged, before a handler is
entered. A call that runs ends when its party may call no more. Each has a thread of the pool, also
while its first message has not come: a party has a share of them, and the pool needs room beside.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc

from policy.agreement import require_window
from policy.document import Policy
from policy.sections import Party
from ratls.errors import AuthorizationError, PeerIdentityError
from ratls.evidence import Allowance
from ratls.flight_server import Slots, party_of, pinned_key, roots_of, server_credentials
from ratls.identity import EnclaveIdentity, Identities
from ratls.log import Log
from ratls.repeated import keep_renewed, repeated
from ratls.server_stream import refusal_status
from ratls.session import Session, utc_now
from verifier.errors import RatlsError

SERVICE = "ratls.Attestation"
CHALLENGE = f"/{SERVICE}/Challenge"
TOKEN = "ratls-connection-bin"  # noqa: S105 - a name
_CONNECTIONS = 4096  # that are remembered; the oldest gives way
_WATCH_SECONDS = 1.0


class GrpcConnectionUnproved(AuthorizationError):
    """A call came on a connection on which the enclave was not challenged."""

    code = "grpc-connection-unproved"
    default_fix = "call again: the channel lets the enclave prove itself on the new connection"


class GrpcPeerUnknown(PeerIdentityError):
    """The channel certificate is that of no party in the policy."""

    code = "grpc-peer-unknown"
    default_fix = "use the channel certificate that the policy lists for your party"


class _Connection:
    """A connection on which the enclave has proved itself."""

    def __init__(self, party: str, session: Session) -> None:
        self.party, self.session, self.token = party, session, secrets.token_bytes(16)


class Attestation:
    """What makes a gRPC server one of an attested enclave."""

    def __init__(
        self,
        identity: EnclaveIdentity,
        policy: Callable[[], Policy],
        *,
        clock: Callable[[], Any] = utc_now,
        seconds: Callable[[], float] = time.monotonic,
        log: Log | None = None,
        calls_per_party: int = 8,
    ) -> None:
        """Begin.

        Args:
            identity: What the server shows and proves; its certificate is renewed in time.
            policy: Lists the parties that may call; asked at each call, and while calls run.
            log: Refusals, by code and id, and what became of certificates; None for no log.
            calls_per_party: That run at once, and as many challenges; more are refused. The
                server's pool has several times as many threads, or one party makes others wait.
        """
        self._shares = Slots(_CONNECTIONS, calls_per_party)
        self._shares_of_challenges = Slots(_CONNECTIONS, calls_per_party)
        self._policy, self._clock, self._seconds = policy, clock, seconds
        self.log = log
        self.identities, self._lock = Identities(identity), threading.Lock()
        self._proved: OrderedDict[str, _Connection] = OrderedDict()  # by gRPC's name of the peer
        self._allowances: dict[str, Allowance] = {}
        self._running: set[Any] = set()  # contexts of calls
        self.interceptor: grpc.ServerInterceptor = _Guard(self)
        keep_renewed(self.identities, clock, log)
        repeated(self, _WATCH_SECONDS, Attestation.cut, log)

    def credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS (RFC 8446, section 4.3.2) with the parties of the policy, and nobody else.

        A new connection is shown the present certificate, and judged by the present policy.
        """
        identities, policy = self.identities, self._policy
        return server_credentials(lambda: identities.current.pair, lambda: roots_of(policy()))

    def add_to(self, server: grpc.Server) -> None:
        """Answer challenges; without it every call is refused."""
        handler: Any = grpc.stream_unary_rpc_method_handler(self._answer)
        service = grpc.method_handlers_generic_handler(SERVICE, {"Challenge": handler})
        server.add_generic_rpc_handlers((service,))

    def party(self, context: Any) -> Party:
        """Who calls, by its certificate. Raises: GrpcPeerUnknown, PolicyExpired."""
        policy = self._policy()
        require_window(policy, self._clock())
        party = party_of(policy, context.auth_context())
        if party is None:
            raise GrpcPeerUnknown("peer", expected="a party of the policy", found="another")
        return party

    def _answer(self, messages: Iterator[bytes], context: Any) -> bytes:
        with _told(context, self.log), self._shares_of_challenges.hold(self.party(context).id):
            raw = _only(messages, context)
            party, peer = self.party(context), context.peer()
            with self._lock:
                known = self._proved.get(peer)
                self._allowances.setdefault(party.id, self._allowance()).spend()
            if known is None or known.party != party.id:
                known = _Connection(party.id, self._session(party, pinned_key(context)))
            answer = known.session.receive(raw)
            with self._lock:
                self._proved[peer] = known
                self._proved.move_to_end(peer)
                while len(self._proved) > _CONNECTIONS:
                    self._proved.popitem(last=False)
            context.send_initial_metadata(((TOKEN, known.token),))
            return answer or b""

    def _session(self, party: Party, pinned: bytes) -> Session:
        return Session(
            client=False,
            prover=self.identities.of(pinned),
            peer_spki_sha256=party.channel_certificate.spki_sha256,
            own_binder=b"",
            challenger=None,
            seconds=self._seconds,
            allowance=self._allowance(),
        )

    def _allowance(self) -> Allowance:
        return Allowance.agreed(self._policy(), self._seconds)

    def require_proved(self, context: Any) -> None:
        """This very connection was challenged. Raises: GrpcConnectionUnproved; as `party`."""
        party = self.party(context)
        told = [v for n, v in context.invocation_metadata() if n == TOKEN]
        with self._lock:
            known = self._proved.get(context.peer())
        if (
            known is None
            or known.party != party.id
            or len(told) != 1
            or not hmac.compare_digest(known.token, bytes(told[0]))
        ):
            raise GrpcConnectionUnproved("call", expected="a challenge before it", found="none")
        self._running.add(context)
        if not context.add_callback(lambda: self._running.discard(context)):
            self._running.discard(context)  # it has ended meanwhile

    @contextmanager
    def running(self, context: Any) -> Iterator[None]:
        """The block is a call of a party with a share left, on a proved connection.

        Raises: ExchangesExhausted; as `require_proved`.
        """
        with self._shares.hold(self.party(context).id):
            self.require_proved(context)
            yield

    def cut(self) -> None:
        """Once a second: end calls of parties that may call no more."""
        for context in list(self._running):
            try:
                self.party(context)
            except RatlsError:
                context.cancel()


@contextmanager
def _told(context: Any, log: Log | None) -> Iterator[None]:
    """A refusal leaves as code and id; the operator finds the same."""
    try:
        yield
    except RatlsError as refusal:
        number = secrets.token_hex(8)
        if log is not None:
            log.warning("refused", code=refusal.code, id=number)
        status, text, details = refusal_status(refusal, number)
        context.set_trailing_metadata(details)
        context.abort(status, text)


@contextmanager
def _refused_before(attestation: Attestation, context: Any) -> Iterator[None]:
    """The block is the handler: what it raises is its own."""
    with ExitStack() as held:
        with _told(context, attestation.log):
            held.enter_context(attestation.running(context))
        yield


class _Guard(grpc.ServerInterceptor):
    """Refuses each call before its handler is entered."""

    def __init__(self, attestation: Attestation) -> None:
        self._attestation = attestation

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method == CHALLENGE:
            return handler
        single, parts = not handler.request_streaming, handler.response_streaming
        kind = f"{'unary' if single else 'stream'}_{'stream' if parts else 'unary'}"
        serve, attestation = getattr(handler, kind), self._attestation

        def given(requests: Iterator[Any], context: Any) -> Any:
            return _only(requests, context) if single else requests

        def one(requests: Iterator[Any], context: Any) -> Any:
            with _refused_before(attestation, context):
                return serve(given(requests, context), context)

        def many(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            with _refused_before(attestation, context):
                yield from serve(given(requests, context), context)

        # As a stream, also where one message is due: gRPC waits for that one before any handler is
        # entered, in a thread of the pool, and says nothing of whom it waits for.
        make = (
            grpc.stream_stream_rpc_method_handler if parts else grpc.stream_unary_rpc_method_handler
        )
        return make(
            many if parts else one, handler.request_deserializer, handler.response_serializer
        )


def _only(messages: Iterator[Any], context: Any) -> Any:
    """The one message of a call."""
    for message in messages:
        return message
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a message is due")
    raise AssertionError("abort raises")
