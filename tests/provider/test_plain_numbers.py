"""Numbers that are read without a pattern are exactly those that the patterns take."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.sources import text
from provider.sources.text import parse_text

_LETTERS = st.text("0123456789.-+eEinf aNy,_", min_size=1, max_size=24)
_NUMBERS = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.from_regex(r"-?0{0,2}[0-9]{1,19}\.?[0-9]{0,19}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
_TEXTS = st.lists(st.one_of(st.none(), _LETTERS, _NUMBERS), max_size=6)


def by_pattern(texts: pa.Array) -> pa.Array | None:
    return text._patterned_floats(texts, pa.float64(), ".")


def same(found: pa.Array | None, expected: pa.Array | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return bool(found.view(pa.int64()).equals(expected.view(pa.int64())))


@given(_TEXTS)
def test_each_text_means_what_the_patterns_say(texts: list[str | None]) -> None:
    """Property, for whole columns and for each text alone."""
    column = pa.array(texts, pa.string())
    assert same(parse_text(column, pa.float64()), by_pattern(column))
    for place in range(len(column)):
        one = column.slice(place, 1)
        assert same(parse_text(one, pa.float64()), by_pattern(one))


@pytest.mark.parametrize(
    "written",
    ["007.5", "00", "-00.1", "5.", ".5", "-.5", "+5", " 5", "5 ", "1.e5", "0x10", "1_0", "-", "",
     "infinity", "9007199254740993", "0.12345678901234567890123", "1e999", "NAN", "Inf"],
)  # fmt: skip
def test_what_is_no_number_here(written: str) -> None:
    """Arrow reads some of these, and others are rounded."""
    assert parse_text(pa.array(["1.5", written]), pa.float64()) is None


@pytest.mark.parametrize(
    "written", ["0", "-0", "0.5", "-12.25", "52.73919451523514", "1e5", "1e-3", "inf", "nan"]
)
def test_what_is_a_number(written: str) -> None:
    """The twin."""
    assert parse_text(pa.array(["1.5", written]), pa.float64()) is not None


@given(st.lists(st.one_of(st.none(), st.text("0123456789-/ ", max_size=11)), min_size=1))
def test_days_are_those_of_the_pattern(texts: list[str | None]) -> None:
    """Property: ten characters that Arrow reads as a day have the one form."""
    column = pa.array(texts, pa.string())
    found = parse_text(column, pa.date32())
    pattern = text._match(column, text._DAY)
    expected = text._cast(column, pa.date32()) if pattern else None
    assert (found is None) == (expected is None)
    assert found is None or found.equals(expected)


@given(st.lists(st.one_of(st.none(), st.text("0123456789-+x ", max_size=6)), min_size=1))
def test_whole_numbers_are_those_of_the_pattern(texts: list[str | None]) -> None:
    """Property: Arrow reads hexadecimal numbers and leading zeros, which are none here."""
    column = pa.array(texts, pa.string())
    found = parse_text(column, pa.int64())
    read = text._cast(column, pa.int64())
    expected = read if read is not None and text._match(column, text._INTEGER) else None
    assert (found is None) == (expected is None)
    assert found is None or found.equals(expected)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.from_regex(
                r"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9](:[0-5][0-9]){0,2}"
                r"(\.[0-9]{1,7})?(Z|\+00|\+00:00| UTC)?",
                fullmatch=True,
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_instants_are_those_of_the_pattern(texts: list[str | None]) -> None:
    """Property: Arrow reads instants without seconds, which are none here."""
    column, instant = pa.array(texts, pa.string()), pa.timestamp("us", "UTC")
    found = parse_text(column, instant)
    if not text._match(column, text._INSTANT):
        assert found is None
    elif found is not None:
        assert found.null_count == column.null_count
