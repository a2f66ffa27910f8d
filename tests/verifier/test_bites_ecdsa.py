"""The range of r and s is checked here, before and whatever the library checks."""

from __future__ import annotations

import os
from typing import Any

import pytest

from simulation.certificates import new_key, sign_raw
from verifier.ecdsa import ORDER, signed_raw

KEY = new_key(os.urandom)
MESSAGE = b"header and report"


class Careless:
    """A key whose library says yes to everything, as one did in CVE-2022-21449."""

    def verify(self, *_: object) -> None:
        return None


def pair(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(pair(0, 0), id="zero"),
        pytest.param(pair(0, 1), id="r-zero"),
        pytest.param(pair(1, 0), id="s-zero"),
        pytest.param(pair(ORDER, 1), id="r-order"),
        pytest.param(pair(1, ORDER), id="s-order"),
        pytest.param(pair(2**256 - 1, 1), id="r-largest"),
        pytest.param(pair(1, 2**256 - 1), id="s-largest"),
    ],
)
def test_attacker_finds_a_library_that_forgets_the_range(signature: bytes) -> None:
    careless: Any = Careless()
    assert not signed_raw(careless, signature, MESSAGE)


@pytest.mark.parametrize("signature", [pair(1, 1), pair(ORDER - 1, 1), pair(1, ORDER - 1)])
def test_numbers_inside_the_range_are_left_to_the_library(signature: bytes) -> None:
    """Twin: the ends of the range belong to it."""
    careless: Any = Careless()
    assert signed_raw(careless, signature, MESSAGE)


def test_signature_of_another_length_is_none() -> None:
    """One more zero in front of s says the same number in 65 bytes."""
    genuine = sign_raw(KEY, MESSAGE)
    assert signed_raw(KEY.public_key(), genuine, MESSAGE)
    assert not signed_raw(KEY.public_key(), genuine[:32] + b"\0" + genuine[32:], MESSAGE)
