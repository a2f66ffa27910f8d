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
from typing import Any

from ratls.address import Address
from ratls.call_thread import WAKE_SECONDS, CallThread, pause
from ratls.errors import CallFailed, StreamIntegrityError
from ratls.sealing import MAX_CHUNK, TAG_SIZE, ChunkHead

ID_SIZE = 16
# Connections whose id has not come yet. A client's takes a round trip: so many others within
# one shut it out.
STRANGERS = 512
ID_SECONDS = 5.0  # for the id to come
CONNECT_SECONDS = 15.0
_MOST = ChunkHead.SIZE + MAX_CHUNK + TAG_SIZE  # bytes of a frame
_AHEAD = 2  # chunks that wait to be sent
_BACKLOG = 1024  # connections that wait to be accepted: a full queue would delay the client's
_NO_DESCRIPTOR_SECONDS = 0.1


class BulkBroken(StreamIntegrityError):
    """The connection of the sealed chunks ended, was silent too long, or sent something else."""

    code = "bulk-broken"
    default_fix = "release again with the same task: only the rest is sent"


def _broken(found: str) -> BulkBroken:
    return BulkBroken("connection of the chunks", expected="the next chunk", found=found)


class Awaited:
    """A connection that one stream of a release expects. Any thread may close it."""

    def __init__(self) -> None:
        self.id = secrets.token_bytes(ID_SIZE)
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self._closed = self._read = False

    def give(self, connection: socket.socket) -> None:
        """The connection has come."""
        with self._changed:
            if self._closed:
                connection.close()
                return
            self._connection = connection
            self._changed.notify_all()

    def reader(self, seconds: float, heard: Callable[[], None]) -> BulkReader:
        """Wait for the connection.

        Args:
            seconds: For it to come, and then for each read from it.
            heard: Called for each frame. Whoever counts the time cuts off a peer that is too slow.

        Raises: BulkBroken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._connection is not None, seconds)
            if self._closed or self._connection is None:
                raise _broken("no connection")
            self._read = True
        self._connection.settimeout(seconds)
        return BulkReader(self._connection, heard)

    def close(self) -> None:
        """End the connection, also while it is waited for or read from."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
                if not self._read:
                    self._connection.close()


class BulkListener:
    """Accepts connections, and gives each whose id is awaited to the stream that awaits it.

    One thread for all of them: a stranger costs a descriptor for a few seconds.
    """

    def __init__(self, address: Address, seconds: Callable[[], float] = time.monotonic) -> None:
        """Listen. `seconds`: a clock.

        Raises: OSError, if the address cannot be listened on.
        """
        self._listening = socket.create_server(
            (address.host, address.port), family=_family(address), backlog=_BACKLOG
        )
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self._seconds = seconds
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
            self.end()
            return False
        ready = [key.fileobj for key, _ in self._selector.select(WAKE_SECONDS)]
        for stranger in ready:
            if stranger is not self._listening:
                self._read_id(stranger)
        if self._listening in ready:  # last: it may end a stranger that is ready, too
            for _ in range(STRANGERS):
                if not self._accept():
                    break
        now = self._seconds()
        for stranger, (_, until) in list(self._strangers.items()):
            if until <= now:
                self._forget(stranger).close()
        return True

    def close(self) -> None:
        """Accept nothing more; the thread that calls `step` ends."""
        self._closed = True

    def end(self) -> None:
        """Close everything. For whom no thread calls `step`."""
        for stranger in list(self._strangers):
            self._forget(stranger).close()
        self._selector.close()
        self._listening.close()

    def _accept(self) -> bool:
        """False when no connection waits any more."""
        try:
            stranger, _ = self._listening.accept()
        except BlockingIOError:
            return False
        except OSError:  # it has gone, or no descriptor is free
            return pause(_NO_DESCRIPTOR_SECONDS)
        stranger.setblocking(False)
        self._strangers[stranger] = bytearray(), self._seconds() + ID_SECONDS
        self._selector.register(stranger, selectors.EVENT_READ)
        self._read_id(stranger)
        if len(self._strangers) > STRANGERS:
            # The oldest goes: those who do not speak must not shut out those who do.
            self._forget(next(iter(self._strangers))).close()
        return True

    def _read_id(self, stranger: Any) -> None:
        read, _ = self._strangers[stranger]
        try:
            part = stranger.recv(ID_SIZE - len(read))
        except BlockingIOError:  # nothing yet
            return
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
            awaited.give(stranger)

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

    def close(self) -> None:
        """Called by the thread that reads."""
        self._connection.close()

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
        beside, limit = (address.host, address.port), min(seconds, CONNECT_SECONDS)
        try:
            with CallThread() as thread:  # so that Ctrl-C is handled
                self._connection = thread.run(lambda: socket.create_connection(beside, limit))
            self._connection.settimeout(seconds)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.sendall(connection_id)
        except OSError as error:
            raise _failed() from error
        self._waiting: queue.Queue[Callable[[], tuple[bytes, ...]] | None] = queue.Queue(_AHEAD)
        self.broken: BaseException | None = None
        self._made = threading.Condition()  # notified when a chunk was made
        threading.Thread(target=self._run, name="chunks", daemon=True).start()

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
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        while True:  # what waits is not sent any more
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
                return
            with suppress(queue.Empty):
                self._waiting.get_nowait()

    def _run(self) -> None:
        with self._connection:
            try:
                while (chunk := self._waiting.get()) is not None:
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
