"""`ratls provider` and `ratls task`: release rows, ask for a computation, collect its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provider.agent_cli import agent, journal
from provider.mailbox_cli import show, submit, watch
from provider.options import (
    CollateralFile,
    EnclaveAt,
    Json,
    MailboxAt,
    MailboxCertificate,
    PartyDir,
    PassphraseFile,
    StateDir,
    TaskFile,
    Timeout,
    require_both,
    state_folder,
)
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.commit import Commit
    from provider.collect import Outputs
    from provider.errand import Errand
    from ratls.appraise import FreshEvidence
    from scheduler.queued import DatasetStatus
    from verifier.anchors import Mode
    from verifier.shell import Shell

provider = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Release rows to the agreed enclave, and to nobody else.",
)
task = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Ask for an agreed computation; fetch its result."
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

    Checks task, policy and every row here; then has the enclave prove itself inside the stream
    that will carry the rows. Anything that does not match: no row leaves. With --scheduler the
    other parties are told of the release, as an agent does.

    Example: ratls provider push --task task.json --dataset train_party_1 --source rows.parquet
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    require_both(scheduler, scheduler_certificate)
    with refusals_as_exit_status(json_output) as shell:
        from provider.release import release

        errand = _errand(
            shell, task_file, enclave, collateral, party, passphrase_file, state, timeout,
            allow_simulation,
        )  # fmt: skip
        with _progress(shell) as progress:
            done = release(errand, dataset, source, progress=progress)
        commit, kept = done.commit, done.kept
        reported = _report(shell, errand, commit, scheduler, scheduler_certificate)
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
                "task_digest": f"sha256:{commit.task_digest.hex()}",
                "commit_digest": f"sha256:{commit.digest.hex()}",
                "acknowledgement": str(kept.acknowledgement),
                "record": str(kept.record),
                "reported": reported,
            }
            | _enclave(done.fresh, done.mode, enclave),
            f"released{before}: {commit.rows:,} rows of {commit.dataset} to "
            f"{done.fresh.admission.enclave.name}, instance {commit.instance.hex()}; "
            f"the enclave acknowledged them ({done.mode})\n"
            f"  acknowledgement {kept.acknowledgement}\n"
            f"  signed record   {kept.record}",
        )


def _report(
    shell: Shell, errand: Errand, commit: Commit, scheduler: str | None, certificate: Path | None
) -> bool | None:
    """Tell the mailbox. None: there is none. A report that fails changes nothing: it is said."""
    if scheduler is None or certificate is None:
        return None
    from provider.mailbox import mailbox
    from ratls.address import Address
    from scheduler.queued import State
    from verifier.errors import RatlsError

    try:
        with mailbox(Address.parse(scheduler), certificate, errand.party) as client:
            client.report(
                commit.task_digest, commit.dataset, State.RELEASED, instance=commit.instance
            )
    except RatlsError as refusal:
        shell.say(f"released, and not reported to {scheduler}: [{refusal.code}] {refusal}")
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
    """Ask which rule of the gate your own input breaks by itself, once all inputs are there.

    Only where the policy says `reasons = "own input"`. The answer is the same whatever the other
    inputs are, and says nothing of them.

    Example: ratls provider reason --task task.json --dataset train_party_1
    --enclave enclave.example:7443 --collateral collateral.json --party alice
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from provider.reason import ask_reason

        errand = _errand(
            shell, task_file, enclave, collateral, party, passphrase_file, state, timeout,
            allow_simulation,
        )  # fmt: skip
        told = ask_reason(errand, dataset)
        meaning = f"breaks a rule by itself: {told.code} (see docs/errors.md)"
        shell.answer(
            {"dataset": dataset, "reason": told.code or None}
            | _enclave(told.fresh, told.mode, enclave),
            f"{dataset} {meaning if told.code else 'breaks no rule by itself'} ({told.mode})",
        )


provider.command("reason")(with_simulation_option(reason))
provider.command("agent")(agent)
provider.add_typer(journal, name="journal")


