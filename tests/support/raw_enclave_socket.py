"""An enclave of `ratls.sockets` without its library: after an honest proof it says what it likes.

    with raw_socket_enclave(study, script) as place: ...     # script(peer), for each connection

The evidence is genuine, for certificate, nonce and connection. It stands for a hostile enclave.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from OpenSSL import SSL

from ratls.address import Address
from ratls.attested_socket import message_frame
from ratls.claims import NO_TASK
from ratls.identity import EnclaveIdentity
from ratls.session import binder, read_message, write_message
from ratls.tls import ALPN, Shown
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.transports import read_frame


class RawPeer:
    """The enclave's end of one connection, after the handshake."""

    def __init__(self, tls: SSL.Connection, study: Study, identity: EnclaveIdentity) -> None:
        self.tls, self._study, self._identity = tls, study, identity
        self.sent = 0

    def evidence(self, name: str, asked: bytes, **more: Any) -> bytes:
        """A message with genuine evidence for this connection."""
        made = self._identity.answer_challenge(
            asked,  # type: ignore[arg-type]
            self._study.channel().spki_sha256,
            NO_TASK,
            b"",
            binder(self.tls.export_keying_material, self._identity.certificate_der),
        )
        return write_message(name, evidence=made, **more)

    def nonce(self) -> bytes:
        """Of the message that has come."""
        _, members = read_message(read_frame(self.tls)[1], "hello", "challenge")
        found: bytes = members["nonce"]
        return found

    def prove(self) -> None:
        """Answer the first message as an honest enclave does."""
        self.send(message_frame(self.evidence("evidence", self.nonce(), nonce=b"")))

    def send(self, raw: bytes) -> None:
        """All of it."""
        self.tls.sendall(raw)
        self.sent += len(raw)

    def flood(self, piece: bytes, most: int) -> None:
        """So many bytes, or until the other end has had enough."""
        while self.sent < most:
            self.send(piece)

    def drip(self, raw: bytes, pause: float = 0.01) -> None:
        """Byte by byte, or until the other end has had enough."""
        waiting = threading.Event()
        for byte in raw:
            self.send(bytes([byte]))
            waiting.wait(pause)

    def until_closed(self) -> None:
        """Say nothing more, and wait."""
        while self.tls.recv(1 << 16):
            pass


@contextmanager
def raw_socket_enclave(
    study: Study, script: Callable[[RawPeer], object]
) -> Iterator[tuple[Address, list[RawPeer]]]:
    """Listens, and runs the script on each connection; the peers, for what was sent."""
    identity = study.identity()
    shown = Shown.of(identity)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_certificate(shown.certificate)
    context.use_privatekey(shown.key)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_alpn_select_callback(lambda _, offered: ALPN)
    listener = socket.create_server((LOOPBACK, 0))
    taken: list[socket.socket] = []
    peers: list[RawPeer] = []
    threads: list[threading.Thread] = []

    def talk(raw: socket.socket) -> None:
        with suppress(SSL.Error, OSError), raw:
            tls = SSL.Connection(context, raw)
            tls.set_accept_state()
            tls.do_handshake()
            peers.append(RawPeer(tls, study, identity))
            script(peers[-1])

    def serve() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                taken.append(raw)
                threads.append(threading.Thread(target=talk, args=[raw]))
                threads[-1].start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Address(LOOPBACK, listener.getsockname()[1]), peers
    finally:
        for end in (listener, *taken):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        for one in threads:
            one.join()
