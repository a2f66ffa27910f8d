"""The connection that carries sealed chunks beside TLS: who is taken, and what is read (F10, F18;
channel.md 7).

Nobody on it is known before a chunk opens, so all of these tests are about strangers.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.address import Address
from ratls.bulk import (
    ID_SECONDS,
    ID_SIZE,
    STRANGERS,
    Awaited,
    BulkBroken,
    BulkListener,
    BulkReader,
    BulkSender,
)
from ratls.errors import CallFailed
from ratls.sealing import MAX_CHUNK, TAG_SIZE, ChunkHead
from ratls.serving import open_many_files
from tests.support.flight_peers import LOOPBACK
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT, eventually, threads_named

pytestmark = pytest.mark.slow

LARGEST = ChunkHead.SIZE + MAX_CHUNK + TAG_SIZE


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def listening(clock: Clock | None = None) -> Iterator[BulkListener]:
    """A listener whose steps the test makes."""
    listener = BulkListener(Address(LOOPBACK, 0), clock or Clock())
    try:
        yield listener
    finally:
        listener.end()


@contextmanager
def served() -> Iterator[BulkListener]:
    """A listener with its thread."""
    listener = BulkListener(Address(LOOPBACK, 0))

    def run() -> None:
        while listener.step():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener
    finally:
        listener.close()
        thread.join()


def connect(listener: BulkListener, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection((LOOPBACK, listener.port), HANG_LIMIT)
    connection.sendall(said)
    return connection


def ended(connection: socket.socket) -> bool:
    """Has the other end closed it? Waits for word of it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@contextmanager
def reading(listener: BulkListener, awaited: Awaited) -> Iterator[BulkReader]:
    """The client has come, with one chunk."""
    with (
        connect(listener, awaited.id + frame(b"chunk")),
        closing(awaited.reader(HANG_LIMIT, lambda: None)) as reader,
    ):
        yield reader


def frame(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def reader_of(sent: bytes, seconds: float = HANG_LIMIT) -> tuple[BulkReader, ExitStack]:
    """A reader of exactly these bytes, and then the end."""
    near, far = socket.socketpair()
    near.settimeout(seconds)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    far.sendall(sent)
    far.shutdown(socket.SHUT_WR)
    held = ExitStack()
    held.enter_context(near)
    held.enter_context(far)
    return BulkReader(near, lambda: None), held


# The honest way.


def test_chunks_come_in_order_and_pauses_between_them() -> None:
    heard: list[int] = []
    with served() as listener:
        awaited = listener.expect()
        sender = BulkSender(Address(LOOPBACK, listener.port), awaited.id, HANG_LIMIT)
        with closing(awaited.reader(HANG_LIMIT, lambda: heard.append(1))) as reader:
            assert sender.offer(lambda: (b"one ", b"chunk"))
            assert sender.pause()
            assert sender.offer(lambda: (b"another",))
            found = [None if raw is None else bytes(raw) for raw in (reader.next() for _ in "123")]
            sender.close()
            with refused(BulkBroken):
                reader.next()
    assert found == [b"one chunk", None, b"another"]
    assert len(heard) == 3


def test_an_id_in_pieces_is_an_id() -> None:
    with listening() as listener:
        awaited = listener.expect()
        with connect(listener, awaited.id[:5]) as late:
            while not listener._strangers:
                listener.step()
            late.sendall(awaited.id[5:] + frame(b"chunk"))
            while listener._strangers:
                listener.step()
            with closing(awaited.reader(HANG_LIMIT, lambda: None)) as reader:
                assert bytes(reader.next() or b"") == b"chunk"


def test_two_streams_get_their_own_connections() -> None:
    with served() as listener:
        streams = [listener.expect(), listener.expect()]
        senders = [
            BulkSender(Address(LOOPBACK, listener.port), awaited.id, HANG_LIMIT)
            for awaited in reversed(streams)
        ]
        for number, sender in enumerate(senders):
            sender.offer(lambda number=number: (b"%d" % number,))  # type: ignore[misc]
        for number, awaited in zip((1, 0), streams, strict=True):
            with closing(awaited.reader(HANG_LIMIT, lambda: None)) as reader:
                assert bytes(reader.next() or b"") == b"%d" % number
        for sender in senders:
            sender.close()


# Strangers.


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(bytes(ID_SIZE), id="an-id-that-nobody-awaits"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another-protocol"),
        pytest.param(b"\x16\x03\x01" + bytes(40), id="tls"),
    ],
)
def test_a_stranger_is_shown_out_and_the_client_is_not(said: bytes) -> None:
    count_refusal()
    with served() as listener:
        awaited = listener.expect()
        with connect(listener, said) as stranger:
            assert ended(stranger)
        with reading(listener, awaited) as reader:
            assert bytes(reader.next() or b"") == b"chunk"


