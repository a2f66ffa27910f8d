"""A running enclave for tests: three parties, an Intel, and a Flight server in this process.

    world = EnclaveWorld.create()
    with world.running() as live:                 # 127.0.0.1, a free port
        task = world.task()                       # signed by Carol
        live.release(world.consortium.alice, "train_party_1", rows(1), task)
        live.collect(world.consortium.carol, task)

Everything is judged at the real time, because TLS does so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before pyarrow can load gRPC

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from enclave_app.application import Enclave  # noqa: E402
from enclave_app.limits import Budgets, Limits  # noqa: E402
from enclave_app.server import EnclaveServer, start_server  # noqa: E402
from policy.agreement import CompleteAgreement  # noqa: E402
from policy.commit import Commit  # noqa: E402
from policy.document import Policy  # noqa: E402
from policy.party import LocalParty  # noqa: E402
from policy.rows import arrow_schema, schema_digest  # noqa: E402
from policy.seal import is_denial, open_result, result_info  # noqa: E402
from policy.task import Task  # noqa: E402
from policy.values import Digest  # noqa: E402
from policy.withdrawal import Withdrawal  # noqa: E402
from ratls.address import Address  # noqa: E402
from ratls.appraise import AdmittedCertificate, Expectation, appraise_certificate  # noqa: E402
from ratls.claims import NO_TASK  # noqa: E402
from ratls.client_stream import ClientExchange, Kept, Pending, Result, open_exchange  # noqa: E402
from ratls.framing import Kind, RowDigest, message_digest, without_metadata  # noqa: E402
from ratls.identity import EnclaveIdentity  # noqa: E402
from ratls.log import open_log  # noqa: E402
from ratls.peer_refusal import PeerRefused  # noqa: E402
from ratls.pin import ChannelIdentity  # noqa: E402
from ratls.sealing import Transcript, tags_digest  # noqa: E402
from simulation.intel import root_name  # noqa: E402
from tests.support.channels import Log  # noqa: E402
from tests.support.flight_peers import PlatformAttester  # noqa: E402
from tests.support.intel import World  # noqa: E402
from tests.support.parties import Consortium  # noqa: E402
from tests.support.refusal import refused  # noqa: E402
from tests.support.waiting import HANG_LIMIT  # noqa: E402
from verifier.collateral import Collateral  # noqa: E402
from verifier.errors import RatlsError  # noqa: E402

NOW = datetime.now(UTC).replace(microsecond=0)
MR_ENCLAVE = bytes(range(32))


def room(held: int, of_a_party: int) -> Budgets:
    """Budgets of so many bytes, of memory and for one task alike."""
    return Budgets(Limits(held_bytes=held, party_bytes=of_a_party))


def rows(seed: int, count: int = 60, **columns: Any) -> pa.Table:
    """Rows in the consortium's default schema: patient, age, bmi, y. `columns` replace some."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20, 90, count)
    bmi = rng.normal(27, 4, count)
    ill = (age / 10 + bmi / 3 + rng.normal(0, 2, count) > 14.5).astype(np.int64)
    names = [f"patient-{seed}-{i:05d}" for i in range(count)]
    table = pa.table({"patient": names, "age": age, "bmi": bmi, "y": ill, **columns})
    return table.cast(pa.schema([f.with_nullable(False) for f in table.schema]))


