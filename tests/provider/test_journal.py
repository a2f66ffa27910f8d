"""What somebody with a text editor, a power cut or a second process does to the journal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import AuditError
from policy.journal import Journal, JournalMissing, JournalNotWritten, place_of
from policy.journal_chain import (
    GENESIS,
    Head,
    JournalAltered,
    JournalCut,
    JournalHeadLost,
    parse_lines,
    reconcile,
)
from policy.journal_entries import CheckOutcome, Entry, RefusedEntry, ReservedEntry
from tests.support.refusal import count_refusal, refused

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
TASK = "sha256:" + "ab" * 32


def reserved(number: int = 0, dataset: str = "train_party_1") -> ReservedEntry:
    return ReservedEntry(
        task=f"sha256:{number:064x}",
        dataset=dataset,
        policy=TASK,
        study="a-study",
        computation="train",
        instance="0f" * 16,
        mode="simulation",
    )


def written(folder: Path, count: int = 3) -> Path:
    """A journal that says where it is, and then `count` reservations."""
    with Journal.begin(folder, AT) as journal:
        for number in range(count):
            journal.append(reserved(number), AT)
    return folder


def chained(entry: Entry) -> bytes:
    """The line of a journal that has no other."""
    fields = {"at": "2026-11-25T12:00:00Z", "entry": entry.model_dump(mode="json"), "seq": 0}
    fields["previous"] = f"sha256:{GENESIS.hex()}"
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_a_record_of_an_older_version_is_read() -> None:
    """Fields that came later are absent in it; they are not made up."""
    line = chained(reserved())
    records, _ = parse_lines(line.replace(b'"expires":null,', b""))
    assert records[0].entry == reserved()


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    refusal = RefusedEntry(
        action="release",
        task=None,
        dataset="d",
        code="measurement",
        check="measurement",
        checks=(CheckOutcome(check="measurement", outcome="failed"),),
        mode=None,
    )
    with Journal.open(written(tmp_path)) as journal:
        last = journal.append(refusal, AT)
        assert journal.head == last.digest
    with Journal.open(tmp_path) as journal:
        assert [r.entry for r in journal.records[1:]] == [*(reserved(n) for n in range(3)), refusal]
        assert journal.records[-1].at == AT
        assert journal.head == last.digest
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def lines(raw: bytes) -> list[bytes]:
    return raw.splitlines(keepends=True)


def retold(raw: bytes) -> bytes:
    """Edit the last line as its writer would: canonical, and chained to the line before."""
    *before, last = lines(raw)
    edited = json.loads(last) | {"at": "2026-11-25T13:00:00Z"}
    return (
        b"".join(before)
        + json.dumps(edited, sort_keys=True, separators=(",", ":")).encode()
        + b"\n"
    )


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda raw: b"".join(lines(raw)[:-1]), JournalCut, id="cuts-the-last-line"),
        pytest.param(lambda raw: raw[:-1], JournalCut, id="cuts-the-last-byte"),
        pytest.param(lambda raw: b"", JournalCut, id="empties-it"),
        pytest.param(lambda raw: b"".join(lines(raw)[1:]), JournalAltered, id="drops-the-first"),
        pytest.param(
            lambda raw: lines(raw)[0] + lines(raw)[2], JournalAltered, id="drops-the-middle"
        ),
        pytest.param(
            lambda raw: lines(raw)[1] + lines(raw)[0] + lines(raw)[2], JournalAltered, id="reorders"
        ),
        pytest.param(lambda raw: raw + lines(raw)[-1], JournalAltered, id="repeats-a-line"),
        pytest.param(lambda raw: raw.replace(b"study", b"buddy", 1), JournalAltered, id="edits"),
        pytest.param(retold, JournalAltered, id="edits-the-last-line-and-rechains-it"),
        pytest.param(lambda raw: raw.replace(b":", b": ", 1), JournalAltered, id="respells"),
        pytest.param(
            lambda raw: raw.replace(b'{"at"', b'{"at":"x","at"', 1), JournalAltered, id="key-twice"
        ),
    ],
)
def test_somebody_edits_the_lines(
    tmp_path: Path, change: Callable[[bytes], bytes], leaf: type[AuditError]
) -> None:
    """L06. The chain alone would not notice that its end is missing."""
    path = written(tmp_path) / "journal.jsonl"
    path.write_bytes(change(path.read_bytes()))
    with refused(leaf), Journal.open(tmp_path):
        pass


@pytest.mark.parametrize(
    "respell",
    [
        lambda line: line,
        lambda line: line.replace(b":", b": ", 1),
        lambda line: line.replace(b'{"at"', b'{"at":"2027-01-01T00:00:00Z","at"', 1),
        lambda line: line.replace(b"a-study", b"\\u0061-study"),
        lambda line: line.replace(b'"seq":0', b'"seq":0.0'),
        lambda line: line.replace(b'"seq":0', b'"extra":1,"seq":0'),
        lambda line: line.replace(b"2026-11-25", b"2026-13-25"),
    ],
)
def test_a_record_has_one_spelling(tmp_path: Path, respell: Callable[[bytes], bytes]) -> None:
    """With chain and head made to fit: a key there twice shows one thing and means another."""
    line = chained(reserved())
    if respell(line) == line:
        assert len(parse_lines(line)[0]) == 1
        return
    with refused(JournalAltered):
        parse_lines(respell(line))


@pytest.mark.parametrize(
    ("name", "content", "leaf"),
    [
        ("journal.head", None, JournalHeadLost),
        ("journal.head", b"", JournalHeadLost),
        ("journal.head", b'{"count":3}', JournalHeadLost),
        ("journal.head", b"[" * 100_000, JournalHeadLost),
        ("journal.head", Head(0, GENESIS).encode(), JournalAltered),
        ("journal.head", Head(3, bytes(32)).encode(), JournalAltered),
        ("journal.jsonl", None, JournalCut),
    ],
)
def test_somebody_removes_or_replaces_one_of_the_two_files(
    tmp_path: Path, name: str, content: bytes | None, leaf: type[AuditError]
) -> None:
    """L06. A head that vanished must not make a shortened journal a new one."""
    path = written(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with refused(leaf), Journal.open(tmp_path):
        pass


def test_the_first_and_only_line_is_not_taken_for_a_crash_when_the_head_is_gone(
    tmp_path: Path,
) -> None:
    """Delete the head, keep one line: it looks like a crash of the very first append."""
    (written(tmp_path, 0) / "journal.head").unlink()
    with refused(JournalHeadLost), Journal.open(tmp_path):
        pass


def test_power_fails_between_the_line_and_the_head(tmp_path: Path) -> None:
    """The line is whole and the head is one behind: it counts, and the head catches up."""
    head = (written(tmp_path, 2) / "journal.head").read_bytes()
    written(tmp_path, 1)
    (tmp_path / "journal.head").write_bytes(head)
    for _ in range(2):  # the second time finds a healed journal
        with Journal.open(tmp_path) as journal:
            assert len(journal.records) == 4
    assert Head.parse((tmp_path / "journal.head").read_bytes()).count == 4


def test_power_fails_within_the_line(tmp_path: Path) -> None:
    """Half a line: nothing was done on its strength, so it goes, and the next line follows."""
    path = written(tmp_path) / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":"2026-')
    with Journal.open(tmp_path) as journal:
        journal.append(reserved(9), AT)
    assert path.read_bytes().startswith(whole)
    with Journal.open(tmp_path) as journal:
        assert len(journal.records) == 5


def test_power_fails_before_the_first_line(tmp_path: Path) -> None:
    """Only the empty head was written, and half of the line: nothing was accepted, so it begins."""
    (tmp_path / "journal.head").write_bytes(Head(0, GENESIS).encode())
    (tmp_path / "journal.jsonl").write_bytes(b'{"at"')
    with refused(JournalMissing), Journal.open(tmp_path):
        pass
    with Journal.begin(tmp_path, AT) as journal:
        assert [record.entry for record in journal.records] == [place_of(tmp_path)]


def test_a_line_and_a_half_beyond_the_head_is_no_crash(tmp_path: Path) -> None:
    """An append begins only once the head of the last one is written."""
    head = (written(tmp_path, 2) / "journal.head").read_bytes()
    path = written(tmp_path, 1) / "journal.jsonl"
    (tmp_path / "journal.head").write_bytes(head)
    path.write_bytes(path.read_bytes() + b'{"at":')
    with refused(JournalAltered), Journal.open(tmp_path):
        pass


def test_the_disk_takes_no_record(tmp_path: Path) -> None:
    """What the record would have allowed must not happen, so the caller hears of it."""
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")
    with refused(JournalNotWritten), Journal.open(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_the_state_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with refused(JournalNotWritten), Journal.begin(tmp_path / "state", AT):
        pass


WRITER = """
import sys
from pathlib import Path
from tests.provider.test_journal import AT, Journal, reserved
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    with Journal.open(Path(sys.argv[1])) as journal:
        journal.append(reserved(number), AT)
