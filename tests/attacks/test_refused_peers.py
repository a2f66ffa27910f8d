"""S28, F16: what a peer learns by being refused: a class and a number, on every transport.

All that comes back is read below any library of ours, and is exactly a code and an id. Neither what
the policy says, nor names of parties, datasets or columns, nor a measurement is among it. The
operator finds the same id in the log, where the server's end keeps one.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest
from OpenSSL import SSL

from policy.document import Policy
from ratls.address import Address
from ratls.attested_socket import DATA, message_frame
from ratls.client_call import DO_EXCHANGE
from ratls.framing import Kind, first_frame
from ratls.framing import message_frame as flight_frame
from ratls.http import HttpTransport, serve_wsgi
from ratls.identity import EnclaveIdentity
from ratls.listener import Limits, Listener
from ratls.log import open_log
from ratls.peer_refusal import PeerRefused
from ratls.pin import ChannelIdentity, pinned_channel
from ratls.session import Verifier, read_message, write_message
from ratls.tls import Shown
from ratls.tunnel import TunnelServer
from tests.support.channels import Log, client_enclave, connect_to, listening
from tests.support.flight_peers import LOOPBACK, NOW, Study
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.transports import (
    ALL,
    FLIGHT,
    GRPC,
    HTTP,
    SOCKETS,
    TUNNEL,
    Served,
    Transport,
    raw_connection,
    read_frame,
)
from tests.support.waiting import HANG_LIMIT, eventually

pytestmark = pytest.mark.slow

ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)
HELLO = write_message("hello", nonce=bytes(32))


def private(policy: Policy) -> list[bytes]:
    """Words that only those who hold the policy should know."""
    names = {policy.study, *(party.id for party in policy.party)}
    for dataset in policy.dataset:
        names |= {dataset.id, *dataset.columns}
    for computation in policy.computation:
        names |= {computation.id, computation.run}
    names |= {policy.digest.hex(), *(e.mr_enclave for e in policy.enclave)}
    return [name.encode() for name in names if len(name) > 2] + [bytes(policy.digest)]


def require_silent(study: Study, said: bytes) -> None:
    words = private(study.policy)  # whole ones: `age` is in every message
    assert not [w for w in words if re.search(rb"(?<![a-z])" + re.escape(w) + rb"(?![a-z])", said)]


def test_the_private_words_are_those_of_the_policy(study: Study) -> None:
    words = private(study.policy)
    assert {b"alice-clinic", b"train_party_1", b"bmi", b"logistic_regression"} <= set(words)
    assert len(words) > 12


def read_all(tls: SSL.Connection) -> bytes:
    """All that is said until the other end has closed it."""
    found = b""
    try:
        while True:
            found += tls.recv(1 << 16)
    except SSL.Error:
        return found


@pytest.mark.parametrize("transport", ALL, ids=lambda t: t.name)
@pytest.mark.parametrize("who", ["nobody", "namesake", "other"])
def test_a_stranger_hears_nothing_at_all(study: Study, transport: Transport, who: str) -> None:
    """I01, I03: the handshake ends with an alert of TLS; not one byte of ours comes."""
    count_refusal()
    known: dict[str, ChannelIdentity | None] = {
        "nobody": None,
        "namesake": ChannelIdentity.of(local_party("alice-clinic", NOW, copy=1)),
        "other": ChannelIdentity.of(local_party("dora-lab", NOW)),
    }
    own = known[who]
    alpn = b"ratls/1" if transport in ON_SOCKETS else b"h2"
    with (
        transport.serve(study) as served,
        raw_connection(served.address, None if own is None else Shown.of(own), alpn) as tls,
    ):
        assert read_all(tls) == b""


Say = Callable[[SSL.Connection], object]


def after_hello(then: bytes) -> Say:
    def say(tls: SSL.Connection) -> None:
        tls.sendall(message_frame(HELLO))
        read_frame(tls)
        tls.sendall(then)

    return say


SAID: dict[str, tuple[Say, str]] = {
    "data-first": (lambda tls: tls.sendall(bytes([DATA, 0, 0, 1, 1])), "frame-unexpected"),
    "no-message": (lambda tls: tls.sendall(message_frame(b"\xa0")), "session-message-unexpected"),
    "no-frame": (after_hello(b"\x07\0\0\1x"), "frame-unexpected"),
    "a-proof": (
        after_hello(message_frame(write_message("proof", evidence=b"x"))),
        "session-message-unexpected",
    ),
}


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda t: t.name)
@pytest.mark.parametrize("case", SAID)
def test_a_party_hears_code_and_id(study: Study, transport: Transport, case: str) -> None:
    say, code = SAID[case]
    with (
        transport.serve(study) as served,
        raw_connection(served.address, Shown.of(study.channel())) as tls,
    ):
        say(tls)
        require_refusal(study, served, read_frame(tls)[1], code)
        assert read_all(tls) == b""


def require_refusal(study: Study, served: Served, raw: bytes, code: str) -> None:
    with refused(PeerRefused) as seen:
        read_message(raw)
    assert isinstance(seen.error, PeerRefused)
    told = seen.error
    assert raw == write_message("refused", code=code, id=told.correlation_id)
    assert re.fullmatch("[0-9a-f]{16}", told.correlation_id)
    require_silent(study, raw)
    assert eventually(lambda: logged(served.log)) == [told.correlation_id]


def logged(log: Log) -> list[str]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line["id"] for line in lines if line["event"] == "refused"]


def _last_message(tls: SSL.Connection) -> bytes:
    """Data may come before it: a program's answer that was under way."""
    while (frame := read_frame(tls))[0] == DATA:
        pass
    return frame[1]


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda t: t.name)
def test_a_policy_that_has_ended_is_told_by_its_class(study: Study, transport: Transport) -> None:
    clock, held = [0.0], [study.policy]
    past = (study.world.at - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = study.parties.policy(expires=past)
    with (
        transport.serve(study, policy=lambda: held[0], seconds=lambda: clock[0]) as served,
        raw_connection(served.address, Shown.of(study.channel())) as tls,
    ):
        after_hello(b"")(tls)
        held[0], clock[0] = ended, 61.0
        tls.sendall(bytes([DATA, 0, 0, 1]) + b"P")  # the beginning of a request, too
        require_refusal(study, served, _last_message(tls), "policy-expired")


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda t: t.name)
def test_an_enclave_that_is_not_admitted_hears_no_reason(
    study: Study, transport: Transport
) -> None:
    """Which measurements and machines a policy admits is nothing to tell one that it does not."""
    client = client_enclave(study)
    other = EnclaveIdentity.create(client._attester, study.policy.digest, at=NOW, role=b"client")
    verifier = Verifier(lambda: study.expectation)
    with (
        transport.serve(study, enclaves=verifier) as served,
        raw_connection(served.address, Shown.of(client)) as tls,
    ):
        tls.sendall(message_frame(HELLO))
        _, asked = read_message(read_frame(tls)[1], "evidence")
        spki = served.identity.spki
        proof = other.answer_challenge(asked["nonce"], spki[:32], bytes(32))  # type: ignore[arg-type]
        tls.sendall(message_frame(write_message("proof", evidence=proof)))
        require_refusal(study, served, read_frame(tls)[1], "refused")
        assert served.codes == ["key-unbound"]


