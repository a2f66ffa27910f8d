"""What a hostile answer costs a client, in processes of their own: its memory.

    python -m tests.support.hostile_enclave zstd     # {"outcome": …, "mib": …}

The enclave is a child process, so that its memory is not counted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ratls.address import Address
from ratls.framing import MAX_RESULT, PART, Kind, number_of_parts, write_message
from ratls.identity import EnclaveIdentity
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.raw_flight import arrow_messages, flight_data, grpc, raw_enclave
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

MEBIBYTE = 1 << 20


def honest() -> list[bytes]:
    return [flight_data(metadata=write_message("pending", missing=["train_party_1"]))]


def large_result() -> list[bytes]:
    """The honest twin of all that is large, and the largest that is taken."""
    return parts(MAX_RESULT)


def parts(size: int, /, **announced: int) -> list[bytes]:
    """A result in parts; `announced` replaces what its first message says."""
    count = number_of_parts(size)
    first = write_message("result", receipt=b"r", **{"size": size, "parts": count} | announced)
    messages = [
        write_message("part", number=n, ciphertext=bytes(min(PART, size - n * PART)))
        for n in range(count)
    ]
    return [flight_data(metadata=message) for message in (first, *messages)]


def endless() -> Iterator[bytes]:
    """Parts without end, after an honest first message."""
    yield from parts(MAX_RESULT)
    part = write_message("part", number=0, ciphertext=bytes(PART))
    while True:
        yield flight_data(metadata=part)


def giant() -> Iterator[bytes]:
    """A result of 64 TiB, and as much of it as the client takes."""
    size = MAX_RESULT << 20
    yield parts(0, size=size, parts=number_of_parts(size))[0]
    yield from endless()


def pending() -> list[bytes]:
    """As large as results were once: a list of as many numbers takes a minute to read."""
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


CASES: dict[str, Callable[[], Iterable[bytes]]] = {
    "honest": honest,
    "large-result": large_result,
    "endless": endless,
    "giant": giant,
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

    def answers(evidence: bytes) -> Iterable[bytes]:
        yield evidence
        yield from CASES[case]()

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
