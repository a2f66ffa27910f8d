"""A stream that lasts is challenged again, on the same RPC, before the next row leaves (D15).

An enclave that was good when the stream began may be known as bad a quarter of an hour later. The
clock is the provider's own, as an argument; it moves when a chunk has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from policy.admission import CollateralTooOld
from policy.agreement import PolicyExpired
from policy.document import digest_text
from policy.journal_entries import CommittedEntry, ReleasedEntry, ReservedEntry
from policy.state import PolicyRollback, StudyState
from policy.task import TaskExpired
from policy.values import Instance
from provider.release import release
from ratls.claims import InstanceChanged, NonceMismatch
from ratls.client_call import AnswerMissing
from ratls.errors import DeadlineExceeded
from ratls.identity import EnclaveIdentity
from ratls.sealing import SealingKey, SealingKeyChanged
from ratls.server_stream import ServerExchange
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.relay import Relay
from tests.support.waiting import given_time
from verifier.collateral import Collateral
from verifier.contents import Contents
from verifier.crl import CertificateRevoked
from verifier.errors import CollateralRolledBack, RatlsError
from verifier.marks import Marks, Subject

pytestmark = pytest.mark.slow

QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)


@dataclass
class Clock:
    """The provider's; each chunk that leaves takes its time."""

    step: timedelta = timedelta(0)
    now: datetime = NOW
    then: Callable[[], object] = lambda: None  # done as the first chunk has left

    def __call__(self) -> datetime:
        return self.now

    def chunk_left(self, rows: int, total: int | None) -> None:
        self.now += self.step
        done, self.then = self.then, lambda: None
        done()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The evidence that the enclave sends."""
    made: list[bytes] = []
    genuine = ServerExchange.send_evidence

    def send(self: ServerExchange, evidence: bytes, sealing_key: bytes = b"") -> None:
        made.append(evidence)
        genuine(self, evidence, sealing_key)

    monkeypatch.setattr(ServerExchange, "send_evidence", send)
    return made


@pytest.fixture
def many(alice: Desk) -> Desk:
    """Alice with rows of several chunks: about 9 MB."""
    alice.write(rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)]))
    return alice


def long_task(world: EnclaveWorld) -> bytes:
    """Valid for half a day."""
    return world.task(lifetime=timedelta(hours=12))


def push(desk: Desk, task: bytes, clock: Clock, **options: Any) -> Any:
    return desk.push(task, clock=clock, progress=clock.chunk_left, **options)


# The honest way.


def test_every_quarter_of_an_hour_on_the_same_rpc(
    world: EnclaveWorld, many: Desk, relay: Relay, proofs: list[bytes]
) -> None:
    clock = Clock(QUARTER)
    done = push(many, long_task(world), clock)
    assert done.commit.rows == 3000
    assert len(proofs) == done.commit.batches  # before each chunk but the first, and at the start
    assert len(set(proofs)) == len(proofs)  # each has its own nonce
    assert len(relay.connections) == 2  # the probe, and the one exchange
    assert [type(e) for e in many.journal] == [ReservedEntry, CommittedEntry, ReleasedEntry]


def test_not_before_a_quarter_of_an_hour(
    world: EnclaveWorld, many: Desk, proofs: list[bytes]
) -> None:
    assert push(many, long_task(world), Clock(timedelta(seconds=1))).commit.rows == 3000
    assert len(proofs) == 1


def test_after_so_many_mebibytes(proofs: list[bytes], tmp_path: Any) -> None:
    """Each chunk of this source is larger than one."""
    world = EnclaveWorld.create(transport="\n[transport]\nchallenge_mebibytes = 1\n")
    with world.running() as live:
        alice = Desk.of("alice", world, tmp_path, live.address)
        alice.write(rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)]))
        done = push(alice, long_task(world), Clock())
    sizes = done.sent.bytes >> 20
    assert 1 < len(proofs) <= min(sizes, done.commit.batches)


def test_each_stream_is_challenged_by_itself(
    world: EnclaveWorld, many: Desk, proofs: list[bytes]
) -> None:
    clock = Clock(QUARTER)
    request = many.request(long_task(world), clock=clock)
    done = release(request, many.dataset, many.path, streams=2, progress=clock.chunk_left)
    assert done.commit.rows == 3000
    assert len(proofs) >= done.commit.batches


# What is no longer valid at that moment.


def newer_policy(desk: Desk) -> None:
    first = desk.world.complete
    text = desk.world.consortium.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    second = desk.world.consortium.complete(text, before=first)
    StudyState(desk.state).accept(second.agreement, desk.party, NOW)


def newer_list(desk: Desk) -> None:
    """Another command of Alice's has fetched collateral meanwhile, which revokes this machine."""
    intel, platform = desk.world.intel.intel, desk.world.intel.platform

    def revoked(form: Any) -> Any:
        return replace(form, revoked=(platform.pck.serial,))

    raw = intel.collateral(platform, at=NOW, pck_crl=revoked)
    roots = intel.anchors()
    contents = Contents.authenticate(Collateral.parse(raw), roots)
    Marks(desk.state).advance(Subject(roots, contents.kind, early=False), contents)


