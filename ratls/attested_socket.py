"""A socket whose two ends have proved to each other what they are. Made by `ratls.sockets`.

    connection.sendall(b"question")
    connection.recv(65536)          # b"" only where the peer said that nothing follows
    connection.close()

On TLS 1.3 goes one frame after another (docs/channel.md 9): kind (1 byte), length (3,
big-endian), content. Kinds: data, a message of the challenge (`ratls.session`), and the end of
what one side sends. While the
connection lasts its peer is challenged again, as the policy says: the next data waits for the
answer, and what is received meanwhile is kept. One thread may send while another receives. Where
none receives, a listener's thread answers the peer's challenges (`attend`).
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Self

from OpenSSL import SSL

from policy.errors import ResourceLimitError
from ratls.appraise import FreshEvidence
from ratls.errors import CallFailed, StreamIntegrityError
from ratls.framed_socket import (
    DATA,
    END,
    HEAD,
    LOOK_SECONDS,
    MAX_FRAME,
    MESSAGE,
    ConnectionCut,
    FramedSocket,
)
from ratls.framed_socket import message_frame as message_frame
from ratls.peer_refusal import PeerRefused
from ratls.session import MAX_MESSAGE, Session, write_message
from ratls.socket_session import SocketPeer as SocketPeer
from ratls.tls import PIECE, TlsEnd
from verifier.errors import Exit, RatlsError
from verifier.files import MEBIBYTE

ANSWER_SECONDS = 30.0  # from a challenge to its answer
_AHEAD = 4 * MEBIBYTE  # received while nobody takes it
_TURN_SECONDS = 0.05  # until a look at whether another thread has sent a message


class FrameUnexpected(StreamIntegrityError):
    """A frame is of an unknown kind, too large, or comes before the peer has proved itself."""

    code = "frame-unexpected"
    default_fix = "run the same version on both sides"


class TooMuchAhead(ResourceLimitError):
    """The peer sends data instead of the proof that is due."""

    code = "too-much-ahead"
    exit_status = Exit.PEER
    default_fix = "connect again; receive in one thread while another one sends"


class AttestedSocket(FramedSocket[SocketPeer]):
    """One end of an attested connection."""

    def __init__(
        self,
        raw: socket.socket,
        tls: TlsEnd[SocketPeer],
        session: Session,
        place: str,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(raw, tls, place)
        self._session, self._closed = session, closed
        self._sending, self._reading = threading.Lock(), threading.Lock()
        self._answered = threading.Condition()
        self._messages: deque[bytes] = deque()  # that the next who may send sends
        self._kept: deque[bytes] = deque()  # data that came while nobody received it
        self._kept_size = 0
        self._left = 0  # bytes of the data frame that is being read
        self._end_seen = self._end_sent = self._gone = self._over = False
        self._broken: RatlsError | None = None
        self.told: str | None = None  # the id that a refused peer was told
        self._answer_by = float("inf")
        self._until: float | None = None  # by then the challenge must have ended
        self._looked = 0.0

    # What users call

    @property
    def peer(self) -> SocketPeer:
        """Who is at the other end, by its certificate."""
        return self._tls.peer

    @property
    def fresh(self) -> FreshEvidence | None:
        """What the other end last proved; None where it is a party."""
        return self._session.fresh

    def settimeout(self, seconds: float) -> None:
        """How long each wait for the other end may take. It cannot be for ever."""
        self._timeout = seconds

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; waits for a proof that is due.

        Raises:
            RatlsError: The peer is refused, or refuses; the connection is closed.
            TransportError: It is gone, or does not read.
        """
        view = memoryview(data).cast("B")
        with self._failing():
            while view:
                self._look(may_wait=True)
                if self._session.proves and self.unread:
                    self._attend()
                with self._sending:
                    self._flush()
                    self._write(DATA, view[:MAX_FRAME])
                self._session.count(min(len(view), MAX_FRAME))
                view = view[MAX_FRAME:]

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0) -> int:
        """Read what has come, at least one byte; 0 where the peer said that nothing follows.

        Raises:
            ConnectionCut: The connection ended without that.
            RatlsError: As `sendall`.
        """
        view = memoryview(buffer).cast("B")
        view = view[: size or len(view)]
        with self._failing(), self._reading:
            self._look(may_wait=False)
            if self._kept:
                return self._from_kept(view)
            while self._left == 0:
                if self._end_seen:
                    return 0
                self._frame(resting=True)
            filled = self._read(view[: self._left])
            # What is in memory already, up to the end of this frame.
            while filled < min(len(view), self._left):
                more = self._tls.read_into(view[filled : self._left])
                if not more:
                    break
                filled += more
            self._left -= filled
            self._session.count(filled)
            return filled

    def recv(self, size: int) -> bytes:
        """As `recv_into`, at most `size` bytes."""
        buffer = bytearray(min(size, PIECE))
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def end(self) -> None:
        """Say that nothing follows; receiving goes on."""
        with self._failing(), self._sending:
            if not self._end_sent:
                self._end_sent = True
                self._write(END, memoryview(b""))

    def close(self) -> None:
        """End the connection. What was not yet received is dropped."""
        with self._answered:
            if self._gone:
                return
            self._gone = True
        if self._broken is None:
            with suppress(RatlsError, OSError, SSL.Error):
                self._timeout = min(self._timeout, 1.0)
                self.end()
        with suppress(OSError, SSL.Error):
            self._raw.send(self._tls.end())
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits
        self._raw.close()
        self._closed()

    def refuse(self, refusal: RatlsError) -> RatlsError:
        """End the connection for a reason of the caller's, which is told as a code; the reason."""
        self.fail(refusal, told=True)
        return refusal

    def abort(self) -> None:
        """End the connection at once, from any thread; whoever uses it is told that it broke."""
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def still_proved(self) -> None:
        """For connections that rest: what `sendall` and `recv` look at between two frames.

        Raises:
            RatlsError: The peer no longer is what it has proved, or owes a proof.
        """
        with self._failing():
            self._look(may_wait=False)

    @property
    def unread(self) -> bool:
        """Has something come that no thread receives?"""
        return (
            self._session.established
            and self._broken is None
            and not self._over
            and self._kept_size < _AHEAD
            and not self._reading.locked()
            and (self._tls.pending or self._ready(select.POLLIN, 0))
        )

    def attend(self) -> None:
        """Answer challenges that came while nobody receives; data is kept, so much and no more.

        For a program that sends for long, or thinks: its peer wants proofs meanwhile.

        Raises:
            RatlsError: As `sendall`.
        """
        with self._failing():
            self._attend()

    def _attend(self) -> None:
        while self.unread and self._reading.acquire(blocking=False):
            try:
                if self._tls.pending or self._ready(select.POLLIN, 0):
                    self._keep_one()
            except ConnectionCut:
                if not self._end_seen:
                    raise
                self._over = True  # what came before is whole, and was not yet received
            finally:
                self._reading.release()

    def fileno(self) -> int:
        """For waiting alone: data may also wait in memory (`pending`)."""
        return self._raw.fileno()

    @property
    def pending(self) -> bool:
        """May `recv` return something that the system no longer holds?"""
        return bool(self._kept) or self._tls.pending

    def __repr__(self) -> str:
        return f"<AttestedSocket with {self.peer.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The challenge

    def establish(self, seconds: float, *, client: bool) -> None:
        """Run the challenge; before that nothing else may be sent or received.

        Raises:
            RatlsError: As `sendall`.
        """
        self._until = time.monotonic() + seconds
        with self._failing():
            if client:
                self._message(self._session.open())
            while not self._session.established:
                with self._reading:
                    self._frame(established=False)
            self._until = None

    def _look(self, *, may_wait: bool) -> None:
        """Is the peer still what it has proved, and is a new proof due? If so, ask for it."""
        if self._broken is not None:
            raise self._broken
        now = self._session.seconds()
        if not self._session.unanswered and not self._session.due and now < self._looked:
            return
        self._session.require_still_admitted()
        # Only now: another thread must not send while this one finds that nothing may be sent.
        self._looked = now + LOOK_SECONDS
        # A receiver does not wait for a sender; that one asks before its next frame.
        if self._session.due and self._sending.acquire(blocking=may_wait):
            try:
                if self._session.due:
                    self._answer_by = now + ANSWER_SECONDS
                    self._write(MESSAGE, memoryview(self._session.challenge()))
            finally:
                self._sending.release()
        if self._session.unanswered:
            if may_wait:
                self._await_answer()
            elif now > self._answer_by:
                raise self._late("the proof that is due")

    def _await_answer(self) -> None:
        """Until the proof has come; what else comes is kept, so much and no more."""
        while self._session.unanswered:
            if self._broken is not None:
                raise self._broken
            if self._session.seconds() > self._answer_by:
                raise self._late("the proof that is due")
            if not self._reading.acquire(blocking=False):
                with self._answered:  # another thread receives; it takes the answer, too
                    self._answered.wait(0.05)
                continue
            try:
                if self._session.unanswered:
                    self._keep_one()
            finally:
                self._reading.release()

    def _keep_one(self) -> None:
        if self._left == 0:
            self._frame()  # after its end, too: it may still have to prove itself
            return
        piece = bytearray(min(self._left, PIECE))
        size = self._read(memoryview(piece))
        self._left -= size
        self._kept_size += size
        if self._session.unanswered and self._kept_size > _AHEAD:
            raise TooMuchAhead(self.place, expected="the proof that is due", found="much data")
        self._kept.append(bytes(piece[:size]))

    def _from_kept(self, view: memoryview) -> int:
        first = self._kept.popleft()
        size = min(len(first), len(view))
        view[:size] = first[:size]
        if size < len(first):
            self._kept.appendleft(first[size:])
        self._kept_size -= size
        self._session.count(size)
        return size

    # Frames

    def _frame(self, *, established: bool = True, resting: bool = False) -> None:
        """Read the head of the next frame, and all of a frame that has no data."""
        head = bytearray(HEAD)
        # While nothing comes the peer may cease to be what it has proved.
        look = partial(self._look, may_wait=False)
        first = self._read(memoryview(head), look if resting else None)
        self._read_all(memoryview(head)[first:])
        kind, size = head[0], int.from_bytes(head[1:], "big")
        if kind == DATA and established and 0 < size <= MAX_FRAME and not self._end_seen:
            self._left = size
        elif kind == MESSAGE and size <= MAX_MESSAGE:
            content = bytearray(size)
            self._read_all(memoryview(content))
            answer = self._session.receive(bytes(content))
            if answer is not None:
                self._message(answer)
            with self._answered:
                self._answered.notify_all()
        elif kind == END and established and size == 0 and not self._end_seen:
            self._end_seen = True
        else:
            raise FrameUnexpected(self.place, expected="a frame that is due", found="another")

    def _message(self, content: bytes) -> None:
        """Send it, or have the thread send it that sends data: that one would not let go."""
        self._messages.append(content)
        while self._messages:
            if self._broken is not None:
                raise self._broken
            if self._sending.acquire(timeout=_TURN_SECONDS):
                try:
                    self._flush()
                finally:
                    self._sending.release()

    def _flush(self) -> None:
        while self._messages:
            self._write(MESSAGE, memoryview(self._messages.popleft()))

    def _within(self) -> float:
        """What is due by an instant is due then, also byte by byte."""
        if self._until is not None:
            return self._until - time.monotonic()
        if self._session.unanswered:
            return min(self._timeout, self._answer_by - self._session.seconds())
        return self._timeout

    # How it ends

    def _failing(self) -> _Failing:
        return _Failing(self)

    def fail(self, refusal: RatlsError, *, told: bool = False) -> None:
        """Tell the peer code and id, once, and end the connection; later calls raise the same."""
        if self._broken is not None:
            return
        self._broken = refusal
        if told or not isinstance(refusal, PeerRefused | ConnectionCut | CallFailed):
            # What a policy admits is nothing to tell a peer that it does not admit.
            code = refusal.code if self.peer.party is not None else "refused"
            self.told = secrets.token_hex(8)
            message = write_message("refused", code=code, id=self.told)
            with suppress(RatlsError, OSError, SSL.Error):
                if self._sending.acquire(timeout=1.0):
                    try:
                        self._timeout, self._until = min(self._timeout, 1.0), None
                        self._write(MESSAGE, memoryview(message))
                    finally:
                        self._sending.release()
        with suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)
        with self._answered:
            self._answered.notify_all()

    def translated(self, error: BaseException) -> RatlsError | None:
        """A refusal, or what the network and TLS say, as one."""
        if isinstance(error, RatlsError):
            return self._broken or error  # the first reason is the true one
        if isinstance(error, OSError | SSL.Error | ValueError):
            if self._broken is not None:
                return self._broken
            return CallFailed(self.place, expected="a whole connection", found="it broke")
        return None


class _Failing:
    """A block whose errors end the connection."""

    def __init__(self, connection: AttestedSocket) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        refusal = self._connection.translated(error)
        if refusal is None:
            return
        self._connection.fail(refusal)
        if refusal is not error:
            raise refusal from error
