"""Does a float have exactly the number that was written? Rounding is refused."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

# Seventeen digits tell every double from its neighbours, and no writer of doubles needs more; of
# whole numbers, those of fifteen digits are all doubles.
_DIGITS, _WHOLE = 17, 15
_NUMBER = r"^-?[0-9]+(?:\.(?P<fraction>[0-9]+))?(?:[eE](?P<exponent>[+-]?[0-9]+))?$"


def narrowed(wide: pa.Array) -> pa.Array | None:
    """Doubles as float32; None where one of them is no float32."""
    single = wide.cast(pa.float32())
    same = pc.or_(pc.equal(single.cast(pa.float64()), wide), pc.is_nan(wide))
    return single if _all(same) else None


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
