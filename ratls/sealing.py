"""Rows are sealed to the enclave: what leaves TLS, or is recorded of it, stays unreadable (B08).

    key = SealingKey.make()                                      # in the enclave, per exchange
    sealed, own = seal_stream_key(key.public, transcript, salt)  # at the provider
    stream = key.open_stream_key(sealed, transcript)             # in the enclave: the same key

    head = ChunkHead(0, last=True)
    chunk = own.seal(message, head, schema_digest)               # ciphertext and tag
    stream.open(memoryview(chunk), head, schema_digest)          # to an Arrow buffer

The evidence of a challenge names the sealing key, so only the attested enclave can open. The key
of a stream is agreed by HPKE (RFC 9180) with a hybrid of ML-KEM-768 (FIPS 203) and X25519: traffic
that is recorded today is not readable by whoever breaks one of the two later. HPKE says nothing
about the sender; the signed commit, which covers every tag, does. Chunks are AES-256-GCM (NIST SP
800-38D) with counters as nonces, and a key is never used for a second stream.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from policy.values import Digest, Instance, Nonce
from ratls.errors import BindingError, StreamIntegrityError
from verifier.files import MEBIBYTE

TAG_SIZE = 16
SALT_SIZE = 32
RELEASE_ID_SIZE = 16
MAX_CHUNK = 8 * MEBIBYTE  # bytes of plaintext
# Far below the 2^32 invocations of SP 800-38D, section 8.3, and what is left of a counter anyway.
MAX_CHUNKS = 1 << 24  # of one key
MAX_STREAMS = 6  # of the eight calls that a party may have at once
_KEY_SIZE, _MLKEM_SIZE, _X25519_SIZE = 32, 1184, 32
_LABEL = b"ratls/1 rows"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKeyMalformed(BindingError):
    """The enclave's sealing key is not an ML-KEM-768 and an X25519 key."""

    code = "sealing-key-malformed"
    default_fix = "check that the enclave runs the agreed version"


class SealingKeyChanged(BindingError):
    """The enclave names another sealing key than at the beginning of the exchange."""

    code = "sealing-key-changed"
    default_fix = "release again with the same task"


def sealing_key_changed() -> SealingKeyChanged:
    """For evidence of a later challenge that names another key."""
    return SealingKeyChanged("sealing key", expected="that of this exchange", found="another")


class StreamKeyNotOpenable(StreamIntegrityError):
    """The key of a stream is sealed to another exchange, or was altered."""

    code = "stream-key-not-openable"
    default_fix = "release again with the same task"


class ChunkNotOpenable(StreamIntegrityError):
    """A chunk of rows was altered, cut, repeated, or sealed for another place or stream."""

    code = "chunk-not-openable"
    default_fix = "release again with the same task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What the key of a stream is bound to: `info` of HPKE. Both sides use their own values."""

    policy_digest: Digest
    task_digest: Digest
    nonce: Nonce  #        of the challenge in this exchange
    instance: Instance
    dataset: str
    provider: str
    release: bytes  #      16, of this release of the provider's
    stream: int
    streams: int

    def info(self) -> bytes:
        """Label and values, each after its length (u16, big-endian): no two tuples collide."""
        parts = (
            self.policy_digest,
            self.task_digest,
            self.nonce,
            self.instance,
            self.dataset.encode("ascii"),
            self.provider.encode("ascii"),
            self.release,
            self.stream.to_bytes(4, "big"),
            self.streams.to_bytes(4, "big"),
        )
        return _LABEL + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


class SealingKey:
    """The enclave's key of one exchange. It is never stored, and dies with the exchange."""

    def __init__(self, key: MLKEM768X25519PrivateKey, public: bytes) -> None:
        self._key, self.public = key, public

    @classmethod
    def make(cls) -> Self:
        """A fresh pair, from the library's own randomness."""
        kem, curve = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        return cls(MLKEM768X25519PrivateKey(kem, curve), public)

    def open_stream_key(self, sealed: bytes, transcript: Transcript) -> StreamKey:
        """The key that a provider sealed for exactly this transcript.

        Raises: StreamKeyNotOpenable.
        """
        try:
            secret = _SUITE.decrypt(sealed, self._key, info=transcript.info())
        except (InvalidTag, ValueError) as error:
            raise _not_openable() from error
        if len(secret) != _KEY_SIZE + SALT_SIZE:
            raise _not_openable()
        return StreamKey(secret[:_KEY_SIZE], secret[_KEY_SIZE:], transcript.stream)


class SpareKey:
    """The next exchange's key, made while nobody waits for it. Each is taken once."""

    def __init__(self) -> None:
        self._made: deque[SealingKey] = deque([SealingKey.make()])

    def take(self) -> SealingKey:
        """It, or a new one where another exchange has taken it."""
        try:
            return self._made.pop()
        except IndexError:
            return SealingKey.make()

    def refill(self) -> None:
        """Make the next one, where it is missing."""
        if not self._made:
            self._made.append(SealingKey.make())


