"""A party's own folder: its keys and certificate. Policies are compared with these.

    party = LocalParty.load(folder, passphrase)    # reads no private key yet
    party.operation.sign(payload_type, payload)    # reads operation.key now

Files: `party.toml` (public, to paste into a policy), `signing.key`, `operation.key`,
`channel.key`, for recipients `encryption.key` (all encrypted, 0600), and `channel.crt`. Instead of
`signing.key` there may be `signing.uri`: where that key is, see `policy.signing_source`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from pydantic import ValidationError

from policy.channel import ChannelCertificate, make_channel_certificate
from policy.errors import PartyFolderMalformed, PassphraseMissing
from policy.keys import (
    KeySigner,
    OperationSigner,
    PublicKey,
    SigningSigner,
    load_private_key,
    private_pem,
    spki_der,
    spki_pem,
)
from policy.passphrase import PassphraseSource
from policy.problems import from_pydantic
from policy.sections import Party
from policy.syntax import read_toml
from policy.text import slug_fault
from verifier.errors import ConfigError
from verifier.files import FileNotWritten, make_folder, read_file, write_together

SIGNING_URI = "signing.uri"
Passphrase = bytes | Callable[[], bytes] | None  # a callable is asked once, when first needed


class KeyPairDiffers(ConfigError):
    """A private key does not belong to the public key in party.toml."""

    code = "key-pair-differs"
    default_fix = "restore the party folder from a backup: its files belong together"


class LocalParty:
    """A party's own folder. Private keys are read when they are first used."""

    def __init__(self, folder: Path, public: Party, passphrase: Passphrase) -> None:
        self.folder, self.public, self._given = folder, public, passphrase

    @classmethod
    def load(cls, folder: Path, passphrase: Passphrase = None) -> Self:
        """Read the public half. Raises: FileUnreadable, PartyFolderMalformed, PolicySyntax."""
        return cls(folder, read_party_file(folder / "party.toml"), passphrase)

    @property
    def party_id(self) -> str:
        return self.public.id

    @property
    def channel_certificate_pem(self) -> bytes:
        return self.public.channel_certificate.pem.encode("ascii")

    @property
    def channel_spki_sha256(self) -> bytes:
        return self.public.channel_certificate.spki_sha256

    @cached_property
    def signing(self) -> SigningSigner:
        """For policies and withdrawals only.

        Raises: as `load_private_key`, KeyPairDiffers; as `SigningSource.signer`.
        """
        place = self.folder / SIGNING_URI
        if os.path.lexists(place):
            from policy.signing_source import SigningSource  # of tokens and services: not for all

            where = read_file(place, cap=4096).decode("utf-8", "replace").strip()
            source = SigningSource(where, lambda: self._asked(source.secret_name))
            return SigningSigner(source.signer(self.public.signing_key))
        key = self._private("signing.key", self.public.signing_key.spki)
        return SigningSigner(KeySigner.from_private(key))

    @cached_property
    def operation(self) -> OperationSigner:
        """For tasks, commits, records. Raises as `signing`."""
        key = self._private("operation.key", self.public.operation_key.spki)
        return OperationSigner(KeySigner.from_private(key))

    @cached_property
    def channel_key_pem(self) -> bytes:
        """The key of the channel certificate, unencrypted, for the TLS library alone."""
        key = self._private("channel.key", self.public.channel_certificate.key.spki)
        return private_pem(key, serialization.NoEncryption())

    @cached_property
    def encryption(self) -> x25519.X25519PrivateKey:
        """Opens results. Raises as `signing`, and PartyFolderMalformed for a non-recipient."""
        if self.public.encryption_key is None:
            raise PartyFolderMalformed(
                str(self.folder), expected="a recipient with encryption key", found="none"
            )
        key = self._private("encryption.key", self.public.encryption_key.spki)
        assert isinstance(key, x25519.X25519PrivateKey)
        return key

    @cached_property
    def _passphrase(self) -> bytes:
        return self._asked("passphrase")

    def _asked(self, secret: str) -> bytes:
        source = self._given
        if isinstance(source, PassphraseSource):
            source = source.asking_for(secret)
        given = source() if callable(source) else source
        if not given:
            raise PassphraseMissing(str(self.folder), expected="a passphrase", found="none")
        return given

    def _private(self, name: str, spki: bytes) -> PrivateKeyTypes:
        path = self.folder / name
        key = load_private_key(path, self._passphrase)
        if spki_der(key.public_key()) != spki:
            raise KeyPairDiffers(str(path), expected="the key of party.toml", found="another key")
        return key


