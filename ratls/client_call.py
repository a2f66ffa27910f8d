"""One call of DoExchange from the client's end: frames in and out, with gRPC's errors translated.

    with ClientCall.open(channel, seconds=60) as call:
        call.send(frame)
        call.hear()            # the next frame; None at the end of the stream
        call.finish()

gRPC takes what is sent from an iterator, in a thread of its own; the queue behind it is short, so
that a peer that reads slowly is noticed here. A frame may be given as a function: it is made in
that thread, while the next rows are read. Every wait ends with the deadline of the call, and none
of them keeps a signal from being handled.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from policy.errors import ResourceLimitError
from ratls.address import Address
from ratls.appraise import AdmittedCertificate
from ratls.bulk import BulkBroken
from ratls.call_thread import WAKE_SECONDS
from ratls.errors import CallFailed, DeadlineExceeded, TransportError
from ratls.flight_data import DO_EXCHANGE, PIN, FlightDataMalformed
from ratls.framing import REFUSAL_KEY, Frame, MessageUnexpected
from ratls.peer_refusal import PeerRefused, slug
from ratls.pin import ChannelIdentity, ending, pinned_channel
from verifier.errors import Exit

_AHEAD = 2  # frames that wait to be sent
ToSend = bytes | Callable[[], bytes]
_END = b""  # the end of what is sent; no frame is empty


class AnswerNotOpened(ResourceLimitError):
    """The answer is compressed, too large, or contains rows: it was not opened."""

    code = "answer-not-opened"
    exit_status = Exit.PEER
    default_fix = "check that the enclave runs the agreed version: its answers are small and plain"
    says = "{thing} is compressed, too large, or contains rows; it was not opened"


class AnswerMissing(TransportError):
    """The stream ended where an answer was due."""

    code = "answer-missing"
    default_fix = "try again with the same task and enclave: it is not known what arrived"
    says = "the enclave ended the {thing} where this was due: {expected}"


class ClientCall:
    """One RPC. Used by one thread."""

    def __init__(self, channel: grpc.Channel, seconds: float, pinned: bytes) -> None:
        self._waiting: queue.Queue[ToSend] = queue.Queue(_AHEAD)
        self._broken: BaseException | None = None  # what making a frame raised
        self._made = threading.Condition()  # notified when a frame was made
        method: Any = channel.stream_stream(DO_EXCHANGE)
        self._call: Any = method(self._frames(), timeout=seconds, metadata=[(PIN, pinned)])

    @classmethod
    @contextmanager
    def open(
        cls, channel: grpc.Channel, seconds: float, pinned: bytes = b""
    ) -> Iterator[ClientCall]:
        """The call, which is cancelled where the block does not `finish` it.

        Args:
            pinned: SHA-256 of the key that the channel has pinned, which the server is told.
        """
        call = cls(channel, seconds, pinned)
        try:
            yield call
        finally:
            # An exchange given up is cancelled: merely ended, it would look complete.
            call._call.cancel()
            call._let_go()

    def _frames(self) -> Iterator[bytes]:
        """Read by gRPC, in a thread of its own."""
        while (given := self._waiting.get()) is not _END:
            if isinstance(given, bytes):
                yield given
                continue
            try:
                frame = given()
            except BaseException as error:  # noqa: BLE001 - `send` raises it
                self._broken = error
                self._call.cancel()
                return
            with self._made:
                self._made.notify_all()
            yield frame

    def _let_go(self) -> None:
        """End the thread that waits for frames."""
        while True:
            with suppress(queue.Full):
                self._waiting.put_nowait(_END)
                return
            with suppress(queue.Empty):
                self._waiting.get_nowait()

    def send(self, frame: ToSend) -> None:
        """Give a frame to gRPC; waits while others wait.

        Raises:
            TransportError: The peer has refused, or the connection is gone.
        """

        def given() -> bool:
            with suppress(queue.Full):
                self._waiting.put(frame, timeout=WAKE_SECONDS)
                return True
            return False

        self.require_active()
        while not given():
            self.require_active()

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for what the thread that sends does. Raises: as `send`."""
        with self._made:
            while not self._made.wait_for(done, WAKE_SECONDS):
                self.require_active()

    def require_active(self) -> None:
        """Raises: as `send`, for a call that has ended."""
        if self._broken is not None:
            raise self._broken
        if not self._call.is_active():
            self.raise_reason()

    def hear(self, *, rows: bool = False) -> Frame | None:
        """The next frame; None at the end of the stream.

        Args:
            rows: It may have rows.

        Raises:
            AnswerNotOpened: It has rows that are not due, or is not a Flight message of ours.
            TransportError: The peer refused, or the connection failed.
        """
        with _translated():
            raw = next(self._call, None)  # gRPC waits in short pieces: signals are heard
        if raw is None:
            return None
        try:
            frame = Frame.parse(raw)
        except FlightDataMalformed as error:
            raise answer_not_opened() from error
        if not rows and (frame.has_rows or len(frame.data.body)):
            raise answer_not_opened()
        return frame

    def message(self, *due: str) -> tuple[str, dict[str, Any]]:
        """Name and members of the next message, which is one of those due. Raises: as `hear`."""
        frame = self.hear()
        if frame is None:
            # A server that died or returned early ends a stream without any error.
            raise AnswerMissing("stream", expected=" or ".join(due), found="its end")
        return frame.message(*due)

    def cancel(self) -> None:
        """Give the call up: nothing more is read, and the server is told."""
        self._call.cancel()

    def finish(self) -> None:
        """Say that nothing follows, and wait for the server to say the same.

        Comes after the last answer, when nothing waits to be sent.
        """
        self._let_go()
        if self.hear() is not None:
            raise MessageUnexpected("stream", expected="its end", found="another message")

    def end(self) -> None:
        """Finish, where every answer that was due has come: a failure changes nothing any more."""
        with suppress(CallFailed, DeadlineExceeded, AnswerNotOpened):
            self.finish()

    def raise_reason(self) -> None:
        """What the server said when it gave up; frames that it sent before are read over."""
        while self.hear() is not None:
            pass
        raise AnswerMissing("stream", expected="more rows", found="its end")


