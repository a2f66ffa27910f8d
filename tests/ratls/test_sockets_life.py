"""Connections that last: proved again while a program sends or thinks; later certificates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx

from ratls.attested_socket import AttestedSocket
from ratls.claims import InstanceChanged
from ratls.http import HttpTransport, serve_wsgi
from ratls.listener import Listener
from ratls.session import Verifier
from tests.ratls.test_sockets import BIG, Clock
from tests.support.channels import client_enclave, connect_to, echo, listening
from tests.support.flight_peers import NOW, Study
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError

QUARTER = 15 * 60 + 1


class Thinking:
    """A program that takes a question, and answers when it is let go."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Event()

    def __call__(self, connection: AttestedSocket) -> None:
        question = connection.recv(100)
        self.asked.set()
        self.go.wait(HANG_LIMIT)
        connection.sendall(question)
        connection.end()


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Its result, or its refusal."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except RatlsError as refusal:
            found.append(refusal)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_an_enclave_proves_itself_while_its_program_thinks(study: Study, quotes: list[Any]) -> None:
    clock, program = Clock(), Thinking()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with (
        listening(study, program) as listener,
        connect_to(study, listener.address, verifier=verifier) as connection,
    ):
        connection.sendall(b"question")
        thread, found = in_thread(lambda: connection.recv(100))
        assert program.asked.wait(HANG_LIMIT)
        clock.passed += QUARTER
        eventually(lambda: len(quotes) == 2)
        eventually(lambda: not connection._session.unanswered)
        clock.passed += 60  # longer than an answer may take
        program.go.set()
        thread.join()
        assert found == [b"question"]


def test_an_enclave_that_turns_into_another_while_its_program_thinks(study: Study) -> None:
    """State drift: its answer is not taken."""
    clock, program = Clock(), Thinking()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with (
        listening(study, program) as listener,
        connect_to(study, listener.address, verifier=verifier) as connection,
    ):
        connection.sendall(b"question")
        thread, found = in_thread(lambda: connection.recv(100))
        assert program.asked.wait(HANG_LIMIT)
        identity = listener.identities.current
        identity._claims = replace(identity._claims, instance=b"o" * 16)  # type: ignore[arg-type]
        clock.passed += QUARTER
        thread.join()
        program.go.set()
        with refused(InstanceChanged):
            raise found[0]


def test_an_enclave_proves_itself_among_what_it_sends_without_a_pause(
    study: Study, quotes: list[Any]
) -> None:
    """Its program never receives, and would hold the connection until it has sent all."""
    clock, stop = Clock(), threading.Event()
    verifier = Verifier(lambda: study.expectation, seconds=clock)

    def pour(connection: AttestedSocket) -> None:
        while not stop.is_set():
            connection.sendall(BIG)
        connection.end()

    with (
        listening(study, pour) as listener,
        connect_to(study, listener.address, verifier=verifier) as connection,
    ):
        received = bytearray()
        for proofs in (2, 3):
            clock.passed += QUARTER
            while len(quotes) < proofs or connection._session.unanswered:
                received += connection.recv(1 << 20)
        stop.set()
        while data := connection.recv(1 << 20):
            received += data
        assert len(received) % len(BIG) == 0
        assert received[: len(BIG)] == received[-len(BIG) :] == BIG


def test_an_enclave_that_connects_and_only_sends(study: Study, quotes: list[Any]) -> None:
    """It has no listener that would look: what comes is read between its own frames."""
    clock, taken = Clock(), bytearray()
    judge = Verifier(lambda: study.expectation, seconds=clock)

    def take(connection: AttestedSocket) -> None:
        while data := connection.recv(1 << 16):
            taken.extend(data)

    with (
        listening(study, take, enclaves=True, verifier=judge) as listener,
        connect_to(study, listener.address, client_enclave(study)) as connection,
    ):
        connection.sendall(b"x")
        eventually(lambda: taken)  # by then its first proof was judged
        before = len(quotes)
        clock.passed += QUARTER

        def answered() -> bool:
            connection.sendall(b"x")
            return len(quotes) > before

        eventually(answered)
        connection.end()
        eventually(lambda: not listener.connections())
    assert set(taken) == {ord("x")}


