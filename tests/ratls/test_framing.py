"""The framing itself, without a network: messages, order, caps, digest."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import cbor2
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.admission import MeasurementNotListed
from ratls.claims import (
    NonceMismatch,
)
from ratls.framing import (
    MAX_MESSAGE,
    Kind,
    MessageOversized,
    MessageUnexpected,
    RowDigest,
    read_message,
    write_message,
)
from ratls.server_stream import (
    Caps,
    SequenceBroken,
    ServerExchange,
    StreamOversized,
    StreamTruncated,
    flight_refusal,
)
from tests.support.refusal import refused
from verifier.errors import RatlsError

CAPS = Caps(rows=10, bytes=1000)
ROWS = pa.record_batch({"x": [1, 2, 3]})
SALT = b"s" * 32


@dataclass
class Chunk:
    data: Any
    app_metadata: Any


class FakeReader:
    """What pyarrow gives a server: chunks, then StopIteration."""

    def __init__(self, *chunks: Chunk, end: Exception | None = None) -> None:
        self._chunks, self._end = list(chunks), end or StopIteration()
        self.schema = ROWS.schema

    def read_chunk(self) -> Chunk:
        if not self._chunks:
            raise self._end
        return self._chunks.pop(0)


class FakeContext:
    def is_cancelled(self) -> bool:
        return False


def message(name: str, **members: Any) -> Chunk:
    return Chunk(None, pa.py_buffer(cbor2.dumps({"type": name, **members})))


def rows(seq: int, batch: pa.RecordBatch = ROWS) -> Chunk:
    return Chunk(batch, message("batch", seq=seq).app_metadata)


COMMIT = message("commit", commit=b"signed", salt=SALT)


def exchange(*chunks: Chunk, end: Exception | None = None) -> ServerExchange:
    return ServerExchange(FakeReader(*chunks, end=end), None, FakeContext())


def test_rows_then_commit() -> None:
    server = exchange(rows(0), rows(1), COMMIT)
    assert server.resume_request() is None
    assert server.schema() == ROWS.schema
    assert [seq for seq, _ in server.batches(CAPS)] == [0, 1]
    assert (server.committed.envelope, server.committed.salt) == (b"signed", SALT)


@pytest.mark.parametrize(
    ("chunks", "leaf"),
    [
        ([rows(1), COMMIT], SequenceBroken),  #                 F15: the first is missing
        ([rows(0), rows(0), COMMIT], SequenceBroken),  #        F15: replayed
        ([rows(0), rows(2), COMMIT], SequenceBroken),  #        F15: dropped
        ([rows(0), rows(1)], StreamTruncated),  #               F14: no commit
        ([], StreamTruncated),
        ([rows(0), message("resume", commit=b"c")], MessageUnexpected),
        ([rows(0), message("commit", commit=b"c", salt=b"short")], MessageUnexpected),
        ([Chunk(ROWS, None)], MessageUnexpected),
        ([Chunk(None, None)], MessageUnexpected),
        ([Chunk(ROWS, pa.py_buffer(b"x"))], MessageUnexpected),
        ([rows(i) for i in range(4)], StreamOversized),  #      12 rows of at most 10
    ],
)
def test_a_stream_that_is_not_complete_in_order(
    chunks: list[Chunk], leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        list(exchange(*chunks).batches(CAPS))


@pytest.mark.parametrize(
    ("batch", "caps", "leaf"),
    [
        # F09, flight.md 3.2: 224 bytes on the wire, 268 million rows.
        (
            pa.record_batch({"x": pa.nulls(1 << 28)}),
            Caps(rows=1 << 40, bytes=1000),
            MessageOversized,
        ),
        (ROWS, Caps(rows=10, bytes=1000, batch_rows=2), MessageOversized),
        (ROWS, Caps(rows=10, bytes=1000, batch_bytes=23), MessageOversized),
        (ROWS, Caps(rows=10, bytes=23), StreamOversized),
        (ROWS, Caps(rows=2, bytes=1000), StreamOversized),
    ],
)
def test_more_than_a_receiver_holds(
    batch: pa.RecordBatch, caps: Caps, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        list(exchange(rows(0, batch), COMMIT).batches(caps))


def test_rows_before_the_hello() -> None:
    with refused(MessageUnexpected):
        exchange(rows(0)).hello()


def test_commit_without_any_rows_has_no_schema() -> None:
    with refused(MessageUnexpected):
        exchange(COMMIT).schema()


def test_bytes_that_are_no_arrow_messages() -> None:
    with refused(MessageUnexpected):
        exchange(rows(0), end=pa.ArrowInvalid("garbage")).hello()
    with refused(MessageUnexpected):
        list(exchange(rows(0), end=OSError("garbage")).batches(CAPS))


def test_commit_is_asked_for_before_it_came() -> None:
    with refused(StreamTruncated):
        _ = exchange(rows(0)).committed


def test_messages_are_read_back() -> None:
    raw = write_message("hello", nonce=b"n" * 32, task=b"t", dataset="d")
    assert read_message(raw, "hello") == (
        "hello",
        {"nonce": b"n" * 32, "task": b"t", "dataset": "d"},
    )


HELLO = {"type": "hello", "nonce": b"n" * 32, "task": b"t", "dataset": "d"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        cbor2.dumps([HELLO]),
        cbor2.dumps({k: v for k, v in HELLO.items() if k != "type"}),
        cbor2.dumps(HELLO | {"type": 1}),
        cbor2.dumps(HELLO | {"type": "goodbye"}),
        cbor2.dumps(HELLO | {"more": 1}),
        cbor2.dumps({k: v for k, v in HELLO.items() if k != "task"}),
        cbor2.dumps(HELLO | {"nonce": b"n" * 31}),  #    the smallest nonce that would still do
        cbor2.dumps(HELLO | {"nonce": "n" * 32}),
        cbor2.dumps(HELLO | {"dataset": b"d"}),
        cbor2.dumps(HELLO | {"task": True}),
        cbor2.dumps(HELLO) + b"\0",
    ],
)
def test_a_message_of_another_form(raw: bytes) -> None:
    with refused(MessageUnexpected):
        read_message(raw, "hello")


@given(st.binary(max_size=200))
def test_garbage_is_a_message_or_a_refusal(raw: bytes) -> None:
    with suppress(MessageUnexpected):
        read_message(raw, "hello", "batch", "absent")


@pytest.mark.parametrize("name", ["hello", "batch", "acknowledgement"])
def test_a_message_over_its_cap_is_refused_before_it_is_read(name: str) -> None:
    with refused(MessageOversized):
        read_message(bytes(MAX_MESSAGE + 1), name)


def test_a_message_over_its_cap_is_not_sent() -> None:
    with refused(MessageOversized):
        write_message("resume", commit=bytes(MAX_MESSAGE))


@pytest.mark.parametrize("kind", Kind)
def test_descriptors_of_ours(kind: Kind) -> None:
    assert Kind.of(flight.FlightDescriptor.for_command(kind.value)) is kind


@pytest.mark.parametrize(
    "descriptor",
    [
        flight.FlightDescriptor.for_command(b"ratls/2 release"),
        flight.FlightDescriptor.for_command(b""),
        flight.FlightDescriptor.for_command(b"../../etc"),
        flight.FlightDescriptor.for_command(bytes(1 << 20)),
        flight.FlightDescriptor.for_path(b"ratls/1 release"),
    ],
)
def test_other_descriptors(descriptor: Any) -> None:
    """F13: nothing in a descriptor is a path, a name or a query."""
    with refused(MessageUnexpected):
        Kind.of(descriptor)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (NonceMismatch, flight.FlightUnauthenticatedError),
        (MeasurementNotListed, flight.FlightUnauthorizedError),
        (StreamTruncated, flight.FlightServerError),
    ],
)
def test_a_refusal_on_the_wire_is_class_code_and_number(
    leaf: type[RatlsError], kind: type[Exception]
) -> None:
    """F16: an exception's text and traceback would go to the peer."""
    told = flight_refusal(leaf("a row", expected="1", found="canary-c4n4ry"), "0007")
    assert type(told) is kind
    assert "c4n4ry" not in str(told)
    assert leaf.code in str(told)
    assert "0007" in str(told)


