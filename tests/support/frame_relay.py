"""A man in the middle of the connections for sealed chunks (`ratls.bulk`), who knows their form."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Self


class FrameRelay:
    """Listens on a free port of 127.0.0.1, and passes frames on.

    with FrameRelay(live.bulk_port) as middle:
        middle.edit = lambda number, frame: [frame]      # frames to pass on in place of one
    middle.frames                                         # all that came, over all connections

    `edit` may raise `Cut`, which ends the connection at both ends.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.edit: Callable[[int, bytes], list[bytes]] = lambda number, frame: [frame]
        self.ids: list[bytes] = []
        self.frames: list[bytes] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._ends):
            _shut(end)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed: the relay has ended
            while True:
                client, _ = self._listener.accept()
                self._ends.append(client)
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target), 5)
        server.settimeout(None)
        self._ends.append(server)
        with suppress(OSError, Cut), client, server, client.makefile("rb") as coming:
            self.ids.append(coming.read(16))
            server.sendall(self.ids[-1])
            for number in count():
                size = coming.read(4)
                frame = coming.read(int.from_bytes(size, "big"))
                if len(size) < 4:
                    return
                self.frames.append(frame)
                for passed in self.edit(number, frame):
                    server.sendall(len(passed).to_bytes(4, "big") + passed)


class Cut(Exception):
    """The man in the middle ends the connection."""


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
