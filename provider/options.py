"""Options of several commands of this package, and what is made of them. Loads little."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratls.options import enclave_facts
from ratls.profile_options import at_address

if TYPE_CHECKING:
    from policy.values import Digest, Instance
    from provider.exchange import EnclaveRequest
    from ratls.appraise import FreshEvidence
    from verifier.anchors import Mode
    from verifier.shell import Shell


TaskFile = Annotated[Path, typer.Option("--task", help="The signed task.")]
# Of the one who signed it; who releases rows to a task names it.
OWN_TASK = Path("task.json")
OWN_RESULT = Path("result.json")
EnclaveAt = Annotated[
    str,
    typer.Option(
        "--enclave",
        metavar="HOST:PORT|NAME",
        callback=at_address,
        help="Where the enclave is; or its name, where the profile has it.",
    ),
]
SchedulerAt = Annotated[str, typer.Option("--scheduler", help="HOST:PORT of the scheduler.")]
SchedulerCertificate = Annotated[
    Path, typer.Option(help="Its scheduler.crt; no other certificate is accepted.")
]
MailboxAt = Annotated[
    str | None,
    typer.Option("--scheduler", help="HOST:PORT of the scheduler. Default: it is not asked."),
]
MailboxCertificate = Annotated[
    Path | None, typer.Option("--scheduler-certificate", help="Its scheduler.crt.")
]
StateDir = Annotated[
    Path | None,
    typer.Option("--state", help="Accepted agreements, journal, receipts. Default: per user."),
]
Timeout = Annotated[
    float, typer.Option(min=1, max=86_400, help="Seconds for one exchange with the enclave.")
]


def require_both(scheduler: str | None, certificate: Path | None) -> None:
    """--scheduler and --scheduler-certificate are given together, or neither."""
    if (scheduler is None) != (certificate is None):
        raise typer.BadParameter("--scheduler and --scheduler-certificate go together")


def state_folder(folder: Path | None) -> Path:
    """The folder that `--state` names, or the user's own."""
    from verifier.user_folder import user_folder

    return user_folder("state") if folder is None else folder


def enclave_request(
    shell: Shell,
    task_file: Path,
    enclave: str,
    collateral: Path,
    party: Path,
    passphrase_file: Path | None,
    state: Path | None,
    timeout: float,
    allow_simulation: bool,
) -> EnclaveRequest:
    """The arguments that a release and a collection share."""
    from ratls.environment import prepare_process

    prepare_process()  # before anything loads gRPC, which reads the environment once
    from policy.options import own_party
    from provider.exchange import EnclaveRequest
    from ratls.address import Address
    from verifier.anchors import Mode
    from verifier.bundles import read_collateral
    from verifier.files import read_file
    from verifier.shell import now

    return EnclaveRequest(
        task=read_file(task_file),
        address=Address.parse(enclave),
        collateral=read_collateral(collateral),
        party=own_party(party, passphrase_file),
        state=state_folder(state),
        allow_simulation=allow_simulation,
        timeout=timeout,
        clock=now,
        announce=lambda mode: shell.warn_simulation(mode is Mode.SIMULATION),
    )


def enclave_shown(fresh: FreshEvidence, mode: Mode, address: str) -> dict[str, Any]:
    """The enclave that proved itself, for machines."""
    return {"mode": mode.value, "address": address} | enclave_facts(fresh)


def report_released(
    shell: Shell,
    request: EnclaveRequest,
    task_digest: Digest,
    dataset: str,
    instance: Instance,
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
            client.report(task_digest, dataset, State.RELEASED, instance=instance)
    except RatlsError as refusal:
        shell.say(f"released, but not reported to {scheduler}: [{refusal.code}] {refusal}")
        return False
    return True
