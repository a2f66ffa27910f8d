"""The bytes of Flight's messages: read as Protocol Buffers reads them, or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from ratls.flight_data import DO_EXCHANGE, FlightData, FlightDataMalformed, encode_metadata
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT

_FIELD = descriptor_pb2.FieldDescriptorProto


def generated() -> Any:
    """`FlightData` of Apache Arrow's Flight.proto, as Google's library reads it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="flight_for_test.proto", package="for_test", syntax="proto3"
    )
    kind = file.enum_type.add(name="DescriptorType")
    for number, name in enumerate(("UNKNOWN", "PATH", "CMD")):
        kind.value.add(name=name, number=number)
    descriptor = file.message_type.add(name="FlightDescriptor")
    enum = {"type": _FIELD.TYPE_ENUM, "type_name": ".for_test.DescriptorType"}
    descriptor.field.add(name="type", number=1, label=_FIELD.LABEL_OPTIONAL, **enum)
    one, many = _FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED
    descriptor.field.add(name="cmd", number=2, label=one, type=_FIELD.TYPE_BYTES)
    descriptor.field.add(name="path", number=3, label=many, type=_FIELD.TYPE_STRING)
    data = file.message_type.add(name="FlightData")
    inner = {"type": _FIELD.TYPE_MESSAGE, "type_name": ".for_test.FlightDescriptor"}
    data.field.add(name="flight_descriptor", number=1, label=one, **inner)
    for name, number in (("data_header", 2), ("app_metadata", 3), ("data_body", 1000)):
        data.field.add(name=name, number=number, label=one, type=_FIELD.TYPE_BYTES)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("for_test.FlightData"))


Generated = generated()
PARTS = st.binary(max_size=300)


def fields(data: FlightData) -> tuple[bytes, ...]:
    return (data.command, bytes(data.header), bytes(data.metadata), bytes(data.body))


@given(PARTS, PARTS, PARTS, PARTS)
def test_messages_are_read_back(
    command: bytes, header: bytes, metadata: bytes, body: bytes
) -> None:
    sent = FlightData(command, header, metadata, body)
    assert fields(FlightData.parse(sent.encode())) == fields(sent)


@given(PARTS, PARTS)
def test_metadata_in_parts_is_one(first: bytes, second: bytes) -> None:
    found = FlightData.parse(encode_metadata(first, second))
    assert fields(found) == (b"", b"", first + second, b"")


@given(PARTS, PARTS, PARTS, PARTS)
def test_google_reads_what_we_write(
    command: bytes, header: bytes, metadata: bytes, body: bytes
) -> None:
    read = Generated.FromString(FlightData(command, header, metadata, body).encode())
    assert read.flight_descriptor.cmd == command
    assert (read.data_header, read.app_metadata, read.data_body) == (header, metadata, body)


@given(st.booleans(), PARTS, PARTS, PARTS, PARTS)
def test_we_read_what_google_writes(
    named: bool, command: bytes, header: bytes, metadata: bytes, body: bytes
) -> None:
    said = Generated(data_header=header, app_metadata=metadata, data_body=body)
    if named:
        said.flight_descriptor.type = 2
        said.flight_descriptor.cmd = command
    found = FlightData.parse(said.SerializeToString())
    assert fields(found) == (command if named else b"", header, metadata, body)


SEED = FlightData(b"ratls/1 release", b"header", b"metadata", b"body" * 40).encode()


@settings(max_examples=500)
@given(st.data())
def test_any_bytes_are_a_message_or_a_refusal(data: st.DataObject) -> None:
    """What we take, Google's library takes and reads alike: no second meaning of one message."""
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(max_size=80))
    else:
        changed = bytearray(SEED)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        raw = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    try:
        found = FlightData.parse(raw)
    except FlightDataMalformed:
        return
    read = Generated.FromString(raw)
    assert found.command == read.flight_descriptor.cmd
    assert fields(found)[1:] == (read.data_header, read.app_metadata, read.data_body)
    assert not read.flight_descriptor.path


@given(st.binary(max_size=60))
def test_what_google_refuses_we_refuse(raw: bytes) -> None:
    with suppress(FlightDataMalformed):
        FlightData.parse(raw)
        try:
            Generated.FromString(raw)
        except DecodeError:
            raise AssertionError("a message that Protocol Buffers does not read") from None


