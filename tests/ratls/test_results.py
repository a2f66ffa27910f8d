"""A result comes in parts, none of them larger than a mebibyte, and all as announced (F09, F15;
channel.md 8)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratls.client_call import AnswerMissing, AnswerNotOpened, ClientCall
from ratls.client_stream import ClientExchange, Pending, Result
from ratls.errors import DeadlineExceeded
from ratls.framing import (
    MAX_RESULT,
    PART,
    Kind,
    MessageOversized,
    MessageUnexpected,
    message_frame,
    number_of_parts,
    write_message,
)
from ratls.server_stream import ServerExchange
from tests.support.flight_peers import PlainEnclave, Script, Study, serving
from tests.support.refusal import refused
from tests.support.waiting import given_time
from verifier.errors import RatlsError

Says = Callable[[ServerExchange], object]


def content(size: int) -> bytes:
    """Bytes of which no two parts are alike."""
    return b"".join(hashlib.sha256(b"%d" % n).digest() * 64 for n in range(size // 2048 + 1))[:size]


def collected(study: Study, says: Says, **options: Any) -> Result | Pending:
    identity = study.identity()
    channel = study.channel()
    script = Script(identity, channel.spki_sha256, after_evidence=says)  # type: ignore[arg-type]
    with serving(script, channel) as server:
        return ask(study, server, **options)


def ask(study: Study, server: PlainEnclave, **options: Any) -> Result | Pending:
    admitted = study.admitted(server.script.identity)
    with study.exchange(
        Kind.COLLECT, server.address, admitted, task=b"task", **options
    ) as exchange:
        return exchange.collect()


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 5 * PART, 33 * PART + 7], ids=str)
def test_a_result_of_any_size_arrives_whole(study: Study, size: int) -> None:
    sealed = content(size)
    assert collected(study, lambda e: e.result(b"receipt", sealed)) == Result(b"receipt", sealed)


def test_no_frame_is_larger_than_two_mebibytes(study: Study) -> None:
    frames: list[bytes] = []
    exchange = ServerExchange(iter(()), frames.append)
    exchange.result(b"receipt", content(8 * PART + 1))
    assert len(frames) == 1 + 9
    assert max(map(len, frames)) < PART + 200


def test_an_enclave_sends_no_result_beyond_the_cap() -> None:
    """The recipient would take none of it."""
    frames: list[bytes] = []
    exchange = ServerExchange(iter(()), frames.append)
    with refused(MessageOversized):
        exchange.result(b"receipt", bytes(MAX_RESULT + 1))
    assert frames == []
    exchange.result(b"receipt", bytes(MAX_RESULT))
    assert len(frames) == 65


def test_a_recipient_that_reads_is_not_silent() -> None:
    """F10: the enclave cuts off who does nothing, and not who has a slow line."""
    heard: list[int] = []
    exchange = ServerExchange(iter(()), lambda frame: None, lambda: heard.append(1))
    exchange.result(b"receipt", bytes(3 * PART))
    assert len(heard) == 3


# Hostile enclaves.


def saying(*messages: tuple[str, dict[str, Any]]) -> Says:
    def says(exchange: ServerExchange) -> None:
        for name, members in messages:
            exchange._say(name, **members)

    return says


def first(size: int, parts: int | None = None) -> tuple[str, dict[str, Any]]:
    announced = number_of_parts(size) if parts is None else parts
    return "result", {"receipt": b"r", "size": size, "parts": announced}


def part(number: int, size: int = PART) -> tuple[str, dict[str, Any]]:
    return "part", {"number": number, "ciphertext": bytes(size)}


@pytest.mark.parametrize(
    ("says", "leaf"),
    [
        pytest.param(saying(first(MAX_RESULT + 1)), AnswerNotOpened, id="one-byte-too-large"),
        pytest.param(saying(first(1 << 62)), AnswerNotOpened, id="giant"),
        pytest.param(saying(first(-1, 0)), MessageUnexpected, id="negative"),
        pytest.param(saying(first(PART, 2), part(0)), MessageUnexpected, id="more-announced"),
        pytest.param(saying(first(PART + 1, 1), part(0)), MessageUnexpected, id="fewer-announced"),
        pytest.param(saying(first(0, 1), part(0)), MessageUnexpected, id="a-part-of-nothing"),
        pytest.param(saying(first(2 * PART), part(0)), AnswerMissing, id="fewer"),
        pytest.param(saying(first(PART)), AnswerMissing, id="none"),
        pytest.param(
            saying(first(PART), part(0), part(1)), MessageUnexpected, id="one-more-than-announced"
        ),
        pytest.param(
            saying(first(2 * PART), part(1), part(0)), MessageUnexpected, id="another-order"
        ),
        pytest.param(saying(first(2 * PART), part(0), part(0)), MessageUnexpected, id="repeated"),
        pytest.param(
            saying(first(2 * PART), part(0, PART - 1), part(1)), MessageUnexpected, id="shorter"
        ),
        pytest.param(
            saying(first(PART + 5), part(0), part(1, 6)), MessageUnexpected, id="longer-at-the-end"
        ),
        pytest.param(saying(first(PART), first(PART)), MessageUnexpected, id="announced-twice"),
        pytest.param(
            saying(first(PART), ("pending", {"missing": []})),
            MessageUnexpected,
            id="pending-inside",
        ),
        pytest.param(saying(part(0)), MessageOversized, id="a-part-first"),
        pytest.param(saying(part(0, 5)), MessageUnexpected, id="a-small-part-first"),
        pytest.param(
            lambda e: e._send(message_frame(bytes(PART + 65))), MessageOversized, id="large-message"
        ),
        pytest.param(
            lambda e: e._send(message_frame(bytes(2 * PART))), AnswerNotOpened, id="two-mebibytes"
        ),
    ],
)
def test_a_result_that_is_not_as_announced(
    study: Study, says: Says, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        collected(study, says)


def test_a_part_larger_than_a_part(study: Study) -> None:
    def says(exchange: ServerExchange) -> None:
        exchange._say(*first(2 * PART)[:1], **first(2 * PART)[1])
        raw = write_message("part", number=0, ciphertext=bytes(PART))
        exchange._send(message_frame(raw[:-PART] + bytes(PART + 100)))

    with refused(MessageOversized):
        collected(study, says)


def test_parts_without_end(study: Study) -> None:
    """What was announced is taken, and one more than that ends the call."""

    def says(exchange: ServerExchange) -> None:
        saying(first(3 * PART), *(part(number) for number in range(100)))(exchange)

    with refused(MessageUnexpected):
        collected(study, says)


def test_parts_that_do_not_come(study: Study) -> None:
    """F10: the deadline of the call holds for all of them."""

    def stalls(exchange: ServerExchange) -> None:
        saying(first(2 * PART), part(0))(exchange)
        next(exchange._requests, None)  # until the client has gone

    with refused(DeadlineExceeded):
        collected(study, stalls, timeout=0.5)
    whole: Callable[[float], Result | Pending] = lambda seconds: collected(  # noqa: E731
        study, saying(first(PART), part(0)), timeout=seconds
    )
    assert isinstance(given_time(whole, 2.0, DeadlineExceeded), Result)


class Announced(ClientCall):
    """A call that answers with these messages, and counts what is read."""

    def __init__(self, frames: Iterator[Any]) -> None:
        self._told, self.read = frames, 0

    def hear(self, *, rows: bool = False) -> Any:
        self.read += 1
        return next(self._told)


def test_nothing_is_read_of_what_is_too_large() -> None:
    """The client's memory is bounded before it has judged."""
    from ratls.framing import Frame

    frames = iter([Frame.parse(message_frame(write_message("result", **first(MAX_RESULT + 1)[1])))])
    call = Announced(frames)
    exchange = object.__new__(ClientExchange)
    exchange._call = call
    with refused(AnswerNotOpened):
        exchange.collect()
    assert call.read == 1
