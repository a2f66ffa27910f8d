"""Which round is open, whose update counts, and how a series ends: by number and by clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from enclave_app.limits import Limits, MemoryBudget, MemoryExhausted
from enclave_app.rounds import (
    RoundBelowQuorum,
    RoundClosed,
    RoundFailed,
    RoundNotOpen,
    Rounds,
    Running,
    UpdateDoubled,
    UpdateOfAnotherModel,
)
from enclave_app.session import TasksExhausted, Ticket
from policy.round_receipt import Participant
from policy.rounds import Series, Tensor
from policy.values import Digest
from tests.support.enclave import NOW
from tests.support.refusal import refused
from tests.support.rounds import made_series
from verifier.files import MEBIBYTE

ONE = np.ones(3, np.float32)


def series(**changed: Any) -> Series:
    made: dict[str, Any] = {
        "inputs": tuple("abcd"),
        "tensors": (Tensor("v", (3,)),),
        "clip_norm": 100.0,
    }
    return made_series(**made | changed)


def ticket(number: int = 1) -> Ticket:
    digest = Digest(bytes([number]) * 32)
    return Ticket(digest, ("a", "b", "c", "d"), "carol", NOW + timedelta(hours=1), frozenset("ab"))


def running(**changed: Any) -> Running:
    return Running(ticket(), series(**changed), MemoryBudget(MEBIBYTE, MEBIBYTE), 0.0)


def bring(
    one: Running, who: str, number: int = 1, now: float = 1.0, previous: Digest | None = None
) -> None:
    signed = Digest(who.encode() * 32)
    named = Participant(dataset=who, provider=f"owner-{who}", update_digest=signed)
    model = one._model.digest if previous is None else previous
    one.count(named, number, model, ONE, now)


def test_a_round_closes_with_the_last_party() -> None:
    one = running()
    for who in "abcd":
        bring(one, who)
    model, now_open = one.standing(1.0)
    assert (model.number, now_open) == (1, 2)
    np.testing.assert_array_equal(model.numbers, ONE)
    (closed,) = one.closed(0, 1)
    assert [p.dataset for p in closed.participants] == list("abcd")
    assert closed.model == model.digest != closed.previous


def test_a_party_that_drops_out_is_not_waited_for_beyond_the_deadline() -> None:
    """At its deadline a round closes with the updates of the quorum, and the next one begins."""
    one = running()
    for who in "cab":
        bring(one, who)
    assert one.standing(9.9)[1] == 1
    assert one.standing(10.0)[1] == 2
    assert [p.dataset for p in one.closed(0, 1)[0].participants] == list("abc")
    for who in "abcd":  # it is back
        bring(one, who, 2, 19.9, one._model.digest)
    assert one.finished


def test_a_round_below_its_quorum_ends_without_an_answer() -> None:
    """R27. And gives all memory back; whoever asks is told, and nothing was joined."""
    one = running()
    free = one._memory.free
    for who in "ab":
        bring(one, who)
    assert one._memory.free < free
    one.sweep(10.0)
    assert one._memory.free == free
    for ask in (
        lambda: one.standing(10.0),
        lambda: one.due("c", 1, None, 10.0),
        lambda: one.outcome(10.0, lambda model: pytest.fail("there is none")),
        lambda: one.wait(1, 0, lambda: 10.0),
    ):
        with refused(RoundBelowQuorum):
            ask()


def test_an_update_of_a_round_that_is_over_or_not_yet_there() -> None:
    """By its number alone, before any of it is taken in; the open round takes it."""
    one = running()
    for who in "abcd":
        bring(one, who)
    with refused(RoundClosed):
        one.due("a", 1, None, 2.0)
    for early in (3, 4, 0, -1):
        with refused(RoundNotOpen):
            one.due("a", early, None, 2.0)
    assert one.due("a", 2, None, 2.0)
    for who in "abcd":
        bring(one, who, 2, 2.0)
    with refused(RoundNotOpen):  # all rounds are over
        one.due("a", 3, None, 2.0)


def test_a_second_update_of_one_party_in_one_round() -> None:
    """The first counts. Who asks about the one that it signed is not refused, and sends nothing."""
    one = running()
    bring(one, "a")
    with refused(UpdateDoubled):
        bring(one, "a")
    with refused(UpdateDoubled):
        one.due("a", 1, Digest(b"x" * 32), 1.0)
    assert one.due("a", 1, Digest(b"a" * 32), 1.0) is False
    assert one.due("b", 1, None, 1.0)
    for who in "bcd":
        bring(one, who)
    assert one.due("a", 1, Digest(b"a" * 32), 1.0) is False, "the answer was lost on the way"
    with refused(RoundClosed):
        one.due("a", 1, Digest(b"x" * 32), 1.0)


def test_an_update_that_was_trained_from_another_model() -> None:
    """It would move the joint model away from where the party thinks that it is."""
    one = running()
    with refused(UpdateOfAnotherModel):
        bring(one, "a", previous=Digest(bytes(32)))
    bring(one, "a")


def test_joining_that_fails_ends_the_series_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from enclave_app import rounds

    one = running()

    def exhausted(*arguments: object) -> object:
        raise MemoryError

    monkeypatch.setattr(rounds, "aggregated", exhausted)
    for who in "abc":
        bring(one, who)
    with pytest.raises(MemoryError):
        bring(one, "d")
    with refused(RoundFailed):
        one.standing(1.0)


def test_the_answer_is_made_once() -> None:
    one, made = running(rounds=1), []
    from enclave_app.session import Released

    def release(model: Any) -> Released:
        made.append(model.number)
        return Released({"carol": b"sealed"})

    assert one.outcome(1.0, release) is None
    for who in "abcd":
        bring(one, who)
    first, again = one.outcome(1.0, release), one.outcome(2.0, release)
    assert first is again
    assert first is not None
    assert [*first.commits] == list("abcd")
    assert made == [1]


def test_a_party_that_waits_is_woken_when_the_round_closes() -> None:
    one = running()
    for who in "abc":
        bring(one, who)
    looks = []

    def now() -> float:
        looks.append(1)
        if len(looks) == 2:
            bring(one, "d")
        return 1.0

    assert one.wait(1, 1.0, now)
    assert running().wait(1, 0, lambda: 1.0) is False


def test_models_of_two_series_have_different_digests() -> None:
    """Both start with zeros: without a salt, whoever has a digest could try what it is of."""
    assert running()._model.digest != running()._model.digest


# All series of an enclave.


def test_open_series_are_limited_and_forgotten_when_their_task_has_expired() -> None:
    memory = MemoryBudget(MEBIBYTE, MEBIBYTE)
    rounds = Rounds(Limits(tasks=2), memory)
    one = rounds.open(ticket(1), series(), NOW, 0.0)
    assert rounds.open(ticket(1), series(), NOW, 5.0) is one
    rounds.open(ticket(2), series(), NOW, 0.0)
    with refused(TasksExhausted):
        rounds.open(ticket(3), series(), NOW, 0.0)
    bring(one, "a")
    rounds.sweep(NOW + timedelta(hours=1), 0.0)
    assert rounds.find(ticket(1)) is None
    assert memory.free == MEBIBYTE
    rounds.open(ticket(3), series(), NOW, 0.0)


def test_a_withdrawal_ends_the_series_with_that_party() -> None:
    memory = MemoryBudget(MEBIBYTE, MEBIBYTE)
    rounds = Rounds(Limits(), memory)
    one = rounds.open(ticket(1), series(), NOW, 0.0)
    bring(one, "b")
    rounds.end_tasks(lambda t: "z" in t.parties)
    assert rounds.find(ticket(1)) is one
    rounds.end_tasks(lambda t: "a" in t.parties)
    assert rounds.find(ticket(1)) is None
    assert memory.free == MEBIBYTE
    with refused(RoundFailed):
        one.standing(1.0)


def test_updates_count_against_the_memory_of_the_party_that_sent_them() -> None:
    memory = MemoryBudget(MEBIBYTE, 4 * 3)
    one = Running(ticket(), series(), memory, 0.0)
    memory.take("owner-a", 4 * 3)
    with refused(MemoryExhausted):
        bring(one, "a")
    bring(one, "b")
    memory.give("owner-a", 4 * 3)
    bring(one, "a")
