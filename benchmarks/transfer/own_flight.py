"""Rows of one's own by `ratls.flight`, and by pyarrow's Flight over mutual TLS; see `channel`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ratls import flight
from ratls.address import Address

if TYPE_CHECKING:
    from benchmarks.channel import Bench

HOST = "127.0.0.1"
CHUNK = 1 << 17  # rows: 1 MiB


def rows_of(mebibytes: int) -> pa.Table:
    return pa.table({"x": pa.array(range(mebibytes * CHUNK), pa.int64())})


def attested_rows(bench: Bench, ready: Callable[[int], None]) -> None:
    """A service in the enclave: gives rows, and takes some."""
    table = rows_of(bench.mebibytes)

    class Rows(flight.Service):
        def get(self, call: flight.Call) -> pa.Table:
            return table

        def put(self, call: flight.Call, rows: pa.RecordBatchReader) -> bytes:
            return b"%d" % sum(batch.num_rows for batch in rows)

    server = flight.Server(Address(HOST, 0), bench.enclave, lambda: bench.study.policy, Rows())
    ready(server.address.port)
    threading.Event().wait()


def plain_rows(bench: Bench, ready: Callable[[int], None]) -> None:
    """The same by pyarrow's own server."""
    import pyarrow.flight as arrow

    table = rows_of(bench.mebibytes)

    class Rows(arrow.FlightServerBase):  # type: ignore[misc]
        def do_get(self, context: Any, ticket: Any) -> Any:
            """Called by Flight."""
            batches = iter(table.to_batches(max_chunksize=CHUNK))
            return arrow.GeneratorStream(table.schema, batches)

        def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            """Called by Flight."""
            writer.write(b"%d" % sum(chunk.data.num_rows for chunk in reader))

    server = Rows(
        f"grpc+tls://{HOST}:0",
        tls_certificates=[bench.enclave.pair],
        verify_client=True,
        root_certificates=bench.party.cert_pem,
    )
    ready(server.port)
    server.serve()


class PlainClient:
    """Each call on a connection of its own, as ours."""

    def __init__(self, bench: Bench, place: Address) -> None:
        self._bench, self._place = bench, place

    def _client(self) -> Any:
        import pyarrow.flight as arrow

        return arrow.FlightClient(
            f"grpc+tls://{self._place}",
            tls_root_certs=self._bench.enclave.certificate_pem,
            cert_chain=self._bench.party.cert_pem,
            private_key=self._bench.party.key_pem,
            override_hostname="enclave.ratls.invalid",
        )

    def get(self, ticket: bytes) -> pa.Table:
        import pyarrow.flight as arrow

        with self._client() as client:
            return client.do_get(arrow.Ticket(ticket)).read_all()

    def put(self, descriptor: bytes, table: pa.Table) -> bytes:
        import pyarrow.flight as arrow

        with self._client() as client:
            named = arrow.FlightDescriptor.for_command(descriptor)
            writer, reader = client.do_put(named, table.schema)
            with writer:
                writer.write_table(table, max_chunksize=CHUNK)
                writer.done_writing()
                return bytes(reader.read())


def get(client: Any, mebibytes: int) -> float:
    """MiB a second."""
    begun = time.perf_counter()
    assert client.get(b"").num_rows == mebibytes * CHUNK
    return mebibytes / (time.perf_counter() - begun)


def put(client: Any, table: pa.Table, mebibytes: int) -> float:
    """MiB a second, to the server's last word."""
    begun = time.perf_counter()
    assert int(client.put(b"", table)) == table.num_rows
    return mebibytes / (time.perf_counter() - begun)
