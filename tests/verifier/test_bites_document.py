"""The limits of signed JSON, at both of their sides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.refusal import refused
from tests.verifier.world import bites
from verifier.document import MAX_SIZE, CollateralMalformed, parse_object
from verifier.strict_json import MAX_DEPTH


def read(text: str) -> Any:
    return parse_object(text, "document")


def sized(size: int) -> str:
    frame = len('{"a":""}')
    return '{"a":"' + "x" * (size - frame) + '"}'


def test_largest_document_is_read_and_a_larger_one_is_not() -> None:
    assert len(sized(MAX_SIZE)) == MAX_SIZE
    bites(read, sized(MAX_SIZE), sized(MAX_SIZE + 1), CollateralMalformed)


def nested(levels: int, kind: str) -> str:
    value: object = {} if kind == "objects" else []
    for _ in range(levels - 2):
        value = {"a": value} if kind == "objects" else [value]
    return json.dumps({"a": value})


@pytest.mark.parametrize("kind", ["objects", "lists"])
def test_deepest_document_is_read_and_a_deeper_one_is_not(kind: str) -> None:
    """Whoever walks over it later must not run out of stack."""
    bites(read, nested(MAX_DEPTH, kind), nested(MAX_DEPTH + 1, kind), CollateralMalformed)


@pytest.mark.parametrize("text", ['{"a": 0}', '{"a": "-0"}', '{"a-0": 0}', '{"a": ["x", 1]}'])
def test_zero_without_a_sign_is_read(text: str) -> None:
    """Twin: a sign is looked for among numbers only."""
    read(text)


@pytest.mark.parametrize("text", ['{"a": -0}', '{"a":-0}', '{"a": [-0]}', '{"a":[1,-0]}'])
def test_zero_with_a_sign_is_another_spelling(text: str) -> None:
    with refused(CollateralMalformed):
        read(text)


def test_text_that_cannot_be_written_is_none() -> None:
    """Half of a pair of surrogates: readers disagree about what it stands for."""
    assert read('{"a": "\\u00e9"}').text("a") == "\u00e9"
    with refused(CollateralMalformed):
        read('{"a": "\\ud800"}').text("a")
