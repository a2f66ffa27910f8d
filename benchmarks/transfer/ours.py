"""The provider's side of this project, and the smallest enclave that proves itself.

    python -m benchmarks.transfer.ours serve DESK
    python -m benchmarks.transfer.ours release|together|first|memory DESK ADDRESS SOURCE

A desk is the file that `World.desk` writes.
"""

from __future__ import annotations

import hashlib
import json
import signal
import statistics
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before anything loads gRPC

from benchmarks.transfer.work import measured  # noqa: E402
from policy.party import LocalParty  # noqa: E402
from policy.task import Task  # noqa: E402
from policy.values import Digest, Nonce  # noqa: E402
from provider.exchange import EnclaveRequest  # noqa: E402
from provider.release import release  # noqa: E402
from ratls.address import Address  # noqa: E402
from ratls.bulk import BulkListener  # noqa: E402
from ratls.framing import Kind  # noqa: E402
from verifier.collateral import Collateral  # noqa: E402

CHUNK = 16_384  # rows, as in `plain`
QUOTES = 50


def now() -> datetime:
    return datetime.now(UTC)


def provider(desk: dict[str, Any]) -> LocalParty:
    return LocalParty.load(Path(desk["party"]), Path(desk["passphrase"]).read_bytes())


def request(desk: dict[str, Any], address: str) -> EnclaveRequest:
    """As the command `ratls provider push` makes it."""
    return EnclaveRequest(
        task=Path(desk["tasks"][0]).read_bytes(),
        address=Address.parse(address),
        collateral=Collateral.parse((Path(desk["intel"]) / "collateral.json").read_bytes()),
        party=provider(desk),
        state=Path(desk["state"]),
        allow_simulation=True,
        timeout=7200,
        clock=now,
    )


def whole(desk: dict[str, Any], address: str, source: Path) -> None:
    """Release a file. Keys and collateral are read in the time that is measured."""
    with measured() as answer:
        done = release(request(desk, address), desk["dataset"], source)
        answer["rows"] = done.commit.rows


def together(desk: dict[str, Any], address: str, source: Path) -> None:
    """The same, once all clients are there."""
    print("here", flush=True)
    sys.stdin.readline()
    whole(desk, address, source)


class Enough(Exception):
    """The enclave has proved itself, and nothing is to be sent."""


def first(desk: dict[str, Any], address: str, source: Path) -> None:
    """Seconds to the first row, and to the proof before it; in a process that did it before.

    One proof follows the other, as the connections of the other side do: after a whole release the
    caches are cold, which a connection then pays for.
    """
    own, dataset = request(desk, address), desk["dataset"]
    asked = [replace(own, task=Path(task).read_bytes()) for task in desk["tasks"]]
    proofs = [_proof(one, dataset) for one in asked]
    rows = [_first_row(one, dataset, source) for one in asked]
    with measured() as answer:
        answer["first"], answer["proof"] = (statistics.median(s[1:]) for s in (rows, proofs))
        answer["quote"] = _quote_seconds(desk)


def _proof(asked: EnclaveRequest, dataset: str) -> float:
    job, began = asked.check_task(), time.perf_counter()
    with suppress(Enough), asked.attested(job, Kind.RELEASE, dataset=dataset, release=bytes(16)):
        taken = time.perf_counter() - began
        raise Enough
    return taken


def _first_row(asked: EnclaveRequest, dataset: str, source: Path) -> float:
    taken: list[float] = []

    def progress(sent: int, total: int) -> None:
        if sent and not taken:
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    release(asked, dataset, source, progress=progress)
    return taken[0]


def _quote_seconds(desk: dict[str, Any]) -> float:
    """What the attester takes for the one quote of a challenge."""
    from simulation.attester import SimulatedAttester

    attester, taken = SimulatedAttester(Path(desk["intel"]) / "platform"), []
    for number in range(QUOTES):
        began = time.perf_counter()
        attester.quote(number.to_bytes(64, "big"))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def in_memory(desk: dict[str, Any], address: str, source: Path) -> None:
    """Batches that are there already, on a stream whose enclave has proved itself."""
    import pyarrow.parquet as pq

    table, asked = pq.read_table(source), request(desk, address)
    job = asked.check_task()
    with asked.attested(job, Kind.RELEASE, dataset=desk["dataset"]) as session, measured():
        session.exchange.begin(table.schema)
        for batch in table.to_batches(max_chunksize=CHUNK):
            session.exchange.send(batch)
        session.exchange.commit(b"commit")


def sealed(desk: dict[str, Any], address: str, source: Path) -> None:
    """The same, each batch sealed; beside TLS, where the policy says so."""
    import pyarrow.parquet as pq

    from tests.support.flight_peers import transcript

    table, asked = pq.read_table(source), request(desk, address)
    job, release = asked.check_task(), bytes(16)
    batches = table.to_batches(max_chunksize=CHUNK)
    with (
        asked.attested(job, Kind.RELEASE, dataset=desk["dataset"], release=release) as session,
        measured(),
    ):
        exchange, claims = session.exchange, session.exchange.fresh.claims
        made = transcript(claims.nonce, claims.instance, asked.task, release)
        exchange.open(made, bytes(32), Digest(bytes(32)))
        for number, batch in enumerate(batches, 1):
            exchange.send_sealed(batch.serialize(), batch.num_rows, last=number == len(batches))
        exchange.commit(b"commit")


def serve(desk: dict[str, Any]) -> None:
    """Prove, receive, drop: what `tests.support.flight_peers` serves, with a simulated quote."""
    from policy.agreement import Agreement
    from ratls.identity import EnclaveIdentity
    from ratls.pin import ChannelIdentity
    from ratls.plain_rows import Caps, PlainExchange
    from simulation.attester import SimulatedAttester
    from tests.support.flight_peers import Script, serving
    from tests.support.parties import ROOTS

    complete = Agreement.parse(Path(desk["agreement"]).read_bytes(), ROOTS).require_complete()
    channel = ChannelIdentity.of(provider(desk))
    attester = SimulatedAttester(Path(desk["intel"]) / "platform")
    identity = EnclaveIdentity.create(attester, complete.policy.digest, at=now())

    task = Task.read(Path(desk["tasks"][0]).read_bytes()).digest

    def prove(identity: EnclaveIdentity, nonce: bytes, _: bytes) -> bytes:
        key = b"" if script.plain else hashlib.sha256(script.sealing_key.public).digest()
        return identity.answer_challenge(Nonce(nonce), channel.spki_sha256, task, key)

    def drop(exchange: PlainExchange) -> None:
        for _ in exchange.batches(Caps(rows=10**12, bytes=1 << 50)):
            pass
        exchange.acknowledge(b"all")

    script = Script(identity, channel.spki_sha256, prove, after_evidence=drop)
    if complete.policy.transport.bulk == "sealed":
        script.after_evidence, script.plain, script.kept = None, False, False
        script.bulk = BulkListener(Address("127.0.0.1", 0))
        threading.Thread(target=_step, args=(script.bulk,), daemon=True).start()
    with serving(script, channel) as server:
        print(f"ready {server.address}", flush=True)
        signal.pause()


def _step(bulk: BulkListener) -> None:
    while bulk.step():
        pass


def main() -> None:
    what, desk, *rest = sys.argv[1], json.loads(Path(sys.argv[2]).read_bytes()), *sys.argv[3:]
    if what == "serve":
        serve(desk)
        return
    kinds = {
        "release": whole,
        "together": together,
        "first": first,
        "memory": in_memory,
        "sealed": sealed,
    }
    kinds[what](desk, rest[0], Path(rest[1]))


if __name__ == "__main__":
    main()
