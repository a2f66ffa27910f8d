"""Edges of what people and peers write: instants, empty values, names that are no text.

Year 1 with `+23:59` ended a command with a traceback; thirty digits of a fraction were signed and
cut; `--root ""` was taken for intel; a name that is not UTF-8 was a bug inside the enclave.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from policy.document import Policy, PolicyInvalid
from policy.rows import ColumnUnexpected, check_schema
from policy.show import as_json
from policy.statement import DocumentMalformed, instant_text
from policy.syntax import PolicySyntax
from policy.task import Task
from provider.mailbox import follow
from ratls.cli import build
from ratls.cli_verify import app as verify
from scheduler.messages import SchedulerAnswerMalformed
from scheduler.queued_task import QueuedTask
from tests.support.enclave import rows
from tests.support.parties import AT, COLUMNS, ROOTS, Consortium, TaskWorld
from tests.support.refusal import count_refusal, refused
from verifier.errors import Exit, InstantMalformed, RatlsError
from verifier.shell import parse_instant

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

WORLD = Consortium.create()

# Instants.

WRONG = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "1969-12-31T23:59:59Z",
    "3000-01-01T00:00:00Z",
    "2026-12-01T00:00:00+23:59",
    "2026-12-01T00:00:00-12:01",
    "2026-12-01T00:00:00.5Z",
    "2026-12-01T00:00:00.0Z",
    "2026-12-01T00:00:00." + "0" * 29 + "1Z",
]
UNREADABLE = ["2026-12-01T00:00Z", "2026-12-01", "2026-12-01T00:00:00", "2026-02-30T00:00:00Z"]
RIGHT = {
    "2026-12-01T00:00:00Z": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-12-01 00:00:00Z": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-12-01t00:00:00z": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-12-01T14:00:00+14:00": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-11-30T12:00:00-12:00": datetime(2026, 12, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("text", [*WRONG, *UNREADABLE, "", " ", "99999999999", "now", "1e9"])
def test_an_instant_that_is_typed(text: str) -> None:
    with refused(InstantMalformed):
        parse_instant(text)


@pytest.mark.parametrize("text", [*WRONG, *UNREADABLE])
@pytest.mark.parametrize("field", ["not_before", "expires"])
def test_an_instant_of_a_policy(text: str, field: str) -> None:
    """What is signed is what is compared and shown: nothing is cut, nothing overflows."""
    count_refusal()
    with pytest.raises((PolicyInvalid, PolicySyntax)):
        Policy.parse(WORLD.policy_text(**{field: text}).encode(), known_roots=ROOTS)


@pytest.mark.parametrize(("text", "instant"), RIGHT.items())
def test_an_instant_in_order(text: str, instant: datetime) -> None:
    """The twin, typed and in a policy."""
    assert parse_instant(text) == instant
    policy = Policy.parse(WORLD.policy_text(expires=text).encode(), known_roots=ROOTS)
    assert policy.expires == instant
    assert as_json(policy)["expires"] == instant_text(instant)


def test_a_bound_of_a_column_may_be_long_ago() -> None:
    """Dates of birth; but not one that does not exist in UTC."""
    for low, fits in (("1880-01-01T00:00:00Z", True), ("0001-01-01T00:00:00+14:00", False)):
        column = f'{{ type = "timestamp[us, UTC]", min = {low} }}'
        world = Consortium.create(columns=COLUMNS.replace("age =", f"born = {column}, age ="))
        raw = world.policy_text().encode()
        if fits:
            as_json(Policy.parse(raw, known_roots=ROOTS))
        else:
            with refused(PolicyInvalid):
                Policy.parse(raw, known_roots=ROOTS)


@pytest.mark.parametrize("field", ["issued_at", "expires"])
@pytest.mark.parametrize(
    "instant", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
)
def test_an_instant_of_a_task(field: str, instant: datetime) -> None:
    """Signed by whoever may submit; a sum with the clock's skew must not overflow in an agent."""
    tasks = TaskWorld(WORLD, WORLD.policy())
    with refused(DocumentMalformed):
        Task.open(tasks.signed(**{field: instant}), WORLD.policy(), AT)
    Task.open(tasks.signed(), WORLD.policy(), AT)