def sign(
    party: PartyDir,
    study: Annotated[str, typer.Option(help="Study whose accepted policy is meant.")],
    computation: Annotated[str, typer.Option(help="Id of the computation in the policy.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make.")],
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
    """Sign a task: one run of an agreed computation, for every provider to check by itself.

    Example: ratls task sign --study my-study --computation train --party carol -o task.json
    """
    from verifier.shell import parse_instant, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from policy.party import LocalParty
        from policy.passphrase import passphrase_source
        from policy.statement import instant_text
        from provider.ask import parse_duration, parse_parameters, policy_in_force, sign_task
        from verifier.anchors import Mode
        from verifier.files import write_new
        from verifier.modes import anchors_for

        parameters, lifetime = parse_parameters(setting or []), parse_duration(valid_for)
        local = LocalParty.load(party, passphrase_source(passphrase_file))
        at = parse_instant(None)
        policy = policy_in_force(local, state_folder(state), study, at=at)
        mode = anchors_for(policy.platform.root, allow_simulation=allow_simulation).mode
        if mode is Mode.SIMULATION:
            shell.warn_simulation()
        made, envelope = sign_task(local, policy, computation, parameters, lifetime, at=at)
        write_new(output, envelope, mode=0o644)
        until = instant_text(made.expires)
        shell.answer(
            {
                "task": str(output),
                "task_digest": f"sha256:{made.digest.hex()}",
                "policy_digest": f"sha256:{made.policy_digest.hex()}",
                "study": made.study,
                "computation": made.computation,
                "submitter": made.submitter,
                "expires": until,
                "mode": mode.value,
            },
            f"{output}: {made.computation} of {made.study}, signed by {made.submitter}, "
            f"until {until}\n  sha256:{made.digest.hex()}",
        )


task.command("sign")(with_simulation_option(sign))
task.command("submit")(submit)
task.command("list")(show)
task.command("watch")(watch)


def result(
    task_file: TaskFile,
    enclave: EnclaveAt,
    collateral: CollateralFile,
    party: PartyDir,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the result.")],
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
    scheduler: MailboxAt = None,
    scheduler_certificate: MailboxCertificate = None,
    passphrase_file: PassphraseFile = None,
    state: StateDir = None,
    timeout: Timeout = 60,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Have the enclave prove itself, fetch the result of a task, check its receipt, decrypt it.

    Existing files are never overwritten. With --scheduler, a result that can never come is told
    apart from one that must be waited for: 6 where the enclave was started anew after a release.

    Example: ratls task result --task task.json --enclave enclave.example:7443
    --collateral collateral.json --party carol -o result.json --wait 60
    """
    from verifier.shell import refusals_as_exit_status

    require_both(scheduler, scheduler_certificate)
    with refusals_as_exit_status(json_output) as shell:
        from provider.collect import Outputs, collect

        outputs = Outputs(
            output,
            receipt or output.with_suffix(".receipt.json"),
            record or output.with_suffix(".record.json"),
        )
        errand = _errand(
            shell, task_file, enclave, collateral, party, passphrase_file, state, timeout,
            allow_simulation,
        )  # fmt: skip
        with (
            _waiting(shell) as waiting,
            _reports(shell, errand, scheduler, scheduler_certificate) as reported,
        ):
            done = collect(errand, outputs, raw=raw, wait=wait, waiting=waiting, reported=reported)
        if not json_output:
            shell.show_appraisal(done.fresh.appraisal)
        inputs = [i.dataset for i in done.receipt.inputs]
        shell.answer(
            {
                "result": str(outputs.result),
                "bytes": done.size,
                "receipt": str(outputs.receipt),
                "record": str(outputs.record),
                "task_digest": f"sha256:{done.receipt.task_digest.hex()}",
                "computation": done.receipt.computation,
                "run": done.receipt.run,
                "inputs": inputs,
            }
            | _enclave(done.fresh, done.mode, enclave),
            f"collected: {done.receipt.computation} over {', '.join(inputs)} from "
            f"{done.fresh.admission.enclave.name}; its receipt holds ({done.mode})\n"
            f"{_paths(outputs)}",
        )


task.command("result")(with_simulation_option(result))


def _errand(
    shell: Shell,
    task_file: Path,
    enclave: str,
    collateral: Path,
    party: Path,
    passphrase_file: Path | None,
    state: Path | None,
    timeout: float,
    allow_simulation: bool,
) -> Errand:
    """Everything that a release and a collection take from the command line."""
    from ratls.environment import prepare_process

    prepare_process()  # before anything loads gRPC, which reads the environment once
    from policy.party import LocalParty
    from policy.passphrase import passphrase_source
    from provider.errand import Errand
    from ratls.address import Address
    from verifier.anchors import Mode
    from verifier.files import read_collateral, read_file
    from verifier.shell import parse_instant

    def announce(mode: Mode) -> None:
        if mode is Mode.SIMULATION:
            shell.warn_simulation()

    return Errand(
        task=read_file(task_file),
        address=Address.parse(enclave),
        collateral=read_collateral(collateral),
        party=LocalParty.load(party, passphrase_source(passphrase_file)),
        state=state_folder(state),
        allow_simulation=allow_simulation,
        timeout=timeout,
        clock=lambda: parse_instant(None),
        announce=announce,
    )


def _enclave(fresh: FreshEvidence, mode: Mode, address: str) -> dict[str, Any]:
    """Who proved itself, for machines."""
    verified = fresh.verified
    return {
        "mode": mode.value,
        "address": address,
        "enclave": fresh.admission.enclave.name,
        "mr_enclave": str(verified.quote.enclave.mr_enclave),
        "instance": fresh.claims.instance.hex(),
        "policy_digest": f"sha256:{fresh.claims.policy_hash.hex()}",
        "tcb_status": verified.tcb.status.value,
        "advisory_ids": list(verified.tcb.advisory_ids),
        "checks": fresh.appraisal.as_json(),
    }


def _paths(outputs: Outputs) -> str:
    return (
        f"  result        {outputs.result}\n"
        f"  receipt       {outputs.receipt}\n"
        f"  signed record {outputs.record}"
    )


@contextmanager
def _reports(
    shell: Shell, errand: Errand, scheduler: str | None, certificate: Path | None
) -> Iterator[Callable[[bytes], tuple[DatasetStatus, ...]]]:
    """What a mailbox says of a task's datasets: nothing where there is none, or it is away."""
    if scheduler is None or certificate is None:
        yield lambda digest: ()
        return
    from provider.mailbox import mailbox
    from ratls.address import Address
    from verifier.errors import RatlsError

    with mailbox(Address.parse(scheduler), certificate, errand.party) as client:

        def ask(digest: bytes) -> tuple[DatasetStatus, ...]:
            try:
                queued = client.list(task_digest=digest)
            except RatlsError as refusal:
                shell.say(f"[{refusal.code}] {refusal}")
                return ()
            return tuple(d for task in queued if task.digest == digest for d in task.datasets)

        yield ask


@contextmanager
def _progress(shell: Shell) -> Iterator[Callable[[int, int], None]]:
    """Rows that have left, on stderr; nothing without a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from verifier.shell import can_redraw

    columns = (TextColumn("rows leaving"), BarColumn(), MofNCompleteColumn())
    hidden = shell.json_output or not can_redraw(shell.err)
    with Progress(*columns, console=shell.err, disable=hidden, transient=True) as bar:
        row = bar.add_task("rows", total=None)
        yield lambda sent, total: bar.update(row, completed=sent, total=total)


@contextmanager
def _waiting(shell: Shell) -> Iterator[Callable[[str], None]]:
    """What a result still waits for, on stderr; nothing without a terminal."""
    from rich.markup import escape

    from verifier.shell import can_redraw

    if shell.json_output or not can_redraw(shell.err):
        yield lambda missing: None
        return
    with shell.err.status("asking the enclave") as status:
        yield lambda missing: status.update(f"no result yet: {escape(missing)}")
