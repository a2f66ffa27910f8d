"""`ratls task`: request a computation, and collect its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json, PartyDir, PassphraseFile, own_party
from provider.cli_task_export import export
from provider.cli_task_preview import preview
from provider.cli_task_queue import show, submit, watch
from provider.options import (
    OWN_RESULT,
    OWN_TASK,
    Mailbox,
    StateDir,
    ToEnclave,
    enclave_shown,
    state_folder,
    with_options,
)
from verifier.modes import with_simulation_option
from verifier.text import digest_text, instant_text
from verifier.usage import Commands

if TYPE_CHECKING:
    from provider.exchange import EnclaveRequest
    from scheduler.queued_task import DatasetStatus
    from verifier.shell import Shell

task = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Request an agreed computation; fetch its result."
)


def sign(
    party: PartyDir,
    study: Annotated[str, typer.Option(help="Study whose accepted policy is meant.")],
    computation: Annotated[
        str | None,
        typer.Option(help="Its id in the policy. Default: the one that this party may submit."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")] = OWN_TASK,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter left open; TOML value."),
    ] = None,
    valid_for: Annotated[str, typer.Option(help="Like 30m, 1h or 7d.")] = "1h",
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Sign a task: a request to run an agreed computation once.

    Example: ratls task sign --study my-study --computation train --party carol
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.state import StudyState
        from provider.task_signing import (
            only_computation,
            parse_duration,
            parse_parameters,
            policy_in_force,
            sign_task,
        )
        from verifier.files import write_new

        parameters, lifetime = parse_parameters(setting or []), parse_duration(valid_for)
        local = own_party(party, passphrase_file)
        at = now()
        folder = state_folder(state)
        policy = policy_in_force(local, folder, study, at=at)
        mode = shell.anchors(policy.platform.root, allow_simulation=allow_simulation).mode
        wanted = computation or only_computation(policy, local.party_id)
        made, envelope = sign_task(local, policy, wanted, parameters, lifetime, at=at)
        StudyState(folder).require_taking_part(policy, made.computation, made.submitter)
        write_new(output, envelope, mode=0o644)
        until = instant_text(made.expires)
        shell.answer(
            {
                "task": str(output),
                "task_digest": digest_text(made.digest),
                "policy_digest": digest_text(made.policy_digest),
                "study": made.study,
                "computation": made.computation,
                "submitter": made.submitter,
                "expires": until,
                "mode": mode.value,
            },
            f"{output}: {made.computation} of {made.study}, signed by {made.submitter}, "
            f"until {until}\n  {digest_text(made.digest)}",
        )


task.command("sign")(with_simulation_option(sign))
task.command("preview")(preview)
task.command("submit")(submit)
task.command("list")(show)
task.command("watch")(watch)


def result(
    to: ToEnclave,
    mailbox: Mailbox,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the result.")
    ] = OWN_RESULT,
    receipt: Annotated[
        Path | None, typer.Option(help="File for the receipt. Default: beside the result.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="File for your signed record. Default: beside the result.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the result as it was sealed, not indented.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds to wait for missing inputs.")
    ] = 0,
    json_output: Json = False,
) -> None:
    """Have the enclave prove itself, fetch the result of a task, check its receipt, decrypt it.

    Existing files are never overwritten. With --scheduler: exit status 6 where the enclave
    restarted after a release, so that there will be no result.

    Example: ratls task result --task task.json --enclave enclave.example:7443
    --collateral collateral.json --party carol --wait 60
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.collect import Outputs, collect

        outputs = Outputs(
            output,
            receipt or output.with_suffix(".receipt.json"),
            record or output.with_suffix(".record.json"),
        )
        request = to.request(shell)
        with (
            _waiting(shell) as waiting,
            _reports(shell, request, mailbox) as reported,
        ):
            done = collect(request, outputs, raw=raw, wait=wait, waiting=waiting, reported=reported)
        if not json_output:
            shell.show_appraisal(done.fresh.appraisal)
        inputs = [i.dataset for i in done.receipt.inputs]
        shell.answer(
            {
                "result": str(outputs.result),
                "bytes": done.size,
                "receipt": str(outputs.receipt),
                "record": str(outputs.record),
                "task_digest": digest_text(done.receipt.task_digest),
                "computation": done.receipt.computation,
                "run": done.receipt.run,
                "inputs": inputs,
            }
            | enclave_shown(done.fresh, done.mode, to.enclave),
            f"collected: {done.receipt.computation} over {', '.join(inputs)} from "
            f"{done.fresh.admission.enclave.name}; its receipt is valid ({done.mode})\n"
            f"  result        {outputs.result}\n"
            f"  receipt       {outputs.receipt}\n"
            f"  signed record {outputs.record}",
        )


task.command("result")(with_simulation_option(with_options(result, task_file=OWN_TASK)))
task.command("export")(export)


@contextmanager
def _reports(
    shell: Shell, request: EnclaveRequest, asked: Mailbox
) -> Iterator[Callable[[bytes], tuple[DatasetStatus, ...]]]:
    """The scheduler's view of a task's datasets; empty without a scheduler or an answer."""
    scheduler, certificate = asked.scheduler, asked.scheduler_certificate
    if scheduler is None or certificate is None:
        yield lambda digest: ()
        return
    from provider.mailbox import mailbox
    from ratls.address import Address
    from verifier.errors import RatlsError

    with mailbox(Address.parse(scheduler), certificate, request.party) as client:

        def ask(digest: bytes) -> tuple[DatasetStatus, ...]:
            try:
                queued = client.list(task_digest=digest)
            except RatlsError as refusal:
                shell.say(f"[{refusal.code}] {refusal}")
                return ()
            return tuple(d for task in queued if task.digest == digest for d in task.datasets)

        yield ask


@contextmanager
def _waiting(shell: Shell) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal which inputs are missing."""
    from rich.markup import escape

    from verifier.shell import can_redraw

    if shell.json_output or not can_redraw(shell.err):
        yield lambda missing: None
        return
    with shell.err.status("asking the enclave") as status:
        yield lambda missing: status.update(f"no result yet: {escape(missing)}")
