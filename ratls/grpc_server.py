"""What makes a gRPC server one of an attested enclave; the clients' end is `ratls.grpc`.

    attestation = Attestation(enclave_identity, lambda: policy)
    server = grpc.server(pool, interceptors=[attestation.interceptor])
    attestation.add_to(server)
    server.add_secure_port("127.0.0.1:7443", attestation.credentials())

A call is refused on a connection on which the enclave was not challenged, before a handler is
entered. A call that runs ends when its party may call no more.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from policy.agreement import require_window
from policy.document import Policy
from policy.sections import Party
from ratls.errors import AuthorizationError, PeerIdentityError
from ratls.flight_server import party_of, pinned_key, roots_of, server_credentials
from ratls.identity import EnclaveIdentity, Identities
from ratls.log import Log
from ratls.repeated import keep_renewed, repeated
from ratls.server_stream import refusal_status
from ratls.session import Allowance, Session, utc_now
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
    ) -> None:
        """Begin.

        Args:
            identity: What the server shows and proves; its certificate is renewed in time.
            policy: Lists the parties that may call; asked at each call, and while calls run.
            log: What became of certificates; None for no log.
        """
        self._policy, self._clock, self._seconds = policy, clock, seconds
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
        handler: Any = grpc.unary_unary_rpc_method_handler(self._answer)
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

    def _answer(self, raw: bytes, context: Any) -> bytes:
        with _told(context):
            party, peer = self.party(context), context.peer()
            with self._lock:
                known = self._proved.get(peer)
                self._allowances.setdefault(party.id, Allowance(self._seconds)).spend()
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
        )

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

    def cut(self) -> None:
        """Once a second: end calls of parties that may call no more."""
        for context in list(self._running):
            try:
                self.party(context)
            except RatlsError:
                context.cancel()


@contextmanager
def _told(context: Any) -> Iterator[None]:
    """A refusal leaves as code and id."""
    try:
        yield
    except RatlsError as refusal:
        status, text, details = refusal_status(refusal, secrets.token_hex(8))
        context.set_trailing_metadata(details)
        context.abort(status, text)


class _Guard(grpc.ServerInterceptor):
    """Refuses each call before its handler is entered."""

    def __init__(self, attestation: Attestation) -> None:
        self._attestation = attestation

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method == CHALLENGE:
            return handler
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        serve = getattr(handler, kind)

        def guarded(request: Any, context: Any) -> Any:
            with _told(context):
                self._attestation.require_proved(context)
            return serve(request, context)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)
