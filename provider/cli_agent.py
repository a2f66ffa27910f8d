"""`ratls provider agent` and `ratls provider journal`: work unattended; read what was done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provider.options import Json, JsonLines, StateDir, Timeout, state_folder
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.journal import JournalRecord, Reading
    from provider.agent import Agent
    from scheduler.client import SchedulerClient

journal = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="What this party released, refused and collected; changes nothing.",
)


def _show_sample(wanted: bool) -> None:
    if wanted:
        from provider.agent_config import SAMPLE

        typer.echo(SAMPLE, nl=False)
        raise typer.Exit


def _agent(
    config: Annotated[Path, typer.Option("--config", help="The agent's configuration, TOML.")],
    once: Annotated[
        bool, typer.Option("--once", help="Handle what is queued now, each task once, and end.")
    ] = False,
    timeout: Timeout = 600,
    json_output: JsonLines = False,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample", callback=_show_sample, is_eager=True, help="Show a configuration, and end."
        ),
    ] = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Wait for tasks; release what the policy and this party's configuration say, and no more.

    Checks each task, the policy and the enclave by itself, as `ratls provider push` does; the
    scheduler only wakes it up. Prints one line for each decision. What was not decided, as with
    an enclave that is away, is tried again later; a refusal stands until the agent is started
    anew. Ends with the worst status of all tasks with --once; otherwise at Ctrl-C or SIGTERM.

    Example: ratls provider agent --config agent.toml
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.environment import prepare_process

        prepare_process()  # before anything loads gRPC, which reads the environment once
        from provider.agent import Agent, Event, Line
        from provider.agent_config import AgentConfig
        from provider.agent_tasks import TaskReleaser
        from provider.mailbox import mailbox
        from ratls.log import open_log
        from ratls.serving import errors_logged
        from verifier.anchors import Mode
        from verifier.errors import RatlsError
        from verifier.shell import now

        settings = AgentConfig.read(config)
        with (
            errors_logged(open_log()),
            _ending_when_told(once),
            TaskReleaser.open(
                settings,
                allow_simulation=allow_simulation,
                timeout=timeout,
                clock=now,
            ) as releaser,
        ):
            if releaser.mode is Mode.SIMULATION:
                shell.warn_simulation()

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
                agent = Agent(releaser, client.report, say, persistent=not once)
                if once:
                    _empty(agent, client)
                else:
                    shell.say(f"watching {settings.scheduler} as {releaser.party.party_id}")
                    _watch(agent, client, lost, back)
        if agent.worst:
            raise typer.Exit(int(agent.worst))


agent = with_simulation_option(_agent)


def _empty(agent: Agent, client: SchedulerClient) -> None:
    for queued in client.list():
        agent.offer(queued)
        while not agent.has_room:
            agent.work()
    while agent.due_in() is not None:
        agent.work()


def _watch(agent: Agent, client: SchedulerClient, lost: Any, back: Any) -> None:
    from provider.agent import attend
    from provider.mailbox import Inbox

    with Inbox(client, lost, back=back) as inbox:
        attend(agent, inbox.next)


@contextmanager
def _ending_when_told(once: bool) -> Iterator[None]:
    """Unwind as at Ctrl-C: connections are closed, locks released. What runs was made to be cut."""
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


@journal.command()
def show(
    state: StateDir = None,
    task: Annotated[
        str | None, typer.Option(help="Only this task: sha256: and 64 hex digits.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    json_output: JsonLines = False,
) -> None:
    """Verify the journal, then show its records, the oldest first.

    Example: ratls provider journal show --dataset train_party_1
    """
    from verifier.shell import refusals_as_exit_status
    from verifier.text import printable

    if task is not None:
        _require_digest(task)
    with refusals_as_exit_status(json_output) as shell:
        reading = _reading(state)
        for record in reading.records:
            fields = record.entry.model_dump(mode="json")
            wanted = {"task": task, "dataset": dataset}
            if any(value not in (None, fields.get(name)) for name, value in wanted.items()):
                continue
            shell.answer(_place(record) | fields, printable(_told(record, fields)))


@journal.command()
def verify(
    state: StateDir = None,
    head: Annotated[
        str | None,
        typer.Option(help="A head noted earlier, sha256:…: the journal must still hold its line."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(help="Rows that were released: a file as `provider push --source` takes it."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="With --source: the release to this task, sha256:….")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With --source: the release of this dataset.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Is the journal complete and unaltered? Prints how many lines it has, and its head.

    Keep the head elsewhere: who can write the folder can put back an older journal as a whole,
    and only a head from outside shows that.

    With --source: are these the rows whose arrival the enclave acknowledged? Asks nobody.

    Example: ratls provider journal verify --state state --source rows.csv
    """
    from verifier.shell import refusals_as_exit_status

    for digest in (head, task):
        if digest is not None:
            _require_digest(digest)
    if source is None and not (task is None and dataset is None):
        raise typer.BadParameter("only a --source is held against a release", param_hint="--source")
    with refusals_as_exit_status(json_output) as shell:
        reading = _reading(state)
        if head is not None:
            reading.require_line(head)
        facts, told = _head(reading), f"the journal holds: {_head_text(reading)}"
        if source is not None:
            held = _held(state_folder(state), reading, source, task, dataset)
            facts |= held
            told += f"\n{source}: the {held['rows']:,} acknowledged rows of {held['dataset']}"
        shell.answer(facts, told)


