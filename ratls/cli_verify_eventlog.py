"""`ratls verify eventlog`: does the event log of a trust domain make its registers?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json
from ratls.cli_verify_quote import AcceptAdvisory, AcceptStatus, usual_acceptance
from ratls.options import At

if TYPE_CHECKING:
    from verifier.shell import Shell
    from verifier.verify import VerifiedQuote

_HEX_DIGITS = 96
Rtmr = Annotated[
    str | None, typer.Option(metavar="HEX", help="This register, instead of a quote's; 96 digits.")
]


def eventlog(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="Of the guest: /sys/firmware/acpi/tables/data/CCEL, copied."
        ),
    ],
    quote: Annotated[
        Path | None, typer.Option(help="A quote of that guest, with the registers.")
    ] = None,
    rtmr0: Rtmr = None,
    rtmr1: Rtmr = None,
    rtmr2: Rtmr = None,
    rtmr3: Rtmr = None,
    expected: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="A log that is known to be good: names what differs."),
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="Verify the quote too, as `verify quote` does.")
    ] = None,
    at: At = None,
    root: Annotated[
        str | None, typer.Option(help="Root of trust, with --collateral. Default: intel.")
    ] = None,
    accept_status: AcceptStatus = None,
    accept_advisory: AcceptAdvisory = None,
    events: Annotated[bool, typer.Option("--events", help="Show every event.")] = False,
    json_output: Json = False,
    *,
    allow_simulation: bool = False,
) -> None:
    """Do the events of this log make the registers RTMR0 to RTMR3 of the quote?

    A register is one value over all its events. With --expected a refusal names the event that
    differs. Only digests are measured. Type and data of an event are what the log says, except
    where the digest is that of the data; --events marks the others as said.

    Example: ratls verify eventlog ccel.bin --quote quote.bin --expected good.ccel.bin
    """
    from verifier.shell import refusals_as_exit_status

    given = {n: text for n, text in enumerate((rtmr0, rtmr1, rtmr2, rtmr3)) if text is not None}
    values: Mapping[int, bytes] = {n: _register(n, text) for n, text in given.items()}
    if (quote is None) == (not values):
        raise typer.BadParameter("name a quote, or registers", param_hint="--quote")
    if collateral is None and (at or root or accept_status or accept_advisory):
        raise typer.BadParameter(
            "--at, --root, --accept-status and --accept-advisory need it", param_hint="--collateral"
        )
    if collateral is not None and quote is None:
        raise typer.BadParameter("there is no quote to verify", param_hint="--collateral")
    acceptance = usual_acceptance(accept_status, accept_advisory)
    with refusals_as_exit_status(json_output) as shell:
        from verifier.errors import placed
        from verifier.event_log import EventLog
        from verifier.files import parse_file
        from verifier.replay import judge_log

        log = parse_file(file, EventLog.parse)
        known = None if expected is None else parse_file(expected, EventLog.parse)
        if known is not None:
            with placed(str(expected)):
                known.require_own_data()
        verified = None
        if quote is not None:
            values, verified = _registers_of(
                shell, quote, collateral, at, root or "intel", allow_simulation
            )
            if verified is not None:
                with placed(str(quote)):
                    acceptance(verified)
        report = judge_log(log, values, expected=known, file=str(file))
        facts = {
            **report.machine,
            "quote_verified": None if quote is None else verified is not None,
            "mode": None if verified is None else verified.mode.value,
            "tcb_status": None if verified is None else verified.tcb.status.value,
        }
        remark = ""
        if verified is not None:
            remark = f"the quote is genuine, TCB {verified.tcb.status}; mode={verified.mode}"
        elif quote is not None:
            remark = "the quote was not verified: add --collateral FILE"
        shell.answer(facts, report.people(events=events, remark=remark))
    if report.exit_status:
        raise typer.Exit(int(report.exit_status))


def _register(number: int, text: str) -> bytes:
    """Raises: BadParameter."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(text) != _HEX_DIGITS or len(value) != _HEX_DIGITS // 2:
        raise typer.BadParameter(
            f"{_HEX_DIGITS} hexadecimal digits are needed", param_hint=f"--rtmr{number}"
        )
    return value


def _registers_of(
    shell: Shell,
    file: Path,
    collateral: Path | None,
    at: str | None,
    root: str,
    allow_simulation: bool,
) -> tuple[Mapping[int, bytes], VerifiedQuote | None]:
    """The four registers in a quote, and the quote if there is collateral to verify it with."""
    from verifier.bundles import read_collateral
    from verifier.errors import placed
    from verifier.files import read_file
    from verifier.received import ReceivedQuote
    from verifier.replay import registers_of
    from verifier.shell import parse_instant
    from verifier.verify import verify_received

    with placed(str(file)):
        received = ReceivedQuote.of_file(read_file(file))
        registers = registers_of(received.quote)
        if collateral is None:
            return registers, None
        roots = shell.anchors(root, allow_simulation=allow_simulation)
        bundle, instant = read_collateral(collateral), parse_instant(at)
        return registers, verify_received(received, bundle, roots=roots, at=instant)
