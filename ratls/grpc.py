"""gRPC to an attested enclave: a client's channel, and what a server adds.

    attestation = Attestation(enclave_identity, lambda: policy)      # server
    server = grpc.server(pool, interceptors=[attestation.interceptor])
    attestation.add_to(server)
    server.add_secure_port("127.0.0.1:7443", attestation.credentials())

    with channel(Address("127.0.0.1", 7443), identity, verifier) as attested:   # client
        stub = SomeStub(attested)

gRPC hands out no exporter value and connects again by itself. So the channel trusts the verified
certificate alone, whose key only this start of the enclave has, and the server refuses each call on
a connection that was not challenged. What that does not stop: docs/seat.md.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from policy.agreement import require_window
from policy.document import Policy
from policy.sections import Party
from ratls.address import Address
from ratls.appraise import AdmittedCertificate, appraise_certificate
from ratls.errors import AuthorizationError, CallFailed, DeadlineExceeded, PeerIdentityError
from ratls.identity import EnclaveIdentity
from ratls.pin import ChannelIdentity, close_channel, pinned_channel
from ratls.probe import probe_name
from ratls.server_stream import refusal_status
from ratls.session import Allowance, Challenger, Session, Verifier, utc_now
from verifier.errors import RatlsError

SERVICE = "ratls.Attestation"
_CHALLENGE = f"/{SERVICE}/Challenge"
_TOKEN = "ratls-connection-bin"  # noqa: S105 - a name
_CONNECTIONS = 4096  # that are remembered; the oldest gives way

_LARGEST = 1 << 30


class GrpcConnectionUnproved(AuthorizationError):
    """A call came on a connection on which the enclave was not challenged."""

    code = "grpc-connection-unproved"
    default_fix = "call again: the channel lets the enclave prove itself on the new connection"


class GrpcPeerUnknown(PeerIdentityError):
    """The channel certificate is that of no party in the policy."""

    code = "grpc-peer-unknown"
    default_fix = "use the channel certificate that the policy lists for your party"


# Server


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
    ) -> None:
        """`policy` lists the parties that may call; it is asked at each call."""
        self._identity, self._policy, self._clock = identity, policy, clock
        self._seconds, self._lock = seconds, threading.Lock()
        self._proved: OrderedDict[str, _Connection] = OrderedDict()  # by gRPC's name of the peer
        self._allowances: dict[str, Allowance] = {}
        self.interceptor: grpc.ServerInterceptor = _Guard(self)

    def credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS (RFC 8446, section 4.3.2) with the parties of the policy, and nobody else."""
        roots = "".join(p.channel_certificate.pem for p in self._policy().voters).encode()
        pair = (self._identity.key_pem, self._identity.certificate_pem)
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=True)

    def add_to(self, server: grpc.Server) -> None:
        """Answer challenges; without it every call is refused."""
        handler: Any = grpc.unary_unary_rpc_method_handler(self._answer)
        service = grpc.method_handlers_generic_handler(SERVICE, {"Challenge": handler})
        server.add_generic_rpc_handlers((service,))

    def party(self, context: Any) -> Party:
        """Who calls, by its certificate. Raises: GrpcPeerUnknown, PolicyExpired."""
        policy = self._policy()
        require_window(policy, self._clock())
        shown = [bytes(pem) for pem in context.auth_context().get("x509_pem_cert", ())]
        for party in policy.voters:
            if shown == [party.channel_certificate.pem.encode()]:
                return party
        raise GrpcPeerUnknown("peer", expected="a party of the policy", found="another")

    def _answer(self, raw: bytes, context: Any) -> bytes:
        with _told(context):
            party, peer = self.party(context), context.peer()
            with self._lock:
                known = self._proved.get(peer)
                self._allowances.setdefault(party.id, Allowance(self._seconds)).spend()
            if known is None or known.party != party.id:
                known = _Connection(party.id, self._session(party))
            answer = known.session.receive(raw)
            with self._lock:
                self._proved[peer] = known
                self._proved.move_to_end(peer)
                while len(self._proved) > _CONNECTIONS:
                    self._proved.popitem(last=False)
            context.send_initial_metadata(((_TOKEN, known.token),))
            return answer or b""

    def _session(self, party: Party) -> Session:
        return Session(
            client=False,
            prover=self._identity,
            peer_spki_sha256=party.channel_certificate.spki_sha256,
            own_binder=b"",
            challenger=None,
            seconds=self._seconds,
        )

    def require_proved(self, context: Any) -> None:
        """This very connection was challenged. Raises: GrpcConnectionUnproved; as `party`."""
        party = self.party(context)
        told = [v for n, v in context.invocation_metadata() if n == _TOKEN]
        with self._lock:
            known = self._proved.get(context.peer())
        if (
            known is None
            or known.party != party.id
            or len(told) != 1
            or not hmac.compare_digest(known.token, bytes(told[0]))
        ):
            raise GrpcConnectionUnproved("call", expected="a challenge before it", found="none")


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
        if handler is None or handler_call_details.method == _CHALLENGE:
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


