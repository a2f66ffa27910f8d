"""`ratls attest`: have this machine make a quote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from ratls.errors import AttesterError
from verifier.modes import with_simulation_option
from verifier.usage import Commands

if TYPE_CHECKING:
    from ratls.attester import Attester

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Have this machine make a quote.")

_DIGITS = 128
_GRAMINE, _TDX = "gramine", "tdx"


@app.callback()
def attest() -> None:
    """Have this machine make a quote."""


class ReportDataReserved(AttesterError):
    """Report data in the form of evidence, which only an enclave's own code may ask for."""

    code = "report-data-reserved"
    default_fix = "end it in other bytes than 32 zero ones; evidence of ratls has that form"


def quote(
    report_data: Annotated[
        str,
        typer.Option(
            "--report-data", metavar="HEX", help="What the quote is over: 64 bytes, 128 digits."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The quote, its bytes; new.")
    ],
    attester: Annotated[
        str | None,
        typer.Option(
            help="gramine, tdx, or simulation:DIR. Default: the one that this machine has."
        ),
    ] = None,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Make one quote, to look at this machine: under Gramine in SGX, or in a TDX guest.

    Not evidence of an enclave: report data that ends in 32 zero bytes is refused, since that is the
    form in which `ratls` binds a key to a quote.

    Example: ratls attest quote --report-data HEX -o quote.bin
    """
    from verifier.shell import refusals_as_exit_status

    try:
        data = bytes.fromhex(report_data)
    except ValueError:
        data = b""
    if len(report_data) != _DIGITS or len(data) != _DIGITS // 2:
        raise typer.BadParameter(
            f"{_DIGITS} hexadecimal digits are needed", param_hint="--report-data"
        )
    with refusals_as_exit_status(json_output) as shell:
        from verifier.anchors import Mode
        from verifier.files import write_new
        from verifier.quote import Quote
        from verifier.report import measurement

        if not any(data[32:]):
            raise ReportDataReserved(
                "--report-data", expected="no 32 zero bytes at its end", found="them"
            )
        found = _attester(attester, allow_simulation)
        shell.warn_simulation(found.mode is Mode.SIMULATION)
        raw = found.quote(data)
        parsed = Quote.parse(raw)
        write_new(output, raw, mode=0o644)
        facts = {
            "quote": str(output),
            "size": len(raw),
            "mode": found.mode.value,
            "tee": parsed.tee.value,
            "quote_version": parsed.header.version,
            "measurement": measurement(parsed.report),
        }
        shell.answer(
            facts,
            f"{output}: {parsed.tee.upper()} quote of version {parsed.header.version}, "
            f"{len(raw):,} bytes; mode={found.mode}\n"
            f"  not verified: ratls collateral fetch {output} -o collateral.json "
            f"--from URL, then\n  ratls verify quote {output} --collateral collateral.json",
        )


def _attester(name: str | None, allow_simulation: bool) -> Attester:
    """The attester of this machine, or the one that is named.

    Raises: as `resolve_attester` and `GramineAttester`.
    """
    from ratls.attester_option import resolve_attester
    from ratls.gramine import DEVICE, GramineAttester
    from ratls.tdx_guest import TdxAbsent

    if name == _GRAMINE or (name is None and DEVICE.exists()):
        return GramineAttester()
    try:
        return resolve_attester(name or _TDX, allow_simulation=allow_simulation)
    except TdxAbsent as refusal:
        if name is None:
            refusal.fix = (
                "run it in a TDX guest (Linux 6.7 or later, module tdx_guest, configfs mounted) "
                f"or under Gramine in SGX, where {DEVICE} is"
            )
        raise


app.command("quote")(with_simulation_option(quote))
