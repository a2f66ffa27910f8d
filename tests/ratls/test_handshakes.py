"""The thread that does all handshakes goes on, whatever one connection does, and what it lacks."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ratls.address import Address
from ratls.listener import Limits, Listener
from ratls.log import open_log
from ratls.tunnel import TunnelClient
from tests.support.channels import Log, connect_to, echo, listening
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError


class ByHand:
    """A listener whose rounds are those of the test: each is given what is ready."""

    def __init__(self, study: Study, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.log, self._run = Log(), Listener._run
        monkeypatch.setattr(Listener, "_run", lambda listener: None)
        self.listener = Listener(
            Address(LOOPBACK, 0),
            study.identity(),
            lambda: study.policy,
            limits=Limits(**limits),
            log=open_log(self.log),
        )
        self.strangers: list[socket.socket] = []

    def stranger(self) -> socket.socket:
        """Connects, and says something; our end of it, after a round."""
        before = set(self.listener._pending)
        place = (LOOPBACK, self.listener.address.port)
        self.strangers.append(socket.create_connection(place))
        self.strangers[-1].sendall(b"\x16\x03\x01\x00\x05hello")
        eventually(self._admitted)
        [number] = set(self.listener._pending) - before
        return self.listener._pending[number].raw

    def _admitted(self) -> bool:
        before = list(self.listener._pending)
        self.listener._round([self.listener._socket])
        return list(self.listener._pending) != before

    def close(self) -> None:
        for stranger in self.strangers:
            stranger.close()
        self.listener.close()
        self._run(self.listener)  # to its end: nothing is left open


@pytest.fixture
def by_hand(study: Study, monkeypatch: pytest.MonkeyPatch) -> Iterator[ByHand]:
    made = ByHand(study, monkeypatch, handshakes=1)
    yield made
    made.close()


def test_a_connection_that_gives_way_in_the_round_in_which_it_is_ready(by_hand: ByHand) -> None:
    """F10: both are ready at once, the new one and the one that gives way to it."""
    count_refusal()
    listener, first = by_hand.listener, by_hand.stranger()
    by_hand.strangers.append(socket.create_connection((LOOPBACK, listener.address.port)))
    listener._round([listener._socket, first])
    assert first.fileno() == -1
    [pending] = listener._pending.values()
    assert pending.raw is not first
    listener._round([first, listener._woken])  # and once more, in a list that is older still
    assert list(listener._pending.values()) == [pending]
    assert by_hand.log.getvalue() == ""


def test_a_connection_that_is_closed_is_not_taken_for_another(by_hand: ByHand) -> None:
    """The system may give its number to the next one."""
    count_refusal()
    listener, first = by_hand.listener, by_hand.stranger()
    listener._drop(listener._pending[first.fileno()])
    second = by_hand.stranger()
    listener._round([first])
    assert [pending.raw for pending in listener._pending.values()] == [second]


def test_a_connection_that_is_dropped_twice(by_hand: ByHand) -> None:
    count_refusal()
    listener = by_hand.listener
    pending = listener._pending[by_hand.stranger().fileno()]
    listener._drop(pending)
    listener._drop(pending)
    assert by_hand.stranger().fileno() > 0


def test_a_connection_that_cannot_be_waited_for(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as where the system watches no more files for this user."""
    count_refusal()
    listener = by_hand.listener
    register = listener._selector.register

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with socket.create_connection((LOOPBACK, listener.address.port)) as stranger:
        monkeypatch.setattr(listener._selector, "register", full)
        eventually(lambda: (listener._round([listener._socket]), _closed(stranger))[1])
        monkeypatch.setattr(listener._selector, "register", register)
    assert listener._pending == {}
    assert by_hand.stranger().fileno() > 0


def _closed(stranger: socket.socket) -> bool:
    stranger.setblocking(False)
    try:
        return stranger.recv(1) == b""
    except BlockingIOError:
        return False


class NoDescriptors:
    """A listening socket of a process that has no descriptor left, a few times."""

    def __init__(self, real: socket.socket, times: int, number: int = errno.EMFILE) -> None:
        self.real, self.times, self.number = real, times, number

    def accept(self) -> Any:
        if self.times:
            self.times -= 1
            raise OSError(self.number, "none left")
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_no_descriptor_is_left(by_hand: ByHand) -> None:
    """The stranger waits, and is let in once there is one."""
    count_refusal()
    listener = by_hand.listener
    poor: Any = NoDescriptors(listener._socket, 3)
    listener._socket = poor
    assert by_hand.stranger().fileno() > 0
    assert poor.times == 0
    listener._socket = poor.real


def test_an_error_in_a_round_ends_that_round_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw: it is logged, and the next one is let in."""
    count_refusal()
    log, left = Log(), [2]
    admit = Listener._admit_strangers

    def failing(listener: Listener) -> None:
        if left[0]:
            left[0] -= 1
            raise KeyError("unforeseen")
        admit(listener)

    monkeypatch.setattr(Listener, "_admit_strangers", failing)
    with listening(study, log=log) as listener, connect_to(study, listener.address) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    assert log.getvalue().count('"internal"') == 2
    assert "unforeseen" not in log.getvalue()


@contextmanager
def without_threads(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> Iterator[list[int]]:
    """Threads of this name cannot be started, a few times."""
    left, start = [times], threading.Thread.start

    def poor(thread: threading.Thread) -> None:
        if thread.name == name and left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", poor)
        yield left


def test_no_thread_is_left_for_a_connection(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share is given back; the next one is served, by the handshakes and by the program."""
    count_refusal()
    log = Log()
    with (
        listening(study, echo, log=log, limits=Limits(connections_per_peer=1)) as listener,
        without_threads(monkeypatch, "attested", 2) as left,
    ):

        def served() -> bool:
            with connect_to(study, listener.address) as connection:
                connection.sendall(b"x")
                return connection.recv(1) == b"x"

        for rest in (1, 0):
            with pytest.raises(RatlsError):
                served()
            assert left == [rest]
        assert eventually(served, RatlsError)
    assert '"internal"' in log.getvalue()


def test_a_tunnel_goes_on_after_a_program_that_could_not_be_taken(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program has gone before it was accepted; no descriptor and no thread is left."""
    count_refusal()
    with listening(study, echo) as listener:
        tunnel = TunnelClient(Address(LOOPBACK, 0), lambda: connect_to(study, listener.address))
        poor: Any = NoDescriptors(tunnel._socket, 2, errno.ECONNABORTED)
        tunnel._socket = poor
        serving = threading.Thread(target=tunnel.serve)
        serving.start()
        try:
            with without_threads(monkeypatch, "tunnel", 1):
                place = (LOOPBACK, tunnel.address.port)
                with socket.create_connection(place) as first:
                    first.settimeout(HANG_LIMIT)
                    assert first.recv(1) == b""
                with socket.create_connection(place) as second:
                    second.settimeout(HANG_LIMIT)
                    second.sendall(b"x")
                    assert second.recv(1) == b"x"
        finally:
            tunnel.close()
            serving.join()
    assert poor.times == 0
