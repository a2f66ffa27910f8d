"""Forwards TCP connections of any program through attested ones.

    TunnelClient(Address("127.0.0.1", 5433), connect).serve()       # where a program connects
    TunnelServer(listener, Address("127.0.0.1", 5432)).serve()      # where a program listens

Each local connection has an attested one of its own, verified and challenged before its first byte
is sent; when that one breaks, the local one is cut, never continued over another. A tunnel keeps
no data but what is on its way: one piece for each direction of each connection.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from ratls.address import Address
from ratls.attested_socket import AttestedSocket
from ratls.errors import TransportError
from ratls.listener import Limits, Listener, ListenerUnusable
from verifier.errors import RatlsError

_PIECE = 256 * 1024
_LOOK_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_PAUSE_SECONDS = 0.05

Report = Callable[[RatlsError], object]


class TunnelTargetUnreachable(TransportError):
    """Nothing listens where the tunnel ends."""

    code = "tunnel-target-unreachable"
    default_fix = "start the program that the tunnel leads to, or correct --to"


def forward(local: socket.socket, attested: AttestedSocket) -> None:
    """Until both directions have ended, or one end breaks; then both are closed.

    Raises:
        RatlsError: What ended the attested connection before its time.
    """
    refusals: list[RatlsError] = []
    local.setblocking(False)
    # The other direction may be silent for as long as the programs want: the look that a resting
    # connection takes each second is what ends it.
    attested.settimeout(float("inf"))

    def back() -> None:
        buffer = bytearray(_PIECE)
        view = memoryview(buffer)
        try:
            while size := attested.recv_into(buffer):
                _push(local, view[:size], attested)
            local.shutdown(socket.SHUT_WR)
        except RatlsError as refusal:
            refusals.append(refusal)
            _reset(local)
        except OSError:
            attested.abort()  # the program has gone

    thread = threading.Thread(target=back, name="tunnel", daemon=True)
    thread.start()
    try:
        _forth(local, attested)
    except RatlsError as refusal:
        refusals.append(refusal)
        _reset(local)
    except OSError:
        attested.abort()
    thread.join()
    attested.close()
    if refusals:
        raise refusals[0]


def _forth(local: socket.socket, attested: AttestedSocket) -> None:
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    waiting = select.poll()
    waiting.register(local, select.POLLIN)
    while True:
        if not waiting.poll(_LOOK_SECONDS * 1000):
            attested.still_proved()
            continue
        size = local.recv_into(buffer)
        if not size:
            attested.end()
            return
        attested.sendall(view[:size])


def _push(local: socket.socket, data: memoryview, attested: AttestedSocket) -> None:
    """To a program that may not read for long: the attested end is looked at meanwhile."""
    waiting = select.poll()
    waiting.register(local, select.POLLOUT)
    while data:
        try:
            data = data[local.send(data) :]
        except BlockingIOError:
            if not waiting.poll(_LOOK_SECONDS * 1000):
                attested.still_proved()


def _reset(local: socket.socket) -> None:
    """When it is closed, the program is told of a cut, and not of an end (F14)."""
    with suppress(OSError):
        local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class TunnelServer:
    """Leads each attested connection to one local program."""

    def __init__(self, listener: Listener, target: Address) -> None:
        self._listener, self._target = listener, target

    def serve(self) -> None:
        """Until the listener is closed."""
        self._listener.serve(self._lead)

    def _lead(self, attested: AttestedSocket) -> None:
        place = (self._target.host, self._target.port)
        try:
            local = socket.create_connection(place, _CONNECT_SECONDS)
        except OSError as error:
            raise attested.refuse(
                TunnelTargetUnreachable(
                    str(self._target), expected="a listening program", found="none"
                )
            ) from error
        with local:
            local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            forward(local, attested)


class TunnelClient:
    """Listens for local programs, and leads each of their connections to an enclave."""

    def __init__(
        self,
        address: Address,
        connect: Callable[[], AttestedSocket],
        *,
        limits: Limits | None = None,
        report: Report = lambda refusal: None,
    ) -> None:
        """Listen.

        Args:
            address: Of this machine: who reaches it uses this party's identity.
            connect: A new attested connection.
            report: Told why a connection was not made, or broke.

        Raises:
            ListenerUnusable: The port is in use, or the address is not this machine's.
        """
        self._connect, self._report = connect, report
        self._slots = threading.Semaphore((limits or Limits()).connections_per_peer)
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            self._socket = socket.create_server((address.host, address.port), family=family)
        except OSError as error:
            raise ListenerUnusable(
                str(address), expected="a free port of this machine", found="one in use"
            ) from error
        self.address = Address(address.host, self._socket.getsockname()[1])

    def serve(self) -> None:
        """Until `close`. Beyond its share of connections, programs wait for one to end."""
        while not self._stopped.is_set():
            if not self._slots.acquire(timeout=_LOOK_SECONDS):
                continue
            try:
                local, _ = self._socket.accept()
            except OSError:  # closed; or this program has gone already, or no descriptor is left
                self._slots.release()
                self._stopped.wait(_PAUSE_SECONDS)
                continue
            with self._lock:
                self._open.add(local)
            self._start(local)

    def _start(self, local: socket.socket) -> None:
        thread = threading.Thread(target=self._lead, args=[local], name="tunnel", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread is left: this program is cut off, and the next is served
            with self._lock:
                self._open.discard(local)
            self._slots.release()
            local.close()

    def _lead(self, local: socket.socket) -> None:
        try:
            with local:
                local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    forward(local, self._connect())
                except RatlsError as refusal:
                    _reset(local)
                    self._report(refusal)
        finally:
            with self._lock:
                self._open.discard(local)
            self._slots.release()

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        self._stopped.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            running = list(self._open)
        for local in running:
            _reset(local)
            with suppress(OSError):
                local.shutdown(socket.SHUT_RDWR)  # wakes the threads that use it
