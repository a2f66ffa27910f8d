"""D13, D11: the mailbox is trusted with nothing, and offers what it likes as often as it likes.

One signed task has thousands of envelopes: white space in the JSON around it changes no
signature. Each was taken for a task of its own: judged, journalled and kept in memory.
"""

from __future__ import annotations

import socket
import tracemalloc
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count

import pytest

from policy.document import digest_text
from policy.journal_entries import CommittedEntry, RefusedEntry, ReleasedEntry, ReservedEntry
from policy.task import Task, TaskExpired
from provider.agent import MAX_WAITING_BYTES, Event, attend
from provider.cli_task_queue import MAX_SHOWN, _Display
from provider.collect import collect
from provider.mailbox import Notice
from ratls.address import Address, PeerUnreachable
from scheduler.messages import ENVELOPE_CAP
from scheduler.queued_task import DatasetStatus, QueuedTask
from tests.provider.agents import Enough, offer, stationed
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from verifier.shell import Shell

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)


def spelled(task: bytes, number: int) -> bytes:
    """The same signed task in another envelope."""
    return task.replace(b"{", b"{" + b" " * number, 1)


def spoilt(task: bytes) -> bytes:
    """The same payload, and a signature of the right form that does not hold."""
    at = task.index(b'"sig":') + len(b'"sig":')
    begin = task.index(b'"', at) + 1
    signature = bytearray(b64decode(task[begin : task.index(b'"', begin)]))
    signature[0] ^= 1
    return task[:begin] + b64encode(signature) + task[task.index(b'"', begin) :]


class Turned:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_an_expired_task_in_400_envelopes(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """One line in the journal and one on the screen, also after a restart; others are judged."""
    count_refusal()
    clock, task = Turned(), world.task(lifetime=HOUR)
    clock.now += 2 * HOUR
    for _ in range(2):
        with stationed(alice, clock=clock) as agent:
            for number in range(400):
                agent.take(spelled(task, number))
            assert agent.said == [f"refused {TaskExpired.code}"]
            assert agent.verdicts == [f"refused {TaskExpired.code}"]
    assert [e.code for e in alice.journal if isinstance(e, RefusedEntry)] == [TaskExpired.code]
    assert relay.connections == []
    with stationed(alice) as agent:
        assert agent.take(world.task()).said == [Event.RELEASED]


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "by the agent"])
def test_each_of_several_expired_tasks_is_recorded(
    world: EnclaveWorld, alice: Desk, by_hand: bool
) -> None:
    """L06: once means once for each task. Refused alike, they are still different tasks."""
    count_refusal()
    clock = Turned()
    tasks = [world.task(lifetime=HOUR) for _ in range(3)]
    clock.now += 2 * HOUR
    for again in range(2):
        if by_hand:
            for task in tasks:
                with refused(TaskExpired):
                    alice.push(task, clock=clock)
        else:
            with stationed(alice, clock=clock) as agent:
                agent.take(*(spelled(task, again) for task in tasks))
    recorded = [e.task for e in alice.journal if isinstance(e, RefusedEntry)]
    assert recorded == [digest_text(Task.read(task).digest) for task in tasks]


def test_each_of_several_expired_tasks_is_not_collected(world: EnclaveWorld, carol: Desk) -> None:
    """The same at the recipient."""
    tasks = [world.task(lifetime=HOUR) for _ in range(2)]
    for task in tasks:
        with refused(TaskExpired):
            collect(carol.request(task, clock=lambda: NOW + 2 * HOUR), carol.outputs)
    recorded = [e.task for e in carol.journal if isinstance(e, RefusedEntry)]
    assert recorded == [digest_text(Task.read(task).digest) for task in tasks]


def test_a_task_in_many_long_envelopes_waits_once(world: EnclaveWorld, alice: Desk) -> None:
    """Two thousand of 60 KiB each held 126 MB."""
    task = world.task()
    longest = ENVELOPE_CAP - len(task) - 500
    with stationed(alice) as agent:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(500):
                agent.agent.offer(offer(spelled(task, longest + number)))
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < 1 << 20
        agent.work()
        assert agent.said == [Event.RELEASED]
        assert agent.verdicts == ["released"]


