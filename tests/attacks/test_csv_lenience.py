"""F21. A CSV file that its reader takes for another table than its author wrote.

A reader that closes quotes by itself, joins what follows them or skips lines releases fewer rows,
or other values, and each of them passes the policy's checks. Every single mistake here is made at
every place of a small file: it is refused, or three readers see the same rows in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.csv as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.errors import SourceUnreadable
from provider.sources.base import SourceRowTooLarge
from provider.sources.records import (
    Records,
    SourceEncoding,
    SourceEscapeUnclear,
    SourceLineBreakInCell,
    SourceLineEndMixed,
    SourceLineMalformed,
    SourceQuoteMisplaced,
)
from tests.provider.formats import csv_text, read, scan
from tests.provider.test_sources import dataset
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

SMALL = b'id,note,n,last\np1,"a, ""b""",1,"x"\np2,,2,""\np3,plain,3,y z\n'
TEXTS = dict.fromkeys(("id", "note", "n", "last"), "string?")
INSERTED = (
    *(b'"', b'""', b'\\"', b"\\", b"'", b",", b";", b" "),
    *(b"\n", b"\r", b"\r\n", b"\0", b"\xe9", b"\xff\xfe", b"\xef\xbb\xbf"),
)

Rows = list[list[str]]


def ours(folder: Path, raw: bytes, **table: Any) -> Rows | None:
    """The rows that would be released, null as the empty text; None where it is refused."""
    try:
        found = read(csv_text(folder, raw, **table), dataset(**TEXTS))
    except RatlsError:
        return None
    return [[value or "" for value in row.values()] for row in found.to_pylist()]


def others(raw: bytes) -> list[Rows]:
    """What two other readers see; an exception where one of them does not take the file."""
    text = raw.decode("utf-8-sig")
    plain = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
    frame = pd.read_csv(
        io.StringIO(text, newline=""), dtype=str, na_filter=False, skip_blank_lines=False
    )
    return [plain, frame.to_numpy().tolist()]


def with_one_mistake(raw: bytes) -> Iterator[bytes]:
    for place in range(len(raw) + 1):
        for inserted in INSERTED:
            yield raw[:place] + inserted + raw[place:]
    for place in range(len(raw)):
        yield raw[:place] + raw[place + 1 :]
        yield raw[:place] + bytes([raw[place] ^ 0x80]) + raw[place + 1 :]


def with_two_quotes(raw: bytes) -> Iterator[bytes]:
    for first in range(len(raw) + 1):
        for second in range(first, len(raw) + 1):
            yield raw[:first] + b'"' + raw[first:second] + b'"' + raw[second:]


@pytest.mark.parametrize(("end", "line_breaks"), [(b"\n", 0), (b"\r\n", 2)], ids=["lf", "crlf"])
def test_one_mistake_anywhere_loses_no_row_and_changes_no_value(
    tmp_path: Path, end: bytes, line_breaks: int
) -> None:
    raw, refusals = SMALL.replace(b"\n", end), 0
    assert ours(tmp_path, raw, line_breaks=line_breaks) == others(raw)[0]  # the honest twin
    for damaged in with_one_mistake(raw):
        found = ours(tmp_path, damaged, line_breaks=line_breaks)
        if found is None:
            refusals += 1
        else:
            assert [found, found] == others(damaged), damaged
            assert len(found) == 3, damaged
    count_refusal()
    assert refusals > len(raw) * len(INSERTED) / 2


def test_two_stray_quotes_anywhere_lose_no_row(tmp_path: Path) -> None:
    """Together they may be RFC 4180 and swallow the lines between them: by default none may."""
    raw = b"id,note,n,last\np1,a,1,x\np2,b,2,y\n"
    for damaged in with_two_quotes(raw):
        found = ours(tmp_path, damaged)
        if found is not None:
            assert [found, found] == others(damaged), damaged
            assert len(found) == 2, damaged
    count_refusal()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_file_is_cut_anywhere(tmp_path: Path, end: bytes) -> None:
    """Only between two rows does a cut leave no trace, in this format as such."""
    raw = SMALL.replace(b"\n", end)
    rows = others(raw)[0]
    for size in range(len(raw)):
        whole = raw[:size].endswith(end) and raw[:size].count(end) > 1
        expected = rows[: raw[:size].count(end) - 1] if whole else None
        assert ours(tmp_path, raw[:size]) == expected, size
    count_refusal()


PATIENTS = {"id": "string", "n": "int64", "note": "string"}


def sixty(**changed: str) -> str:
    """A file of sixty patients; `p19="…"` is another line for one of them."""
    lines = [changed.get(f"p{n}", f"p{n},{n},note {n}") for n in range(60)]
    return "\n".join(["id,n,note", *lines, ""])


def line_of(seen: Any) -> int:
    name = seen.error.thing
    return int(name[name.index("line ") :].removeprefix("line ").split(",")[0])


