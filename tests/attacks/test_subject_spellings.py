"""R06: one person in several spellings, so that k persons are there who are not.

Rows of one person under `P1`, `P1 ` and `P1` with an invisible joiner are rows of three persons to
whoever counts texts. Nothing is changed on the way: a spelling that is not the one form is
refused, at the source before any connection, and in the enclave, where a provider that skips its
own checks meets the same rule.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_app.intake import RowsNotAsDeclared
from policy.document import PolicyInvalid
from policy.row_texts import (
    PersonSpelledInCapitals,
    PersonSpelledInParts,
    PersonSpelledInvisibly,
    PersonSpelledWithBlanks,
    PersonUnnamed,
)
from policy.rows import ValueNull, arrow_schema, check_batch
from policy.sections import Dataset
from policy.show import as_json
from policy.text import is_composed, is_folded, is_visible
from tests.enclave_app.agreed import computation
from tests.provider.desk import Desk
from tests.provider.formats import FORMATS, read, scan
from tests.support.enclave import EnclaveWorld, refused_by_enclave, rows
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

CANARY = "Zoé"
K = 5
# Five persons by their bytes, one by every other measure.
FIVE = [CANARY, f"{CANARY} ", f" {CANARY}", unicodedata.normalize("NFD", CANARY), f"{CANARY}\u200b"]
SPELLINGS: list[tuple[str, type[RatlsError]]] = [
    ("", PersonUnnamed),
    (" ", PersonUnnamed),
    ("P1 ", PersonSpelledWithBlanks),
    (" P1", PersonSpelledWithBlanks),
    ("\t", PersonSpelledInvisibly),
    ("P1\n", PersonSpelledInvisibly),
    ("P1\0", PersonSpelledInvisibly),
    ("P\u200b1", PersonSpelledInvisibly),  #  zero-width space
    ("P1\ufeff", PersonSpelledInvisibly),  #  byte order mark
    ("\u202eP1", PersonSpelledInvisibly),  #  right to left
    ("P\u00ad1", PersonSpelledInvisibly),  #  soft hyphen
    ("P\u00a01", PersonSpelledInvisibly),  #  no-break space
    ("P1\ufe0f", PersonSpelledInvisibly),  #  variation selector: of no category that hides
    ("P1\U000e0100", PersonSpelledInvisibly),
    ("\u3164", PersonSpelledInvisibly),  #    a filler, drawn as nothing
    ("Zoe\u0301", PersonSpelledInParts),
    ("\u212b1", PersonSpelledInParts),  #     the ångström sign, which is Å
]
HONEST = ["P1", "p 1", "Zoé Müller", "患者一", "مريض", "0", "-", "a" * 1000, "\u0301a"]


def dataset(**column: str) -> Dataset:
    """Persons alone."""
    patient = {"type": "string", **column}
    return Dataset.model_validate(
        {"id": "d", "owner": "o", "subject": "patient", "max_rows": 99}
        | {"columns": {"patient": patient}}
    )


def check(ids: Sequence[str | None], of: Dataset, rows_before: int = 0) -> None:
    schema = arrow_schema(of)
    batch = pa.RecordBatch.from_arrays([pa.array(ids, pa.string())], schema=schema)
    check_batch(batch, of, rows_before=rows_before)


# The seen case.


def test_one_person_in_five_spellings_is_not_five_persons() -> None:
    """Sent past the provider's own checks. Five persons of Alice's let the mean of one leave."""
    section = computation("summary_statistics", 'columns = ["age"]', ["statistics"], minimum=K)
    world = EnclaveWorld.create(computation=section)
    alice, task = world.consortium.alice, world.task(parameters={})
    ages = [70, 71, 72, 73, 74]
    with world.running() as live:
        with refused_by_enclave(RowsNotAsDeclared):
            live.release(alice, "train_party_1", rows(1, K, patient=FIVE, age=ages), task)
        told = live.stream.getvalue()
        assert CANARY not in told
        assert ascii(CANARY)[1:-1] not in told
        # Five persons, and the same enclave takes them.
        live.release(alice, "train_party_1", rows(1, K, age=ages), task)


@pytest.mark.parametrize("form", list(FORMATS))
def test_it_is_refused_before_any_connection(form: str, tmp_path: Path) -> None:
    table = pa.table({"patient": [*FIVE, "P2", "P3"]})
    with refused(PersonSpelledWithBlanks) as seen:
        scan(FORMATS[form](tmp_path, table), dataset())
    assert "rows 2, 3" in seen.error.found
    assert CANARY not in str(seen.error)
    one = pa.table({"patient": [CANARY] * 5})
    assert read(FORMATS[form](tmp_path, one), dataset()).to_pydict() == one.to_pydict()


def test_a_push_is_refused_and_recorded_once(tmp_path: Path) -> None:
    """Nothing was sent, the journal says why, and the same task takes honest rows afterwards."""
    world = EnclaveWorld.create()
    with world.running() as live:
        desk, task = Desk.of("alice", world, tmp_path, live.address), world.task()
        desk.write(rows(1, K, patient=FIVE))
        before = len(live.log)
        with desk.refuses(PersonSpelledWithBlanks):
            desk.push(task)
        assert (len(desk.journal), len(live.log)) == (1, before)
        assert CANARY not in "".join(map(str, desk.journal))
        desk.write(rows(1))
        assert desk.push(task).commit.rows == 60


# The kind.


@pytest.mark.parametrize(("spelled", "leaf"), SPELLINGS, ids=[ascii(s) for s, _ in SPELLINGS])
def test_another_spelling_is_refused_with_its_row(spelled: str, leaf: type[RatlsError]) -> None:
    with refused(leaf) as seen:
        check([*HONEST, spelled], dataset(), rows_before=100)
    assert f"row {101 + len(HONEST)}" in seen.error.found
    check(HONEST, dataset())


def test_a_person_without_a_name() -> None:
    with refused(ValueNull):
        check(["P1", None], dataset())


def test_many_wrong_rows_are_named_in_one_refusal() -> None:
    with refused(PersonUnnamed) as seen:
        check(["P1", *[""] * 7], dataset())
    assert "rows 2, 3, 4, 5, 6 and 2 more" in seen.error.found


@pytest.mark.parametrize("capital", ["P1", "É", "ẞ", "ß", "Σ", "ς"])
def test_case_counts_unless_the_parties_agree_otherwise(capital: str) -> None:
    """`P1` and `p1` may be two persons of one clinic: only the policy can say that they are not."""
    check([capital, "p1"], dataset())
    check([capital, "p1"], dataset(spelling="canonical"))
    with refused(PersonSpelledInCapitals):
        check([capital, "p1"], dataset(spelling="folded"))
    check(["p1", "zoé", "strasse", "患者"], dataset(spelling="folded"))


_texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=6)


@given(ids=_texts, folded=st.booleans())
@settings(max_examples=300)
def test_what_is_judged_at_once_is_judged_as_one_by_one(ids: list[str], folded: bool) -> None:
    """All ids are joined and judged together; by another path, each for itself."""
    of = dataset(spelling="folded") if folded else dataset()

    def fits(id_: str) -> bool:
        whole = bool(id_) and id_.strip(" ") == id_ and unicodedata.normalize("NFC", id_) == id_
        seen = all(unicodedata.category(c)[0] != "C" for c in id_) and is_visible(id_)
        return whole and seen and (not folded or id_.casefold() == id_)

    if all(fits(id_) for id_ in ids):
        check(ids, of)
    else:
        count_refusal()
        with pytest.raises(RatlsError):
            check(ids, of)


def test_a_joined_text_hides_nothing_at_its_seams() -> None:
    """A combining mark at the start of an id would ride on the id before it."""
    for text, rule in (("e\u0301", is_composed), ("P\u200b", is_visible), ("P", is_folded)):
        assert not rule(text)
    check(["e", "\u0301a"], dataset())


@pytest.mark.parametrize("marks", ["\u0300\u0327", "\u0327\u0300", "\u0323\u0300\u0315", "\u1161"])
def test_an_id_of_many_accents_costs_no_more_than_its_bytes(marks: str) -> None:
    """R06 and R04: sorting accents one by one takes the square of their number, hours for these."""
    heap = "".join(mark * 200_000 for mark in marks)
    with refused(PersonSpelledInParts):
        check([f"a{heap}e\u0301"], dataset())


def test_people_are_shown_the_spelling_that_they_sign() -> None:
    shown = as_json(Consortium.create(columns=FOLDED).policy(computation=KEYED))
    assert shown["dataset"][0]["columns"]["ssn"] == "string, spelling folded"


def test_integers_have_one_spelling() -> None:
    of = Dataset.model_validate(
        {"id": "d", "owner": "o", "subject": "n", "max_rows": 99, "columns": {"n": "int64"}}
    )
    batch = pa.RecordBatch.from_arrays([pa.array([-1, 0, 7])], schema=arrow_schema(of))
    check_batch(batch, of)


# Texts that are compared across inputs: the keys of an intersection.

KEYED = computation("private_set_intersection", 'key = "ssn"', ["intersection_size"])
PLAIN = '{ patient = "int64", ssn = "string" }'
CANONICAL = '{ patient = "int64", ssn = { type = "string", spelling = "canonical" } }'
FOLDED = '{ patient = "int64", ssn = { type = "string", spelling = "folded" } }'


def joined_on(columns: str, alice: str | None = None) -> None:
    """The policy of an intersection; `alice` replaces the columns of her dataset alone."""
    world = Consortium.create(columns=columns)
    hers = world.sections()["train_party_1"].replace(columns, alice or columns)
    world.policy(computation=KEYED, train_party_1=hers)


def test_a_key_of_an_intersection_has_one_spelling_too() -> None:
    """`A-1` and `A-1 ` would be two members, or none where they are one."""
    with refused(PolicyInvalid):
        joined_on(PLAIN)
    with refused(PolicyInvalid):  # they would never meet
        joined_on(CANONICAL, alice=FOLDED)
    joined_on(CANONICAL)
    joined_on(FOLDED)


def test_a_key_is_refused_in_another_spelling() -> None:
    of = Dataset.model_validate(
        {"id": "d", "owner": "o", "subject": "patient", "max_rows": 99}
        | {"columns": {"patient": "int64", "ssn": {"type": "string", "spelling": "canonical"}}}
    )

    def keys(*ids: str) -> pa.RecordBatch:
        arrays = [pa.array(range(len(ids))), pa.array(ids)]
        return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(of))

    with refused(PersonSpelledWithBlanks):
        check_batch(keys("A-1", "A-1 "), of)
    check_batch(keys("A-1", "A-2"), of)


def test_only_texts_have_a_spelling() -> None:
    with refused(PolicyInvalid):
        joined_on('{ patient = { type = "int64", spelling = "canonical" }, ssn = "string" }')
