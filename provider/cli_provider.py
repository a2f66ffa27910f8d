"""`ratls provider`: release rows, and ask which rule the own input breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json, PartyDir, PassphraseFile
from provider.cli_agent import agent
from provider.cli_journal import journal
from provider.options import (
    EnclaveAt,
    MailboxAt,
    MailboxCertificate,
    StateDir,
    TaskFile,
    Timeout,
    enclave_request,
    enclave_shown,
    require_both,
)
from ratls.options import CollateralFile
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.commit import Commit
    from provider.exchange import EnclaveRequest
    from verifier.shell import Shell

provider = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Release rows to the agreed enclave only."
)


def push(
    task_file: TaskFile,
    dataset: Annotated[str, typer.Option(help="Id of your dataset in the policy.")],
    source: Annotated[
        Path,
        typer.Option(
            help="Its rows: .parquet, .csv, .tsv, .csv.gz, .arrow, .arrows, .ipc or .feather, "
            "a folder of .parquet; or a .toml that says where they are."
        ),
    ],
    enclave: EnclaveAt,
    collateral: CollateralFile,
    party: PartyDir,
    scheduler: MailboxAt = None,
    scheduler_certificate: MailboxCertificate = None,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    timeout: Timeout = 600,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Release one dataset for one task, once, to an enclave that first proves what it is.

    Checks task, policy and every row; then the enclave proves itself inside the stream that will
    carry the rows. If anything does not match, no row leaves. With --scheduler the release is
    reported to the scheduler, as an agent does.

    Example: ratls provider push --task task.json --dataset train_party_1 --source rows.parquet
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    require_both(scheduler, scheduler_certificate)
    with refusals_as_exit_status(json_output) as shell:
        from policy.document import digest_text
        from provider.release import release

        request = enclave_request(
            shell, task_file, enclave, collateral, party, passphrase_file, state, timeout,
            allow_simulation,
        )  # fmt: skip
        with _progress(shell) as progress:
            done = release(request, dataset, source, progress=progress)
        commit, kept = done.commit, done.kept
        reported = _report(shell, request, commit, scheduler, scheduler_certificate)
        if not json_output:
            shell.show_appraisal(done.fresh.appraisal)
        before = " by an earlier run" if done.resumed else ""
        shell.answer(
            {
                "dataset": commit.dataset,
                "rows": commit.rows,
                "batches": commit.batches,
                "bytes": done.sent.bytes,
                "resumed": done.resumed,
                "task_digest": digest_text(commit.task_digest),
                "commit_digest": digest_text(commit.digest),
                "acknowledgement": str(kept.acknowledgement),
                "record": str(kept.record),
                "reported": reported,
            }
            | enclave_shown(done.fresh, done.mode, enclave),
            f"released{before}: {commit.rows:,} rows of {commit.dataset} to "
            f"{done.fresh.admission.enclave.name}, instance {commit.instance.hex()}; "
            f"the enclave acknowledged them ({done.mode})\n"
            f"  acknowledgement {kept.acknowledgement}\n"
            f"  signed record   {kept.record}",
        )


def _report(
    shell: Shell,
    request: EnclaveRequest,
    commit: Commit,
    scheduler: str | None,
    certificate: Path | None,
) -> bool | None:
    """Report to the scheduler; None without one. A failed report is only shown."""
    if scheduler is None or certificate is None:
        return None
    from provider.mailbox import mailbox
    from ratls.address import Address
    from scheduler.queued_task import State
    from verifier.errors import RatlsError

    try:
        with mailbox(Address.parse(scheduler), certificate, request.party) as client:
            client.report(
                commit.task_digest, commit.dataset, State.RELEASED, instance=commit.instance
            )
    except RatlsError as refusal:
        shell.say(f"released, but not reported to {scheduler}: [{refusal.code}] {refusal}")
        return False
    return True


provider.command("push")(with_simulation_option(push))


def reason(
    task_file: TaskFile,
    dataset: Annotated[str, typer.Option(help="Id of your dataset in the policy.")],
    enclave: EnclaveAt,
    collateral: CollateralFile,
    party: PartyDir,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    timeout: Timeout = 60,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Ask which release rule your own input breaks by itself, once all inputs have arrived.

    Only where the policy says `reasons = "own input"`. The answer does not depend on the other
    inputs.

    Example: ratls provider reason --task task.json --dataset train_party_1
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.reason import ask_reason

        request = enclave_request(
            shell, task_file, enclave, collateral, party, passphrase_file, state, timeout,
            allow_simulation,
        )  # fmt: skip
        answer = ask_reason(request, dataset)
        meaning = f"breaks a rule by itself: {answer.code} (see docs/errors.md)"
        shell.answer(
            {"dataset": dataset, "reason": answer.code or None}
            | enclave_shown(answer.fresh, answer.mode, enclave),
            f"{dataset} {meaning if answer.code else 'breaks no rule by itself'} ({answer.mode})",
        )


provider.command("reason")(with_simulation_option(reason))
provider.command("agent")(agent)
provider.add_typer(journal, name="journal")


@contextmanager
def _progress(shell: Shell) -> Iterator[Callable[[int, int], None]]:
    """Shows on a terminal how many rows were sent."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from verifier.shell import can_redraw

    columns = (TextColumn("rows sent"), BarColumn(), MofNCompleteColumn())
    hidden = shell.json_output or not can_redraw(shell.err)
    with Progress(*columns, console=shell.err, disable=hidden, transient=True) as bar:
        row = bar.add_task("rows", total=None)
        yield lambda sent, total: bar.update(row, completed=sent, total=total)
