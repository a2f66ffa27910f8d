"""Sealed rows over real connections: who can read them, and what wrong sealing achieves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from policy.values import Digest, Nonce
from ratls.claims import SealingKeyUnbound
from ratls.client_call import AnswerMissing
from ratls.client_stream import ClientExchange, Kept
from ratls.framing import ChunkUnexpected, Kind, MessageUnexpected, chunk_frame
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.sealing import (
    ChunkHead,
    ChunkNotOpenable,
    SealingKey,
    SealingKeyChanged,
    SealingKeyMalformed,
    StreamKey,
    StreamKeyNotOpenable,
    Tally,
    Transcript,
    tags_digest,
)
from ratls.server_stream import SequenceBroken, ServerExchange, StreamTruncated
from tests.support.flight_peers import PlainEnclave, Script, Study, serving, transcript
from tests.support.refusal import refused
from tests.support.waiting import eventually
from verifier.errors import RatlsError

CANARY = "c4n4ry-patient"
TASK = b"task"
SALT = b"s" * 32
ABOUT = Digest(bytes(32))
ROWS = [pa.record_batch({"patient": [f"{CANARY}-{n}-{i}" for i in range(9)]}) for n in range(3)]


@contextmanager
def enclave(study: Study, **script: Any) -> Iterator[PlainEnclave]:
    """The agreed enclave, taking Alice's sealed rows; arguments replace parts of its script."""
    made = Script(study.identity(), study.channel().spki_sha256, plain=False, **script)
    with serving(made, study.channel()) as server:
        yield server


@contextmanager
def releasing(
    study: Study, server: PlainEnclave, *, stream: int = 0, streams: int = 1, **fields: Any
) -> Iterator[tuple[ClientExchange, Kept]]:
    """Alice's end, with the key of a stream agreed; `fields` replace those of the transcript."""
    admitted = study.admitted(server.script.identity)
    with study.exchange(Kind.RELEASE, server.address, admitted, task=TASK) as exchange:
        kept = exchange.open(said(exchange, stream, streams, **fields), SALT, ABOUT)
        yield exchange, kept


def said(exchange: ClientExchange, stream: int, streams: int, **fields: Any) -> Transcript:
    claims = exchange.fresh.claims
    honest = transcript(claims.nonce, claims.instance, TASK, b"", stream, streams)
    values = {name: getattr(honest, name) for name in honest.__dataclass_fields__}
    return Transcript(**values | fields)


def send(exchange: ClientExchange, *batches: pa.RecordBatch) -> None:
    for place, batch in enumerate(batches, 1):
        exchange.send_sealed(batch.serialize(), batch.num_rows, last=place == len(batches))


@contextmanager
def refused_by(server: PlainEnclave, leaf: type[RatlsError]) -> Iterator[None]:
    """The enclave refuses so, and the client hears of it."""
    with refused(PeerRefused) as seen:
        yield
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == leaf.code
    assert server.script.uploads == []


# Rows that arrive


def test_sealed_rows_arrive_and_both_sides_count_the_same_tags(study: Study) -> None:
    with enclave(study) as server, releasing(study, server) as (exchange, kept):
        assert kept == Kept(0, 0, Digest(bytes(32)))
        send(exchange, *ROWS)
        assert exchange.commit(b"commit") == b"ack of commit"
    chunks, tally = server.script.chunks, Tally()
    for chunk, batch in zip(chunks, ROWS, strict=True):
        assert chunk.message.equals(batch.serialize())
        tally.add(chunk.tag, batch.num_rows)
    assert [chunk.last for chunk in chunks] == [False, False, True]
    assert tags_digest([tally]) == tags_digest([exchange.sealed()])


def test_several_streams_with_a_challenge_and_a_key_each(study: Study) -> None:
    """Each has its own nonce; what one has sealed opens in no other."""
    with enclave(study) as server:
        with (
            releasing(study, server, stream=0, streams=2) as (first, _),
            releasing(study, server, stream=1, streams=2) as (second, _),
        ):
            assert first.fresh.claims.nonce != second.fresh.claims.nonce
            send(second, ROWS[1])
            send(first, ROWS[0], ROWS[2])
            assert first.commit(b"first") == b"ack of first"
            assert second.commit(b"second") == b"ack of second"
        assert sorted(count for _, count in server.script.uploads) == [1, 2]


