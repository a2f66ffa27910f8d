"""`ratls simulation` and `ratls demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from verifier.quote import Tee
from verifier.usage import Commands

if TYPE_CHECKING:
    from simulation.platform import Platform

app = typer.Typer(
    cls=Commands,
    help="An attestation hierarchy in software, for trying ratls without SGX. Protects nothing.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TeeOption = Annotated[Tee, typer.Option(help="An SGX enclave, or a TDX guest.")]
# Evidence of ratls ends in 32 zero bytes, so these 64 never are any.
SAMPLE_DATA = b"a sample quote of the simulation".rjust(64, b".")


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
def measure(
    tee: TeeOption = Tee.SGX,
    event_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a TDX guest: write the event log that explains it."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Print what a simulated enclave measures on this machine, for the policy.

    Of SGX that is MRENCLAVE; of a TDX guest MRTD, RTMR0 to RTMR3, and MRSEAM of its module.

    Example: ratls simulation measure --tee tdx
    """
    from simulation.measure import measure as measure_files
    from simulation.measure import measured_files
    from simulation.trust_domain import GuestMeasurement
    from verifier.files import write_atomically
    from verifier.shell import refusals_as_exit_status

    if event_log is not None and tee is not Tee.TDX:
        raise typer.BadParameter("enclaves have no event log", param_hint="--event-log")
    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        code = measure_files()
        facts: dict[str, object] = {"mode": "simulation", "tee": tee.value}
        if tee is Tee.SGX:
            found, text = {"mr_enclave": code.hex()}, code.hex()
        else:
            guest = GuestMeasurement.of(code)
            found = guest.registers
            text = "\n".join(f'{name} = "{value}"' for name, value in found.items())
            if event_log is not None:
                write_atomically(event_log, guest.log)
        shell.answer({**facts, **found, "files": measured_files()}, text)


@app.command()
def quote(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `new` made.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The quote, its bytes; new.")
    ],
    tee: TeeOption = Tee.SGX,
    json_output: JsonOption = False,
) -> None:
    """Make one quote of a simulated machine, to look at what verifies quotes.

    Its report data is fixed and no evidence of any connection.

    Example: ratls simulation quote intel -o quote.bin --tee tdx
    """
    from simulation.attester import SimulatedAttester, SimulatedDomainAttester
    from simulation.folder import PLATFORM, SGX_COLLATERAL, TDX_COLLATERAL, TRUST_DOMAIN
    from verifier.files import write_new
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        shell.warn_simulation()
        attester: SimulatedAttester | SimulatedDomainAttester
        if tee is Tee.SGX:
            attester, bundle = SimulatedAttester(folder / PLATFORM), folder / SGX_COLLATERAL
        else:
            attester = SimulatedDomainAttester(folder / TRUST_DOMAIN)
            bundle = folder / TDX_COLLATERAL
        raw = attester.quote(SAMPLE_DATA)
        write_new(output, raw, mode=0o644)
        facts = {
            "mode": "simulation",
            "quote": str(output),
            "tee": tee.value,
            "size": len(raw),
            "collateral": str(bundle),
        }
        shell.answer(
            facts,
            f"{output}: {tee.upper()} quote of a simulated machine, {len(raw):,} bytes\n"
            f"  next: ratls verify quote {output} --collateral {bundle} "
            f'--root "$(cat {folder / "root.txt"})" --allow-simulation',
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
    tee: TeeOption = Tee.SGX,
    study: Annotated[
        Literal["model", "sql", "trees", "federated"],
        typer.Option(
            help="A model, a table by an agreed statement, boosted trees, or rounds without rows."
        ),
    ] = "model",
) -> None:
    """Run the whole job on this machine, in simulation: agree, release, compute, collect.

    Example: ratls demo --study sql --keep my-demo
    """
    from simulation.demo import Study, run
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status():
        raise typer.Exit(run(keep, tee, Study(study)))


def _describe(folder: Path, platform: Platform) -> tuple[dict[str, object], str]:
    from simulation.folder import PLATFORM, SGX_COLLATERAL, TDX_COLLATERAL, TRUST_DOMAIN
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
        "collateral": str(folder / SGX_COLLATERAL),
        "attester": f"simulation:{folder / PLATFORM}",
        "tdx_collateral": str(folder / TDX_COLLATERAL),
        "tdx_attester": f"simulation:{folder / TRUST_DOMAIN}",
    }
    width = max(map(len, facts))
    return facts, "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())