def older(desk: Desk, age: timedelta = DAY) -> Collateral:
    intel, platform = desk.world.intel.intel, desk.world.intel.platform
    return Collateral.parse(intel.collateral(platform, at=NOW - age))


def test_a_newer_policy_was_accepted(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, proofs: list[bytes]
) -> None:
    clock = Clock(QUARTER)
    clock.then = lambda: newer_policy(many)
    with many.refuses(PolicyRollback):
        push(many, long_task(world), clock)
    assert "committed" not in [line["event"] for line in live.log]


def test_a_newer_list_was_seen(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, proofs: list[bytes]
) -> None:
    """T09: whoever goes on with the older one would not see what it revokes."""
    clock, task = Clock(QUARTER), long_task(world)
    clock.then = lambda: newer_list(many)
    with many.refuses(CollateralRolledBack):
        push(many, task, clock, collateral=older(many))
    assert "committed" not in [line["event"] for line in live.log]
    assert len(proofs) == 1  # it was not even asked
    intel, platform = world.intel.intel, world.intel.platform

    def revoked(form: Any) -> Any:
        return replace(form, revoked=(platform.pck.serial,))

    newest = Collateral.parse(intel.collateral(platform, at=NOW, pck_crl=revoked))
    with many.refuses(CertificateRevoked):
        push(many, task, Clock(), collateral=newest)


def test_an_older_bundle_of_which_nothing_newer_was_seen(
    world: EnclaveWorld, many: Desk, proofs: list[bytes]
) -> None:
    """The twin of the test above."""
    assert push(many, long_task(world), Clock(QUARTER), collateral=older(many)).commit.rows == 3000
    assert len(proofs) > 1


@pytest.mark.parametrize(
    ("step", "lifetime", "leaf"),
    [
        pytest.param(timedelta(days=31), timedelta(days=7), PolicyExpired, id="policy"),
        pytest.param(timedelta(hours=2), timedelta(hours=1), TaskExpired, id="task"),
    ],
)
def test_a_window_ended(
    world: EnclaveWorld,
    many: Desk,
    live: LiveEnclave,
    step: timedelta,
    lifetime: timedelta,
    leaf: type[RatlsError],
) -> None:
    with many.refuses(leaf):
        push(many, world.task(lifetime=lifetime), Clock(step))
    assert "committed" not in [line["event"] for line in live.log]


def test_collateral_has_become_too_old(proofs: list[bytes], tmp_path: Any) -> None:
    """It was 23 hours old when the stream began, and a day is agreed."""
    world = EnclaveWorld.create()
    text = world.consortium.policy_text(
        replace=[("max_collateral_age_days = 30", "max_collateral_age_days = 1")]
    )
    world = replace(world, complete=world.consortium.complete(text))
    aged = timedelta(hours=23)
    with world.running() as live:
        alice = Desk.of("alice", world, tmp_path, live.address)
        alice.write(rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)]))
        task = world.task(lifetime=timedelta(hours=12))
        with alice.refuses(CollateralTooOld, check="collateral-age"):
            push(alice, task, Clock(timedelta(hours=2)), collateral=older(alice, aged))
        assert push(alice, task, Clock(), collateral=older(alice, aged)).commit.rows == 3000


# What the enclave answers then.


