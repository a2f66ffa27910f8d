"""Does a float have exactly the number that was written? Rounding is refused."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Seventeen digits tell every double from its neighbours, and no writer of doubles needs more; of
# whole numbers, those of fifteen digits are all doubles.
_DIGITS, _WHOLE = 17, 15
_NUMBER = r"^-?[0-9]+(?:\.(?P<fraction>[0-9]+))?(?:[eE](?P<exponent>[+-]?[0-9]+))?$"


def narrowed(wide: pa.Array) -> pa.Array | None:
    """Doubles as float32; None where one of them is no float32."""
    single = wide.cast(pa.float32())
    same = pc.or_(pc.equal(single.cast(pa.float64()), wide), pc.is_nan(wide))
    return single if _all(same) else None


def are_plain_numbers(texts: pa.Array, doubles: pa.Array) -> NDArray[np.bool_]:
    """Which texts are numbers of the one strict form, and mean the double by their length alone?

    `doubles` are these texts as Arrow reads them, so each is a number in some form; what is left
    to see are leading zeros, a point at an end, more digits than tell doubles apart, and words.
    False says nothing. A null is plain.
    """
    plain = np.ones(len(texts), np.bool_)
    if not len(texts) or texts.buffers()[2] is None:
        return plain
    letters, start, end, filled = _places(texts)
    start = start + (letters[start] == _MINUS)
    size = end - start  # at least one: `-` alone is no number
    first, second = letters[start], letters[np.minimum(start + 1, end - 1)]
    lone_zero = (first != _ZERO) | (size == 1) | (second == _POINT)
    ends_in_digits = _is_digit(first) & _is_digit(letters[end - 1])
    # Up to 15 characters have at most 15 digits. Up to 18 have 17 and a point, if the number is
    # too small for 16 digits before it.
    values = np.abs(doubles.to_numpy(zero_copy_only=False)[filled])
    few = (size <= _WHOLE) | ((size <= _DIGITS + 1) & (values < 10.0**_WHOLE))
    fits = lone_zero & ends_in_digits & few
    if _has_exponents(texts.buffers()[2]):
        fits[:] = False
    plain[filled] = fits
    return plain


def are_plain_integers(texts: pa.Array) -> bool:
    """Are all of these texts, which Arrow reads as whole numbers, without leading zeros?

    It reads hexadecimal ones too, which begin with a zero. False says nothing.
    """
    if not len(texts) or texts.buffers()[2] is None:
        return True
    letters, start, end, _ = _places(texts)
    start = start + (letters[start] == _MINUS)
    return bool(((letters[start] != _ZERO) | (end - start == 1)).all())


def end_in_z(texts: pa.Array) -> bool:
    """Is Z the last letter of each text that is not null?"""
    if not len(texts) or texts.buffers()[2] is None:
        return False
    letters, _, end, _ = _places(texts)
    return bool((letters[end - 1] == _Z).all())


Letters = NDArray[np.uint8]
Offsets = NDArray[np.int32]


def _places(texts: pa.Array) -> tuple[Letters, Offsets, Offsets, slice | NDArray[np.intp]]:
    """All letters; where each text begins and ends; which texts those are. Nulls are left out,
    and with them empty texts, which no column of numbers has.
    """
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int32, texts.offset + len(texts) + 1)[texts.offset :]
    start, end = places[:-1], places[1:]
    filled: slice | NDArray[np.intp] = slice(None)
    if texts.null_count:
        filled = np.flatnonzero(end > start)
        start, end = start[filled], end[filled]
    return np.frombuffer(data, np.uint8), start, end, filled


_MINUS, _POINT, _ZERO, _NINE, _Z = b"-.09Z"


def _is_digit(letters: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (letters >= _ZERO) & (letters <= _NINE)


def _has_exponents(data: pa.Buffer) -> bool:
    """`1.e5` is read, and is no number here; with an exponent, a size says less about digits."""
    raw = data.to_pybytes()
    return b"e" in raw or b"E" in raw


def spells_doubles(texts: pa.Array, doubles: pa.Array) -> bool:
    """Are these doubles what the texts say?

    A text of up to 17 digits means the nearest double. A whole number, or a text with more digits,
    must be exactly the double.
    """
    whole = pc.match_substring_regex(texts, rf"^-?[0-9]{{{_WHOLE + 1},}}(?:\.0*)?$")
    digits = pc.replace_substring(texts, ".", "")
    few = pc.match_substring_regex(digits, rf"^-?(?:0*[0-9]{{0,{_DIGITS}}}0*(?:[eE].*)?|[^0-9]+)$")
    doubtful = pc.fill_null(pc.or_(whole, pc.invert(few)), False)
    pairs = zip(texts.filter(doubtful), doubles.filter(doubtful), strict=True)
    return all(Decimal(text.as_py()) == Decimal(double.as_py()) for text, double in pairs)


def spelled_singles(texts: pa.Array, doubles: pa.Array) -> pa.Array | None:
    """What these texts say as float32: rounded at its own last digit, each is what is written.

    So `0.1` is one, and `0.123456789012` and `16777217` are none.

    Args:
        doubles: The texts read as float64.
    """
    single = doubles.cast(pa.float32())
    wide = single.cast(pa.float64())
    parts = pc.extract_regex(texts, _NUMBER)
    places = pc.binary_length(pc.struct_field(parts, "fraction")).cast(pa.float64())
    written = pc.struct_field(parts, "exponent")
    exponent = pc.if_else(pc.equal(written, ""), "0", written).cast(pa.float64())
    half = pc.multiply(0.5000001, pc.power(10.0, pc.subtract(exponent, places)))
    near = pc.less_equal(pc.abs(pc.subtract(doubles, wide)), half)
    same = pc.or_(pc.equal(doubles, wide), pc.is_nan(doubles))
    return single if _all(pc.or_kleene(same, near)) else None


def _all(values: pa.Array) -> bool:
    """Every value that is not null is true."""
    return pc.all(values, min_count=0).as_py() is not False
