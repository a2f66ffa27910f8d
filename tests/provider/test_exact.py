"""Numbers in texts: what a float cannot hold as it was written is not rounded, but refused."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.sources.exact import narrowed
from provider.sources.text import ISO, Spelling, parse_text
from tests.support.refusal import count_refusal

SINGLE, DOUBLE = pa.float32(), pa.float64()


def reads(text: str, type_: pa.DataType, spelling: Spelling = ISO) -> float | None:
    array = parse_text(pa.array([text, None]), type_, spelling)
    return None if array is None else array[0].as_py()


DOUBLES = [
    ("9007199254740993", None),  #          between two doubles
    ("9007199254740993.0", None),
    ("9007199254740992", 2.0**53),
    ("1234567890123456789", None),
    ("1000000000000000000000", 1e21),
    ("1.00000000000000000001", None),  #    more digits than any double has
    ("1.50000000000000000000", 1.5),
    ("0.1000000000000000055511151231257827021181583404541015625", 0.1),
    ("0.1000000000000000055511151231257827", None),
    ("0.30000000000000004", 0.1 + 0.2),
    ("0.00000000000000000000012345678901234567", 1.2345678901234567e-22),
    ("-1.7976931348623157e308", -1.7976931348623157e308),
    ("1e999", None),
    ("-0", -0.0),
]
SINGLES = [
    ("0.1", 0.10000000149011612),
    ("0.10000000149011612", 0.10000000149011612),  # as a program prints it that knows doubles alone
    ("0.100000001", 0.10000000149011612),
    ("0.12345678901234", None),
    ("16777217", None),
    ("16777217.0", None),
    ("16777217.5", None),
    ("16777216", 2.0**24),
    ("3.4e38", 3.3999999521443642e38),
    ("1e39", None),
    ("1e999", None),
    ("1e-45", 1.401298464324817e-45),
    ("1e-50", None),
    ("Infinity", math.inf),
]


@pytest.mark.parametrize(("text", "value"), DOUBLES)
def test_a_text_as_float64(text: str, value: float | None) -> None:
    if value is None:
        count_refusal()
    assert reads(text, DOUBLE) == value


@pytest.mark.parametrize(("text", "value"), SINGLES)
def test_a_text_as_float32(text: str, value: float | None) -> None:
    if value is None:
        count_refusal()
    assert reads(text, SINGLE) == value


def test_a_decimal_comma_changes_no_rule() -> None:
    comma = Spelling(decimal=",")
    assert reads("0,1", DOUBLE, comma) == 0.1
    assert reads("9007199254740993,0", DOUBLE, comma) is None
    assert reads("0,12345678901234", SINGLE, comma) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300)
def test_every_double_is_read_as_a_program_writes_it(value: float) -> None:
    for text in (repr(value), f"{value:.17g}", f"{Decimal(value):f}"):
        assert reads(text, DOUBLE) == value


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(max_examples=300)
def test_every_float32_is_read_as_a_program_writes_it(value: float) -> None:
    for text in (str(np.float32(value)), repr(value), f"{value:.9g}"):
        assert reads(text, SINGLE) == value


@given(st.integers(2**53, 10**30))
@settings(max_examples=300)
def test_a_whole_number_is_read_exactly_or_not(number: int) -> None:
    exact = float(number) if int(float(number)) == number else None
    assert reads(str(number), DOUBLE) == exact


@given(st.floats())
@settings(max_examples=300)
def test_a_double_is_a_float32_or_none(value: float) -> None:
    single = narrowed(pa.array([value]))
    with np.errstate(over="ignore"):
        same = np.float64(np.float32(value)) == value or math.isnan(value)
    assert (single is not None) == same
