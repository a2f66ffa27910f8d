"""Sealed chunks on a connection of their own, without TLS: they need no second encryption.

    listener = BulkListener(Address("0.0.0.0", 7444))      # in the enclave
    awaited = listener.expect()
    awaited.id                                             # told to the client, on its TLS stream
    reader = awaited.reader(seconds=120, heard=heard)
    reader.next()                                          # a chunk, or None at a pause

    sender = BulkSender(address, awaited_id, seconds=60)    # at the client
    sender.send(lambda: chunk)
    sender.pause()

On the wire: the 16 bytes of the id, then frames: length (u32, big-endian) and so many bytes of a
chunk (`ratls.framing.Chunk`); a length of 0 says that the client goes on with its attested stream.
All that is read before a chunk is opened are these numbers. Nothing here is secret or trusted: a
chunk that was altered, moved, repeated, cut or made by somebody else does not open, and whoever
takes or breaks the connection gains a refusal. Who watches it sees sizes, times and the id.
"""

from __future__ import annotations

import queue
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ratls.address import Address
from ratls.call_thread import WAKE_SECONDS
from ratls.errors import CallFailed, StreamIntegrityError
from ratls.sealing import MAX_CHUNK, TAG_SIZE, ChunkHead

ID_SIZE = 16
STRANGERS = 64  # connections whose id has not come yet
ID_SECONDS = 5.0  # for the id to come
_MOST = ChunkHead.SIZE + MAX_CHUNK + TAG_SIZE  # bytes of a frame
_AHEAD = 2  # chunks that wait to be sent


class BulkBroken(StreamIntegrityError):
    """The connection of the sealed chunks ended, was silent too long, or sent something else."""

    code = "bulk-broken"
    default_fix = "release again with the same task: only the rest is sent"


def _broken(found: str) -> BulkBroken:
    return BulkBroken("connection of the chunks", expected="the next chunk", found=found)


@dataclass(slots=True)
class Awaited:
    """A connection that one stream of a release expects."""

    id: bytes = field(default_factory=lambda: secrets.token_bytes(ID_SIZE))
    came: queue.SimpleQueue[socket.socket] = field(default_factory=queue.SimpleQueue)
    connection: socket.socket | None = None

    def reader(self, seconds: float, heard: Callable[[], None]) -> BulkReader:
        """Wait for the connection. Raises: BulkBroken."""
        try:
            self.connection = self.came.get(timeout=seconds)
        except queue.Empty as error:
            raise _broken("no connection") from error
        self.connection.settimeout(seconds)
        return BulkReader(self.connection, heard)

    def close(self) -> None:
        """End the connection, also while it is read from."""
        with suppress(queue.Empty):
            self.connection = self.connection or self.came.get_nowait()
        if self.connection is not None:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it


class BulkListener:
    """Accepts connections, and gives each whose id is awaited to the stream that awaits it.

    One thread for all of them: a stranger costs a descriptor for a few seconds.
    """

    def __init__(self, address: Address) -> None:
        """Raises: OSError, if the address cannot be listened on."""
        self._listening = socket.create_server(
            (address.host, address.port), family=_family(address), backlog=STRANGERS
        )
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self._closed = False
        self._awaited: dict[bytes, Awaited] = {}
        self._strangers: dict[socket.socket, tuple[bytearray, float]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)

    def expect(self) -> Awaited:
        """One connection with a new id is taken, until it is forgotten."""
        awaited = Awaited()
        self._awaited[awaited.id] = awaited
        return awaited

    def forget(self, awaited: Awaited) -> None:
        """Take no connection with this id any more, and end the one that came."""
        self._awaited.pop(awaited.id, None)
        awaited.close()

    def step(self) -> bool:
        """Called by one thread until it gives False: accept, read ids, drop who is late."""
        if self._closed:
            self._listening.close()
            return False
        for key, _ in self._selector.select(WAKE_SECONDS):
            if key.fileobj is self._listening:
                self._accept()
            else:
                self._read_id(key.fileobj)
        now = time.monotonic()
        for stranger, (_, until) in list(self._strangers.items()):
            if until <= now:
                self._forget(stranger).close()
        return True

    def close(self) -> None:
        """Accept nothing more; the thread that calls `step` ends."""
        self._closed = True

    def _accept(self) -> None:
        with suppress(OSError):
            stranger, _ = self._listening.accept()
            if len(self._strangers) >= STRANGERS:
                # The oldest goes: those who do not speak must not shut out those who do.
                self._forget(next(iter(self._strangers))).close()
            stranger.setblocking(False)
            self._strangers[stranger] = bytearray(), time.monotonic() + ID_SECONDS
            self._selector.register(stranger, selectors.EVENT_READ)

    def _read_id(self, stranger: Any) -> None:
        read, _ = self._strangers[stranger]
        try:
            part = stranger.recv(ID_SIZE - len(read))
        except OSError:
            part = b""
        read += part
        if part and len(read) < ID_SIZE:
            return
        self._forget(stranger)
        # Once: a second connection with the same id is a stranger's.
        awaited = self._awaited.pop(bytes(read), None)
        if awaited is None:
            stranger.close()
        else:
            awaited.came.put(stranger)

    def _forget(self, stranger: socket.socket) -> socket.socket:
        self._selector.unregister(stranger)
        del self._strangers[stranger]
        return stranger


