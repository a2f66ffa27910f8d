"""Options of several commands of this package, and what is made of them. Loads little."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from policy.options import PartyDir, PassphraseFile
from ratls.options import CollateralFile, enclave_facts
from ratls.profile_options import at_address

if TYPE_CHECKING:
    from policy.values import Digest, Instance
    from provider.exchange import EnclaveRequest
    from ratls.appraise import FreshEvidence
    from verifier.anchors import Mode
    from verifier.shell import Shell


TaskFile = Annotated[Path, typer.Option("--task", help="The signed task.")]
OwnDataset = Annotated[str, typer.Option("--dataset", help="Id of your dataset in the policy.")]
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


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The scheduler that a command tells or asks; both options, or neither."""

    scheduler: MailboxAt = None
    scheduler_certificate: MailboxCertificate = None

    def __post_init__(self) -> None:
        if (self.scheduler is None) != (self.scheduler_certificate is None):
            raise typer.BadParameter("--scheduler and --scheduler-certificate go together")


@dataclass(frozen=True, slots=True)
class ToEnclave:
    """The options of each command that goes to an enclave with a task."""

    task_file: TaskFile
    enclave: EnclaveAt
    collateral: CollateralFile
    party: PartyDir
    passphrase_file: PassphraseFile = None
    state: StateDir = None
    timeout: Timeout = 60
    allow_simulation: bool = False

    def request(self, shell: Shell) -> EnclaveRequest:
        """Task, enclave and own keys, read."""
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
            task=read_file(self.task_file),
            address=Address.parse(self.enclave),
            collateral=read_collateral(self.collateral),
            party=own_party(self.party, self.passphrase_file),
            state=state_folder(self.state),
            allow_simulation=self.allow_simulation,
            timeout=self.timeout,
            clock=now,
            announce=lambda mode: shell.warn_simulation(mode is Mode.SIMULATION),
        )


def with_options(command: Callable[..., Any], **defaults: Any) -> Callable[..., Any]:
    """A command that is typed with the options of `Mailbox` or `ToEnclave`, where it takes one.

    Args:
        defaults: Of single options, where this command has others.
    """
    signature, taken = inspect.signature(command, eval_str=True), []
    groups: dict[str, type[Mailbox | ToEnclave]] = {}
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if group not in (Mailbox, ToEnclave):
            taken.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kinds = get_type_hints(group, include_extras=True)
        groups[parameter.name] = group
        for member in inspect.signature(group).parameters.values():
            default = defaults.get(member.name, member.default)
            kind, annotation = inspect.Parameter.KEYWORD_ONLY, kinds[member.name]
            taken.append(member.replace(kind=kind, default=default, annotation=annotation))

    def run(**arguments: Any) -> Any:
        for name, group in groups.items():
            named = {field.name for field in fields(group)} & arguments.keys()
            arguments[name] = group(**{option: arguments.pop(option) for option in named})
        return command(**arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=taken)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    return run


def state_folder(folder: Path | None) -> Path:
    """The folder that `--state` names, or the user's own."""
    from verifier.user_folder import user_folder

    return user_folder("state") if folder is None else folder


def enclave_shown(fresh: FreshEvidence, mode: Mode, address: str) -> dict[str, Any]:
    """The enclave that proved itself, for machines."""
    return {"mode": mode.value, "address": address} | enclave_facts(fresh)


def report_released(
    shell: Shell,
    request: EnclaveRequest,
    task_digest: Digest,
    dataset: str,
    instance: Instance,
    told: Mailbox,
) -> bool | None:
    """Report to the scheduler; None without one. A failed report is only shown."""
    scheduler, certificate = told.scheduler, told.scheduler_certificate
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
