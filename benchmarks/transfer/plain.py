"""What people would use instead: Arrow Flight over mutual TLS, with keys that are simply known.

    python -m benchmarks.transfer.plain serve FOLDER
    python -m benchmarks.transfer.plain parquet|streamed|csv|memory|first FOLDER ADDRESS [SOURCE]

`keys` writes both certificates into the folder. The server reads every batch and drops it.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.flight as flight
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.transfer.work import measured

CHUNK = 16_384  # rows in memory; of 22 columns 3 MiB
READ = 65_536  # rows; from a file it is the quickest
FIRST = 11  # connections for the first byte
SERVER = "localhost"


def keys(folder: Path) -> None:
    """A key and a certificate, signed by itself, for each end."""
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )


class Drain(flight.FlightServerBase):  # type: ignore[misc]
    """Reads all rows and keeps none."""

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Called by Flight."""
        while True:
            try:
                reader.read_chunk()
            except StopIteration:
                return

    def do_action(self, context: Any, action: Any) -> list[bytes]:
        """Called by Flight: the smallest answer."""
        return [b"here"]


def serve(folder: Path) -> None:
    """Serve until the process is ended."""
    pair = ((folder / "server.crt").read_bytes(), (folder / "server.key").read_bytes())
    roots = (folder / "client.crt").read_bytes()
    server = Drain(
        "grpc+tls://127.0.0.1:0",
        tls_certificates=[pair],
        verify_client=True,
        root_certificates=roots,
    )
    print(f"ready 127.0.0.1:{server.port}", flush=True)
    server.serve()


def connect(folder: Path, address: str) -> Any:
    """A client; it connects with its first call."""
    return flight.FlightClient(
        f"grpc+tls://{address}",
        tls_root_certs=(folder / "server.crt").read_bytes(),
        cert_chain=(folder / "client.crt").read_bytes(),
        private_key=(folder / "client.key").read_bytes(),
        override_hostname=SERVER,
    )


def put(client: Any, schema: pa.Schema, batches: Any) -> None:
    """One upload, to the server's last word."""
    writer, _ = client.do_put(flight.FlightDescriptor.for_path("rows"), schema)
    for batch in batches:
        writer.write_batch(batch)
    writer.close()


def first_seconds(folder: Path, address: str) -> float:
    """Seconds from nothing to the answer of a first call."""
    began = time.perf_counter()
    with connect(folder, address) as client:
        list(client.do_action("first"))
        return time.perf_counter() - began


def main() -> None:
    what, folder, *rest = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    if what == "serve":
        serve(folder)
    address, source = rest[0], Path(rest[1]) if rest[1:] else None
    if what == "first":
        taken = [first_seconds(folder, address) for _ in range(FIRST)]
        with measured() as answer:
            answer["first"] = statistics.median(taken[1:])
        return
    assert source is not None
    if what != "streamed":
        import pyarrow.dataset
    if what == "memory":
        table = pq.read_table(source)
        with connect(folder, address) as client:
            list(client.do_action("first"))
            with measured():
                put(client, table.schema, table.to_batches(max_chunksize=CHUNK))
        return
    with measured(), connect(folder, address) as client:
        if what == "streamed":
            file = pq.ParquetFile(source, pre_buffer=True)
            put(client, file.schema_arrow, file.iter_batches(batch_size=READ))
            return
        if what == "csv":
            schema = pq.read_schema(rest[2])
            options: Any = pyarrow.csv.ConvertOptions(column_types=schema)
            table = pyarrow.csv.read_csv(source, convert_options=options)
        else:
            table = pq.read_table(source)
        put(client, table.schema, table.to_batches(max_chunksize=READ))


if __name__ == "__main__":
    main()
