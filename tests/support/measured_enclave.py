"""What a release costs an enclave, in processes of their own: its memory.

    python -m tests.support.measured_enclave rows     # {"outcome": …, "payload": …, "mib": …}

The provider is a child process, so that its memory is not counted. Sizes are MiB.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from enclave_app.limits import Limits  # noqa: E402
from policy.receipt import Acknowledgement  # noqa: E402
from ratls.certificate import ENCLAVE_NAME  # noqa: E402
from ratls.flight_data import DO_EXCHANGE  # noqa: E402
from ratls.framing import Kind, first_frame, message_frame, write_message  # noqa: E402
from tests.support.enclave import EnclaveWorld, LiveEnclave, rows  # noqa: E402
from tests.support.waiting import HANG_LIMIT  # noqa: E402
from verifier.errors import RatlsError  # noqa: E402

MEBIBYTE = 1 << 20
ONE = "train_party_1"
ROWS = 100_000  # of 1.4 kB


def status(name: str) -> float:
    """A figure of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Provider:
    """Alice, in the child."""

    live: LiveEnclave
    task: bytes
    certificate_pem: bytes

    def chunks(self, parts: list[pa.Buffer], counts: list[int]) -> None:
        """Seal and send these messages, and wait for what the enclave says."""
        alice = self.live.world.consortium.alice
        with self.live.exchange(Kind.RELEASE, alice, task=self.task, dataset=ONE) as exchange:
            self.live.open(exchange, alice, ONE, self.task)
            for number, (part, count) in enumerate(zip(parts, counts, strict=True), 1):
                exchange.send_sealed(part, count, last=number == len(parts))
            exchange._call.hear()


def honest(provider: Provider) -> tuple[str, float]:
    """A large release, committed."""
    names = [f"patient-{i:06d}-{'x' * 1350}" for i in range(ROWS)]
    table = rows(1, ROWS, patient=names)
    raw = provider.live.release(
        provider.live.world.consortium.alice, ONE, table, provider.task, chunk=1500
    )
    assert Acknowledgement.open(raw).rows == ROWS
    return "acknowledged", table.nbytes / MEBIBYTE


def packed(codec: str) -> Callable[[Provider], tuple[str, float]]:
    """160 MB of zeros, which are 5 KB of zstd, in fifty chunks."""

    def send(provider: Provider) -> tuple[str, float]:
        batch = pa.record_batch({"x": np.zeros(20_000_000)})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        _, message = pa.ipc.MessageReader.open_stream(sink.getvalue())
        raw = message.serialize()
        provider.chunks([raw] * 50, [batch.num_rows] * 50)
        return "accepted", raw.size / MEBIBYTE

    return send


def gzip(provider: Provider) -> tuple[str, float]:
    """Messages that gRPC has packed: a gibibyte of zeros is a mebibyte."""
    alice = provider.live.world.consortium.alice
    credentials = grpc.ssl_channel_credentials(
        provider.certificate_pem, alice.channel_key_pem, alice.channel_certificate_pem
    )
    options = [
        ("grpc.ssl_target_name_override", ENCLAVE_NAME),
        ("grpc.max_send_message_length", -1),
    ]
    hello = write_message(
        "hello", nonce=bytes(32), task=provider.task, dataset=ONE, release=bytes(16)
    )
    large = message_frame(bytes(1024 * MEBIBYTE))
    with grpc.secure_channel(
        str(provider.live.address), credentials, options, compression=grpc.Compression.Gzip
    ) as channel:
        call: Any = channel.stream_stream(DO_EXCHANGE)
        frames = [first_frame(Kind.RELEASE), message_frame(hello), large]
        try:
            for _ in call(iter(frames), timeout=HANG_LIMIT):
                pass
        except grpc.RpcError as error:
            known: Any = error
            return str(known.code().name), 1.0
    return "accepted", 1.0


CASES: dict[str, Callable[[Provider], tuple[str, float]]] = {
    "rows": honest,
    "zstd": packed("zstd"),
    "lz4": packed("lz4"),
    "gzip": gzip,
}


def provide(case: str, world: EnclaveWorld, task: bytes, told: int, tell: int) -> None:
    """The child: waits for the enclave, does its case, says how it ended."""
    with os.fdopen(told) as lines:
        start = json.loads(lines.readline())
    identity = SimpleNamespace(certificate_der=bytes.fromhex(start["der"]))
    stand_in: Any = SimpleNamespace(identity=identity, address=start["address"])
    live = LiveEnclave(world, stand_in, stand_in, None)  # type: ignore[arg-type]
    payload = 0.0
    try:
        outcome, payload = CASES[case](Provider(live, task, start["pem"].encode()))
    except RatlsError as refusal:
        outcome = getattr(refusal, "peer_code", refusal.code)
    os.write(tell, json.dumps({"outcome": outcome, "payload": payload}).encode() + b"\n")


def main(case: str) -> None:
    world = EnclaveWorld.create()
    task, other = world.task(), world.task()
    (there, start), (answer, back) = os.pipe(), os.pipe()
    child = os.fork()  # before any library has threads
    if not child:
        provide(case, world, task, there, back)
        os._exit(0)
    with world.running(limits=Limits(buckets=(0.01,))) as live:
        live.release(world.consortium.alice, ONE, rows(1), other)  # loads the code
        Path("/proc/self/clear_refs").write_text("5")  # the peak, from here on
        before = status("VmRSS")
        identity = live.enclave.identity
        message = {
            "der": identity.certificate_der.hex(),
            "pem": identity.certificate_pem.decode(),
            "address": live.server.address,
        }
        os.write(start, json.dumps(message).encode() + b"\n")
        with os.fdopen(answer) as lines:
            told = json.loads(lines.readline())
        figures = told | {"mib": round(status("VmHWM") - before)}
    os.waitpid(child, 0)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
