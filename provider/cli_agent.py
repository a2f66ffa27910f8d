"""`ratls provider agent`: release to queued tasks without a person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provider.options import Timeout
from ratls.options import JsonLines
from verifier.modes import with_simulation_option

if TYPE_CHECKING:
    from provider.agent import Agent
    from scheduler.client import SchedulerClient


def _show_sample(wanted: bool) -> None:
    if wanted:
        from ratls.profile_draft import SAMPLE

        typer.echo(SAMPLE, nl=False)
        raise typer.Exit


@with_simulation_option
def agent(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The profile of this party and study.")
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Handle what is queued now, each task once, and end.")
    ] = False,
    timeout: Timeout = 600,
    json_output: JsonLines = False,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample", callback=_show_sample, is_eager=True, help="Show a profile, and end."
        ),
    ] = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Wait for tasks, and release what the policy and this party's profile allow.

    Checks each task, the policy and the enclave, as `ratls provider push` does; the scheduler only
    wakes it up. Prints one line for each decision. Without a decision, for example while the
    enclave cannot be reached, it tries again later; a refusal is final until the agent restarts.
    With --once ends with the worst status of all tasks; otherwise at Ctrl-C or SIGTERM.

    Example: ratls provider agent --config ratls.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.environment import prepare_process

        prepare_process()  # before anything loads gRPC, which reads the environment once
        from provider.agent import Agent, Event, Line, attend
        from provider.agent_config import AgentConfig
        from provider.agent_tasks import TaskReleaser
        from provider.mailbox import Inbox, mailbox
        from ratls.log import open_log
        from ratls.serving import errors_logged
        from verifier.anchors import Mode
        from verifier.errors import RatlsError
        from verifier.shell import now

        settings = AgentConfig.read(config)
        with (
            errors_logged(open_log()),
            _ending_on_signal(once),
            TaskReleaser.open(
                settings, allow_simulation=allow_simulation, timeout=timeout, clock=now
            ) as releaser,
        ):
            shell.warn_simulation(releaser.mode is Mode.SIMULATION)

            def say(line: Line) -> None:
                shell.announce({**line.as_json(), "party": releaser.party.party_id}, line.text())

            def lost(refusal: RatlsError, again: float) -> None:
                say(
                    Line(
                        Event.MAILBOX, releaser.clock(), releaser.mode, refusal=refusal, again=again
                    )
                )

            def back() -> None:
                say(Line(Event.MAILBOX_BACK, releaser.clock(), releaser.mode))

            with mailbox(
                settings.scheduler, settings.scheduler_certificate, releaser.party
            ) as client:
                decides = Agent(releaser, client.report, say, persistent=not once)
                if once:
                    _empty(decides, client)
                else:
                    shell.say(f"watching {settings.scheduler} as {releaser.party.party_id}")
                    with Inbox(client, lost, back=back) as inbox:
                        attend(decides, inbox.next)
        if decides.worst:
            raise typer.Exit(int(decides.worst))


def _empty(agent: Agent, client: SchedulerClient) -> None:
    for queued in client.list():
        agent.offer(queued)
        while not agent.has_room:
            agent.work()
    while agent.due_in() is not None:
        agent.work()


@contextmanager
def _ending_on_signal(once: bool) -> Iterator[None]:
    """End as at Ctrl-C: connections are closed, locks released. Every step may be interrupted."""
    import signal
    import sys

    from ratls.serving import on_stop
    from verifier.errors import Exit

    status = int(Exit.INTERRUPTED if once else Exit.YES)

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(status)

    with on_stop(stop):
        yield
