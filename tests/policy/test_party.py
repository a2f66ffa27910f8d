"""A party's folder: keys encrypted, private, in pairs, never overwritten; one certificate form."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from policy.channel import ChannelCertificate
from policy.errors import KeyPermissions, PartyFolderMalformed, PassphraseMissing
from policy.keys import KeyFileMalformed, PassphraseWrong
from policy.party import KeyPairDiffers, LocalParty, PartyIdMalformed, create_party
from policy.syntax import PolicyEncoding
from tests.support.parties import AT, PASSPHRASE, local_party
from tests.support.refusal import refused
from verifier.errors import RatlsError
from verifier.files import FileNotWritten, FileUnreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of Carol's folder, to damage."""
    return Path(shutil.copytree(local_party("carol-lab").folder, tmp_path / "carol"))


def read_all(folder: Path, passphrase: bytes = PASSPHRASE) -> None:
    party = LocalParty.load(folder, passphrase)
    assert party.signing.public == party.public.signing_key
    assert party.operation.public == party.public.operation_key
    assert b"PRIVATE KEY" in party.channel_key_pem
    assert party.encryption.public_key() is not None


def test_new_party_has_private_encrypted_keys(tmp_path: Path) -> None:
    party = create_party(tmp_path / "c", "carol-lab", PASSPHRASE, AT, ("recipient", "submitter"))
    read_all(party.folder)
    keys = sorted(party.folder.glob("*.key"))
    assert [k.name for k in keys] == [
        "channel.key",
        "encryption.key",
        "operation.key",
        "signing.key",
    ]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in key.read_bytes()
    certificate = party.public.channel_certificate
    assert certificate.party_id == "carol-lab"
    assert certificate.not_after == AT + timedelta(days=730)
    provider = create_party(tmp_path / "a", "alice-clinic", PASSPHRASE, AT)
    assert not (provider.folder / "encryption.key").exists()


def test_public_half_needs_no_key(folder: Path) -> None:
    """Pushing rows must work on a machine that does not hold the signing key."""
    for key in folder.glob("*.key"):
        key.unlink()
    assert LocalParty.load(folder).party_id == "carol-lab"
    with refused(FileUnreadable):
        read_all(folder)


@pytest.mark.parametrize("name", ["signing.key", "party.toml", "channel.crt"])
def test_existing_keys_are_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with refused(FileNotWritten):
        create_party(tmp_path, "carol-lab", PASSPHRASE, AT)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("party_id", ["", "Alice", "a/b", "../x", "a" * 65, "\u0430lice"])
def test_party_of_a_name_that_is_no_id(tmp_path: Path, party_id: str) -> None:
    with refused(PartyIdMalformed):
        create_party(tmp_path, party_id, PASSPHRASE, AT)


def test_keys_without_passphrase(tmp_path: Path) -> None:
    with refused(PassphraseMissing):
        create_party(tmp_path, "alice-clinic", b"", AT)


def _open_to_the_group(folder: Path) -> None:
    (folder / "signing.key").chmod(0o640)


def _open_to_the_world(folder: Path) -> None:
    (folder / "operation.key").chmod(0o604)


def _swap_keys(folder: Path) -> None:
    shutil.copy(local_party("alice-clinic").folder / "channel.key", folder / "channel.key")


def _swap_signing_and_operation(folder: Path) -> None:
    shutil.copy(folder / "operation.key", folder / "signing.key")


def _plain_key(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "operation.key").write_bytes(pem)


def _cut_key(folder: Path) -> None:
    content = (folder / "signing.key").read_bytes()
    (folder / "signing.key").write_bytes(content[:120])


def _empty_key(folder: Path) -> None:
    (folder / "signing.key").write_bytes(b"")


def _edit_party(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "party.toml").read_text("utf-8")
        assert old in text
        (folder / "party.toml").write_text(text.replace(old, new), "utf-8")

    return edit


DAMAGE: list[tuple[Callable[[Path], None], type[RatlsError]]] = [
    (_open_to_the_group, KeyPermissions),
    (_open_to_the_world, KeyPermissions),
    (_swap_keys, KeyPairDiffers),
    (_swap_signing_and_operation, KeyPairDiffers),
    (_plain_key, KeyFileMalformed),
    (_cut_key, PassphraseWrong),
    (_empty_key, KeyFileMalformed),
    (_edit_party('id = "carol-lab"', 'id = "alice-clinic"'), PartyFolderMalformed),
    (_edit_party("[[party]]", "[party]"), PartyFolderMalformed),
    (_edit_party("roles", "role"), PartyFolderMalformed),
    (_edit_party("BEGIN CERTIFICATE", "BEGIN  CERTIFICATE"), PartyFolderMalformed),
    (_edit_party("\n", "\r\n"), PolicyEncoding),
]


@pytest.mark.parametrize(("damage", "leaf"), DAMAGE)
def test_damaged_folder(
    folder: Path, damage: Callable[[Path], None], leaf: type[RatlsError]
) -> None:
    read_all(folder)
    damage(folder)
    with refused(leaf):
        read_all(folder)


def test_wrong_passphrase(folder: Path) -> None:
    with refused(PassphraseWrong):
        read_all(folder, b"guess")


def test_no_folder(tmp_path: Path) -> None:
    with refused(FileUnreadable):
        LocalParty.load(tmp_path / "nobody")


def test_provider_has_nothing_to_open_results_with() -> None:
    with refused(PartyFolderMalformed):
        _ = local_party("alice-clinic").encryption


# One certificate per rule, each self-signed and otherwise as `party new` makes it.
URI = x509.UniformResourceIdentifier("urn:ratls:party:alice-clinic")


def certificate(
    *,
    names: list[x509.GeneralName] | None = None,
    ca: bool | None = False,
    foreign: bool = False,
) -> str:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice-clinic")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, AT, AT + timedelta(days=900))
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if names != []:
        builder = builder.add_extension(x509.SubjectAlternativeName(names or [URI]), critical=False)
    made = builder.sign(other if foreign else key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_certificate_in_its_one_form_is_read() -> None:
    assert ChannelCertificate.from_pem(certificate()).party_id == "alice-clinic"


BAD = {
    "CA:TRUE": certificate(ca=True),  # flight.md 1.2: it would admit whatever it signs
    "no basicConstraints": certificate(ca=None),
    "no name": certificate(names=[]),
    "two names": certificate(names=[URI, x509.DNSName("bob-hospital")]),  # I05
    "DNS name": certificate(names=[x509.DNSName("alice-clinic")]),
    "other URI": certificate(names=[x509.UniformResourceIdentifier("urn:other:alice-clinic")]),
    "e-mail": certificate(names=[x509.RFC822Name("alice-clinic@ratls.invalid")]),
    "signed by another": certificate(foreign=True),
    "two certificates": certificate() * 2,
    "text before": "Alice\n" + certificate(),
    "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "not ASCII": "\u0430",
}


@pytest.mark.parametrize("kind", BAD)
def test_certificate_that_would_name_another_or_admit_others(kind: str) -> None:
    """I03, I05: identity is one URI in one self-signed certificate without authority."""
    with refused(PartyFolderMalformed):
        ChannelCertificate.from_pem(BAD[kind])
