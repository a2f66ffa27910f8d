"""What two parties have in common, and nothing about what they have not."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_app.computations.private_set_intersection import IntersectionTooSmall, intersection
from enclave_app.gate import TooFewSubjects
from tests.enclave_app.agreed import Agreed, computation, gated
from tests.enclave_app.test_gate import Rule
from tests.support.enclave import EnclaveWorld, rows
from tests.support.refusal import count_refusal, refused

RUN, KEY = "private_set_intersection", 'key = "patient"'
SIZE, IDS = "intersection_size", "intersection_ids"
COLUMNS = '{ patient = "string", code = "int64" }'


def table(patients: list[str], codes: list[int] | None = None) -> pa.Table:
    numbers = list(range(len(patients))) if codes is None else codes
    return pa.table(
        {"patient": pa.array(patients, pa.string()), "code": pa.array(numbers, pa.int64())}
    )


def people(*numbers: int) -> list[str]:
    return [f"person-{n:03d}" for n in numbers]


def common(*tables: pa.Table, key: str = "patient", k: int = 3) -> dict[str, Any]:
    return gated(RUN, tables, {"key": key}, Rule(outputs=(SIZE, IDS), min_subjects_per_input=k))


# Right.


def test_the_policy_says_whether_size_or_ids_leave() -> None:
    """Agreeing on a number is not agreeing on names."""
    one, two = table(people(*range(10))), table(people(*range(6, 20)))
    head = {"schema": "ratls-result/1", "computation": "train", "run": RUN}
    size, ids = {SIZE: 4}, {IDS: people(6, 7, 8, 9)}
    for outputs, expected in (([SIZE], size), ([IDS], ids), ([SIZE, IDS], size | ids)):
        world = Agreed.on(RUN, KEY, outputs, columns=COLUMNS)
        assert world.answer(one, two) == head | expected


_names = st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=20)


@given(_names, _names, _names)
def test_intersection_is_that_of_sets(one: list[str], two: list[str], three: list[str]) -> None:
    """Duplicates, empty texts and every script; an independent path through Python's sets."""
    tables = [table(names) for names in (one, two, three)]
    assert intersection(tables, "patient") == sorted(set(one) & set(two) & set(three))


def test_integers_are_ordered_as_numbers() -> None:
    one = table(people(*range(4)), [10, 9, -1, 2**62])
    assert intersection([one, one], "code") == [-1, 9, 10, 2**62]


def test_one_intersection_has_one_written_form() -> None:
    """R15: order of rows, batches, repetitions and inputs could each carry bits."""
    world = Agreed.on(RUN, KEY, [SIZE, IDS], columns=COLUMNS)
    one, two = table(people(*range(10))), table(people(*range(6, 20)))
    turned = one.take([9, 9, 3, 8, 7, 7, 7, 6, 0, 1])
    pieces = pa.concat_tables([turned.slice(0, 3), turned.slice(3, 0), turned.slice(3)])
    assert world.document(pieces, two) == world.document(one, two) == world.document(two, one)


def test_who_is_not_in_the_intersection_is_not_in_the_bytes() -> None:
    """R10, R11: a filtered array may still hold all values, and dictionaries do."""
    world = Agreed.on(RUN, KEY, [IDS], columns=COLUMNS)
    document = world.document(
        table([*people(*range(8)), "CANARY-one"]), table([*people(*range(9)), "CANARY-two"])
    )
    assert isinstance(document, bytes)
    assert b"CANARY" not in document
    assert b"person-008" not in document


def test_length_of_the_ciphertext_tells_no_number() -> None:
    """R15: the host sees it. Three ids and a hundred are one size."""
    world = EnclaveWorld.create(computation=computation(RUN, KEY, [IDS]))
    with world.running() as live:
        lengths = set()
        for shared in (3, 100):
            task, alice, bob = world.task(parameters={}), rows(1, 200), rows(2, 200)
            patients = alice["patient"].to_pylist()[:shared] + bob["patient"].to_pylist()[shared:]
            bob = rows(2, 200, patient=patients)
            live.release(live.world.consortium.alice, "train_party_1", alice, task)
            live.release(live.world.consortium.bob, "train_party_2", bob, task)
            result = live.wait(live.world.consortium.carol, task)
            lengths.add(len(result.ciphertext))  # type: ignore[union-attr]
    assert len(lengths) == 1


# What may not be said.


@pytest.mark.parametrize("outputs", [[SIZE], [IDS], [SIZE, IDS]])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_intersection_of_too_few(shared: int, outputs: list[str]) -> None:
    """R05: 'one of your ten is in my list' is about one person; neither is its size told."""
    count_refusal()
    world = Agreed.on(RUN, KEY, outputs, columns=COLUMNS)
    one, two = people(*range(10)), people(*range(100, 110))
    code = IntersectionTooSmall.code
    assert world.answer(table(one), table(one[:shared] + two)) == code
    assert set(world.answer(table(one), table(one[:3] + two))) > set(outputs)


def test_the_same_few_persons_over_and_over() -> None:
    """R06: duplicates count once, in the intersection as in the input."""
    with refused(IntersectionTooSmall):
        common(table([*people(1, 2) * 50, *people(9)]), table(people(1, 2, 3, 4, 5)))
    common(table(people(1, 2, 3) * 50), table(people(1, 2, 3, 4, 5)))


def test_many_keys_of_one_person() -> None:
    """R06: where the key is not the person, a thousand keys can be one person's."""
    many = table(["one-person"] * 50 + people(*range(50)), list(range(100)))
    with refused(IntersectionTooSmall):
        common(many, table(people(*range(50))), key="code")
    common(table(people(*range(50))), table(people(*range(50))), key="code")


def test_provider_invents_persons_for_the_others_key() -> None:
    """R06: fifty persons of Alice's making share the one key that is Bob's single patient."""
    alice = table(people(*range(50)), [7] * 50)
    bob = table(people(*range(50)), [7, *range(100, 149)])
    for tables in ((alice, bob), (bob, alice)):
        with refused(IntersectionTooSmall):
            common(*tables, key="code")


def test_input_below_the_minimum() -> None:
    """R05, R06: the rule of every computation, before this one is run."""
    count_refusal()
    world = Agreed.on(RUN, KEY, [SIZE], columns=COLUMNS)
    large = table(people(*range(10)))
    assert world.answer(table(people(1, 1, 2)), large) == TooFewSubjects.code
    assert world.answer(table(people(1, 1, 2, 3)), large)[SIZE] == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("person-1", "person-1 "),
        ("person-1", "Person-1"),
        ("caf\u00e9", "cafe\u0301"),
        ("A", "\u0391"),
        ("", "\u200b"),
    ],
)
def test_ids_that_only_look_alike(one: str, other: str) -> None:
    """Folding them would join two persons, and say of one what is true of the other."""
    shared = people(1, 2, 3)
    assert common(table([*shared, one]), table([*shared, other]))[SIZE] == 3
    assert common(table([*shared, one]), table([*shared, one]))[SIZE] == 4


def test_ids_are_texts_that_json_can_carry() -> None:
    """R09: whatever an id holds, it stays one string and adds no member to the document."""
    strange = ['","rows":["x', "\n\u2028\x00", "\U0001f9ec", "\\"]
    world = Agreed.on(RUN, KEY, [IDS], columns=COLUMNS)
    document = world.document(table(strange), table(strange))
    assert isinstance(document, bytes)
    assert json.loads(document)[IDS] == sorted(strange)
    assert set(json.loads(document)) == {"schema", "computation", "run", IDS}
