"""Whose turn it is to have a quote: the device that makes them is slow, and there is one for all.

    turns = Turns()
    with turns.of(peer):               # SHA-256 of the key that the peer has shown in TLS
        quote = attester.quote(report_data)

A peer is counted by its key, over all its connections and all servers of this start: who connects
anew is no other peer. Its quotes are made one after another, so nobody waits behind two of the
same peer. After a burst they come at a steady rate: what is asked for faster waits, and is refused
where too many wait before it. Strangers have no turn: quotes are made for authenticated peers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policy.errors import ResourceLimitError
from verifier.errors import Exit

BURST = 256  #       quotes that a peer may have at once: all its connections, several times
PER_SECOND = 32  #   after that; a release, or a connection that lasts, asks every few minutes
_WAIT_SECONDS = 1.0  # for its own rate; what would wait for longer is refused
_PEERS = 1024  #     that are remembered: parties, and enclaves that connect; the longest idle goes


class TooManyChallenges(ResourceLimitError):
    """The peer asks for evidence more often than any honest one."""

    code = "too-many-challenges"
    exit_status = Exit.PEER
    default_fix = "keep connections open instead of making new ones, or make fewer at once"


class _Peer:
    def __init__(self) -> None:
        self.one = threading.Lock()  # held while it has a turn, or is in line for one
        self.paid = float("-inf")  #  the instant at which all quotes that it had are paid for


class Turns:
    """The line in front of one device. Any thread may use it."""

    def __init__(
        self,
        seconds: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Args: seconds, pause: A clock that only goes forward, and how to wait by it."""
        self._seconds, self._pause = seconds, pause
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._line: deque[object] = deque()  # who is first has the device
        self._changed = threading.Condition()

    @contextmanager
    def of(self, peer: bytes) -> Iterator[None]:
        """The block asks for one quote for this peer.

        Raises:
            TooManyChallenges: It has had too many, and as many again are waiting.
        """
        held, wait = self._pay(peer)
        if wait > 0:
            self._pause(wait)
        with held.one, self.own():
            yield

    def _pay(self, peer: bytes) -> tuple[_Peer, float]:
        """The peer, and how many seconds it is ahead of its rate (as ITU-T I.371's GCRA counts)."""
        with self._changed:
            held = self._peers.setdefault(peer, _Peer())
            self._peers.move_to_end(peer)
            if len(self._peers) > _PEERS:
                self._peers.popitem(last=False)
            now = self._seconds()
            paid = max(held.paid, now - BURST / PER_SECOND) + 1 / PER_SECOND
            if paid - now > _WAIT_SECONDS:
                raise TooManyChallenges(
                    "challenges", expected=f"{PER_SECOND} a second", found="more"
                )
            held.paid = paid
            return held, paid - now

    @contextmanager
    def own(self) -> Iterator[None]:
        """The block asks for a quote for the enclave's own certificate; or it is a peer's turn."""
        me = object()
        self._line.append(me)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._line[0] is me)
            yield
        finally:  # also where Ctrl-C came while it waited: the others go on
            with self._changed:
                self._line.remove(me)
                self._changed.notify_all()
