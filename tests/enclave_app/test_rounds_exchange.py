"""Rounds over a real channel: what counts, what is refused by its number, and what goes out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from policy.round_receipt import require_chain
from ratls.client_stream import Result
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.rounds import (
    AT_ONCE,
    Rounds,
    asked,
    digest_of,
    numbers_of,
    receipts_of,
    round_world,
)

ALICE, BOB, DORA = "alice-clinic", "bob-hospital", "dora-clinic"
ONE = np.array([1, 2, 3, 4, 5], np.float32)


@pytest.fixture(scope="module")
def agreed() -> EnclaveWorld:
    return round_world()


@pytest.fixture(scope="module")
def enclave(agreed: EnclaveWorld) -> Iterator[LiveEnclave]:
    with agreed.running(limits=AT_ONCE) as live:
        yield live


@pytest.fixture
def rounds(agreed: EnclaveWorld, enclave: LiveEnclave) -> Rounds:
    return Rounds(enclave, asked(agreed))


def test_two_rounds_of_three_parties(rounds: Rounds, enclave: LiveEnclave) -> None:
    """The model moves by the mean, every party has the receipts, and Carol gets the last model."""
    for number in (1, 2):
        for name in (ALICE, BOB):
            assert rounds.bring(name, number, ONE * number) is None
        handed = rounds.bring(DORA, number, ONE * number * 4)
        assert handed is not None
    np.testing.assert_allclose(numbers_of(handed), ONE * 6)
    assert (handed.number, handed.open) == (2, 3)
    receipts = receipts_of(rounds.ask(ALICE))
    require_chain(receipts, rounds.policy)
    assert [p.provider for p in receipts[0].participants] == [ALICE, BOB, DORA]
    assert receipts[1].model == digest_of(rounds.series, handed)
    carol = enclave.world.consortium.carol
    result = enclave.collect(carol, rounds.task)
    assert isinstance(result, Result)
    told = json.loads(enclave.opened(carol, rounds.task, result))["model"]
    assert told["tensors"] == [
        {"name": "w", "shape": [2, 2], "values": [6.0, 12.0, 18.0, 24.0]},
        {"name": "b", "shape": [1], "values": [30.0]},
    ]
