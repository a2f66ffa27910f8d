"""An agent at a desk: its configuration, what it said, what it reported, and a clock to turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from policy.task import Task
from provider.agent import Agent, Line, attend
from provider.agent_config import AgentConfig
from provider.agent_tasks import TaskReleaser
from provider.mailbox import Inbox
from scheduler.client import SchedulerClient
from scheduler.queued_task import DatasetStatus, QueuedTask, State
from tests.provider.desk import Desk
from tests.support.enclave import NOW
from tests.support.parties import PASSPHRASE
from tests.support.waiting import HANG_LIMIT
from verifier.backoff import Backoff

STUDY = "breast-cancer-joint-training"
ENCLAVE = "joint-training-1.0"
OWNERS = {"train_party_1": "alice-clinic", "train_party_2": "bob-hospital"}


def offer(raw: bytes, *, digest: bytes | None = None, **states: tuple[State, str]) -> QueuedTask:
    """A task as a scheduler shows it; `states` by dataset."""
    if digest is None:
        digest = Task.read(raw).digest
    datasets = tuple(
        DatasetStatus(name, owner, *states.get(name, (State.WAITING, "")))
        for name, owner in OWNERS.items()
    )
    return QueuedTask(digest, raw, datasets, b"cursor")


def configure(
    desk: Desk,
    scheduler: str = "127.0.0.1:1",
    certificate: Path = Path("scheduler.crt"),
    *,
    replace: tuple[tuple[str, str], ...] = (),
) -> Path:
    """Write `ratls.toml` and what it names beside the desk's rows."""
    (desk.folder / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (desk.folder / "collateral.json").write_bytes(desk.world.collateral)
    text = (
        f'study = "{STUDY}"\nparty = "{desk.party.folder}"\npassphrase_file = "passphrase"\n'
        f'state = "state"\n[scheduler]\naddress = "{scheduler}"\ncertificate = "{certificate}"\n'
        f'[[enclave]]\nname = "{ENCLAVE}"\naddress = "{desk.address}"\n'
        'collateral = "collateral.json"\n'
        f'[[dataset]]\nid = "{desk.dataset}"\n'
        'source = { kind = "parquet", path = "rows.parquet" }\n'
    )
    for old, new in replace:
        assert old in text, old
        text = text.replace(old, new)
    path = desk.folder / "ratls.toml"
    path.write_text(text)
    return path


@dataclass
class Watched:
    """An agent whose clock stands still until it is turned, and whose words are kept."""

    releaser: TaskReleaser
    now: float = 1000.0
    lines: list[Line] = field(default_factory=list)
    reports: list[tuple[bytes, str, State, str]] = field(default_factory=list)
    instances: list[bytes] = field(default_factory=list)  # one with each report
    scheduler: SchedulerClient | None = None  # told what is reported, where there is one
    agent: Agent = field(init=False)

    def start(self, **options: Any) -> Watched:
        """A process of its own would begin like this."""
        made: dict[str, Any] = {"seconds": lambda: self.now, "random": lambda: 1.0} | options
        report = made.pop("report", self.report)
        self.agent = Agent(self.releaser, report, self.lines.append, **made)
        return self

    def report(self, digest: bytes, dataset: str, state: State, code: str, instance: bytes) -> None:
        self.reports.append((digest, dataset, state, code))
        self.instances.append(instance)
        if self.scheduler is not None:
            self.scheduler.report(digest, dataset, state, code, instance)

    def work(self) -> Watched:
        """Everything that is due now."""
        while self.agent.due_in() == 0.0:
            self.agent.work()
        return self

    def take(self, *raws: bytes) -> Watched:
        """Offered once each, and all that follows at once."""
        for raw in raws:
            self.agent.offer(offer(raw))
        return self.work()

    def wait(self) -> float:
        """Turn the clock to the next thing to do; the seconds."""
        seconds = self.agent.due_in()
        assert seconds is not None, "nothing to wait for"
        self.now += seconds
        return seconds

    @property
    def said(self) -> list[str]:
        """`event`, or `event code` where there is one."""
        return [f"{x.event.value} {x.refusal.code}" if x.refusal else x.event for x in self.lines]

    @property
    def verdicts(self) -> list[str]:
        """What was reported, in order."""
        return [f"{state.value} {code}".strip() for _, _, state, code in self.reports]


@contextmanager
def stationed(
    desk: Desk, *, clock: Callable[[], datetime] = lambda: NOW, **options: Any
) -> Iterator[Watched]:
    """A started agent at this desk; `options` of `configure` and of `Agent`."""
    names = ("scheduler", "certificate", "replace")
    config = AgentConfig.read(configure(desk, **{n: options.pop(n) for n in names if n in options}))
    with TaskReleaser.open(
        config, allow_simulation=True, timeout=HANG_LIMIT, clock=clock
    ) as releaser:
        yield Watched(releaser).start(**options)


class Enough(Exception):
    """What the test waited for has happened."""


@contextmanager
def at_work(watched: Watched, client: SchedulerClient) -> Iterator[Callable[..., None]]:
    """The agent follows this scheduler; the function given works until a condition holds."""
    watched.scheduler = client
    hasty = Backoff(0.01, 0.05)
    with Inbox(client, lambda refusal, again: None, backoff=hasty) as inbox:

        def until(condition: Callable[[], bool]) -> None:
            def next_offer(seconds: float | None) -> QueuedTask | None:
                if condition():
                    raise Enough
                came = inbox.next(HANG_LIMIT if seconds is None else seconds)
                assert came is not None or seconds is not None, f"nothing came: {watched.said}"
                return came

            try:
                attend(watched.agent, next_offer)
            except Enough:
                return

        yield until
