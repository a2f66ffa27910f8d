"""F20: what a hostile enclave costs the party that connects to it: bounded time, bounded memory.

It is the agreed enclave as far as its certificate and evidence go, or has taken it over. Then it
answers without end, too much, byte by byte, or nonsense. Limits are those that the caller gives.
"""

from __future__ import annotations

import select
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pytest

import ratls.attested_socket
from ratls.address import Address
from ratls.attested_socket import (
    DATA,
    END,
    MESSAGE,
    AttestedSocket,
    FrameUnexpected,
    TooMuchAhead,
    message_frame,
)
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.grpc import Attestation, channel
from ratls.http import HttpTransport
from ratls.peer_refusal import PeerRefused
from ratls.session import MAX_MESSAGE, SessionMessageUnexpected, Verifier, write_message
from ratls.sockets import connect
from ratls.tls import MAX_HANDSHAKE, SocketHandshakeFailed
from tests.ratls.test_sockets import Clock
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.raw_enclave_socket import RawPeer, raw_socket_enclave
from tests.support.refusal import count_refusal, refused
from tests.support.transports import HTTP, SOCKETS, TUNNEL, Transport, tcp_server
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
ON_SOCKETS = (SOCKETS, HTTP, TUNNEL)


@contextmanager
def at_most(mebibytes: float) -> Iterator[None]:
    """So much memory, at its highest, for both ends of the connection together."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MEBIBYTE
    finally:
        tracemalloc.stop()


def first(raw: bytes) -> Callable[[RawPeer], None]:
    """This in place of the evidence."""

    def script(peer: RawPeer) -> None:
        peer.nonce()
        peer.send(raw)
        peer.until_closed()

    return script


NONSENSE: dict[str, tuple[bytes, type[RatlsError]]] = {
    "empty": (message_frame(b""), SessionMessageUnexpected),
    "no-map": (message_frame(b"\x00"), SessionMessageUnexpected),
    "deep": (message_frame(b"\x81" * 6000 + b"\x00"), SessionMessageUnexpected),
    "without-end": (message_frame(b"\xbf" * 6000), SessionMessageUnexpected),
    "length": (message_frame(b"\x5b" + b"\xff" * 8), SessionMessageUnexpected),
    "many": (message_frame(b"\x9a\xff\xff\xff\xff" + bytes(6000)), SessionMessageUnexpected),
    "twice": (message_frame(b"\xa2" + b"\x64type\x65hello" * 2), SessionMessageUnexpected),
    "other": (message_frame(write_message("hello", nonce=bytes(32))), SessionMessageUnexpected),
    "giant": (bytes([MESSAGE]) + b"\xff\xff\xff" + bytes(100_000), FrameUnexpected),
    "data": (bytes([DATA, 0, 0, 1, 1]), FrameUnexpected),
    "end": (bytes([END, 0, 0, 0]), FrameUnexpected),
    "kind": (b"\x09\0\0\0", FrameUnexpected),
}


@pytest.mark.parametrize("transport", ON_SOCKETS, ids=lambda t: t.name)
@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_in_place_of_evidence(study: Study, transport: Transport, case: str) -> None:
    raw, leaf = NONSENSE[case]
    with (
        raw_socket_enclave(study, first(raw)) as (place, _),
        at_most(8),
        refused(leaf),
        transport.connect(study, place) as speak,
    ):
        speak(b"question")


def test_evidence_byte_by_byte(study: Study) -> None:
    """Each byte comes in time, and all of them would take minutes: the whole has one deadline."""

    def script(peer: RawPeer) -> None:
        evidence = peer.evidence("evidence", peer.nonce(), nonce=b"")
        peer.drip(message_frame(evidence))

    judge = Verifier(lambda: study.expectation)
    with raw_socket_enclave(study, script) as (place, peers), refused(DeadlineExceeded):
        connect(place, study.channel(), judge, timeout=0.3)
    assert all(peer.sent < 1000 for peer in peers)


def test_a_handshake_without_end(study: Study) -> None:
    """B23: records of a handshake, at full speed."""

    def answer(taken: Any) -> None:
        with taken:
            taken.recv(1 << 16)
            while True:
                try:
                    taken.sendall(b"\x16\x03\x03\x40\x00" + bytes(1 << 14))
                except OSError:
                    return

    judge = Verifier(lambda: study.expectation)
    with tcp_server(answer) as place, at_most(16), refused(SocketHandshakeFailed):
        connect(place, study.channel(), judge, timeout=HANG_LIMIT)
    assert MAX_HANDSHAKE < MEBIBYTE


# After it has proved itself


def talking(
    study: Study, script: Callable[[RawPeer], None], verifier: Verifier | None = None
) -> Any:
    """A connection to an enclave that proves itself, and then follows the script."""

    @contextmanager
    def opened() -> Iterator[tuple[AttestedSocket, list[RawPeer]]]:
        def proved(peer: RawPeer) -> None:
            peer.prove()
            script(peer)

        judge = verifier or Verifier(lambda: study.expectation)
        with (
            raw_socket_enclave(study, proved) as (place, peers),
            connect(place, study.channel(), judge, timeout=HANG_LIMIT) as connection,
        ):
            yield connection, peers

    return opened()


def test_more_than_anybody_reads(study: Study) -> None:
    """What is not asked for waits in the enclave, not in the memory of the party."""
    data = bytes([DATA]) + MEBIBYTE.to_bytes(3, "big") + bytes(MEBIBYTE)
    with talking(study, lambda peer: peer.flood(data, 1 << 40)) as (connection, _), at_most(48):
        for _ in range(200):
            assert connection.recv(1 << 16)
        connection.close()


AFTER: dict[str, tuple[bytes, type[RatlsError]]] = {
    "challenge-to-a-party": (
        message_frame(write_message("challenge", nonce=bytes(32))),
        SessionMessageUnexpected,
    ),
    "evidence-unasked": (
        message_frame(write_message("answer", evidence=b"x")),
        SessionMessageUnexpected,
    ),
    "giant": (bytes([DATA]) + b"\xff\xff\xff", FrameUnexpected),
    "nothing": (bytes([DATA, 0, 0, 0]) * 1000, FrameUnexpected),
    "ends": (bytes([END, 0, 0, 0]) * 2 + bytes([DATA, 0, 0, 1, 1]), FrameUnexpected),
}


@pytest.mark.parametrize("case", AFTER)
def test_nonsense_later(study: Study, case: str) -> None:
    raw, leaf = AFTER[case]

    def script(peer: RawPeer) -> None:
        peer.send(raw)
        peer.until_closed()

    with talking(study, script) as (connection, _), at_most(8):
        if case == "ends":
            assert connection.recv(1) == b""  # what follows an end is never read
            return
        with refused(leaf):
            connection.recv(1)


def test_data_instead_of_the_proof_that_is_due(study: Study) -> None:
    """Kept up to four mebibytes, and no longer waited for."""
    clock = Clock()
    data = bytes([DATA]) + MEBIBYTE.to_bytes(3, "big") + bytes(MEBIBYTE)
    judge = Verifier(lambda: study.expectation, seconds=clock)
    with (
        talking(study, lambda peer: peer.flood(data, 1 << 40), judge) as (connection, _),
        at_most(64),
        refused(TooMuchAhead),
    ):
        clock.passed += 16 * 60
        connection.sendall(b"x")


def test_a_proof_that_is_due_byte_by_byte(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratls.attested_socket, "ANSWER_SECONDS", 0.3)
    since = [0.0]

    def seconds() -> float:
        return time.monotonic() + since[0]

    def script(peer: RawPeer) -> None:
        answer = peer.evidence("answer", peer.nonce())
        peer.drip(message_frame(answer))

    judge = Verifier(lambda: study.expectation, seconds=seconds)
    with talking(study, script, judge) as (connection, peers):
        since[0] = 16 * 60.0
        with refused(DeadlineExceeded):
            connection.sendall(b"x")
    assert peers[0].sent < 20_000


def test_an_enclave_that_reads_nothing(study: Study) -> None:
    """F10: the sender's patience is its own."""
    with talking(study, wait_for_its_end) as (connection, _):
        connection.settimeout(0.2)
        with at_most(64), refused(DeadlineExceeded):
            for _ in range(64):
                connection.sendall(bytes(MEBIBYTE))


