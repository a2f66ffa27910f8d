"""A dataset is proposed from the rows: what a check then accepts, and nothing of a person."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policy.document import Policy
from policy.rows import ColumnMissing
from provider.cli_provider import provider
from provider.describe import Described, SubjectUnfit, describe, outwards
from provider.full_check import full_check
from provider.identifying import Values, suspicion
from provider.sources import SourceSpec, parse_source
from provider.sources.base import SourceEmpty
from provider.sources.records import SourceCut
from tests.provider.desk import CANARY
from tests.provider.formats import FORMATS, csv_text
from tests.support.enclave import rows
from tests.support.parties import ROOTS, Consortium
from tests.support.refusal import count_refusal, refused

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process

WORLD = Consortium.create()


def described(spec: SourceSpec, subject: str = "patient") -> Described:
    return describe(spec, subject=subject)


def block_of(found: Described) -> str:
    return found.block("train_party_1", "alice-clinic")


def policy_with(block: str) -> Policy:
    """The consortium's policy with this block for Alice's dataset."""
    alone = 'inputs = ["train_party_1", "train_party_2"]'
    text = WORLD.policy_text([(alone, 'inputs = ["train_party_2"]')], train_party_1=block + "\n")
    return Policy.parse(text.encode(), known_roots=ROOTS)


def require_accepted(spec: SourceSpec, found: Described) -> None:
    policy = policy_with(block_of(found))
    dataset = policy.dataset_by_id("train_party_1")
    assert dataset is not None
    assert full_check(spec, dataset, {}).faults == ()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_proposed_for_a_good_source_passes_its_check(kind: str, tmp_path: Path) -> None:
    spec = FORMATS[kind](tmp_path, rows(1))
    found = described(spec)
    require_accepted(spec, found)
    columns = tomllib.loads(block_of(found))["dataset"][0]["columns"]
    assert list(columns) == ["patient", "age", "bmi", "y"]
    assert columns["patient"] == "string"
    assert columns["y"] == {"type": "int64", "min": 0, "max": 1}
    assert (found.left_out, found.remarks) == ({}, ())


HEADER = "patient,age,smoker,visit,seen,weight,code,note\n"
LINES = "".join(
    f"{CANARY}-{i},{31 + i},{'true' if i % 3 else 'false'},2024-03-{1 + i:02},"
    f"2024-03-01T00:00:{i:02}Z,{'' if i == 7 else 70.25 + i},00{i % 4},\n"
    for i in range(25)
)


def test_types_of_a_csv_file(tmp_path: Path) -> None:
    """Nothing in it says what a column is; each gets the first type that fits all its values."""
    spec = csv_text(tmp_path, HEADER + LINES)
    found = described(spec)
    assert found.columns == {
        "patient": '"string"',
        "age": '{ type = "int64", min = 30, max = 60 }',
        "smoker": '"bool"',
        "visit": '{ type = "date32", min = 2024-01-01, max = 2024-12-31 }',
        "seen": '{ type = "timestamp[us, UTC]", min = 2024-01-01T00:00:00Z, '
        "max = 2025-01-01T00:00:00Z }",
        "weight": '{ type = "float64?", min = 70.0, max = 100.0 }',
        "code": '"string"',
    }
    assert found.left_out == {"note": "it has no value at all"}
    assert CANARY not in block_of(found) + str(found.remarks)
    assert any("'weight'" in remark for remark in found.remarks)
    require_accepted(spec, found)


def test_names_given_in_a_source_table_are_the_ones_proposed(tmp_path: Path) -> None:
    spec = csv_text(
        tmp_path,
        "id;Wert\nq1;1,5\nq2;2,5\n",
        delimiter=";",
        decimal=",",
        rename={"id": "patient", "Wert": "value"},
    )
    found = described(spec)
    assert list(found.columns) == ["patient", "value"]
    require_accepted(spec, found)


def test_columns_that_no_policy_can_name_or_type_are_left_out(tmp_path: Path) -> None:
    table = pa.table(
        {
            "patient": ["a", "b"],
            "small": pa.array([1, 2], pa.int16()),
            "price": pa.array([1, 2], pa.decimal128(5, 2)),
            "local": pa.array([1, 2], pa.timestamp("us")),
            "a/b": [1, 2],
            "empty": pa.nulls(2),
            "age": [40, 50],
        }
    )
    spec = FORMATS["parquet"](tmp_path, table)
    found = described(spec)
    assert list(found.columns) == ["patient", "age"]
    assert set(found.left_out) == {"small", "price", "local", "a/b", "empty"}
    assert "pa.int64()" in found.left_out["small"]
    require_accepted(spec, found)


IDENTIFYING = ["E-Mail", "last_name", "Vorname", "dateOfBirth", "zip", "patient id", "ssn", "phone"]


@pytest.mark.parametrize("name", IDENTIFYING)
def test_a_column_whose_name_says_who_somebody_is(name: str) -> None:
    assert suspicion(name, None) is not None


@pytest.mark.parametrize("name", ["age", "bmi", "y", "marker_12", "ship", "tell", "surgery"])
def test_a_column_whose_name_says_nothing(name: str) -> None:
    assert suspicion(name, None) is None


def values(*texts: Any) -> Values:
    seen = Values()
    seen.add(pa.array(texts))
    return seen


def test_a_column_whose_values_say_who_somebody_is() -> None:
    assert suspicion("a", values(*(f"p{i}@example.org" for i in range(30)))) is not None
    assert suspicion("a", values(*(["+41 44 632 11 11"] * 30))) is not None
    assert suspicion("a", values(*range(1000, 1300))) is not None
    assert suspicion("a", values(*range(20, 90))) is None
    assert suspicion("a", values(*(["rare"] * 30))) is None
    assert suspicion("a", values(*(i % 5 for i in range(30)))) is None
    assert suspicion("a", values("a@example.org")) is None


def test_direct_identifiers_are_left_out_with_the_line_that_would_add_them(tmp_path: Path) -> None:
    lines = "".join(f"p{i},{i}@example.org,{i % 3}\n" for i in range(30))
    found = described(csv_text(tmp_path, "patient,contact,y\n" + lines))
    assert list(found.columns) == ["patient", "y"]
    assert found.left_out["contact"].endswith('contact = "string"')
    assert len(found.remarks) == 1


def test_what_must_be_mended_in_the_subject_is_said(tmp_path: Path) -> None:
    """The block does not hide it: a `?` on the subject is no policy."""
    found = described(csv_text(tmp_path, "patient,y\n p1,1\np2,0\n,1\n"))
    assert found.columns["patient"] == '"string"'
    assert len([r for r in found.remarks if r.startswith("to be mended: 'patient'")]) == 2


def test_a_subject_that_names_nobody(tmp_path: Path) -> None:
    spec = csv_text(tmp_path, "patient,bmi\np1,1.5\n")
    with refused(SubjectUnfit):
        described(spec, subject="bmi")
    with refused(ColumnMissing):
        described(spec, subject="person")
    assert described(spec).columns["patient"] == '"string"'


def test_a_source_that_no_check_would_read(tmp_path: Path) -> None:
    with refused(SourceCut):
        described(csv_text(tmp_path, "patient,y\np1,1\np2,"))
    with refused(SourceEmpty):
        described(csv_text(tmp_path, "patient,y\n"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"patient,y\n{name},1\n")
    both = described(parse_source({"kind": "csv", "path": ["a.csv", "b.csv"]}, tmp_path))
    assert list(both.columns) == ["patient", "y"]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(NUMBERS | st.integers(-100, 100).map(float), min_size=2, max_size=2).map(sorted))
def test_ranges_of_floats_hold_what_they_were_made_from(bounds: list[float]) -> None:
    low, high = bounds
    found = outwards("float64", low, high)
    assert found is not None
    ends = tomllib.loads(f"a = [{found[0]}, {found[1]}]")["a"]
    assert ends[0] <= low <= high <= ends[1]


@given(st.lists(WHOLE | st.integers(-100, 100), min_size=2, max_size=2).map(sorted))
def test_ranges_of_whole_numbers_hold_what_they_were_made_from(bounds: list[int]) -> None:
    low, high = bounds
    found = outwards("int64", low, high)
    assert found is not None
    ends = tomllib.loads(f"a = [{found[0]}, {found[1]}]")["a"]
    assert -(2**63) <= ends[0] <= low <= high <= ends[1] < 2**63
    assert outwards("int32", 5, 2**31 - 1) == ("0", f"{2**31 - 1:_}")


@pytest.mark.parametrize(
    ("type_", "low", "high", "ends"),
    [
        ("int64", 18, 93, ("10", "100")),
        ("int64", 20, 90, ("10", "100")),  # the youngest and the oldest person are not shown
        ("int64", 0, 1, ("0", "1")),
        ("int64", 1951, 2004, ("1_950", "2_010")),
        ("float64", 18.4, 41.0, ("10.0", "50.0")),
        ("date32", date(1951, 4, 3), date(2004, 5, 6), ("1951-01-01", "2004-12-31")),
        ("timestamp[us, UTC]", datetime(1, 1, 1, tzinfo=UTC), datetime(2, 1, 1, tzinfo=UTC), None),
    ],
)
def test_ranges_are_round(type_: str, low: Any, high: Any, ends: tuple[str, str] | None) -> None:
    assert outwards(type_, low, high) == ends


def run(*words: str | Path, status: int = 0) -> Any:
    result = CliRunner().invoke(provider, ["describe", *map(str, words)])
    assert result.exit_code == status, result.output
    assert CANARY not in result.output
    return result


def test_describe_on_the_command_line(tmp_path: Path) -> None:
    """Its stdout is the block, and nothing else."""
    source = tmp_path / "rows.csv"
    source.write_text(HEADER + LINES)
    words = (source, "--id", "train_party_1", "--owner", "alice-clinic", "--subject", "patient")
    printed = run(*words)
    assert policy_with(printed.stdout).dataset_by_id("train_party_1") is not None
    assert "left out: 'note'" in printed.stderr
    told = json.loads(run(*words, "--json").stdout)
    assert told["dataset"] == printed.stdout
    assert set(told["left_out"]) == {"note"}
    count_refusal()
    run(source, "--id", "a", "--owner", "b", "--subject", "nobody", status=3)
