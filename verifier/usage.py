"""What every command checks before it reads its arguments: that none is empty."""

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