def test_the_enclave_is_challenged_again_between_two_chunks(study: Study) -> None:
    """B22: on the very RPC that the rows travel on, and under the same sealing key."""
    with enclave(study) as server, releasing(study, server) as (exchange, _):
        exchange.send_sealed(ROWS[0].serialize(), 9, last=False)
        again = exchange.challenge_again()
        assert again.claims.nonce != exchange.fresh.claims.nonce
        assert again.claims.instance == exchange.fresh.claims.instance
        exchange.send_sealed(ROWS[1].serialize(), 9, last=True)
        assert exchange.commit(b"commit")
    assert [count for _, count in server.script.uploads] == [2]


# Who else can read them: B08


class Recorder:
    """A second server with the enclave's stolen TLS key, which forwards every challenge."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def __call__(self, exchange: ServerExchange) -> None:
        opened = exchange.open_request()
        self.frames.append(opened.key)
        exchange.ready(0, 0, Digest(bytes(32)))
        self.frames.extend(exchange._requests)


def test_who_has_the_tls_key_records_ciphertext(study: Study) -> None:
    """The evidence is the genuine enclave's, for its own sealing key: all that passes is sealed."""
    recorder = Recorder()
    with (
        enclave(study, after_evidence=recorder) as server,
        refused(AnswerMissing),
        releasing(study, server) as (exchange, _),
    ):
        send(exchange, *ROWS)
        exchange.sealed()
        exchange._call.finish()  # as if it went on; the recorder never acknowledges
        exchange.commit(b"commit")
    assert len(recorder.frames) == 4
    recorded = b"".join(recorder.frames)
    assert CANARY.encode() not in recorded
    assert b"patient" not in recorded
    with refused(StreamKeyNotOpenable):
        SealingKey.make().open_stream_key(
            recorder.frames[0], transcript(b"n" * 32, b"i" * 16, TASK)
        )


Answer = Callable[[EnclaveIdentity, bytes, bytes], bytes]


def naming(study: Study, key: bytes) -> Answer:
    """Evidence that names the digest of this key, or none."""
    peer, named = study.channel().spki_sha256, hashlib.sha256(key).digest() if key else b""
    return lambda identity, nonce, task: identity.answer_challenge(nonce, peer, task, named)


def test_who_has_the_tls_key_offers_a_sealing_key_of_its_own(study: Study) -> None:
    genuine, own = SealingKey.make(), SealingKey.make()
    for named in (genuine.public, b""):
        with (
            enclave(study, sealing_key=own, answer=naming(study, named)) as server,
            refused(SealingKeyUnbound),
            releasing(study, server),
        ):
            pass
        assert server.script.chunks == []
    with (
        enclave(study, sealing_key=own, answer=naming(study, own.public)) as server,
        releasing(study, server) as (exchange, _),
    ):
        send(exchange, *ROWS)
        assert exchange.commit(b"commit")


def test_an_enclave_names_no_key_or_nonsense(study: Study) -> None:
    """A release is never sent unsealed because of what the other side leaves out."""
    for public in (b"", b"k" * 32):
        key = SealingKey.make()
        key.public = public
        with (
            enclave(study, sealing_key=key) as server,
            refused(SealingKeyMalformed),
            releasing(study, server),
        ):
            pass
        assert server.script.chunks == []


def test_the_sealing_key_changes_in_mid_stream(study: Study) -> None:
    """Evidence that is genuine for a key that appeared later: of another enclave's, or another
    exchange's."""

    def change(exchange: ServerExchange) -> None:
        script = server.script
        made = transcript(nonces[0], script.identity.instance, TASK)
        opened = exchange.open_request()
        key = script.sealing_key.open_stream_key(opened.key, made)
        exchange.ready(0, 0, Digest(bytes(32)))

        def prove(nonce: Nonce) -> None:
            other = SealingKey.make().public
            exchange.send_evidence(script.evidence(nonce, TASK, other), other)

        list(exchange.sealed_rows(key, ABOUT, first=0, prove=prove))

    nonces: list[bytes] = []
    with enclave(study) as server:
        honest = server.script.identity.answer_challenge

        def answer(identity: EnclaveIdentity, nonce: bytes, task: bytes) -> bytes:
            nonces.append(nonce)
            key = hashlib.sha256(server.script.sealing_key.public).digest()
            return honest(nonce, study.channel().spki_sha256, task, key)

        server.script.after_evidence = change
        server.script.answer = answer
        admitted = study.admitted(server.script.identity)
        with (
            refused(SealingKeyChanged),
            study.exchange(Kind.RELEASE, server.address, admitted, task=TASK) as exchange,
        ):
            exchange.open(said(exchange, 0, 1), SALT, ABOUT)
            server.script.answer = None
            exchange.send_sealed(ROWS[0].serialize(), 9, last=False)
            exchange.challenge_again()


