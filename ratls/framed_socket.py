"""Frames on a TLS 1.3 connection: kind, length, content. Each wait for the other end is bounded.

    wire = FramedSocket(raw, tls, "127.0.0.1:7443")
    wire._write(DATA, memoryview(b"question"))
    wire._read(view)

What the frames mean, and when which is due, is said by `ratls.attested_socket`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Generic

from ratls.errors import DeadlineExceeded, StreamIntegrityError
from ratls.tls import PIECE, Peer, TlsEnd
from verifier.errors import RatlsError
from verifier.files import MEBIBYTE

DATA, MESSAGE, END = 0, 1, 2
HEAD = 4  # bytes
MAX_FRAME = MEBIBYTE
SILENT_SECONDS = 120.0  # for each wait
LOOK_SECONDS = 1.0  # between two looks at what has become of a connection
_FIRST = 16 * 1024 - HEAD  # bytes of a frame that share a record with its head


class ConnectionCut(StreamIntegrityError):
    """The connection ended before the peer said that nothing follows."""

    code = "connection-cut"
    default_fix = "connect again: what was received may be incomplete"
    says = "{thing} broke before its end"


def message_frame(content: bytes) -> bytes:
    """A message of the challenge, as a frame."""
    return bytes([MESSAGE]) + len(content).to_bytes(3, "big") + content


class FramedSocket(Generic[Peer]):
    """One end. One thread may write while another one reads."""

    def __init__(self, raw: socket.socket, tls: TlsEnd[Peer], place: str) -> None:
        raw.setblocking(False)
        self._raw, self._tls, self.place = raw, tls, place
        self._timeout = SILENT_SECONDS

    def _write(self, kind: int, content: memoryview) -> None:
        """One frame. Its head shares the first record.

        The rest is sent at once: a reader that gets it in pieces falls asleep between them, and to
        wake it up costs a sixth of the rate.
        """
        head = bytes([kind]) + len(content).to_bytes(3, "big")
        self._send(self._tls.seal(memoryview(head + content[:_FIRST])))
        if rest := content[_FIRST:]:
            self._send(self._tls.seal(rest))

    def _send(self, sealed: bytes) -> None:
        left = memoryview(sealed)
        while left:
            try:
                left = left[self._raw.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def _read_all(self, view: memoryview) -> None:
        while view:
            view = view[self._read(view) :]

    def _read(self, view: memoryview, resting: Callable[[], None] | None = None) -> int:
        """At least one byte.

        Args:
            resting: Called each second in which nothing comes; it may end the wait.
        """
        while (size := self._tls.read_into(view)) is None:
            self._wait(select.POLLIN, resting)
            self._fill()
        if size == 0:  # TLS ended: only a frame may say that nothing follows
            raise self._cut()
        return size

    def _fill(self) -> None:
        try:
            data = self._raw.recv(PIECE)
        except BlockingIOError:
            return
        if not data:
            raise self._cut()
        self._tls.feed(data)

    def _wait(self, event: int, resting: Callable[[], None] | None = None) -> None:
        # In pieces: the system takes no wait for ever, and a signal is heard in between.
        ends = time.monotonic() + self._within()
        while not self._ready(event, min(ends - time.monotonic(), LOOK_SECONDS)):
            if time.monotonic() >= ends:
                raise self._late("its next step")
            if resting is not None:
                resting()

    def _within(self) -> float:
        """Seconds that one wait may take."""
        return self._timeout

    def _ready(self, event: int, seconds: float) -> bool:
        waiting = select.poll()  # `select` takes no file descriptor above 1023
        waiting.register(self._raw, event)
        return bool(waiting.poll(max(seconds, 0) * 1000))

    def _cut(self) -> RatlsError:
        return ConnectionCut(self.place, expected="its end, said aloud", found="a cut")

    def _late(self, what: str) -> DeadlineExceeded:
        return DeadlineExceeded(f"{what} of {self.place}", expected="it in time", found="none")
