"""`ratls task submit`, `list`, `watch`: queue a task, and see which providers have released."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json, PartyDir, PassphraseFile, own_party
from provider.options import (
    OWN_TASK,
    SchedulerAt,
    SchedulerCertificate,
    StateDir,
    TaskFile,
    state_folder,
)
from ratls.options import JsonLines
from verifier.modes import with_simulation_option
from verifier.text import digest_text, instant_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from policy.document import Policy
    from policy.statement import Unverified
    from policy.task import Task, TaskLabel
    from provider.mailbox import Notice
    from scheduler.client import SchedulerClient
    from verifier.shell import Shell

MAX_SHOWN = 1024  # tasks that a watch remembers; the scheduler may show any number

OnlyTask = Annotated[
    Path | None, typer.Option("--task", help="Only this signed task. Default: every task.")
]


@with_simulation_option
def submit(
    scheduler: SchedulerAt,
    scheduler_certificate: SchedulerCertificate,
    party: PartyDir,
    task_file: TaskFile = OWN_TASK,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Queue a signed task at the scheduler, which offers it to the providers' agents.

    The task is first checked under the policy that this party accepted. Submitting a task again
    changes nothing.

    Example: ratls task submit --task task.json --scheduler scheduler.example:7444
    --scheduler-certificate scheduler.crt --party carol
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from verifier.files import read_file

        raw = read_file(task_file)
        task = _checked(shell, raw, state_folder(state), allow_simulation)
        with _mailbox(scheduler, scheduler_certificate, party, passphrase_file) as client:
            client.submit(raw)
        until = instant_text(task.expires)
        shell.answer(
            {
                "task_digest": digest_text(task.digest),
                "study": task.study,
                "computation": task.computation,
                "expires": until,
                "scheduler": scheduler,
            },
            f"queued at {scheduler}: {task.computation} of {task.study}, until {until}\n"
            f"  {digest_text(task.digest)}",
        )


def show(
    scheduler: SchedulerAt,
    scheduler_certificate: SchedulerCertificate,
    party: PartyDir,
    task_file: OnlyTask = None,
    passphrase_file: PassphraseFile = None,
    json_output: JsonLines = False,
) -> None:
    """Show the queued tasks of this party's policies, and which providers have released.

    The scheduler's word is not verified; acknowledgements and receipts are proof. With --task:
    exit status 6 where the enclave restarted between two releases, which ends that task.

    Example: ratls task list --scheduler scheduler.example:7444
    --scheduler-certificate scheduler.crt --party carol
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.mailbox import Notice

        label = _label(task_file)
        only = b"" if label is None else label.digest
        with _mailbox(scheduler, scheduler_certificate, party, passphrase_file) as client:
            notices = [Notice.of(queued) for queued in client.list(task_digest=only)]
        if shell.out.is_terminal and not json_output:
            shell.out.print(_table(notices))
        else:
            for notice in notices:
                _tell(shell, notice)
        if only:
            for notice in notices:
                notice.require_one_start()


def watch(
    scheduler: SchedulerAt,
    scheduler_certificate: SchedulerCertificate,
    party: PartyDir,
    task_file: OnlyTask = None,
    passphrase_file: PassphraseFile = None,
    json_output: JsonLines = False,
) -> None:
    """Show queued tasks as they come and change, until Ctrl-C.

    With --task: until every provider has released (exit status 0), one has refused (7), the task
    has expired, or the enclave restarted between two releases (6). The scheduler's word is not
    verified; acknowledgements and receipts are proof.

    Example: ratls task watch --task task.json --scheduler scheduler.example:7444
    --scheduler-certificate scheduler.crt --party carol
    """
    from verifier.shell import refusals_as_exit_status

    with (
        refusals_as_exit_status(json_output) as shell,
        _mailbox(scheduler, scheduler_certificate, party, passphrase_file) as client,
    ):
        _follow(shell, client, _label(task_file))


def _follow(shell: Shell, client: SchedulerClient, task: TaskLabel | None) -> None:
    from provider.mailbox import Notice, follow, outcome, seconds_left
    from ratls.call_thread import pause
    from verifier.errors import RatlsError
    from verifier.shell import now

    def lost(refusal: RatlsError, again: float) -> None:
        shell.say(f"[{refusal.code}] {refusal}; again in {again:.0f} s")

    notices = (
        Notice.of(queued)
        for queued in follow(
            client,
            pause=pause,
            lost=lost,
            back=lambda: shell.say("the scheduler is back"),
            lasting=lambda: seconds_left(task, now()),
        )
    )
    with _Display(shell) as display:
        for notice in notices:
            if task is not None and notice.digest != task.digest:
                continue
            display.show(notice)
            if task is not None and outcome(notice):
                return


class _Display:
    """On a terminal a table that is redrawn; elsewhere a line for each change."""

    def __init__(self, shell: Shell) -> None:
        from rich.live import Live

        from verifier.shell import can_redraw

        self._shell = shell
        self.seen: OrderedDict[bytes, Notice] = OrderedDict()  # the newest last
        alive = can_redraw(shell.out) and not shell.json_output
        self._live = Live(console=shell.out, auto_refresh=False) if alive else None

    def __enter__(self) -> _Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, notice: Notice) -> None:
        before = self.seen.get(notice.digest)
        if before is not None and before.queued.datasets == notice.queued.datasets:
            return
        self.seen[notice.digest] = notice
        self.seen.move_to_end(notice.digest)
        if len(self.seen) > MAX_SHOWN:
            self.seen.popitem(last=False)
        if self._live is None:
            _tell(self._shell, notice)
        else:
            self._live.update(_table(self.seen.values()), refresh=True)


def _table(notices: Iterable[Notice]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("task", "what", "until", "datasets, as the scheduler says")
    for notice in notices:
        digest, *rest = notice.cells()
        table.add_row(f"{digest[:19]}…", *(escape(printable(cell)) for cell in rest))
    return table


def _tell(shell: Shell, notice: Notice) -> None:
    shell.answer(notice.as_json(), printable("  ".join(notice.cells())))


def _mailbox(
    scheduler: str, certificate: Path, party: Path, passphrase_file: Path | None
) -> SchedulerClient:
    from ratls.environment import prepare_process

    prepare_process()  # before anything loads gRPC, which reads the environment once
    from provider.mailbox import mailbox
    from ratls.address import Address

    local = own_party(party, passphrase_file)
    return mailbox(Address.parse(scheduler), certificate, local)


def _checked(shell: Shell, raw: bytes, state: Path, allow_simulation: bool) -> Task:
    """The task, which this party's own copy of the policy allows now."""
    from policy.state import StudyState
    from policy.task import open_task
    from verifier.shell import now

    at, accepted = now(), StudyState(state)

    def policy_in_force(named: Unverified) -> Policy:
        policy = accepted.find_by_policy_digest(named.policy_digest, at).policy
        shell.anchors(policy.platform.root, allow_simulation=allow_simulation)
        return policy

    task, policy = open_task(raw, policy_in_force, at)
    accepted.require_taking_part(policy, task.computation, task.submitter)
    return task


def _label(file: Path | None) -> TaskLabel | None:
    from policy.task import TaskLabel
    from verifier.files import parse_file

    return None if file is None else parse_file(file, TaskLabel.read)
