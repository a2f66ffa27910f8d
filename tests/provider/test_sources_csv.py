"""A CSV file says nothing about its types: every cell is read as declared, or refused."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import ColumnMissing, ColumnTypeDiffers, ColumnUnexpected, ValueNotFinite
from provider.errors import (
    SourceCut,
    SourceEncoding,
    SourceLineBreakInCell,
    SourceLineMalformed,
)
from provider.sources.text import parse_text
from tests.provider.formats import csv_text, read, scan
from tests.provider.test_sources import dataset
from tests.support.refusal import refused
from verifier.errors import RatlsError

GOOD = "patient,age,bmi,y\np1,40,20.5,true\np2,41,-2e1,False\n"
CANARY = "CANARY-7f3a"


def one(folder: Path, cell: str, of: str, **table: Any) -> object:
    """The only cell that is read of a file of one row."""
    quoted = '"' + cell.replace('"', '""') + '"' if {",", '"', "\n"} & set(cell) else cell
    spec = csv_text(folder, f"x,z\n{quoted},0\n", **{"line_breaks": 1} | table)
    return read(spec, dataset(x=of))["x"][0].as_py()


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace("p1", '"p1"').replace("40", '"40"'),
        GOOD.replace("patient,", "note,patient,")
        .replace("p1", '"two\nlines, ""q""",p1')
        .replace("p2", "z,p2"),
    ],
    ids=["plain", "windows", "byte-order-mark", "quoted", "notes-with-line-breaks"],
)
def test_the_same_rows_however_they_are_written(tmp_path: Path, text: str) -> None:
    assert read(csv_text(tmp_path, text, line_breaks=1), dataset()).to_pylist() == [
        {"patient": "p1", "age": 40, "bmi": 20.5, "y": True},
        {"patient": "p2", "age": 41, "bmi": -20.0, "y": False},
    ]


