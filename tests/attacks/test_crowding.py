"""A listed party takes all that it may, and holds it: F18, F10, D11. The others do not wait for it.

It opens as many connections as it has, says nothing, or asks for much and never reads. What it
takes is its own share: connections, threads and memory. Another party is served meanwhile.
"""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
import pytest
from OpenSSL import SSL

from ratls.address import Address
from ratls.attested_socket import DATA, message_frame
from ratls.flight_server import ExchangesExhausted
from ratls.grpc import Attestation, channel
from ratls.http import serve_asgi, serve_wsgi
from ratls.listener import Limits, Listener
from ratls.peer_refusal import PeerRefused
from ratls.session import Verifier, read_message, write_message
from ratls.tls import Shown
from ratls.turns import TooManyChallenges
from tests.support.flight_peers import LOOPBACK, PlatformAttester, Study
from tests.support.refusal import count_refusal, refused
from tests.support.transports import (
    GRPC,
    HTTP,
    OWN_FLIGHT,
    SOCKETS,
    TUNNEL,
    Served,
    Transport,
    raw_connection,
    read_frame,
)
from tests.support.waiting import HANG_LIMIT, eventually, given_time
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)
SHARE = 6
LIMITS = Limits(connections_per_peer=SHARE, challenge_seconds=600)
SAID = b"c4n4ry-of-bob"


def bob_is_served(study: Study, transport: Transport, served: Served) -> None:
    bob = study.channel("bob-hospital")
    with transport.connect(study, served.address, bob) as speak:
        speak(SAID)
    served.wait_for(SAID)


def proved(study: Study, served: Served) -> Any:
    """A connection of Alice's, below any library of ours, after the challenge."""

    @contextmanager
    def opened() -> Iterator[SSL.Connection]:
        with raw_connection(served.address, Shown.of(study.channel())) as tls:
            tls.sendall(message_frame(write_message("hello", nonce=bytes(32))))
            read_message(read_frame(tls)[1], "evidence")
            yield tls

    return opened()


def frame(content: bytes) -> bytes:
    return bytes([DATA]) + len(content).to_bytes(3, "big") + content


def nothing(tls: SSL.Connection) -> None:
    """A silent stream."""


def half_a_frame(tls: SSL.Connection) -> None:
    tls.sendall(frame(b"POST /" + b"x" * 994)[:500])