def test_one_quote_is_never_closed(tmp_path: Path) -> None:
    """Seen: twenty of sixty rows were released, the others inside the note of the twentieth."""
    assert scan(csv_text(tmp_path, sixty(p19='p19,19,"note 19"')), dataset(**PATIENTS)) == 60
    with refused(SourceLineBreakInCell) as seen:
        scan(csv_text(tmp_path, sixty(p19='p19,19,"note 19')), dataset(**PATIENTS))
    assert line_of(seen) == 21


def test_a_later_quote_closes_the_forgotten_one(tmp_path: Path) -> None:
    """RFC 4180 to the letter, with forty lines in one cell: only the cap tells."""
    text = sixty(p19='p19,19,"note 19', p59='p59,59,two inches 2"')
    for line_breaks in (0, 39):
        with refused(SourceLineBreakInCell) as seen:
            scan(csv_text(tmp_path, text, line_breaks=line_breaks), dataset(**PATIENTS))
        assert line_of(seen) == 21
    assert scan(csv_text(tmp_path, text, line_breaks=40), dataset(**PATIENTS)) == 20


def test_a_quote_that_is_never_closed_where_many_lines_are_allowed(tmp_path: Path) -> None:
    with refused(SourceQuoteMisplaced) as seen:
        text = sixty(p19='p19,19,"note 19')
        scan(csv_text(tmp_path, text, line_breaks=1_000), dataset(**PATIENTS))
    assert line_of(seen) == 21
    with refused(SourceRowTooLarge):  # and where the rest of the file is long, it is not kept
        text = 'id,n,note\np1,1,"note' + "x" * 99_999 * 50
        scan(csv_text(tmp_path, text, line_breaks=1_000), dataset(**PATIENTS))


@pytest.mark.parametrize(
    ("line", "leaf"),
    [
        pytest.param('p1,"3"0,x', SourceQuoteMisplaced, id="text-after-a-quote"),
        pytest.param('p1,3,"x" ', SourceQuoteMisplaced, id="blank-after-a-quote"),
        pytest.param('p1,3, "x"', SourceQuoteMisplaced, id="blank-before-a-quote"),
        pytest.param('p1,3,5" tall', SourceQuoteMisplaced, id="quote-in-a-bare-cell"),
        pytest.param('p1,3,"say \\"x\\""', SourceQuoteMisplaced, id="spark"),
        pytest.param('p1,3,"C:\\"', None, id="backslash-at-the-end-of-a-cell"),
        pytest.param("p1,3,x\ry", SourceLineEndMixed, id="lone-cr"),
        pytest.param("p1,3,x\r", SourceLineEndMixed, id="crlf-among-lf"),
        pytest.param("p1,3,x\0", SourceEncoding, id="nul"),
        pytest.param("p1,3", SourceLineMalformed, id="cell-missing"),
        pytest.param("p1,3,x,", SourceLineMalformed, id="cell-too-many"),
        pytest.param("", SourceLineMalformed, id="blank-line"),
        pytest.param('p1,3,"x\ny"', SourceLineBreakInCell, id="line-break"),
        pytest.param('p1,3,"x\ry"', SourceLineBreakInCell, id="lone-cr-in-a-cell"),
    ],
)
def test_the_line_of_a_mistake_is_named(
    tmp_path: Path, line: str, leaf: type[RatlsError] | None
) -> None:
    """As the 50,000th of a file that is read in several pieces."""
    lines = [f"p{n},{n},note" for n in range(100_000)]
    good = csv_text(tmp_path, "\n".join(["id,n,note", *lines, ""]))
    assert scan(good, dataset(**PATIENTS)) == 100_000
    lines[49_998] = line
    spec = csv_text(tmp_path, "\n".join(["id,n,note", *lines, ""]))
    if leaf is None:
        assert scan(spec, dataset(**PATIENTS)) == 100_000
        return
    with refused(leaf) as seen:
        scan(spec, dataset(**PATIENTS))
    assert line_of(seen) == 50_000


def test_the_header_ends_otherwise_than_the_rows(tmp_path: Path) -> None:
    for text in ("x,y\r\n1,2\n", "x,y\n1,2\r\n"):
        with refused(SourceLineEndMixed) as seen:
            scan(csv_text(tmp_path, text), dataset(x="int64"))
        assert line_of(seen) == 2
    assert scan(csv_text(tmp_path, "x,y\r\n1,2\r\n"), dataset(x="int64")) == 1


@pytest.mark.parametrize("order", ["", "-le", "-be"])
@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_wide_encodings_are_named(tmp_path: Path, width: int, order: str, mark: str) -> None:
    raw = (mark + sixty()).encode(f"utf-{width}{order}")
    with refused(SourceEncoding) as seen:
        scan(csv_text(tmp_path, raw), dataset(**PATIENTS))
    assert seen.error.found.startswith(f"UTF-{width}")
    assert f"iconv -f UTF-{width}" in seen.error.fix


def test_windows_1252_is_named_with_its_line(tmp_path: Path) -> None:
    text = sixty(p30="p30,30,Müller")
    assert scan(csv_text(tmp_path, text), dataset(**PATIENTS)) == 60
    with refused(SourceEncoding) as seen:
        scan(csv_text(tmp_path, text.encode("cp1252")), dataset(**PATIENTS))
    assert line_of(seen) == 32
    assert "WINDOWS-1252" in seen.error.fix


