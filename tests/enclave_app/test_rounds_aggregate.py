"""How updates are read and joined, against numpy's and scipy's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from enclave_app import rounds_aggregate
from enclave_app.rounds_aggregate import (
    PART,
    UpdateMalformed,
    aggregated,
    read_update,
    shrinking,
    significant,
)
from policy.rounds import Series, Tensor
from tests.support.refusal import refused
from tests.support.rounds import made_series

SIZE = 1000
RANDOM = np.random.default_rng(5)
UPDATES = {f"d{i}": RANDOM.normal(0, 1, SIZE).astype(np.float32) for i in range(7)}


def series(aggregator: str = "fedavg", **changed: Any) -> Series:
    made: dict[str, Any] = {
        "inputs": tuple(UPDATES),
        "tensors": (Tensor("v", (SIZE,)),),
        "aggregator": aggregator,
        "clip_norm": 1e6,
        "trim": 2 if aggregator == "trimmed_mean" else 0,
    }
    return made_series(**made | changed)


ZERO = np.zeros(SIZE, np.float32)


@pytest.mark.parametrize("parties", [7, 6, 5])
@pytest.mark.parametrize("aggregator", ["fedavg", "fedprox", "trimmed_mean", "median"])
def test_joined_as_numpy_and_scipy_join(aggregator: str, parties: int) -> None:
    """Over blocks of every length, and with parties that dropped out."""
    updates = dict([*UPDATES.items()][:parties])
    rows = np.stack([*updates.values()]).astype(np.float64)
    wanted = {
        "fedavg": rows.mean(axis=0),
        "fedprox": rows.mean(axis=0),
        "trimmed_mean": trim_mean(rows, 2 / parties, axis=0),
        "median": np.median(rows, axis=0),
    }[aggregator]
    found = aggregated(series(aggregator), ZERO, updates)
    np.testing.assert_allclose(found, wanted, rtol=6e-6, atol=1e-12)


def test_agreed_weights_count_and_are_those_of_who_took_part() -> None:
    weights = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    some = {name: UPDATES[name] for name in ("d1", "d4", "d6")}
    found = aggregated(series(weights=weights), ZERO, some)
    wanted = (2 * UPDATES["d1"] + 5 * UPDATES["d4"] + 7 * UPDATES["d6"]) / 14
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_same_updates_give_the_same_bits_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes first: sums run in the policy's order; and however many are joined at once."""
    for aggregator in ("fedavg", "trimmed_mean", "median"):
        first = aggregated(series(aggregator), ZERO, UPDATES)
        other = dict(reversed([*UPDATES.items()]))
        assert first.tobytes() == aggregated(series(aggregator), ZERO, other).tobytes()
        with monkeypatch.context() as patched:
            patched.setattr(rounds_aggregate, "_COLUMNS", 7)
            assert first.tobytes() == aggregated(series(aggregator), ZERO, UPDATES).tobytes()


def test_the_model_moves_from_where_it_was() -> None:
    model = RANDOM.normal(0, 1, SIZE).astype(np.float32)
    found = aggregated(series("median"), model, UPDATES)
    wanted = model + np.median(np.stack([*UPDATES.values()]), axis=0)
    np.testing.assert_allclose(found, wanted, rtol=6e-6, atol=1e-6)


def test_updates_are_cut_to_the_agreed_norm() -> None:
    """Not one that is short enough; and numbers whose squares float32 cannot hold."""
    short = np.array([0.3, 0.4], np.float32)
    assert shrinking(short, 0.51) == 1.0
    assert shrinking(short, 0.25) == pytest.approx(0.5)
    assert shrinking(np.full(4, 1e38, np.float32), 2.0) == pytest.approx(1e-38)
    assert shrinking(np.zeros(4, np.float32), 2.0) == 1.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e30, 1e30).filter(lambda v: v == 0 or abs(v) > 1e-29), min_size=1),
    st.integers(1, 6),
)
def test_digits_are_those_that_python_writes(values: list[float], digits: int) -> None:
    """No more of them, and none further off than half of the last one; ties go either way."""
    found = significant(np.array(values), digits)
    for value, near in zip(values, found.tolist(), strict=True):
        assert near == pytest.approx(float(f"{near:.{digits}g}"), rel=1e-14)
        last = 10.0 ** (math.floor(math.log10(abs(value))) + 1 - digits) if value else 0.0
        assert abs(near - value) <= last / 2 * (1 + 1e-6)
    assert not np.signbit(found[found == 0]).any()


def parts(raw: bytes) -> list[memoryview]:
    return [memoryview(raw[start : start + PART]) for start in range(0, len(raw), PART)]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.integers(1, 12))
def test_any_bytes_are_an_update_or_a_refusal(raw: bytes, size: int) -> None:
    """The kind: finite numbers, as many as agreed; everything else is one refusal."""
    if len(raw) == 4 * size and np.isfinite(np.frombuffer(raw, "<f4")).all():
        assert read_update(parts(raw), size).astype("<f4").tobytes() == raw
    else:
        with refused(UpdateMalformed):
            read_update(parts(raw), size)


@pytest.mark.parametrize("planted", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite(planted: float) -> None:
    """One NaN would make the whole joint model NaN, for everybody and for good."""
    numbers = np.ones(5, np.float32)
    assert read_update(parts(numbers.tobytes()), 5) is not None
    numbers[3] = planted
    with refused(UpdateMalformed):
        read_update(parts(numbers.tobytes()), 5)


def test_an_update_in_other_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part but the last has one size, so that one update has one form."""
    monkeypatch.setattr(rounds_aggregate, "PART", 8)
    raw = np.arange(5, dtype="<f4").tobytes()
    cut = [memoryview(raw[:8]), memoryview(raw[8:16]), memoryview(raw[16:])]
    np.testing.assert_array_equal(read_update(cut, 5), np.arange(5))
    for others in ([memoryview(raw)], [cut[0], memoryview(raw[8:])], [*cut, memoryview(b"")], []):
        with refused(UpdateMalformed):
            read_update(others, 5)
