"""The gate: what may leave, and in which single form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.computations.groups import ValueTooRare
from enclave_app.computations.private_set_intersection import IntersectionTooSmall
from enclave_app.errors import ReleaseDeniedError
from enclave_app.gate import (
    LARGEST_RESULT,
    Group,
    Input,
    OutputNotAgreed,
    OutputNotCanonical,
    ResultTooLarge,
    Share,
    SubjectDominates,
    TooFewSubjects,
    numbered,
    padded,
    padded_size,
    released,
    require_groups,
)
from policy.sections import Release
from tests.support.refusal import refused


class Rule(Release):
    outputs: tuple[str, ...] = ("model_weights",)
    min_subjects_per_input: int = 3
    significant_digits: int = 17


RULE = Rule()


def document(value: Any, rule: Rule = RULE) -> bytes:
    return released({"model_weights": value}, rule, computation="train", run="some_run")


def test_the_result_has_one_written_form() -> None:
    """R15: spacing and order are not the computation's to choose."""
    assert document({"b": [1, -0.0], "a": 0.1}) == (
        b'{"computation":"train","model_weights":{"a":0.1,"b":[1,0.0]},'
        b'"run":"some_run","schema":"ratls-result/1"}'
    )


@given(st.floats(-1e300, 1e300), st.integers(1, 17))
def test_floats_keep_the_agreed_digits_and_no_more(value: float, digits: int) -> None:
    """R15: below the agreed digits a mantissa could carry rows."""
    out = json.loads(document(value, Rule(significant_digits=digits)))["model_weights"]
    assert out == float(f"{value:.{digits}g}")
    assert json.loads(document(out, Rule(significant_digits=digits)))["model_weights"] == out


def test_a_float_that_rounds_to_infinity() -> None:
    """1.5e308 at one digit is 2e308, which is no float."""
    with refused(OutputNotCanonical):
        document(1.5e308, Rule(significant_digits=1))


def test_seventeen_digits_are_the_exact_number() -> None:
    assert json.loads(document(0.1 + 0.2))["model_weights"] == 0.1 + 0.2


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {"a": [-float("inf")]}, b"bytes", {1: 2}, {1.5}, object(), None],
)
def test_values_without_one_written_form(value: object) -> None:
    """NaN is not JSON; another parser would read it as it likes, or fail."""
    with refused(OutputNotCanonical):
        document(value)


@pytest.mark.parametrize(
    "outputs", [{}, {"rows": [1]}, {"model_weights": 1.0, "rows": [1]}, {"model_weight": 1.0}]
)
def test_outputs_that_the_policy_does_not_name(outputs: dict[str, Any]) -> None:
    """R09, R18: what nobody agreed on does not leave, not even beside what was."""
    with refused(OutputNotAgreed):
        released(outputs, Rule(), computation="train", run="some_run")


def require(*declared: Group | Share, names: Sequence[str | None] = "abc", k: int = 3) -> None:
    """One input of these subjects, and what a computation declared about it."""
    table = pa.table({"patient": pa.array(names, pa.string())})
    rule = Rule(min_subjects_per_input=k)
    require_groups({"train_party_1": Input(table, "patient")}, declared, rule)


def people(*names: str | None) -> npt.NDArray[np.int64]:
    return numbered(pa.chunked_array([pa.array(names, pa.string())]))


def test_enough_subjects() -> None:
    require(names=["a", "b", "c", "a"])


@pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "a", "a", "b"], ["a", "b", None]])
def test_too_few_subjects(names: list[str | None]) -> None:
    """R05, R06: one person's rows, repeated, are one person; a null is nobody."""
    with refused(TooFewSubjects):
        require(names=names)
    with refused(TooFewSubjects):
        require(Group("group", people(*names)))


def test_each_input_needs_its_own_subjects() -> None:
    """R06: a second input that is large enough does not make up for the first."""
    small, large = (
        Input(pa.table({"patient": pa.array(list(names))}), "patient") for names in ("ab", "abcd")
    )
    for inputs in ({"one": small, "two": large}, {"one": large, "two": small}):
        with refused(TooFewSubjects):
            require_groups(inputs, [], Rule())
        require_groups(inputs, [], Rule(min_subjects_per_input=2))


@pytest.mark.parametrize("leaf", [ValueTooRare, IntersectionTooSmall])
def test_group_of_exactly_the_minimum(leaf: type[ReleaseDeniedError]) -> None:
    """R05: none, k - 1 and k; the leaf is the one that the group was declared with."""
    for few in ((), ("a",), ("a", "b", "a", "b", "a")):
        with refused(leaf):
            require(Group("group", people(*few), leaf))
    require(Group("group", people("a", "b", "a", "c"), leaf))


@pytest.mark.parametrize("largest", [0.500001, 1.0, float("nan")])
def test_share_of_one_person(largest: float) -> None:
    """What cannot be computed is not small."""
    with refused(SubjectDominates):
        require(Share("share", largest, 0.5))
    require(Share("share", 0.5, 0.5))


def test_every_group_counts_and_none_is_asked_for_after_a_refusal() -> None:
    """The last of many is as good as the first; and no row is read for what will not leave."""
    enough, few = Group("group", people(*"abc")), Group("group", people("a"), ValueTooRare)

    def declared() -> Iterator[Group]:
        yield from [enough] * 50
        yield few
        raise AssertionError("asked for another group")

    with refused(ValueTooRare):
        require(*[enough] * 50, few)
    inputs = {"one": Input(pa.table({"patient": pa.array(list("abc"))}), "patient")}
    with refused(ValueTooRare):
        require_groups(inputs, declared(), Rule())


@given(st.integers(1, 100_000))
def test_padding_changes_the_length_and_nothing_else(size: int) -> None:
    """R15: lengths are few, and any JSON reader passes over the spaces."""
    document = json.dumps("x" * size).encode()
    result = padded(document, padded_size(len(document)))
    assert json.loads(result) == "x" * size
    assert len(result) in {4096 << i for i in range(6)}
    assert len(result) < max(2 * len(document), 4097)


def test_result_longer_than_all_outcomes_of_its_task() -> None:
    """Sealed at its own length, it would be the one outcome that the host can tell from others."""
    assert len(padded(b"x" * 4096, 4096)) == 4096
    with refused(ResultTooLarge):
        padded(b"x" * 4097, 4096)


def test_no_outcome_is_longer_than_a_message() -> None:
    """Signed, sealed and kept, and then no recipient could ever fetch it."""
    assert padded_size(10**12) == LARGEST_RESULT
