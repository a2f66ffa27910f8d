"""Rows are read once: checked as they leave, or held against an earlier check at the end."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from policy.journal_entries import (
    CommittedEntry,
    RefusedEntry,
    ReleasedEntry,
    ReservedEntry,
    ReturnedEntry,
)
from policy.rows import BatchCheck, ValueOutsideDomain
from policy.sections import Dataset
from policy.state import StateMissing, StudyState
from provider.cli_check import shown_progress
from provider.cli_provider import provider
from provider.dry_run import DatasetUnclear, accepted_dataset, check_rows, dry_run
from provider.exchange import DatasetNotOwned
from provider.release import release
from provider.sources import SourceSpec, parse_source
from provider.sources.ahead import THREADS
from provider.sources.base import SourceChanged, SourceEmpty, SourceTooLong
from provider.sources.parquet import ParquetSource
from provider.sources.sql import SqlSource
from provider.stamps import Stamps
from tests.provider.desk import CANARY, Desk
from tests.provider.formats import FORMATS
from tests.provider.test_cli import Terminal, code
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import threads_named
from verifier.shell import Shell

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

pytestmark = pytest.mark.slow


def many(last_age: int = 40) -> pa.Table:
    """Nine megabytes: several chunks leave before the last row is read."""
    table = rows(1, 3000, patient=[f"patient-{i}-{'x' * 3000}" for i in range(3000)])
    place = table.schema.get_field_index("age")
    return table.set_column(place, "age", pa.array([*table["age"].to_pylist()[:-1], last_age]))


@pytest.fixture
def declared(world: EnclaveWorld) -> Dataset:
    found = world.policy.dataset_by_id("train_party_1")
    assert found is not None
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[ParquetSource]:
    """One entry for each time that a Parquet file is decoded."""
    seen: list[ParquetSource] = []
    genuine = ParquetSource._declared

    def noted(source: ParquetSource) -> Iterator[pa.RecordBatch]:
        seen.append(source)
        return genuine(source)

    monkeypatch.setattr(ParquetSource, "_declared", noted)
    return seen


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch whose values this side looked at."""
    seen: list[int] = []
    genuine = BatchCheck.__call__

    def noted(self: BatchCheck, batch: pa.RecordBatch, **options: Any) -> None:
        if "validated" in options:  # the enclave of these tests runs in the same process
            seen.append(batch.num_rows)
        genuine(self, batch, **options)

    monkeypatch.setattr(BatchCheck, "__call__", noted)
    return seen


# Without an earlier check.


