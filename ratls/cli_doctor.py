"""`ratls doctor`: is this machine ready, and what mends it where it is not?"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ratls.doctor.finding import Finding, Role
    from ratls.doctor.snapshot import Snapshot
    from verifier.errors import Exit


class RoleName(StrEnum):
    """What `--role` takes: as `ratls.doctor.finding.Role`, which help does not load."""

    enclave = "enclave"
    provider = "provider"
    verifier = "verifier"


def doctor(
    role: Annotated[
        RoleName | None,
        typer.Option(help="What the machine is for. Without it: all three, and the worst counts."),
    ] = None,
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="https://HOST[:PORT]",
            help="A collateral service that this machine is to use. May be repeated.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Accept only TLS certificates of this authority (PEM) there."
        ),
    ] = None,
    sysroot: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Look at the copy of another machine, or at its root, instead."
        ),
    ] = None,
    collect: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a copy for somebody else: FILE.tar.gz, without secrets.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds for all probes of one kind.")
    ] = 5,
    json_output: Annotated[
        bool, typer.Option("--json", help="One line of JSON on stdout.")
    ] = False,
) -> None:
    """Is this machine ready to run an enclave, to provide rows, to verify? Changes nothing.

    Exit status: 0 ready, 6 not ready, 5 could not tell. Needs no root.

    Example: ratls doctor --role enclave --collect node7.tar.gz
    """
    from ratls.doctor.finding import Role, verdict
    from verifier.shell import refusals_as_exit_status

    with refusals_as_exit_status(json_output) as shell:
        from ratls.doctor.examine import examine
        from verifier.errors import Exit, RatlsError
        from verifier.pcs_requests import Service

        roles = list(Role) if role is None else [Role(role.value)]
        asked = [Service.parse(address).origin for address in services or []]
        snapshot = _snapshot(roles, asked, ca, sysroot, timeout)
        if collect is not None:
            from ratls.doctor.copy import write_copy

            write_copy(snapshot, collect)
            shell.say(f"written: {collect}; it holds no key, password or row")
        found = {one: examine(snapshot, one, asked) for one in roles}
        verdicts = {one: verdict(findings) for one, findings in found.items()}
        status = Exit.worst(verdicts.values())
        findings = list(dict.fromkeys(f for findings in found.values() for f in findings))
        machine = {
            "verdict": word(status),
            "roles": {one.value: word(given) for one, given in verdicts.items()},
            "findings": [finding.as_json() for finding in findings],
        }
        try:
            shell.answer(machine, _text(findings, verdicts))
        except RatlsError:
            if status is Exit.YES:  # that a verdict cannot be shown does not change it
                raise
        if status is not Exit.YES:
            raise typer.Exit(int(status))


def _snapshot(
    roles: Iterable[Role],
    services: list[str],
    ca: Path | None,
    sysroot: Path | None,
    seconds: float,
) -> Snapshot:
    from ratls.doctor.finding import Role

    if sysroot is not None:
        from ratls.doctor.copy import read_copy

        return read_copy(sysroot, seconds=seconds)
    from ratls.doctor.live import live_snapshot, system_trust

    return live_snapshot(
        services=services,
        trust=system_trust(ca),
        seconds=seconds,
        configured=Role.ENCLAVE in roles,
    )


def word(status: Exit) -> str:
    """What an exit status means here."""
    return {0: "ready", 5: "could not tell", 6: "not ready"}[int(status)]


_WIDTH = 80
_MARKS = {
    "ready": "ready    ",
    "note": "note     ",
    "unknown": "UNKNOWN  ",
    "not ready": "NOT READY",
}


def _wrapped(text: str) -> list[str]:
    """Between words alone: an address stays in one piece."""
    return wrap(text, _WIDTH - 21, break_long_words=False, break_on_hyphens=False)


def _under(title: str, texts: list[str]) -> list[str]:
    titles = [title, *[""] * len(texts)]
    return [f"           {name:<9} {text}" for name, text in zip(titles, texts, strict=False)]


def _text(findings: Iterable[Finding], verdicts: dict[Role, Exit]) -> str:
    """A line for each thing that is ready; for others also what was expected, and the remedy."""
    from ratls.doctor.finding import Outcome
    from verifier.text import printable

    lines = []
    for finding in findings:
        mark = _MARKS[finding.outcome.value]
        found = printable(finding.found)
        if len(short := f"{mark}  {finding.what}: {found}") <= _WIDTH:
            lines.append(short)
        else:
            lines += [f"{mark}  {finding.what}", *_under("found:", _wrapped(found))]
        if finding.outcome is not Outcome.READY:
            lines += _under("expected:", _wrapped(finding.expected))
            # Commands are never broken: they are to be copied.
            lines += _under("to do:", finding.fix.split("; ") if finding.fix else [])
    lines.append("")
    lines += [f"{role.value}: {word(status)}" for role, status in verdicts.items()]
    return "\n".join(lines)