def descriptor(inner: bytes) -> bytes:
    return b"\x0a" + bytes([len(inner)]) + inner


NAMED = b"\x08\x02\x12\x01c"  # type CMD, cmd "c"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12",  #                                     a number beyond the end
        b"\x12\x05abcd",  #                             a length beyond the end
        b"\x12\xff\xff\xff\xff\x0fabcd",
        b"\x12\x80\x80\x80\x80\x80\x00",  #             a length in six bytes
        b"\x12\x01a\x12\x01b",  #                       twice: which one counts?
        b"\x22\x01a",  #                                a field that Flight does not have
        b"\x10\x01",  #                                 the header as a number
        b"\x15abcd",  #                                 four bytes
        b"\x11abcdefgh",  #                             eight bytes
        b"\x13\x14",  #                                 a group
        b"\x00",  #                                     field zero
        descriptor(b"\x08\x01\x1a\x01p"),  #            a path
        descriptor(b"\x08\x01\x12\x01c"),  #            a command that says to be a path
        descriptor(b"\x08\x00\x12\x01c"),
        descriptor(b"\x12\x01c"),  #                    of no type
        descriptor(NAMED + b"\x1a\x01p"),
        descriptor(NAMED + b"\x12\x01d"),
        descriptor(b"\x08\x82\x00\x12\x01c"),  #         two, spelled longer
        descriptor(b""),
        descriptor(NAMED)[:-1],
        descriptor(NAMED) * 2,
    ],
)
def test_bytes_that_are_no_message_of_flight(raw: bytes) -> None:
    """F13: no paths, nothing unknown, nothing twice."""
    with refused(FlightDataMalformed):
        FlightData.parse(raw)


def test_the_message_that_these_are_made_from() -> None:
    assert FlightData.parse(descriptor(NAMED)).command == b"c"
    assert fields(FlightData.parse(b"\x12\x01a")) == (b"", b"a", b"", b"")
    assert fields(FlightData.parse(b"")) == (b"", b"", b"", b"")


def test_a_message_points_into_what_was_received() -> None:
    """F19: a body is not copied before it is judged."""
    raw = FlightData(body=bytes(1 << 20)).encode()
    body = FlightData.parse(raw).body
    assert isinstance(body, memoryview)
    assert body.obj is raw


# What pyarrow sends


def recorded() -> list[bytes]:
    """The frames of pyarrow's own client: descriptor, columns, two batches, metadata."""
    frames: list[bytes] = []

    def exchange(requests: Any, context: Any) -> Any:
        frames.extend(requests)
        yield FlightData(metadata=b"done").encode()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            assert details.method == DO_EXCHANGE
            return grpc.stream_stream_rpc_method_handler(exchange)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with flight.FlightClient(f"grpc://127.0.0.1:{port}") as client:
            writer, reader = client.do_exchange(
                flight.FlightDescriptor.for_command(b"ratls/1 release"),
                flight.FlightCallOptions(timeout=HANG_LIMIT),
            )
            writer.write_metadata(b"hello")
            writer.begin(ROWS.schema)
            writer.write_batch(ROWS)
            writer.write_with_metadata(ROWS.slice(1), b"beside")
            writer.done_writing()
            assert reader.read_chunk().app_metadata.to_pybytes() == b"done"
            writer.close()
    finally:
        server.stop(None).wait()
    return frames


ROWS = pa.record_batch({"x": [1, 2, 3], "t": ["a", "b", "c"]})


def test_what_pyarrow_sends_is_read() -> None:
    parsed = [FlightData.parse(raw) for raw in recorded()]
    # In a frame of its own, and again with the columns: only the first is asked for.
    assert parsed[0].command == b"ratls/1 release"
    assert {data.command for data in parsed} == {b"ratls/1 release", b""}
    assert b"hello" in [bytes(data.metadata) for data in parsed]
    bodies = [data for data in parsed if len(data.body)]
    assert [bytes(data.metadata) for data in bodies] == [b"", b"beside"]
    first = bodies[0]
    message = b"\xff\xff\xff\xff" + len(first.header).to_bytes(4, "little")
    message += bytes(first.header) + bytes(first.body)
    assert pa.ipc.read_record_batch(pa.py_buffer(message), ROWS.schema) == ROWS
