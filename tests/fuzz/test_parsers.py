"""Whatever the bytes: each parser gives a value or a typed refusal, and nothing else."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Parse
from tests.support.refusal import count_refusal
from verifier.errors import RatlsError

PARSERS = pytest.mark.parametrize("name", TARGETS)


@cache
def parser(name: str) -> tuple[Parse, list[bytes]]:
    """The parser and its simulated seeds."""
    return TARGETS[name].load(), TARGETS[name].seeds(None)


def value_or_refusal(parse: Parse, data: bytes) -> None:
    try:
        parse(data)
    except RatlsError as refusal:
        assert refusal.code  # noqa: PT017 - a branch is never raised


@PARSERS
@given(data=st.binary(max_size=3000) | st.text(max_size=500).map(str.encode))
def test_any_bytes(name: str, data: bytes) -> None:
    count_refusal()
    value_or_refusal(parser(name)[0], data)


@PARSERS
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 4))
def test_valid_bytes_altered(name: str, seed: int, rounds: int) -> None:
    """Altered so that the outer form holds, which leads to what lies deeper."""
    count_refusal()
    rng = Random(seed)  # noqa: S311 - repeatable, and no secret
    parse, seeds = parser(name)
    data = rng.choice(seeds)
    for _ in range(rounds):
        data = TARGETS[name].mutate(rng, data)
    value_or_refusal(parse, data)


@PARSERS
@given(st.data())
def test_valid_bytes_cut_off_or_continued(name: str, data: st.DataObject) -> None:
    count_refusal()
    parse, seeds = parser(name)
    genuine = data.draw(st.sampled_from(seeds))
    size = data.draw(st.integers(0, len(genuine)))
    value_or_refusal(parse, genuine[:size] + data.draw(st.binary(max_size=40)))
