"""One of five parties wants the joint model to be another: what it reaches, before and after.

It follows every rule of the protocol and lies about what its training found. Four honest owners
train a model of one boundary; the fifth pushes it over, with an update of any size. R25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enclave_app.rounds_aggregate import UpdateMalformed, aggregated
from policy.rounds import Series, Tensor, series_text
from tests.support.enclave import refused_by_enclave
from tests.support.refusal import count_refusal
from tests.support.rounds import AT_ONCE, Rounds, asked, numbers_of, round_world

Numbers = npt.NDArray[np.float32]
TRUE = np.array([3.0, -2.0, 1.0, 0.0], np.float32)  # three features and a bias
PARTIES, HONEST, ROUNDS = 5, 4, 30


def rows(seed: int, count: int = 300) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    random = np.random.default_rng(seed)
    matrix = np.column_stack([random.normal(0, 1, (count, 3)), np.ones(count)])
    return matrix, (matrix @ TRUE + random.logistic(0, 0.3, count) > 0).astype(np.float64)


TEST = rows(99, 2000)


def step(model: Numbers, seed: int) -> Numbers:
    """An honest owner's update: some steps downhill over its own rows."""
    matrix, ill = rows(seed)
    here = model.astype(np.float64)
    for _ in range(5):
        here -= 0.5 * matrix.T @ (np.exp(-np.logaddexp(0, -matrix @ here)) - ill) / len(ill)
    return (here - model).astype(np.float32)


def accuracy(model: Numbers) -> float:
    matrix, ill = TEST
    return float(np.mean((matrix @ model > 0) == ill))


def series(aggregator: str, clip_norm: float) -> Series:
    return Series(
        computation="train", inputs=tuple("abcde"), model="vector",
        tensors=(Tensor("v", (4,)),), rounds=ROUNDS, quorum=3, seconds=60, aggregator=aggregator,
        clip_norm=clip_norm, weights=(1.0,) * PARTIES, digits=6, trim=1,
    )  # fmt: skip


def trained(agreed: Series, attack: Callable[[Numbers, int], Numbers] | None) -> float:
    """Accuracy of the joint model after all rounds; `attack` makes the fifth party's update."""
    model = np.zeros(4, np.float32)
    for number in range(ROUNDS):
        updates = {name: step(model, seed) for seed, name in enumerate("abcd")}
        updates["e"] = step(model, 4) if attack is None else attack(model, number)
        model = aggregated(agreed, model, updates)
    return accuracy(model)


def reversed_and_huge(model: Numbers, number: int) -> Numbers:
    """Everything that the others learn, backwards, a thousand times."""
    return -1000 * step(model, 4)


def once(model: Numbers, number: int) -> Numbers:
    """Honest until the last round: nothing is left to make good for it."""
    return -1e6 * TRUE if number == ROUNDS - 1 else step(model, 4)


def within_the_norm(model: Numbers, number: int) -> Numbers:
    """As far the wrong way as is agreed to be cut to: cutting alone does not notice it."""
    return -TRUE / np.linalg.norm(TRUE).astype(np.float32)


UNCUT, CUT = 1e6, 1.0
ATTACKS = [reversed_and_huge, once, within_the_norm]


def test_honest_parties_learn_the_boundary_whatever_was_agreed() -> None:
    """The twin: no rule costs an honest model more than half a point."""
    best = trained(series("fedavg", UNCUT), None)
    assert best > 0.94
    for aggregator in ("fedavg", "trimmed_mean", "median"):
        assert trained(series(aggregator, CUT), None) > best - 0.005


@pytest.mark.parametrize("attack", [reversed_and_huge, once])
def test_before_one_party_of_five_decides_what_the_model_says(
    attack: Callable[[Numbers, int], Numbers],
) -> None:
    """A mean without a norm that binds: worse than guessing."""
    assert trained(series("fedavg", UNCUT), attack) < 0.5


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("aggregator", ["trimmed_mean", "median"])
def test_after_ranks_leave_out_what_stands_apart(
    attack: Callable[[Numbers, int], Numbers], aggregator: str
) -> None:
    """Of any size: with the same four honest parties the model stays within two points."""
    count_refusal()
    honest = trained(series("fedavg", UNCUT), None)
    assert trained(series(aggregator, UNCUT), attack) > honest - 0.02
    assert trained(series(aggregator, CUT), attack) > honest - 0.02


@pytest.mark.parametrize("attack", ATTACKS)
def test_after_a_norm_alone_bounds_the_harm(attack: Callable[[Numbers, int], Numbers]) -> None:
    """The mean of updates that are cut: the model still says the right thing."""
    count_refusal()
    assert trained(series("fedavg", CUT), attack) > 0.9


def test_one_party_moves_the_model_no_further_than_agreed() -> None:
    """However long its update is, in any direction, from any model."""
    count_refusal()
    random = np.random.default_rng(2)
    model = random.normal(0, 1, 4).astype(np.float32)
    others = {name: np.zeros(4, np.float32) for name in "abcd"}
    for length in (1e-3, 1.0, 1e10, 3e38):
        poison = (length * np.array([1, -1, 1, 1]) / 2).astype(np.float32)
        moved = aggregated(series("fedavg", 0.5), model, others | {"e": poison}) - model
        assert np.linalg.norm(moved) <= 0.5 / PARTIES * (1 + 1e-4)


@pytest.mark.parametrize("aggregator", ["fedavg", "median"])
def test_all_others_together_have_the_last_update(aggregator: str) -> None:
    """What nobody can prevent without noise is said to whoever signs. Of two honest parties a mean
    tells what both add up to; a median, among three who act together, numbers of one or the other.
    """
    model, secret = np.zeros(4, np.float32), step(np.zeros(4, np.float32), 4)
    far = np.full(4, 10.0, np.float32)
    theirs = {"a": far, "b": far, "c": -far, "d": -far}
    seen = aggregated(series(aggregator, UNCUT), model, theirs | {"e": secret})
    found = seen * PARTIES if aggregator == "fedavg" else seen  # their own add up to nothing
    assert np.abs(found - secret).max() < 1e-4
    other = step(model, 3)
    seen = aggregated(series(aggregator, UNCUT), model, theirs | {"d": other, "e": secret})
    told = (other + secret + far) / PARTIES if aggregator == "fedavg" else np.maximum(other, secret)
    assert np.abs(seen - told).max() < 1e-4
    text = round_world(quorum="3").policy.computation[0]
    assert "2 or more) act together" in series_text(text)


def test_over_the_channel_an_update_is_cut_inside() -> None:
    """Not by the party's own program: whoever wrote another one gains nothing by it."""
    world = round_world(clip_norm="1.0")
    with world.running(limits=AT_ONCE) as live:
        rounds = Rounds(live, asked(world))
        with refused_by_enclave(UpdateMalformed):
            rounds.bring("dora-clinic", 1, np.full(5, np.nan, np.float32))
        still = np.zeros(5, np.float32)
        rounds.bring("alice-clinic", 1, still)
        rounds.bring("bob-hospital", 1, still)
        handed = rounds.bring("dora-clinic", 1, np.full(5, 1e30, np.float32))
        assert handed is not None
        assert np.linalg.norm(numbers_of(handed)) == pytest.approx(1 / 3, rel=1e-4)
