"""What is fuzzed of attested connections: messages of the challenge, and frames on a socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

NONCE = bytes(range(32))


class Wire:
    """Both the socket and its TLS: what came, in pieces of any size, and then its end."""

    def __init__(self, data: bytes, sizes: list[int] | None = None) -> None:
        self.rest, self.sizes = memoryview(data), sizes or []
        self.sent = bytearray()
        self.pending = False

    def read_into(self, view: memoryview) -> int:
        """0 at the end, as `TlsEnd` has it."""
        most = self.sizes.pop() if self.sizes else len(view)
        size = min(len(view), len(self.rest), most)
        view[:size], self.rest = self.rest[:size], self.rest[size:]
        return size

    def seal(self, data: memoryview) -> bytes:
        return bytes(data)

    def send(self, data: memoryview) -> int:
        self.sent += data
        return len(data)

    def end(self) -> bytes:
        return b""

    def setblocking(self, _: bool) -> None: ...

    def shutdown(self, _: int) -> None:
        raise OSError

    def close(self) -> None: ...

    @property
    def peer(self) -> Any:
        from ratls.socket_session import SocketPeer

        return SocketPeer(bytes(32), "alice-clinic", None)


class Enclave:
    """Proves itself with few bytes."""

    def answer_challenge(self, *_: Any) -> bytes:
        return b"evidence"


def server_end(wire: Any) -> Any:
    """The enclave's end of a connection, whose peer says what is on the wire."""
    from ratls.attested_socket import AttestedSocket
    from ratls.session import Session

    session = Session(
        client=False,
        prover=Enclave(),
        peer_spki_sha256=bytes(32),
        own_binder=bytes(32),
        challenger=None,
        seconds=lambda: 0.0,
    )
    raw: socket.socket = wire
    return AttestedSocket(raw, wire, session, "peer")


def received(connection: Any) -> bytes:
    """All data of a connection, from its first frame to its end."""
    connection.establish(60.0, client=False)
    data = b""
    while piece := connection.recv(1 << 20):
        data += piece
    return data


def session_messages() -> Any:
    """The parser of one message, whichever is due."""
    from ratls.session import read_message

    due = ("hello", "evidence", "proof", "challenge", "answer")
    return lambda data: read_message(data, *due)


def socket_frames() -> Any:
    """A whole connection: challenge, data, further challenges, end."""
    return lambda data: received(server_end(Wire(data)))


def session_seeds(_: Path | None) -> list[bytes]:
    from ratls.session import write_message

    return [
        write_message("hello", nonce=NONCE),
        write_message("evidence", evidence=b"e" * 50, nonce=NONCE),
        write_message("evidence", evidence=b"e" * 50, nonce=b""),
        write_message("proof", evidence=b"e" * 50),
        write_message("challenge", nonce=NONCE),
        write_message("answer", evidence=b"e" * 50),
    ]


def frame_seeds(_: Path | None) -> list[bytes]:
    from ratls.attested_socket import DATA, END, message_frame
    from ratls.session import write_message

    hello = message_frame(write_message("hello", nonce=NONCE))
    again = message_frame(write_message("challenge", nonce=NONCE))
    rows = bytes([DATA, 0, 0, 4]) + b"rows"
    end = bytes([END, 0, 0, 0])
    return [hello + rows + again + rows + end, hello + end, hello + rows + end + again]