# Client


def channel(
    address: Address,
    identity: ChannelIdentity,
    verifier: Verifier,
    *,
    timeout: float = 10.0,
    largest: int = _LARGEST,
) -> grpc.Channel:
    """A channel to an enclave that has proved itself, and proves itself again on each connection.

    Args:
        address: From local configuration.
        largest: Bytes that one message from the enclave may have.

    Raises:
        TransportError: Nothing listens there, or the peer refuses, or is late.
        RatlsError: What the appraisal of its certificate or of its answer says.
    """
    place, der = probe_name(address, timeout)
    admitted = appraise_certificate(der, verifier.expect(), at=verifier.clock())
    pinned = pinned_channel(place, admitted, identity, largest)
    proof = _Proof(pinned, admitted, identity, verifier, str(address), timeout)
    try:
        proof.token()
    except BaseException:
        close_channel(pinned)
        raise
    return grpc.intercept_channel(pinned, proof)


class _Details(
    namedtuple("_Details", "method timeout metadata credentials wait_for_ready compression"),
    grpc.ClientCallDetails,
):
    pass


class _Proof(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Before each call: the enclave has proved itself on this connection, and not too long ago."""

    def __init__(
        self,
        pinned: grpc.Channel,
        admitted: AdmittedCertificate,
        identity: ChannelIdentity,
        verifier: Verifier,
        place: str,
        timeout: float,
    ) -> None:
        self._challenge: Any = pinned.unary_unary(_CHALLENGE)
        self._admitted, self._identity, self._verifier = admitted, identity, verifier
        self._place, self._timeout, self._lock = place, timeout, threading.Lock()
        self._session: Session | None = None
        self._token = b""

    def token(self) -> bytes:
        """The server's name of the connection, on which it has proved itself."""
        with self._lock:
            if self._session is None:
                # Anew, from the certificate on: what was admitted once may not be so now.
                der, expected = self._admitted.der, self._verifier.expect()
                admitted = appraise_certificate(der, expected, at=self._verifier.clock())
                own = self._identity.spki_sha256
                session = Session(
                    client=True,
                    prover=None,
                    peer_spki_sha256=b"",
                    own_binder=b"",
                    challenger=Challenger(admitted, own, self._verifier),
                    seconds=self._verifier.seconds,
                )
                self._ask(session, session.open())
                self._session = session
            else:
                self._session.require_still_admitted()
                if self._session.due:
                    session, self._session = self._session, None  # until it has answered
                    self._ask(session, session.challenge())
                    self._session = session
            return self._token

    def _ask(self, session: Session, message: bytes) -> None:
        try:
            answer, call = self._challenge.with_call(message, timeout=self._timeout)
        except grpc.RpcError as error:
            known: Any = error
            if known.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DeadlineExceeded(
                    f"the proof of {self._place}", expected="it in time", found="none"
                ) from error
            raise CallFailed(
                f"the challenge to {self._place}", expected="an answer", found="an error"
            ) from error
        session.receive(answer)
        told = [v for n, v in call.initial_metadata() if n == _TOKEN]
        self._token = bytes(told[0]) if len(told) == 1 else b""

    def _call(self, continuation: Any, details: Any, request: Any) -> Any:
        token = self.token()
        metadata = [*(details.metadata or ()), (_TOKEN, token)]
        made = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            False,  # a call that waited for a connection would be sent on an unproved one
            getattr(details, "compression", None),
        )
        call = continuation(made, request)
        call.add_done_callback(self._ended)
        return call

    def _ended(self, call: Any) -> None:
        """After a lost connection, or a refusal, nothing is sent before a new proof."""
        if call.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
        ):
            with self._lock:
                self._session = None

    intercept_unary_unary: Any = _call
    intercept_unary_stream: Any = _call
    intercept_stream_unary: Any = _call
    intercept_stream_stream: Any = _call
