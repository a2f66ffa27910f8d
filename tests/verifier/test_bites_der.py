"""Each rule of the DER reader by itself: two spellings of one value are two readings of it."""

from __future__ import annotations

import pytest

from verifier import der


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x1f\x81\x01\x00", id="tag-of-two-bytes"),
        pytest.param(b"\x3f\x00", id="constructed-tag-of-two-bytes"),
        pytest.param(b"\x04\x80" + bytes(128), id="indefinite"),
        pytest.param(b"\x04\x81\x01\xff", id="long-form-of-a-short-length"),
        pytest.param(b"\x04\x81\x7f" + bytes(127), id="long-form-of-127"),
        pytest.param(b"\x04\x82\x00\x80" + bytes(128), id="leading-zero"),
        pytest.param(b"\x04\x84\x01\x00\x00\x00" + bytes(1 << 24), id="four-bytes-of-length"),
        pytest.param(b"\x04\x82\x01", id="length-cut-off"),
        pytest.param(b"\x04\x05\x00", id="content-cut-off"),
        pytest.param(b"\x04\x01", id="content-absent"),
        pytest.param(b"\x04", id="length-absent"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x04\x01\x00\x00", id="trailing"),
    ],
)
def test_another_spelling_is_no_element(raw: bytes) -> None:
    with pytest.raises(der.DerError):
        der.only(raw)


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
    assert der.only(raw) == der.Element(4, bytes(size), raw)