def wait_for_its_end(peer: RawPeer) -> None:
    """Until the other end has gone."""
    poll = select.poll()
    poll.register(peer.tls.fileno(), select.POLLHUP | select.POLLRDHUP)
    poll.poll(HANG_LIMIT * 1000)


def test_a_refusal_with_a_text(study: Study) -> None:
    """L04: what an enclave says of itself is shown as a name, or not at all."""
    told = write_message("refused", code="x\x1b[2J\n: all is well", id="1" * 500)
    with (
        talking(study, lambda peer: peer.send(message_frame(told))) as (connection, _),
        refused(PeerRefused) as seen,
    ):
        connection.recv(1)
    assert isinstance(seen.error, PeerRefused)
    assert (seen.error.peer_code, seen.error.correlation_id) == ("unreadable", "unreadable")


# HTTP


def http_answer(raw: bytes, then: Callable[[RawPeer], None]) -> Callable[[RawPeer], None]:
    def script(peer: RawPeer) -> None:
        peer.prove()
        peer.send(data_frame(raw))
        then(peer)

    return script


def data_frame(content: bytes) -> bytes:
    return bytes([DATA]) + len(content).to_bytes(3, "big") + content


HEADERS = data_frame(b"A: b\r\n" * 3000)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", HEADERS),
        (b"", data_frame(b"x" * 60_000)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", HEADERS),
    ],
    ids=["headers", "no-http", "trailers"],
)
def test_an_http_answer_without_end(study: Study, begin: bytes, piece: bytes) -> None:
    """Its head has a limit; h11's."""
    count_refusal()
    flood = http_answer(begin or b"x", lambda peer: peer.flood(piece, 1 << 40))
    with (
        raw_socket_enclave(study, flood) as (place, peers),
        at_most(64),
        user(study) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.get(f"https://{place}/")
    assert peers[0].sent < 64 * MEBIBYTE


def test_an_http_body_without_end_that_is_read_in_pieces(study: Study) -> None:
    """Memory is the reader's to bound: what is not read stays with the enclave."""
    begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = data_frame(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    flood = http_answer(begin, lambda peer: peer.flood(chunk, 1 << 40))
    size = 0
    with (
        raw_socket_enclave(study, flood) as (place, _),
        at_most(64),
        user(study) as client,
        client.stream("GET", f"https://{place}/") as answer,
    ):
        for piece in answer.iter_raw():
            size += len(piece)
            if size > 32 * MEBIBYTE:
                break


def test_an_http_answer_that_never_comes(study: Study) -> None:
    """The client's own limit of a read holds."""
    silent = http_answer(b"HTTP/1.1 ", lambda peer: peer.until_closed())
    with (
        raw_socket_enclave(study, silent) as (place, _),
        httpx.Client(
            transport=HttpTransport(study.channel(), Verifier(lambda: study.expectation)),
            timeout=httpx.Timeout(HANG_LIMIT, read=0.2),
        ) as client,
        refused(DeadlineExceeded),
    ):
        client.get(f"https://{place}/")


def user(study: Study) -> httpx.Client:
    judge = Verifier(lambda: study.expectation)
    return httpx.Client(transport=HttpTransport(study.channel(), judge), timeout=HANG_LIMIT)


# gRPC


@contextmanager
def grpc_enclave(study: Study, answer: Callable[[bytes, Any], bytes]) -> Iterator[Address]:
    """The enclave's certificate and key, and another answer to the challenge."""
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"Challenge": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ratls.Attestation", handlers),)
    )
    credentials = Attestation(study.identity(), lambda: study.policy).credentials()
    port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    server.start()
    try:
        yield Address(LOOPBACK, port)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (b"\xa0", SessionMessageUnexpected),
        (b"\x81" * 6000, SessionMessageUnexpected),
        (b"\x5b" + b"\xff" * 8, SessionMessageUnexpected),
        (bytes(MAX_MESSAGE + 1), SessionMessageUnexpected),
        (bytes(8 * MEBIBYTE), CallFailed),
    ],
    ids=["empty", "deep", "length", "large", "giant"],
)
def test_nonsense_from_grpc(study: Study, answer: bytes, leaf: type[RatlsError]) -> None:
    """A message beyond `largest` is not taken at all."""
    with grpc_enclave(study, lambda *_: answer) as place, refused(leaf):
        judge = Verifier(lambda: study.expectation)
        channel(place, study.channel(), judge, timeout=HANG_LIMIT, largest=MEBIBYTE)


def test_a_challenge_that_grpc_never_answers(study: Study) -> None:
    def answer(_: bytes, context: Any) -> bytes:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(HANG_LIMIT)
        return b""

    with grpc_enclave(study, answer) as place, refused(DeadlineExceeded):
        judge = Verifier(lambda: study.expectation)
        channel(place, study.channel(), judge, timeout=0.3)