@settings(max_examples=150)
@given(
    st.text(max_size=30)
    | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
    | st.from_regex(r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:]{8}([Z]|[+-][0-2][0-9]:[0-5][0-9])\Z")
)
def test_every_text_is_an_instant_that_survives_or_a_refusal(text: str) -> None:
    try:
        instant = parse_instant(text)
    except InstantMalformed:
        return
    assert parse_instant(instant_text(instant)) == instant
    assert instant + timedelta(days=36525) > instant - timedelta(days=36525)


# Empty values.


def options(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each command with each option that takes a value, and with each argument."""
    for name, child in getattr(command, "commands", {}).items():
        yield from options(child, (*path, name))
    if hasattr(command, "commands"):
        return
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield (*path, "")
        elif not parameter.is_flag:
            yield (*path, parameter.opts[0], "")
            yield (*path, f"{parameter.opts[0]}=")


def test_no_option_of_any_command_takes_nothing_for_a_value() -> None:
    """The kind. A variable of a script that is not set must not read as an option not given."""
    count_refusal()
    command = typer.main.get_command(build())
    lines = list(options(command))
    assert len(lines) > 100
    for line in lines:
        with pytest.raises(typer.BadParameter, match="empty value"):
            command.main(list(line), standalone_mode=False)


@pytest.mark.parametrize("command", ["quote", "forecast"])
def test_an_empty_root_is_not_intel(tmp_path: Path, command: str) -> None:
    """Also where the package's commands are run by themselves."""
    count_refusal()
    words = [command, str(tmp_path / "q"), "--collateral", str(tmp_path / "c"), "--root", ""]
    assert CliRunner().invoke(verify, words).exit_code == Exit.USAGE


# Names and offers.


def renamed(schema: pa.Schema) -> pa.Schema:
    """Another name, of bytes that are no text."""
    raw = schema.serialize().to_pybytes()
    assert raw.count(b"bmi") == 1
    return pa.ipc.read_schema(pa.py_buffer(raw.replace(b"bmi", b"\xffmi")))


def test_a_peer_names_a_column_in_bytes_that_are_no_text() -> None:
    """What the enclave asks of a stream: a refusal with its code, and no bug."""
    dataset = WORLD.policy().dataset_by_id("train_party_1")
    assert dataset is not None
    schema = rows(1).schema
    with refused(ColumnUnexpected):
        check_schema(renamed(schema), dataset)
    check_schema(schema, dataset)


@pytest.mark.parametrize("store_schema", [True, False])
def test_a_file_names_a_column_in_bytes_that_are_no_text(
    tmp_path: Path, store_schema: bool
) -> None:
    from provider.sources import source_at

    dataset = WORLD.policy().dataset_by_id("train_party_1")
    assert dataset is not None
    file = tmp_path / "rows.parquet"
    pq.write_table(rows(1), file, store_schema=store_schema)
    with source_at(file).open(dataset) as source:
        assert source.scan() == 60
    file.write_bytes(file.read_bytes().replace(b"bmi", b"\xffmi"))
    count_refusal()
    with pytest.raises(RatlsError) as seen, source_at(file).open(dataset) as source:
        source.scan()
    assert seen.value.exit_status is Exit.UNUSABLE


class Watch:
    """As the scheduler's client gives one; it was let in."""

    def __init__(self, answers: Iterator[QueuedTask]) -> None:
        self._answers = answers

    def let_in(self) -> bool:
        return True

    def __iter__(self) -> Iterator[QueuedTask]:
        return self._answers


class Mailbox:
    """A scheduler whose first answer is malformed."""

    def __init__(self) -> None:
        self.watched: list[bytes] = []

    def watch(self, cursor: bytes, *, seconds: float) -> Watch:
        self.watched.append(cursor)
        return Watch(self._answers())

    def _answers(self) -> Iterator[QueuedTask]:
        if len(self.watched) == 1:
            yield QueuedTask(bytes(32), b"one", (), b"1")
            raise SchedulerAnswerMalformed("offer", expected="a digest", found="none")
        yield QueuedTask(bytes(32), b"two", (), b"2")


def test_a_malformed_offer_ends_no_agent() -> None:
    """The mailbox is trusted with nothing: what it says is reported, and it is asked again."""
    mailbox, told = Mailbox(), []
    found = follow(
        mailbox,  # type: ignore[arg-type]
        pause=lambda seconds: len(mailbox.watched) == 2,
        lost=lambda refusal, again: told.append(type(refusal)),
    )
    assert [queued.envelope for queued in found] == [b"one", b"two"]
    assert mailbox.watched == [b"", b"1"]
    assert told == [SchedulerAnswerMalformed]