def half_a_request(tls: SSL.Connection) -> None:
    tls.sendall(frame(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"))


HOLDS: dict[str, tuple[Transport, Callable[[SSL.Connection], None]]] = {
    f"{transport.name}-{how.__name__}": (transport, how)
    for transport in ON_SOCKETS
    for how in (nothing, half_a_frame, *([half_a_request] if transport is HTTP else []))
}


@pytest.mark.parametrize("case", HOLDS)
def test_a_party_that_holds_all_its_connections(study: Study, case: str) -> None:
    """Its next one is refused with a class, and nobody else's."""
    transport, hold = HOLDS[case]
    with transport.serve(study, limits=LIMITS) as served, ExitStack() as held:
        for _ in range(SHARE):
            hold(held.enter_context(proved(study, served)))
        with raw_connection(served.address, Shown.of(study.channel())) as tls:
            with refused(PeerRefused) as seen:
                read_message(read_frame(tls)[1])
            assert isinstance(seen.error, PeerRefused)
            assert seen.error.peer_code == "connections-exhausted"
        bob_is_served(study, transport, served)


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda t: t.name)
def test_connections_on_which_the_challenge_never_begins(
    study: Study, transport: Transport
) -> None:
    """They count from the handshake on, and end with the time for the challenge."""
    count_refusal()
    shown = Shown.of(study.channel())

    def attempt(seconds: float) -> None:
        limits = Limits(connections_per_peer=SHARE, challenge_seconds=seconds)
        with transport.serve(study, limits=limits) as served, ExitStack() as held:
            for _ in range(SHARE):
                held.enter_context(raw_connection(served.address, shown))
            bob_is_served(study, transport, served)
            eventually(lambda: served.codes.count("deadline-exceeded") == SHARE)
            with transport.connect(study, served.address) as speak:  # Alice has her share back
                speak(b"x")

    given_time(attempt, 0.2, RatlsError)


@pytest.mark.parametrize("transport", [SOCKETS, TUNNEL], ids=lambda t: t.name)
def test_a_party_that_asks_for_much_and_never_reads(study: Study, transport: Transport) -> None:
    """F10: what it does not take waits where it was made, not in the memory of the enclave."""
    count_refusal()
    question = frame(bytes(MEBIBYTE))
    with transport.serve(study, limits=LIMITS) as served, ExitStack() as held:
        readers = [held.enter_context(proved(study, served)) for _ in range(SHARE)]
        tracemalloc.start()
        senders = [
            threading.Thread(target=_flood, args=[tls, question], daemon=True) for tls in readers
        ]
        for tls, sender in zip(readers, senders, strict=True):
            sender.start()
            held.callback(sender.join)  # before its socket's number may be another one's
            held.callback(tls.sock_shutdown, socket.SHUT_RDWR)
        eventually(lambda: len(served.heard) > SHARE * MEBIBYTE)
        bob_is_served(study, transport, served)
        # What the test's own program has heard is not the server's.
        held_by_server = tracemalloc.get_traced_memory()[0] - len(served.heard)
        tracemalloc.stop()
        assert held_by_server < SHARE * 16 * MEBIBYTE


def _flood(tls: SSL.Connection, question: bytes) -> None:
    try:
        for _ in range(32):
            tls.sendall(question)
    except SSL.Error:
        return


def test_a_party_that_asks_for_an_endless_answer_and_never_reads(study: Study) -> None:
    """At a web program: it is asked for the next part when the last one was sent."""
    count_refusal()
    made: list[int] = []

    def program(environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        if environ["PATH_INFO"] == "/":
            yield SAID
            return
        while True:
            made.append(MEBIBYTE)
            yield bytes(MEBIBYTE)

    with web(study, serve_wsgi, program) as place, ExitStack() as held:
        served = Served(place, study.identity())
        tracemalloc.start()
        for _ in range(SHARE):
            tls = held.enter_context(proved(study, served))
            tls.sendall(frame(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"))
        eventually(lambda: len(made) > SHARE)
        with HTTP.connect(study, place, study.channel("bob-hospital")) as speak:
            assert speak(b"") == SAID
        held_by_server = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held_by_server < SHARE * 16 * MEBIBYTE
        assert len(made) < SHARE * 32  # the system's own buffers take a few


@contextmanager
def web(study: Study, serve: Callable[..., None], program: Any) -> Iterator[Address]:
    limits = Limits(connections_per_peer=64)
    listener = Listener(Address(LOOPBACK, 0), study.identity(), lambda: study.policy, limits=limits)
    thread = threading.Thread(target=serve, args=[listener, program])
    thread.start()
    try:
        yield listener.address
    finally:
        listener.close()
        thread.join()


def test_requests_whose_body_never_comes(study: Study) -> None:
    """At an ASGI program: each waits in a thread of its own, however many the machine has."""
    count_refusal()

    async def program(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with web(study, serve_asgi, program) as place, ExitStack() as held:
        served = Served(place, study.identity())
        for _ in range(48):  # more than the threads that such a loop has by itself
            half_a_request(held.enter_context(proved(study, served)))
        with HTTP.connect(study, place, study.channel("bob-hospital")) as speak:
            assert speak(SAID) == SAID


# Quotes


class Device(PlatformAttester):
    """Takes as long for a quote as hardware does, and counts them."""

    never = threading.Event()

    def __init__(self, study: Study) -> None:
        super().__init__(study.world.platform)
        self.made = 0

    def quote(self, report_data: bytes) -> bytes:
        self.never.wait(0.01)
        self.made += 1
        return super().quote(report_data)


CONNECTS_ANEW = (SOCKETS, HTTP, TUNNEL, GRPC, OWN_FLIGHT)


@pytest.mark.parametrize("transport", CONNECTS_ANEW, ids=lambda t: t.name)
def test_a_party_that_connects_again_and_again(
    study: Study, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11, F18: each time it has a quote made, and goes. It gets so many a second, and no more,
    from however many connections; the device is free for Bob meanwhile."""
    monkeypatch.setattr("ratls.turns.BURST", 8)
    monkeypatch.setattr("ratls.turns.PER_SECOND", 4)
    monkeypatch.setattr("ratls.turns._WAIT_SECONDS", 0.5)  # two wait, and the third is refused
    count_refusal()
    device = Device(study)
    identity = study.started(device)
    over, begun, before = threading.Event(), time.monotonic(), device.made

    def crowd() -> None:
        while not over.is_set():
            with suppress(RatlsError, grpc.RpcError, SSL.Error, OSError):
                transport.forwarded(study, served, bytes(32))

    with transport.serve(study, identity) as served, ThreadPoolExecutor(6) as threads:
        for _ in range(6):
            threads.submit(crowd)
        try:
            eventually(lambda: TooManyChallenges.code in served.codes)
            bobs = 4  # as many connections, one after another
            for _ in range(bobs):
                bob_is_served(study, transport, served)
        finally:
            over.set()
    assert device.made - before - bobs <= 8 + 4 * (time.monotonic() - begun)


# gRPC


@contextmanager
def grpc_server(study: Study, share: int, threads: int) -> Iterator[Address]:
    """A service of the user's own with so many threads; `Wait` says that it was entered."""
    attestation = Attestation(study.identity(), lambda: study.policy, calls_per_party=share)
    server = grpc.server(ThreadPoolExecutor(threads), interceptors=[attestation.interceptor])
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Many": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("user.Echo", handlers),))
    attestation.add_to(server)
    address = Address(LOOPBACK, server.add_secure_port(f"{LOOPBACK}:0", attestation.credentials()))
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("method", ["One", "Many", "Challenge"])
def test_calls_that_say_nothing(study: Study, method: str) -> None:
    """F18: also where one message is due, and also challenges: each would have a thread, and waits
    for its first message. Beyond the party's share they are refused at once."""
    count_refusal()
    judge = Verifier(lambda: study.expectation)
    silence = threading.Event()

    def nothing_yet() -> Iterator[bytes]:
        silence.wait(HANG_LIMIT)
        yield b""

    refusals: list[str] = []

    def ended(call: Any) -> None:
        if not silence.is_set():
            refusals.append(call.details())

    path = "/ratls.Attestation/Challenge" if method == "Challenge" else f"/user.Echo/{method}"
    with (
        grpc_server(study, share=2, threads=8) as address,
        channel(address, study.channel(), judge, timeout=HANG_LIMIT) as alice,
    ):
        silent: Any = alice.stream_stream(path)
        calls = [silent(nothing_yet()) for _ in range(12)]
        for call in calls:
            call.add_done_callback(ended)
        eventually(lambda: len(refusals) >= 10)
        assert all(ExchangesExhausted.code in told for told in refusals)
        bob = channel(address, study.channel("bob-hospital"), judge, timeout=HANG_LIMIT)
        with bob:
            ask: Any = bob.unary_unary("/user.Echo/One")
            assert ask(SAID, timeout=HANG_LIMIT) == SAID
        silence.set()
        for call in calls:
            call.cancel()
