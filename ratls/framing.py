"""Messages and rows as they travel on a stream: the one module that frames and reads them.

    raw = message_frame(write_message("hello", nonce=nonce, task=task, dataset="rows-a"))
    raw = chunk_frame(ChunkHead(0, last=False), sealed)
    frame = Frame.parse(raw)
    name, members = frame.message("hello")

A frame is one message of Arrow Flight (`ratls.flight_data`). A message of ours is its application
metadata: a strict CBOR map with text keys. A chunk of sealed rows is there too, and begins with a
zero byte, which no map does: zero, number and last flag (`ChunkHead`), ciphertext with tag. Rows
that are not sealed are Flight's own record batches, each with a message beside it.
`ratls.client_stream` and `ratls.server_stream` say what is due when.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pyarrow as pa

from policy.errors import ResourceLimitError
from policy.values import Digest
from ratls import cbor
from ratls.claims import NONCE_SIZE
from ratls.errors import StreamIntegrityError
from ratls.flight_data import FlightData, encode_metadata
from ratls.sealing import (
    MAX_CHUNK,
    MAX_CHUNKS,
    SALT_SIZE,
    TAG_SIZE,
    ChunkHead,
)
from verifier.errors import Exit
from verifier.files import MEBIBYTE

MAX_MESSAGE = 256 * 1024  # any message but a part of a result
REFUSAL_KEY = "grpc-status-details-bin"  # where Flight's clients look for details
PART = MEBIBYTE  # of a result: each part but the last has as many bytes
MAX_PART = PART + 64  # a part as a message
MAX_RESULT = 64 * MEBIBYTE  # all parts
MAX_FRAME = MAX_CHUNK + 64 * 1024  # bytes of one frame to the enclave


class MessageUnexpected(StreamIntegrityError):
    """A message is malformed, or not the one that is due."""

    code = "message-unexpected"
    default_fix = "run the same version on both sides"


class Kind(Enum):
    """What an exchange is for; its descriptor's command."""

    RELEASE = b"ratls/1 release"
    COLLECT = b"ratls/1 collect"
    ATTEST = b"ratls/1 attest"
    REASON = b"ratls/1 reason"
    WITHDRAW = b"ratls/1 withdraw"
    ROUND = b"ratls/1 round"

    @classmethod
    def of(cls, command: bytes) -> Kind:
        """Read the command of the descriptor in a stream's first frame.

        Raises:
            MessageUnexpected: None, or another.
        """
        try:
            return cls(command)
        except ValueError as error:
            raise MessageUnexpected(
                "descriptor", expected="a ratls/1 command", found="another"
            ) from error


# Messages: name, and exactly the members that each has.

_SHAPES: dict[str, dict[str, type]] = {
    "hello": {"nonce": bytes, "task": bytes, "dataset": str, "release": bytes},
    "challenge": {"nonce": bytes},
    "evidence": {"evidence": bytes, "sealing_key": bytes},
    "resume": {"commit": bytes},
    "absent": {},
    "open": {"stream": int, "streams": int, "key": bytes},
    # Port and id of the connection for chunks; 0 and empty where they come on this one.
    "ready": {"chunks": int, "rows": int, "digest": bytes, "port": int, "connection": bytes},
    "received": {},
    "batch": {"seq": int},
    "commit": {"commit": bytes},
    "acknowledgement": {"document": bytes},
    "result": {"receipt": bytes, "size": int, "parts": int},  # the parts follow
    "part": {"number": int, "ciphertext": bytes},
    "pending": {"missing": list},
    "reason": {"code": str},
    # Of services of others (`ratls.flight`): what is asked, batches that may come, their end.
    "request": {"method": str, "about": bytes},
    "more": {"batches": int},
    "complete": {"batches": int, "rows": int},
    # Round 0 brings nothing; keys for what comes and for what goes; the update that was signed for
    # this round before, if one was; the last round that the party has the receipt of.
    "round": {"number": int, "up": bytes, "down": bytes, "signed": bytes, "seen": int},
    "turn": {"number": int, "due": int},  # the open round; 1 where the update is to come now
    "update": {"update": bytes},
    "model": {"number": int, "open": int, "receipts": int},  # the receipts follow, then chunks
    "receipt": {"document": bytes},
}
_SIZES = {"nonce": NONCE_SIZE, "digest": 32}


