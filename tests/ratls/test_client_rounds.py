"""What a party takes from an enclave in a round, and what it refuses from one that is another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policy.rounds import SALT_SIZE, Series, Tensor
from policy.values import Digest, Instance, Nonce
from ratls.client_call import AnswerMissing, ClientCall
from ratls.client_rounds import Handed, RoundCall
from ratls.errors import StreamIntegrityError
from ratls.framing import (
    ChunkUnexpected,
    Frame,
    MessageOversized,
    MessageUnexpected,
    chunk_frame,
    message_frame,
)
from ratls.framing import write_message as written
from ratls.sealing import (
    TAG_SIZE,
    ChunkHead,
    ChunkNotOpenable,
    SealingKey,
    StreamKey,
    Tally,
    Transcript,
    seal_stream_key,
    tags_digest,
)
from tests.support.refusal import refused

SIZE = (1 << 18) + 5  # a part and a little more, with the salt
SERIES = Series(
    computation="train", inputs=("a", "b", "c"), model="vector", tensors=(Tensor("v", (SIZE,)),),
    rounds=4, quorum=3, seconds=9, aggregator="median", clip_norm=1.0, weights=(1.0,) * 3, digits=6,
)  # fmt: skip
TRANSCRIPT = Transcript(
    policy_digest=Digest(bytes(32)), task_digest=Digest(bytes(32)), nonce=Nonce(bytes(32)),
    instance=Instance(bytes(16)), dataset="a", provider="alice", release=bytes(16), stream=0,
    streams=1,
)  # fmt: skip
PLAIN = bytes(range(SALT_SIZE)) + np.arange(SIZE, dtype="<f4").tobytes()
PART = 1 << 20


class Scripted:
    """An enclave whose answers a test writes; also what stands for exchange and RPC."""

    def __init__(self) -> None:
        self.key, self.sent = SealingKey.make(), list[bytes]()
        self.answers: Iterator[bytes] = iter(())
        self.call = self

    def key_for(self, transcript: Transcript, random: Any) -> tuple[bytes, StreamKey]:
        return seal_stream_key(self.key.public, transcript, bytes(32), random)

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def hear(self) -> Frame | None:
        raw = next(self.answers, None)
        return None if raw is None else Frame.parse(raw)

    def message(self, *due: str) -> tuple[str, dict[str, Any]]:
        return ClientCall.message(self, *due)  # type: ignore[arg-type]

    def said(self, name: str) -> dict[str, Any]:
        frames = (Frame.parse(raw) for raw in self.sent)
        return next(f.message(name)[1] for f in frames if not f.is_chunk and name in _name(f))

    def stream_key(self, stream: int) -> StreamKey:
        """The key that the party sealed for one direction."""
        sealed = self.said("round")["up" if stream == 0 else "down"]
        return self.key.open_stream_key(sealed, replace(TRANSCRIPT, stream=stream, streams=2))


def _name(frame: Frame) -> str:
    return frame.message("round", "update")[0]


def say(name: str, **members: Any) -> bytes:
    return message_frame(written(name, **members))


@pytest.fixture
def enclave() -> Scripted:
    return Scripted()


def call(enclave: Scripted) -> RoundCall:
    made = RoundCall(enclave, TRANSCRIPT, SERIES, lambda size: bytes([7]) * size)  # type: ignore[arg-type]
    enclave.answers = iter([say("turn", number=1, due=1)])
    assert made.bring(1, seen=0)
    return made


def parts(key: StreamKey, plain: bytes = PLAIN) -> list[bytes]:
    found = []
    for number, start in enumerate(range(0, len(plain), PART)):
        head = ChunkHead(number, start + PART >= len(plain))
        sealed = key.seal(plain[start : start + PART], head, SERIES.shape_digest)
        found.append(chunk_frame(head, sealed))
    return found


def answered(enclave: Scripted, *frames: bytes) -> Handed | None:
    made = call(enclave)
    enclave.answers = iter(frames)
    return made.answer()


def model(number: int = 1, receipts: int = 1) -> bytes:
    return say("model", number=number, open=number + 1, receipts=receipts)


RECEIPT = say("receipt", document=b"signed")


def honest(enclave: Scripted) -> list[bytes]:
    call(enclave)
    return [model(), RECEIPT, *parts(enclave.stream_key(1))]


def test_a_model_comes_in_parts_after_its_receipts(enclave: Scripted) -> None:
    handed = answered(enclave, *honest(enclave))
    assert handed is not None
    assert handed.plaintext == PLAIN
    assert (handed.number, handed.receipts) == (1, (b"signed",))
    assert answered(enclave, say("pending", missing=[])) is None


def test_an_update_goes_out_in_parts_and_its_tags_are_signed(enclave: Scripted) -> None:
    made, update = call(enclave), bytes(range(256)) * (17 << 12)
    signed: list[Digest] = []

    def sign(tags: Digest) -> bytes:
        signed.append(tags)
        return b"word"

    assert made.send(memoryview(update), sign) == b"word"
    key, tally, found = enclave.stream_key(0), Tally(), b""
    for raw in enclave.sent[1:-1]:
        chunk = Frame.parse(raw).chunk()
        found += bytes(key.open(chunk.sealed, chunk.head, SERIES.shape_digest))
        tally.add(chunk.sealed[-TAG_SIZE:], 1)
    assert found == update
    assert signed == [tags_digest([tally])]
    assert Frame.parse(enclave.sent[-1]).message("update")[1]["update"] == b"word"


Change = Callable[[list[bytes], Scripted], list[bytes]]


def _with(place: int, frame: bytes) -> Change:
    return lambda frames, enclave: [*frames[:place], frame, *frames[place + 1 :]]


def _of_another_direction(frames: list[bytes], enclave: Scripted) -> list[bytes]:
    return [*frames[:2], *parts(enclave.stream_key(0))]


def _longer(frames: list[bytes], enclave: Scripted) -> list[bytes]:
    return [*frames[:2], *parts(enclave.stream_key(1), PLAIN + bytes(4))]


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        (lambda frames, enclave: frames[:3], AnswerMissing),
        (lambda frames, enclave: frames[:1], AnswerMissing),
        (lambda frames, enclave: [], AnswerMissing),
        (lambda frames, enclave: [frames[0], *frames[2:]], MessageOversized),
        (lambda frames, enclave: [*frames[:2], frames[3], frames[2]], MessageUnexpected),
        (lambda frames, enclave: [*frames[:3], frames[2]], MessageUnexpected),
        (lambda frames, enclave: [*frames[:3], RECEIPT], ChunkUnexpected),
        (_longer, MessageUnexpected),
        (_of_another_direction, ChunkNotOpenable),
        (_with(0, model(receipts=5)), MessageUnexpected),
        (_with(0, model(number=5)), MessageUnexpected),
        (_with(0, say("turn", number=1, due=0)), MessageUnexpected),
    ],
)
def test_an_answer_that_is_no_model_of_this_exchange(
    enclave: Scripted, change: Change, leaf: type[StreamIntegrityError]
) -> None:
    """Missing, doubled, out of order, longer, sealed for the other direction, or too many."""
    frames = change(honest(enclave), enclave)
    with refused(leaf):
        answered(enclave, *frames)
