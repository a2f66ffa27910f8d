"""A CSV file says nothing about its types: every cell is read as declared, or refused."""

from __future__ import annotations

import gzip
import re
import subprocess
import tomllib
import traceback
import tracemalloc
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.rows import (
    ColumnMissing,
    ColumnTypeDiffers,
    ColumnUnexpected,
    ValueNotFinite,
    ValueNull,
)
from provider.errors import SourceTableMalformed
from provider.sources import SourceSpec, parse_source, source_at
from provider.sources.base import SourceTooLong
from provider.sources.csv import SourcePackedDamaged
from provider.sources.records import (
    SourceCut,
    SourceEncoding,
    SourceLineBreakInCell,
    SourceLineMalformed,
    SourceQuoteMisplaced,
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


def test_spellings_of_one_meaning(tmp_path: Path) -> None:
    """PostgreSQL's COPY writes t, f and +00; BigQuery UTC."""
    for cell, flag in (("t", True), ("f", False), ("True", True), ("FALSE", False)):
        assert one(tmp_path, cell, "bool") is flag
    instants = {
        one(tmp_path, f"2026-02-03{between}04:05:06.5{zone}", "timestamp[us, UTC]")
        for between in "T "
        for zone in ("Z", "+00", "+0000", "+00:00", "-00:00", "UTC", " UTC")
    }
    assert instants == {datetime(2026, 2, 3, 4, 5, 6, 500_000, UTC)}
    assert one(tmp_path, "2026-02-03 04:05:06-03", "timestamp[us, UTC]") == datetime(
        2026, 2, 3, 7, 5, 6, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("of", "cell", "table", "value"),
    [
        ("float64", "1,5", {"decimal": ","}, 1.5),
        ("float64", "-1,5e-3", {"decimal": ","}, -0.0015),
        ("int64?", "NA", {"null_values": ["NA"]}, None),
        ("float64?", "-", {"null_values": ["NA", "-"]}, None),
        ("string", "NAM", {"null_values": ["NA"]}, "NAM"),
        ("date32", "03.02.2026", {"date_format": "%d.%m.%Y"}, date(2026, 2, 3)),
        ("date32", "02/03/2026", {"date_format": "%m/%d/%Y"}, date(2026, 2, 3)),
        ("date32", "3.2.2026", {"date_format": "%-d.%-m.%Y"}, date(2026, 2, 3)),
        ("date32", "20260203", {"date_format": "%Y%m%d"}, date(2026, 2, 3)),
        ("date32?", "NA", {"date_format": "%Y%m%d", "null_values": ["NA"]}, None),
    ],
)
def test_a_cell_is_converted_where_the_source_table_says_so(
    tmp_path: Path, of: str, cell: str, table: dict[str, Any], value: object
) -> None:
    assert one(tmp_path, cell, of, **table) == value
    with refused(ColumnTypeDiffers):  # and without it, neither read nor guessed
        one(tmp_path, cell, of if of != "string" else "int64")


@pytest.mark.parametrize(
    ("of", "table", "cells"),
    [
        ("float64", {"decimal": ","}, ["1.5", "1.234,5", "1 234,5", ",5", "1,", "1,2,3"]),
        ("int64", {"decimal": ","}, ["1,0", "1,000"]),
        ("int64", {"null_values": ["NA"]}, ["na", "N/A", "NA ", "null"]),
        (
            "date32",
            {"date_format": "%d.%m.%Y"},
            ["3.2.2026", "2026-02-03", "31.02.2026", "03.13.2026", "03.02.26", "03.02.2026 "],
        ),
        ("date32", {"date_format": "%-d.%-m.%Y"}, ["30.2.2026", "0.2.2026", "003.2.2026"]),
    ],
)
def test_a_conversion_takes_nothing_else(
    tmp_path: Path, of: str, table: dict[str, Any], cells: list[str]
) -> None:
    """Named once, a spelling is the only one: 1.5 beside a decimal comma could mean fifteen."""
    for cell in cells:
        with refused(ColumnTypeDiffers):
            one(tmp_path, cell, of, **table)
    good = {"float64": "12", "int64": "12", "date32": "13.12.2026"}
    one(tmp_path, good[of], of, **table)


def test_null_values_are_cells_as_they_stand_in_the_file(tmp_path: Path) -> None:
    """R writes a missing value as NA and the text NA, Namibia's code, as "NA"."""
    text = 'x,z\nNA,0\n"NA",0\n"",0\n,0\n'
    for listed, values in (
        (["NA"], [None, "NA", "", None]),
        (["NA", '"NA"'], [None, None, "", None]),
        (['""'], ["NA", "NA", None, None]),
        ([], ["NA", "NA", "", None]),
    ):
        spec = csv_text(tmp_path, text, null_values=listed)
        assert read(spec, dataset(x="string?"))["x"].to_pylist() == values


def test_a_null_that_is_named_is_still_held_against_the_policy(tmp_path: Path) -> None:
    with refused(ValueNull):
        one(tmp_path, "NA", "int64", null_values=["NA"])


def test_names_are_mapped_where_the_source_table_says_so(tmp_path: Path) -> None:
    text = GOOD.replace("patient", "Patient ID").replace("bmi", '"BMI, kg"')
    rename = {"Patient ID": "patient", "BMI, kg": "bmi"}
    plain = read(csv_text(tmp_path, GOOD), dataset())
    assert read(csv_text(tmp_path, text, rename=rename), dataset()) == plain
    with refused(ColumnMissing):
        scan(csv_text(tmp_path, text), dataset())


@pytest.mark.parametrize(
    ("rename", "leaf"),
    [
        ({"Patient": "patient"}, ColumnMissing),  # no such column in the file
        ({"age": "years"}, SourceTableMalformed),  # no such column in the policy
        ({"age": "years", "bmi": "years"}, SourceTableMalformed),
        ({"age": "bmi"}, ColumnMissing),  # then bmi is there twice, age not at all
    ],
)
def test_a_mapping_that_does_not_fit(
    tmp_path: Path, rename: dict[str, str], leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        scan(csv_text(tmp_path, GOOD, rename=rename), dataset())


def test_a_name_in_another_case_is_told(tmp_path: Path) -> None:
    """It equals a declared name but for case and blanks, so it is no value of a row."""
    with refused(ColumnMissing) as seen:
        scan(csv_text(tmp_path, GOOD.replace("bmi", " BMI")), dataset())
    assert "' BMI' in field 3" in seen.error.found
    assert 'rename = { "' in seen.error.fix


@pytest.mark.parametrize(
    "table",
    [
        {"delimiter": "|"},
        {"delimiter": ""},
        {"delimiter": 5},
        {"decimal": ""},
        {"decimal": ";"},
        {"decimal": None},
        {"date_format": "%d.%m.%y"},
        {"date_format": "%d.%m"},
        {"date_format": "%d.%d.%m.%Y"},
        {"date_format": "%-d%-m%Y"},
        {"date_format": "%d.%m.%Y %H"},
        {"date_format": "DD.MM.YYYY"},
        {"date_format": ["%Y"]},
        {"null_values": "NA"},
        {"null_values": [""]},
        {"null_values": [None]},
        {"null_values": ["a,b"]},
        {"null_values": ['"']},
        {"null_values": ["a\nb"]},
        {"null_values": ['"NA"']},
        {"rename": ["a"]},
        {"rename": {"a": 1}},
        {"escape": '"'},
        {"escape": ""},
        {"escape": True},
        {"line_breaks": True},
        {"line_breaks": -1},
        {"line_breaks": 10_001},
        {"line_breaks": "1"},
        {"quote": "'"},
    ],
    ids=str,
)
def test_a_source_table_that_says_something_unclear(tmp_path: Path, table: dict[str, Any]) -> None:
    with refused(SourceTableMalformed):
        csv_text(tmp_path, GOOD, **table)


def test_a_name_that_ends_in_tsv_means_tabs(tmp_path: Path) -> None:
    for name in ("rows.tsv", "ROWS.TSV"):
        (tmp_path / name).write_text(GOOD.replace(",", "\t"))
        assert scan(source_at(tmp_path / name), dataset()) == 2
    (tmp_path / "rows.tsv").write_text(GOOD)
    with refused(ColumnMissing):
        scan(source_at(tmp_path / "rows.tsv"), dataset())
    spec = parse_source({"kind": "csv", "path": "rows.tsv", "delimiter": ","}, tmp_path)
    assert scan(spec, dataset()) == 2


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.tsv.gz", "rows.csv"])
def test_a_packed_file(tmp_path: Path, name: str) -> None:
    text = GOOD.replace(",", "\t") if "tsv" in name else GOOD
    half = len(text) // 2
    for packed in (
        gzip.compress(text.encode()),
        gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode()),
    ):
        (tmp_path / name).write_bytes(packed)
        assert read(source_at(tmp_path / name), dataset())["age"].to_pylist() == [40, 41]


def test_a_packed_file_is_cut_anywhere(tmp_path: Path) -> None:
    """F21. Packed, a file of whole rows shows its cut too."""
    packed = gzip.compress((GOOD + GOOD.split("\n", 1)[1] * 50).encode())
    assert scan(csv_text(tmp_path, packed), dataset()) == 102
    for size in range(2, len(packed)):
        with refused(SourceCut):
            scan(csv_text(tmp_path, packed[:size]), dataset())


@pytest.mark.parametrize(
    ("after", "leaf"),
    [
        (b"\0", SourceCut),  # the first byte of another member, as far as it goes
        (b"\0" * 512, SourcePackedDamaged),
        (b"CANARY", SourcePackedDamaged),
        (gzip.compress(b"p3,1,2.5,true\n", mtime=0)[:12], SourceCut),
    ],
)
def test_something_follows_a_packed_file(
    tmp_path: Path, after: bytes, leaf: type[RatlsError]
) -> None:
    """Zeros too: the place of a member that was never fetched."""
    with refused(leaf):
        scan(csv_text(tmp_path, gzip.compress(GOOD.encode()) + after), dataset())


def test_a_packed_file_whose_bytes_changed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(GOOD.encode(), compresslevel=0))
    packed[packed.index(b"40")] ^= 1
    with refused(SourcePackedDamaged):
        scan(csv_text(tmp_path, bytes(packed)), dataset())


