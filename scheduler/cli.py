"""`ratls scheduler`: run the mailbox through which tasks travel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.agreement import CompleteAgreement

app = typer.Typer(
    cls=Commands, help="The mailbox for tasks. Parties need not trust it.", no_args_is_help=True
)


@app.callback()
def scheduler() -> None:
    """The mailbox for tasks. Parties need not trust it."""


@app.command("serve")
def serve(
    agreement: Annotated[
        list[Path],
        typer.Option("--agreement", help="An agreement file; once for each study it serves."),
    ],
    state: Annotated[
        Path, typer.Option("--state", help="Folder for its key, scheduler.crt, and the queue.")
    ],
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    database: Annotated[
        str | None,
        typer.Option(
            "--database", help="SQLAlchemy URL, without a password. Default: a file in --state."
        ),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the address as one JSON object.")
    ] = False,
) -> None:
    """Keep signed tasks and offer them to the parties of the agreements; prints `ready HOST:PORT`.

    The parties pin the certificate that stands in the --state folder, scheduler.crt. The
    agreement only says which parties may use the mailbox. Since no party trusts the mailbox, the
    agreement is not compared with a --party or --digest.

    Example: ratls scheduler serve --agreement policy.agreement.json --listen 0.0.0.0:7444
    --state /var/lib/ratls-scheduler
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.environment import prepare_process

        prepare_process()  # before anything loads gRPC
        from ratls.log import open_log
        from ratls.serving import errors_logged, leave, listen_address, stop_signals
        from scheduler.certificate import CERTIFICATE_FILE, own_certificate
        from scheduler.database import database_url, queue_file
        from scheduler.server import start_server
        from scheduler.service import Roster
        from scheduler.store import Store

        roster = Roster([_complete(path) for path in agreement])
        address = listen_address(listen)
        url = database_url(database) if database else queue_file(state / "queue.sqlite")
        certificate = own_certificate(state, now())
        store = Store.open(url)
        log = open_log()
        with errors_logged(log), stop_signals() as stop:
            server = start_server(roster, store, certificate, address, log)
            ready, pin = str(server.address), str(state / CERTIFICATE_FILE)
            log.info("listening", address=ready)
            shell.announce({"ready": ready, "certificate": pin}, f"ready {ready}")
            status = stop()
            if server.stop():
                store.close()
            leave(status)


def _complete(path: Path) -> CompleteAgreement:
    from policy.agreement import require_not_expired
    from policy.agreement_file import read_agreement
    from verifier.errors import placed
    from verifier.shell import now

    read = read_agreement(path)
    with placed(str(path)):
        complete = read.require_complete()
        require_not_expired(complete.policy, now())
    return complete
