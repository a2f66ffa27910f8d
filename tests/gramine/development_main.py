"""The entry point of a development image: that of production, with an attester that simulates.

It is one more module in a real image (`tests.support.gramine_direct`), in no distribution, and
measured by no manifest that a party accepts. Quotes come from the test, over a socket whose port
is its one argument: so all other files of the image are those of production.
"""

from __future__ import annotations

import socket
import sys
import threading

from enclave_app import gramine_main
from enclave_app.room import require_threads
from verifier.anchors import Mode
from verifier.quote import Quote


class FromOutside:
    """Implements `ratls.attester.Attester`: asks whoever listens at this port."""

    mode, lock = Mode.SIMULATION, threading.Lock()

    def __init__(self) -> None:
        with socket.socket() as connection:  # open as long as the stream is
            connection.connect(("127.0.0.1", int(sys.argv[1])))
            self.stream = connection.makefile("rwb")
        self.mr_enclave = Quote.parse(self.quote(bytes(64))).enclave.mr_enclave

    def quote(self, report_data: bytes) -> bytes:
        """Sends 64 bytes; reads a length of 4 bytes, big-endian, and the quote."""
        with self.lock:
            self.stream.write(report_data)
            self.stream.flush()
            return self.stream.read(int.from_bytes(self.stream.read(4), "big"))


def attester() -> FromOutside:
    """Memory is the host's, which may be small; threads are asked for as in production."""
    require_threads()
    return FromOutside()


def main() -> int:
    """Serve on a free port of this machine alone."""
    gramine_main.ROOTS = frozenset({"intel", "simulation"})
    gramine_main.LISTEN = "127.0.0.1:0"
    gramine_main.attester = attester
    return gramine_main.main([])


if __name__ == "__main__":
    sys.exit(main())