def test_a_small_packed_file_of_very_many_rows(tmp_path: Path) -> None:
    """A gibibyte of rows of gzip: the cap on rows ends it, in constant memory."""
    block = gzip.compress(b"p1,40,20.5,true\n" * 1_000_000)
    spec = csv_text(tmp_path, gzip.compress(GOOD.encode()) + block * 64)
    tracemalloc.start()
    try:
        with refused(SourceTooLong):
            scan(spec, dataset(max_rows=500_000))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def mended(raw: bytes, folder: Path, fix: str) -> SourceSpec:
    """What a refusal says to do: a command, or the fields of a source table at its end."""
    command = re.search(r"(iconv|echo|gzip) .*$", fix)
    if command:
        subprocess.run(["bash", "-c", command[0]], cwd=folder, check=True)
        converted = folder / "converted.csv"
        return source_at(converted if converted.exists() else folder / "rows.csv")
    fields = tomllib.loads(f"source = {{ {fix[fix.rindex(': ') + 2 :]} }}")["source"]
    return csv_text(folder, raw, **fields)


CLINIC = "patient,age,bmi,day,note\nMüller,40,20.5,2026-02-03,a\np2,41,21,2026-02-04,b\n"


@pytest.mark.parametrize(
    ("raw", "leaf"),
    [
        pytest.param(CLINIC.encode("cp1252"), SourceEncoding, id="windows-1252"),
        pytest.param(CLINIC.encode("utf-16"), SourceEncoding, id="utf-16"),
        pytest.param(CLINIC.encode("utf-16-be"), SourceEncoding, id="utf-16-be"),
        pytest.param(CLINIC[:-1].encode(), SourceCut, id="no-last-line-end"),
        pytest.param(
            CLINIC.replace(",b\n", ',"b\nc"\n').encode(), SourceLineBreakInCell, id="line-break"
        ),
        pytest.param(
            CLINIC.replace("p2", '"\\"p2\\""').encode(), SourceQuoteMisplaced, id="escape"
        ),
        pytest.param(CLINIC.replace("20.5", '"20,5"').encode(), ColumnTypeDiffers, id="decimal"),
        pytest.param(
            CLINIC.replace("2026-02-03", "03.02.2026").replace("2026-02-04", "04.02.2026").encode(),
            ColumnTypeDiffers,
            id="date",
        ),
        pytest.param(CLINIC.replace("40", "NA").encode(), ColumnTypeDiffers, id="null"),
        pytest.param(CLINIC.replace("40", '""').encode(), ColumnTypeDiffers, id="empty-text"),
        pytest.param(CLINIC.replace(",", ";").encode(), ColumnMissing, id="delimiter"),
    ],
)
def test_what_a_refusal_says_to_do_mends_the_file(
    tmp_path: Path, raw: bytes, leaf: type[RatlsError]
) -> None:
    of = dataset(patient="string", age="int64?", bmi="float64", day="date32")
    with refused(leaf) as seen:
        scan(csv_text(tmp_path, raw), of)
    assert scan(mended(raw, tmp_path, seen.error.fix), of) == 2


def test_a_wrong_value_is_told_by_place_and_spellings_alone(tmp_path: Path) -> None:
    """L01. Column, row, line and what would be read; the cell itself is a patient's."""
    for of, spelled in (
        ("bool", "true, false, t or f"),
        ("int32", "a whole number of 32 bits"),
        ("float64", "-0.5"),
        ("date32", "2026-02-03"),
        ("timestamp[us, UTC]", "2026-02-03T04:05:06Z"),
    ):
        with refused(ColumnTypeDiffers) as seen:
            scan(csv_text(tmp_path, f"z,x\n0,\n0,{CANARY}\n"), dataset(x=f"{of}?"))
        assert "line 3, column 'x'" in seen.error.thing
        assert spelled in seen.error.expected
        assert seen.error.found.endswith("row 2")
        assert CANARY not in "".join(traceback.format_exception(seen.error)) + seen.error.fix
