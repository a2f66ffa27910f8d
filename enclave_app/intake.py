"""The rows of one release of one dataset: opened, validated, held once, unused until committed.

    intake = Intake(dataset, limits, budgets.of("alice", task), need, until, release)
    place = intake.join(stream=0, streams=1)      # one for each connection
    place.kept(salt)                              # what an earlier connection brought
    place.add(message, tag, last=True)            # for each chunk
    intake.tallies()                              # what a commit must have signed

A chunk comes here once it was opened: the bytes of one Arrow message. Its header is judged before
any column is looked at (`ratls.arrow_header`), every offset and value is checked (`policy.rows`),
and what is kept is that very buffer: the columns are views of it.

A release may come over several connections, and over a second one where the first broke. Chunk
number n of stream s is number n x streams + s of the whole: that is the order of the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from enclave_app.errors import AttemptClosed
from enclave_app.limits import Limits, MemoryExhausted, Need, Shares
from enclave_app.spill import Spill, Spilled
from policy.errors import InvalidDataError, ResourceLimitError
from policy.rows import BatchCheck, schema_digest
from policy.sections import Dataset
from policy.values import Digest
from ratls.arrow_header import read_batch
from ratls.errors import StreamIntegrityError
from ratls.framing import RowDigest, message_digest
from ratls.sealing import MAX_STREAMS, Tally
from ratls.server_stream import StreamOversized

MOST_ROWS = 1 << 24  # of one chunk
# Bytes that the objects of a chunk and of each of its columns take beside the message, measured
# (about 350 and 440) and rounded up: a message of one row is smaller than they are.
PER_CHUNK, PER_COLUMN = 512, 512


def held_bytes(message: int, columns: int) -> int:
    """What a chunk in memory takes. Args: message: its bytes."""
    return message + PER_CHUNK + PER_COLUMN * columns


class BatchesExceeded(ResourceLimitError):
    """A release consists of more batches than the enclave keeps."""

    code = "batches-exceeded"
    default_fix = "send batches of 1 to 4 MiB"


class RowsNotAsDeclared(StreamIntegrityError):
    """A null, a number that is not finite, or a value outside its domain, in an agreed column."""

    code = "rows-not-as-declared"
    default_fix = "use `ratls provider push`: it checks every row before sending, and names faults"


class InputEmpty(StreamIntegrityError):
    """A dataset without a single row was committed."""

    code = "input-empty"
    default_fix = "check the source, which has no rows"


class StreamsDiffer(StreamIntegrityError):
    """The connections of one release say that it has different numbers of streams."""

    code = "streams-differ"
    default_fix = "release again with the same task"


class StreamsIncomplete(StreamIntegrityError):
    """A commit came before the last chunk of every stream."""

    code = "streams-incomplete"
    default_fix = "release again with the same task"


@dataclass(slots=True)
class _Chunk:
    rows: int
    message: pa.Buffer | Spilled
    batch: pa.RecordBatch | None  # views of the message; None where it waits in the spill file


@dataclass(slots=True)
class _Stream:
    chunks: list[_Chunk] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    rows: int = 0
    ended: bool = False  # its last chunk has come
    connection: int = 0  # the newest; an earlier one adds nothing more
    cancel: Callable[[], object] = lambda: None  # ends that


class Intake:
    """One release. Each connection is used by one thread; any may close it."""

    def __init__(
        self,
        dataset: Dataset,
        limits: Limits,
        shares: Shares,
        need: Need,
        until: float,
        release: bytes = b"",
        spill: Path | None = None,
    ) -> None:
        """Take nothing yet.

        Args:
            shares: The provider's, of the budgets.
            need: What the task's computation needs beside the rows. It is accounted for with
                them: a boolean is a bit here and 48 bytes in a training.
            until: When the release must have ended, by the monotonic clock.
            release: The provider's name for it: connections with another begin another release.
            spill: A folder where rows beyond `Limits.resident_bytes` wait; None: all in memory.
        """
        self._dataset, self._limits, self._shares = dataset, limits, shares
        self._need, self.release = need, release
        self.until = self._limit = until  # `until` is earlier while a connection is missing
        self._check = BatchCheck(dataset)
        self._schema = self._check.schema
        self._lock = threading.Lock()
        self.connections = 0  # counted by `Sessions`
        self._closed = False
        self._complete = False  # a commit is being judged: nothing is added to what it is about
        self._held = 0
        self._folder = spill
        self._spill: Spill | None = None
        self._waiting = 0  # bytes that rows in the spill file will need
        self._filed = 0  #   bytes of that file
        self._streams: list[_Stream] = []
        self.rows = 0

    @property
    def chunks(self) -> int:
        """How many have come, over all streams."""
        return sum(len(stream.chunks) for stream in self._streams)

    def join(self, stream: int, streams: int, cancel: Callable[[], object] = lambda: None) -> Place:
        """A connection that will bring the next chunks of a stream; it takes over from any before.

        Args:
            cancel: Ends the connection; called when another takes over. Its link may be dead, and
                until gRPC notices that it would take one of its party's places.

        Raises:
            StreamsDiffer: Another number of streams than before, or one that is not among them.
            AttemptClosed: By a later release, or because the task expired.
        """
        with self._lock:
            self._require_unfinished()
            if not self._streams and 0 < streams <= MAX_STREAMS:
                self._streams = [_Stream() for _ in range(streams)]
            if streams != len(self._streams) or not 0 <= stream < streams:
                raise StreamsDiffer(
                    "streams", expected=f"one of {len(self._streams)}", found="another"
                )
            joined = self._streams[stream]
            joined.connection += 1
            before, joined.cancel = joined.cancel, cancel
            self.until = self._limit
        before()
        return Place(self, joined, joined.connection)

    def tallies(self) -> list[Tally]:
        """What came over each stream, in their order. From here on nothing more is taken in.

        Raises:
            StreamsIncomplete: A stream with chunks has not come to its end.
            InputEmpty: No rows. AttemptClosed.
        """
        with self._lock:
            self._require_open()
            if any(stream.chunks and not stream.ended for stream in self._streams):
                raise StreamsIncomplete("streams", expected="the last chunk of each", found="fewer")
            if not self.rows:
                raise InputEmpty(f"dataset {self._dataset.id!r}", expected="rows", found="none")
            counts = [len(stream.chunks) for stream in self._streams]
            # In turns: no stream has more chunks than one before it, or more than one fewer.
            if sorted(counts, reverse=True) != counts or counts[0] - counts[-1] > 1:
                raise StreamsIncomplete("streams", expected="chunks in turns", found="others")
            self._complete = True
            return [stream.tally for stream in self._streams]

    def table(self, check: Callable[[], None] = lambda: None) -> pa.Table:
        """All rows, in the order of the source. Those that waited in a file take memory again.

        Args:
            check: Called while there is no room for them; raises where the task must end.

        Raises:
            ChunkNotOpenable, SpillFailed: The file has other bytes, or none.
        """
        self._shares.memory.wait(self._waiting, check)
        with self._lock:
            self._held, self._waiting = self._held + self._waiting, 0
        return pa.Table.from_batches(
            [
                self._batch(stream.chunks[turn])
                for turn in range(max((len(s.chunks) for s in self._streams), default=0))
                for stream in self._streams
                if turn < len(stream.chunks)
            ],
            self._schema,
        )

    @property
    def waits(self) -> bool:
        """Are there rows in the spill file?"""
        return self._waiting > 0

    def _batch(self, chunk: _Chunk) -> pa.RecordBatch:
        """Rows that waited are those that were validated: nobody else could seal them."""
        if chunk.batch is not None:
            return chunk.batch
        return read_batch(self._message(chunk), self._schema, most_rows=MOST_ROWS)

    def _message(self, chunk: _Chunk) -> pa.Buffer:
        if isinstance(chunk.message, Spilled):
            assert self._spill is not None
            return self._spill.get(chunk.message)
        return chunk.message

    def close(self) -> None:
        """Forget the rows and give their memory back. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            self._streams = []
            self._shares.task.give(self._held + self._waiting)
            self._shares.memory.give(self._held)
            self._shares.files.give(self._filed)
            self._held = self._waiting = self._filed = 0
            if self._spill is not None:
                self._spill.close()

    def add(
        self, place: Place, stream: _Stream, message: pa.Buffer, tag: bytes, last: bool
    ) -> None:
        """As `Place.add`."""
        if self.chunks >= self._limits.batches:
            raise BatchesExceeded(
                "release", expected=f"at most {self._limits.batches} batches", found="more"
            )
        batch = read_batch(message, self._schema, most_rows=MOST_ROWS)
        try:
            self._check(batch, rows_before=stream.rows)
        except InvalidDataError as refusal:
            # R20: the rule that a cell broke would reach the host, by the log and by the size of
            # the answer. The provider's own check names it.
            raise RowsNotAsDeclared("rows", expected="as declared", found="others") from refusal
        size = held_bytes(message.size, len(self._schema))
        size += self._need.bytes(batch.num_rows, message.size)
        spilled = self._spilled(message)
        with self._lock:
            self._require_unfinished()
            if place.superseded:
                raise self._refusal()
            if self.rows + batch.num_rows > self._dataset.max_rows:
                raise StreamOversized(
                    "release", expected=f"at most {self._dataset.max_rows} rows", found="more"
                )
            if not self.rows:
                size += self._need.fixed
            if spilled is None:
                self._take(size, 0)
                stream.chunks.append(_Chunk(batch.num_rows, message, batch))
            else:
                self._take(PER_CHUNK, size - PER_CHUNK)
                stream.chunks.append(_Chunk(batch.num_rows, spilled, None))
            self.rows += batch.num_rows
            stream.rows += batch.num_rows
            stream.ended = last
            stream.tally.add(tag, batch.num_rows)

    def _take(self, now: int, later: int) -> None:
        """Account for memory that is held now, and that will be. Raises: MemoryExhausted."""
        self._shares.task.take(now + later)
        try:
            self._shares.memory.take(now)
        except MemoryExhausted:
            self._shares.task.give(now + later)
            raise
        self._held, self._waiting = self._held + now, self._waiting + later

    def _spilled(self, message: pa.Buffer) -> Spilled | None:
        """Where the message waits; None where it stays in memory."""
        if self._folder is None or self._held < self._limits.resident_bytes:
            return None
        with self._lock:
            self._require_open()
            self._shares.files.take(message.size)
            self._filed += message.size
            if self._spill is None:
                self._spill = Spill(self._folder)
        return self._spill.put(message)

    def _require_open(self) -> None:
        if self._closed:
            raise self._refusal()

    def _require_unfinished(self) -> None:
        if self._closed or self._complete:
            raise self._refusal()

    def _refusal(self) -> AttemptClosed:
        return AttemptClosed(f"release of {self._dataset.id!r}", expected="open", found="closed")

    def digest(self, stream: _Stream, salt: bytes) -> Digest:
        """Salted, of the rows that a stream has brought."""
        digest = RowDigest(salt, schema_digest(self._dataset))
        for number, chunk in enumerate(stream.chunks):
            digest.add(number, chunk.rows, message_digest(self._message(chunk)))
        return digest.digest()


