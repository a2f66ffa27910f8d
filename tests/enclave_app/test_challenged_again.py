"""A provider may challenge the enclave again between chunks, and not without end (F10)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from enclave_app.limits import Limits
from enclave_app.receive import ExchangeTooLong
from policy.task import TaskExpired
from ratls.framing import Kind
from tests.support.enclave import NOW, EnclaveWorld, refused_by_enclave, rows

ONE = "train_party_1"
LIMITS = Limits(exchange_seconds=60.0, silent_seconds=3600.0, buckets=(0.01,))


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@dataclass
class Clocks:
    """Of the enclave."""

    passed: timedelta = timedelta(0)

    def seconds(self) -> float:
        return 1000.0 + self.passed.total_seconds()

    def now(self) -> datetime:
        return NOW + self.passed


def test_each_challenge_is_answered_afresh(world: EnclaveWorld) -> None:
    alice, task = world.consortium.alice, world.task()
    with (
        world.running(limits=LIMITS) as live,
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        live.open(exchange, alice, ONE, task)
        batches = rows(1).to_batches(max_chunksize=30)
        proofs = [exchange.fresh.raw]
        for number, batch in enumerate(batches):
            exchange.send_sealed(batch.serialize(), batch.num_rows, last=number == 1)
            proofs.append(exchange.challenge_again().raw)
        assert len(set(proofs)) == 3
        # The commit names the first nonce: it is that of the exchange.
        assert exchange.commit(live.commit(exchange, alice, ONE, batches, task))


@pytest.mark.parametrize(
    ("passes", "leaf"),
    [
        pytest.param(timedelta(seconds=61), ExchangeTooLong, id="its-time-is-over"),
        pytest.param(timedelta(hours=2), TaskExpired, id="the-task-expired"),
    ],
)
def test_challenges_that_keep_a_release_open(
    world: EnclaveWorld, passes: timedelta, leaf: type[ExchangeTooLong | TaskExpired]
) -> None:
    """Each costs a quote: they end with the time that chunks have, too."""
    clocks, alice, task = Clocks(), world.consortium.alice, world.task()
    limits = Limits(exchange_seconds=60.0, silent_seconds=36000.0, buckets=(0.01,))
    with world.running(limits=limits, seconds=clocks.seconds, clock=clocks.now) as live:
        with (
            refused_by_enclave(leaf),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
        ):
            live.open(exchange, alice, ONE, task)
            for _ in range(3):
                exchange.challenge_again()
            clocks.passed = passes
            exchange.challenge_again()
        clocks.passed = timedelta(0)
        assert live.release(alice, ONE, rows(1), task)
