"""The strict CBOR reader: one encoding per value, and nothing that a general reader would build."""

from __future__ import annotations

import io
import tracemalloc

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls import cbor

LEAVES = st.one_of(
    st.integers(0, 2**64 - 1), st.binary(max_size=300), st.text(max_size=40), st.booleans()
)
VALUES = st.recursive(
    LEAVES.filter(lambda v: not isinstance(v, bool)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=30), st.dictionaries(st.text(max_size=30), inner, max_size=4)
    ),
    max_leaves=8,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((depth(v) for v in inner), default=0)


@given(VALUES)
def test_what_is_written_is_read_back_and_another_library_agrees(value: cbor.Value) -> None:
    raw = cbor.encode(value)
    assert cbor2.loads(raw) == value
    if depth(value) <= cbor.MAX_DEPTH:
        assert cbor.decode(raw) == value


@given(VALUES, st.data())
def test_every_prefix_and_every_trailing_byte_is_refused(
    value: cbor.Value, data: st.DataObject
) -> None:
    """B15: general decoders stop at the first item and ignore the rest."""
    raw = cbor.encode(value)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for bad in (raw[:cut], raw + b"\x00"):
        with pytest.raises(cbor.NotStrict):
            cbor.decode(bad)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_in_its_one_form_or_refused(raw: bytes) -> None:
    """Whatever is accepted is what another library reads, and encodes back to the same length."""
    try:
        value = cbor.decode(raw)
    except cbor.NotStrict:
        return
    assert len(cbor.encode(value)) == len(raw)
    if not isinstance(value, cbor.Tagged):
        assert cbor2.load(io.BytesIO(raw)) == value


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "1800",  #                 0 in two bytes
        "1900ff",  #               255 in three
        "1a0000ffff",
        "1b00000000ffffffff",
        "5801aa",  #               a length in two bytes that fits in one
        "a2616101616102",  #       the key "a" twice
        "a10102",  #               a key that is a number
        "9f01ff",  #               indefinite array
        "bf616101ff",  #           indefinite map
        "5f41aaff",  #             indefinite bytes
        "61ff",  #                 text that is not UTF-8
        "20",  #                   a negative number
        "f5",  #                   true
        "f6",  #                   null
        "fb3ff0000000000000",  #   a float
        "1c",  #                   reserved
        "5b7fffffffffffffff00",  # B16: bytes of 2^63
        "9b7fffffffffffffff00",  # B16: an array of 2^63
        "bb7fffffffffffffff00",
        "81818181818100",  #       deeper than any message
        "81c100",  #               a tag within
        "c1c100",  #               a tag around a tag
    ],
)
def test_another_form_or_type_is_refused(raw: str) -> None:
    with pytest.raises(cbor.NotStrict):
        cbor.decode(bytes.fromhex(raw))


def test_a_bomb_of_nested_arrays_is_refused_at_once() -> None:
    """B16: 10^5 levels would exhaust the stack of a reader that follows them."""
    with pytest.raises(cbor.NotStrict):
        cbor.decode(b"\x81" * 100_000)


@pytest.mark.parametrize(
    "raw", ["c11a7fffffff", "c2420100", "c074323032362d31312d32355431323a30303a30305a"]
)
def test_a_tag_builds_no_date_and_no_big_number(raw: str) -> None:
    """B16: what is inside stays a number, bytes or text, and callers refuse a tag not their own."""
    value = cbor.decode(bytes.fromhex(raw))
    assert isinstance(value, cbor.Tagged)
    assert type(value.value) in (int, bytes, str)


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "bb"])
def test_a_length_takes_no_memory_that_the_input_does_not_have(head: str) -> None:
    """B16: a gigabyte promised by nine bytes is not set aside before the rest is looked for."""
    raw = bytes.fromhex(head) + (1 << 30).to_bytes(8, "big") + bytes(64)
    tracemalloc.start()
    try:
        with pytest.raises(cbor.NotStrict):
            cbor.decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