def test_a_spoilt_signature_does_not_end_the_task(world: EnclaveWorld, alice: Desk) -> None:
    """The mailbox shows the payload first under a signature that does not hold, then as it is."""
    count_refusal()
    task = world.task()
    with stationed(alice) as agent:
        agent.take(spoilt(task), spelled(spoilt(task), 1))
        assert len(agent.lines) == 1
        assert agent.lines[0].event is Event.REFUSED
        agent.take(task)
        assert [line.event for line in agent.lines] == [Event.REFUSED, Event.RELEASED]


def test_things_that_are_no_tasks(world: EnclaveWorld, alice: Desk) -> None:
    """Each says why once; nothing of it is journalled, reported or kept."""
    count_refusal()
    with stationed(alice) as agent:
        for number in range(500):
            agent.agent.offer(offer(b"{}" + b" " * number, digest=number.to_bytes(32, "big")))
        assert len(agent.lines) == 1
        assert agent.reports == []
        assert agent.take(world.task()).said[-1] == Event.RELEASED
    assert not any(isinstance(entry, RefusedEntry) for entry in alice.journal)


def test_names_that_the_mailbox_makes_up(world: EnclaveWorld, alice: Desk) -> None:
    """A refused task is reported for own datasets, not for every name that comes with it."""
    count_refusal()
    spoiled = spoilt(world.task())
    digest, names = Task.read(spoiled).digest, [f"made-up-{n}" for n in range(200)]
    with stationed(alice) as agent:
        for name in [*names, "train_party_1"]:
            status = DatasetStatus(name, "alice-clinic")
            agent.agent.offer(QueuedTask(digest, spoiled, (status,), b""))
        agent.work()
        assert [dataset for _, dataset, _, _ in agent.reports] == ["train_party_1"]


def away(desk: Desk) -> Desk:
    """A desk whose enclave does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return replace(desk, address=Address("127.0.0.1", held.getsockname()[1]))


def test_an_enclave_that_is_away_for_days(world: EnclaveWorld, alice: Desk) -> None:
    """Each try fails alike. The journal has it once, and the release when the enclave is back."""
    task = world.task()
    with stationed(away(alice)) as agent:
        agent.take(task)
        for _ in range(30):
            agent.wait()
            agent.work()
        assert len(agent.said) == 31
        assert set(agent.said) == {f"later {PeerUnreachable.code}"}
    with stationed(alice) as agent:
        assert agent.take(task).said == [Event.RELEASED]
    kinds = [type(entry) for entry in alice.journal]
    assert kinds == [RefusedEntry, ReservedEntry, CommittedEntry, ReleasedEntry]


def test_more_tasks_wait_than_there_is_room_for(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is taken until work is done: the mailbox has to wait, not our memory."""
    count_refusal()
    monkeypatch.setattr("provider.agent.MAX_WAITING", 20)
    clock, offered, paused = Turned(), count(), list[float]()

    def next_offer(seconds: float | None) -> QueuedTask | None:
        next(offered)
        return offer(world.task(lifetime=HOUR))

    def pause(seconds: float) -> None:
        paused.append(seconds)
        raise Enough

    with stationed(away(alice), clock=clock) as agent:
        with pytest.raises(Enough):
            attend(agent.agent, next_offer, pause)
        assert next(offered) == 20
        assert paused[0] > 0
        assert set(agent.said) == {f"later {PeerUnreachable.code}"}
        clock.now += 2 * HOUR  # the tasks end: there is room again
        agent.now += 1000
        agent.work()
        assert agent.agent.has_room
    with stationed(alice) as agent:
        assert agent.take(world.task()).said == [Event.RELEASED]


def test_their_bytes_are_counted_too(world: EnclaveWorld, alice: Desk) -> None:
    with stationed(alice) as agent:
        taken = 0
        while agent.agent.has_room:
            task = world.task()
            agent.agent.offer(offer(spelled(task, ENVELOPE_CAP - len(task))))
            taken += 1
        assert taken == MAX_WAITING_BYTES // ENVELOPE_CAP


def test_a_watch_that_shows_too_much(capsys: pytest.CaptureFixture[str]) -> None:
    """`ratls task watch` keeps the last tasks that it showed, not all of a flood."""
    display = _Display(Shell(json_output=True))
    for number in range(MAX_SHOWN + 500):
        digest = number.to_bytes(32, "big")
        display.show(Notice.of(QueuedTask(digest, b"", (), b"")))
    assert len(display.seen) == MAX_SHOWN
    assert len(capsys.readouterr().out.splitlines()) == MAX_SHOWN + 500
