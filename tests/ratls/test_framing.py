"""The framing itself, without a network: messages, frames, order, caps, digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import cbor2
import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.admission import MeasurementNotListed
from policy.values import Digest
from ratls.arrow_header import RowsHeaderMalformed
from ratls.claims import NonceMismatch
from ratls.flight_data import FlightData, FlightDataMalformed
from ratls.framing import (
    MAX_MESSAGE,
    REFUSAL_KEY,
    Chunk,
    ChunkUnexpected,
    Frame,
    Kind,
    MessageOversized,
    MessageUnexpected,
    RowDigest,
    chunk_frame,
    first_frame,
    message_frame,
    read_message,
    rows_frame,
    schema_frame,
    write_message,
)
from ratls.plain_rows import Caps, PlainExchange
from ratls.sealing import MAX_CHUNKS, ChunkHead
from ratls.server_stream import SequenceBroken, StreamOversized, StreamTruncated, refusal_status
from tests.support.refusal import refused
from verifier.errors import RatlsError

CAPS = Caps(rows=10, bytes=1000)
ROWS = pa.record_batch({"x": [1, 2, 3]})
SALT = b"s" * 32
SCHEMA = schema_frame(ROWS.schema)


def message(name: str, **members: Any) -> bytes:
    return message_frame(cbor2.dumps({"type": name, **members}))


def rows(seq: int) -> bytes:
    return rows_frame(ROWS, seq)


COMMIT = message("commit", commit=b"signed")


def exchange(*frames: bytes) -> PlainExchange:
    return PlainExchange(iter(frames), lambda frame: None)


def test_rows_then_commit() -> None:
    server = exchange(SCHEMA, rows(0), rows(1), COMMIT)
    assert server.resume_request() is None
    assert server.schema() == ROWS.schema
    assert [seq for seq, _ in server.batches(CAPS)] == [0, 1]
    assert server.committed == b"signed"


def beside(data: FlightData, metadata: bytes) -> bytes:
    """The same Arrow message with other metadata beside it."""
    return FlightData(header=data.header, metadata=metadata, body=data.body).encode()


ONE = FlightData.parse(rows(0))


@pytest.mark.parametrize(
    ("frames", "leaf"),
    [
        ([rows(1), COMMIT], SequenceBroken),  #                 F15: the first is missing
        ([rows(0), rows(0), COMMIT], SequenceBroken),  #        F15: replayed
        ([rows(0), rows(2), COMMIT], SequenceBroken),  #        F15: dropped
        ([rows(0), rows(1)], StreamTruncated),  #               F14: no commit
        ([], StreamTruncated),
        ([rows(0), message("resume", commit=b"c")], MessageUnexpected),
        ([rows(0), message("commit", commit=b"c", salt=SALT)], MessageUnexpected),
        ([rows(0), message("commit", commit="text")], MessageUnexpected),
        ([beside(ONE, b"")], MessageUnexpected),
        ([beside(ONE, b"x")], MessageUnexpected),
        ([FlightData(metadata=write_message("batch", seq=0)).encode()], MessageUnexpected),
        ([FlightData(metadata=ONE.metadata, body=ONE.body).encode()], MessageUnexpected),
        ([beside(ONE, cbor2.dumps({"type": "commit", "commit": b"c"}))], MessageUnexpected),
        ([b""], MessageUnexpected),
        ([b"\xff"], FlightDataMalformed),
        ([chunk_frame(ChunkHead(0, True), bytes(64))], MessageUnexpected),
        ([rows(0), SCHEMA], MessageUnexpected),  #              the columns again, in mid-stream
        ([beside(FlightData.parse(SCHEMA), write_message("batch", seq=0))], RowsHeaderMalformed),
        ([rows(i) for i in range(4)], StreamOversized),  #      12 rows of at most 10
    ],
)
def test_a_stream_that_is_not_complete_in_order(
    frames: list[bytes], leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        list(exchange(SCHEMA, *frames).batches(CAPS))


@pytest.mark.parametrize(
    ("caps", "leaf"),
    [
        (Caps(rows=10, bytes=1000, batch_rows=2), RowsHeaderMalformed),
        (Caps(rows=10, bytes=1000, batch_bytes=23), MessageOversized),
        (Caps(rows=10, bytes=23), StreamOversized),
        (Caps(rows=2, bytes=1000), StreamOversized),
    ],
)
def test_more_than_a_receiver_holds(caps: Caps, leaf: type[RatlsError]) -> None:
    with refused(leaf):
        list(exchange(SCHEMA, rows(0), COMMIT).batches(caps))


@pytest.mark.parametrize("first", [COMMIT, rows(0), b"", message("hello")])
def test_rows_without_columns_before_them(first: bytes) -> None:
    with refused(MessageUnexpected):
        exchange(first, COMMIT).schema()


def test_rows_before_the_hello() -> None:
    with refused(MessageUnexpected):
        exchange(rows(0)).hello()


def gone() -> Iterator[bytes]:
    """What gRPC gives for a client that was killed, or cut off: frames, then an error."""
    yield SCHEMA
    yield rows(0)
    raise grpc.RpcError


def test_a_client_that_has_gone() -> None:
    """F14."""
    server = PlainExchange(gone(), lambda frame: None)
    with refused(StreamTruncated):
        list(server.batches(CAPS))
    assert server.committed is None


def test_every_frame_is_a_sign_of_life() -> None:
    heard: list[int] = []
    server = PlainExchange(
        iter([SCHEMA, rows(0), COMMIT]), lambda frame: None, lambda: heard.append(1)
    )
    assert len(list(server.batches(CAPS))) == 1
    assert len(heard) == 3


# A frame is judged by what is in it.


@pytest.mark.parametrize("last", [True, False])
def test_a_chunk_is_read_back(last: bool) -> None:
    frame = Frame.parse(chunk_frame(ChunkHead(7, last), b"ciphertext" + bytes(16)))
    assert frame.is_chunk
    assert not frame.has_rows
    chunk = frame.chunk()
    assert (chunk.head, bytes(chunk.sealed)) == (ChunkHead(7, last), b"ciphertext" + bytes(16))
    assert bytes(chunk.tag) == bytes(16)


CHUNK = FlightData.parse(chunk_frame(ChunkHead(0, False), bytes(32)))


@pytest.mark.parametrize(
    "frame",
    [
        message("hello"),
        rows(0),
        b"",
        FlightData(metadata=CHUNK.metadata, body=b"b").encode(),
        FlightData(metadata=CHUNK.metadata, header=b"h").encode(),
        FlightData(metadata=b"\0" + b"\xff" * 8 + b"\0").encode(),  #        no such number
        FlightData(metadata=b"\0" + MAX_CHUNKS.to_bytes(8, "big") + b"\0").encode(),
        FlightData(metadata=b"\0" + bytes(8) + b"\2").encode(),  #            no such flag
        FlightData(metadata=b"\0" + bytes(8)).encode(),  #                    cut
        FlightData(metadata=b"\0").encode(),
    ],
)
def test_frames_that_are_no_chunks(frame: bytes) -> None:
    with refused(ChunkUnexpected):
        Frame.parse(frame).chunk()


@given(st.binary(max_size=64))
def test_any_bytes_are_a_chunk_or_a_refusal(raw: bytes) -> None:
    with suppress(ChunkUnexpected):
        chunk = Chunk.parse(memoryview(raw))
        assert chunk.head.encode() + bytes(chunk.sealed) == raw


def test_a_chunk_where_a_message_is_due() -> None:
    with refused(MessageUnexpected):
        exchange(chunk_frame(ChunkHead(0, False), bytes(64))).hello()


def test_messages_are_read_back() -> None:
    members = {"nonce": b"n" * 32, "task": b"t", "dataset": "d", "release": b"r"}
    assert read_message(write_message("hello", **members), "hello") == ("hello", members)


HELLO = {"type": "hello", "nonce": b"n" * 32, "task": b"t", "dataset": "d", "release": b""}


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
    """In a frame of its own, as all known clients send it, or with the hello."""
    hello = write_message("hello", nonce=bytes(32), task=b"", dataset="d", release=b"")
    alone = exchange(first_frame(kind), message_frame(hello))
    together = exchange(FlightData(command=kind.value, metadata=hello).encode())
    for server in (alone, together):
        assert server.kind() is kind
        assert server.hello().dataset == "d"


@pytest.mark.parametrize(
    "command", [b"ratls/2 release", b"", b"../../etc", bytes(1 << 20), b"ratls/1 release\0"]
)
def test_other_descriptors(command: bytes) -> None:
    """F13: nothing in a descriptor is a path, a name or a query."""
    with refused(MessageUnexpected):
        exchange(FlightData(command=command, metadata=b"x").encode()).kind()


def test_a_path_for_a_descriptor() -> None:
    """F13."""
    path = flight.FlightDescriptor.for_path(b"ratls/1 release").serialize()
    with refused(FlightDataMalformed):
        exchange(b"\x0a" + bytes([len(path)]) + path).kind()
    command = flight.FlightDescriptor.for_command(b"ratls/1 release").serialize()
    assert exchange(b"\x0a" + bytes([len(command)]) + command).kind() is Kind.RELEASE


@pytest.mark.parametrize(
    ("leaf", "status"),
    [
        (NonceMismatch, grpc.StatusCode.UNAUTHENTICATED),
        (MeasurementNotListed, grpc.StatusCode.PERMISSION_DENIED),
        (StreamTruncated, grpc.StatusCode.UNKNOWN),
    ],
)
def test_a_refusal_on_the_wire_is_class_code_and_number(
    leaf: type[RatlsError], status: grpc.StatusCode
) -> None:
    """F16: an exception's text would go to the peer."""
    told = refusal_status(leaf("a row", expected="1", found="canary-c4n4ry"), "0007")
    assert told[0] is status
    assert "c4n4ry" not in repr(told)
    assert told[1] == f"refused: {leaf.code} (0007)"
    assert dict(told[2])[REFUSAL_KEY] == f'{{"code": "{leaf.code}", "id": "0007"}}'.encode()


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
    made = RowDigest(salt, Digest(schema))
    for seq, batch in batches:
        made.add(seq, batch.num_rows, Digest(hashlib.sha256(batch.serialize()).digest()))
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
        RowDigest(b"short", Digest(bytes(32)))


def test_timestamps_travel_alike() -> None:
    batch = pa.record_batch(
        {"t": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 9, pa.timestamp("us", "UTC"))}
    )
    received = pa.ipc.read_record_batch(batch.slice(2, 3).serialize(), batch.schema)
    assert digest((0, received)) == digest((0, batch.slice(2, 3)))
