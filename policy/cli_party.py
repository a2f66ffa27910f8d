"""`ratls party`: the keys and the certificate of a party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json, PassphraseFile
from verifier.usage import Commands

party = typer.Typer(cls=Commands, no_args_is_help=True, help="Keys and certificate of a party.")


@party.callback()
def _party() -> None:
    """A group with one command stays a group."""


@party.command("new")
def party_new(
    party_id: Annotated[str, typer.Argument(metavar="ID", help="Name, like alice-clinic.")],
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the keys; made if missing.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="provider, recipient, submitter or operator; may be repeated."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make the keys and the channel certificate of a party. Nothing is ever overwritten.

    Example: ratls party new alice-clinic --dir alice --role provider --passphrase-file pass.txt
    """
    from verifier.shell import now, refusals_as_exit_status

    roles = tuple(dict.fromkeys(role or ["provider"]))
    wrong = [r for r in roles if r not in ("provider", "recipient", "submitter", "operator")]
    if wrong:
        raise typer.BadParameter(f"no such role: {wrong[0]}", param_hint="--role")
    with refusals_as_exit_status(json) as shell:
        from policy.party import create_party
        from policy.passphrase import new_passphrase
        from policy.signing import public_keys

        made = create_party(folder, party_id, new_passphrase(passphrase_file), now(), roles)
        keys = public_keys(made.public)
        lines = [f"{party_id}: keys in {folder}, public part in {folder / 'party.toml'}"]
        lines += [f"  {purpose:20} {fingerprint}" for purpose, fingerprint in keys.items()]
        shell.answer(
            {"party": party_id, "folder": str(folder), "roles": list(roles), "keys": keys},
            "\n".join(lines),
        )
        shell.say("next: put party.toml into the policy, and read these fingerprints to the others")