# The digest of rows: equal at both ends, and different for anything else.

VALUES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.text(max_size=6)),
        st.integers(-(2**31), 2**31 - 1),
        st.one_of(st.none(), st.floats(allow_nan=False)),
        st.dates(date(1970, 1, 1), date(2100, 1, 1)),
    ),
    min_size=1,
    max_size=70,
)
TYPES = (pa.bool_(), pa.string(), pa.int32(), pa.float64(), pa.date32())


@given(VALUES, st.data())
def test_digest_is_the_same_for_whoever_receives_the_rows(
    values: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    """A batch that is a slice of another has offsets and bits of its neighbours in its buffers."""
    columns = [pa.array(c, t) for c, t in zip(zip(*values, strict=True), TYPES, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, names=list("abcde"))
    start = data.draw(st.integers(0, len(values)))
    sent = batch.slice(start, data.draw(st.integers(0, len(values) - start)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, sent.schema) as writer:
        writer.write_batch(sent)
    received = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
    assert digest((0, received)) == digest((0, sent))


def digest(*batches: tuple[int, pa.RecordBatch], salt: bytes = SALT, schema: bytes = SALT) -> bytes:
    made = RowDigest(salt, schema)
    for seq, batch in batches:
        made.add(seq, batch)
    return made.digest()


def test_digest_differs_for_other_rows_order_salt_or_schema() -> None:
    other = pa.record_batch({"x": [1, 2, 4]})
    all_of_them = [
        digest((0, ROWS), (1, other)),
        digest((0, other), (1, ROWS)),
        digest((0, ROWS), (1, other), salt=b"t" * 32),
        digest((0, ROWS), (1, other), schema=b"t" * 32),
        digest((0, ROWS)),
        digest((0, ROWS), (1, other), (2, ROWS.slice(0, 0))),
        digest((0, pa.record_batch({"x": [1, 2, 3, 1, 2, 4]}))),
    ]
    assert len(set(all_of_them)) == len(all_of_them)


def test_digest_takes_salts_and_schema_digests_of_32_bytes_only() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RowDigest(b"short", bytes(32))


def test_timestamps_travel_alike() -> None:
    batch = pa.record_batch(
        {"t": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 9, pa.timestamp("us", "UTC"))}
    )
    received = pa.ipc.read_record_batch(batch.slice(2, 3).serialize(), batch.schema)
    assert digest((0, received)) == digest((0, batch.slice(2, 3)))
