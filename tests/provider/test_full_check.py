"""A source against a draft, before the day: all that is wrong at once, and never a cell."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policy.document import Policy, PolicyInvalid
from policy.sections import Dataset
from policy.syntax import PolicySyntax
from provider.cli_provider import provider
from provider.dry_run import DatasetUnclear, Wanted, dataset_in
from provider.full_check import Found, full_check
from provider.sources import of_table, parse_source
from provider.sources.base import SourceEmpty, SourceTooLong
from provider.sources.survey import _MOST_MISFITS
from tests.provider.desk import CANARY
from tests.provider.formats import FORMATS, csv_text, sqlite
from tests.support.enclave import rows
from tests.support.parties import ROOTS, Consortium
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process

COLUMNS = (
    '{ patient = "string", age = { type = "int64", min = 0, max = 120 }, bmi = "float64", '
    'y = "int64" }'
)
WORLD = Consortium.create(columns=COLUMNS)
POLICY = WORLD.policy()
HEADER = "patient,age,bmi,y\n"


def declared(policy: Policy = POLICY) -> Dataset:
    found = policy.dataset_by_id("train_party_1")
    assert found is not None
    return found


def check(spec: Any, policy: Policy = POLICY) -> Found:
    wanted = Wanted.of(policy, "train_party_1")
    found = full_check(spec, wanted.dataset, wanted.needed)
    if found.refusal is not None:
        count_refusal()
    assert CANARY not in "\n".join(json.dumps(fault.as_json()) for fault in found.faults)
    return found


def wrong(found: Found) -> list[tuple[str, str | None, int | None]]:
    return [(fault.code, fault.column, fault.count) for fault in found.faults]


def good_lines(count: int = 30) -> str:
    return "".join(f"p{i},{40 + i},2{i % 10}.5,{i % 2}\n" for i in range(count))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_good_source_is_read_once_and_its_persons_are_counted(kind: str, tmp_path: Path) -> None:
    found = check(FORMATS[kind](tmp_path, rows(1)))
    assert (found.rows, found.persons, found.faults, found.refusal) == (60, 60, (), None)
    assert found.checked is not None
    assert found.needed == {"train": 20}


def test_every_fault_of_a_csv_file_at_once(tmp_path: Path) -> None:
    """Columns, rows and counts per kind; the cells stay where they are."""
    bad = f"q1,200,1.5,0\nq2,old-{CANARY},1.5,0\n,44,{CANARY},1\n q4,-1,nan,\n"
    found = check(csv_text(tmp_path, HEADER + good_lines() + bad))
    assert wrong(found) == [
        ("value-null", "patient", 1),
        ("person-spelled-with-blanks", "patient", 1),
        ("column-type-differs", "age", 1),
        ("value-outside-domain", "age", 2),
        ("column-type-differs", "bmi", 1),
        ("value-not-finite", "bmi", 1),
        ("value-null", "y", 1),
    ]
    assert [fault.rows for fault in found.faults] == [
        (33,),
        (34,),
        (32,),
        (31, 34),
        (33,),
        (34,),
        (34,),
    ]
    assert found.rows == 34
    assert found.refusal is not None
    assert all(fault.fix for fault in found.faults)


def test_every_column_that_cannot_be_read_at_once(tmp_path: Path) -> None:
    """And what is wrong in the others."""
    table = rows(1).drop_columns(["y"])
    at = table.schema.get_field_index("bmi")
    table = table.set_column(at, "bmi", pa.array(["thin"] * 60))
    table = table.set_column(1, "age", pa.array([130] + [40] * 59))
    found = check(FORMATS["parquet"](tmp_path, table))
    assert wrong(found) == [
        ("column-missing", "y", None),
        ("column-type-differs", "bmi", None),
        ("value-outside-domain", "age", 1),
    ]
    assert found.persons == 60


def test_every_fault_of_a_database(tmp_path: Path) -> None:
    table = rows(1, 30).set_column(1, "age", pa.array(["x", *["40"] * 29]))
    found = check(sqlite(tmp_path, table))
    assert wrong(found) == [("column-type-differs", "age", 30)]


def test_files_of_one_dataset_are_told_apart(tmp_path: Path) -> None:
    for name, last in (("a", "q,40,1.5,7"), ("b", "r,400,1.5,7")):
        (tmp_path / f"{name}.csv").write_text(f"{HEADER}{good_lines()}{last}\n")
    found = check(parse_source({"kind": "csv", "path": ["a.csv", "b.csv"]}, tmp_path))
    (fault,) = found.faults
    assert Path(fault.source).name == "b.csv"
    assert (fault.rows, found.rows, found.persons) == ((31,), 62, 32)


def test_a_column_that_is_wrong_throughout_is_said_in_time(tmp_path: Path) -> None:
    """Decimal commas: a thousand rows are counted, and "more" is said."""
    lines = "".join(f'p{i},40,"1,{i}",0\n' for i in range(20_000))
    found = check(csv_text(tmp_path, HEADER + lines))
    (fault,) = found.faults
    assert (fault.code, fault.column, fault.at_least) == ("column-type-differs", "bmi", True)
    assert fault.count is not None
    assert fault.count >= _MOST_MISFITS
    assert fault.rows == (1, 2, 3, 4, 5)


def test_other_faults_of_such_a_column_are_counted_too(tmp_path: Path) -> None:
    """Words in an age hide no age of 400, before them or after; "at least" is said."""
    lines = [f"p{i},{'old' if 100 <= i < 20_000 else 40},1.5,0" for i in range(80_000)]
    lines[7] = lines[-9] = "q,400,1.5,0"
    found = check(csv_text(tmp_path, HEADER + "\n".join(lines) + "\n"))
    assert wrong(found)[1:] == [("value-outside-domain", "age", 2)]
    assert [fault.at_least for fault in found.faults] == [True, True]
    assert found.faults[1].rows == (8, 79_992)


@pytest.mark.parametrize("kind", ["csv", "sql"])
def test_nulls_of_such_a_column_are_counted_too(kind: str, tmp_path: Path) -> None:
    """All of them, wherever they stand among the words; a word is none."""
    nulls = {3, 150, 5_000, 9_000, 29_999}
    ages = [
        None if i in nulls else "old" if 100 <= i < 9_500 or i > 29_000 else "40"
        for i in range(30_000)
    ]
    if kind == "csv":
        lines = "".join(f"p{i},{age or ''},1.5,0\n" for i, age in enumerate(ages))
        spec: Any = csv_text(tmp_path, HEADER + lines)
    else:
        table = rows(1, len(ages)).set_column(1, "age", pa.array(ages, pa.string()))
        spec = sqlite(tmp_path, table)
    by_code = {fault.code: fault for fault in check(spec).faults}
    assert by_code.keys() == {"column-type-differs", "value-null"}
    null = by_code["value-null"]
    assert (null.count, null.at_least) == (len(nulls), False)
    assert null.rows == tuple(sorted(row + 1 for row in nulls))


def test_too_few_persons(tmp_path: Path) -> None:
    """R05: many rows of few persons; the enclave would refuse after the release."""
    few = rows(1, patient=[f"patient-{i % 19}" for i in range(60)])
    found = check(FORMATS["parquet"](tmp_path, few))
    assert wrong(found) == [("persons-too-few", None, None)]
    assert (found.persons, found.checked) == (19, None)
    enough = rows(1, patient=[f"patient-{i % 20}" for i in range(60)])
    assert check(FORMATS["parquet"](tmp_path, enough)).faults == ()


def test_a_source_that_ends_badly_or_is_too_long(tmp_path: Path) -> None:
    cut = check(csv_text(tmp_path, HEADER + good_lines() + "q,400,1.5,0\nr,40,1.5"))
    assert wrong(cut) == [("value-outside-domain", "age", 1), ("source-cut", None, None)]
    assert cut.faults[0].at_least  # what came behind is not known
    assert (cut.rows, cut.persons) == (None, None)
    assert wrong(check(csv_text(tmp_path, HEADER)))[0][0] == SourceEmpty.code
    short = WORLD.policy_text([("max_rows = 100_000", "max_rows = 29")])
    few = Policy.parse(short.encode(), known_roots=ROOTS)
    long = check(csv_text(tmp_path, HEADER + good_lines() + "q,400,1.5,0\n"), few)
    assert [fault.code for fault in long.faults] == ["value-outside-domain", SourceTooLong.code]


def test_names_given_to_columns_hold_in_the_second_reading(tmp_path: Path) -> None:
    text = "patient,Age (y),bmi\n" + "p,200,1.5\n"
    found = check(csv_text(tmp_path, text, rename={"Age (y)": "age"}))
    assert [(code, column) for code, column, _ in wrong(found)][:2] == [
        ("column-missing", "y"),
        ("value-outside-domain", "age"),
    ]


def test_a_table_in_memory() -> None:
    bad = rows(1, 30).set_column(1, "age", pa.array([400] * 30))
    assert wrong(check(of_table(bad))) == [("value-outside-domain", "age", 30)]


def test_a_dataset_that_the_draft_does_not_have(tmp_path: Path) -> None:
    draft = tmp_path / "policy.toml"
    draft.write_text(WORLD.policy_text())
    with refused(DatasetUnclear):
        dataset_in(draft, "train_party_9")
    assert dataset_in(draft, "train_party_1") == Wanted(declared(), {"train": 20})


def test_a_draft_that_is_not_finished_elsewhere(tmp_path: Path) -> None:
    """Rows are checked while the enclave is still being built; what is unclear is not guessed."""
    draft = tmp_path / "policy.toml"
    blank = WORLD.policy_text([("c0ffee", "<64 hex>")])
    draft.write_text(blank)
    found = dataset_in(draft, "train_party_1")
    assert (found.dataset, found.needed, found.problems) == (declared(), {"train": 20}, 1)
    draft.write_text(blank.replace('run = "logistic_regression"', 'run = "logistic"'))
    assert dataset_in(draft, "train_party_1").needed == {}
    draft.write_text(blank.replace('subject = "patient"', 'subject = "person"', 1))
    with refused(PolicyInvalid):
        dataset_in(draft, "train_party_1")
    assert dataset_in(draft, "train_party_2").problems == 2
    for instead in ("dataset = 5", "dataset = [5]", "computation = 5"):
        name = instead.partition(" ")[0]
        parts = re.split(r"(?m)^(?=\[\[)", blank)
        cut = "".join(part for part in parts if not part.startswith(f"[[{name}]]"))
        draft.write_text(f"{instead}\n{cut}")
        with refused(PolicyInvalid):
            dataset_in(draft, "train_party_9")
    draft.write_text(blank.replace("[[dataset]]", "[dataset]", 1))
    with refused(PolicySyntax):
        dataset_in(draft, "train_party_2")


def run(*words: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(provider, ["check", *map(str, words)])
    assert result.exit_code == status, result.output
    if status:
        count_refusal()
    assert CANARY not in result.output
    return result.stdout


def test_check_against_a_draft_on_the_command_line(tmp_path: Path) -> None:
    """No state folder, no keys, no enclave: and none is made."""
    draft, source = tmp_path / "policy.toml", tmp_path / "rows.csv"
    draft.write_text(WORLD.policy_text())
    source.write_text(HEADER + good_lines())
    words = (draft, "train_party_1", "--source", source)
    assert "30 distinct persons; train needs 20" in run(*words)
    told = json.loads(run(*words, "--json"))
    assert (told["rows"], told["persons"], told["stamped"], told["error"]) == (30, 30, False, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.toml", "rows.csv"]
    stamped = json.loads(run(*words, "--json", "--state", tmp_path / "state"))
    assert stamped["stamped"]
    source.write_text(HEADER + good_lines() + f"{CANARY},200,x,0\n")
    told = json.loads(run(*words, "--json", status=3))
    assert [fault["code"] for fault in told["faults"]] == [
        "value-outside-domain", "column-type-differs",
    ]  # fmt: skip
    assert told["error"]["code"] in {fault["code"] for fault in told["faults"]}
    shown = run(*words, status=3)
    assert "row 31 must be from 0 to 120" in shown
    assert shown.count("to do:") == 2
    run("a", "b", "c", "--source", source, status=2)


def test_one_spelling_of_persons_is_asked_of_all_rows(tmp_path: Path) -> None:
    """R06: `P1 ` and `P1` would count as two."""
    world = replace(
        WORLD, columns=COLUMNS.replace('"string"', '{ type = "string", spelling = "folded" }', 1)
    )
    text = HEADER + good_lines() + "P1,40,1.5,0\nP2,40,1.5,0\n"
    found = check(csv_text(tmp_path, text), world.policy())
    assert wrong(found) == [("person-spelled-in-capitals", "patient", 2)]


LINES = WORLD.policy_text([("c0ffee", "<64 hex>")]).split("\n")


@given(st.data())
def test_a_draft_that_is_half_written_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Lines are gone, doubled or cut short, as while somebody writes."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("drop", "double", "cut", "another"))):
            case "drop":
                del lines[place]
            case "double":
                lines.insert(place, lines[place])
            case "cut":
                lines[place] = lines[place][: data.draw(st.integers(0, len(lines[place])))]
            case "another":
                value = data.draw(st.sampled_from(("1", "[]", "[5]", "{}", '"x"', "true")))
                lines[place] = f"{lines[place].partition('=')[0]}= {value}"
    draft = tmp_path_factory.mktemp("draft") / "policy.toml"
    draft.write_text("\n".join(lines))
    with suppress(RatlsError):
        found = dataset_in(draft, "train_party_1")
        assert all(type(least) is int for least in found.needed.values())
