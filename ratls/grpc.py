"""gRPC to an attested enclave: a client's channel. What a server adds is `Attestation`.

    attestation = Attestation(enclave_identity, lambda: policy)      # server
    server = grpc.server(pool, interceptors=[attestation.interceptor])
    attestation.add_to(server)
    server.add_secure_port("127.0.0.1:7443", attestation.credentials())

    with channel(Address("127.0.0.1", 7443), identity, verifier) as attested:   # client
        stub = SomeStub(attested)

gRPC hands out no exporter value and connects again by itself. So the channel trusts the verified
certificate alone, whose key only this start of the enclave has, and the server refuses each call on
a connection that was not challenged. While calls run the enclave is challenged again beside them,
on their connection; where it fails, they end. What that does not stop: docs/seat.md.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self
from weakref import WeakKeyDictionary

import grpc

from ratls.address import Address
from ratls.appraise import AdmittedCertificate, appraise_certificate
from ratls.claims import InstanceChanged
from ratls.client_call import raise_peer_refusal
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.flight_data import PIN
from ratls.framing import REFUSAL_KEY
from ratls.grpc_server import CHALLENGE, TOKEN
from ratls.grpc_server import Attestation as Attestation
from ratls.grpc_server import GrpcConnectionUnproved as GrpcConnectionUnproved
from ratls.grpc_server import GrpcPeerUnknown as GrpcPeerUnknown
from ratls.peer_refusal import PeerRefused
from ratls.pin import ChannelIdentity, close_channel, pinned_channel
from ratls.probe import probe_name
from ratls.repeated import repeated
from ratls.session import Challenger, Session, Verifier
from verifier.errors import RatlsError

_LARGEST = 1 << 30
_LOOK_SECONDS = 1.0
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


def channel(
    address: Address,
    identity: ChannelIdentity,
    verifier: Verifier,
    *,
    timeout: float = 10.0,
    largest: int = _LARGEST,
) -> grpc.Channel:
    """A channel to an enclave that has proved itself, and proves itself again on each connection.

    It belongs to this start of the enclave: another certificate of it is verified anew, another
    start is refused.

    Args:
        address: From local configuration.
        largest: Bytes that one message from the enclave may have.

    Raises:
        TransportError: Nothing listens there, or the peer is late, or refuses (`PeerRefused`).
        RatlsError: What the appraisal of its certificate or of its answer says.
    """
    return _Channel(_Proof(address, identity, verifier, timeout, largest))


class _Proof:
    """A pinned channel whose enclave has proved itself, and the calls that run on it."""

    def __init__(
        self,
        address: Address,
        identity: ChannelIdentity,
        verifier: Verifier,
        timeout: float,
        largest: int,
    ) -> None:
        self._address, self._identity, self._verifier = address, identity, verifier
        self._timeout, self._largest = timeout, largest
        self._proving = threading.RLock()
        self._calls: dict[Any, Session] = {}  # that run, and on whose proof they began
        self.reasons: WeakKeyDictionary[Any, RatlsError] = WeakKeyDictionary()  # of calls cut off
        self._session: Session | None = None
        self._doubt = False  # a call ended as if its connection were another
        self._token = b""
        self.pinned, self._admitted = self._connected(None)
        self._stopped = repeated(self, _LOOK_SECONDS, _Proof.look, None)

    # Connections

    def _connected(
        self, before: AdmittedCertificate | None
    ) -> tuple[grpc.Channel, AdmittedCertificate]:
        """From the first step on. Raises: as `channel`; InstanceChanged."""
        verifier = self._verifier
        place, der = probe_name(self._address, self._timeout)
        admitted = appraise_certificate(der, verifier.expect(), at=verifier.clock())
        if before is not None and admitted.claims.instance != before.claims.instance:
            refusal = InstanceChanged(
                "enclave", expected="the start that this channel was made for", found="another"
            )
            refusal.fix = "make a new channel: it verifies the enclave that runs now"
            raise refusal
        made = pinned_channel(place, admitted, self._identity, self._largest)
        try:
            self._begin(made, admitted)
        except BaseException:
            close_channel(made)
            raise
        return made, admitted

    def _begin(self, pinned: grpc.Channel, admitted: AdmittedCertificate) -> None:
        own = self._identity.spki_sha256
        session = Session(
            client=True,
            prover=None,
            peer_spki_sha256=b"",
            own_binder=b"",
            challenger=Challenger(admitted, own, self._verifier),
            seconds=self._verifier.seconds,
        )
        self._ask(pinned, admitted, session, session.open())
        self._session, self._doubt = session, False

    def _ask(
        self, pinned: grpc.Channel, admitted: AdmittedCertificate, session: Session, message: bytes
    ) -> None:
        challenge: Any = pinned.unary_unary(CHALLENGE)
        metadata = [(PIN, hashlib.sha256(admitted.spki).digest())]
        try:
            answer, call = challenge.with_call(message, timeout=self._timeout, metadata=metadata)
        except grpc.RpcError as error:
            known: Any = error
            raise_peer_refusal(known, known.code())
            if known.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DeadlineExceeded(
                    f"the proof of {self._address}", expected="it in time", found="none"
                ) from error
            raise CallFailed(
                f"the challenge to {self._address}", expected="an answer", found="an error"
            ) from error
        session.receive(answer)
        told = [v for n, v in call.initial_metadata() if n == TOKEN]
        self._token = bytes(told[0]) if len(told) == 1 else b""

    # Proofs

    def proved(self) -> tuple[grpc.Channel, bytes, Session]:
        """Where a call may go: the enclave has proved itself there, and not too long ago.

        Raises: as `channel`.
        """
        with self._proving:
            try:
                self._prove()
            except BaseException:
                self._session = None
                raise
            assert self._session is not None
            return self.pinned, self._token, self._session

    def _prove(self) -> None:
        if self._session is not None:
            self._session.require_still_admitted()
            if not (self._doubt or self._session.due):
                return
            session, self._session = self._session, None  # until it has answered
            # Another connection, which gRPC has made by itself, and on which no challenge was due.
            with suppress(CallFailed, PeerRefused):
                self._ask(self.pinned, self._admitted, session, session.challenge())
                self._session, self._doubt = session, False
                return
        # Anew, from the certificate on: what was admitted once may not be so now.
        verifier, der = self._verifier, self._admitted.der
        admitted = appraise_certificate(der, verifier.expect(), at=verifier.clock())
        try:
            self._begin(self.pinned, admitted)
        except (CallFailed, PeerRefused):  # another certificate now, or a session that went on
            made = self._connected(self._admitted)
            self._cut(self._broken())
            threading.Thread(target=close_channel, args=[self.pinned], daemon=True).start()
            self.pinned, self._admitted = made

    def _broken(self) -> CallFailed:
        return CallFailed(
            f"the connection to {self._address}", expected="one that lasts", found="another one"
        )

    def look(self) -> None:
        """Once a second: what runs ends where the enclave is no longer what it has proved."""
        if not self._calls:
            return
        try:
            _, _, session = self.proved()
        except RatlsError as refusal:
            self._cut(refusal)
            return
        for call, begun in list(self._calls.items()):
            # On an earlier connection, which cannot be challenged any more.
            if begun is not session and begun.due:
                self.reasons[call] = self._broken()
                call.cancel()

    def _cut(self, refusal: RatlsError) -> None:
        for call in list(self._calls):
            self.reasons[call] = refusal
            call.cancel()

    def sending(self, session: Session, raw: bytes) -> bytes | None:
        """A message to be sent waits for a proof that is due; None: it is not sent."""
        session.count(len(raw))
        if session.due:
            try:
                self.proved()
            except RatlsError as refusal:
                self._cut(refusal)
                return None
        return raw

    def began(self, call: Any, session: Session) -> None:
        """A call runs."""
        self._calls[call] = session
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        self._calls.pop(call, None)
        # A service may say these codes, too; with our key they are `Attestation`'s.
        ours = call.code() in _REFUSED and REFUSAL_KEY in dict(call.trailing_metadata() or ())
        if ours or call.code() is grpc.StatusCode.UNAVAILABLE:
            self._doubt = True  # nothing is sent before another proof

    def close(self) -> None:
        """End all calls and the connection."""
        self._stopped.set()
        close_channel(self.pinned)


class _Method:
    """One method, of any kind: each call begins where the enclave has proved itself."""

    def __init__(
        self,
        proof: _Proof,
        kind: str,
        name: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._proof, self._kind, self._name = proof, kind, name
        self._serialize, self._deserialize = serialize, deserialize
        self._unary = kind.endswith("unary")

    def _begin(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        pinned, token, session = self._proof.proved()

        def sent(message: Any) -> bytes | None:
            raw = message if self._serialize is None else self._serialize(message)
            return self._proof.sending(session, raw)

        def received(raw: bytes) -> Any:
            session.count(len(raw))
            return raw if self._deserialize is None else self._deserialize(raw)

        inner: Any = getattr(pinned, self._kind)(self._name, sent, received)
        made = (inner.future if self._unary else inner)(
            request,
            timeout=timeout,
            metadata=[*(metadata or ()), (TOKEN, token)],
            credentials=credentials,
            wait_for_ready=False,  # a call that waited for a connection would begin on another one
            compression=compression,
        )
        self._proof.began(made, session)
        return made

    def __call__(self, request: Any, *given: Any, **options: Any) -> Any:
        if not self._unary:
            return _Stream(self._begin(request, *given, **options), self._proof)
        return self.with_call(request, *given, **options)[0]

    def with_call(self, request: Any, *given: Any, **options: Any) -> tuple[Any, Any]:
        """The answer, and the call."""
        call, ended = self._begin(request, *given, **options), threading.Event()
        call.add_done_callback(lambda _: ended.set())
        try:
            ended.wait()  # `result` alone would wake up at every message that is sent
            return call.result(), call
        except grpc.FutureCancelledError as error:
            raise (self._proof.reasons.get(call) or error) from error
        except BaseException:
            call.cancel()  # Ctrl-C: nobody waits for the answer any more
            raise

    def future(self, request: Any, *given: Any, **options: Any) -> Any:
        """The call, which goes on in the background."""
        return self._begin(request, *given, **options)


class _Stream:
    """A call whose answers come one after another; cut off, it says why."""

    def __init__(self, call: Any, proof: _Proof) -> None:
        self._call, self._proof = call, proof

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise (self._proof.reasons.get(self._call) or error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _methods(kind: str) -> Any:
    """What `grpc.Channel` has for calls of one kind."""

    def made(
        self: _Channel,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _Method(self._proof, kind, method, request_serializer, response_deserializer)

    return made


class _Channel(grpc.Channel):
    """What `channel` gives."""

    unary_unary = _methods("unary_unary")
    unary_stream = _methods("unary_stream")
    stream_unary = _methods("stream_unary")
    stream_stream = _methods("stream_stream")

    def __init__(self, proof: _Proof) -> None:
        self._proof = proof

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Of the connection of this moment."""
        self._proof.pinned.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self._proof.pinned.unsubscribe(callback)

    def close(self) -> None:
        """End all calls and the connection; also where Ctrl-C met one of them (`close_channel`)."""
        self._proof.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