def test_a_note_with_line_breaks_lies_across_two_blocks(tmp_path: Path) -> None:
    """Read in blocks, a file must not be cut at a line break that is part of a value."""
    note = '"' + "a line\n" * 1_000 + '"'
    text = "note,x\n" + f"{note},7\n" * 500
    spec = csv_text(tmp_path, text, line_breaks=1_000)
    assert read(spec, dataset(x="int64"))["x"].to_pylist() == [7] * 500


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_another_delimiter_is_named_never_guessed(tmp_path: Path, delimiter: str) -> None:
    text = GOOD.replace(",", delimiter)
    assert scan(csv_text(tmp_path, text, delimiter=delimiter), dataset()) == 2
    with refused(ColumnMissing):
        scan(csv_text(tmp_path, text), dataset())


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        pytest.param(GOOD[:-1], SourceCut, id="cut-in-the-last-value"),
        pytest.param(GOOD[: GOOD.index("\n")], SourceCut, id="header-without-its-end"),
        pytest.param(GOOD[GOOD.index("\n") + 1 :], ColumnMissing, id="no-header"),
        pytest.param(GOOD.replace("bmi", "BMI"), ColumnMissing, id="another-case"),
        pytest.param(GOOD.replace("bmi", " bmi"), ColumnMissing, id="blank-in-a-name"),
        pytest.param(GOOD.replace("41,", ""), SourceLineMalformed, id="field-missing"),
        pytest.param(GOOD.replace("41,", "41,0,"), SourceLineMalformed, id="field-too-many"),
        pytest.param(GOOD + "1 234,5\n", SourceLineMalformed, id="trailing-garbage"),
        pytest.param(GOOD.replace("p2", '"p2'), SourceLineBreakInCell, id="quote-never-closed"),
        pytest.param(GOOD.encode("utf-16"), SourceEncoding, id="utf-16"),
        pytest.param(GOOD.replace("p2", "é").encode("latin-1"), SourceEncoding, id="latin-1"),
        pytest.param(
            GOOD.replace("patient", "é").encode("latin-1"), SourceEncoding, id="latin-1-header"
        ),
        pytest.param("z,z,x\n1,2,3\n", ColumnMissing, id="declared-names-absent"),
    ],
)
def test_a_file_that_is_no_such_csv(
    tmp_path: Path, text: str | bytes, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        scan(csv_text(tmp_path, text), dataset())


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    """Even where nobody declared them: a header that its author mistook is not to be trusted."""
    assert scan(csv_text(tmp_path, "x,y,z\n1,2,3\n"), dataset(x="int64")) == 1
    with refused(ColumnUnexpected):
        scan(csv_text(tmp_path, "x,z,z\n1,2,3\n"), dataset(x="int64"))


@pytest.mark.parametrize(
    ("of", "cell", "value"),
    [
        ("int64", "9223372036854775807", 2**63 - 1),
        ("int32", "-2147483648", -(2**31)),
        ("int64", "-0", 0),
        ("float64", "0.1", 0.1),
        ("float64", "-1.5E+3", -1500.0),
        ("float64", "12", 12.0),
        ("float32", "0.5", 0.5),
        ("float64?", "inf", float("inf")),
        ("bool", "TRUE", True),
        ("string", " 007 ", " 007 "),
        ("string?", "", None),
        ("int64?", "", None),
        ("float64?", "", None),
    ],
)
def test_a_cell_that_spells_its_type(tmp_path: Path, of: str, cell: str, value: object) -> None:
    assert one(tmp_path, cell, of) == value


@pytest.mark.parametrize(
    ("of", "cells"),
    [
        ("int64", ["1.0", "1e3", "1,000", "1_000", "1'000", "+1", "007", "0x1F", "--1", "-"]),
        (
            "int64",
            [
                "12abc",
                "NaN",
                "\u0661",
                "9223372036854775808",
                " 1",
                "1 ",
                "1 000",
                "1\u00a0000",
                "1\n",
            ],
        ),
        ("int32", ["2147483648", "-2147483649"]),
        ("float64", ["1,5", "1.234,5", "1e", "1.", ".5", "+1.5", "0x1p3", "1d5", "1.5f", "NA"]),
        ("float64", ["null", "1e999", "-1e999", "00.5", " 1.5", "1.5 ", "1 000.5", "1.5\n", "∞"]),
        ("float64?", ["1e999", "nan()"]),
        ("float32", ["1e39"]),
        ("float32?", ["1e39"]),
        ("bool", ["1", "0", "yes", "no", "tRUE", "T", "true "]),
        ("date32", ["2026-02-30", "2026-2-3", "03.02.2026", "02/03/2026", "20260203"]),
        ("date32", ["2026-02-03T00:00:00Z", "2026-02-03 "]),
        (
            "timestamp[us, UTC]",
            [
                "2026-02-03T04:05:06",
                "2026-02-03",
                "2026-02-03T04:05Z",
                "2026-02-03T04:05:06.1234567Z",
                "2026-02-03T24:00:01Z",
                "2026-02-03T04:05:06 GMT+1",
                "2026-02-03T04:05:06+1",
                "2026-02-03T04:05:06+24",
                "2026-02-03T04:05:06 +00",
                "1770091506",
            ],
        ),
    ],
)
def test_a_cell_that_spells_something_else(tmp_path: Path, of: str, cells: list[str]) -> None:
    """A reader that trims, guesses or rounds would release another number than the one meant."""
    for cell in cells:
        with refused(ColumnTypeDiffers):
            one(tmp_path, cell, of)


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-inf", "Infinity", "-Infinity"])
def test_a_number_that_is_spelled_as_none(tmp_path: Path, cell: str) -> None:
    with refused(ValueNotFinite):
        one(tmp_path, cell, "float64")


def test_the_first_wrong_row_is_named(tmp_path: Path) -> None:
    cells = ["7"] * 5_000
    cells[3_210] = cells[4_000] = "7,5"
    text = "x;z\n" + "".join(f"{cell};0\n" for cell in cells)
    with refused(ColumnTypeDiffers) as seen:
        scan(csv_text(tmp_path, text, delimiter=";"), dataset(x="int64"))
    assert re.findall("[0-9]+", seen.error.found) == ["3211"]
    assert "line 3212" in seen.error.thing


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        (f"{CANARY},age,bmi,y\n", ColumnMissing),
        (f"{CANARY},{CANARY},x\n1,2,3\n", ColumnMissing),
        (f"patient,age,bmi,y,{CANARY},{CANARY}\n", ColumnUnexpected),
        (GOOD + f"{CANARY}\n", SourceLineMalformed),
        (GOOD.encode() + CANARY.encode() + b"\xff,1\n", SourceEncoding),
        (GOOD.encode() + CANARY.encode() + b"\xff,1,1.5,true\n", SourceEncoding),
        (GOOD + f"p,{CANARY},1.5,true\n", ColumnTypeDiffers),
    ],
)
def test_no_part_of_a_row_is_told(
    tmp_path: Path, text: str | bytes, leaf: type[RatlsError]
) -> None:
    """L01. Without its header, the first row of a file stands where names are expected."""
    with refused(leaf) as seen:
        scan(csv_text(tmp_path, text), dataset())
    assert CANARY not in "".join(traceback.format_exception(seen.error))


@given(values=st.lists(st.floats() | st.none(), max_size=20))
def test_every_float_is_read_back_exactly(values: list[float | None]) -> None:
    array = pa.array(values, pa.float64())
    texts = pa.array([None if v is None else repr(v) for v in values], pa.string())
    read_back = parse_text(texts, pa.float64())
    assert read_back is not None
    assert read_back.cast(pa.string()).equals(array.cast(pa.string()))


@given(text=st.text(max_size=12), type_=st.sampled_from([pa.int32(), pa.float64(), pa.date32()]))
def test_any_text_is_a_value_or_none(text: str, type_: pa.DataType) -> None:
    parsed = parse_text(pa.array([text, None]), type_)
    assert parsed is None or (parsed.type == type_ and parsed[1].as_py() is None)
