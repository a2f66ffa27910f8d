"""D06, D03: an enclave that is started anew, seen by those who wait, and a use that nobody had.

What was released to an earlier start is gone with it. Who only hears that an input is missing
waits for what can never come. And a try that broke before its first row used the task up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.journal_entries import (
    CommittedEntry,
    Entry,
    RefusedEntry,
    ReleasedEntry,
    ReservedEntry,
    ReturnedEntry,
)
from policy.state import StudyState
from policy.task import Task
from provider.budget import UsesExhausted
from provider.collect import ResultPending
from provider.errors import EnclaveRestarted, TaskBoundToInstance
from provider.exchange import ValidityWatch
from ratls.client_stream import ClientExchange
from ratls.errors import CallFailed
from scheduler.messages import RequestMalformed, read_report
from scheduler.queued_task import State
from scheduler.task_service_pb2 import DatasetState, ReportRequest
from tests.provider.agents import stationed
from tests.provider.desk import Desk
from tests.provider.test_cli import Terminal, require_refused
from tests.provider.test_release import Killed, die, serving
from tests.provider.test_task_queue import Keyboard, lines, work
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


@pytest.fixture
def queue(world: EnclaveWorld, tmp_path: Path) -> Iterator[LiveScheduler]:
    with running_scheduler(tmp_path / "scheduler", [world.complete]) as live:
        yield live


# Who waits is told.


def test_carol_waits_for_what_was_released_to_a_dead_enclave(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    """The enclave says that Alice's rows are missing, which is true and no reason to wait."""
    raw = world.task()
    at_carol = Terminal(carol, raw)
    mailbox = {
        "scheduler": queue.address,
        "scheduler_certificate": Keyboard(carol, queue, raw).options["scheduler-certificate"],
    }
    queue.client(carol.party).submit(raw)
    work(alice, queue)
    seen = at_carol.result("--json", **mailbox)
    require_refused(seen, ResultPending.code, 5)  # Bob may still come
    with world.running() as other:
        seen = at_carol.result("--json", **mailbox, enclave=other.address)
        require_refused(seen, EnclaveRestarted.code, 6)
        # Without the mailbox, or with one that is away, nothing of this is known.
        for without in ({}, mailbox | {"scheduler": "127.0.0.1:1"}):
            seen = at_carol.result("--json", **without, enclave=other.address)
            require_refused(seen, ResultPending.code, 5)
    assert [e.code for e in carol.journal if isinstance(e, RefusedEntry)] == [
        ResultPending.code,
        EnclaveRestarted.code,
        ResultPending.code,
    ]


def test_two_providers_release_to_two_starts(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, bob: Desk, carol: Desk
) -> None:
    """`task list` and `task watch` see it without asking the enclave; a new task goes through."""
    raw = world.task()
    at_carol = Keyboard(carol, queue, raw)
    queue.client(carol.party).submit(raw)
    work(alice, queue)
    file = carol.folder / "task.json"
    assert lines(at_carol.type("list", "--json", task=file))
    first = bob.address
    with world.running() as other:
        bob.address = other.address
        work(bob, queue)
    for command in ("list", "watch"):
        require_refused(at_carol.type(command, "--json", task=file), EnclaveRestarted.code, 6)
    everything = at_carol.type("list")
    assert everything.exit_code == 0
    assert "sign a new task" in everything.stdout
    bob.address, again = first, world.task()
    queue.client(carol.party).submit(again)
    work(alice, queue)
    work(bob, queue)
    assert carol.fetch(again, wait=HANG_LIMIT).size > 0


def test_a_provider_is_bound_to_a_dead_start(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk, relay: Relay
) -> None:
    """Its upload broke and the enclave came back as another: it refuses, and Carol hears why."""
    raw = world.task()
    at_carol = Keyboard(carol, queue, raw)
    queue.client(carol.party).submit(raw)
    with pytest.raises(Killed):
        alice.push(raw, progress=die)
    with serving(world, relay), stationed(alice) as agent:
        agent.scheduler = queue.client(alice.party)
        assert agent.take(raw).said == [f"refused {TaskBoundToInstance.code}"]
    seen = at_carol.type("watch", "--json", task=carol.folder / "task.json")
    require_refused(seen, EnclaveRestarted.code, 6)


