"""The whole way of a task: submitted, dispatched, released to, collected; and who disturbs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from policy.journal_entries import ReleasedEntry
from policy.state import StudyState
from policy.task import Task
from provider.agent import Event, Line
from provider.cli_provider import provider
from provider.cli_task import task
from provider.cli_task_queue import _tell
from provider.collect import ResultPending
from provider.mailbox import Notice, ReleaseRefusedElsewhere, follow, outcome
from ratls.address import Address, PeerUnreachable
from ratls.client_stream import ClientExchange
from ratls.errors import CallFailed
from ratls.framing import Kind
from scheduler.client import SchedulerRefused, SchedulerUnreachable
from scheduler.queued_task import DatasetStatus, QueuedTask, State
from tests.provider.agents import Watched, at_work, configure, stationed
from tests.provider.desk import CANARY, Desk
from tests.provider.test_cli import NO_SIMULATION, require_refused
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.parties import PASSPHRASE, local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import Mode
from verifier.backoff import Backoff
from verifier.errors import RatlsError
from verifier.shell import Shell

pytestmark = pytest.mark.slow

HASTY: dict[str, Any] = {"seconds": time.monotonic, "backoff": Backoff(0.01, 0.05)}


@pytest.fixture
def queue(world: EnclaveWorld, tmp_path: Path) -> Iterator[LiveScheduler]:
    with running_scheduler(tmp_path / "scheduler", [world.complete]) as live:
        yield live


def released(agent: Watched, count: int = 1) -> Callable[[], bool]:
    """Until so many releases were made and reported."""
    return lambda: agent.said.count("released") == count and agent.agent.due_in() is None


def work(desk: Desk, queue: LiveScheduler, count: int = 1, **options: Any) -> Watched:
    """An agent of this desk until it has released so often."""
    with (
        stationed(desk, **HASTY | options) as agent,
        at_work(agent, queue.client(desk.party)) as until,
    ):
        until(released(agent, count))
    return agent


def shown(queue: LiveScheduler, desk: Desk) -> dict[str, str]:
    """What the scheduler says of the one task in its queue."""
    (queued,) = queue.client(desk.party).list()
    return {d.dataset: d.state.value for d in queued.datasets}


# The whole way.


def test_a_task_goes_all_the_way(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, bob: Desk, carol: Desk
) -> None:
    raw = world.task()
    queue.client(carol.party).submit(raw)
    assert shown(queue, carol) == {"train_party_1": "waiting", "train_party_2": "waiting"}
    work(alice, queue)
    assert shown(queue, carol) == {"train_party_1": "released", "train_party_2": "waiting"}
    work(bob, queue)
    assert shown(queue, carol) == {"train_party_1": "released", "train_party_2": "released"}
    done = carol.fetch(raw, wait=HANG_LIMIT)
    assert [i.dataset for i in done.receipt.inputs] == ["train_party_1", "train_party_2"]


def test_nothing_that_passes_or_stays_at_the_scheduler_is_a_row(
    world: EnclaveWorld,
    queue: LiveScheduler,
    alice: Desk,
    carol: Desk,
    relay: Relay,
    tmp_path: Path,
) -> None:
    """D12: a full release with packet capture at the enclave and at the scheduler, and its disk."""
    with Relay(("127.0.0.1", queue.address.port)) as tap:
        address = Address.parse(tap.address)
        queue.client(carol.party, address=address).submit(world.task())
        with (
            stationed(alice, **HASTY) as agent,
            at_work(agent, queue.client(alice.party, address=address)) as until,
        ):
            until(released(agent))
        passed = b"".join(bytes(c.sent + c.received) for c in tap.connections + relay.connections)
    kept = b"".join(p.read_bytes() for p in (tmp_path / "scheduler").iterdir())
    told = queue.log + "".join(line.text() + str(line.as_json()) for line in agent.lines)
    assert len(passed) > 10_000
    for secret in (CANARY, "PRIVATE KEY"):
        assert secret.encode() not in passed
        assert secret not in told
    assert CANARY.encode() not in kept


def test_an_agent_that_was_away_gets_what_it_missed(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    for _ in range(3):
        queue.client(carol.party).submit(world.task())
    assert work(alice, queue, 3).said == ["released"] * 3


def test_a_task_is_submitted_twice(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk, relay: Relay
) -> None:
    """D03, the whole way: queued once, released once, also by the agent of the next morning."""
    raw = world.task()
    client = queue.client(carol.party)
    assert client.submit(raw) == client.submit(raw)
    work(alice, queue)
    connections = len(relay.connections)
    client.submit(raw)
    client.submit(world.task())
    work(alice, queue)
    assert len(relay.connections) == connections + 1  # of the second task, under the known pin
    assert sum(isinstance(entry, ReleasedEntry) for entry in alice.journal) == 2


# What breaks.


def test_the_scheduler_restarts(
    world: EnclaveWorld, alice: Desk, carol: Desk, tmp_path: Path
) -> None:
    """The agent comes back by itself, with its place: neither lost nor doubled."""
    folder = tmp_path / "scheduler"
    with (
        stationed(alice, **HASTY) as agent,
        running_scheduler(folder, [world.complete]) as first,
    ):
        port = first.address.port
        first.client(carol.party).submit(world.task())
        with at_work(agent, first.client(alice.party)) as until:
            until(released(agent))
            first.server.stop()
            with running_scheduler(folder, [world.complete], port=port) as second:
                second.client(carol.party).submit(world.task())
                until(released(agent, 2))
    assert agent.said.count("released") == 2
    assert {x.event.value for x in agent.lines} <= {"released", "not-reported"}


def test_the_enclave_restarts_between_tasks(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk, relay: Relay
) -> None:
    """Another instance is no obstacle for a task that no row has left for."""
    queue.client(carol.party).submit(world.task())
    work(alice, queue)
    with world.running() as other:
        relay.point_at(("127.0.0.1", other.server.port))
        queue.client(carol.party).submit(world.task())
        assert work(alice, queue).said == ["released"]


def test_a_provider_is_dropped_in_mid_stream(
    world: EnclaveWorld,
    queue: LiveScheduler,
    alice: Desk,
    bob: Desk,
    carol: Desk,
    live: LiveEnclave,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D08. Whoever cuts Bob off hopes for a result of Alice's rows alone: there is none."""
    raw = world.task()
    queue.client(carol.party).submit(raw)
    work(alice, queue)
    with Relay(("127.0.0.1", live.server.port)) as link:
        bob.address = Address.parse(link.address)
        send = ClientExchange.send_sealed

        def cutting(exchange: ClientExchange, *chunk: Any, **said: Any) -> None:
            link.cut()
            send(exchange, *chunk, **said)

        with monkeypatch.context() as patched, stationed(bob) as agent:
            patched.setattr(ClientExchange, "send_sealed", cutting)
            patched.setattr("provider.sending.WAITS", (0.0, None))
            agent.take(raw)
        assert agent.said[0].startswith("later ")
        with refused(ResultPending):
            carol.fetch(raw)
        assert shown(queue, carol)["train_party_2"] == "waiting"
        work(bob, queue)
    assert carol.fetch(raw, wait=HANG_LIMIT).receipt.run == "logistic_regression"