def number_of_parts(size: int) -> int:
    """Of a result of so many bytes."""
    return -(-size // PART)


def write_message(name: str, **members: cbor.Value) -> bytes:
    """One message, encoded.

    Raises:
        MessageOversized: Larger than its receiver would take.
    """
    raw = cbor.encode({"type": name, **members})
    _require_size(len(raw), name)
    return raw


def read_message(raw: bytes, *due: str) -> tuple[str, dict[str, Any]]:
    """Name and members of a message that is one of those due.

    Raises:
        MessageOversized: Larger than a message of its name may be.
        MessageUnexpected: Malformed, another message, other members.
    """
    _require_size(len(raw), *due)
    try:
        members = cbor.decode(raw)
    except cbor.NotStrict as error:
        raise unexpected(due, str(error)) from error
    if not isinstance(members, dict):
        raise unexpected(due, "no map")
    name = members.pop("type", None)
    if not isinstance(name, str) or name not in due:
        raise unexpected(due, f"{name:.32}" if isinstance(name, str) else "no type")
    shape = _SHAPES[name]
    if members.keys() != shape.keys():
        raise unexpected(due, f"{name} with other members")
    for member, kind in shape.items():
        value = members[member]
        if type(value) is not kind or _size_of(value) != _SIZES.get(member, _size_of(value)):
            raise unexpected(due, f"{name} with a wrong {member}")
    return name, members


def _size_of(value: object) -> int:
    """Length of a string of bytes; 0 for what has none that matters."""
    return len(value) if isinstance(value, bytes) else 0


class MessageOversized(ResourceLimitError):
    """One message exceeds its cap."""

    code = "message-oversized"
    exit_status = Exit.PEER
    default_fix = "send smaller batches (1 to 4 MiB)"


def _require_size(size: int, *due: str) -> None:
    cap = MAX_PART if due == ("part",) else MAX_MESSAGE
    if size > cap:
        raise MessageOversized(
            f"message {' or '.join(due)}", expected=f"at most {cap} bytes", found=str(size)
        )


def unexpected(due: tuple[str, ...], found: str) -> MessageUnexpected:
    """For a message that is none of those due."""
    return MessageUnexpected("message", expected=" or ".join(due), found=ascii(found))


# What goes over the wire: a message, a chunk of sealed rows, or rows with a message beside them.


class ChunkUnexpected(StreamIntegrityError):
    """Sealed rows came where a message was due, or the reverse."""

    code = "chunk-unexpected"
    default_fix = "run the same version on both sides"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sealed rows, and where they say that they belong. Nothing is opened yet."""

    head: ChunkHead
    sealed: memoryview  # ciphertext and tag

    @property
    def tag(self) -> memoryview:
        """16 bytes."""
        return self.sealed[-TAG_SIZE:]

    @classmethod
    def parse(cls, raw: memoryview) -> Chunk:
        """Number, last flag, ciphertext with tag. Raises: ChunkUnexpected."""
        number, last = int.from_bytes(raw[:8], "big"), bytes(raw[8 : ChunkHead.SIZE])
        if last not in (b"\x00", b"\x01") or number >= MAX_CHUNKS:
            raise ChunkUnexpected("chunk", expected="a number and a flag", found="others")
        return cls(ChunkHead(number, last == b"\x01"), raw[ChunkHead.SIZE :])


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was received: judged by what is in it, never by its size alone."""

    data: FlightData

    @classmethod
    def parse(cls, raw: bytes) -> Frame:
        """Raises: FlightDataMalformed."""
        return cls(FlightData.parse(raw))

    @property
    def is_chunk(self) -> bool:
        """Are there sealed rows in it?"""
        return bytes(self.data.metadata[:1]) == _CHUNK

    @property
    def has_rows(self) -> bool:
        """Is there an Arrow message in it?"""
        return len(self.data.header) > 0

    def message(self, *due: str) -> tuple[str, dict[str, Any]]:
        """Name and members of the message, which must be one of those due.

        Raises:
            MessageUnexpected, MessageOversized: As `read_message`; also rows beside a message
                other than "batch", and a body without rows.
        """
        if self.has_rows != (due == ("batch",)) or (len(self.data.body) and not self.has_rows):
            raise unexpected(due, "rows" if self.has_rows else "no rows")
        if not len(self.data.metadata):
            raise MessageUnexpected("message", expected="metadata", found="none")
        # Refused by size before it is copied.
        _require_size(len(self.data.metadata), *due)
        return read_message(bytes(self.data.metadata), *due)

    def chunk(self) -> Chunk:
        """The sealed rows in it. Raises: ChunkUnexpected."""
        if not self.is_chunk or self.has_rows or len(self.data.body):
            raise ChunkUnexpected("frame", expected="sealed rows", found="something else")
        return Chunk.parse(memoryview(self.data.metadata)[1:])


_CHUNK = b"\x00"  # no CBOR map begins so


def first_frame(kind: Kind) -> bytes:
    """What the stream is for; alone, as all servers of Flight take it (docs/flight.md 2.5)."""
    return command_frame(kind.value)


def command_frame(command: bytes) -> bytes:
    """The same for what is no exchange of the enclave's own."""
    return FlightData(command=command).encode()


def message_frame(message: bytes) -> bytes:
    """A message alone."""
    return FlightData(metadata=message).encode()


def chunk_frame(head: ChunkHead, sealed: bytes) -> bytes:
    """Sealed rows."""
    return encode_metadata(_CHUNK, head.encode(), sealed)


def rows_frame(batch: pa.RecordBatch, seq: int) -> bytes:
    """Batch number `seq`, not sealed, as Flight carries it. Raises: MessageOversized."""
    raw = memoryview(batch.serialize()).cast("B")
    start = 8 + int.from_bytes(raw[4:8], "little")  # after the marker and the header's size
    beside = write_message("batch", seq=seq)
    return FlightData(header=raw[8:start], metadata=beside, body=raw[start:]).encode()


def schema_frame(schema: pa.Schema) -> bytes:
    """The columns, which come before rows that are not sealed."""
    return FlightData(header=memoryview(schema.serialize()).cast("B")[8:]).encode()


def message_digest(message: pa.Buffer) -> Digest:
    """SHA-256 of an encapsulated Arrow message. Other threads run meanwhile."""
    return Digest(hashlib.sha256(message).digest())


class RowDigest:
    """Digest of the rows of one release, in their order, salted so that they cannot be guessed.

    SHA-256 over salt (32), schema digest (32), then for each batch its number and its number of
    rows (u64 big-endian each) and the SHA-256 of its encapsulated Arrow IPC message.
    """

    def __init__(self, salt: bytes, schema_digest: Digest) -> None:
        if len(salt) != SALT_SIZE or len(schema_digest) != 32:
            raise ValueError("salt and schema digest are 32 bytes each")
        self._hash = hashlib.sha256(salt + schema_digest)

    def add(self, number: int, rows: int, message_digest: Digest) -> None:
        """Take in the next batch: `message_digest` of its Arrow message."""
        self._hash.update(number.to_bytes(8, "big") + rows.to_bytes(8, "big") + message_digest)

    def digest(self) -> Digest:
        """32 bytes."""
        return Digest(self._hash.digest())


def without_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema alone: metadata is sent even with no rows, and may hold anything."""
    return pa.schema([field.remove_metadata() for field in schema])