@contextmanager
def begin_call(
    address: Address,
    admitted: AdmittedCertificate,
    identity: ChannelIdentity,
    seconds: float,
    largest: int,
) -> Iterator[ClientCall]:
    """A call that connects, under the pin, while this thread goes on. Nothing is said on it yet.

    Args:
        seconds: For all of it.
        largest: Bytes that one message from the enclave may have.
    """
    with (
        ending(pinned_channel(address, admitted, identity, largest)) as channel,
        ClientCall.open(channel, seconds, hashlib.sha256(admitted.spki).digest()) as call,
    ):
        yield call


def answer_not_opened() -> AnswerNotOpened:
    """For what is refused by its form or size, unread."""
    return AnswerNotOpened(
        "the enclave's answer", expected="a small plain message", found="another form"
    )


@contextmanager
def _translated() -> Iterator[None]:
    """gRPC's errors as ours. Their text is not shown: the peer writes part of it."""
    try:
        yield
    except grpc.RpcError as error:
        known: Any = error
        code = known.code() if isinstance(error, grpc.Call) else None
        raise_peer_refusal(known, code)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded(
                "the enclave's answer", expected="one in time", found="none"
            ) from error
        too_many = "Concurrent RPC limit" in (known.details() or "") if code else False
        if code in _TOO_LARGE and not too_many:
            raise answer_not_opened() from error
        broke = "it broke" if code is grpc.StatusCode.UNAVAILABLE else "an error"
        raise CallFailed(
            "the connection to the enclave", expected="an answer", found=broke
        ) from error


# A message over the channel's limit, or one that is compressed, which the channel does not unpack.
_TOO_LARGE = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
)


def raise_peer_refusal(error: Any, code: grpc.StatusCode | None) -> None:
    """Raise PeerRefused where the other end has said why; return where it has not."""
    if code is None:
        return
    try:
        details = dict(error.trailing_metadata() or ()).get(REFUSAL_KEY, b"")
        told = json.loads(bytes(details)[:1024])
        named, number = slug(told["code"]), slug(told["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # not a refusal of an enclave: the connection itself failed
    if named == BulkBroken.code:  # a connection that broke, not a judgement: another may go on
        raise CallFailed(
            "the connection of the chunks", expected="a whole one", found="it broke"
        ) from error
    raise PeerRefused(peer_code=named, correlation_id=number) from error