class PartyIdMalformed(ConfigError):
    """The name of a party is not a valid id."""

    code = "party-id-malformed"
    default_fix = "use lower-case letters, digits and hyphens, at most 64"


def create_party(
    folder: Path,
    party_id: str,
    passphrase: bytes,
    at: datetime,
    roles: tuple[str, ...] = ("provider",),
    signing: tuple[str, PublicKey] | None = None,
) -> LocalParty:
    """Make all keys and the certificate of a party in a folder that has none.

    Args:
        signing: Where an existing signing key is, and its public half; none is made then.

    Raises: PartyIdMalformed, PassphraseMissing, FileNotWritten (nothing is ever overwritten).
    """
    if fault := slug_fault(party_id):
        raise PartyIdMalformed("party id", expected=fault[0], found=fault[1])
    if not passphrase:
        raise PassphraseMissing("party keys", expected="a passphrase", found="an empty one")
    channel = ec.generate_private_key(ec.SECP256R1())
    certificate = make_channel_certificate(channel, party_id, at)
    keys: dict[str, PrivateKeyTypes] = {}
    if signing is None:
        keys["signing"] = ed25519.Ed25519PrivateKey.generate()
    keys |= {"operation": ed25519.Ed25519PrivateKey.generate(), "channel": channel}
    if "recipient" in roles:
        keys["encryption"] = x25519.X25519PrivateKey.generate()
    block = _party_block(party_id, roles, keys, certificate, signing and signing[1])
    make_folder(folder)
    names = [f"{n}.key" for n in (*keys, "signing")] + [SIGNING_URI, "party.toml", "channel.crt"]
    if present := [name for name in names if os.path.lexists(folder / name)]:
        raise FileNotWritten(
            str(folder), expected="a folder without keys", found=", ".join(sorted(present))
        )
    encryption = serialization.BestAvailableEncryption(passphrase)
    with write_together() as write:
        for name, key in keys.items():
            write(folder / f"{name}.key", private_pem(key, encryption))
        if signing is not None:
            write(folder / SIGNING_URI, f"{signing[0]}\n".encode())
        write(folder / "channel.crt", certificate.pem.encode("ascii"), mode=0o644)
        write(folder / "party.toml", block.encode("utf-8"), mode=0o644)
    return LocalParty.load(folder, passphrase)


def read_party_file(path: Path) -> Party:
    """The public block of one party. Raises: FileUnreadable, PolicySyntax, PartyFolderMalformed."""
    document = read_toml(read_file(path), str(path))
    entries = document.get("party")
    if set(document) != {"party"} or not isinstance(entries, list) or len(entries) != 1:
        raise PartyFolderMalformed(str(path), expected="one [[party]] table", found="another text")
    try:
        party = Party.model_validate(entries[0])
    except ValidationError as error:
        problem = from_pydantic(error, Party, "party[0]")[0]
        raise PartyFolderMalformed(
            f"{path}: {problem.path}", expected=problem.expected, found=problem.found
        ) from error
    if party.channel_certificate.party_id != party.id:
        raise PartyFolderMalformed(
            f"{path}: channel_certificate",
            expected=f"the name of {party.id}",
            found=ascii(party.channel_certificate.party_id),
        )
    return party


def _party_block(
    party_id: str,
    roles: tuple[str, ...],
    keys: dict[str, PrivateKeyTypes],
    certificate: ChannelCertificate,
    signing: PublicKey | None,
) -> str:
    listed = ", ".join(f'"{role}"' for role in roles)
    lines = ["[[party]]", f'id = "{party_id}"', f"roles = [{listed}]"]
    if signing is not None:
        lines.append(f'signing_key = """{signing.pem}"""')
    for name, key in keys.items():
        if name == "channel":
            lines.append(f'channel_certificate = """{certificate.pem}"""')
        else:
            lines.append(f'{name}_key = """{spki_pem(key.public_key())}"""')
    return "\n".join(lines) + "\n"
