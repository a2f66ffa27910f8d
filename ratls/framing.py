"""Messages and rows as they travel on a stream: the one module that frames and reads them.

    write(writer, write_message("hello", nonce=nonce, task=task, dataset="rows-a"))
    write_rows(writer, batch, seq=0)
    frame = read(reader)                           # None at the end of the stream
    name, members = frame.message("hello")

Every message is Flight's `app_metadata`: one strict CBOR map with text keys, alone or beside a
batch of rows. `ratls.client_stream` and `ratls.server_stream` say which message is due when.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from policy.errors import ResourceLimitError
from policy.values import Digest
from ratls import cbor
from ratls.claims import NONCE_SIZE
from ratls.errors import StreamIntegrityError
from verifier.errors import Exit
from verifier.files import MEBIBYTE

MAX_MESSAGE = 256 * 1024  # any message but a result
MAX_RESULT = 64 * MEBIBYTE
SALT_SIZE = 32


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

    @classmethod
    def of(cls, descriptor: Any) -> Kind:
        """Read a Flight descriptor.

        Raises:
            MessageUnexpected: A path, or another command.
        """
        try:
            if descriptor.descriptor_type == flight.DescriptorType.CMD:
                return cls(bytes(descriptor.command))
        except ValueError:
            pass  # an unknown command: refused below, like a path
        raise MessageUnexpected("descriptor", expected="a ratls/1 command", found="another")


# Messages: name, and exactly the members that each has.

_SHAPES: dict[str, dict[str, type]] = {
    "hello": {"nonce": bytes, "task": bytes, "dataset": str},
    "evidence": {"evidence": bytes},
    "resume": {"commit": bytes},
    "absent": {},
    "batch": {"seq": int},
    "commit": {"commit": bytes, "salt": bytes},
    "acknowledgement": {"document": bytes},
    "result": {"receipt": bytes, "ciphertext": bytes},
    "pending": {"missing": list},
    "reason": {"code": str},
}
_RESULT = cbor.encode({"type": "result"})[1:]
_SIZES = {"nonce": NONCE_SIZE, "salt": SALT_SIZE}


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
    # Only a result may be large. Its name is found without decoding: the shortest key is
    # written first.
    large = raw[1:].startswith(_RESULT)
    _require_size(len(raw), *(name for name in due if large or name != "result"))
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
    cap = MAX_RESULT if "result" in due else MAX_MESSAGE
    if size > cap:
        raise MessageOversized(
            f"message {' or '.join(due)}", expected=f"at most {cap} bytes", found=str(size)
        )


def unexpected(due: tuple[str, ...], found: str) -> MessageUnexpected:
    """For a message that is none of those due."""
    return MessageUnexpected("message", expected=" or ".join(due), found=ascii(found))


# What goes over the wire: a message, or rows with a message beside them.


@dataclass(frozen=True, slots=True)
class Frame:
    """One read: a message, and the rows that it stands beside, if any."""

    rows: pa.RecordBatch | None
    metadata: pa.Buffer | None

    def message(self, *due: str) -> tuple[str, dict[str, Any]]:
        """Name and members of the message, which must be one of those due.

        Raises:
            MessageUnexpected, MessageOversized: As `read_message`; also rows beside a message
                other than "batch".
        """
        if self.rows is not None and due != ("batch",):
            raise unexpected(due, "rows")
        if self.metadata is None:
            raise MessageUnexpected("message", expected="metadata", found="none")
        # Refused by size before it is copied.
        _require_size(self.metadata.size, *due)
        return read_message(bytes(self.metadata), *due)


def read(reader: Any) -> Frame | None:
    """The next frame of a Flight reader; None at the end of the stream. Raises: Flight's errors."""
    try:
        chunk = reader.read_chunk()
    except StopIteration:
        return None
    return Frame(chunk.data, chunk.app_metadata)


def write(writer: Any, message: bytes) -> None:
    """Send a message alone. Raises: Flight's errors."""
    writer.write_metadata(message)


def write_rows(writer: Any, batch: pa.RecordBatch, seq: int) -> None:
    """Send batch number `seq` of a release. Raises: Flight's errors, MessageOversized."""
    writer.write_with_metadata(batch, write_message("batch", seq=seq))


class RowDigest:
    """Digest of the rows of one release, in their order, salted so that they cannot be guessed.

    SHA-256 over salt (32), schema digest (32), then for each batch its number and its number of
    rows (u64 big-endian each) and the bytes of its Arrow IPC message.
    """

    def __init__(self, salt: bytes, schema_digest: Digest) -> None:
        if len(salt) != SALT_SIZE or len(schema_digest) != 32:
            raise ValueError("salt and schema digest are 32 bytes each")
        self._hash = hashlib.sha256(salt + schema_digest)

    def add(self, seq: int, batch: pa.RecordBatch) -> None:
        """Take in the next batch."""
        self._hash.update(seq.to_bytes(8, "big") + batch.num_rows.to_bytes(8, "big"))
        self._hash.update(batch.serialize())

    def digest(self) -> Digest:
        """32 bytes."""
        return Digest(self._hash.digest())


def without_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema alone: metadata is sent even with no rows, and may hold anything."""
    return pa.schema([field.remove_metadata() for field in schema])