def test_a_bad_row_among_those_that_leave(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """F17: the stream ends without a commit. Nothing counts, and no use is charged."""
    task = world.task()
    alice.write(many(last_age=121))
    with alice.refuses(ValueOutsideDomain):
        alice.push(task)
    reserved, returned, refusal = alice.journal
    assert isinstance(reserved, ReservedEntry)
    assert isinstance(returned, ReturnedEntry)
    assert isinstance(refusal, RefusedEntry)
    assert (returned.reason, refusal.step) == ("source-refused", "rows")
    assert refusal.rows
    assert "committed" not in [line["event"] for line in live.log]
    alice.write(many())
    assert alice.push(task).commit.rows == 3000
    kinds = [type(entry) for entry in alice.journal[3:]]
    assert kinds == [ReservedEntry, CommittedEntry, ReleasedEntry]


def test_a_bad_row_charges_no_use(alice: Desk, relay: Relay) -> None:
    """R07, D03: of one use, another task can still be served; after a commit none can."""
    world = alice.world
    fewer = world.consortium.policy_text(replace=[("uses = 10", "uses = 1")])
    alice.world = other = dataclasses.replace(world, complete=world.consortium.complete(fewer))
    alice.state.rename(alice.folder / "before")
    StudyState(alice.state).accept(other.complete.agreement, alice.party, NOW)
    with other.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        alice.write(many(last_age=121))
        with alice.refuses(ValueOutsideDomain):
            alice.push(other.task())
        alice.write(many())
        assert alice.push(other.task()).commit.rows == 3000


def test_the_start_of_a_source_is_judged_before_anybody_is_connected_to(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    table = many()
    place = table.schema.get_field_index("age")
    ages = pa.array([121, *table["age"].to_pylist()[1:]])
    alice.write(table.set_column(place, "age", ages))
    with alice.refuses(ValueOutsideDomain):
        alice.push(world.task())
    assert relay.connections == []


def test_whoever_asks_for_it_has_all_rows_judged_first(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    task = world.task()
    alice.write(many(last_age=121))
    with alice.refuses(ValueOutsideDomain):
        release(alice.request(task), alice.dataset, alice.path, check_first=True)
    assert relay.connections == []
    alice.write(many())
    done = release(alice.request(task), alice.dataset, alice.path, check_first=True)
    assert done.commit.rows == 3000


@pytest.mark.parametrize(("count", "leaf"), [(100_001, SourceTooLong), (0, SourceEmpty)])
def test_a_file_tells_how_many_rows_it_has(
    world: EnclaveWorld, alice: Desk, relay: Relay, count: int, leaf: type[SourceTooLong]
) -> None:
    """Too many or none: refused by the file's own metadata, before a row is read."""
    table = rows(1, 1)
    alice.write(table.take(pa.array([0] * count, pa.int32())))
    with alice.refuses(leaf):
        alice.push(world.task())
    assert relay.connections == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_release_reads_its_source_once(
    form: str, world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = FORMATS[form](alice.folder, pq.read_table(alice.path))
    with spec.open(next(iter(world.policy.dataset))) as source:
        kind = type(source)
    read, genuine = [], kind._declared

    def noted(source: Any) -> Iterator[pa.RecordBatch]:
        read.append(source)
        return genuine(source)

    monkeypatch.setattr(kind, "_declared", noted)
    assert release(alice.request(world.task()), alice.dataset, spec).commit.rows == 60
    assert len(read) == 1


def test_a_database_is_asked_once(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = FORMATS["sqlite"](alice.folder, pq.read_table(alice.path))
    asked, genuine = [], SqlSource._execute

    def noted(source: SqlSource, step: int) -> Any:
        asked.append(step)
        return genuine(source, step)

    monkeypatch.setattr(SqlSource, "_execute", noted)
    assert release(alice.request(world.task()), alice.dataset, spec).commit.rows == 60
    assert len(asked) == 1


def test_progress_knows_the_end_where_the_file_tells(world: EnclaveWorld, alice: Desk) -> None:
    alice.write(many())
    told: list[tuple[int, int | None]] = []
    alice.push(world.task(), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3000, 3000)
    spec = FORMATS["csv"](alice.folder, pq.read_table(alice.path))
    told.clear()
    release(
        alice.request(world.task()),
        alice.dataset,
        spec,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (3000, None)


# With an earlier check.


def test_what_was_checked_is_not_judged_again(
    world: EnclaveWorld,
    alice: Desk,
    declared: Dataset,
    judged: list[int],
    decoded: list[ParquetSource],
) -> None:
    alice.write(many())
    checked = check_rows(alice.state, declared, alice.path)
    assert (checked.rows, checked.stamped) == (3000, True)
    (stamp,) = (alice.state / "checks").iterdir()
    assert stat.S_IMODE(stamp.stat().st_mode) == 0o600
    assert CANARY not in stamp.read_text()
    assert sum(judged) == 3000
    judged.clear()
    decoded.clear()
    told: list[int | None] = []
    done = alice.push(world.task(), progress=lambda _, total: told.append(total))
    assert (done.commit.rows, done.commit.batches) == (3000, checked.batches)
    assert done.sent.bytes == checked.bytes
    assert (judged, len(decoded)) == ([], 1)
    assert set(told) == {3000}


def test_a_source_of_several_files_is_checked_once(
    world: EnclaveWorld, alice: Desk, declared: Dataset, judged: list[int]
) -> None:
    folder = alice.folder / "export"
    folder.mkdir()
    for name in ("a", "b"):
        alice.write(rows(1, 30, patient=[f"{name}{i}" for i in range(30)]))
        alice.path.rename(folder / f"{name}.parquet")
    assert check_rows(alice.state, declared, folder).stamped
    judged.clear()
    assert release(alice.request(world.task()), alice.dataset, folder).commit.rows == 60
    assert judged == []
    (folder / "a.parquet").rename(folder / "c.parquet")  # another order of the same files
    release(alice.request(world.task()), alice.dataset, folder)
    assert sum(judged) == 60


def _rewritten(change: Callable[[Any], Any]) -> Callable[[Desk, Path], Any]:
    """Another content of the stamp."""
    return lambda _, stamp: stamp.write_text(json.dumps(change(json.loads(stamp.read_text()))))


def _by_another(kept: Any) -> Any:
    kept["of"]["by"][1] = "pyarrow 1.0"
    return kept


SPOILT: list[tuple[str, Callable[[Desk, Path], Any]]] = [
    ("written-again", lambda desk, _: desk.write(many())),
    ("touched", lambda desk, _: os.utime(desk.path)),
    (
        "times-put-back",
        lambda desk, _: os.utime(desk.path, ns=(0, desk.path.stat().st_mtime_ns)),
    ),
    ("damaged", lambda _, stamp: stamp.write_text("{")),
    ("no-object", lambda _, stamp: stamp.write_text("[]")),
    ("half", _rewritten(lambda kept: {"of": kept["of"]})),
    ("no-digest", _rewritten(lambda kept: kept | {"digest": "x"})),
    ("another-program", _rewritten(_by_another)),
    ("gone", lambda _, stamp: stamp.unlink()),
]


@pytest.mark.parametrize("spoil", [s[1] for s in SPOILT], ids=[s[0] for s in SPOILT])
def test_a_check_that_does_not_hold_is_made_again(
    world: EnclaveWorld,
    alice: Desk,
    declared: Dataset,
    judged: list[int],
    spoil: Callable[[Desk, Path], Any],
) -> None:
    """F17: absence or another state never means "checked"."""
    alice.write(many())
    check_rows(alice.state, declared, alice.path)
    judged.clear()
    (stamp,) = (alice.state / "checks").iterdir()
    spoil(alice, stamp)
    assert alice.push(world.task()).commit.rows == 3000
    assert sum(judged) == 3000


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"max_rows": 100_001}, id="max-rows"),
        pytest.param({"columns": {"age": {"type": "int64", "min": 0, "max": 119}}}, id="domain"),
        pytest.param({"columns": {"age": {"type": "int64?", "min": 0, "max": 120}}}, id="nulls"),
    ],
)
def test_other_rules_are_another_check(
    alice: Desk, declared: Dataset, changed: dict[str, Any]
) -> None:
    columns = {
        name: {"type": column.type + "?" * column.nullable, "min": column.min, "max": column.max}
        for name, column in declared.columns.items()
    }
    fields = {name: getattr(declared, name) for name in ("id", "owner", "subject", "max_rows")}
    fields |= changed | {"columns": columns | changed.get("columns", {})}
    other, stamps = Dataset.model_validate(fields), Stamps(alice.state)
    assert Dataset.model_validate(fields | {"columns": columns}).columns == declared.columns
    check_rows(alice.state, declared, alice.path)
    with ParquetSource.open(alice.path, declared) as source:
        assert stamps.find(source, declared) is not None
    with ParquetSource.open(alice.path, other) as source:
        assert stamps.find(source, other) is None


def test_another_reading_of_the_same_file_is_another_check(alice: Desk, declared: Dataset) -> None:
    table = pq.read_table(alice.path)
    csv = FORMATS["csv"](alice.folder, table)
    check_rows(alice.state, declared, csv)
    stamps = Stamps(alice.state)
    for changed, same in (({}, True), ({"null_values": ["0"]}, False)):
        table_ = {"kind": "csv", "path": "rows.csv", "line_breaks": 1, **changed}
        with parse_source(table_, alice.folder).open(declared) as source:
            assert (stamps.find(source, declared) is not None) == same


def test_other_rows_come_than_were_checked(
    world: EnclaveWorld, alice: Desk, declared: Dataset, live: LiveEnclave
) -> None:
    """F17: a clock that is set back hides a write, and the digest of what was sent tells it."""
    task = world.task()
    alice.write(many())
    check_rows(alice.state, declared, alice.path)
    (stamp,) = (alice.state / "checks").iterdir()
    kept = json.loads(stamp.read_text())
    kept["digest"] = bytes(32).hex()
    stamp.write_text(json.dumps(kept))
    with alice.refuses(SourceChanged):
        alice.push(task)
    assert "committed" not in [line["event"] for line in live.log]
    assert not stamp.exists()
    assert alice.push(task).commit.rows == 3000


def test_a_source_that_is_refused_is_no_longer_checked(alice: Desk, declared: Dataset) -> None:
    check_rows(alice.state, declared, alice.path)
    alice.write(many(last_age=121))
    with refused(ValueOutsideDomain):
        check_rows(alice.state, declared, alice.path)
    assert list((alice.state / "checks").iterdir()) == []


def test_a_database_keeps_no_stamp(alice: Desk, declared: Dataset) -> None:
    """The same query answers otherwise tomorrow, and no file tells."""
    spec = FORMATS["sqlite"](alice.folder, pq.read_table(alice.path))
    checked = check_rows(alice.state, declared, spec)
    assert (checked.rows, checked.stamped) == (60, False)
    assert not (alice.state / "checks").exists()


# Before a release.


def test_a_dry_run_says_what_would_be_sent(
    world: EnclaveWorld, alice: Desk, relay: Relay, judged: list[int]
) -> None:
    task = world.task()
    planned = dry_run(alice.request(task), alice.dataset, alice.path)
    assert relay.connections == []
    assert alice.journal == []
    judged.clear()
    done = alice.push(task)
    assert (done.sent.rows, done.sent.batches, done.sent.bytes) == (
        planned.checked.rows,
        planned.checked.batches,
        planned.checked.bytes,
    )
    assert judged == []


def test_a_dry_run_refuses_what_a_release_would(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    with refused(DatasetNotOwned):
        dry_run(alice.request(world.task()), "train_party_2", alice.path)
    alice.write(many(last_age=121))
    with refused(ValueOutsideDomain):
        dry_run(alice.request(world.task()), alice.dataset, alice.path)
    assert relay.connections == []
    assert alice.journal == []


def test_the_dataset_of_an_accepted_policy(alice: Desk, tmp_path: Path, declared: Dataset) -> None:
    assert accepted_dataset(alice.state, "train_party_1").dataset == declared
    study = alice.world.policy.study
    assert accepted_dataset(alice.state, "train_party_1", study).dataset == declared
    with refused(DatasetUnclear):
        accepted_dataset(alice.state, "train_party_9")
    with refused(StateMissing) as seen:
        accepted_dataset(alice.state, "train_party_1", "another-study")
    assert study in seen.error.expected
    with refused(StateMissing):
        accepted_dataset(tmp_path / "nothing", "train_party_1")


def _check(alice: Desk, *flags: str) -> Any:
    options = [alice.dataset, "--source", alice.path, "--state", alice.state]
    return CliRunner().invoke(provider, ["check", *map(str, options), *flags])


def test_check_on_the_command_line(alice: Desk) -> None:
    done = _check(alice, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["rows"], answer["batches"], answer["stamped"]) == (60, 1, True)
    assert "60 rows" in _check(alice).stdout
    alice.write(many(last_age=121))
    wrong = _check(alice, "--json")
    count_refusal()
    assert (wrong.exit_code, code(wrong)) == (3, "value-outside-domain")
    assert CANARY not in wrong.output


def test_a_terminal_shows_rate_and_time_left(
    alice: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And machines get their one line alone."""
    monkeypatch.setattr("verifier.shell.can_redraw", lambda console: True)
    for json_output, shown in ((False, True), (True, False)):
        shell = Shell(json_output=json_output)
        shell.err = Console(stderr=True, force_terminal=True, width=120)
        with shown_progress(shell, "rows checked") as progress:
            for done in range(0, 3001, 100):
                progress(done, 3000)
        found = capsys.readouterr().err
        assert ("rows checked" in found) == ("3000/3000" in found) == shown


def test_a_dry_run_on_the_command_line(alice: Desk, world: EnclaveWorld, relay: Relay) -> None:
    terminal = Terminal(alice, world.task())
    done = terminal.push("--dry-run", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["rows"], answer["dry_run"], answer["mode"]) == (60, True, "simulation")
    assert "nothing was sent" in terminal.push("--dry-run").stdout
    assert relay.connections == []
    assert terminal.push("--check-first").exit_code == 0


def test_a_source_is_left_in_the_middle(alice: Desk, declared: Dataset) -> None:
    """Its threads end before its file is closed."""
    alice.write(many())
    spec: SourceSpec = parse_source({"kind": "parquet", "path": str(alice.path)}, Path())
    with spec.open(declared) as source, closing(source.chunks()) as chunks:
        next(chunks)
        assert threads_named(THREADS)
    assert threads_named(THREADS) == []