def test_a_refusal_is_seen_by_the_submitter(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    count_refusal()
    alice.path.unlink()
    queue.client(carol.party).submit(world.task())
    with stationed(alice, **HASTY) as agent, at_work(agent, queue.client(alice.party)) as until:
        until(lambda: agent.said != [] and agent.agent.due_in() is None)
    (queued,) = queue.client(carol.party).list()
    assert (queued.datasets[0].state, queued.datasets[0].code) == (
        State.REFUSED,
        "source-unreadable",
    )


# Strangers and liars.


def test_a_stranger_takes_a_seat(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, live: LiveEnclave
) -> None:
    """D07. Its certificate is well formed and in no policy: no task in, none out."""
    mallory = local_party("mallory", NOW)
    stranger = queue.client(mallory)
    with refused(SchedulerUnreachable):
        stranger.list()
    with refused(SchedulerUnreachable):
        stranger.submit(world.task())
    with refused(SchedulerUnreachable):
        for _ in stranger.watch():
            raise AssertionError("a task was shown to a stranger")
    with (
        refused(CallFailed),
        live.exchange(Kind.RELEASE, mallory, task=world.task(), dataset="train_party_2"),
    ):
        raise AssertionError("the enclave talks to a stranger")
    assert queue.client(alice.party).list() == ()


def test_bob_says_that_alice_has_released(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, bob: Desk, carol: Desk
) -> None:
    """D09. Only the owner reports; and Alice's agent asks nobody but its own journal."""
    digest = queue.client(carol.party).submit(world.task())
    with refused(SchedulerRefused) as seen:
        queue.client(bob.party).report(digest, "train_party_1", State.RELEASED)
    assert isinstance(seen.error, SchedulerRefused)
    assert seen.error.peer_code == "report-not-authorized"
    assert work(alice, queue).said == ["released"]


class Ended(Exception):
    """The test has seen enough."""


class Liar:
    """A scheduler's client whose watches end at once, or fail as told."""

    def __init__(self, *turns: RatlsError | list[QueuedTask]) -> None:
        self.turns, self.cursors = list(turns), list[bytes]()

    def watch(self, cursor: bytes, *, seconds: float) -> Turn:
        self.cursors.append(cursor)
        return Turn(self.turns.pop(0) if self.turns else [])


@dataclass
class Turn:
    """One watch."""

    answer: RatlsError | list[QueuedTask]

    def let_in(self) -> bool:
        return not isinstance(self.answer, RatlsError)

    def __iter__(self) -> Iterator[QueuedTask]:
        if isinstance(self.answer, RatlsError):
            raise self.answer
        yield from self.answer


def test_watches_that_end_at_once_are_not_asked_in_a_circle() -> None:
    """A scheduler could else keep an agent's machine busy; and a place is never forgotten."""
    task = QueuedTask(b"d" * 32, b"", (), b"place")
    away = SchedulerUnreachable("scheduler", expected="an answer", found="none")
    liar, pauses, lost = Liar([], [task], away, away, []), [0.0], [0.0]
    back: list[int] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) > 6

    seen = follow(
        liar,  # type: ignore[arg-type]
        pause=pause,
        lost=lambda refusal, again: lost.append(again),
        back=lambda: back.append(len(pauses)),
        random=lambda: 1.0,
    )
    assert list(seen) == [task]
    assert pauses[1:] == [1, 1, 1, 2, 1, 1]
    assert lost[1:] == [1, 2]
    assert back == [5], "said once, and when it is so"
    assert liar.cursors == [b"", b"", *[b"place"] * 4]