def test_a_party_beyond_its_share(study: Study) -> None:
    """F18: by one frame, after which nothing more is said."""
    with SOCKETS.serve(study, limits=Limits(connections_per_peer=1)) as served:
        shown = Shown.of(study.channel())
        with raw_connection(served.address, shown), raw_connection(served.address, shown) as tls:
            require_refusal(study, served, read_frame(tls)[1], "connections-exhausted")


# gRPC and Flight


def calls(study: Study, transport: Transport, served: Served) -> Iterator[Any]:
    """Calls that are refused: errors of gRPC."""
    admitted = study.admitted(served.identity)
    with pinned_channel(served.address, admitted, study.channel()) as made:
        if transport is GRPC:
            unary: dict[str, bytes] = {
                "/user.Echo/One": b"x",
                "/user.Echo/Absent": b"x",
                "/ratls.Attestation/Challenge": b"\xa0",
            }
            for method, request in unary.items():
                call: Any = made.unary_unary(method)
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, timeout=HANG_LIMIT)
                yield caught.value
        else:
            for first in (b"\xa0", write_message("open", stream=0, streams=1, key=b"")):
                exchange: Any = made.stream_stream(DO_EXCHANGE)
                frames = [first_frame(Kind.RELEASE), flight_frame(first)]
                with pytest.raises(grpc.RpcError) as caught:
                    list(exchange(iter(frames), timeout=HANG_LIMIT))
                yield caught.value


@pytest.mark.parametrize("transport", [GRPC, FLIGHT], ids=lambda t: t.name)
def test_a_refused_call_hears_code_and_id(study: Study, transport: Transport) -> None:
    count_refusal()
    with transport.serve(study) as served:
        for error in calls(study, transport, served):
            details, trailing = error.details(), error.trailing_metadata()
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # gRPC's own: no such method
                assert re.fullmatch(r"refused: [a-z-]+ \([0-9a-f]+\)", details)
            spoken = details.encode() + b"".join(
                key.encode() + (value if isinstance(value, bytes) else value.encode())
                for key, value in trailing
            )
            require_silent(study, spoken)
            assert b"Traceback" not in spoken
            if transport is GRPC and error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                assert logged(served.log)[-1] in details
        assert not served.heard


# What the programs behind it cause


def test_a_web_program_that_breaks(study: Study) -> None:
    """F16: its error's text is the program's, and may hold what others have sent."""

    def program(environ: Any, start: Any) -> list[bytes]:
        raise ValueError(f"alice-clinic: train_party_1 {environ['wsgi.input'].read()!r}")

    log = Log()
    listener = Listener(Address(LOOPBACK, 0), study.identity(), lambda: study.policy)
    thread = threading.Thread(
        target=serve_wsgi, args=[listener, program], kwargs={"log": open_log(log)}
    )
    thread.start()
    verifier = Verifier(lambda: study.expectation)
    try:
        count_refusal()
        with httpx.Client(
            transport=HttpTransport(study.channel(), verifier), timeout=HANG_LIMIT
        ) as user:
            answer = user.post(f"https://{listener.address}/x", content=b"c4n4ry")
        assert answer.status_code == 500
        assert re.fullmatch(r"internal \([0-9a-f]{16}\)\n", answer.text)
        raw = b"".join(name + value for name, value in answer.headers.raw) + answer.content
        require_silent(study, raw)
        assert "c4n4ry" not in log.getvalue() + answer.text
    finally:
        listener.close()
        thread.join()


def test_a_program_that_does_not_listen_behind_the_tunnel(
    study: Study, nowhere: tuple[str, int]
) -> None:
    """Where the tunnel leads to is the operator's own matter."""
    log = Log()

    def lead(attested: Any) -> None:
        TunnelServer(listener, Address(*nowhere))._lead(attested)

    with (
        listening(study, lead, log=log) as listener,
        refused(PeerRefused) as seen,
        connect_to(study, listener.address) as connection,
    ):
        connection.recv(1)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "tunnel-target-unreachable"
    assert str(nowhere[1]) not in str(seen.error)
