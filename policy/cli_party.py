"""`ratls party`: the keys and the certificate of a party."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policy.options import Json, PassphraseFile
from verifier.usage import Commands

if TYPE_CHECKING:
    from policy.keys import PublicKey

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
    signing_key: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Sign with this existing key: an encrypted file of OpenSSL or OpenSSH, a token "
            "(hsm:2?label=NAME), or awskms:, gcpkms:, azurekms:, hv: of a key service.",
        ),
    ] = None,
    signing_passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File with the passphrase or PIN of that key. Default: the terminal."),
    ] = None,
    signing_public_key: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Its public half, as a key service exports it."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make the keys and the channel certificate of a party. Nothing is ever overwritten.

    A --signing-key stays where it is. `ratls policy sign` then asks for its passphrase or PIN, and
    not for that of the other keys.

    Example: ratls party new alice-clinic --dir alice --role provider --passphrase-file pass.txt
    """
    from verifier.shell import now, refusals_as_exit_status

    roles = tuple(dict.fromkeys(role or ["provider"]))
    wrong = [r for r in roles if r not in ("provider", "recipient", "submitter", "operator")]
    if wrong:
        raise typer.BadParameter(f"no such role: {wrong[0]}", param_hint="--role")
    if signing_key is None and (signing_passphrase_file or signing_public_key):
        raise typer.BadParameter("is needed beside these options", param_hint="--signing-key")
    with refusals_as_exit_status(json) as shell:
        from policy.party import create_party
        from policy.passphrase import new_passphrase
        from policy.signing import public_keys

        signing = None
        if signing_key is not None:
            signing = _enrolled(signing_key, signing_passphrase_file, signing_public_key)
        passphrase = new_passphrase(passphrase_file)
        made = create_party(folder, party_id, passphrase, now(), roles, signing)
        keys = public_keys(made.public)
        lines = [f"{party_id}: keys in {folder}, public part in {folder / 'party.toml'}"]
        lines += [f"  {purpose:20} {fingerprint}" for purpose, fingerprint in keys.items()]
        shell.answer(
            {"party": party_id, "folder": str(folder), "roles": list(roles), "keys": keys},
            "\n".join(lines),
        )
        shell.say("next: put party.toml into the policy, and read these fingerprints to the others")


def _enrolled(place: str, secret: Path | None, public: Path | None) -> tuple[str, PublicKey]:
    """Where the signing key is, and its public half.

    Raises: as `SigningSource.public`; SigningKeyDiffers, KeyFileMalformed, FileUnreadable.
    """
    from policy.keys import PublicKey
    from policy.passphrase import passphrase_source
    from policy.signing_source import SigningKeyDiffers, SigningSource
    from verifier.files import parse_file

    asked = passphrase_source(secret)
    source = SigningSource(place, lambda: asked.asking_for(source.secret_name)())
    given = None
    if public is not None:
        given = parse_file(public, lambda raw: PublicKey.from_pem(raw.decode("ascii", "replace")))
    found = source.public()
    if found is None and given is None:
        raise typer.BadParameter(
            "is needed: this key service is not asked for it", param_hint="--signing-public-key"
        )
    if found is not None and given is not None and found != given:
        raise SigningKeyDiffers(
            place, expected=f"the key {given.keyid[:16]} of {public}", found=found.keyid[:16]
        )
    known = found or given
    assert known is not None
    return source.absolute, known