def test_push_tells_the_mailbox(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    """By hand as by an agent: the release and the start that it went to. A mailbox that is away
    changes nothing of what was released."""
    raw = world.task()
    at_alice, options = Terminal(alice, raw), Keyboard(alice, queue, raw).options
    queue.client(carol.party).submit(raw)
    (told,) = lines(
        at_alice.push(
            "--json",
            scheduler=queue.address,
            scheduler_certificate=options["scheduler-certificate"],
        )
    )
    assert told["reported"] is True
    (queued,) = queue.client(carol.party).list()
    shown = queued.datasets[0]
    assert (shown.state, shown.instance.hex()) == (State.RELEASED, told["instance"])
    (alice.folder / "task.json").write_bytes(world.task())
    (told,) = lines(
        at_alice.push(
            "--json",
            scheduler="127.0.0.1:1",
            scheduler_certificate=options["scheduler-certificate"],
        )
    )
    assert (told["reported"], told["rows"]) == (False, 60)
    (alice.folder / "task.json").write_bytes(world.task())
    assert at_alice.push("--json", scheduler=queue.address).exit_code == 2
    assert lines(at_alice.push("--json"))[0]["reported"] is None


@pytest.mark.parametrize(
    ("state", "instance"),
    [
        (DatasetState.RELEASED, b"i" * 15),
        (DatasetState.RELEASED, b"i" * 17),
        (DatasetState.REFUSED, b"i" * 16),
    ],
)
def test_a_start_that_is_none(state: DatasetState.ValueType, instance: bytes) -> None:
    """Peers print it: exactly 16 bytes, and only with a release."""
    made: dict[str, Any] = {"task_digest": bytes(32), "dataset": "d", "state": state}
    made["code"] = "a-code" if state == DatasetState.REFUSED else ""
    with refused(RequestMalformed):
        read_report(ReportRequest(instance=instance, **made))
    good = b"i" * 16 if state == DatasetState.RELEASED else b""
    assert read_report(ReportRequest(instance=good, **made))[-1] == good


# Uses.


@pytest.fixture
def once(alice: Desk, relay: Relay, tmp_path: Path) -> Iterator[tuple[Desk, LiveEnclave]]:
    """Alice under a policy with one use, and its enclave."""
    text = alice.world.consortium.policy_text(replace=[("uses = 10", "uses = 1")])
    world = replace(alice.world, complete=alice.world.consortium.complete(text))
    desk = replace(alice, world=world, folder=tmp_path / "once")
    desk.folder.mkdir()
    desk.path.write_bytes(alice.path.read_bytes())
    StudyState(desk.state).accept(world.complete.agreement, desk.party, NOW)
    with world.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        yield desk, live


@contextmanager
def broken_before_the_first_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def broken(*_: object) -> None:
        raise CallFailed("stream", expected="an enclave", found="none")

    with monkeypatch.context() as patched:
        patched.setattr(ClientExchange, "open", broken)
        yield


def kinds(desk: Desk) -> list[type[Entry]]:
    return [type(entry) for entry in desk.journal]


def test_the_link_breaks_before_the_first_row(
    once: tuple[Desk, LiveEnclave], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row followed the reservation: it is given back, to another task or another start."""
    desk, _ = once
    for _ in range(2):
        with broken_before_the_first_row(monkeypatch), refused(CallFailed):
            desk.push(desk.world.task())
    assert kinds(desk) == [ReservedEntry, ReturnedEntry, RefusedEntry] * 2
    assert desk.push(desk.world.task()).commit.rows == 60
    with desk.refuses(UsesExhausted):  # that one counts
        desk.push(desk.world.task())


def test_a_reservation_given_back_may_go_to_another_start(
    alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its twin, one row later, may not."""
    task = alice.world.task()
    with broken_before_the_first_row(monkeypatch), refused(CallFailed):
        alice.push(task)
    with serving(alice.world, relay), pytest.raises(Killed):
        alice.push(task, progress=die)
    with serving(alice.world, relay), alice.refuses(TaskBoundToInstance):
        alice.push(task)


class Died(BaseException):
    """The process ends without another line of its code."""


@pytest.mark.parametrize("rows_left", [False, True])
def test_the_process_dies_before_its_commit(
    once: tuple[Desk, LiveEnclave], monkeypatch: pytest.MonkeyPatch, rows_left: bool
) -> None:
    """Nobody knows whether rows left. Until the task has ended the use is taken; afterwards no
    commit can follow any more, no enclave computes without one, and the use is given back."""
    desk, _ = once

    def ask(self: ValidityWatch) -> None:
        raise Died

    with monkeypatch.context() as patched:
        if rows_left:
            patched.setattr("provider.release._keep", lambda *_: die(0, 0))
        else:
            patched.setattr(ValidityWatch, "check", ask)
        with pytest.raises((Died, Killed)):
            desk.push(desk.world.task(lifetime=HOUR))
    assert kinds(desk) == [ReservedEntry]
    with desk.refuses(UsesExhausted):
        desk.push(desk.world.task(lifetime=2 * HOUR))

    def later() -> datetime:
        return NOW + HOUR

    assert desk.push(desk.world.task(lifetime=2 * HOUR), clock=later).commit.rows == 60
    assert kinds(desk) == [
        ReservedEntry,
        RefusedEntry,
        ReturnedEntry,
        ReservedEntry,
        CommittedEntry,
        ReleasedEntry,
    ]


def test_the_process_dies_after_its_commit(
    once: tuple[Desk, LiveEnclave], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: a commit that was signed may have arrived, and is a use for good."""
    desk, _ = once
    with monkeypatch.context() as patched:
        patched.setattr("provider.release._conclude", lambda *_: die(0, 0))
        with pytest.raises(Killed):
            desk.push(desk.world.task(lifetime=HOUR))
    with desk.refuses(UsesExhausted):
        desk.push(desk.world.task(lifetime=2 * HOUR), clock=lambda: NOW + HOUR)
    assert ReturnedEntry not in kinds(desk)


def test_what_was_given_back_is_shown(
    once: tuple[Desk, LiveEnclave], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`provider journal show` names the task, and why its reservation is no use."""
    from typer.testing import CliRunner

    from provider.cli_provider import provider

    desk, _ = once
    task = desk.world.task()
    with broken_before_the_first_row(monkeypatch), refused(CallFailed):
        desk.push(task)
    shown = CliRunner().invoke(provider, ["journal", "show", "--state", str(desk.state)]).stdout
    (line,) = [line for line in shown.splitlines() if " returned " in line]
    assert Task.read(task).digest.hex() in line
    assert "no-row-left" in line