def test_a_scheduler_that_refuses_for_good_ends_the_watch() -> None:
    refusal = SchedulerRefused(peer_code="peer-not-served", correlation_id="0" * 16)
    with refused(SchedulerRefused):
        list(follow(Liar(refusal), pause=lambda s: False, lost=lambda *_: None))  # type: ignore[arg-type]


def queued(raw: bytes, *states: tuple[State, str], name: str = "d") -> QueuedTask:
    datasets = tuple(DatasetStatus(name, "owner", *state) for state in states)
    return QueuedTask(b"d" * 32, raw, datasets, b"")


def test_a_scheduler_that_shows_no_inputs_at_all(world: EnclaveWorld) -> None:
    """Every dataset of none is released: that must not read as done."""
    raw = world.task()
    done = State.RELEASED, ""
    assert outcome(Notice.of(queued(raw, done, done)))
    for states in ((), (done, (State.WAITING, ""))):
        assert not outcome(Notice.of(queued(raw, *states)))
    with refused(ReleaseRefusedElsewhere):
        outcome(Notice.of(queued(raw, done, (State.REFUSED, "value-null"))))


def test_names_that_would_forge_a_line(world: EnclaveWorld) -> None:
    """Names and messages are the peers': none of them moves the cursor or begins a line."""
    count_refusal()
    evil = "d\nreleased all\x1b[2J"
    shell = CliRunner()
    app = typer.Typer()

    @app.command()
    def tell() -> None:
        _tell(Shell(json_output=False), Notice.of(queued(b"", (State.WAITING, ""), name=evil)))

    assert len(shell.invoke(app, []).stdout.splitlines()) == 1
    refusal = PeerUnreachable(evil, expected=evil, found=evil)
    text = Line(Event.REFUSED, NOW, Mode.SIMULATION, refusal=refusal).text()
    assert text.isprintable()


# The commands.


