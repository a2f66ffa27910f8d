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
    from provider.agent import Agent, Line
    from provider.agent_config import AgentConfig
    from provider.agent_tasks import TaskReleaser
    from scheduler.client import SchedulerClient
    from verifier.shell import Shell


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
    check: Annotated[
        bool,
        typer.Option("--check", help="Try everything in the configuration, release nothing, end."),
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
    As it starts, it says which files no task could be done with. With --check it reads all rows,
    lets each enclave prove itself, asks the scheduler, and says what would be refused.

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
        if check:
            _check(shell, settings, allow_simulation, timeout)
            return
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
                    for line in _unready(releaser):
                        say(line)
                    shell.say(f"watching {settings.scheduler} as {releaser.party.party_id}")
                    with Inbox(client, lost, back=back) as inbox:
                        attend(decides, inbox.next)
        if decides.worst:
            raise typer.Exit(int(decides.worst))


def _unready(releaser: TaskReleaser) -> Iterator[Line]:
    """What a person should see before they leave the agent alone."""
    from policy.state import StudyState
    from provider.agent import Event, Line
    from provider.agent_check import unready

    stored = StudyState(releaser.config.state).stored(releaser.config.study)
    assert stored is not None  # the releaser was opened with it
    for tried in unready(releaser.config, stored.policy, releaser.party.party_id):
        dataset = tried.what.removeprefix("dataset ") if tried.what.startswith("dataset ") else None
        yield Line(
            Event.UNREADY, releaser.clock(), releaser.mode, dataset=dataset, refusal=tried.refusal
        )


def _check(shell: Shell, settings: AgentConfig, allow_simulation: bool, timeout: float) -> None:
    from provider.agent_check import try_all
    from provider.cli_check import shown_progress
    from verifier.errors import Exit
    from verifier.shell import now

    statuses = []
    with shown_progress(shell, "rows checked") as progress:
        for tried in try_all(
            settings,
            allow_simulation=allow_simulation,
            timeout=timeout,
            clock=now,
            progress=progress,
        ):
            shell.answer(tried.as_json(), str(tried))
            if tried.refusal is not None:
                statuses.append(int(tried.refusal.exit_status))
    if statuses:
        raise typer.Exit(int(Exit.worst(statuses)))
    shell.say("nothing would be refused now")


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
