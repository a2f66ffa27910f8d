"""Whose turn it is to have a quote: one at a time of each peer, and only so many."""

from __future__ import annotations

import threading

import pytest

from ratls.turns import BURST, PER_SECOND, TooManyChallenges, Turns
from tests.support.refusal import refused
from tests.support.waiting import eventually

ALICE, BOB = b"a" * 32, b"b" * 32


class Clock:
    """Time passes where somebody waits, and where a test says so."""

    now = 0.0

    def pause(self, seconds: float) -> None:
        self.now += seconds


def stopped() -> Turns:
    """Time stands still, also for who waits."""
    return Turns(lambda: 0.0, lambda _: None)


def take(turns: Turns, peer: bytes = ALICE) -> None:
    with turns.of(peer):
        pass


def until_refused(turns: Turns, peer: bytes = ALICE) -> int:
    count = 0
    with refused(TooManyChallenges):
        while count < 10_000:
            take(turns, peer)
            count += 1
    return count


def test_a_peer_that_asks_without_end_is_refused_and_another_is_not() -> None:
    """F11, F18: over however many connections. The other one's share is whole."""
    turns = stopped()
    assert until_refused(turns) == BURST + PER_SECOND
    assert until_refused(turns, BOB) == BURST + PER_SECOND


def test_who_is_refused_pays_nothing_for_it() -> None:
    """Else a peer that tries again for long would be refused for as long."""
    clock = Clock()
    turns = Turns(lambda: clock.now, lambda _: None)
    until_refused(turns)
    for _ in range(1000):
        with refused(TooManyChallenges):
            take(turns)
    clock.now += 1.0
    assert until_refused(turns) == PER_SECOND


def test_one_after_another_is_never_refused() -> None:
    """A program that connects for each request is slowed down: it waits for each of its turns."""
    clock = Clock()
    turns = Turns(lambda: clock.now, clock.pause)
    for _ in range(BURST + 10 * PER_SECOND):
        take(turns)
    assert clock.now == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("seconds", "at_once"),
    [(60.0, 80), (900.0, 256), (1 / PER_SECOND, 1)],
    ids=["renewed each minute", "each quarter of an hour", "each MiB of a fast stream"],
)
def test_honest_peers_never_wait(seconds: float, at_once: int) -> None:
    """All connections that a party may have, proved anew as a policy says, for a day."""
    clock, waited = Clock(), list[float]()
    turns = Turns(lambda: clock.now, waited.append)
    for _ in range(100):
        for _ in range(at_once):
            take(turns)
        clock.now += seconds
    assert not waited


def test_sixty_four_parties_at_once() -> None:
    waited: list[float] = []
    turns = Turns(lambda: 0.0, waited.append)
    for number in range(64):
        for _ in range(8):
            take(turns, bytes([number]) * 32)
    assert not waited


def test_nobody_waits_behind_two_of_one_peer() -> None:
    """F18: Alice has asked for eight when Bob comes, and one of hers is before him."""
    turns, order, running = Turns(), list[bytes](), list[threading.Thread]()

    def ask(peer: bytes) -> None:
        with turns.of(peer):
            order.append(peer)

    def begin(peer: bytes) -> None:
        running.append(threading.Thread(target=ask, args=[peer]))
        running[-1].start()

    with turns.own():
        for _ in range(8):
            begin(ALICE)
        eventually(lambda: len(turns._line) == 2)
        begin(BOB)
        eventually(lambda: len(turns._line) == 3)
    for thread in running:
        thread.join()
    assert order == [ALICE, BOB, *[ALICE] * 7]


def test_a_quote_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    with pytest.raises(OSError), turns.of(ALICE):  # noqa: PT011 - the device's own
        raise OSError
    take(turns)
    take(turns, BOB)


def test_who_is_interrupted_while_waiting_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with turns.own():
        monkeypatch.setattr(turns._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take(turns)
        monkeypatch.undo()
        assert len(turns._line) == 1
    take(turns)
    take(turns, BOB)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """F11: enclaves that connect are as many as their operators start."""
    monkeypatch.setattr("ratls.turns._PEERS", 4)
    turns = stopped()
    for number in range(100):
        take(turns, number.to_bytes(32, "big"))
        take(turns)  # who goes on asking is not forgotten
    assert len(turns._peers) == 4
    assert until_refused(turns) == BURST + PER_SECOND - 100
