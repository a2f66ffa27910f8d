"""Messages of the challenge: what is due is read, and everything else is one refusal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls import cbor
from ratls.claims import NONCE_SIZE
from ratls.evidence import Allowance, TooManyChallenges
from ratls.peer_refusal import PeerRefused
from ratls.session import (
    MAX_MESSAGE,
    SessionMessageUnexpected,
    read_message,
    write_message,
)
from tests.support.refusal import count_refusal, refused

NONCE = bytes(NONCE_SIZE)
GOOD: dict[str, dict[str, Any]] = {
    "hello": {"nonce": NONCE},
    "evidence": {"evidence": b"e", "nonce": b""},
    "proof": {"evidence": b"e"},
    "challenge": {"nonce": NONCE},
    "answer": {"evidence": b"e"},
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_due_is_read_and_nothing_else(name: str) -> None:
    raw = write_message(name, **GOOD[name])
    assert read_message(raw, name) == (name, GOOD[name])
    with refused(SessionMessageUnexpected):
        read_message(raw, *(GOOD.keys() - {name}))


@pytest.mark.parametrize(
    "members",
    [
        {"type": "hello"},
        {"type": "hello", "nonce": NONCE, "more": b""},
        {"type": "hello", "nonce": NONCE[1:]},
        {"type": "hello", "nonce": "text"},
        {"type": b"hello", "nonce": NONCE},
        {"type": "hullo", "nonce": NONCE},
        {"nonce": NONCE},
    ],
)
def test_another_form_of_a_hello(members: dict[str, Any]) -> None:
    """Whatever is odd about it."""
    with refused(SessionMessageUnexpected):
        read_message(cbor.encode(members), "hello")


def test_a_message_beyond_the_cap_is_not_read() -> None:
    good = write_message("proof", evidence=bytes(MAX_MESSAGE - 100))
    assert read_message(good, "proof")[0] == "proof"
    with refused(SessionMessageUnexpected):
        read_message(write_message("proof", evidence=bytes(MAX_MESSAGE)), "proof")


def test_a_peer_may_refuse_at_any_time() -> None:
    with refused(PeerRefused):
        read_message(write_message("refused", code="policy-expired", id="0" * 16), "evidence")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(raw: bytes) -> None:
    count_refusal()
    try:
        read_message(raw, *GOOD)
    except (SessionMessageUnexpected, PeerRefused):
        return


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 60), st.integers(0, 255))
def test_a_message_with_one_byte_altered(name: str, place: int, byte: int) -> None:
    count_refusal()
    raw = bytearray(write_message(name, **GOOD[name]))
    raw[place % len(raw)] = byte
    try:
        found, members = read_message(bytes(raw), name)
    except (SessionMessageUnexpected, PeerRefused):
        return
    assert write_message(found, **members) == bytes(raw), "one form for one message"


def test_challenges_without_end_are_refused_and_honest_ones_are_not() -> None:
    """F11: evidence costs the machine time."""
    now = [0.0]
    allowance = Allowance(lambda: now[0])
    for _ in range(100):  # once a second, for ever
        now[0] += 1.0
        allowance.spend()
    for _ in range(31):  # a burst
        allowance.spend()
    with refused(TooManyChallenges):
        for _ in range(2):
            allowance.spend()
