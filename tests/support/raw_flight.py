"""An attested enclave's wire without a Flight library: it may send what no such library would.

    with raw_enclave(study, lambda evidence: [evidence, flight_data(metadata=b"...")]) as peer:
        study.exchange(Kind.COLLECT, peer.address, peer.admitted)

It stands for a hostile enclave, or for whatever a bug in one could send below its handlers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC

import grpc  # noqa: E402
import pyarrow as pa  # noqa: E402

from ratls.address import Address  # noqa: E402
from ratls.appraise import AdmittedCertificate  # noqa: E402
from ratls.claims import NO_TASK  # noqa: E402
from ratls.framing import read_message, write_message  # noqa: E402
from ratls.identity import EnclaveIdentity  # noqa: E402
from tests.support.flight_peers import LOOPBACK, Study  # noqa: E402

HEADER, METADATA, BODY = 2, 3, 1000  # field numbers of `FlightData` in Flight.proto


def flight_data(*, header: bytes = b"", metadata: bytes = b"", body: bytes = b"") -> bytes:
    """One `FlightData` as it travels."""
    fields = ((HEADER, header), (METADATA, metadata), (BODY, body))
    return b"".join(
        _varint(number << 3 | 2) + _varint(len(content)) + content
        for number, content in fields
        if content
    )


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def read_metadata(raw: bytes) -> bytes:
    """The app_metadata of a `FlightData`; empty if it has none."""
    at, found = 0, {}
    while at < len(raw):
        key, at = _read_varint(raw, at)
        size, at = _read_varint(raw, at)
        found[key >> 3], at = raw[at : at + size], at + size
    return found.get(METADATA, b"")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (raw[at] & 0x7F) << shift
        shift += 7
        at += 1
        if raw[at - 1] < 0x80:
            return value, at


def arrow_messages(
    batch: pa.RecordBatch, metadata: bytes = b"", compression: str | None = None
) -> list[bytes]:
    """Schema and batch as `FlightData`; `metadata` goes with the batch."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    schema, rows = pa.ipc.MessageReader.open_stream(sink.getvalue())
    return [
        flight_data(header=schema.metadata.to_pybytes()),
        flight_data(
            header=rows.metadata.to_pybytes(), metadata=metadata, body=rows.body.to_pybytes()
        ),
    ]


@dataclass(frozen=True)
class RawEnclave:
    """Where it listens, and what a probe of it would have found."""

    address: Address
    admitted: AdmittedCertificate


@contextmanager
def raw_enclave(
    study: Study,
    answers: Callable[[bytes], Iterable[bytes]],
    compression: grpc.Compression = grpc.Compression.NoCompression,
    identity: EnclaveIdentity | None = None,
) -> Iterator[RawEnclave]:
    """Serve DoExchange.

    Args:
        answers: From the honest evidence message, as `FlightData`, to all that is sent.
        compression: Of every message, at the gRPC layer.
        identity: Of the enclave; None for a new one.
    """
    identity, channel = identity or study.identity(), study.channel()

    def exchange(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        # The descriptor comes first, in a message of its own.
        said = next(metadata for raw in requests if (metadata := read_metadata(raw)))
        hello = read_message(said, "hello")[1]
        task = hashlib.sha256(hello["task"]).digest() if hello["task"] else NO_TASK
        evidence = identity.answer_challenge(hello["nonce"], channel.spki_sha256, task)
        yield from answers(
            flight_data(metadata=write_message("evidence", evidence=evidence, sealing_key=b""))
        )
        for _unread in requests:
            pass

    server = grpc.server(ThreadPoolExecutor(4), compression=compression)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "arrow.flight.protocol.FlightService",
                {"DoExchange": grpc.stream_stream_rpc_method_handler(exchange)},
            ),
        )
    )
    credentials = grpc.ssl_server_credentials(
        [(identity.key_pem, identity.certificate_pem)], channel.cert_pem, require_client_auth=True
    )
    port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    server.start()
    try:
        yield RawEnclave(Address(LOOPBACK, port), study.admitted(identity))
    finally:
        server.stop(None).wait()
