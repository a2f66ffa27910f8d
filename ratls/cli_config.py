"""`ratls config`: what commands take from the profile, and where each value came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from policy.options import Json
from ratls.profile_options import TAKES, FromProfile, ProfileFinder, Typed
from verifier.usage import Commands

if TYPE_CHECKING:
    from ratls.profile import Profile

config = typer.Typer(
    cls=Commands, no_args_is_help=True, help="What commands take where it is not typed."
)


@config.callback()
def _config() -> None:
    """A group with one command stays a group."""


@config.command()
def show(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="Only what this command takes: provider push."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Show each value of the profile and its line; or, for one command, what its options take.

    Example: ratls config show provider push
    """
    from verifier.shell import refusals_as_exit_status

    name = " ".join(command or [])
    if name and name not in TAKES:
        raise typer.BadParameter(
            f"{name} takes nothing from the profile; these do: {', '.join(TAKES)}",
            param_hint="COMMAND",
        )
    with refusals_as_exit_status(json_output) as shell:
        finder = ctx.find_object(ProfileFinder) or ProfileFinder(None)
        file, profile = finder.file, finder.profile
        rows = _taken(finder, name) if name else _said(profile)
        path = None if file is None else str(file.path)
        how = "no ratls.toml in this folder or above it" if file is None else file.how
        width = max((len(row["name"]) for row in rows), default=0)
        lines = [f"{path}: {how}" if path else how]
        lines += [
            f"  {row['name']:{width}}  {row['value'] or '-'}  ({row['from']})" for row in rows
        ]
        shell.answer({"profile": path, "how": how, "values": rows}, "\n".join(lines))


def _said(profile: Profile | None) -> list[dict[str, Any]]:
    """Every value that the profile says; then the state folder, if it does not name one."""
    rows = []
    if profile is not None:
        rows = [
            {"name": name, "value": value, "from": f"{profile.path}, line {line}", "line": line}
            for name, (value, line) in profile.said.items()
        ]
    if profile is None or profile.state is None:
        rows.append({"name": "state", "value": _user_state(), "from": "default", "line": None})
    return rows


def _user_state() -> str | None:
    from verifier.user_folder import UserFolderUnknown, user_folder

    try:
        return str(user_folder("state"))
    except UserFolderUnknown:  # of whoever has no home; commands that need one say so
        return None


def _taken(finder: ProfileFinder, command: str) -> list[dict[str, Any]]:
    """What this command would take if nothing were typed."""
    rows = []
    for option, key in TAKES[command].items():
        try:
            value = FromProfile(finder, key, Typed(()))()
        except typer.BadParameter as several:
            rows.append({"name": option, "value": None, "from": several.message})
            continue
        source = f"the profile does not say {key}" if value is None else key
        rows.append({"name": option, "value": value, "from": source})
    return rows
