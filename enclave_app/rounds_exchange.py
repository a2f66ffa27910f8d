"""One exchange of a round: an update comes in, sealed, and the joint model goes out.

    take_part(asked)

The party is challenged anew each time, so what it trains with next was handed out by an enclave
that proved itself a moment ago. A party that is too early for the model asks again: with what it
signed before, nothing is sent twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from enclave_app.access import require_release
from enclave_app.exchange import TaskExchange
from enclave_app.rounds import Closed, Model, Running
from enclave_app.rounds_aggregate import ITEM, PART, UpdateMalformed, read_update
from policy.round_receipt import Participant, RoundReceipt, Update
from policy.rounds import require_rounds
from policy.values import Digest, Nonce
from ratls.errors import StreamIntegrityError
from ratls.framing import PART as DOWN_PART
from ratls.framing import MessageUnexpected, chunk_frame
from ratls.sealing import (
    RELEASE_ID_SIZE,
    ChunkHead,
    StreamKey,
    Tally,
    Transcript,
    tags_digest,
)
from ratls.server_stream import Round

_UP, _DOWN, _STREAMS = 0, 1, 2  # each direction has a key of its own


class UpdateOfAnotherExchange(StreamIntegrityError):
    """What the party signed is about another task, enclave, challenge, dataset, round or parts."""

    code = "update-of-another-exchange"
    default_fix = "send the update again, with the same task and enclave"


def take_part(asked: TaskExchange) -> None:
    """Serve an owner of an input to the end of the exchange.

    Raises:
        RoundsNotAgreed: The computation takes rows.
        ReleaseNotAuthorized: The dataset is not this party's input of it.
        RatlsError: Why the update does not count.
    """
    _Exchange(asked).run()


class _Exchange:
    def __init__(self, asked: TaskExchange) -> None:
        self._series = require_rounds(asked.computation)
        policy = asked.enclave.policy
        dataset = require_release(policy, asked.party, asked.computation, asked.hello.dataset)
        self._dataset = dataset.id
        self._asked = replace(asked, log=asked.log.bind(dataset=dataset.id))
        self._enclave, self._stream, self._ticket = asked.enclave, asked.stream, asked.ticket
        if len(asked.hello.release) != RELEASE_ID_SIZE:
            raise MessageUnexpected("release", expected="a name of 16 bytes", found="another")
        self._key = self._enclave.spare_key.take()

    def run(self) -> None:
        enclave = self._enclave
        running = enclave.rounds.open(
            self._ticket, self._series, enclave.clock(), enclave.seconds()
        )
        self._evidence = self._asked.prove(None, self._key.public)
        enclave.spare_key.refill()
        asked = self._stream.round_request()
        # Both keys before anything is decided: what cannot be answered is not taken in.
        up, down = self._stream_key(asked.up, _UP), self._stream_key(asked.down, _DOWN)
        if asked.number:
            self._bring(running, asked, up)
            if not self._closed(running, asked.number):
                self._stream.pending([])
                return
        model, now_open = running.standing(enclave.seconds())
        if not asked.number:
            self._stream.turn(now_open, due=False)
        self._hand_out(running, model, now_open, asked.seen, down)

    def _stream_key(self, sealed: bytes, stream: int) -> StreamKey:
        transcript = Transcript(
            policy_digest=self._enclave.policy.digest,
            task_digest=self._asked.task.digest,
            nonce=self._asked.hello.nonce,
            instance=self._enclave.identity.instance,
            dataset=self._dataset,
            provider=self._asked.party.id,
            release=self._asked.hello.release,
            stream=stream,
            streams=_STREAMS,
        )
        return self._key.open_stream_key(sealed, transcript)

    def _bring(self, running: Running, asked: Round, key: StreamKey) -> None:
        """Take the update of this round in, unless it counts already."""
        signed = self._own(asked.signed, asked.number).digest if asked.signed else None
        due = running.due(self._dataset, asked.number, signed, self._enclave.seconds())
        self._stream.turn(asked.number, due=due)
        if not due:
            return
        parts, tally = self._parts(key)
        envelope = self._stream.committed
        if envelope is None:
            raise _another("end")
        update = self._own(envelope, asked.number)
        if update.nonce != self._asked.hello.nonce:
            raise _another("nonce")
        if update.tags_digest != tags_digest([tally]):
            raise _another("parts")
        numbers = read_update(parts, self._series.size)
        self._asked.require_window("update")
        named = Participant(
            dataset=self._dataset, provider=self._asked.party.id, update_digest=update.digest
        )
        running.count(named, asked.number, update.previous, numbers, self._enclave.seconds())
        self._asked.log.info("updated", round=asked.number)

    def _parts(self, key: StreamKey) -> tuple[list[memoryview], Tally]:
        """What the party sends, opened; never more than the model's size."""
        parts: list[memoryview] = []
        tally, most = Tally(), -(-self._series.size * ITEM // PART)

        def prove(nonce: Nonce) -> None:
            self._asked.require_window("update")
            self._asked.prove(nonce, self._key.public)

        for part in self._stream.sealed_rows(key, self._series.shape_digest, first=0, prove=prove):
            if len(parts) == most:
                raise UpdateMalformed("update", expected=f"at most {most} parts", found="more")
            parts.append(memoryview(part.message).cast("B"))
            tally.add(part.tag, 1)
        return parts, tally

    def _own(self, envelope: bytes, number: int) -> Update:
        """An update signed by this party about this task, policy, enclave, dataset and round."""
        update = Update.open(envelope, self._enclave.policy)
        for thing, expected, found in (
            ("provider", self._asked.party.id, update.provider),
            ("dataset", self._dataset, update.dataset),
            ("task", self._asked.task.digest, update.task_digest),
            ("instance", self._enclave.identity.instance, update.instance),
            ("round", number, update.round),
        ):
            if expected != found:
                raise _another(thing)
        return update

    def _closed(self, running: Running, number: int) -> bool:
        """Wait a while for the others."""

        def now() -> float:
            self._stream.waits()
            return self._enclave.seconds()

        return running.wait(number, self._enclave.limits.round_wait_seconds, now)

    def _hand_out(
        self, running: Running, model: Model, now_open: int, seen: int, key: StreamKey
    ) -> None:
        self._asked.require_window("hand-out")
        signer = self._asked.identity.receipt_signer
        rounds = running.closed(seen, model.number)
        receipts = [self._receipt(closed).seal(signer) for closed in rounds]
        self._stream.model(model.number, now_open, receipts, self._sealed(model, key))
        self._asked.log.info("handed-out", round=model.number)

    def _sealed(self, model: Model, key: StreamKey) -> Iterator[bytes]:
        whole = memoryview(model.salt + model.numbers.tobytes())
        for number, start in enumerate(range(0, len(whole), DOWN_PART)):
            head = ChunkHead(number, start + DOWN_PART >= len(whole))
            part = bytes(whole[start : start + DOWN_PART])
            yield chunk_frame(head, key.seal(part, head, self._series.shape_digest))

    def _receipt(self, closed: Closed) -> RoundReceipt:
        identity = self._asked.identity
        return RoundReceipt(
            task_digest=self._asked.task.digest,
            policy_digest=self._enclave.policy.digest,
            instance=identity.instance,
            computation=self._series.computation,
            recipient=self._asked.party.id,
            round=closed.number,
            previous=closed.previous,
            model=closed.model,
            participants=closed.participants,
            sealing_key_hash=Digest(hashlib.sha256(self._key.public).digest()),
            mode=self._enclave.mode.value,
            nonce=self._asked.hello.nonce,
            evidence=self._evidence,
            tls_spki=identity.spki,
            receipt_key=identity.receipt_spki,
        )


def _another(thing: str) -> UpdateOfAnotherExchange:
    return UpdateOfAnotherExchange(
        f"update: {thing}", expected="that of this exchange", found="another"
    )
