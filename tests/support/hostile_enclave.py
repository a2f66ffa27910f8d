"""What a hostile answer costs a client, in processes of their own: its memory.

    python -m tests.support.hostile_enclave zstd     # {"outcome": …, "mib": …}

The enclave is a child process, so that its memory is not counted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from ratls.address import Address
from ratls.framing import Kind, write_message
from ratls.identity import EnclaveIdentity
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.raw_flight import arrow_messages, flight_data, grpc, raw_enclave
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

MEBIBYTE = 1 << 20


def honest() -> list[bytes]:
    return [flight_data(metadata=write_message("pending", missing=["train_party_1"]))]


def large_result() -> list[bytes]:
    """The honest twin of all that is large: it is the only message that may be."""
    result = write_message("result", receipt=b"r", ciphertext=bytes(32 * MEBIBYTE))
    return [flight_data(metadata=result)]


def pending() -> list[bytes]:
    """As large as a result may be: a list of as many numbers takes a minute to read."""
    numbers = 63 * MEBIBYTE
    head = b"\xa2\x64type\x67pending\x67missing\x9a" + numbers.to_bytes(4, "big")
    return [flight_data(metadata=head + bytes(numbers))]


def zeros() -> list[bytes]:
    """A gibibyte, for the gRPC layer to compress into a mebibyte."""
    return [flight_data(metadata=bytes(1024 * MEBIBYTE))]


def rows(compression: str | None) -> list[bytes]:
    """160 MB of zeros, which are 5 KB of zstd."""
    batch = pa.record_batch({"x": np.zeros(20_000_000)})
    return arrow_messages(batch, write_message("batch", seq=0), compression)


CASES: dict[str, Callable[[], list[bytes]]] = {
    "honest": honest,
    "large-result": large_result,
    "pending": pending,
    "gzip": zeros,
    "gzip-small": honest,
    "zstd": lambda: rows("zstd"),
    "lz4": lambda: rows("lz4"),
    "rows": lambda: rows(None),
}


def serve(case: str, study: Study, identity: EnclaveIdentity, ready: int) -> None:
    """Answer so until the parent ends this process."""
    compression = grpc.Compression.NoCompression
    if case.startswith("gzip"):
        compression = grpc.Compression.Gzip
    messages = CASES[case]()

    def answers(evidence: bytes) -> Iterable[bytes]:
        return [evidence, *messages]

    with raw_enclave(study, answers, compression, identity) as peer:
        os.write(ready, f"{peer.address.port}\n".encode())
        signal.pause()


def peak() -> float:
    """Most memory that this process ever had, MiB."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def ask(study: Study, identity: EnclaveIdentity, port: int) -> str:
    """The outcome of one collection: a code, or the name of an answer's type."""
    admitted, address = study.admitted(identity), Address(LOOPBACK, port)
    try:
        with study.exchange(
            Kind.COLLECT, address, admitted, task=b"t", timeout=HANG_LIMIT
        ) as exchange:
            return type(exchange.collect()).__name__
    except RatlsError as refusal:
        return str(refusal.code)


def main(case: str) -> None:
    study = Study.create()
    identity = study.identity()
    ready, written = os.pipe()
    child = os.fork()  # before any library has threads
    if not child:
        serve(case, study, identity, written)
    try:
        with os.fdopen(ready) as lines:
            port = int(lines.readline())
        before = peak()
        outcome = ask(study, identity, port)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    figures = {"outcome": outcome, "mib": round(peak() - before)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
