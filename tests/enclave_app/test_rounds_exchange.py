"""Rounds over a real channel: what counts, what is refused by its number, and what goes out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.rounds import (
    RoundBelowQuorum,
    RoundClosed,
    RoundNotOpen,
    UpdateDoubled,
    UpdateOfAnotherModel,
)
from enclave_app.rounds_aggregate import PART, UpdateMalformed
from enclave_app.rounds_exchange import UpdateOfAnotherExchange
from policy.envelope import SignerUnknown
from policy.round_receipt import UpdateScopeDiffers, require_chain
from policy.rounds import RoundsNotAgreed, RowsNotAsked
from policy.values import Digest
from ratls.client_stream import Result
from ratls.framing import Kind
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave
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


def test_late_early_and_doubled_updates_are_refused_by_number(rounds: Rounds) -> None:
    """R26: each before any of it is sent; the party's update of the open round counts."""
    assert rounds.bring(ALICE, 1, ONE) is None
    with refused_by_enclave(UpdateDoubled):
        rounds.bring(ALICE, 1, ONE * 9)
    for early in (0x7FFFFFFF, 3, 2):
        with refused_by_enclave(RoundNotOpen):
            rounds.bring(BOB, early, ONE)
    rounds.bring(BOB, 1, ONE)
    rounds.bring(DORA, 1, ONE)
    with refused_by_enclave(RoundClosed):
        rounds.bring(BOB, 1, ONE)
    np.testing.assert_allclose(numbers_of(rounds.ask(BOB)), ONE)
    assert rounds.bring(BOB, 2, ONE) is None


def test_what_was_signed_can_be_asked_about_again(rounds: Rounds) -> None:
    """The connection broke after the update: nothing is sent twice, and the answer is the same."""
    assert rounds.bring(ALICE, 1, ONE) is None
    assert rounds.bring(ALICE, 1, b"never sent", again=True) is None
    rounds.bring(BOB, 1, ONE)
    handed = rounds.bring(DORA, 1, ONE)
    again = rounds.bring(ALICE, 1, b"never sent", again=True)
    assert handed is not None
    assert again is not None
    assert again.plaintext == handed.plaintext


@pytest.mark.parametrize(
    "raw",
    [
        np.array([1, 2, 3, 4, np.nan], "<f4").tobytes(),
        np.array([1, 2, 3, np.inf, 5], "<f4").tobytes(),
        ONE[:4].tobytes(),
        np.append(ONE, 6).astype("<f4").tobytes(),
        b"12345",
    ],
    ids=["nan", "inf", "short", "long", "no-numbers"],
)
def test_an_update_of_another_shape_or_with_what_is_no_number(rounds: Rounds, raw: bytes) -> None:
    """Poisoning by NaN: nothing of it counts, and the party may send an honest one."""
    with refused_by_enclave(UpdateMalformed):
        rounds.bring(ALICE, 1, raw)
    assert rounds.bring(ALICE, 1, ONE) is None


def test_more_parts_than_a_model_has(rounds: Rounds) -> None:
    """They are not even kept: a party cannot fill the memory of the enclave."""
    with refused_by_enclave(UpdateMalformed):
        rounds.bring(ALICE, 1, bytes(PART + 8))
    assert rounds.bring(ALICE, 1, ONE) is None


def test_an_update_for_another_partys_input(rounds: Rounds) -> None:
    """I08, R26: Bob cannot count twice by naming Alice's dataset, whoever he says that he is."""
    with refused_by_enclave(ReleaseNotAuthorized):
        rounds.bring(BOB, 1, ONE, previous=Digest(bytes(32)), by=ALICE)
    with refused_by_enclave(UpdateScopeDiffers):
        rounds.bring(BOB, 1, ONE, provider=ALICE)
    with refused_by_enclave(SignerUnknown):
        rounds.bring(BOB, 1, ONE, provider=ALICE, dataset="train_party_1")
    assert rounds.bring(BOB, 1, ONE) is None


def test_a_party_that_the_policy_does_not_name_as_an_owner(rounds: Rounds) -> None:
    """Carol is a recipient: she has no part in the rounds, and receives the last model."""
    with refused_by_enclave(ReleaseNotAuthorized):
        rounds.bring("carol-lab", 1, ONE, previous=Digest(bytes(32)), by=ALICE)
    assert rounds.ask(ALICE).number == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_digest", b"t" * 32),
        ("instance", b"i" * 16),
        ("nonce", b"n" * 32),
        ("round", 2),
        ("tags_digest", b"p" * 32),
    ],
)
def test_what_was_signed_for_another_exchange(rounds: Rounds, field: str, value: object) -> None:
    """A host that carried a signed update elsewhere, or exchanged its numbers."""
    with refused_by_enclave(UpdateOfAnotherExchange):
        rounds.bring(ALICE, 1, ONE, **{field: value})
    assert rounds.bring(ALICE, 1, ONE) is None


