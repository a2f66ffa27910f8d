"""Each rule of the DER reader by itself: two spellings of one value are two readings of it."""

from __future__ import annotations

from datetime import UTC, datetime

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


@pytest.mark.parametrize(
    ("tag", "text", "instant"),
    [
        (der.UTC_TIME, b"500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (der.UTC_TIME, b"991231235959Z", datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (der.UTC_TIME, b"491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (der.GENERALIZED_TIME, b"20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
    ],
)
def test_time_is_read_with_its_century(tag: int, text: bytes, instant: datetime) -> None:
    assert der.time(tlv(tag, text)) == instant


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        pytest.param(der.OCTET_STRING, b"261125120000Z", id="another-type"),
        pytest.param(der.UTC_TIME, b"2611251200Z", id="without-seconds"),
        pytest.param(der.UTC_TIME, b"261125120000", id="without-zone"),
        pytest.param(der.UTC_TIME, b"261125120000+0000", id="another-zone"),
        pytest.param(der.UTC_TIME, b"20261125120000Z", id="four-digits-of-a-year"),
        pytest.param(der.UTC_TIME, b"261325120000Z", id="month-13"),
        pytest.param(der.UTC_TIME, b"260230120000Z", id="30-February"),
        pytest.param(der.GENERALIZED_TIME, b"20261125120000.5Z", id="half-a-second"),
        pytest.param(der.GENERALIZED_TIME, b"261125120000Z", id="two-digits-of-a-year"),
        pytest.param(der.GENERALIZED_TIME, b"", id="nothing"),
    ],
)
def test_another_spelling_is_no_time(tag: int, text: bytes) -> None:
    with pytest.raises(der.DerError):
        der.time(tlv(tag, text))


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"\0", b""), (b"\0\xff", b"\xff"), (b"\7\x80", b"\x80"), (b"\1\xfe", b"\xfe")],
)
def test_bits_whose_rest_is_zero_are_read(content: bytes, value: bytes) -> None:
    assert der.bit_string(tlv(der.BIT_STRING, content)) == value


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\1", id="unused-bits-of-nothing"),
        pytest.param(b"\x08\x00", id="eight-unused-bits"),
        pytest.param(b"\1\xff", id="one-unused-bit-that-is-set"),
        pytest.param(b"\7\xc0", id="seven-unused-bits-that-are-set"),
    ],
)
def test_another_spelling_is_no_string_of_bits(content: bytes) -> None:
    with pytest.raises(der.DerError):
        der.bit_string(tlv(der.BIT_STRING, content))


@pytest.mark.parametrize(
    ("octets", "value"),
    [(b"\0", 0), (b"\x7f", 127), (b"\0\x80", 128), (b"\0\xff", 255), (b"\1\0", 256)],
)
def test_integer_in_its_shortest_form_is_read(octets: bytes, value: int) -> None:
    assert der.integer(tlv(der.INTEGER, octets), high=256) == value


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\x7f", id="a-zero-too-many"),
        pytest.param(b"\0\0", id="two-zeros"),
        pytest.param(b"\xff", id="negative"),
        pytest.param(b"\1\1", id="too-high"),
    ],
)
def test_another_spelling_is_no_integer(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        der.integer(tlv(der.INTEGER, octets), high=256)


def test_false_is_written_as_absence() -> None:
    assert der.true(b"\1\1\xff")
    with pytest.raises(der.DerError):
        der.true(b"\1\1\0")