class Keyboard:
    """Types commands for a desk."""

    def __init__(self, desk: Desk, queue: LiveScheduler, raw: bytes) -> None:
        self.desk = desk
        folder = desk.folder
        (folder / "task.json").write_bytes(raw)
        (folder / "passphrase").write_bytes(PASSPHRASE + b"\n")
        (folder / "scheduler.crt").write_bytes(queue.certificate.cert_pem)
        self.options: dict[str, Any] = {
            "scheduler": queue.address,
            "scheduler-certificate": folder / "scheduler.crt",
            "party": desk.party.folder,
            "passphrase-file": folder / "passphrase",
        }
        self.config = configure(desk, str(queue.address))

    def type(self, command: str, *flags: str, **changed: Any) -> Result:
        options = self.options | {k.replace("_", "-"): v for k, v in changed.items()}
        if command == "submit":
            options = {"task": self.desk.folder / "task.json", "state": self.desk.state} | options
            flags = flags if NO_SIMULATION in flags else (*flags, "--allow-simulation")
        line = [command, *(flag for flag in flags if flag != NO_SIMULATION)]
        for name, value in options.items():
            line += [f"--{name}", str(value)]
        return CliRunner().invoke(task, line)

    def agent(self, *flags: str) -> Result:
        return CliRunner().invoke(
            provider, ["agent", "--config", str(self.config), "--once", *flags]
        )


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_submitted_listed_released_watched(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, bob: Desk, carol: Desk
) -> None:
    raw = world.task()
    at_carol = Keyboard(carol, queue, raw)
    (queued,) = lines(at_carol.type("submit", "--json"))
    digest = f"sha256:{Task.read(raw).digest.hex()}"
    assert queued["task_digest"] == digest
    (listed,) = lines(at_carol.type("list", "--json"))
    assert (listed["task_digest"], listed["submitter"]) == (digest, "carol-lab")
    assert {d["state"] for d in listed["datasets"]} == {"waiting"}
    for desk in (alice, bob):
        (line,) = lines(Keyboard(desk, queue, b"").agent("--json", "--allow-simulation"))
        assert (line["event"], line["task_digest"]) == ("released", digest)
    watched = lines(at_carol.type("watch", "--json", task=carol.folder / "task.json"))
    assert {d["state"] for d in watched[-1]["datasets"]} == {"released"}
    people = at_carol.type("watch", task=carol.folder / "task.json")
    assert "train of breast-cancer-joint-training, asked by carol-lab" in people.stdout


