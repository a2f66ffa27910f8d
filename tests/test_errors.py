"""The list of refusals is complete, and each refusal keeps its promise of four parts."""

from __future__ import annotations

import inspect
import json
import re
from string import Formatter

import pytest

from tests.support.error_page import ROOT, data, leaves, page
from verifier.errors import Exit, InstantMalformed, RatlsError

LEAVES = leaves()


def test_the_page_lists_every_leaf() -> None:
    """Users look codes up; a code that is not listed explains nothing. Mend with `make errors`."""
    assert (ROOT / "docs" / "errors.md").read_text("utf-8") == page()
    assert (ROOT / "ratls" / "refusals.json").read_text("utf-8") == data()


def test_codes_are_slugs_and_distinct() -> None:
    codes = [leaf.code for leaf in LEAVES]
    assert len(codes) == len(set(codes)), sorted(c for c in codes if codes.count(c) > 1)
    assert [c for c in codes if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", c)] == []


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda c: c.code)
def test_a_leaf_says_what_it_means_and_decides_an_exit_status(leaf: type[RatlsError]) -> None:
    assert (leaf.__doc__ or "").strip()
    assert leaf.exit_status not in {Exit.YES, Exit.BUG}
    assert not leaf.__subclasses__(), "a leaf has no leaves"


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda c: c.code)
def test_a_leaf_says_only_what_it_has(leaf: type[RatlsError]) -> None:
    """A part that is not there would make a bug out of the refusal."""
    parts = {"thing", "expected", "found", *inspect.signature(leaf).parameters}
    assert {part for _, part, _, _ in Formatter().parse(leaf.says) if part is not None} <= parts


def test_what_looks_like_a_field_in_a_part_stays_text() -> None:
    refusal = InstantMalformed("{fix}", expected="{", found="{found.__class__}")
    assert str(refusal) == "{fix}: expected {, found {found.__class__}"


def test_a_branch_cannot_be_raised() -> None:
    """One class per check: a branch would answer two questions at once."""
    with pytest.raises(TypeError):
        RatlsError("thing", expected="a leaf", found="a branch")


def test_reference_names_map_to_codes_that_exist() -> None:
    names = json.loads((ROOT / "tests" / "vectors" / "codes.json").read_text("utf-8"))
    known = {leaf.code for leaf in LEAVES}
    for table in names.values():
        for codes in table.values():
            assert set(codes) <= known
