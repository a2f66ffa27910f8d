"""Frames of an attested socket, whatever the bytes and however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.attested_socket import DATA, END, MAX_FRAME, ConnectionCut, FrameUnexpected
from ratls.evidence import TooManyChallenges
from ratls.framed_socket import HEAD, message_frame
from ratls.session import MAX_MESSAGE, SessionMessageUnexpected, write_message
from tests.fuzz.channels import NONCE, Wire, received, server_end
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

HELLO = message_frame(write_message("hello", nonce=NONCE))
AGAIN = message_frame(write_message("challenge", nonce=NONCE))
CLOSE = bytes([END, 0, 0, 0])


def data(content: bytes) -> bytes:
    return bytes([DATA]) + len(content).to_bytes(3, "big") + content


CONTENT = st.binary(min_size=1, max_size=300)


@given(st.lists(CONTENT, max_size=6), st.lists(st.integers(1, 40), max_size=60), st.data())
def test_data_arrives_whole_however_it_comes(
    parts: list[bytes], sizes: list[int], draw: st.DataObject
) -> None:
    """Frames are cut anywhere by the network, and challenges come between them."""
    frames = [data(part) for part in parts]
    for _ in range(draw.draw(st.integers(0, 3))):
        frames.insert(draw.draw(st.integers(0, len(frames))), AGAIN)
    wire = Wire(HELLO + b"".join(frames) + CLOSE, sizes)
    assert received(server_end(wire)) == b"".join(parts)
    assert wire.sent.count(b"evidence") >= 1 + frames.count(AGAIN)


@given(st.binary(max_size=400), st.lists(st.integers(1, 40), max_size=60))
def test_any_bytes_are_a_typed_refusal(raw: bytes, sizes: list[int]) -> None:
    count_refusal()
    for begun in (b"", HELLO, HELLO + data(b"x")):
        try:
            received(server_end(Wire(begun + raw, list(sizes))))
        except RatlsError as refusal:
            assert refusal.code  # noqa: PT017 - a branch is never raised


@given(st.lists(CONTENT, min_size=1, max_size=4), st.data())
def test_a_connection_that_ends_anywhere_before_its_end_is_a_cut(
    parts: list[bytes], draw: st.DataObject
) -> None:
    """F14: what came of it is not complete."""
    whole = HELLO + b"".join(map(data, parts)) + CLOSE
    place = draw.draw(st.integers(0, len(whole) - 1))
    with refused(ConnectionCut):
        received(server_end(Wire(whole[:place])))


@pytest.mark.parametrize(
    ("frames", "leaf"),
    [
        (data(b"early") + HELLO, FrameUnexpected),
        (HELLO + b"\x03\0\0\0", FrameUnexpected),
        (HELLO + bytes([DATA, 0, 0, 0]), FrameUnexpected),
        (HELLO + bytes([DATA]) + (MAX_FRAME + 1).to_bytes(3, "big"), FrameUnexpected),
        (HELLO + bytes([1]) + (MAX_MESSAGE + 1).to_bytes(3, "big"), FrameUnexpected),
        (HELLO + CLOSE + data(b"late"), None),
        (HELLO + bytes([END, 0, 0, 1, 0]), FrameUnexpected),
        (HELLO + HELLO, SessionMessageUnexpected),
        (AGAIN, SessionMessageUnexpected),
        (HELLO + AGAIN * 33 + CLOSE, TooManyChallenges),
        (HELLO + AGAIN * 32 + CLOSE, None),
    ],
)
def test_frames_that_are_not_due(frames: bytes, leaf: type[RatlsError] | None) -> None:
    """S1. What follows an end is not read; a party may ask 32 times at once."""
    connection = server_end(Wire(frames))
    if leaf is None:
        assert received(connection) == b""
        return
    with refused(leaf):
        received(connection)
    with refused(leaf):  # and again: nothing goes on after it
        connection.recv(1)
    with refused(leaf):
        connection.sendall(b"x")


def test_no_more_is_taken_into_memory_than_a_frame_has() -> None:
    """F02: a length is not believed before its bytes have come."""
    count_refusal()
    wire = Wire(HELLO + bytes([DATA]) + MAX_FRAME.to_bytes(3, "big") + b"x")
    connection = server_end(wire)
    connection.establish(60.0, client=False)
    assert connection.recv(1 << 20) == b"x"
    assert connection._left == MAX_FRAME - 1
    assert HEAD == 4
