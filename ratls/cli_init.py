"""`ratls init`: the keys of a party, and the profile from which all commands take the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policy.options import Json, PassphraseFile
from ratls.profile_draft import Role

_ROLES = {
    "provider": ("provider",),
    "recipient": ("recipient", "submitter"),
    "operator": ("operator",),
}


def init(
    role: Annotated[Role, typer.Argument(help="What this party does in the study.")],
    study: Annotated[str, typer.Option(help="Name of the study: a-z, 0-9 and -.")],
    party_id: Annotated[
        str | None,
        typer.Option("--id", help="Name of the party. Default: the name of the folder."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder for keys and ratls.toml; made if missing.")
    ] = Path(),
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make the keys of a party, and a ratls.toml with comments. Nothing is ever overwritten.

    In and below that folder, commands take what is not typed from ratls.toml. A recipient also
    submits tasks. With --passphrase-file the profile names that file; the passphrase itself never
    stands there.

    Example: ratls init provider --study my-study --dir alice-clinic
    """
    from verifier.shell import now, refusals_as_exit_status

    with refusals_as_exit_status(json) as shell:
        import os

        from policy.party import create_party
        from policy.passphrase import new_passphrase
        from policy.signing import public_keys
        from ratls.profile import Profile
        from ratls.profile_draft import draft_profile
        from ratls.profile_file import NAME, ProfileForeign, read_own
        from verifier.files import FileNotWritten, make_folder, write_together

        name = party_id or folder.resolve().name
        path, keys = folder / NAME, folder / "keys"
        if os.path.lexists(path):
            raise FileNotWritten(str(path), expected="a new file", found="one that is there")
        named = None
        if passphrase_file is not None and passphrase_file != Path("-"):
            named = (
                str(passphrase_file)
                if passphrase_file.is_absolute()
                else os.path.relpath(passphrase_file, folder)
            )
        text = draft_profile(role, study=study, party="keys", passphrase_file=named)
        raw = text.encode("utf-8")
        Profile.parse(raw, path)  # refuses a study's name before anything is made
        passphrase = new_passphrase(passphrase_file)
        make_folder(folder)
        with write_together() as write:
            write(path, raw, mode=0o644)  # first: it goes again where the keys are refused
            made = create_party(keys, name, passphrase, now(), _ROLES[role])
        shown = public_keys(made.public)
        lines = [f"{name}: keys in {keys}, profile in {path}"]
        lines += [f"  {purpose:20} {fingerprint}" for purpose, fingerprint in shown.items()]
        shell.answer(
            {"party": name, "folder": str(keys), "profile": str(path), "role": role, "keys": shown},
            "\n".join(lines),
        )
        try:
            read_own(path)
        except ProfileForeign as refusal:  # commands in this folder will refuse it
            shell.say(f"[{refusal.code}] {refusal}\n  to do: {refusal.fix}")
        shell.say(
            f"next: complete {path}; send {keys / 'party.toml'} to who writes the policy, and read "
            "these fingerprints to the others"
        )
