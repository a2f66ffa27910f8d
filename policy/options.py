"""Options that commands of several packages share. Loads little."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from policy.party import LocalParty
    from verifier.gramine.measurement import Measurement
    from verifier.gramine.signed import SignedManifest


def checked_digest(text: str | None) -> str | None:
    """A digest as it is typed, `sha256:` and 64 hex digits; BadParameter otherwise."""
    if text is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", text, re.ASCII):
        raise typer.BadParameter("write sha256: and 64 lower-case hex digits")
    return text


def checked_sha256(text: str | None) -> str | None:
    """SHA-256 as `sha256sum` writes it; BadParameter otherwise."""
    if text is not None and not re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        raise typer.BadParameter("write 64 lower-case hex digits, as sha256sum does")
    return text


ExpectLibpal = Annotated[
    str | None,
    typer.Option(
        metavar="SHA256",
        callback=checked_sha256,
        help="The loader that you vouch for, in place of the known builds.",
    ),
]
ExpectLibsysdb = Annotated[
    str | None,
    typer.Option(
        metavar="SHA256",
        callback=checked_sha256,
        help="The library OS that you vouch for, in place of the known builds.",
    ),
]
Libpal = Annotated[Path | None, typer.Option(metavar="FILE", help="Gramine's loader, libpal.so.")]
ManifestFile = Annotated[
    Path, typer.Argument(metavar="SIGNED", help="A signed manifest: NAME.manifest.sgx.")
]
# What commands that take an agreement compare it with: see `policy.agreement_file`.
OwnParty = Annotated[
    Path | None,
    typer.Option("--party", help="Your party folder: its keys must have signed the agreement."),
]
KnownDigest = Annotated[
    str | None,
    typer.Option(
        "--digest",
        callback=checked_digest,
        help="The policy digest that you know to be right, sha256:….",
    ),
]
Yes = Annotated[
    str | None,
    typer.Option(
        "--yes",
        metavar="DIGEST",
        callback=checked_digest,
        help="Do not ask: consent to the policy with this digest, sha256:….",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
PartyDir = Annotated[Path, typer.Option("--party", help="Folder made by `ratls party new`.")]
StateDir = Annotated[
    Path | None, typer.Option("--state", help="Folder of accepted agreements. Default: per user.")
]
# Of commands that read an agreement from a file: they ask it, where it is there.
KnownState = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder that knows whom you distrust, and who withdrew. Default: per user, if it is "
        "there.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the keys' passphrase, - for standard input. Default: the terminal."
    ),
]
AgreementFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An agreement: <name>.agreement.json.")
]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What a signed manifest is measured with, as the options say."""

    libpal: Path | None
    expect_libpal: str | None
    expect_libsysdb: str | None

    def measure(self, manifest: Path) -> tuple[SignedManifest, Measurement]:
        """As `accepted_measurement`. Raises: typer.BadParameter without a loader."""
        from policy.measured import accepted_measurement

        if self.libpal is None:
            raise typer.BadParameter("is needed to measure a manifest", param_hint="--libpal")
        return accepted_measurement(manifest, self.libpal, self.expect_libpal, self.expect_libsysdb)


def known_state(folder: Path | None) -> Path | None:
    """The folder that `--state` names, or else the user's own; None where it has no journal yet."""
    from policy.journal import has_begun
    from verifier.user_folder import UserFolderUnknown, user_folder

    try:
        found = user_folder("state") if folder is None else folder
    except UserFolderUnknown:
        return None
    return found if has_begun(found) else None


def own_party(folder: Path, passphrase_file: Path | None) -> LocalParty:
    """The party that `--party` names; the passphrase is asked for when a key is first needed."""
    from policy.party import LocalParty
    from policy.passphrase import passphrase_source

    return LocalParty.load(folder, passphrase_source(passphrase_file))
