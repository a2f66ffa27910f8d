"""`ratls simulation` and `ratls demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.usage import Commands

if TYPE_CHECKING:
    from simulation.platform import Platform

app = typer.Typer(
    cls=Commands,
    help="An attestation hierarchy in software, for trying ratls without SGX. Protects nothing.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to make, or empty.")],
    json_output: JsonOption = False,
) -> None:
    """Make a simulated Intel: root, platform, and collateral for 30 days from now.

    Example: ratls simulation new intel
    """
    from simulation.folder import write
    from simulation.intel import Intel
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        intel = Intel.create(now())
        platform = intel.platform()
        write(intel, platform, folder)
        shell.answer(*_describe(folder, platform))


@app.command()
def renew(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `new` made.")],
    json_output: JsonOption = False,
) -> None:
    """Issue collateral for another 30 days; root, platform and policies that name them stay.

    Example: ratls simulation renew intel
    """
    from simulation.folder import renew_collateral
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        platform = renew_collateral(folder, now())
        shell.answer(*_describe(folder, platform))


@app.command()
def measure(json_output: JsonOption = False) -> None:
    """Print the MRENCLAVE that a simulated enclave has on this machine, for the policy.

    Example: ratls simulation measure
    """
    from simulation.measure import measure as measure_files
    from simulation.measure import measured_files
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        mr_enclave = measure_files().hex()
        shell.answer(
            {"mode": "simulation", "mr_enclave": mr_enclave, "files": measured_files()},
            mr_enclave,
        )


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `new` made.")],
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="A loopback address; port 0 means any free one."),
    ] = "127.0.0.1:0",
    json_output: JsonOption = False,
) -> None:
    """Hand out the simulation's collateral as Intel's service does, until stopped.

    Its TLS certificate, new at each start, is DIR/pcs.crt: ratls collateral fetch --ca DIR/pcs.crt

    Example: ratls simulation serve intel --listen 127.0.0.1:8081
    """
    from ratls.log import open_log
    from ratls.serving import errors_logged, listen_address, stop_signals
    from simulation.serve import serving
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        with (
            errors_logged(open_log()),
            serving(folder, listen_address(listen)) as ready,
            stop_signals() as stop,
        ):
            certificate = str(folder / "pcs.crt")
            shell.announce(
                {"ready": ready, "mode": "simulation", "certificate": certificate}, f"ready {ready}"
            )
            status = stop()
        raise typer.Exit(status)


def demo(
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Leave everything in this new folder."),
    ] = None,
) -> None:
    """Run the whole job on this machine, in simulation: agree, release, train, collect.

    Example: ratls demo --keep my-demo
    """
    from simulation.demo import run
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status():
        raise typer.Exit(run(keep))


def _describe(folder: Path, platform: Platform) -> tuple[dict[str, object], str]:
    from simulation.intel import root_name
    from simulation.measure import measure as measure_files

    tcb = platform.tcb
    facts: dict[str, object] = {
        "mode": "simulation",
        "folder": str(folder),
        "root": root_name(platform.root),
        "fmspc": tcb.fmspc.hex(),
        "ppid": tcb.ppid.hex(),
        "piid": tcb.piid.hex() if tcb.piid else None,
        "mr_enclave": measure_files().hex(),
        "collateral": str(folder / "collateral.json"),
        "attester": f"simulation:{folder / 'platform'}",
    }
    width = max(map(len, facts))
    return facts, "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