def test_a_response_of_http_that_takes_long(study: Study, quotes: list[Any]) -> None:
    """Neither cut off nor unproved: one proof before, one in its middle."""
    clock, go, began = Clock(), threading.Event(), threading.Event()
    verifier = Verifier(lambda: study.expectation, seconds=clock)

    def slow(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/event-stream")])
        yield b"first "
        began.set()
        go.wait(HANG_LIMIT)
        yield b"last"

    def serve(listener: Listener) -> None:
        serve_wsgi(listener, slow)

    with listening(study) as plain:
        address, identity = plain.address, plain.identities.current
    listener = Listener(address, identity, lambda: study.policy)
    server = threading.Thread(target=serve, args=[listener], daemon=True)
    server.start()
    try:
        transport = HttpTransport(study.channel(), verifier)
        with httpx.Client(transport=transport, timeout=HANG_LIMIT) as client:
            thread, found = in_thread(lambda: client.get(f"https://{address}/").text)
            assert began.wait(HANG_LIMIT)
            clock.passed += QUARTER
            eventually(lambda: len(quotes) == 2)
            go.set()
            thread.join()
            assert found == ["first last"]
    finally:
        listener.close()
        server.join(HANG_LIMIT)


def test_what_comes_while_a_program_thinks_is_kept_in_order(study: Study) -> None:
    """So much and no more, however often the listener looks; and the end is an end."""
    go, taken, whole = threading.Event(), bytearray(), threading.Event()

    def late(connection: AttestedSocket) -> None:
        go.wait(HANG_LIMIT)
        while data := connection.recv(1 << 16):
            taken.extend(data)
        whole.set()

    with listening(study, late) as listener:
        connection = connect_to(study, listener.address)
        thread, _ = in_thread(lambda: (connection.sendall(BIG), connection.end()))
        [at_server] = eventually(listener.connections)
        eventually(lambda: at_server._kept_size >= 4 << 20)
        for _ in range(3):
            listener.attend()
        assert at_server._kept_size <= (4 << 20) + (256 << 10)
        go.set()
        thread.join()
        assert whole.wait(HANG_LIMIT)
        connection.close()
    assert taken == BIG


def test_a_client_that_has_said_all_and_gone(study: Study) -> None:
    """F14, the honest twin: it said that nothing follows, so what came is whole."""
    go, taken, ended = threading.Event(), [], threading.Event()

    def late(connection: AttestedSocket) -> None:
        go.wait(HANG_LIMIT)
        taken.extend([connection.recv(100), connection.recv(100)])
        ended.set()

    with listening(study, late) as listener:
        with connect_to(study, listener.address) as connection:
            connection.sendall(b"all of it")
            connection.end()
        [at_server] = listener.connections()
        eventually(lambda: at_server._over)  # the listener has read to its end
        go.set()
        assert ended.wait(HANG_LIMIT)
    assert taken == [b"all of it", b""]


def test_the_next_certificate(study: Study, quotes: list[Any]) -> None:
    """A connection goes on under the certificate that it began with; a new one is shown the next,
    of the same start."""
    clock = Clock()
    verifier = Verifier(lambda: study.expectation, seconds=clock)
    with (
        listening(study, echo) as listener,
        connect_to(study, listener.address, verifier=verifier) as before,
    ):
        listener.identities._next = NOW
        assert listener.identities.renew_if_due(NOW)
        clock.passed += QUARTER
        before.sendall(b"x")
        assert before.recv(10) == b"x"
        assert len(quotes) == 2
        with connect_to(study, listener.address) as after:
            after.sendall(b"y")
            assert after.recv(10) == b"y"
            assert before.peer.spki_sha256 != after.peer.spki_sha256
            assert before.fresh is not None
            assert after.fresh is not None
            assert before.fresh.claims.instance == after.fresh.claims.instance


def test_a_policy_that_has_each_mebibyte_proved(quotes: list[Any]) -> None:
    """The honest twin of a party that asks for evidence without end: it asks as was agreed."""
    often = Study.create(transport="\n[transport]\nchallenge_mebibytes = 1\n")
    taken: list[int] = []

    def take(connection: AttestedSocket) -> None:
        while piece := connection.recv(1 << 18):
            taken.append(len(piece))

    with listening(often, take) as listener, connect_to(often, listener.address) as connection:
        for _ in range(48):
            connection.sendall(bytes(1 << 20))
        connection.end()
        eventually(lambda: sum(taken) == 48 << 20)
        assert len(quotes) >= 47
