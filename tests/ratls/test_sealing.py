"""Sealed rows: what opens, and that nothing else does (B08, F15)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from policy.values import Digest, Instance, Nonce
from ratls.framing import RowDigest
from ratls.sealing import (
    MAX_CHUNK,
    MAX_CHUNKS,
    SALT_SIZE,
    TAG_SIZE,
    ChunkHead,
    ChunkNotOpenable,
    SealingKey,
    SealingKeyMalformed,
    SpareKey,
    StreamKey,
    StreamKeyNotOpenable,
    Tally,
    Transcript,
    seal_stream_key,
    tags_digest,
)
from tests.support.refusal import refused
from tests.vectors.make_sealed import TRANSCRIPT, sealing_key

SALT = b"s" * SALT_SIZE
ABOUT = Digest(b"a" * 32)
TEXT = b"rows of a patient" * 10
FIRST = ChunkHead(0, False)


@pytest.fixture(scope="module")
def key() -> SealingKey:
    return SealingKey.make()


@pytest.fixture(scope="module")
def own(key: SealingKey) -> StreamKey:
    return seal_stream_key(key.public, TRANSCRIPT, SALT)[1]


def sealed(own: StreamKey, head: ChunkHead = FIRST) -> bytes:
    return own.seal(TEXT, head, ABOUT)


# The key of a stream


def test_a_key_that_was_sealed_for_this_exchange(key: SealingKey) -> None:
    sent, own = seal_stream_key(key.public, TRANSCRIPT, SALT)
    stream = key.open_stream_key(sent, TRANSCRIPT)
    assert stream.salt == own.salt == SALT
    opened = stream.open(memoryview(sealed(own)), FIRST, ABOUT)
    assert opened.to_pybytes() == TEXT
    assert opened.address % 64 == 0


OTHER: dict[str, Any] = {
    "policy_digest": Digest(b"o" * 32),
    "task_digest": Digest(b"o" * 32),
    "nonce": Nonce(b"o" * 32),
    "instance": Instance(b"o" * 16),
    "dataset": "train_party_2",
    "provider": "bob-hospital",
    "release": b"o" * 16,
    "stream": 0,
    "streams": 3,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Transcript)])
def test_a_key_that_was_sealed_for_another_exchange(key: SealingKey, name: str) -> None:
    """B08, D04: recorded and sent again, or moved: each part of the transcript alone."""
    sent, _ = seal_stream_key(key.public, replace(TRANSCRIPT, **{name: OTHER[name]}), SALT)
    with refused(StreamKeyNotOpenable):
        key.open_stream_key(sent, TRANSCRIPT)


def test_a_key_that_was_sealed_to_another_enclave(key: SealingKey) -> None:
    sent, _ = seal_stream_key(SealingKey.make().public, TRANSCRIPT, SALT)
    with refused(StreamKeyNotOpenable):
        key.open_stream_key(sent, TRANSCRIPT)


@pytest.mark.parametrize("place", [0, 600, 1087, 1088, 1119, 1120, 1150, -1])
def test_a_sealed_key_that_was_altered(key: SealingKey, place: int) -> None:
    """Either half of the hybrid, the ciphertext, the tag."""
    sent = bytearray(seal_stream_key(key.public, TRANSCRIPT, SALT)[0])
    sent[place] ^= 1
    with refused(StreamKeyNotOpenable):
        key.open_stream_key(bytes(sent), TRANSCRIPT)


@pytest.mark.parametrize("size", [0, 1, 1119, 1120, 1199])
def test_a_sealed_key_that_was_cut(key: SealingKey, size: int) -> None:
    sent = seal_stream_key(key.public, TRANSCRIPT, SALT)[0]
    with refused(StreamKeyNotOpenable):
        key.open_stream_key(sent[:size], TRANSCRIPT)


@given(st.binary(max_size=1300))
def test_any_bytes_for_a_sealed_key(raw: bytes) -> None:
    with refused(StreamKeyNotOpenable):
        sealing_key(bytes(64), bytes(range(32))).open_stream_key(raw, TRANSCRIPT)


@pytest.mark.parametrize("salt", [b"", b"s" * 31, b"s" * 33])
def test_a_sealed_key_with_a_salt_of_another_size(key: SealingKey, salt: bytes) -> None:
    sent, _ = seal_stream_key(key.public, TRANSCRIPT, salt)
    with refused(StreamKeyNotOpenable):
        key.open_stream_key(sent, TRANSCRIPT)


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(32),
        bytes(1215),
        bytes(1217),
        b"\xff" * 1216,  #                       coefficients beyond the modulus (FIPS 203, 7.2)
        bytes(1216),  #                          a point of small order
    ],
)
def test_an_enclave_names_something_that_is_no_sealing_key(public: bytes) -> None:
    with refused(SealingKeyMalformed):
        seal_stream_key(public, TRANSCRIPT, SALT)


def test_no_two_keys_are_alike(key: SealingKey) -> None:
    """A retry takes a new key, and so does every exchange."""
    assert SealingKey.make().public != key.public
    first, second = (seal_stream_key(key.public, TRANSCRIPT, SALT) for _ in range(2))
    assert first[0] != second[0]
    assert sealed(first[1]) != sealed(second[1])


def test_no_two_transcripts_are_written_alike() -> None:
    """A byte that moves from one name to the next gives another text."""
    moved = replace(TRANSCRIPT, dataset="train_party_", provider="1alice-clinic")
    assert moved.info() != TRANSCRIPT.info()
    written = {replace(TRANSCRIPT, **{n: v}).info() for n, v in OTHER.items()}
    assert len(written | {TRANSCRIPT.info()}) == len(OTHER) + 1


# Chunks


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda c: bytes([c[0] ^ 1]) + c[1:],
    "tag": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    "cut": lambda c: c[:-1],
    "cut at the beginning": lambda c: c[1:],
    "tag alone": lambda c: c[-TAG_SIZE:],
    "empty": lambda c: b"",
    "longer": lambda c: c + b"\0",
    "two in one": lambda c: c + c,
}


@pytest.mark.parametrize("change", CUTS.values(), ids=CUTS)
def test_a_chunk_that_was_altered(own: StreamKey, change: Callable[[bytes], bytes]) -> None:
    with refused(ChunkNotOpenable):
        own.open(memoryview(change(sealed(own))), FIRST, ABOUT)


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_any_altered_byte_of_a_chunk(text: bytes, data: st.DataObject) -> None:
    own = StreamKey(bytes(32), SALT, 0)
    chunk = bytearray(own.seal(text, FIRST, ABOUT))
    assert own.open(memoryview(bytes(chunk)), FIRST, ABOUT).to_pybytes() == text
    chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= data.draw(st.integers(1, 255))
    with refused(ChunkNotOpenable):
        own.open(memoryview(bytes(chunk)), FIRST, ABOUT)


@pytest.mark.parametrize(
    "head", [ChunkHead(1, False), ChunkHead(0, True), ChunkHead(MAX_CHUNKS - 1, False)]
)
def test_a_chunk_at_another_place(own: StreamKey, head: ChunkHead) -> None:
    """F15: moved, repeated, or said to be the last so that the rest is not missed."""
    with refused(ChunkNotOpenable):
        own.open(memoryview(sealed(own)), head, ABOUT)
    again = own.seal(TEXT, head, ABOUT)
    assert own.open(memoryview(again), head, ABOUT).to_pybytes() == TEXT


def test_a_chunk_of_other_columns(own: StreamKey) -> None:
    with refused(ChunkNotOpenable):
        own.open(memoryview(sealed(own)), FIRST, Digest(b"b" * 32))


def test_a_chunk_of_another_key(key: SealingKey, own: StreamKey) -> None:
    _, foreign = seal_stream_key(key.public, TRANSCRIPT, SALT)
    with refused(ChunkNotOpenable):
        own.open(memoryview(sealed(foreign)), FIRST, ABOUT)


def test_a_chunk_of_another_stream_with_the_same_key() -> None:
    first, second = (StreamKey(bytes(32), SALT, stream) for stream in (0, 1))
    with refused(ChunkNotOpenable):
        second.open(memoryview(sealed(first)), FIRST, ABOUT)


@pytest.mark.parametrize("number", [MAX_CHUNKS, MAX_CHUNKS + 1, 2**63])
def test_a_key_is_not_used_too_often(own: StreamKey, number: int) -> None:
    """Far below the limit of SP 800-38D, at both ends."""
    head = ChunkHead(number, False)
    with refused(ChunkNotOpenable):
        own.seal(TEXT, head, ABOUT)
    with refused(ChunkNotOpenable):
        own.open(memoryview(sealed(own)), head, ABOUT)
    assert own.seal(TEXT, ChunkHead(MAX_CHUNKS - 1, True), ABOUT)


@pytest.mark.parametrize("size", [MAX_CHUNK, MAX_CHUNK + 1])
def test_a_chunk_larger_than_any(own: StreamKey, size: int) -> None:
    """F09: no memory is taken for it."""
    chunk = memoryview(own.seal(bytes(size), FIRST, ABOUT))
    before = pa.total_allocated_bytes()
    if size <= MAX_CHUNK:
        assert own.open(chunk, FIRST, ABOUT).size == size
        return
    with refused(ChunkNotOpenable):
        own.open(chunk, FIRST, ABOUT)
    assert pa.total_allocated_bytes() == before


# What a commit signs


TAGS = [bytes([n]) * TAG_SIZE for n in range(4)]


def tallied(*tags: bytes, rows: int = 5) -> Tally:
    tally = Tally()
    for tag in tags:
        tally.add(tag, rows)
    return tally


def kept(chunks: int, rows: int, digest: bytes) -> Tally:
    tally = Tally()
    tally.resume(chunks, rows, Digest(digest))
    return tally


def test_a_digest_is_of_these_chunks_in_this_order_and_over_these_streams() -> None:
    one, two = TAGS[0], TAGS[1]
    digests = [
        tags_digest(tallies)
        for tallies in (
            [tallied()],
            [tallied(one)],
            [tallied(two)],
            [tallied(one, two)],
            [tallied(two, one)],
            [tallied(one, one)],
            [tallied(one, two, rows=6)],
            [tallied(one), tallied(two)],
            [tallied(two), tallied(one)],
            [tallied(one, two), tallied()],
            [kept(1, 5, bytes(32))],
            [kept(2, 5, bytes(32))],
            [kept(1, 6, bytes(32))],
            [kept(1, 5, b"d" * 32)],
            [],
        )
    ]
    assert len(set(digests)) == len(digests)
    assert tags_digest([tallied(one, two)]) == tags_digest([tallied(one, two)])


def test_a_tally_goes_on_after_what_was_kept() -> None:
    tally = kept(2, 10, b"d" * 32)
    tally.add(TAGS[2], 3)
    assert (tally.chunks, tally.rows) == (3, 13)


# The vector, which another implementation can use


VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "sealed" / "release.json").read_text("utf-8")
)


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def transcript() -> Transcript:
    said = VECTOR["transcript"]
    texts = ("dataset", "provider")
    return Transcript(
        **{n: v if n in texts or isinstance(v, int) else raw(v) for n, v in said.items()}
    )


def opened() -> StreamKey:
    named = VECTOR["sealing_key"]
    key = sealing_key(raw(named["ml_kem_768_seed"]), raw(named["x25519_private"]))
    assert key.public.hex() == named["public"]
    return key.open_stream_key(raw(VECTOR["sealed_stream_key"]), transcript())


def test_the_vector_is_opened() -> None:
    assert transcript().info().hex() == VECTOR["info"]
    stream, about = opened(), Digest(raw(VECTOR["schema_digest"]))
    assert stream.salt.hex() == VECTOR["salt"]
    tally, digest = Tally(), RowDigest(stream.salt, about)
    for chunk in VECTOR["chunks"]:
        head = ChunkHead(chunk["number"], chunk["last"])
        assert head.encode().hex() == chunk["head"]
        message = stream.open(memoryview(raw(chunk["sealed"])), head, about)
        assert message.to_pybytes().hex() == chunk["plaintext"]
        rows = pa.ipc.read_record_batch(message, pa.schema([("x", pa.int64())]))
        assert rows.num_rows == chunk["rows"]
        tally.add(raw(chunk["sealed"])[-TAG_SIZE:], rows.num_rows)
        of_message = Digest(hashlib.sha256(message).digest())
        digest.add(chunk["number"], rows.num_rows, of_message)
    assert tally.encode().hex() == VECTOR["tally"]
    assert tags_digest([tally]).hex() == VECTOR["tags_digest"]
    assert digest.digest().hex() == VECTOR["rows_digest"]


def u(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big")


def test_the_vector_is_formed_as_the_page_says() -> None:
    """channel.md 7, followed without this project's code."""
    said, named = VECTOR["transcript"], VECTOR["sealing_key"]
    assert hashlib.sha256(raw(named["public"])).hexdigest() == named["public_sha256"]
    parts = [raw(said[name]) for name in ("policy_digest", "task_digest", "nonce", "instance")]
    parts += [said["dataset"].encode(), said["provider"].encode(), raw(said["release"])]
    parts += [u(said["stream"], 4), u(said["streams"], 4)]
    info = b"ratls/1 rows" + b"".join(u(len(part), 2) + part for part in parts)
    assert info.hex() == VECTOR["info"]
    private = sealing_key(raw(named["ml_kem_768_seed"]), raw(named["x25519_private"]))._key
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    secret = suite.decrypt(raw(VECTOR["sealed_stream_key"]), private, info=info)
    assert secret.hex() == VECTOR["stream_key"] + VECTOR["salt"]
    cipher, about = AESGCM(secret[:32]), raw(VECTOR["schema_digest"])
    tags = hashlib.sha256(b"ratls/1 rows tags")
    rows, total = hashlib.sha256(secret[32:] + about), 0
    for number, chunk in enumerate(VECTOR["chunks"]):
        head = u(number, 8) + u(number == 2, 1)
        nonce, associated = u(said["stream"], 4) + u(number, 8), head + about
        assert (nonce.hex(), associated.hex()) == (chunk["nonce"], chunk["associated_data"])
        message = cipher.decrypt(nonce, raw(chunk["sealed"]), associated)
        assert message.hex() == chunk["plaintext"]
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, raw(chunk["sealed"]), u(number, 8) + u(number != 2, 1) + about)
        tags.update(b"\x01" + raw(chunk["sealed"])[-16:])
        rows.update(u(number, 8) + u(chunk["rows"], 8) + hashlib.sha256(message).digest())
        total += chunk["rows"]
    tally = u(3, 8) + u(total, 8) + tags.digest()
    assert tally.hex() == VECTOR["tally"]
    assert hashlib.sha256(tally).hexdigest() == VECTOR["tags_digest"]
    assert rows.hexdigest() == VECTOR["rows_digest"]
    went_on = VECTOR["resumed"]
    items = b"\x02" + u(went_on["chunks"], 8) + raw(went_on["rows_digest"])
    items += b"\x01" + raw(VECTOR["chunks"][2]["sealed"])[-16:]
    tally = u(3, 8) + u(6, 8) + hashlib.sha256(b"ratls/1 rows tags" + items).digest()
    assert tally.hex() == went_on["tally"]
    assert hashlib.sha256(tally).hexdigest() == went_on["tags_digest"]


@pytest.mark.parametrize("name", ["sealed_stream_key", "dataset", "nonce"])
def test_the_vector_with_one_value_altered(name: str) -> None:
    key = opened  # opens as it is: the test above
    changed = json.loads(json.dumps(VECTOR))
    if name == "dataset":
        changed["transcript"][name] = "train_party_2"
    else:
        place = changed if name in changed else changed["transcript"]
        place[name] = place[name][:-2] + f"{int(place[name][-2:], 16) ^ 1:02x}"
    with pytest.MonkeyPatch.context() as patch, refused(StreamKeyNotOpenable):
        patch.setitem(globals(), "VECTOR", changed)
        key()


def test_no_two_exchanges_have_one_key() -> None:
    """One is made ahead; who comes beside its taker gets another, and so does who comes next."""
    spare = SpareKey()
    taken = [spare.take().public, spare.take().public]
    spare.refill()
    spare.refill()
    taken += [spare.take().public, spare.take().public]
    assert len(set(taken)) == 4
