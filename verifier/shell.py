"""What every command shares: answers on stdout, remarks on stderr, the verdict as exit status.

    with refusals_as_exit_status(json_output) as shell:
        shell.say("reading …")             # stderr, for people
        shell.answer({"digest": digest}, text)  # stdout: one JSON line, or the text

Commands import this module inside their functions, so that `ratls --help` stays fast.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from verifier.anchors import Mode, TrustAnchors
from verifier.appraisal import Appraisal, Outcome
from verifier.errors import Exit, InstantMalformed, RatlsError, SystemRefused
from verifier.modes import anchors_for
from verifier.output import Lines, OutputReaderGone, prepare_streams
from verifier.text import instant_fault, printable

# TOML's form, with seconds and without their fractions.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_UNIX = re.compile(r"[0-9]{1,11}", re.ASCII)


def can_redraw(console: Console) -> bool:
    """May lines be redrawn? Only at a terminal: with FORCE_COLOR rich takes a pipe for one."""
    return console.is_interactive and console.file.isatty()


class Shell:
    """The two streams of one command."""

    def __init__(self, *, json_output: bool) -> None:
        self.json_output = json_output
        # soft_wrap: piped output is never broken in the middle of a digest
        self.out = Console(soft_wrap=True, highlight=False)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False)
        self._lines = Lines(sys.stdout)
        self._warned = False

    def say(self, text: str) -> None:
        """A remark for people, on stderr. `text` is shown as it is, without markup."""
        if not self.json_output:
            self.err.print(escape(text))

    def warn_simulation(self, simulated: bool = True) -> None:
        """Every command that trusts a simulated root says so, in colour; once."""
        if simulated and not self._warned:
            self._warned = True
            self.err.print(
                "[bold black on yellow] SIMULATION [/] no hardware protects anything here"
            )

    def anchors(self, root: str, *, allow_simulation: bool) -> TrustAnchors:
        """The anchors of a root that this command trusts; says so where it is simulated.

        Raises: as `verifier.modes.anchors_for`.
        """
        anchors = anchors_for(root, allow_simulation=allow_simulation)
        self.warn_simulation(anchors.mode is Mode.SIMULATION)
        return anchors

    def answer(self, machine: Mapping[str, Any], people: str) -> None:
        """The answer, on stdout: one JSON line with `--json`, the text otherwise."""
        if self.json_output:
            self.out.print(json.dumps(machine, ensure_ascii=True), markup=False)
        else:
            self.out.print(escape(people))

    def announce(self, machine: Mapping[str, Any], people: str) -> None:
        """A line of a long-running command, on stdout: it reports what has happened already.

        Never raises, and waits for no reader (L08): what is not taken is dropped, and the next
        line that is taken says how many were.
        """

        def line(lost: int) -> str:
            if self.json_output:
                return json.dumps({**machine, "dropped": lost} if lost else machine)
            return f"{people} ({lost} lines before this one were dropped)" if lost else people

        self._lines.put(line)

    def show_appraisal(self, appraisal: Appraisal) -> None:
        """The chain of checks, one line each, on stdout. Only for people."""
        mark = {
            Outcome.PASSED: "[green]passed[/]     ",
            Outcome.FAILED: "[bold red]FAILED[/]     ",
            Outcome.NOT_REACHED: "[dim]not reached[/]",
        }
        for record in appraisal.records:
            detail = f"  {escape(printable(record.detail))}" if record.detail else ""
            self.out.print(f"  {mark[record.outcome]} {escape(record.check)}{detail}")

    def show_refusal(self, refusal: RatlsError) -> None:
        """How far an appraisal came, one line that names thing, expected, found; then the fix."""
        if self.json_output:
            checks = refusal.appraisal.as_json() if refusal.appraisal else []
            answer = {"error": refusal.as_json(), "checks": checks}
            self.out.print(json.dumps(answer), markup=False)
            return
        if refusal.appraisal is not None:
            self.show_appraisal(refusal.appraisal)
        word, said = refusal.exit_status.word, printable(str(refusal))
        self.err.print(f"[bold red]{word}[/] {escape(f'[{refusal.code}]')} {escape(said)}")
        if refusal.fix:
            self.err.print(f"  [bold]to do:[/] {escape(refusal.fix)}")

    def end_with(self, refusal: RatlsError | None) -> None:
        """End the command with `refusal`, where there is one; its JSON answer has it already."""
        if refusal is None:
            return
        if not self.json_output:
            self.show_refusal(refusal)
        raise typer.Exit(int(refusal.exit_status))


@contextmanager
def refusals_as_exit_status(json_output: bool = False) -> Iterator[Shell]:
    """Run a command's body; a refusal is shown and becomes the exit status of its class.

    So does an error of the operating system that no module has translated: it is not a bug.
    """
    prepare_streams()
    shell = Shell(json_output=json_output)
    try:
        yield shell
    except RatlsError as refusal:
        raise _ended(shell, refusal) from refusal
    except (OSError, MemoryError) as error:
        raise _ended(shell, SystemRefused.of(error)) from error
    except KeyboardInterrupt as stop:
        shell.say("interrupted")
        raise typer.Exit(int(Exit.INTERRUPTED)) from stop


def _ended(shell: Shell, refusal: RatlsError) -> typer.Exit:
    # The verdict is in the exit status: that it cannot be shown does not change it.
    if not isinstance(refusal, OutputReaderGone):
        with suppress(RatlsError, OSError):
            shell.show_refusal(refusal)
    return typer.Exit(int(refusal.exit_status))


def now() -> datetime:
    """The clock of this machine, in UTC."""
    return datetime.now(UTC)


def parse_instant(text: str | None) -> datetime:
    """`--at`: RFC 3339 with seconds and an offset, or seconds since 1970; now where it is absent.

    Raises:
        InstantMalformed: Neither form, not a date, or one that `instant_fault` finds fault with.
    """
    if text is None:
        return now()
    found: datetime | None = None
    with suppress(ValueError, OverflowError):
        if _UNIX.fullmatch(text):
            found = datetime.fromtimestamp(int(text), UTC)
        elif _RFC3339.fullmatch(text):
            found = datetime.fromisoformat(text.upper())
    if found is None:
        raise InstantMalformed(
            "--at", expected="2026-11-25T12:00:00Z, or unix", found=ascii(text[:80])
        )
    if wanted := instant_fault(found):
        raise InstantMalformed("--at", expected=wanted, found=ascii(text[:80]))
    return found.astimezone(UTC)
