"""Options of several commands of this package, and what is made of them. Loads little."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from provider.exchange import EnclaveRequest
    from ratls.appraise import FreshEvidence
    from verifier.anchors import Mode
    from verifier.shell import Shell

TaskFile = Annotated[Path, typer.Option("--task", help="The signed task.")]
EnclaveAt = Annotated[str, typer.Option("--enclave", help="HOST:PORT of the enclave.")]
CollateralFile = Annotated[
    Path, typer.Option("--collateral", help="Collateral bundle of the enclave's platform.")
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
JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON on stdout.")]


def require_both(scheduler: str | None, certificate: Path | None) -> None:
    """--scheduler and --scheduler-certificate are given together, or neither."""
    if (scheduler is None) != (certificate is None):
        raise typer.BadParameter("--scheduler and --scheduler-certificate go together")


def state_folder(folder: Path | None) -> Path:
    """The folder that `--state` names, or the user's own."""
    from verifier.files import user_folder

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
    from policy.party import LocalParty
    from policy.passphrase import passphrase_source
    from provider.exchange import EnclaveRequest
    from ratls.address import Address
    from verifier.anchors import Mode
    from verifier.bundles import read_collateral
    from verifier.files import read_file
    from verifier.shell import now

    def announce(mode: Mode) -> None:
        if mode is Mode.SIMULATION:
            shell.warn_simulation()

    return EnclaveRequest(
        task=read_file(task_file),
        address=Address.parse(enclave),
        collateral=read_collateral(collateral),
        party=LocalParty.load(party, passphrase_source(passphrase_file)),
        state=state_folder(state),
        allow_simulation=allow_simulation,
        timeout=timeout,
        clock=now,
        announce=announce,
    )


def enclave_shown(fresh: FreshEvidence, mode: Mode, address: str) -> dict[str, Any]:
    """The enclave that proved itself, for machines."""
    from policy.document import digest_text

    verified = fresh.verified
    return {
        "mode": mode.value,
        "address": address,
        "enclave": fresh.admission.enclave.name,
        "mr_enclave": str(verified.quote.enclave.mr_enclave),
        "instance": fresh.claims.instance.hex(),
        "policy_digest": digest_text(fresh.claims.policy_hash),
        "tcb_status": verified.tcb.status.value,
        "advisory_ids": list(verified.tcb.advisory_ids),
        "checks": fresh.appraisal.as_json(),
    }