class Place:
    """One connection's place in a release: where its chunks go."""

    def __init__(self, intake: Intake, stream: _Stream, connection: int) -> None:
        self._intake, self._stream, self._connection = intake, stream, connection
        self.kept_chunks = 0

    def kept(self, salt: bytes) -> tuple[int, int, Digest]:
        """Chunks and rows that an earlier connection brought, and the salted digest of the rows.

        From here on the commit signs that digest in place of their tags: they were sealed with a
        key that the provider need not have any more.
        """
        stream = self._stream
        self.kept_chunks = len(stream.chunks)
        digest = self._intake.digest(stream, salt)
        stream.tally = Tally()
        if stream.chunks:
            stream.tally.resume(len(stream.chunks), stream.rows, digest)
        return len(stream.chunks), stream.rows, digest

    def add(self, message: pa.Buffer, tag: bytes, *, last: bool) -> None:
        """Validate the next chunk and keep it.

        Raises:
            BatchesExceeded, StreamOversized: One chunk or row too many.
            RowsHeaderMalformed: Not plain rows of the agreed columns.
            RowsNotAsDeclared: A value that the policy does not allow.
            MemoryExhausted, SpillFailed: No room in memory, or on the disk.
            AttemptClosed: By a later connection or release, or because the task expired.
        """
        self._intake.add(self, self._stream, message, tag, last)

    @property
    def superseded(self) -> bool:
        """Has a later connection taken over the stream?"""
        return self._stream.connection != self._connection
