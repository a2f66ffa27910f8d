"""`ratls provider`: release rows, and ask which rule the own input breaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from provider.cli_agent import agent
from provider.cli_budget import budget
from provider.cli_check import (
    SourcePath,
    amount,
    check,
    checked_shown,
    describe,
    shown_progress,
)
from provider.cli_deliver import deliver
from provider.cli_journal import journal
from provider.cli_train import train
from provider.options import (
    Mailbox,
    OwnDataset,
    ToEnclave,
    enclave_shown,
    report_released,
    with_options,
)
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from provider.exchange import EnclaveRequest
    from verifier.shell import Shell

provider = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Release rows to the agreed enclave only."
)


def push(
    dataset: OwnDataset,
    source: SourcePath,
    to: ToEnclave,
    mailbox: Mailbox,
    check_first: Annotated[
        bool,
        typer.Option(
            "--check-first",
            help="Read and check all rows before anybody is connected to, unless "
            "`ratls provider check` did. Default: check each as it leaves.",
        ),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything up to the connection; nothing leaves."),
    ] = False,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=6,
            help="Connections that carry the rows at once. Default: by cores and size.",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Release one dataset for one task, once, to an enclave that first proves what it is.

    Checks task and policy; then the enclave proves itself inside the stream that will carry the
    rows. If anything does not match, no row leaves. Each row is checked before it leaves: one that
    the policy does not allow ends the release, nothing counts, and no use is charged. With
    --scheduler the release is reported to the scheduler, as an agent does.

    Example: ratls provider push --task task.json --dataset train_party_1 --source rows.parquet
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.document import digest_text
        from provider.release import release

        request = to.request(shell)
        if dry:
            _rehearse(shell, request, dataset, source)
            return
        with shown_progress(shell, "rows sent") as progress:
            done = release(
                request,
                dataset,
                source,
                streams=streams,
                check_first=check_first,
                progress=progress,
            )
        commit, kept = done.commit, done.kept
        done_for = (commit.task_digest, commit.dataset, commit.instance)
        reported = report_released(shell, request, *done_for, mailbox)
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
            | enclave_shown(done.fresh, done.mode, to.enclave),
            f"released{before}: {commit.rows:,} rows of {commit.dataset} to "
            f"{done.fresh.admission.enclave.name}, instance {commit.instance.hex()}; "
            f"the enclave acknowledged them ({done.mode})\n"
            f"  acknowledgement {kept.acknowledgement}\n"
            f"  signed record   {kept.record}",
        )


def _rehearse(shell: Shell, request: EnclaveRequest, dataset: str, source: Path) -> None:
    """Answer what would be sent."""
    from provider.dry_run import dry_run

    with shown_progress(shell, "rows checked") as progress:
        planned = dry_run(request, dataset, source, progress=progress)
    job, checked = planned.job, planned.checked
    shell.answer(
        checked_shown(dataset, checked)
        | {"task_digest": job.checked.task_text, "mode": job.checked.mode.value, "dry_run": True},
        f"would be released: {amount(checked)} of {dataset}, to one of "
        f"{', '.join(enclave.name for enclave in job.policy.enclave)}; nothing was sent "
        f"({job.checked.mode})",
    )


provider.command("push")(with_simulation_option(with_options(push, timeout=600)))


def reason(
    dataset: OwnDataset,
    to: ToEnclave,
    json_output: Json = False,
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

        request = to.request(shell)
        answer = ask_reason(request, dataset)
        meaning = f"breaks a rule by itself: {answer.code} (see docs/errors.md)"
        shell.answer(
            {"dataset": dataset, "reason": answer.code or None}
            | enclave_shown(answer.fresh, answer.mode, to.enclave),
            f"{dataset} {meaning if answer.code else 'breaks no rule by itself'} ({answer.mode})",
        )


provider.command("reason")(with_simulation_option(with_options(reason)))
provider.command("train")(with_simulation_option(with_options(train, timeout=600)))
provider.command("budget")(budget)
provider.command("deliver")(with_simulation_option(deliver))
provider.command("describe")(describe)
provider.command("check")(check)
provider.command("agent")(agent)
provider.add_typer(journal, name="journal")