def test_an_id_is_taken_once() -> None:
    """Whoever sniffed it comes too late; who comes first gains a refusal, as its chunks show."""
    count_refusal()
    with served() as listener:
        awaited = listener.expect()
        with reading(listener, awaited) as reader:
            with connect(listener, awaited.id + frame(b"another")) as second:
                assert ended(second)
            assert bytes(reader.next() or b"") == b"chunk"


def test_an_id_of_a_stream_that_ended_is_nobodys() -> None:
    count_refusal()
    with served() as listener:
        awaited = listener.expect()
        listener.forget(awaited)
        with connect(listener, awaited.id) as late:
            assert ended(late)


def test_silent_strangers_go_after_a_while() -> None:
    count_refusal()
    clock = Clock()
    with listening(clock) as listener:
        awaited = listener.expect()
        with connect(listener) as silent, connect(listener, b"half an id") as half:
            while len(listener._strangers) < 2:
                listener.step()
            clock.now = ID_SECONDS
            listener.step()
            assert ended(silent)
            assert ended(half)
        with connect(listener, awaited.id):
            while listener._awaited:
                listener.step()
            awaited.reader(HANG_LIMIT, lambda: None).close()


def test_a_thousand_silent_strangers_cost_no_thread_and_shut_out_nobody() -> None:
    """F18. The oldest go; who speaks is heard at once."""
    count_refusal()
    open_many_files()
    with served() as listener, ExitStack() as held:
        before = threading.active_count()
        strangers = [held.enter_context(connect(listener)) for _ in range(1000)]
        awaited = listener.expect()
        with reading(listener, awaited) as reader:
            assert bytes(reader.next() or b"") == b"chunk"
        assert threading.active_count() <= before
        assert len(listener._strangers) <= STRANGERS
        assert ended(strangers[0])
        assert is_open(strangers[-1])


def test_hundreds_of_strangers_within_a_round_trip() -> None:
    """F18: a client far away connects, and its id comes later than they do."""
    count_refusal()
    open_many_files()
    with served() as listener, ExitStack() as held:
        awaited = listener.expect()
        far = held.enter_context(connect(listener))
        eventually(lambda: len(listener._strangers) == 1)
        strangers = [held.enter_context(connect(listener)) for _ in range(300)]
        eventually(lambda: len(listener._strangers) == 301)
        far.sendall(awaited.id)
        awaited.reader(HANG_LIMIT, lambda: None).close()
        assert is_open(strangers[0])


def test_the_oldest_stranger_speaks_as_one_too_many_comes() -> None:
    """Who speaks in the last moment is taken, and the newcomer has room."""
    open_many_files()
    with listening() as listener, ExitStack() as held:
        awaited = listener.expect()
        strangers = [held.enter_context(connect(listener)) for _ in range(STRANGERS)]
        while len(listener._strangers) < STRANGERS:
            listener.step()
        for end in listener._strangers:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        strangers[0].sendall(awaited.id)
        newcomer = held.enter_context(connect(listener))
        while listener._awaited:
            listener.step()
        while len(listener._strangers) < STRANGERS:
            listener.step()
        awaited.reader(HANG_LIMIT, lambda: None).close()
        assert is_open(strangers[1])
        assert is_open(newcomer)


def test_no_descriptor_is_free_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as listener:
        awaited = listener.expect()
        genuine = listener._listening

        class Full:
            def accept(self) -> Any:
                raise OSError(errno.EMFILE, "too many open files")

        with connect(listener, awaited.id):
            monkeypatch.setattr(listener, "_listening", Full())
            listener._accept()
            monkeypatch.setattr(listener, "_listening", genuine)
            while listener._awaited:
                assert listener.step()
            awaited.reader(HANG_LIMIT, lambda: None).close()


def test_a_stopped_listener_leaves_nothing_open() -> None:
    count_refusal()
    with served() as listener:
        silent = connect(listener)
        eventually(lambda: bool(listener._strangers))
    with silent:
        assert ended(silent)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((LOOPBACK, listener.port), HANG_LIMIT)
    again = BulkListener(Address(LOOPBACK, listener.port))  # the port is free again
    again.end()


# Frames that are none.


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param((LARGEST + 1).to_bytes(4, "big"), id="larger-than-any-chunk"),
        pytest.param(b"\xff\xff\xff\xff", id="four-gibibytes"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x00", id="cut-in-the-length"),
        pytest.param(frame(b"chunk")[:-1], id="cut-in-the-chunk"),
    ],
)
def test_bytes_that_are_no_frame(sent: bytes) -> None:
    reader, held = reader_of(sent)
    with held, refused(BulkBroken):
        reader.next()


