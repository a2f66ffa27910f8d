"""`ratls policy state`: the folder of what a party accepted and released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json, checked_digest

state = typer.Typer(help="The folder of what this party accepted and released.")


@state.callback()
def _state() -> None:
    """A group with one command stays a group."""


@state.command()
def adopt(
    folder: Annotated[Path, typer.Option("--state", help="The folder as it is now.")],
    head: Annotated[
        str,
        typer.Option(
            callback=checked_digest,
            help="Head of its journal, sha256:…, as noted where the folder was before.",
        ),
    ],
    json: Json = False,
) -> None:
    """Go on in a state folder that was moved to another disk or machine, or restored.

    Two copies that are both in use would release one task to two enclaves, so a copy is refused
    until this is said once. Stop everything that uses the original first, note its head with
    `ratls provider journal verify`, and remove it: nothing can keep two machines from adopting
    one copy each.

    Example: ratls policy state adopt --state state --head sha256:HEAD
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        from policy.journal import Journal

        placed = Journal.adopt(folder, head, now())
        shell.answer(
            {"state": str(folder)} | placed.model_dump(mode="json"),
            f"{folder}: adopted; the journal says so, and the original must not be used any more",
        )
