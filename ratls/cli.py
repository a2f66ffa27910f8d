"""The umbrella command: finds each package's commands through entry points, and runs them.

An entry point in the group `ratls.commands` carries the command's name; its object is a
`typer.Typer` with subcommands or one function. This module and every `cli` module import only
the standard library and typer at module level, so that `ratls --help` is quick.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import typer

from verifier.errors import RatlsError
from verifier.modes import own_entry_points
from verifier.output import OutputReaderGone, settle_streams
from verifier.usage import Commands


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ratls {version('ratls')}")
        raise typer.Exit


def build(wanted: str | None = None) -> typer.Typer:
    """The command tree of what is installed.

    Args:
        wanted: What comes after `ratls`. Where it names a command, no other one is loaded.

    Raises: ForeignEntryPoint.
    """
    app = typer.Typer(
        cls=Commands,
        help="Release data only to the attested enclave, and only under the policy, "
        "that every party signed.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_show_locals=False,  # locals may hold rows and keys
        rich_markup_mode=None,
    )

    @app.callback()
    def umbrella(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Options of `ratls` itself."""

    entries = sorted(own_entry_points("ratls.commands"), key=lambda e: e.name)
    for entry in [entry for entry in entries if entry.name == wanted] or entries:
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def main() -> None:
    """Console script `ratls`."""
    settle_streams()
    try:
        build(next(iter(sys.argv[1:]), None))()
    except RatlsError as refusal:  # of what no command's body writes, as `--help`
        if not isinstance(refusal, OutputReaderGone):
            sys.stderr.write(
                f"{refusal.exit_status.word} [{refusal.code}] {refusal}\n  to do: {refusal.fix}\n"
            )
        sys.exit(int(refusal.exit_status))