def test_the_largest_chunk_is_read_into_one_buffer() -> None:
    """F05: what a stranger sends never takes more memory than that."""
    near, far = socket.socketpair()
    content = bytes(LARGEST - 1) + b"!"
    writer = threading.Thread(target=lambda: far.sendall(frame(content) * 2))
    writer.start()
    near.settimeout(HANG_LIMIT)
    with near, far:
        reader = BulkReader(near, lambda: None)
        first, second = reader.next(), reader.next()
        assert first is not None
        assert second is not None
        assert second.obj is first.obj
        assert bytes(second) == content
        writer.join()


def test_silence_ends_it() -> None:
    near, far = socket.socketpair()
    near.settimeout(0.01)
    with near, far:
        far.sendall(frame(b"chunk") + b"\x00\x00")
        reader = BulkReader(near, lambda: None)
        assert bytes(reader.next() or b"") == b"chunk"
        with refused(BulkBroken):
            reader.next()


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=60))
def test_any_bytes_are_chunks_or_a_refusal(chunks: list[bytes], rest: bytes) -> None:
    sent = b"".join(map(frame, chunks)) + rest
    expected, place = [], 0
    while place + 4 <= len(sent):
        size = int.from_bytes(sent[place : place + 4], "big")
        if size > len(sent) - place - 4:
            break
        expected.append(sent[place + 4 : place + 4 + size])
        place += 4 + size
    reader, held = reader_of(sent)
    with held:
        for due in expected:
            raw = reader.next()
            assert (b"" if raw is None else bytes(raw)) == due
        with refused(BulkBroken):
            reader.next()


# Ends from another thread.


def test_a_connection_that_never_comes() -> None:
    with refused(BulkBroken):
        Awaited().reader(0.01, lambda: None)


def in_a_thread(call: Any) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_a_call_that_ends_while_its_connection_is_awaited() -> None:
    """F10: the thread is free at once, and not after the time that a silent peer has."""
    count_refusal()
    awaited = Awaited()
    thread, raised = in_a_thread(lambda: awaited.reader(HANG_LIMIT, lambda: None))
    awaited.close()
    thread.join()
    assert [type(error) for error in raised] == [BulkBroken]


def test_a_call_that_ends_while_its_connection_is_read() -> None:
    count_refusal()
    with served() as listener:
        awaited = listener.expect()
        with connect(listener, awaited.id):
            reader = awaited.reader(HANG_LIMIT, lambda: None)
            thread, raised = in_a_thread(reader.next)
            listener.forget(awaited)
            thread.join()
            reader.close()
    assert [type(error) for error in raised] == [BulkBroken]


def test_a_connection_that_comes_as_its_call_ends() -> None:
    count_refusal()
    awaited = Awaited()
    near, far = socket.socketpair()
    awaited.close()
    awaited.give(near)
    with far:
        assert ended(far)
    given_first = Awaited()
    near, far = socket.socketpair()
    given_first.give(near)
    given_first.close()
    with far:
        assert ended(far)
    with refused(BulkBroken):
        given_first.reader(HANG_LIMIT, lambda: None)


# The client's end.


def test_nobody_listens_where_the_enclave_said() -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        port = gone.getsockname()[1]
    with refused(CallFailed):
        BulkSender(Address(LOOPBACK, port), bytes(ID_SIZE), HANG_LIMIT)


def offered_until_it_fails(sender: BulkSender, chunk: bytes) -> None:
    while True:
        sender.offer(lambda: (chunk,))


def test_the_reader_goes_away() -> None:
    with served() as listener:
        awaited = listener.expect()
        sender = BulkSender(Address(LOOPBACK, listener.port), awaited.id, HANG_LIMIT)
        awaited.reader(HANG_LIMIT, lambda: None).close()
        with refused(CallFailed):
            offered_until_it_fails(sender, bytes(1 << 20))
        sender.close()


class MadeWrong(Exception):
    """What sealing could raise."""


def test_what_making_a_chunk_raised_is_raised_by_the_next() -> None:
    def wrong() -> tuple[bytes, ...]:
        raise MadeWrong

    with served() as listener:
        awaited = listener.expect()
        sender = BulkSender(Address(LOOPBACK, listener.port), awaited.id, HANG_LIMIT)
        with closing(awaited.reader(HANG_LIMIT, lambda: None)) as reader:
            sender.offer(wrong)
            with pytest.raises(MadeWrong):
                offered_until_it_fails(sender, b"chunk")
            with refused(BulkBroken):  # nothing of it left
                reader.next()
        sender.close()


def test_closing_ends_the_thread_also_while_chunks_wait() -> None:
    """F11: a reader that reads nothing keeps no thread of the client's."""
    with served() as listener:
        awaited = listener.expect()
        sender = BulkSender(Address(LOOPBACK, listener.port), awaited.id, HANG_LIMIT)
        with closing(awaited.reader(HANG_LIMIT, lambda: None)):
            while sender.offer(lambda: (bytes(8 << 20),)):
                pass  # until the sockets are full, and two more wait
            sender.close()
            eventually(lambda: not threads_named("chunks"))
    with refused(CallFailed):
        sender.require_whole()
