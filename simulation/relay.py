"""A relay between two peers on loopback that records what they send.

It plays an attacker who reads the network. The demo and the tests use it to show what left a
provider: how many connections were made, and the bytes of each.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Connection:
    """One TCP connection through the relay. Sizes in bytes, content in order."""

    sent: bytearray = field(default_factory=bytearray)  #      client to server
    received: bytearray = field(default_factory=bytearray)  #  server to client


class RecordingRelay:
    """Listens on a free port of 127.0.0.1 and forwards each connection to `target`.

    with RecordingRelay(("127.0.0.1", 7443)) as relay:
        ...  # talk to relay.address
    relay.connections
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections: list[Connection] = []

    @property
    def address(self) -> str:
        """`HOST:PORT` of the relay's own end."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        _shut(self._listener)  # closing alone would leave a thread in accept

    def cut(self) -> None:
        """Break every connection that is open now; new ones are still taken."""
        for end in self._open:
            # Shutdown wakes a pump that blocks in recv; closing alone would not.
            _shut(end)
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener was closed: the relay has ended
            record = Connection()
            self.connections.append(record)
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            for source, sink, log in (
                (client, server, record.sent),
                (server, client, record.received),
            ):
                threading.Thread(target=_pump, args=(source, sink, log), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, log: bytearray) -> None:
    try:
        while data := source.recv(65536):
            log += data
            sink.sendall(data)
    except OSError:
        pass  # a peer that vanished ends its connection, nothing else
    _shut(sink)
    _shut(source)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it was gone already
        end.shutdown(socket.SHUT_RDWR)
    end.close()
