"""A party's end of one round: an update goes out, sealed, and the joint model comes in.

    call = RoundCall(exchange, transcript, series)
    if call.bring(number, signed=b"", seen=2):        # True: the update is due now
        call.send(update, sign)
    answer = call.answer()                            # Handed, or None: the others are late

Only what the enclave sealed with this exchange's key is taken for a model, and no more of it than
the agreed size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from policy.rounds import SALT_SIZE, Series
from policy.values import Digest
from ratls.client_call import AnswerMissing
from ratls.client_stream import ClientExchange
from ratls.framing import MessageUnexpected, chunk_frame, message_frame, write_message
from ratls.sealing import TAG_SIZE, ChunkHead, StreamKey, Tally, Transcript, tags_digest

ITEM = 4  # bytes of a number
_UP_PART = 1 << 22  # bytes; those of the enclave's own parser
_DOWN_PART = 1 << 20
_SIGNED = Callable[[Digest], bytes]  # digest of the tags -> what is signed about them


@dataclass(frozen=True, slots=True)
class Handed:
    """A model that the enclave handed out, as it came."""

    number: int
    open: int  # the round that is open; one more than the last where all are over
    receipts: tuple[bytes, ...]
    plaintext: bytes  # salt and numbers


class RoundCall:
    """One exchange; methods are called in the order of the protocol."""

    def __init__(
        self,
        exchange: ClientExchange,
        transcript: Transcript,
        series: Series,
        random: Callable[[int], bytes],
    ) -> None:
        """Make both keys. Of the transcript, the number of the stream is set here."""
        self._call, self._series = exchange.call, series
        self._sealed: list[bytes] = []
        keys: list[StreamKey] = []
        for stream in (0, 1):
            sealed, key = exchange.key_for(replace(transcript, stream=stream, streams=2), random)
            self._sealed.append(sealed)
            keys.append(key)
        self._up, self._down = keys

    def bring(self, number: int, *, signed: bytes = b"", seen: int) -> bool:
        """Say which round an update is for; True where it is to come now.

        Args:
            number: 0 only asks for the newest model.
            signed: What was signed for this round before, where that was.
            seen: The last round that there is a receipt of here.
        """
        up, down = self._sealed
        asked = write_message("round", number=number, up=up, down=down, signed=signed, seen=seen)
        self._call.send(message_frame(asked))
        _, turn = self._call.message("turn")
        return bool(turn["due"])

    def send(self, update: memoryview, sign: _SIGNED) -> bytes:
        """Send an update; what was signed about it, which `sign` also keeps."""
        tally, about = Tally(), self._series.shape_digest
        for number, start in enumerate(range(0, len(update), _UP_PART)):
            head = ChunkHead(number, start + _UP_PART >= len(update))
            part = self._up.seal(bytes(update[start : start + _UP_PART]), head, about)
            tally.add(part[-TAG_SIZE:], 1)
            self._call.send(chunk_frame(head, part))
        signed = sign(tags_digest([tally]))
        self._call.send(message_frame(write_message("update", update=signed)))
        return signed

    def answer(self) -> Handed | None:
        """The newest model with the receipts of the rounds to it; None where the round is open.

        Raises:
            MessageUnexpected: Other parts, or more, than a model has.
            ChunkNotOpenable: Not sealed for this exchange.
        """
        name, told = self._call.message("model", "pending")
        if name == "pending":
            return None
        if not 0 <= told["receipts"] <= self._series.rounds >= told["number"] >= 0:
            raise _unfit("numbers within the series")
        receipts = tuple(
            bytes(self._call.message("receipt")[1]["document"]) for _ in range(told["receipts"])
        )
        return Handed(told["number"], told["open"], receipts, self._model())

    def _model(self) -> bytes:
        size, parts = SALT_SIZE + self._series.size * ITEM, []
        for number, start in enumerate(range(0, size, _DOWN_PART)):
            frame = self._call.hear()
            if frame is None:
                raise AnswerMissing("stream", expected="the next part of a model", found="its end")
            chunk, due = frame.chunk(), min(_DOWN_PART, size - start)
            head = ChunkHead(number, start + _DOWN_PART >= size)
            if chunk.head != head or len(chunk.sealed) != due + TAG_SIZE:
                raise _unfit("parts in order, of the agreed size")
            parts.append(
                self._down.open(chunk.sealed, head, self._series.shape_digest).to_pybytes()
            )
        return b"".join(parts)


def _unfit(expected: str) -> MessageUnexpected:
    return MessageUnexpected("model", expected=expected, found="others")
