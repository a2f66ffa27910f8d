"""Arrow Flight of your own, to and from an attested enclave: rows by ticket, rows by descriptor.

    class Visits(Service):                                           # in the enclave
        def get(self, call):
            return table

        def put(self, call, rows):
            return b"%d rows" % rows.read_all().num_rows

    with Server(Address("127.0.0.1", 0), enclave, lambda: policy, Visits()) as server:
        client = Client(server.address, identity, verifier)           # at a party
        client.get(b"2026")
        client.put(b"visits", table)

Each call probes the enclave, judges its certificate, connects to that certificate alone, and lets
the enclave prove itself in the stream that then carries the rows. While it lasts the enclave proves
itself again, as the policy says. Rows are protected by TLS alone, not sealed; `ratls provider push`
seals them. Columns are numbers, times, booleans and strings.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from policy.rows import require_consistent
from ratls.address import Address as Address
from ratls.appraise import FreshEvidence, appraise_certificate
from ratls.client_call import AnswerMissing
from ratls.client_stream import ClientExchange, appraise_answer, proved_call
from ratls.errors import StreamIntegrityError
from ratls.flight_rows import Rows, batches_of, pieces, require_plain
from ratls.flight_service import COMMAND, EXCHANGE, GET, MOST_ROWS, PUT, WINDOW
from ratls.flight_service import Call as Call
from ratls.flight_service import Limits as Limits
from ratls.flight_service import Server as Server
from ratls.flight_service import Service as Service
from ratls.framing import MAX_FRAME, Frame, MessageUnexpected
from ratls.pin import ChannelIdentity
from ratls.plain_rows import Caps as Caps
from ratls.plain_rows import PlainRows, read_columns
from ratls.probe import probe_name
from ratls.sealing import sealing_key_changed
from ratls.session import STILL_SECONDS, Challenger, Renewal, Verifier


class RowsIncomplete(StreamIntegrityError):
    """Other rows came than the enclave says that it sent."""

    code = "rows-incomplete"
    default_fix = "ask again; take nothing of these rows for complete"


class Client:
    """Calls one enclave. It holds no connection: each call makes one, and is verified anew."""

    def __init__(
        self,
        address: Address,
        identity: ChannelIdentity,
        verifier: Verifier,
        *,
        timeout: float = 600.0,
        most: Caps = MOST_ROWS,
    ) -> None:
        """Connect to nothing yet.

        Args:
            address: From local configuration.
            identity: This party's channel certificate; the first value of `ratls.own_end`.
            verifier: With what the enclave is judged; the second one.
            timeout: Seconds for all of a call.
            most: Rows and bytes that one call may bring here.
        """
        self._address, self._identity, self._verifier = address, identity, verifier
        self._timeout, self._most = timeout, most

    def __repr__(self) -> str:
        return f"<flight.Client of {self._address}>"

    def get(self, ticket: bytes) -> pa.Table:
        """The rows that the ticket stands for, all of them.

        Raises:
            TransportError: The enclave cannot be reached, is late, or refuses.
            RowsIncomplete: Others came than it says.
            RatlsError: What the appraisal of its certificate or of its answers says.
        """
        with self.reader(ticket) as reader:
            return reader.read_all()

    @contextmanager
    def reader(self, ticket: bytes) -> Iterator[pa.RecordBatchReader]:
        """The same rows, one batch after another; the enclave sends few ahead.

        They are complete where reading came to its end. Raises: as `get`, from the reader, too.
        """
        with self._stream(GET, ticket) as stream:
            yield stream.rows(self._most)
            stream.give_up()

    def put(self, descriptor: bytes, rows: Rows) -> bytes:
        """Send rows; what the service answers once it has all of them.

        Raises:
            ColumnTypeNotCarried: Nothing was sent.
            TransportError, RatlsError: As `get`. Without an answer nothing is known to count.
        """
        schema, batches = batches_of(rows)
        require_plain(schema)
        with self._stream(PUT, descriptor) as stream:
            stream.give(schema, batches)
            return stream.commit(b"")

    def exchange(self, descriptor: bytes, rows: Rows) -> pa.Table:
        """Send rows, and take those that the service gives for them. Raises: as `get` and `put`."""
        schema, batches = batches_of(rows)
        require_plain(schema)
        with self._stream(EXCHANGE, descriptor) as stream:
            stream.give(schema, batches)
            stream.end()
            return stream.rows(self._most).read_all()

    @contextmanager
    def _stream(self, method: str, about: bytes) -> Iterator[_Stream]:
        verifier, own, ends = self._verifier, self._identity, time.monotonic() + self._timeout
        place, der = probe_name(self._address, self._timeout)
        admitted = appraise_certificate(der, verifier.expect(), at=verifier.clock())
        challenger = Challenger(admitted, own.spki_sha256, verifier)
        hello = {"task": b"", "dataset": "", "release": b""}
        given = (place, challenger, own, max(ends - time.monotonic(), 0.001), MAX_FRAME)
        with proved_call(COMMAND, hello, *given) as (call, fresh, key):
            stream = _Stream(call, challenger, fresh, key, place, self._timeout)
            stream.request(method, about)
            yield stream


class _Stream(ClientExchange):
    """One call, on which the enclave has proved itself, and must do so again."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        verifier = self._challenger.verifier
        self._seconds = verifier.seconds
        self._renewal = Renewal.agreed(verifier.expect(), verifier.seconds)
        self._judged = self._seconds()
        self._kept: deque[Frame] = deque()  # that came before a proof which was due
        self._complete = False

    def request(self, method: str, about: bytes) -> None:
        """Say what is asked."""
        self._say("request", method=method, about=about)

    def give(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Send rows; each waits for a proof that is due."""
        self.begin(schema)
        for batch in batches:
            for piece in pieces(batch):
                self._look(piece.nbytes)
                self.send(piece)
        self._look(0)

    def end(self) -> None:
        """These were all rows."""
        self._say("commit", commit=b"")

    def rows(self, most: Caps) -> pa.RecordBatchReader:
        """The columns that come, and a reader of their rows."""
        self._say("more", batches=WINDOW)
        schema = read_columns(self._next())
        return pa.RecordBatchReader.from_batches(schema, self._batches(PlainRows(schema, most)))

    def _batches(self, plain: PlainRows) -> Iterator[pa.RecordBatch]:
        coming = WINDOW
        while (frame := self._next()).has_rows:
            batch = plain.take(frame)
            require_consistent(batch, "batch")
            coming -= 1
            if coming <= WINDOW // 2:
                self._say("more", batches=WINDOW - coming)
                coming = WINDOW
            self._look(batch.nbytes)
            yield batch
        _, told = frame.message("complete")
        if (told["batches"], told["rows"]) != (plain.batches, plain.rows):
            raise RowsIncomplete("rows", expected=f"{told['rows']} of them", found=str(plain.rows))
        self._look(0)
        self._say("received")
        self._complete = True

    def give_up(self) -> None:
        """Where a reader was not read to its end: the enclave is told, and stops."""
        if not self._complete:
            self._call.cancel()

    def _next(self) -> Frame:
        return self._kept.popleft() if self._kept else self._heard()

    def _heard(self) -> Frame:
        frame = self._call.hear(rows=True)
        if frame is None:
            raise AnswerMissing("stream", expected="rows or their end", found="its end")
        return frame

    def _look(self, size: int) -> None:
        """So many bytes go, or came: is the enclave still what it has proved, or must it again?"""
        self._renewal.left -= size
        if self._seconds() >= self._judged + STILL_SECONDS:
            self._challenger.require_still_admitted(self.fresh)
            self._judged = self._seconds()
        if self._renewal.due:
            self.fresh = self.challenge_again()
            self._renewal.proved()

    def challenge_again(self) -> FreshEvidence:
        """Let the enclave prove itself anew; rows that come meanwhile wait for it.

        Raises: What the appraisal says, or that it names a key to seal to.
        """
        nonce = self._challenger.nonce()
        self._say("challenge", nonce=nonce)
        while True:
            frame = self._heard()
            name, answer = ("", {}) if frame.has_rows else frame.message("evidence", "complete")
            if name == "evidence":
                fresh, key = appraise_answer(self._challenger, nonce, answer)
                if key:
                    raise sealing_key_changed()
                return fresh
            if len(self._kept) > WINDOW:
                raise MessageUnexpected("stream", expected="the proof", found="more rows")
            self._kept.append(frame)