@contextmanager
def answering_later(
    monkeypatch: pytest.MonkeyPatch, second: Callable[[ServerExchange, bytes, bytes], None]
) -> Iterator[None]:
    """The first answer of each call is honest; `second` gives the others."""
    genuine = ServerExchange.send_evidence
    proved: list[ServerExchange] = []

    def send(self: ServerExchange, evidence: bytes, sealing_key: bytes = b"") -> None:
        if any(known is self for known in proved):
            second(self, evidence, sealing_key)
        else:
            proved.append(self)
            genuine(self, evidence, sealing_key)

    with monkeypatch.context() as patched:
        patched.setattr(ServerExchange, "send_evidence", send)
        yield


def test_another_sealing_key(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows would be sealed to a key of which nobody knows any more that it is the enclave's."""
    other, genuine = SealingKey.make().public, ServerExchange.send_evidence
    prove = live.enclave.evidence
    nonces: list[Any] = []

    def noted(nonce: Any, *rest: Any) -> bytes:
        nonces.append((nonce, *rest[:2]))
        return prove(nonce, *rest)

    monkeypatch.setattr(live.enclave, "evidence", noted)

    def second(exchange: ServerExchange, evidence: bytes, key: bytes) -> None:
        genuine(exchange, prove(*nonces[-1], other), other)

    task = long_task(world)
    with answering_later(monkeypatch, second), many.refuses(SealingKeyChanged):
        push(many, task, Clock(QUARTER))
    assert "committed" not in [line["event"] for line in live.log]
    assert push(many, task, Clock(QUARTER)).commit.rows == 3000


def test_the_evidence_of_another_start(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D09: a clone with the same code and the same TLS key is another instance."""
    other = copy(live.enclave.identity)
    other._claims = replace(other._claims, instance=Instance(bytes(16)))
    genuine, answer = ServerExchange.send_evidence, EnclaveIdentity.answer_challenge
    asked: list[tuple[bytes, ...]] = []

    def noted(self: EnclaveIdentity, *args: bytes) -> bytes:
        asked.append(args)
        return answer(self, *args)

    monkeypatch.setattr(EnclaveIdentity, "answer_challenge", noted)

    def second(exchange: ServerExchange, evidence: bytes, key: bytes) -> None:
        genuine(exchange, answer(other, *asked[-1]), key)

    with (
        answering_later(monkeypatch, second),
        many.refuses(InstanceChanged, check="challenge-claims"),
    ):
        push(many, long_task(world), Clock(QUARTER))


def test_the_first_answer_again(
    world: EnclaveWorld, many: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B06: recorded evidence does not answer a new challenge."""
    genuine = ServerExchange.send_evidence
    first: list[bytes] = []

    def sent(self: ServerExchange, evidence: bytes, key: bytes = b"") -> None:
        first.append(evidence)
        genuine(self, first[0], key)

    monkeypatch.setattr(ServerExchange, "send_evidence", sent)
    with many.refuses(NonceMismatch, check="challenge-claims"):
        push(many, long_task(world), Clock(QUARTER))


def test_no_answer(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait for it, and the release ends with its deadline."""
    task = long_task(world)

    def silent(exchange: ServerExchange, evidence: bytes, key: bytes) -> None:
        return

    with answering_later(monkeypatch, silent), many.refuses(DeadlineExceeded):
        push(many, task, Clock(QUARTER), timeout=0.9)
    assert "committed" not in [line["event"] for line in live.log]
    given_time(
        lambda seconds: push(many, task, Clock(QUARTER), timeout=seconds), 4.0, DeadlineExceeded
    )


class Gone(Exception):
    """Stands for an enclave that dies."""


def test_the_end_of_the_stream_instead_of_an_answer(
    world: EnclaveWorld, many: Desk, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a connection that broke: tried again a few times, and then no more."""
    task, waits = long_task(world), []

    def ends(exchange: ServerExchange, evidence: bytes, key: bytes) -> None:
        monkeypatch.setattr(exchange, "_requests", iter(()))
        exchange._send(None)  # type: ignore[arg-type]

    clock = Clock(QUARTER)
    with answering_later(monkeypatch, ends), many.refuses(AnswerMissing):
        push(many, task, clock, pause=waits.append)
    assert waits == [0.2, 1.0, 5.0]
    assert "committed" not in [line["event"] for line in live.log]
    assert push(many, task, Clock(QUARTER)).commit.rows == 3000