class BulkReader:
    """Reads frames from a connection, into one buffer."""

    def __init__(self, connection: socket.socket, heard: Callable[[], None]) -> None:
        self._connection, self._heard = connection, heard
        self._room = memoryview(bytearray(_MOST))

    def next(self) -> memoryview | None:
        """The next chunk, valid until the next call; None where the client pauses.

        Raises:
            BulkBroken: The end, silence, or a frame that is larger than any chunk.
        """
        size = int.from_bytes(self._read(4), "big")
        if size > _MOST:
            raise _broken("a frame that is larger than any chunk")
        self._heard()
        return self._read(size) if size else None

    def _read(self, size: int) -> memoryview:
        room, have = self._room[:size], 0
        while have < size:
            try:
                got = self._connection.recv_into(room[have:])
            except OSError as error:
                raise _broken("silence, or an error") from error
            if not got:
                raise _broken("its end")
            have += got
        return room


class BulkSender:
    """Sends what it is given, in a thread of its own, which also makes it."""

    def __init__(self, address: Address, connection_id: bytes, seconds: float) -> None:
        """Connect. Raises: CallFailed."""
        try:
            self._connection = socket.create_connection((address.host, address.port), seconds)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.sendall(connection_id)
        except OSError as error:
            raise _failed() from error
        self._waiting: queue.Queue[Callable[[], tuple[bytes, ...]] | None] = queue.Queue(_AHEAD)
        self.broken: BaseException | None = None
        self._made = threading.Condition()  # notified when a chunk was made
        threading.Thread(target=self._run, name="bulk", daemon=True).start()

    def offer(self, chunk: Callable[[], tuple[bytes, ...]]) -> bool:
        """Let the thread make and send a chunk, given in parts; False if others wait still.

        Raises: CallFailed for a connection that broke; what making an earlier chunk raised.
        """
        self.require_whole()
        with suppress(queue.Full):
            self._waiting.put(chunk, timeout=WAKE_SECONDS)
            return True
        return False

    def require_whole(self) -> None:
        """Raises: as `offer`."""
        if self.broken is not None:
            raise self.broken

    def pause(self) -> bool:
        """As `offer`, for: what follows comes on the attested stream."""
        return self.offer(lambda: ())

    def wait(self, done: Callable[[], bool]) -> bool:
        """Wait a little until what the thread does is done; is it? Raises: as `offer`."""
        self.require_whole()
        with self._made:
            return self._made.wait_for(done, WAKE_SECONDS)

    def close(self) -> None:
        """End thread and connection."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            if self.broken is not None:
                continue
            try:
                parts = chunk()
                with self._made:
                    self._made.notify_all()
                size = sum(len(part) for part in parts)
                self._send(size.to_bytes(4, "big"), *parts)
            except OSError:
                self.broken = _failed()
            except BaseException as error:  # noqa: BLE001 - `offer` raises it
                self.broken = error

    def _send(self, *parts: bytes) -> None:
        views = [memoryview(part) for part in parts if part]
        while views:
            sent = self._connection.sendmsg(views)
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if views:
                views[0] = views[0][sent:]


def _failed() -> CallFailed:
    return CallFailed("the connection of the chunks", expected="a reader", found="it broke")


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