"""


def writer(folder: Path, count: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.slow
def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """Two pushes share one state folder: no line is lost, none is chained to the same one."""
    written(tmp_path, 0)
    children = [writer(tmp_path, 10) for _ in range(2)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    with Journal.open(tmp_path) as journal:
        assert len(journal.records) == 21


@pytest.mark.slow
def test_a_process_is_killed_while_it_writes(tmp_path: Path) -> None:
    """Wherever the kill strikes, the next process finds a journal that it can go on with."""
    written(tmp_path, 0)
    for _ in range(3):
        child = writer(tmp_path, 10_000)
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        seen = 0
        while seen < 4:
            with Journal.open(tmp_path) as journal:
                seen = len(journal.records)
        child.kill()
        child.communicate()
        with Journal.open(tmp_path) as journal:
            journal.append(reserved(), AT)


def test_a_hostile_name_stays_on_its_line(tmp_path: Path) -> None:
    """L04. CR, LF, ANSI and JSON breakers in a peer-chosen name would forge a record."""
    with Journal.begin(tmp_path, AT) as journal:
        journal.append(reserved(dataset='x"}\r\n{"at":\x1b[31m\u2028'), AT)
    raw = (tmp_path / "journal.jsonl").read_bytes()
    assert raw.count(b"\n") == 2
    assert all(32 <= byte < 127 for byte in raw.replace(b"\n", b""))


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Head]:
    folder = written(tmp_path_factory.mktemp("genuine"))
    return (
        (folder / "journal.jsonl").read_bytes(),
        Head.parse((folder / "journal.head").read_bytes()),
    )


def judged(raw: bytes, head: Head) -> Head:
    records, whole = parse_lines(raw)
    return reconcile(records, whole < len(raw), head)


@given(data=st.data())
def test_any_change_of_any_byte_is_noticed(
    genuine: tuple[bytes, Head], data: st.DataObject
) -> None:
    """L06 as a property: the right bytes pass, one flipped bit anywhere does not."""
    raw, head = genuine
    count_refusal()
    assert judged(raw, head) == head
    place = data.draw(st.integers(0, len(raw) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    with pytest.raises((JournalAltered, JournalCut)):
        judged(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :], head)


@given(data=st.data())
def test_every_prefix_is_a_cut(genuine: tuple[bytes, Head], data: st.DataObject) -> None:
    raw, head = genuine
    with refused(JournalCut):
        judged(raw[: data.draw(st.integers(0, len(raw) - 1))], head)


@given(
    raw=st.binary(max_size=200) | st.text(max_size=60).map(lambda t: json.dumps({"at": t}).encode())
)
def test_garbage_is_no_journal(raw: bytes) -> None:
    """A value or a typed refusal, and garbage with a line end never a value."""
    count_refusal()
    with pytest.raises(JournalAltered):
        parse_lines(raw + b"\n")
    with refused(JournalHeadLost):
        Head.parse(raw)
