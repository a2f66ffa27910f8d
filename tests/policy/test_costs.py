"""P24, P20: what is read before any signature is checked; `benchmarks/policy_cost.py` has times."""

from __future__ import annotations

import tracemalloc
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from policy.agreement import Agreement
from policy.document import Policy, PolicyInvalid
from policy.errors import PolicyFormatError, ResourceLimitError, TicketFormatError
from policy.keys import PublicKey
from policy.problems import PROBLEMS_CAP
from policy.sections import AgreementRule, Computation, Dataset, Enclave, Party, Platform
from policy.syntax import MARKS_CAP, PolicyTooLarge
from policy.task import Task
from policy.trust_domain import TrustDomain
from tests.support.costly import (
    LISTS,
    WORLD,
    base,
    costly_agreements,
    costly_tasks,
    crossed,
    filled,
    texts,
    toml,
)
from tests.support.parties import AT, ROOTS
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow
MEGABYTES = 200_000_000


def read(raw: bytes) -> Policy:
    return Policy.parse(raw, known_roots=ROOTS)


def unsigned(raw: bytes) -> Any:
    return Agreement.parse(raw, ROOTS)


def lists(model: type[BaseModel], path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Every list and table below a model of the schema."""
    for name, field in model.model_fields.items():
        if any(
            get_origin(a) in (tuple, Mapping, types.MappingProxyType)
            for a in _kinds(field.annotation)
        ):
            yield (*path, name)
        for kind in _kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from lists(kind, (*path, name))


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    if get_origin(annotation) not in (tuple, Mapping):
        for inner in get_args(annotation):
            yield from _kinds(inner)


def test_every_list_of_the_schema_is_filled() -> None:
    import collections.abc

    found: set[tuple[str | int, ...]] = {
        (name,) for name in ("party", "enclave", "dataset", "computation")
    }
    assert get_origin(Dataset.model_fields["columns"].annotation) is collections.abc.Mapping
    for model, path in (
        (AgreementRule, ("agreement",)),
        (Party, ("party", 0)),
        (Enclave, ("enclave", 0)),
        (TrustDomain, ("enclave", 1)),
        (Platform, ("platform",)),
        (Dataset, ("dataset", 0)),
        (Computation, ("computation", 0)),
    ):
        found |= set(lists(model, path))
    # The join is one of the second computation, as columns of a join have names of their own.
    listed = {("computation", 0, *p[2:]) if p[:2] == ("computation", 1) else p for p in LISTS}
    assert {path for path in listed if path[:3] != ("computation", 0, "parameters")} == {
        path for path in found if path[:3] != ("computation", 0, "parameters")
    }


def test_the_policy_that_is_filled_is_honest() -> None:
    """The twin of all that follows."""
    assert len(read(toml(base())).party) == 4


@pytest.mark.parametrize("path", LISTS, ids=lambda p: ".".join(map(str, p)))
def test_a_list_up_to_the_size_cap(path: tuple[str | int, ...]) -> None:
    """Right entries, and wrong ones: refused, with few problems, in little memory."""
    for entry in (LISTS[path], lambda i: i):
        count_refusal()
        raw = filled(path, entry)
        tracemalloc.start()
        try:
            with pytest.raises((PolicyFormatError, ResourceLimitError)) as caught:
                read(raw)
            assert tracemalloc.get_traced_memory()[1] < MEGABYTES
        finally:
            tracemalloc.stop()
        if isinstance(caught.value, PolicyInvalid):
            assert len(caught.value.problems) <= PROBLEMS_CAP


def test_many_columns_in_many_inputs() -> None:
    """135,373 features in 254 inputs took 6 GB: each pair was a problem of its own."""
    for name, raw in crossed():
        if "missing" not in name:
            with suppress(PolicyTooLarge):
                read(raw)
            continue
        count_refusal()
        with pytest.raises((PolicyInvalid, PolicyTooLarge)) as caught:
            read(raw)
        assert len(getattr(caught.value, "problems", ())) <= PROBLEMS_CAP


@pytest.mark.parametrize("case", list(texts()), ids=lambda c: c[0])
def test_texts_that_cost_before_they_mean_anything(case: tuple[str, bytes]) -> None:
    if case[0] in ("one comment", "dates", "letters of other scripts"):  # comments are free
        read(case[1])
        return
    count_refusal()
    with pytest.raises((PolicyFormatError, ResourceLimitError)):
        read(case[1])


def test_text_of_as_many_values_as_may_be() -> None:
    """Below the cap a long policy is read; one value more is refused before TOML is read."""
    text = WORLD.policy_text()
    have = sum(map(text.count, ",=\n"))
    read((text + "\n" * (MARKS_CAP - have)).encode())
    with refused(PolicyTooLarge):
        read((text + "\n" * (MARKS_CAP - have + 1)).encode())


def test_no_signature_is_checked_in_what_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """P20: a million signatures must not cost a million verifications."""

    def never(self: PublicKey, message: bytes, signature: bytes) -> bool:
        raise AssertionError("a signature was checked")

    policy = WORLD.policy()
    monkeypatch.setattr(PublicKey, "holds", never)
    for _, raw in costly_agreements():
        count_refusal()
        with pytest.raises(RatlsError):
            unsigned(raw)
    for name, raw in costly_tasks():
        if "signed" not in name:
            with pytest.raises((TicketFormatError, PolicyFormatError, ResourceLimitError)):
                Task.open(raw, policy, AT)