def _not_openable() -> StreamKeyNotOpenable:
    return StreamKeyNotOpenable(
        "key of the stream", expected="one sealed for this exchange", found="another"
    )


def seal_stream_key(
    public: bytes,
    transcript: Transcript,
    salt: bytes,
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[bytes, StreamKey]:
    """A new key for one stream: sealed to the enclave, and to use.

    Args:
        public: The enclave's sealing key, whose hash its evidence names.
        salt: 32 bytes, of the digests of this release's rows; the enclave needs it to resume.

    Raises:
        SealingKeyMalformed: `public` is no such key.
    """
    try:
        if len(public) != _MLKEM_SIZE + _X25519_SIZE:
            raise ValueError("another size")
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_SIZE]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_SIZE:]),
        )
        secret = random(_KEY_SIZE)
        sealed = _SUITE.encrypt(secret + salt, key, info=transcript.info())
    except ValueError as error:
        raise SealingKeyMalformed(
            "sealing key", expected="an ML-KEM-768 and an X25519 key", found="another"
        ) from error
    return sealed, StreamKey(secret, salt, transcript.stream)


class StreamKey:
    """Seals or opens the chunks of one stream. Both ends have it, each for its own direction."""

    def __init__(self, key: bytes, salt: bytes, stream: int) -> None:
        self._cipher, self.salt = AESGCM(key), salt
        self._stream = stream.to_bytes(4, "big")

    def _nonce(self, number: int) -> bytes:
        if not 0 <= number < MAX_CHUNKS:
            raise ChunkNotOpenable(
                "chunk", expected=f"at most {MAX_CHUNKS} under one key", found="one more"
            )
        return self._stream + number.to_bytes(8, "big")

    def seal(self, plaintext: pa.Buffer | bytes, head: ChunkHead, about: Digest) -> bytes:
        """Ciphertext and tag. `about`: digest of the schema."""
        view = memoryview(plaintext).cast("B")
        return self._cipher.encrypt(self._nonce(head.number), view, head.encode() + about)

    def open(self, sealed: memoryview, head: ChunkHead, about: Digest) -> pa.Buffer:
        """The plaintext, in an aligned buffer of its own.

        Raises:
            ChunkNotOpenable: Not sealed for this place of this stream.
        """
        size = len(sealed) - TAG_SIZE
        if not 0 < size <= MAX_CHUNK:
            raise _chunk("another size")
        # Arrow's own pool takes and clears far more than it is asked for: 2 s of CPU for 1 GB.
        plaintext = pa.allocate_buffer(size, memory_pool=pa.system_memory_pool())
        room = memoryview(plaintext).cast("B")
        try:
            self._cipher.decrypt_into(self._nonce(head.number), sealed, head.encode() + about, room)
        except InvalidTag as error:
            raise _chunk("another") from error
        return plaintext


def _chunk(found: str) -> ChunkNotOpenable:
    return ChunkNotOpenable("chunk", expected="one sealed for this place", found=found)


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """Where in its stream a chunk is, and whether it is the last: sent beside it, and sealed in."""

    number: int  #  from 0
    last: bool

    SIZE: ClassVar[int] = 9

    def encode(self) -> bytes:
        """Number (u64, big-endian), 1 for the last or 0."""
        return self.number.to_bytes(8, "big") + bytes([self.last])


class Tally:
    """What a commit signs of one stream: its tags in order, and how much it was.

    SHA-256 over items: 1 and the tag of a chunk; or, for chunks that came in an earlier connection,
    2 and their number (u64) and the salted digest of their rows, on which both sides agreed.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_LABEL + b" tags")
        self.chunks = self.rows = 0

    def add(self, tag: memoryview | bytes, rows: int) -> None:
        """One chunk, by its tag."""
        self._hash.update(b"\x01" + bytes(tag))
        self.chunks, self.rows = self.chunks + 1, self.rows + rows

    def resume(self, chunks: int, rows: int, digest: Digest) -> None:
        """The chunks that were kept; comes first."""
        self._hash.update(b"\x02" + chunks.to_bytes(8, "big") + digest)
        self.chunks, self.rows = chunks, rows

    def encode(self) -> bytes:
        """Chunks and rows (u64 each), digest."""
        numbers = self.chunks.to_bytes(8, "big") + self.rows.to_bytes(8, "big")
        return numbers + self._hash.digest()


def tags_digest(tallies: list[Tally]) -> Digest:
    """One digest over all streams, in their order."""
    return Digest(hashlib.sha256(b"".join(tally.encode() for tally in tallies)).digest())
