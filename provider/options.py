"""Options that several commands of this package share. The standard library and typer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskFile = Annotated[Path, typer.Option("--task", help="The signed task.")]
EnclaveAt = Annotated[str, typer.Option("--enclave", help="HOST:PORT of the enclave.")]
CollateralFile = Annotated[
    Path, typer.Option("--collateral", help="Collateral bundle of the enclave's platform.")
]
SchedulerAt = Annotated[str, typer.Option("--scheduler", help="HOST:PORT of the scheduler.")]
SchedulerCertificate = Annotated[
    Path, typer.Option(help="Its scheduler.crt; no other certificate is believed.")
]
MailboxAt = Annotated[
    str | None,
    typer.Option("--scheduler", help="HOST:PORT of the scheduler. Default: it is not asked."),
]
MailboxCertificate = Annotated[
    Path | None, typer.Option("--scheduler-certificate", help="Its scheduler.crt.")
]
PartyDir = Annotated[Path, typer.Option("--party", help="Folder made by `ratls party new`.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the keys' passphrase, - for standard input. Default: the terminal."
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option("--state", help="Accepted agreements, journal, receipts. Default: per user."),
]
Timeout = Annotated[
    float, typer.Option(min=1, max=86_400, help="Seconds for one exchange with the enclave.")
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Lines of JSON on stdout.")]


def require_both(scheduler: str | None, certificate: Path | None) -> None:
    """A scheduler is named together with its certificate, or not at all."""
    if (scheduler is None) != (certificate is None):
        raise typer.BadParameter("--scheduler and --scheduler-certificate go together")


def state_folder(folder: Path | None) -> Path:
    """The folder that `--state` names, or the user's own."""
    from verifier.files import user_folder

    return user_folder("state") if folder is None else folder
