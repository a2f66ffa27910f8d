"""Each rule of the DER reader by itself: two spellings of one value are two readings of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from simulation.der import tlv
from verifier import der


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x04\x80" + bytes(128), id="indefinite"),
        pytest.param(b"\x04\x81\x01\xff", id="long-form-of-a-short-length"),
        pytest.param(b"\x04\x81\x7f" + bytes(127), id="long-form-of-127"),
        pytest.param(b"\x04\x82\x00\x80" + bytes(128), id="leading-zero"),
        pytest.param(b"\x04\x84\x01\x00\x00\x00" + bytes(1 << 24), id="four-bytes-of-length"),
        pytest.param(b"\x04\x82\x01", id="length-cut-off"),
        pytest.param(b"\x04\x05\x00", id="content-cut-off"),
        pytest.param(b"\x04\x01", id="content-absent"),
        pytest.param(b"\x04", id="length-absent"),
        pytest.param(b"\x04\x01\x00\x00", id="trailing"),
    ],
)
def test_another_spelling_is_no_element(raw: bytes) -> None:
    """Neither one by itself, nor one of several."""
    with pytest.raises(der.DerError):
        der.content(raw, der.OCTET_STRING)
    with pytest.raises(der.DerError):
        der.elements(b"\x05\x00" + raw)


def test_nothing_is_no_element() -> None:
    assert der.elements(b"") == []
    with pytest.raises(der.DerError):
        der.content(b"", der.OCTET_STRING)


def test_another_element_behind_it_is_not_overlooked() -> None:
    assert der.elements(b"\x04\x00\x04\x00") == [b"\x04\x00", b"\x04\x00"]
    with pytest.raises(der.DerError):
        der.content(b"\x04\x00\x04\x00", der.OCTET_STRING)


def test_elements_of_one_kind() -> None:
    """What stands between them and is of another kind would be read as one of them."""
    assert der.contents(b"\x30\x05\x04\x01\x07\x04\x00", der.OCTET_STRING) == [b"\7", b""]
    with pytest.raises(der.DerError):
        der.contents(b"\x30\x05\x04\x01\x07\x05\x00", der.OCTET_STRING)
    with pytest.raises(der.DerError):
        der.contents(b"\x31\x05\x04\x01\x07\x04\x00", der.OCTET_STRING)


@pytest.mark.parametrize("raw", [b"\x1f\x81\x01\x00", b"\x3f\x00"], ids=["plain", "constructed"])
def test_tag_of_more_than_one_byte(raw: bytes) -> None:
    """What follows would be read as a length, or the other way round."""
    assert der.elements(b"\x1e\x00") == [b"\x1e\x00"]
    with pytest.raises(der.DerError):
        der.elements(raw)


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (b"\x04\x00", 0),
        (b"\x04\x7f" + bytes(127), 127),
        (b"\x04\x81\x80" + bytes(128), 128),
        (b"\x04\x82\x01\x00" + bytes(256), 256),
        (b"\x04\x83\x01\x00\x00" + bytes(1 << 16), 1 << 16),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_the_shortest_spelling_is_read(raw: bytes, size: int) -> None:
    """Twin: at each width of the length."""
    assert der.content(raw, der.OCTET_STRING) == bytes(size)
    assert der.elements(raw + raw) == [raw, raw]


def time(tag: int, text: bytes) -> Any:
    return der.time(tlv(tag, text))


def bits(content: bytes) -> Any:
    return der.bit_string(tlv(der.BIT_STRING, content))


def number(octets: bytes) -> Any:
    return der.integer(tlv(der.INTEGER, octets), high=256)


@pytest.mark.parametrize(
    ("reader", "written", "value"),
    [
        (time, (der.UTC_TIME, b"500101000000Z"), datetime(1950, 1, 1, tzinfo=UTC)),
        (time, (der.UTC_TIME, b"991231235959Z"), datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (time, (der.UTC_TIME, b"491231235959Z"), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (time, (der.GENERALIZED_TIME, b"20500101000000Z"), datetime(2050, 1, 1, tzinfo=UTC)),
        *((bits, (c,), v) for c, v in ((b"\0", b""), (b"\0\xff", b"\xff"))),
        *((bits, (c,), v) for c, v in ((b"\7\x80", b"\x80"), (b"\1\xfe", b"\xfe"))),
        *((number, (c,), v) for c, v in ((b"\0", 0), (b"\x7f", 127), (b"\0\x80", 128))),
        *((number, (c,), v) for c, v in ((b"\0\xff", 255), (b"\1\0", 256))),
    ],
)
def test_value_in_its_one_spelling_is_read(
    reader: Callable[..., Any], written: tuple[Any, ...], value: object
) -> None:
    assert reader(*written) == value


@pytest.mark.parametrize(
    ("reader", "written"),
    [
        pytest.param(time, (der.OCTET_STRING, b"261125120000Z"), id="time-of-another-type"),
        pytest.param(time, (der.UTC_TIME, b"2611251200Z"), id="without-seconds"),
        pytest.param(time, (der.UTC_TIME, b"261125120000"), id="without-zone"),
        pytest.param(time, (der.UTC_TIME, b"261125120000+0000"), id="another-zone"),
        pytest.param(time, (der.UTC_TIME, b"20261125120000Z"), id="four-digits-of-a-year"),
        pytest.param(time, (der.UTC_TIME, b"261325120000Z"), id="month-13"),
        pytest.param(time, (der.UTC_TIME, b"260230120000Z"), id="30-February"),
        pytest.param(time, (der.GENERALIZED_TIME, b"20261125120000.5Z"), id="half-a-second"),
        pytest.param(time, (der.GENERALIZED_TIME, b"261125120000Z"), id="two-digits-of-a-year"),
        pytest.param(time, (der.GENERALIZED_TIME, b""), id="no-time"),
        pytest.param(bits, (b"",), id="no-bits"),
        pytest.param(bits, (b"\1",), id="unused-bits-of-nothing"),
        pytest.param(bits, (b"\x08\x00",), id="eight-unused-bits"),
        pytest.param(bits, (b"\1\xff",), id="one-unused-bit-that-is-set"),
        pytest.param(bits, (b"\7\xc0",), id="seven-unused-bits-that-are-set"),
        pytest.param(number, (b"",), id="no-number"),
        pytest.param(number, (b"\0\x7f",), id="a-zero-too-many"),
        pytest.param(number, (b"\0\0",), id="two-zeros"),
        pytest.param(number, (b"\xff",), id="negative"),
        pytest.param(number, (b"\1\1",), id="too-high"),
    ],
)
def test_value_in_another_spelling_is_none(
    reader: Callable[..., Any], written: tuple[Any, ...]
) -> None:
    with pytest.raises(der.DerError):
        reader(*written)


def test_false_is_written_as_absence() -> None:
    assert der.true(b"\1\1\xff")
    with pytest.raises(der.DerError):
        der.true(b"\1\1\0")
