"""Closed lists of texts: what a policy may list, and that nothing else leaves or arrives."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from enclave_app.intake import Intake, RowsNotAsDeclared
from enclave_app.limits import Limits, Need
from policy.difference import differences
from policy.document import Policy
from policy.row_texts import ValueUnlisted
from policy.rows import ValueNull, arrow_schema, check_batch
from policy.sections import VALUES_CAP, Column, Dataset
from policy.show import column_text
from tests.support.enclave import room
from tests.support.parties import ROOTS, Consortium
from tests.support.refusal import count_refusal, refused

LISTED = ["north", "south", "Süd West"]


def dataset(**change: Any) -> Dataset:
    column = {"type": "string", "values": LISTED} | change
    return Dataset.model_validate(
        {
            "id": "visits",
            "owner": "alice",
            "subject": "patient",
            "columns": {"patient": "string", "region": column},
            "max_rows": 100,
        }
    )


def batch(of: Dataset, *regions: str | None) -> pa.RecordBatch:
    people = [f"p{i}" for i in range(len(regions))]
    return pa.RecordBatch.from_arrays(
        [pa.array(people, pa.string()), pa.array(regions, pa.string())], schema=arrow_schema(of)
    )


@pytest.mark.parametrize("region", ["east", "North", "north ", "", "nörth", "s\u200bouth"])
def test_value_that_is_not_listed_does_not_leave_its_owner(region: str) -> None:
    """R09: a text of its own is a name, a note or a key that models would carry out."""
    with refused(ValueUnlisted):
        check_batch(batch(dataset(), "north", region), dataset())
    check_batch(batch(dataset(), "north", *LISTED), dataset())


def test_value_that_is_not_listed_is_refused_on_arrival() -> None:
    """By an enclave that was sent it all the same, in one code for all values."""
    declared, budget = dataset(), room(1 << 26, 1 << 26)

    def arrive(*regions: str) -> None:
        into = Intake(declared, Limits(), budget.of("alice", bytes(32)), Need(0), 1.0, b"r" * 16)
        into.join(0, 1).add(batch(declared, *regions).serialize(), bytes(16), last=True)
        into.close()

    with refused(RowsNotAsDeclared):
        arrive("north", "east")
    arrive("north", "south")


def test_refusal_names_the_row_and_no_value() -> None:
    with refused(ValueUnlisted) as seen:
        check_batch(batch(dataset(), "north", "secret-text"), dataset(), rows_before=10)
    assert "row 12" in str(seen.error)
    assert "secret" not in str(seen.error)
    assert "south" not in str(seen.error)


def test_no_value_is_another_rule() -> None:
    with refused(ValueNull):
        check_batch(batch(dataset(), "north", None), dataset())
    check_batch(batch(dataset(type="string?"), "north", None), dataset(type="string?"))


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("string", []),
        ("string", ["north"]),
        ("string", ["north", "north"]),
        ("string", ["north", ""]),
        ("string", ["north", " south"]),
        ("string", ["north", "a=b"]),
        ("string", ["north", "x" * 129]),
        ("string", ["north", "n\u200borth"]),
        ("string", ["north", 7]),
        ("string", "north"),
        ("string", [f"v{i}" for i in range(VALUES_CAP + 1)]),
        ("int64", ["1", "2"]),
        ("bool", ["true", "false"]),
    ],
)
def test_list_that_is_none(type_: str, values: Any) -> None:
    count_refusal()
    with pytest.raises(ValidationError):
        Column.model_validate({"type": type_, "values": values})
    assert Column.model_validate({"type": "string", "values": LISTED}).values == tuple(LISTED)


def test_list_in_a_policy_is_shown_and_its_change_is_seen() -> None:
    """P23: whoever is asked to sign sees the list, and a longer one counts as wider."""
    base = 'patient = "string", age = "int64", bmi = "float64", y = "int64"'
    policies = []
    for listed in ('"north", "south"', '"north", "south", "west"'):
        region = f'region = {{ type = "string", values = [{listed}] }}'
        world = Consortium.create(columns=f"{{ {base}, {region} }}")
        policies.append(Policy.parse(world.policy_text().encode(), known_roots=ROOTS))
    shown = [column_text(policy.dataset[0].columns["region"]) for policy in policies]
    assert shown == ["string, one of north, south", "string, one of north, south, west"]
    found = [d for d in differences(*policies) if "region" in str(d)]
    assert found
    assert all(d.effect == "allows" for d in found)


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from(LISTED) | st.text(max_size=5), max_size=8))
def test_fast_and_slow_way_agree(regions: list[str | None]) -> None:
    nullable = dataset(type="string?")
    fine = all(r is None or r in LISTED for r in regions)
    try:
        check_batch(batch(nullable, *regions), nullable)
    except ValueUnlisted:
        assert not fine
    else:
        assert fine