def test_an_update_from_another_model(rounds: Rounds) -> None:
    with refused_by_enclave(UpdateOfAnotherModel):
        rounds.bring(ALICE, 1, ONE, previous=Digest(b"m" * 32))
    assert rounds.bring(ALICE, 1, ONE) is None


def test_an_update_signed_by_another_key(rounds: Rounds, agreed: EnclaveWorld) -> None:
    """Alice's channel key was stolen, her operation key was not."""
    bob = agreed.consortium.parties[BOB].operation
    with refused_by_enclave(SignerUnknown):
        rounds.bring(ALICE, 1, ONE, signer=bob)
    assert rounds.bring(ALICE, 1, ONE) is None


def test_rows_for_a_computation_that_takes_none(
    rounds: Rounds, enclave: LiveEnclave, agreed: EnclaveWorld
) -> None:
    """The owners agreed that their rows stay: not even an owner can send them by mistake."""
    alice = agreed.consortium.alice
    with (
        refused_by_enclave(RowsNotAsked),
        enclave.exchange(Kind.RELEASE, alice, task=rounds.task, dataset="train_party_1"),
    ):
        pass


def test_an_update_for_a_computation_that_takes_rows() -> None:
    world = EnclaveWorld.create()
    with (
        world.running(limits=AT_ONCE) as live,
        refused_by_enclave(RoundsNotAgreed),
        live.exchange(
            Kind.ROUND, world.consortium.alice, task=world.task(), dataset="train_party_1"
        ),
    ):
        pass


def test_below_the_quorum_at_the_deadline_by_the_enclaves_own_clock(agreed: EnclaveWorld) -> None:
    """R27: two of three came; nobody gets an answer, not even the recipient, and the host's log has
    no more than the numbers of rounds."""
    now = [1000.0]
    with agreed.running(limits=AT_ONCE, seconds=lambda: now[0]) as live:
        rounds = Rounds(live, asked(agreed))
        for name in (ALICE, BOB):
            assert rounds.bring(name, 1, ONE) is None
        now[0] += 59
        assert rounds.ask(DORA).open == 1
        now[0] += 1
        for name in (ALICE, DORA):
            with refused_by_enclave(RoundBelowQuorum):
                rounds.bring(name, 1, ONE, previous=Digest(bytes(32)))
        with refused_by_enclave(RoundBelowQuorum):
            live.collect(agreed.consortium.carol, rounds.task)


def test_no_number_of_an_update_or_a_model_is_logged(rounds: Rounds, enclave: LiveEnclave) -> None:
    """L01: kinds, parties and the numbers of rounds; nothing that depends on rows."""
    for name in (ALICE, BOB, DORA):
        rounds.bring(name, 1, ONE * np.float32(1.234567))
    lines = [line for line in enclave.log if line.get("event") in ("updated", "handed-out")]
    assert {key for line in lines for key in line} <= {
        "event", "level", "timestamp", "id", "party", "dataset", "task_digest", "round",
    }  # fmt: skip
    assert "1.2345" not in enclave.stream.getvalue()


def test_the_challenge_is_new_in_each_round(rounds: Rounds) -> None:
    """Each receipt has the nonce and the evidence of the exchange that it came in."""
    for name in (ALICE, BOB):
        rounds.bring(name, 1, ONE)
    first = receipts_of(rounds.bring(DORA, 1, ONE) or pytest.fail("closed"))
    again = receipts_of(rounds.ask(DORA))
    assert first[0].nonce != again[0].nonce
    assert first[0].evidence != again[0].evidence
    assert (first[0].round, first[0].model) == (again[0].round, again[0].model)


def test_rounds_where_rows_would_travel_beside_tls() -> None:
    """Updates are small: they come on the attested stream, whatever is agreed for rows."""
    world = round_world(rounds="1", transport='[transport]\nbulk = "sealed"\n\n')
    with world.running(limits=AT_ONCE) as live:
        rounds = Rounds(live, asked(world))
        for name in (ALICE, BOB):
            assert rounds.bring(name, 1, ONE) is None
        assert rounds.bring(DORA, 1, ONE) is not None
