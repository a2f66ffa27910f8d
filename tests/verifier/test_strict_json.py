"""JSON read strictly: what is counted in the text agrees with a look at each object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.strict_json import MAX_DEPTH, JsonError, read_flat_object, read_object

SPACE = st.sampled_from(["", " ", "\n", "\t \r\n"])
# What could be taken for a mark, or for the end of a string.
TRICKY = st.text(st.sampled_from('":{}[]\\,-0a\u00e9\ud800\u2028'), max_size=6)
KEYS = st.sampled_from(["a", "b", ":", '"', "\\", "{", "]", "\\u0061", ""])


def spelled(text: str, escaped: bool) -> str:
    """A JSON string, in one of two spellings."""
    if escaped:
        return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
    return json.dumps(text, ensure_ascii=False)


STRINGS = st.builds(spelled, TRICKY, st.booleans())
SCALARS = st.one_of(STRINGS, st.integers(-300, 70000).map(str), st.sampled_from(["true", "null"]))


def listed(items: list[str], space: str) -> str:
    return f"[{space}{f'{space},'.join(items)}{space}]"


def made(members: list[tuple[str, str]], space: str) -> str:
    """An object with these members, some of which may be there twice."""
    inside = f",{space}".join(f"{name}{space}:{space}{value}" for name, value in members)
    return f"{{{space}{inside}{space}}}"


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.builds(spelled, KEYS, st.booleans())
    return st.builds(made, st.lists(st.tuples(names, values), max_size=4), SPACE)


VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.builds(listed, st.lists(inner), SPACE), objects(inner))
)


def seen_one_by_one(text: str) -> dict[str, Any] | None:
    """The slow way: each object as it is made; None where a member is repeated."""
    repeated = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.append(len({name for name, _ in pairs}) != len(pairs))
        return dict(pairs)

    value: dict[str, Any] = json.loads(text, object_pairs_hook=look)
    return None if any(repeated) else value


@given(objects(VALUES))
def test_a_member_is_counted_wherever_it_stands(text: str) -> None:
    """N107: what two readers would see differently is refused, and nothing else."""
    expected = seen_one_by_one(text)
    if expected is not None:
        assert read_object(text) == expected
        assert read_flat_object(text) == expected
        return
    with pytest.raises(JsonError):
        read_object(text)
    with pytest.raises(JsonError):
        read_flat_object(text)


@given(st.lists(st.sampled_from(["list", "object"]), max_size=MAX_DEPTH + 3), STRINGS)
def test_depth_is_that_outside_of_strings(layers: list[str], inmost: str) -> None:
    """N126: brackets in a string hide no level and add none."""
    text = inmost
    for layer in layers:
        text = f"[{inmost},{text},{inmost}]" if layer == "list" else f'{{"[":{text},"]":{inmost}}}'
    text = f'{{"a":{text}}}'
    if len(layers) < MAX_DEPTH:
        assert read_object(text) == json.loads(text)
        return
    with pytest.raises(JsonError):
        read_object(text)


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null", "", "{}{}", "{} x", "\ufeff{}"])
def test_what_is_no_object(text: str) -> None:
    assert read_object(" {}\n") == read_flat_object(" {}\n") == {}
    for read in (read_object, read_flat_object):
        with pytest.raises(JsonError):
            read(text)


@pytest.mark.parametrize("number", ["-0", "1.0", "1e2", "NaN", "Infinity", "-Infinity", "9" * 5000])
def test_number_that_is_no_integer(number: str) -> None:
    """N114: it would be rounded, or read as another one."""
    for read in (read_object, read_flat_object):
        assert read('{"a":[0,-1,255,256]}') == {"a": [0, -1, 255, 256]}
        with pytest.raises(JsonError):
            read(f'{{"a":[{number}]}}')


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_bottomless_text_ends_in_a_refusal(opening: str) -> None:
    """N126: a hundred thousand levels neither crash the reader nor pass it."""
    closing = "]" if opening == "[" else "}"
    text = f'{{"a":{opening * 100_000}1{closing * 100_000}}}'
    for read in (read_object, read_flat_object):
        with pytest.raises(JsonError):
            read(text)
