"""HTTP/2 as bytes, for clients that say what no library of theirs would (RFC 9113, section 4.1)."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """One frame."""
    head = len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + content


def field(name: bytes, value: bytes) -> bytes:
    """A header that nobody remembers (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call(method: bytes, stream: int = 1) -> bytes:
    """The head of a call of gRPC; its messages follow."""
    fields = {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": method,
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    content = b"".join(field(name, value) for name, value in fields.items())
    return frame(HEADERS, END_HEADERS, stream, content)


def message(content: bytes, stream: int = 1, flags: int = END_STREAM) -> bytes:
    """A message of a call: the last one, unless its flags say otherwise."""
    return frame(DATA, flags, stream, b"\0" + len(content).to_bytes(4, "big") + content)


BEGIN = PREFACE + frame(SETTINGS, 0, 0, b"")


def has_ended(received: bytes, stream: int = 1) -> bool:
    """Has the other end said all that it says on this stream?"""
    at = 0
    while at + 9 <= len(received):
        size = int.from_bytes(received[at : at + 3], "big")
        kind, flags = received[at + 3], received[at + 4]
        if int.from_bytes(received[at + 5 : at + 9], "big") == stream and (
            kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
        ):
            return True
        at += 9 + size
    return False
