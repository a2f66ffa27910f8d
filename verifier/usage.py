"""What every group of commands does: no empty argument is taken, and the help has sections."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperGroup

_EMPTY_OPTION = re.compile(r"--[a-z0-9-]+=", re.ASCII)


class Commands(TyperGroup):
    """A group of commands that takes no empty value.

    Otherwise `--root "$ROOT"` with a variable that is not set would count as no `--root` at all,
    and a file without a name as the current folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check all arguments, also those of the commands inside the group."""
        for before, argument in zip(["", *args], args, strict=False):
            if argument == "" or _EMPTY_OPTION.fullmatch(argument):
                name = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
                raise typer.BadParameter(f"{name} has an empty value")
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by section, which is their `rich_help_panel`, in the order of the first."""
        sections: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                title = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(str(title), []).append((name, command))
        width = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
        for title, rows in sections.items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [(f"{name:{width}}", row.get_short_help_str(limit)) for name, row in rows]
                )