def _held(
    state: Path, reading: Reading, source: Path, task: str | None, dataset: str | None
) -> dict[str, Any]:
    from policy.document import digest_text
    from provider.source_check import compare_source
    from provider.sources import source_at

    held = compare_source(state, reading, source_at(source), task=task, dataset=dataset)
    document = held.acknowledgement
    return {
        "source": str(source),
        "acknowledgement": str(held.path),
        "task_digest": digest_text(document.task_digest),
        "dataset": document.dataset,
        "rows": document.rows,
        "rows_digest": digest_text(document.rows_digest),
    }


@journal.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")],
    state: StateDir = None,
    json_output: Json = False,
) -> None:
    """Verify the journal and write its lines, byte for byte, to a new file of JSON lines.

    Example: ratls provider journal export -o journal-2026.jsonl
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.files import write_new

        reading = _reading(state)
        write_new(output, reading.raw)
        shell.answer({"output": str(output)} | _head(reading), f"{output}: {_head_text(reading)}")


def _reading(state: Path | None) -> Reading:
    from policy.journal import Reading

    return Reading.of(state_folder(state))


def _require_digest(text: str) -> None:
    import re

    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise typer.BadParameter("write sha256: and 64 lower-case hex digits")


def _head(reading: Reading) -> dict[str, Any]:
    from policy.document import digest_text

    return {"lines": reading.head.count, "head": digest_text(reading.head.digest)}


def _head_text(reading: Reading) -> str:
    head = _head(reading)
    return f"{head['lines']} lines, head {head['head']}"


def _place(record: JournalRecord) -> dict[str, Any]:
    from policy.document import digest_text
    from policy.statement import instant_text

    return {
        "seq": record.seq,
        "at": instant_text(record.at),
        "digest": digest_text(record.digest),
    }


_SHOWN = {
    "placed": ("machine", "filesystem", "folder"),
    "accepted": ("study", "version", "policy"),
    "noted": ("collateral", "root_list", "platform_list"),
    "returned": ("dataset", "task", "reason"),
}
_STEPS = {
    "local": "nobody was connected to",
    "enclave": "the enclave had to prove itself",
    "rows": "rows were leaving",
    "commit": "the commit was due",
    "answer": "the enclave's answer was checked",
}


def _told(record: JournalRecord, fields: dict[str, Any]) -> str:
    """One record as a line for people."""
    from policy.statement import instant_text

    parts = [f"{record.seq + 1:>5}", instant_text(record.at), f"{fields['kind']:<9}"]
    names = _SHOWN.get(fields["kind"], ("dataset", "task"))
    parts += [str(fields[name]) for name in names if fields.get(name) is not None]
    if fields.get("rows") is not None:
        parts.append(f"{fields['rows']:,} rows")
    if "code" in fields:
        parts.append(f"[{fields['code']}]" + (f" at {fields['check']}" if fields["check"] else ""))
        parts += [f"while {_STEPS[fields['step']]}"] if fields["step"] else []
    if "mode" in fields:
        parts.append(f"({fields['mode'] or 'no root chosen'})")
    return " ".join(parts)