# A client that seals wrongly gets a refusal, and nothing counts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy_digest", Digest(b"o" * 32)),
        ("task_digest", Digest(b"o" * 32)),
        ("nonce", Nonce(b"o" * 32)),
        ("dataset", "train_party_2"),
        ("provider", "bob-hospital"),
        ("release", b"o" * 16),
    ],
)
def test_the_key_is_sealed_for_something_else(study: Study, name: str, value: Any) -> None:
    with (
        enclave(study) as server,
        refused_by(server, StreamKeyNotOpenable),
        releasing(study, server, **{name: value}),
    ):
        pass


Cheat = Callable[[ClientExchange], None]


def sealed_by(key: StreamKey, head: ChunkHead, about: Digest) -> bytes:
    return chunk_frame(head, key.seal(ROWS[0].serialize(), head, about))


def cheat(**forged: Any) -> Cheat:
    """Sends a second chunk that is as `forged` says, after an honest one."""

    def act(exchange: ClientExchange) -> None:
        own = exchange._key
        assert own is not None
        exchange.send_sealed(ROWS[0].serialize(), 9, last=forged.get("after_last", False))
        key = forged.get("key", own)
        head = forged.get("head", ChunkHead(1, True))
        exchange._call.send(sealed_by(key, head, forged.get("about", ABOUT)))

    return act


CHEATS: dict[str, tuple[Cheat, type[RatlsError]]] = {
    "repeated": (cheat(head=ChunkHead(0, False)), SequenceBroken),
    "left out": (cheat(head=ChunkHead(2, True)), SequenceBroken),
    "after the last": (cheat(head=ChunkHead(1, True), after_last=True), SequenceBroken),
    "another key": (cheat(key=StreamKey(bytes(32), SALT, 0)), ChunkNotOpenable),
    "other columns": (cheat(about=Digest(b"o" * 32)), ChunkNotOpenable),
    "no such number": (
        lambda e: e._call.send(chunk_frame(ChunkHead(2**40, True), bytes(40))),
        ChunkUnexpected,
    ),
    "no ciphertext": (
        lambda e: e._call.send(chunk_frame(ChunkHead(0, True), bytes(16))),
        ChunkNotOpenable,
    ),
    "moved": (
        lambda e: e._call.send(_moved(e, ChunkHead(1, False), ChunkHead(0, False))),
        ChunkNotOpenable,
    ),
    "made the last": (
        lambda e: e._call.send(_moved(e, ChunkHead(0, False), ChunkHead(0, True))),
        ChunkNotOpenable,
    ),
    "not made the last": (
        lambda e: e._call.send(_moved(e, ChunkHead(0, True), ChunkHead(0, False))),
        ChunkNotOpenable,
    ),
}


def _moved(exchange: ClientExchange, sealed: ChunkHead, said: ChunkHead) -> bytes:
    """Sealed for one place, sent for another."""
    key = exchange._key
    assert key is not None
    return chunk_frame(said, key.seal(ROWS[0].serialize(), sealed, ABOUT))


@pytest.mark.parametrize(("act", "leaf"), CHEATS.values(), ids=CHEATS)
def test_a_client_that_seals_wrongly(study: Study, act: Cheat, leaf: type[RatlsError]) -> None:
    """F15."""
    with (
        enclave(study) as server,
        refused_by(server, leaf),
        releasing(study, server) as (exchange, _),
    ):
        act(exchange)
        exchange.commit(b"commit")


def test_rows_that_are_not_sealed_where_sealed_ones_are_due(study: Study) -> None:
    with (
        enclave(study) as server,
        refused_by(server, MessageUnexpected),
        releasing(study, server) as (exchange, _),
    ):
        exchange.begin(ROWS[0].schema)
        exchange.send(ROWS[0])
        exchange.commit(b"commit")


def test_sealed_rows_that_end_without_a_commit(study: Study) -> None:
    """F14."""
    with enclave(study) as server:
        with (
            refused(StreamTruncated),
            releasing(study, server) as (exchange, _),
        ):
            send(exchange, *ROWS)
            exchange.sealed()
            raise StreamTruncated("source", expected="more", found="it broke off")
        eventually(lambda: server.script.refusals)
        assert server.script.refusals == [StreamTruncated.code]
        assert server.script.uploads == []


def test_what_sealing_raises_reaches_who_releases(study: Study) -> None:
    """Chunks are sealed in another thread; an error there ends the release."""
    with enclave(study) as server:
        with refused(ChunkNotOpenable), releasing(study, server) as (exchange, _):
            exchange._number = 2**30
            exchange.send_sealed(ROWS[0].serialize(), 9, last=False)
            exchange.sealed()
        eventually(lambda: server.script.refusals)
        assert server.script.uploads == []