@dataclass
class EnclaveWorld:
    """Parties that agreed on an enclave, and the machine that it runs on."""

    consortium: Consortium
    intel: World
    attester: PlatformAttester
    complete: CompleteAgreement

    @classmethod
    def create(cls, at: datetime = NOW, **overrides: Any) -> EnclaveWorld:
        """`overrides` go to `Consortium.policy_text`."""
        intel = World.create(at)
        consortium = Consortium.create(
            at,
            root=root_name(intel.intel.root),
            mr_enclave=MR_ENCLAVE.hex(),
            machines=[f"ppid:{intel.platform.tcb.ppid.hex()}"],
        )
        complete = consortium.complete(consortium.policy_text(**overrides))
        attester = PlatformAttester(intel.platform, mr_enclave=MR_ENCLAVE, isv_prod_id=0)
        return cls(consortium, intel, attester, complete)

    @property
    def policy(self) -> Policy:
        return self.complete.policy

    def identity(self) -> EnclaveIdentity:
        """A start of the enclave, for services other than its own."""
        return EnclaveIdentity.create(self.attester, self.policy.digest, at=NOW)

    @property
    def collateral(self) -> bytes:
        """The bundle, as a file holds it."""
        return self.intel.intel.collateral(self.intel.platform)

    @property
    def expectation(self) -> Expectation:
        """What every party expects of the enclave."""
        return Expectation(
            self.policy, Collateral.parse(self.collateral), self.intel.intel.anchors()
        )

    def task(self, **options: Any) -> bytes:
        """A task signed by Carol; options of `Task.new`."""
        made: dict[str, Any] = {"at": NOW, "parameters": {"max_iter": 500}, **options}
        task = Task.new(self.policy, "train", "carol-lab", **made)
        return task.seal(self.consortium.carol.operation)

    def channel(self, party: LocalParty) -> ChannelIdentity:
        """How a party shows itself."""
        return ChannelIdentity.of(party)

    @contextmanager
    def running(
        self,
        *,
        limits: Limits | None = None,
        seconds: Callable[[], float] | None = None,
        clock: Callable[[], datetime] | None = None,
        port: int = 0,
    ) -> Iterator[LiveEnclave]:
        """A server until the block ends. `seconds` and `clock` replace its clocks."""
        stream = Log()
        log = open_log(stream)
        limits = limits or Limits(buckets=(0.01,))  # a second for each outcome would be long
        clocks = {"seconds": seconds, "clock": clock}
        options: dict[str, Any] = {n: c for n, c in clocks.items() if c is not None}
        enclave = Enclave.start(self.complete, self.attester, log=log, limits=limits, **options)
        server = start_server(enclave, Address("127.0.0.1", port), log)
        try:
            yield LiveEnclave(self, enclave, server, stream)
        finally:
            server.stop()
            enclave.stop()


@dataclass(frozen=True)
class NoResult:
    """A sealed outcome without a result, opened."""

    code: str