def test_nothing_and_the_empty_text_stay_two_things(tmp_path: Path) -> None:
    text = 'id,n,note\np1,1,\np2,2,""\n'
    found = read(csv_text(tmp_path, text), dataset(**PATIENTS | {"note": "string?"}))
    assert found["note"].to_pylist() == [None, ""]


def test_the_two_readings_of_a_file_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should Arrow ever see other rows in what passed the check, nothing leaves."""
    spec, arrow = csv_text(tmp_path, sixty()), pc.read_csv
    assert scan(spec, dataset(**PATIENTS)) == 60
    monkeypatch.setattr(pc, "read_csv", lambda *a, **k: arrow(*a, **k).slice(0, 59))
    with refused(SourceUnreadable):
        scan(spec, dataset(**PATIENTS))


SPARK = 'id,n,note\np1,1,"say \\"x\\", then C:\\\\"\np2,2,plain\n'


def test_backslashes_escape_where_the_source_table_says_so(tmp_path: Path) -> None:
    of = dataset(**PATIENTS)
    found = read(csv_text(tmp_path, SPARK, escape="\\"), of)
    assert found["note"].to_pylist() == ['say "x", then C:\\', "plain"]
    with refused(SourceQuoteMisplaced):
        scan(csv_text(tmp_path, SPARK), of)


@pytest.mark.parametrize(
    ("note", "leaf"),
    [
        ('"a\\nb"', SourceEscapeUnclear),  # a line break, or the letter n?
        ("C:\\dir", SourceEscapeUnclear),  # escapes, or not, outside quotes?
        ("C:\\\\dir", SourceEscapeUnclear),
        ('\\"', SourceEscapeUnclear),
        ('"a\\"', SourceLineBreakInCell),
        ('"a""b"', SourceEscapeUnclear),  # one quote, as RFC 4180 has it, or two, as Spark does?
    ],
)
def test_a_backslash_with_two_meanings(tmp_path: Path, note: str, leaf: type[RatlsError]) -> None:
    with refused(leaf) as seen:
        scan(csv_text(tmp_path, SPARK.replace("plain", note), escape="\\"), dataset(**PATIENTS))
    assert line_of(seen) == 3


@pytest.mark.parametrize("byte", [b"\xfe", b"\xff"])
def test_bytes_that_stand_for_escapes_stand_in_the_file(tmp_path: Path, byte: bytes) -> None:
    """In Windows-1252 they are letters; here they would become a backslash or a quote."""
    raw = SPARK.encode().replace(b"say", b"s" + byte + b"y")
    with refused(SourceEncoding) as seen:
        scan(csv_text(tmp_path, raw, escape="\\"), dataset(**PATIENTS))
    assert line_of(seen) == 2


def as_read(raw: bytes, size: int, **dialect: Any) -> list[object]:
    """Each record with its line, then the refusal; `size` bytes are read at once."""
    stream, found = io.BytesIO(raw), []
    records = Records("rows.csv", lambda _: stream.read(size), delimiter=",", **dialect)
    try:
        for piece in records.pieces():
            found += [(piece.part(i, i + 1).text, piece.line(i)) for i in range(len(piece.ends))]
    except RatlsError as refusal:
        found.append((refusal.code, refusal.thing))
    return found


@given(
    raw=st.text('",\n\r a\\é', max_size=40).map(str.encode),
    size=st.integers(1, 7),
    escape=st.booleans(),
    line_breaks=st.integers(0, 2),
)
@settings(max_examples=300)
def test_it_makes_no_difference_where_reads_end(
    raw: bytes, size: int, escape: bool, line_breaks: int
) -> None:
    """An escape, a pair of quotes or CR LF may lie on both sides of a read."""
    whole, parts = (
        as_read(raw, n, escape=escape, line_breaks=line_breaks) for n in (len(raw) + 1, size)
    )
    # Read at once, a refusal comes before the records that precede it.
    assert parts[-1:] == whole[-1:]
    if len(whole) > 1:
        assert parts == whole


@given(raw=st.text('",\n\r a;é', max_size=40).map(lambda text: f"id,note\n{text}\n".encode()))
@settings(max_examples=300)
def test_what_is_accepted_two_other_readers_see_alike(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        spec = csv_text(folder, raw, line_breaks=9)
        found = read(spec, dataset(id="string?", note="string?"))
    except RatlsError:
        return
    rows = [[value or "" for value in row.values()] for row in found.to_pylist()]
    assert [rows, rows] == others(raw)


@given(
    rows=st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2
        ),
        min_size=1,
        max_size=5,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=150)
def test_what_a_library_wrote_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str
) -> None:
    """The honest twin: whatever stands in the cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "note"), *rows])
    spec = csv_text(tmp_path_factory.mktemp("good"), text.getvalue(), line_breaks=10_000)
    found = read(spec, dataset(id="string", note="string"))
    assert [tuple(row.values()) for row in found.to_pylist()] == rows
