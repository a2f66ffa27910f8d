"""`ratls enclave`: run the server that rows are released to; make, sign and measure its image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enclave_app.cli_image import image
from policy.options import Json
from ratls.cli_manifest import lint, manifest, sign
from ratls.options import AgreementFile
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from ratls.attester import Attester

app = typer.Typer(
    cls=Commands, help="The enclave: its server, its manifest, its signature.", no_args_is_help=True
)


@app.callback()
def enclave() -> None:
    """A group of commands."""


def serve(
    agreement: AgreementFile,
    attester: Annotated[
        str,
        typer.Option(help="tdx or tdx:FILE in a TDX guest, or simulation:DIR."),
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT; 0 takes a free port.")] = "127.0.0.1:0",
    spill: Annotated[
        Path | None, typer.Option(help="Let rows wait, sealed, in a nameless file in this folder.")
    ] = None,
    staple: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Put this bundle of collateral into the certificate, for clients without one.",
        ),
    ] = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Serve the agreed computations until it is told to stop; prints one line `ready HOST:PORT`.

    The agreement is not compared with a --party or --digest: its digest is in all evidence, and
    each party compares that with the one it signed.

    Example: ratls enclave serve --agreement policy.agreement.json --listen 127.0.0.1:7443
    --attester simulation:intel/platform --allow-simulation
    """
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from enclave_app.serving import serve as serve_until_stopped
        from ratls.attester_option import resolve_attester
        from verifier.anchors import Mode
        from verifier.modes import known_roots

        endorsements = b""
        if staple is not None:
            from ratls.endorsements import encode_endorsements
            from verifier.bundles import read_collateral

            endorsements = encode_endorsements(read_collateral(staple))

        def resolved() -> Attester:
            found = resolve_attester(attester, allow_simulation=allow_simulation)
            shell.warn_simulation(found.mode is Mode.SIMULATION)
            return found

        serve_until_stopped(
            agreement=agreement,
            listen=listen,
            attester=resolved,
            roots=known_roots(),
            spill=spill,
            endorsements=endorsements,
            ready=lambda fields: shell.announce(fields, f"ready {fields['ready']}"),
        )


app.command("serve")(with_simulation_option(serve))
for command in (manifest, sign, lint):
    app.command(command.__name__)(command)
app.command("image")(image)
