"""The limits of signed JSON, at both of their sides."""

from __future__ import annotations

import json

import pytest

from tests.support.refusal import refused
from verifier.document import MAX_DEPTH, MAX_SIZE, parse_object
from verifier.errors import CollateralMalformed


def sized(size: int) -> str:
    frame = len('{"a":""}')
    return '{"a":"' + "x" * (size - frame) + '"}'


def test_largest_document_is_read_and_a_larger_one_is_not() -> None:
    assert len(sized(MAX_SIZE)) == MAX_SIZE
    parse_object(sized(MAX_SIZE), "document")
    with refused(CollateralMalformed):
        parse_object(sized(MAX_SIZE + 1), "document")


def nested(levels: int, kind: str) -> str:
    value: object = {} if kind == "objects" else []
    for _ in range(levels - 2):
        value = {"a": value} if kind == "objects" else [value]
    return json.dumps({"a": value})


@pytest.mark.parametrize("kind", ["objects", "lists"])
def test_deepest_document_is_read_and_a_deeper_one_is_not(kind: str) -> None:
    """Whoever walks over it later must not run out of stack."""
    parse_object(nested(MAX_DEPTH, kind), "document")
    with refused(CollateralMalformed):
        parse_object(nested(MAX_DEPTH + 1, kind), "document")