def test_a_terminal_shows_a_table(
    world: EnclaveWorld,
    queue: LiveScheduler,
    alice: Desk,
    bob: Desk,
    carol: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = world.task()
    at_carol = Keyboard(carol, queue, raw)
    at_carol.type("submit")
    for desk in (alice, bob):
        work(desk, queue)
    monkeypatch.setattr("verifier.shell.can_redraw", lambda console: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("list", "watch"):
        table = at_carol.type(command, task=carol.folder / "task.json")
        assert table.exit_code == 0, table.output
        assert "train_party_2 released" in table.stdout


@pytest.mark.parametrize(
    ("flags", "changed", "status", "refusal"),
    [
        ((NO_SIMULATION,), {}, 6, "simulation-not-allowed"),
        ((), {"task": "no-such-file"}, 3, "file-unreadable"),
        ((), {"task": "passphrase"}, 3, "envelope-malformed"),
        ((), {"state": "no-such-folder"}, 3, "state-missing"),
        ((), {"scheduler": "127.0.0.1:1"}, 7, "scheduler-unreachable"),
        ((), {"scheduler": "http://127.0.0.1"}, 3, "address-malformed"),
        ((), {"scheduler_certificate": "passphrase"}, 3, "scheduler-certificate-unusable"),
        ((), {"passphrase_file": "no-such-file"}, 3, "file-unreadable"),
    ],
)
def test_a_submission_that_goes_wrong(
    world: EnclaveWorld,
    queue: LiveScheduler,
    carol: Desk,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    changed: dict[str, Any],
    status: int,
    refusal: str,
) -> None:
    at_carol = Keyboard(carol, queue, world.task())
    monkeypatch.chdir(carol.folder)
    require_refused(at_carol.type("submit", "--json", *flags, **changed), refusal, status)
    assert queue.client(carol.party).list() == ()


def test_an_expired_task_is_not_even_submitted(
    world: EnclaveWorld, queue: LiveScheduler, carol: Desk
) -> None:
    at_carol = Keyboard(carol, queue, world.task(at=NOW - timedelta(hours=3)))
    require_refused(at_carol.type("submit", "--json"), "task-expired", 6)
    seen = at_carol.type("watch", "--json", task=carol.folder / "task.json")
    require_refused(seen, "task-expired", 6)


def test_the_task_of_somebody_else(world: EnclaveWorld, queue: LiveScheduler, alice: Desk) -> None:
    """Alice holds a copy of Carol's task: her submission would spend Carol's quota."""
    seen = Keyboard(alice, queue, world.task()).type("submit", "--json")
    require_refused(seen, "scheduler-refused", 7)


def test_a_watched_task_is_refused(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    """Said with the provider's code, and the status of another side that refused."""
    at_carol = Keyboard(carol, queue, world.task())
    at_carol.type("submit")
    alice.path.unlink()
    refusing = Keyboard(alice, queue, b"").agent("--json", "--allow-simulation")
    assert refusing.exit_code == 3
    assert json.loads(refusing.stdout)["error"]["code"] == "source-unreadable"
    seen = at_carol.type("watch", "--json", task=carol.folder / "task.json")
    require_refused(seen, "release-refused-elsewhere", 7)


def test_agents_that_cannot_start(world: EnclaveWorld, queue: LiveScheduler, alice: Desk) -> None:
    """Twice, without the third lock, and without a scheduler."""
    at_alice = Keyboard(alice, queue, b"")
    with stationed(alice, scheduler=str(queue.address)):
        seen = at_alice.agent("--json", "--allow-simulation")
    require_refused(seen, "agent-running", 3)
    require_refused(at_alice.agent("--json"), "simulation-not-allowed", 6)
    configure(alice, "127.0.0.1:1")
    require_refused(at_alice.agent("--json", "--allow-simulation"), "scheduler-unreachable", 7)
    configure(alice, str(queue.address))
    assert lines(at_alice.agent("--json", "--allow-simulation")) == []


def test_the_help_shows_an_example() -> None:
    for command in ("submit", "list", "watch"):
        assert "Example: ratls " in CliRunner().invoke(task, [command, "--help"]).output
    assert "Example: ratls " in CliRunner().invoke(provider, ["agent", "--help"]).output
    assert "[[dataset]]" in CliRunner().invoke(provider, ["agent", "--sample"]).output


RUN = "from ratls.cli import main; main()"
FLAGS = ("--json", "--allow-simulation")


@contextmanager
def process(config: Path) -> Iterator[subprocess.Popen[str]]:
    """`ratls provider agent`, as a supervisor starts it."""
    started = subprocess.Popen(
        [sys.executable, "-c", RUN, "provider", "agent", "--config", str(config), *FLAGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["sigterm", "ctrl-c"]
)
def test_an_agent_is_told_to_stop(
    world: EnclaveWorld,
    queue: LiveScheduler,
    alice: Desk,
    carol: Desk,
    number: signal.Signals,
    status: int,
) -> None:
    """A real process: it works, says so at once though nobody reads, ends, and lets its lock go."""
    config = Keyboard(alice, queue, b"").config
    with process(config) as agent:
        queue.client(carol.party).submit(world.task())
        assert agent.stdout is not None
        assert json.loads(agent.stdout.readline())["event"] == "released"
        agent.send_signal(number)
        out, err = agent.communicate(timeout=HANG_LIMIT)
    assert (agent.returncode, out) == (status, "")
    assert "Traceback" not in err
    assert lines(Keyboard(alice, queue, b"").agent("--json", "--allow-simulation")) == []


def test_an_agent_is_killed_at_work(
    world: EnclaveWorld, queue: LiveScheduler, alice: Desk, carol: Desk
) -> None:
    """SIGKILL after the release, maybe before its report: the next start puts it right."""
    config = Keyboard(alice, queue, b"").config
    with process(config) as agent:
        queue.client(carol.party).submit(world.task())
        assert agent.stdout is not None
        agent.stdout.readline()
        agent.kill()
    assert lines(Keyboard(alice, queue, b"").agent("--json", "--allow-simulation")) == []
    assert shown(queue, carol)["train_party_1"] == "released"
    assert sum(isinstance(entry, ReleasedEntry) for entry in alice.journal) == 1


def test_a_policy_that_ran_out(world: EnclaveWorld, alice: Desk, tmp_path: Path) -> None:
    """The accepted agreement is kept and no longer in force: refused, with what to do about it."""
    count_refusal()
    later = NOW + timedelta(days=31)
    with stationed(alice, clock=lambda: later) as agent:
        agent.take(world.task())
    assert agent.said == ["refused policy-expired"]
    assert StudyState(alice.state).stored(world.policy.study) is not None
