"""Attested streams over Arrow Flight: one DoExchange in which the enclave first proves itself.

    asked = {"task": task, "task_digest": digest, "dataset": "train_party_1"}
    with open_exchange(Kind.RELEASE, address, admitted, identity, **asked, **held) as exchange:
        exchange.fresh                 # appraised already: rows may follow on this very RPC
        exchange.begin(schema)
        exchange.send(batch)
        acknowledgement = exchange.commit(envelope, salt)

gRPC reconnects silently between RPCs and never within one, so the challenge and the rows share
an RPC. Every message but batches is app_metadata: one strict CBOR map with text keys. This
module is both sides of the framing; what documents and rows mean is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from policy.errors import ResourceLimitError
from policy.text import IDENTIFIER
from policy.values import Digest, Nonce
from ratls import cbor
from ratls.address import Address
from ratls.appraise import (
    AdmittedCertificate,
    Challenge,
    Expectation,
    FreshEvidence,
    appraise_challenge,
)
from ratls.call_thread import CallThread
from ratls.claims import NONCE_SIZE
from ratls.errors import DeadlineExceeded, StreamIntegrityError, TransportError
from ratls.pin import ChannelIdentity, pinned_client
from verifier.errors import Exit, RatlsError

MEBIBYTE = 1 << 20
MAX_MESSAGE = 256 * 1024  # any message but a result
MAX_RESULT = 64 * MEBIBYTE
SALT_SIZE = 32
REASON_SIZE = 64


class MessageUnexpected(StreamIntegrityError):
    """A message is malformed, or not the one that is due."""

    code = "message-unexpected"
    default_fix = "both sides must run the same version"


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
            pass  # not one of ours: refused below, like a path
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
    """One message as it travels.

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
    # Only a result may be large. Its name comes before anything else that is decoded: the
    # shortest key is written first.
    large = raw[1:].startswith(_RESULT)
    _require_size(len(raw), *(name for name in due if large or name != "result"))
    try:
        members = cbor.decode(raw)
    except cbor.NotStrict as error:
        raise _unexpected(due, str(error)) from error
    if not isinstance(members, dict):
        raise _unexpected(due, "no map")
    name = members.pop("type", None)
    if not isinstance(name, str) or name not in due:
        raise _unexpected(due, f"{name:.32}" if isinstance(name, str) else "no type")
    shape = _SHAPES[name]
    if members.keys() != shape.keys():
        raise _unexpected(due, f"{name} with other members")
    for member, kind in shape.items():
        value = members[member]
        if type(value) is not kind or _size_of(value) != _SIZES.get(member, _size_of(value)):
            raise _unexpected(due, f"{name} with a wrong {member}")
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


def _unexpected(due: tuple[str, ...], found: str) -> MessageUnexpected:
    return MessageUnexpected("message", expected=" or ".join(due), found=ascii(found))


class RowDigest:
    """Digest of the rows of one release, in their order, salted so that nobody can guess them.

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
    """The schema alone: metadata travels even with no rows, and may hold anything."""
    return pa.schema([field.remove_metadata() for field in schema])


# The client: a provider that releases, a recipient that collects, anybody who asks.


@dataclass(frozen=True, slots=True)
class Result:
    """A result and its receipt, both as received."""

    receipt: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Pending:
    """Nothing yet: these datasets are not there."""

    missing: tuple[str, ...]


class CallFailed(TransportError):
    """The connection broke, or never opened, during a call."""

    code = "call-failed"
    default_fix = (
        "verify the enclave again: it may have stopped, restarted with another certificate, "
        "or refused your channel certificate"
    )


class AnswerNotOpened(ResourceLimitError):
    """The peer's answer is compressed, larger than its kind may be, or rows: it was not opened."""

    code = "answer-not-opened"
    exit_status = Exit.PEER
    default_fix = "the enclave must run the agreed version: its answers are small and plain"