@dataclass
class LiveEnclave:
    """A server in this process, and short ways to talk to it."""

    world: EnclaveWorld
    enclave: Enclave
    server: EnclaveServer
    stream: Log
    salt: bytes = field(default_factory=lambda: os.urandom(32))
    releases: dict[str, bytes] = field(default_factory=dict)  # the newest name, by dataset

    @property
    def address(self) -> Address:
        return Address.parse(self.server.address)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the enclave has logged so far."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def admitted(self) -> AdmittedCertificate:
        """The enclave's certificate, appraised."""
        der = self.enclave.identity.certificate_der
        return appraise_certificate(der, self.world.expectation, at=NOW)

    def exchange(
        self,
        kind: Kind,
        party: LocalParty,
        *,
        task: bytes = b"",
        dataset: str = "",
        release: bytes | None = None,
        timeout: float = HANG_LIMIT,
    ) -> AbstractContextManager[ClientExchange]:
        """An exchange of a party, challenged and appraised; `release` is a new one by default."""
        if release is None:
            release = os.urandom(16) if kind is Kind.RELEASE else b""
        self.releases[dataset] = release
        try:
            read = Withdrawal.digest_of if kind is Kind.WITHDRAW else _task_digest
            digest = read(task) if task else NO_TASK
        except RatlsError:  # a test that sends no task at all still needs some digest
            digest = NO_TASK
        return open_exchange(
            kind,
            self.address,
            self.admitted,
            self.world.channel(party),
            task=task,
            task_digest=digest,
            dataset=dataset,
            expectation=self.world.expectation,
            clock=lambda: datetime.now(UTC),
            timeout=timeout,
            release=release,
        )

    def open(
        self,
        exchange: ClientExchange,
        party: LocalParty,
        dataset: str,
        task: bytes,
        /,
        **fields: Any,
    ) -> Kept:
        """Agree the key of a stream; `fields` replace those of the transcript."""
        declared = self.world.policy.dataset_by_id(dataset)
        assert declared is not None
        made: dict[str, Any] = {
            "policy_digest": self.world.policy.digest,
            "task_digest": Task.read(task).digest,
            "nonce": exchange.fresh.claims.nonce,
            "instance": exchange.fresh.claims.instance,
            "dataset": dataset,
            "provider": party.party_id,
            "release": self.releases[dataset],
            "stream": 0,
            "streams": 1,
        }
        return exchange.open(Transcript(**made | fields), self.salt, schema_digest(declared))

    def send(
        self,
        exchange: ClientExchange,
        party: LocalParty,
        dataset: str,
        batches: list[pa.RecordBatch],
        task: bytes,
        /,
    ) -> list[pa.RecordBatch]:
        """Agree the key, and send these batches, sealed; the batches."""
        self.open(exchange, party, dataset, task)
        plain = [
            pa.RecordBatch.from_arrays(b.columns, schema=without_metadata(b.schema))
            for b in batches
        ]
        for place, batch in enumerate(plain, 1):
            exchange.send_sealed(batch.serialize(), batch.num_rows, last=place == len(plain))
        return plain

    def commit(
        self,
        exchange: ClientExchange,
        party: LocalParty,
        dataset: str,
        sent: list[pa.RecordBatch],
        task: bytes,
        /,
        **fields: Any,
    ) -> bytes:
        """An honest signed commit to these batches; `fields` replace those of the document."""
        declared = self.world.policy.dataset_by_id(dataset)
        assert declared is not None
        digest = RowDigest(self.salt, schema_digest(declared))
        for number, batch in enumerate(sent):
            digest.add(number, batch.num_rows, message_digest(batch.serialize()))
        made: dict[str, Any] = {
            "task_digest": Task.read(task).digest,
            "policy_digest": self.world.policy.digest,
            "instance": exchange.fresh.claims.instance,
            "nonce": exchange.fresh.claims.nonce,
            "dataset": dataset,
            "provider": party.party_id,
            "schema_digest": schema_digest(declared),
            "rows": sum(batch.num_rows for batch in sent),
            "batches": len(sent),
            "tags_digest": tags_digest([exchange.sealed()]),
            "salted_digest": digest.digest(),
            "journal_head": bytes(32),
        }
        return Commit(**made | fields).seal(party.operation)

    def release(
        self,
        party: LocalParty,
        dataset: str,
        table: pa.Table,
        task: bytes,
        /,
        *,
        chunk: int = 25,
        **fields: Any,
    ) -> bytes:
        """Release a table as an honest provider would; the acknowledgement."""
        with self.exchange(Kind.RELEASE, party, task=task, dataset=dataset) as exchange:
            batches = table.to_batches(max_chunksize=chunk)
            sent = self.send(exchange, party, dataset, batches, task)
            return exchange.commit(self.commit(exchange, party, dataset, sent, task, **fields))

    def compute_at_once(self) -> None:
        """From now on the last commit is acknowledged after its computation, in one thread; and
        time alone changes nothing but by `enclave.sweep()`."""
        self.enclave.stop()
        workers = self.enclave._workers
        workers.submit = lambda owner, job: job()  # type: ignore[method-assign]

    def collect(self, party: LocalParty, task: bytes) -> Result | Pending:
        """Ask once for the result."""
        with self.exchange(Kind.COLLECT, party, task=task) as exchange:
            return exchange.collect()

    def wait(self, party: LocalParty, task: bytes) -> Result | NoResult:
        """Ask until there is an outcome; every input must have been released."""
        while True:
            answer = self.collect(party, task)
            if isinstance(answer, Result):
                plaintext = self.opened(party, task, answer)
                return NoResult(json.loads(plaintext)["code"]) if is_denial(plaintext) else answer
            assert answer.missing == ()

    def opened(self, party: LocalParty, task: bytes, result: Result) -> bytes:
        """What the recipient reads."""
        info = result_info(Task.read(task).digest, self.world.policy.digest, party.party_id)
        return open_result(result.ciphertext, party.encryption, info)


def _task_digest(raw: bytes) -> Digest:
    return Task.read(raw).digest


def declared_schema(world: EnclaveWorld, dataset: str = "train_party_1") -> pa.Schema:
    """The Arrow schema of a dataset of the world's policy."""
    declared = world.policy.dataset_by_id(dataset)
    assert declared is not None
    return arrow_schema(declared)


@contextmanager
def refused_by_enclave(leaf: type[RatlsError]) -> Iterator[None]:
    """The enclave must refuse with exactly this leaf's code, and say nothing else."""
    with refused(PeerRefused) as seen:
        yield
    refusal = seen.error
    assert isinstance(refusal, PeerRefused)
    assert refusal.peer_code == leaf.code
    told = refusal.__cause__.details()  # type: ignore[union-attr]
    assert told == f"refused: {leaf.code} ({refusal.correlation_id})"
    assert "Traceback" not in told
    assert ".py" not in told
