"""gRPC from both ends: calls on a proved connection alone, and a lost one is proved anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from policy.document import Policy
from ratls.address import Address
from ratls.claims import InstanceChanged
from ratls.errors import CallFailed, TransportError
from ratls.grpc import Attestation, GrpcConnectionUnproved, channel
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.pin import ChannelIdentity, pinned_channel
from ratls.probe import HandshakeFailed
from ratls.session import Verifier
from tests.ratls.test_sockets import Clock, _past, revoked
from tests.support.flight_peers import LOOPBACK, NOW, Study
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.crl import CertificateRevoked

pytestmark = pytest.mark.slow


class Served:
    """A service of the user's own: it sends back what it is given, in all four kinds of call."""

    def __init__(self, identity: EnclaveIdentity, policy: Callable[[], Policy]) -> None:
        self.entered: list[str] = []
        self.received: list[bytes] = []
        self.ended: list[str] = []  # calls that waited until they were cut off
        self.attestation = Attestation(identity, policy)
        self.server = grpc.server(
            ThreadPoolExecutor(8), interceptors=[self.attestation.interceptor]
        )
        made = {
            "One": grpc.unary_unary_rpc_method_handler(self._one),
            "Many": grpc.stream_stream_rpc_method_handler(self._many),
            "Out": grpc.unary_stream_rpc_method_handler(self._out),
            "In": grpc.stream_unary_rpc_method_handler(self._in),
            "Wait": grpc.unary_stream_rpc_method_handler(self._wait),
            "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
            "Deny": grpc.unary_unary_rpc_method_handler(self._deny),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("user.Echo", made),)
        )
        self.attestation.add_to(self.server)
        port = self.server.add_secure_port(f"{LOOPBACK}:0", self.attestation.credentials())
        self.address = Address(LOOPBACK, port)
        self.server.start()

    def _one(self, request: bytes, context: Any) -> bytes:
        self.entered.append("One")
        return request

    def _many(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.entered.append("Many")
        for request in requests:
            self.received.append(request)
            yield request

    def _out(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.entered.append("Out")
        yield request
        yield request

    def _wait(self, request: bytes, context: Any) -> Iterator[bytes]:
        """One answer, and then none until the call ends."""
        yield request
        self._hold(request, context)

    def _hold(self, request: bytes, context: Any) -> bytes:
        self.entered.append("Hold")
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait(HANG_LIMIT)
        self.ended.append("Hold")
        return request

    def _deny(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        raise AssertionError

    def _in(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.entered.append("In")
        return b"".join(requests)


@contextmanager
def serving(
    study: Study,
    identity: EnclaveIdentity | None = None,
    policy: Callable[[], Policy] | None = None,
) -> Iterator[Served]:
    served = Served(identity or study.identity(), policy or (lambda: study.policy))
    try:
        yield served
    finally:
        served.server.stop(None).wait()


def attested(
    study: Study,
    address: Address,
    verifier: Verifier | None = None,
    own: ChannelIdentity | None = None,
) -> grpc.Channel:
    judge = verifier or Verifier(lambda: study.expectation)
    return channel(address, own or study.channel(), judge, timeout=HANG_LIMIT)


def one(made: grpc.Channel, data: bytes = b"x") -> bytes:
    call: Any = made.unary_unary("/user.Echo/One")
    return bytes(call(data, timeout=HANG_LIMIT))


def test_all_kinds_of_calls(study: Study) -> None:
    with serving(study) as served, attested(study, served.address) as made:
        assert one(made) == b"x"
        many: Any = made.stream_stream("/user.Echo/Many")
        assert list(many(iter([b"1", b"2"]))) == [b"1", b"2"]
        out: Any = made.unary_stream("/user.Echo/Out")
        assert list(out(b"1")) == [b"1", b"1"]
        gather: Any = made.stream_unary("/user.Echo/In")
        assert gather(iter([b"1", b"2"])) == b"12"


@pytest.mark.parametrize("method", ["One", "Many", "Out", "In"])
def test_a_call_before_the_challenge(study: Study, method: str) -> None:
    """B18: pinned and known, and yet no handler is entered."""
    count_refusal()
    with serving(study) as served:
        admitted = study.admitted(served.attestation.identities.current)
        with pinned_channel(served.address, admitted, study.channel()) as made:
            streams = {"One": "unary_unary", "Many": "stream_stream", "Out": "unary_stream"}
            kind = streams.get(method, "stream_unary")
            call: Any = getattr(made, kind)(f"/user.Echo/{method}")
            request = iter([b"x"]) if kind.startswith("stream") else b"x"
            with pytest.raises(grpc.RpcError) as caught:
                list(call(request, timeout=HANG_LIMIT))
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert GrpcConnectionUnproved.code in error.details()
        assert served.entered == []
        with attested(study, served.address) as honest:
            assert one(honest) == b"x"


def test_the_proof_of_another_connection(study: Study) -> None:
    """B18: a token of one connection is worth nothing on another."""
    count_refusal()
    with serving(study) as served, attested(study, served.address):
        [known] = served.attestation._proved.values()
        admitted = study.admitted(served.attestation.identities.current)
        with pinned_channel(served.address, admitted, study.channel()) as other:
            call: Any = other.unary_unary("/user.Echo/One")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"x", metadata=[("ratls-connection-bin", known.token)], timeout=HANG_LIMIT)
            assert GrpcConnectionUnproved.code in caught.value.details()  # type: ignore[attr-defined]
        assert served.entered == []


def test_a_stranger_with_the_name_of_a_party(study: Study) -> None:
    """I03."""
    stranger = ChannelIdentity.of(local_party("alice-clinic", NOW, copy=1))
    with serving(study) as served, refused(CallFailed):
        attested(study, served.address, own=stranger)


def test_a_lost_connection_is_proved_anew(study: Study) -> None:
    """Decision 1: gRPC connects again by itself. What goes over the new connection is refused."""
    count_refusal()
    with serving(study) as served, Relay((LOOPBACK, served.address.port)) as relay:
        quotes = []
        answer = served.attestation.identities.current.answer_challenge

        def counted(*given: Any) -> bytes:
            quotes.append(given)
            return answer(*given)

        served.attestation.identities.current.answer_challenge = counted  # type: ignore[method-assign]
        with attested(study, Address.parse(relay.address)) as made:
            assert one(made) == b"x"
            assert len(quotes) == 1
            relay.cut()
            again = eventually(lambda: one(made, b"again"), grpc.RpcError, TransportError)
            assert again == b"again"
            assert len(quotes) == 2


def test_the_enclave_proves_itself_again_after_a_while(study: Study) -> None:
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        assert one(made) == b"x"
        clock.passed += 16 * 60
        assert one(made) == b"x"
        identity = served.attestation.identities.current
        identity._claims = replace(identity._claims, instance=b"o" * 16)  # type: ignore[arg-type]
        clock.passed += 16 * 60
        with refused(InstanceChanged):
            one(made)
        assert served.entered == ["One", "One"]


def test_the_lists_turn_against_the_platform(study: Study) -> None:
    clock, held = Clock(), [study.expectation]
    verifier = Verifier(lambda: held[0], seconds=clock)
    with serving(study) as served, attested(study, served.address, verifier) as made:
        assert one(made) == b"x"
        held[0] = revoked(study)
        clock.passed += 61
        with refused(CertificateRevoked):
            one(made)
        assert served.entered == ["One"]


def test_the_policy_ends(study: Study) -> None:
    count_refusal()
    held = [study.policy]
    with serving(study, policy=lambda: held[0]) as served, attested(study, served.address) as made:
        assert one(made) == b"x"
        held[0] = study.parties.policy(expires=_past(study))
        with pytest.raises(grpc.RpcError) as caught:
            one(made)
        assert "policy-expired" in caught.value.details()  # type: ignore[attr-defined]


def test_a_channel_to_a_server_whose_policy_has_ended(study: Study) -> None:
    """The caller is told which refusal it was, and by what id the operator finds it."""
    ended = study.parties.policy(expires=_past(study))
    with serving(study, policy=lambda: ended) as served, refused(PeerRefused) as seen:
        attested(study, served.address)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "policy-expired"
    assert len(seen.error.correlation_id) == 16


def test_a_server_without_the_challenge(study: Study) -> None:
    """B05, X07: an ordinary gRPC server behind the enclave's certificate."""
    count_refusal()
    identity = study.identity()
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port(
        f"{LOOPBACK}:0", Attestation(identity, lambda: study.policy).credentials()
    )
    server.start()
    try:
        with refused(CallFailed):
            attested(study, Address(LOOPBACK, port))
    finally:
        server.stop(None).wait()


def test_a_server_of_plain_text(study: Study) -> None:
    """B21: nothing falls back to a connection without TLS."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    try:
        with refused(HandshakeFailed):
            attested(study, Address(LOOPBACK, port))
    finally:
        server.stop(None).wait()