@contextmanager
def open_exchange(
    kind: Kind,
    address: Address,
    admitted: AdmittedCertificate,
    identity: ChannelIdentity,
    *,
    task: bytes,
    task_digest: Digest,
    dataset: str,
    expectation: Expectation,
    clock: Callable[[], datetime],
    timeout: float,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[ClientExchange]:
    """Connect under the pin, challenge the enclave, and hand over the stream only if it passes.

    Args:
        kind: What for.
        address: The numeric address that was probed.
        admitted: What the probe showed, appraised.
        identity: Own certificate and key, as the policy lists them.
        task: Signed task, as its envelope; empty for a bare check.
        task_digest: 32 bytes, own digest of it; `claims.NO_TASK` for a bare check.
        dataset: Name of what will be released; empty otherwise.
        expectation: Own policy, collateral and roots.
        clock: Now, aware, UTC.
        timeout: Seconds for the whole exchange: every read and write ends by then.
        random: Source of the nonce.

    Raises:
        TransportError: The peer is unreachable, late, silent or refuses.
        RatlsError: What the appraisal of its answer says.
    """
    challenge = Challenge(Nonce(random(NONCE_SIZE)), identity.spki_sha256, task_digest)
    hello = write_message("hello", nonce=challenge.nonce, task=task, dataset=dataset)
    largest = MAX_RESULT if kind is Kind.COLLECT else MAX_MESSAGE
    options = flight.FlightCallOptions(timeout=timeout, read_options=_NO_ROWS)
    descriptor = flight.FlightDescriptor.for_command(kind.value)
    with (
        CallThread() as thread,
        _closed(pinned_client(address, admitted, identity, largest + _FRAME), thread) as client,
    ):
        with _flight_errors_translated():
            writer, reader = thread.run(lambda: client.do_exchange(descriptor, options))
        wire = _ClientWire(writer, reader, thread)
        try:
            wire.say(hello)
            _, answer = wire.hear("evidence")
            fresh = appraise_challenge(
                answer["evidence"], admitted, challenge, expectation, at=clock()
            )
            yield ClientExchange(wire, fresh)
            # Every answer that was due has been heard: what breaks now, breaks nothing.
            with suppress(CallFailed, DeadlineExceeded, AnswerNotOpened):
                wire.finish()
        finally:
            wire.close()


class ClientExchange:
    """An exchange whose enclave has proved itself. Made by `open_exchange`."""

    def __init__(self, wire: _ClientWire, fresh: FreshEvidence) -> None:
        self._wire = wire
        self._schema: pa.Schema | None = None
        self._seq = 0
        self.fresh = fresh

    def resume(self, commit: bytes) -> bytes | None:
        """Ask for the acknowledgement of a commit sent before; None if it never arrived.

        Comes before `begin`.
        """
        self._wire.say(write_message("resume", commit=commit))
        name, answer = self._wire.hear("acknowledgement", "absent")
        return answer["document"] if name == "acknowledgement" else None

    def begin(self, schema: pa.Schema) -> None:
        """Announce the columns; metadata of schema and fields stays here."""
        self._schema = without_metadata(schema)
        self._wire.begin(self._schema)

    def send(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Send the next rows and return them as they were sent, which is what digests cover.

        Raises:
            TransportError: Also when the enclave refuses in the middle of an upload.
        """
        if self._schema is None:
            raise AssertionError("begin comes first")
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
        self._wire.send(batch, write_message("batch", seq=self._seq))
        self._seq += 1
        return batch

    def commit(self, envelope: bytes, salt: bytes) -> bytes:
        """End the release. The signed acknowledgement, unread; without one, nothing counts."""
        self._wire.say(write_message("commit", commit=envelope, salt=salt))
        _, answer = self._wire.hear("acknowledgement")
        return bytes(answer["document"])

    def collect(self) -> Result | Pending:
        """What has become of the task. A result may be the sealed word that there is none."""
        name, answer = self._wire.hear("result", "pending")
        if name == "result":
            return Result(answer["receipt"], answer["ciphertext"])
        return _pending(answer)

    def reason(self) -> str | Pending:
        """Which rule the dataset named breaks by itself, as a code; "" for none."""
        name, answer = self._wire.hear("reason", "pending")
        if name == "pending":
            return _pending(answer)
        code = answer["code"].rstrip(" ")
        return _slug(code) if code else ""


# An enclave answers in metadata and never in rows. Flight would unpack rows before they can be
# refused: 5 KB of zstd are 160 MB (F04). With a column that no schema has, the reader refuses the
# schema that comes before any rows.
_NO_ROWS = pa.ipc.IpcReadOptions(included_fields=[(1 << 31) - 1])
_FRAME = 1024  #        what Flight puts around a message
_CLOSE_SECONDS = 1.0  # for the end of an exchange that was given up


@contextmanager
def _closed(client: Any, thread: CallThread) -> Iterator[Any]:
    """Close the client, unless a call of it still runs: then the process is about to end."""
    try:
        yield client
    finally:
        if not thread.busy:
            client.close()


class AnswerMissing(TransportError):
    """The stream ended where an answer was due."""

    code = "answer-missing"
    default_fix = "nothing is known to have arrived; try again with the same task and enclave"


class _ClientWire:
    """Reads and writes of one RPC, with Flight's errors translated.

    Each runs aside, with the deadline of the RPC: an enclave that is silent, or reads nothing,
    does not keep Ctrl-C from ending it.
    """

    def __init__(self, writer: Any, reader: Any, thread: CallThread) -> None:
        self._writer, self._reader, self._thread = writer, reader, thread
        self._finished = False

    def say(self, message: bytes) -> None:
        with self._writing():
            self._thread.run(lambda: self._writer.write_metadata(message))

    def begin(self, schema: pa.Schema) -> None:
        with self._writing():
            self._thread.run(lambda: self._writer.begin(schema))

    def send(self, batch: pa.RecordBatch, message: bytes) -> None:
        with self._writing():
            self._thread.run(lambda: self._writer.write_with_metadata(batch, message))

    def hear(self, *due: str) -> tuple[str, dict[str, Any]]:
        with _flight_errors_translated():
            chunk = self._read()
        if chunk is None:
            # A server that died or returned early ends a stream without any error.
            raise AnswerMissing("stream", expected=" or ".join(due), found="its end")
        if chunk.data is not None:
            raise _unexpected(due, "rows")
        return read_message(_metadata(chunk, *due), *due)

    def _read(self) -> Any:
        """The next message; None at the end of the stream.

        Raises:
            AnswerNotOpened: Refused below: by an option of the channel, or by `_NO_ROWS`.
        """

        def read() -> Any:
            try:
                return self._reader.read_chunk()
            except StopIteration:
                return None  # which a Future cannot hold
            except (
                pa.ArrowInvalid,
                pa.ArrowNotImplementedError,
                flight.FlightCancelledError,
            ) as error:
                raise AnswerNotOpened(
                    "the enclave's answer", expected="a small plain message", found="another form"
                ) from error

        return self._thread.run(read)

    def finish(self) -> None:
        """Say that nothing follows, and hear the same."""
        with self._writing():
            self._thread.run(self._writer.done_writing)
        with _flight_errors_translated():
            if self._read() is None:
                self._thread.run(self._writer.close)
                self._finished = True
                return
        raise MessageUnexpected("stream", expected="its end", found="another message")

    def close(self) -> None:
        if self._finished:
            return
        # An exchange given up is cancelled: merely closed, it would look complete to the server,
        # and closing would wait for the server's last word.
        self._reader.cancel()
        # The refusal on its way up says more than this echo of it.
        with suppress(flight.FlightError, pa.ArrowException, OSError):
            self._thread.run(self._writer.close, _CLOSE_SECONDS)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A failed write hides why the server gave up; its last word, if any, tells."""
        with _flight_errors_translated():
            try:
                yield
            except (pa.ArrowException, OSError) as error:
                if not isinstance(error, flight.FlightError):
                    self._raise_last_word()
                raise

    def _raise_last_word(self) -> None:
        while self._read() is not None:
            pass  # sent before it gave up
        raise AnswerMissing("stream", expected="a reader of it", found="its end")


@contextmanager
def _flight_errors_translated() -> Iterator[None]:
    """Flight's exceptions, some of them not FlightErrors, become ours. Their text is not shown:
    part of it is the peer's."""
    try:
        yield
    except flight.FlightTimedOutError as error:
        raise DeadlineExceeded(
            "the enclave's answer", expected="one in time", found="none"
        ) from error
    except flight.FlightError as error:
        _raise_peer_refusal(error)
        raise _call_failed(error) from error
    except (pa.ArrowException, OSError) as error:
        raise _call_failed(error) from error


def _call_failed(error: Exception) -> CallFailed:
    broken = isinstance(error, flight.FlightUnavailableError)
    found = "a connection that broke" if broken else type(error).__name__
    return CallFailed("the enclave's answer", expected="one", found=found)


_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def _slug(text: object) -> str:
    """A name that the peer chose, harmless to print."""
    return text if isinstance(text, str) and _SLUG.fullmatch(text) else "unreadable"


def _pending(answer: dict[str, Any]) -> Pending:
    return Pending(tuple(_dataset_id(item) for item in answer["missing"]))


def _dataset_id(text: object) -> str:
    return text if isinstance(text, str) and IDENTIFIER.fullmatch(text) else "unreadable"


class PeerRefused(TransportError):
    """The other side refused, and says why with one of its codes."""

    code = "peer-refused"
    default_fix = "look the code up in docs/errors.md; its operator finds the id in the log"

    def __init__(self, *, peer_code: str, correlation_id: str) -> None:
        super().__init__(
            "the enclave's answer",
            expected="the next message",
            found=f"refused: {peer_code} (id {correlation_id})",
        )
        self.peer_code, self.correlation_id = peer_code, correlation_id


def _raise_peer_refusal(error: Any) -> None:
    try:
        told = json.loads(bytes(error.extra_info or b"")[:1024])
        code, number = _slug(told["code"]), _slug(told["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # no refusal in our form: the connection's own failure
    raise PeerRefused(peer_code=code, correlation_id=number) from error


# The server's side, for one call of do_exchange.


@dataclass(frozen=True, slots=True)
class Hello:
    """How every exchange opens. Nothing in it is believed yet."""

    nonce: Nonce  # 32
    task: bytes
    dataset: str


@dataclass(frozen=True, slots=True)
class Caps:
    """What a receiver holds at most; checked on every batch before it is used."""

    rows: int
    bytes: int
    batch_rows: int = 16 * MEBIBYTE
    batch_bytes: int = 64 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class CommitMessage:
    """The end of a release: signed commit, unread, and the salt of its digest."""

    envelope: bytes
    salt: bytes  # 32


class SequenceBroken(StreamIntegrityError):
    """A batch is missing, doubled or out of order."""

    code = "sequence-broken"
    default_fix = "release again with the same task"


class StreamOversized(ResourceLimitError):
    """The rows or bytes of a whole stream exceed their cap."""

    code = "stream-oversized"
    exit_status = Exit.PEER
    default_fix = "the policy's max_rows limits a dataset"


class ServerExchange:
    """The enclave's end of one DoExchange; methods are called in the order of the protocol."""

    def __init__(self, reader: Any, writer: Any, context: Any) -> None:
        self._reader, self._writer, self._context = reader, writer, context
        self._ahead: Any = None  # a chunk that was looked at and not yet used
        self._committed: CommitMessage | None = None

    def hello(self) -> Hello:
        """The opening message.

        Raises:
            StreamIntegrityError, ResourceLimitError: It is not one.
        """
        _, members = self._message("hello")
        return Hello(**members)

    def send_evidence(self, evidence: bytes) -> None:
        """Answer the challenge."""
        self._say("evidence", evidence=evidence)

    def resume_request(self) -> bytes | None:
        """The commit that the client asks about, or None when it goes on with rows."""
        chunk = self._peek()
        if chunk.data is not None:
            return None
        name, members = read_message(_metadata(chunk, "resume", "commit"), "resume", "commit")
        if name == "commit":
            return None
        self._ahead = None
        return bytes(members["commit"])

    def schema(self) -> pa.Schema:
        """The columns that were announced. Waits for the first rows.

        Raises:
            MessageUnexpected: A commit without any rows.
        """
        if self._peek().data is None:
            raise MessageUnexpected("stream", expected="rows", found="a message without rows")
        return self._reader.schema

    def batches(self, caps: Caps) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows, in order, until the client's commit; `committed` holds that afterwards.

        Raises:
            SequenceBroken: A batch is missing, doubled or out of order.
            StreamTruncated: The stream ended without a commit, which is how a dead client looks.
            ResourceLimitError: More than the caps.
        """
        rows = size = seq = 0
        while True:
            chunk = self._next()
            if chunk.data is None:
                _, members = read_message(_metadata(chunk, "commit"), "commit")
                self._committed = CommitMessage(members["commit"], members["salt"])
                return
            _, members = read_message(_metadata(chunk, "batch"), "batch")
            if members["seq"] != seq:
                raise SequenceBroken("batch", expected=f"number {seq}", found=str(members["seq"]))
            rows, size = rows + chunk.data.num_rows, size + _require_batch(chunk.data, caps)
            if rows > caps.rows or size > caps.bytes:
                raise StreamOversized(
                    "stream", expected=f"at most {caps.rows} rows, {caps.bytes} bytes", found="more"
                )
            yield seq, chunk.data
            seq += 1

    @property
    def committed(self) -> CommitMessage:
        """The commit that ended `batches`.

        Raises:
            StreamTruncated: There was none.
        """
        if self._committed is None:
            raise _truncated("none")
        return self._committed

    def acknowledge(self, document: bytes) -> None:
        """Answer a commit, or a resume whose commit is known."""
        self._say("acknowledgement", document=document)

    def absent(self) -> None:
        """Answer a resume whose commit never arrived."""
        self._say("absent")

    def result(self, receipt: bytes, ciphertext: bytes) -> None:
        """Answer a collection."""
        self._say("result", receipt=receipt, ciphertext=ciphertext)

    def reason(self, code: str) -> None:
        """Answer a provider that asks about its own input."""
        self._say("reason", code=code.ljust(REASON_SIZE))  # the host sees one length for all

    def pending(self, missing: list[str]) -> None:
        """Answer a collection that comes too early."""
        self._say("pending", missing=list(missing))

    def _say(self, name: str, **members: cbor.Value) -> None:
        message = write_message(name, **members)
        try:
            self._writer.write_metadata(message)
        except (pa.ArrowException, OSError) as error:
            raise CallFailed("peer", expected="a reader", found="none") from error

    def _message(self, *due: str) -> tuple[str, dict[str, Any]]:
        chunk = self._next()
        if chunk.data is not None:
            raise _unexpected(due, "rows")
        return read_message(_metadata(chunk, *due), *due)

    def _peek(self) -> Any:
        if self._ahead is None:
            self._ahead = self._next()
        return self._ahead

    def _next(self) -> Any:
        if self._ahead is not None:
            chunk, self._ahead = self._ahead, None
            return chunk
        try:
            return self._reader.read_chunk()
        except StopIteration as end:
            cancelled = self._context.is_cancelled()
            raise _truncated("a client that went away" if cancelled else "its end") from end
        except (pa.ArrowException, OSError) as error:
            raise MessageUnexpected("stream", expected="Arrow messages", found="others") from error


class StreamTruncated(StreamIntegrityError):
    """The stream ended before its commit: nothing of it counts."""

    code = "stream-truncated"
    default_fix = "release again with the same task"


def _truncated(found: str) -> StreamTruncated:
    return StreamTruncated("stream", expected="the next message up to a commit", found=found)


def _metadata(chunk: Any, *due: str) -> bytes:
    if chunk.app_metadata is None:
        raise MessageUnexpected("message", expected="metadata", found="none")
    # Refused by size before it is copied.
    _require_size(chunk.app_metadata.size, *due)
    return bytes(chunk.app_metadata)


def _require_batch(batch: pa.RecordBatch, caps: Caps) -> int:
    """What a copy of the batch takes, in bytes.

    Raises:
        MessageOversized: More rows or bytes than one batch may have.
    """
    # Rows too: a batch of nulls counts 2^28 rows in no bytes (docs/flight.md 3.2).
    size = size_of_copy(batch)
    if batch.num_rows > caps.batch_rows or size > caps.batch_bytes:
        raise MessageOversized(
            "batch",
            expected=f"at most {caps.batch_rows} rows, {caps.batch_bytes} bytes",
            found=f"{batch.num_rows} rows, {size} bytes",
        )
    return size


def size_of_copy(batch: pa.RecordBatch) -> int:
    """Bytes of all buffers of all columns: each as often as a column has it.

    `get_total_buffer_size` counts once what columns share: 200 columns on one buffer of 4 MiB are
    828 MiB as soon as they are copied (F19). `nbytes` follows offsets that nobody has validated.
    """
    return sum(
        buffer.size for column in batch.columns for buffer in column.buffers() if buffer is not None
    )


def flight_refusal(refusal: RatlsError, correlation_id: str) -> Exception:
    """What a server raises in place of a refusal: class, code and id, never its text.

    An exception that escapes a handler sends its message and traceback to the peer.
    """
    kind = {
        Exit.NOT_GENUINE: flight.FlightUnauthenticatedError,
        Exit.NOT_ADMITTED: flight.FlightUnauthorizedError,
    }.get(refusal.exit_status, flight.FlightServerError)
    info = json.dumps({"code": refusal.code, "id": correlation_id}).encode()
    error: Exception = kind(f"refused: {refusal.code} ({correlation_id})", extra_info=info)
    return error
