"""Keys that a party has already: files of OpenSSL and OpenSSH, and tokens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st

from policy.errors import KeyPermissions
from policy.keys import KeyFileMalformed, KeySigner, KeyTypeUnsupported, PassphraseWrong, PublicKey
from policy.party import LocalParty, create_party
from policy.passphrase import passphrase_source
from policy.signing_source import SCHEMES, SigningKeyDiffers, SigningKeyUnusable, SigningSource
from tests.policy.desk import NOW, WORLD, Desk
from tests.support.parties import PASSPHRASE, Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.tokens import Token, token
from verifier.errors import ConfigError

pytestmark = pytest.mark.slow
SECRET, PIN = b"another-passphrase", "4711"
OPENSSL = f"-aes256 -pass pass:{SECRET.decode()} -out my.key"
ROOT = Path(__file__).parent.parent.parent


def encrypted(key: PrivateKeyTypes, form: serialization.PrivateFormat, secret: bytes) -> bytes:
    encryption = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)  # type: ignore[union-attr]


KEYS: dict[str, PrivateKeyTypes] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()),
    "rsassa-pss-sha256": rsa.generate_private_key(65537, 3072),
}
FORMS = {
    "PKCS#8": serialization.PrivateFormat.PKCS8,
    "OpenSSH": serialization.PrivateFormat.OpenSSH,
}


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "my.key"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", KEYS)
def test_an_existing_key_signs_a_policy(tmp_path: Path, scheme: str, form: str) -> None:
    place = key_file(tmp_path, encrypted(KEYS[scheme], FORMS[form], SECRET))
    source = SigningSource(place, lambda: SECRET)
    public = source.public()
    assert public is not None
    assert public.scheme == scheme
    create_party(tmp_path / "p", "alice-clinic", PASSPHRASE, NOW, signing=(place, public))
    assert not (tmp_path / "p" / "signing.key").exists()
    world = Consortium.create(NOW)
    world.parties["alice-clinic"] = LocalParty.load(tmp_path / "p", SECRET)
    agreement = world.agreement(signers=["alice-clinic"])
    assert agreement.newest.signed == ("alice-clinic",)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("openssl", f"genpkey -algorithm ed25519 {OPENSSL}"),
        ("openssl", f"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 {OPENSSL}"),
        ("ssh-keygen", f"-q -t ed25519 -N {SECRET.decode()} -f my.key"),
        ("ssh-keygen", f"-q -t ecdsa -b 256 -N {SECRET.decode()} -f my.key"),
    ],
)
def test_a_key_that_a_persons_own_tool_made(tmp_path: Path, tool: str, words: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool.upper()} ABSENT")
    subprocess.run([tool, *words.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "my.key").chmod(0o600)
    source = SigningSource(str(tmp_path / "my.key"), lambda: SECRET)
    public = source.public()
    assert public is not None
    assert public.holds(b"x", bytes.fromhex(source.signer(public)._signer.sign(b"x").signature))


@pytest.mark.parametrize("form", FORMS)
def test_another_passphrase(tmp_path: Path, form: str) -> None:
    place = key_file(tmp_path, encrypted(KEYS["ed25519"], FORMS[form], SECRET))
    with refused(PassphraseWrong):
        SigningSource(place, lambda: b"a guess").public()


@pytest.mark.parametrize("form", FORMS)
def test_a_key_without_a_passphrase_is_not_taken(tmp_path: Path, form: str) -> None:
    """Whoever copies the disk could sign."""
    key = KEYS["ed25519"]
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    plain = key.private_bytes(serialization.Encoding.PEM, FORMS[form], serialization.NoEncryption())
    with refused(KeyFileMalformed):
        SigningSource(key_file(tmp_path, plain), lambda: SECRET).public()


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    content = encrypted(KEYS["ed25519"], FORMS["OpenSSH"], SECRET)
    with refused(KeyPermissions):
        SigningSource(key_file(tmp_path, content, 0o644), lambda: SECRET).public()


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP521R1())]
)
def test_a_key_of_a_kind_that_is_not_accepted(tmp_path: Path, key: PrivateKeyTypes) -> None:
    place = key_file(tmp_path, encrypted(key, FORMS["PKCS#8"], SECRET))
    with refused(KeyTypeUnsupported):
        SigningSource(place, lambda: SECRET).public()


def test_another_key_in_the_place_of_the_enrolled_one(tmp_path: Path) -> None:
    place = key_file(tmp_path, encrypted(KEYS["ed25519"], FORMS["PKCS#8"], SECRET))
    source = SigningSource(place, lambda: SECRET)
    enrolled = source.public()
    assert enrolled is not None
    key_file(tmp_path, encrypted(KEYS["ecdsa-sha2-nistp256"], FORMS["PKCS#8"], SECRET))
    with refused(SigningKeyDiffers):
        source.signer(enrolled)


def test_the_commands_with_an_existing_key(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    place = key_file(tmp_path, encrypted(KEYS["ed25519"], FORMS["OpenSSH"], SECRET))
    secret = desk.write("secret", SECRET)
    new = ("party", "new", "alice-clinic", "--dir", tmp_path / "a", "--passphrase-file",
           desk.pass_file)  # fmt: skip
    mine = ("--signing-key", place, "--signing-passphrase-file", secret)
    desk.run(*new, "--signing-passphrase-file", secret, status=2)
    desk.run(*new, *mine, "--signing-public-key", desk.write("o.pem", _pem("rsassa-pss-sha256")),
             status=3)  # fmt: skip
    assert not (tmp_path / "a").exists()
    desk.run(*new, *mine, "--signing-public-key", desk.write("k.pem", _pem("ed25519")))
    theirs = (WORLD.alice.folder / "party.toml").read_text("utf-8")
    toml = desk.write(
        "s.toml", WORLD.policy_text().replace(theirs, (tmp_path / "a/party.toml").read_text())
    )
    sign = ("policy", "sign", toml, "--party", tmp_path / "a", "--state", tmp_path / "state")
    desk.run(*sign, "--passphrase-file", desk.pass_file, *desk.yes(toml), status=3)
    told = desk.json(*sign, "--passphrase-file", secret, *desk.yes(toml))
    assert told["signed"] == ["alice-clinic"]


def _pem(scheme: str) -> str:
    return PublicKey.from_crypto(KEYS[scheme].public_key()).pem


@given(st.binary(max_size=400), st.sampled_from(["raw", "OpenSSH", "PKCS#8"]))
def test_any_file_is_a_key_or_a_refusal(content: bytes, kind: str) -> None:
    """A damaged file, or one that is no key, ends in one line and never in a traceback."""
    count_refusal()
    with TemporaryDirectory() as folder:
        if kind != "raw":
            good = encrypted(KEYS["ed25519"], FORMS[kind], SECRET)
            content = good[: len(content)] + content + good[len(content) * 2 :]
        with suppress(ConfigError):
            SigningSource(key_file(Path(folder), content), lambda: SECRET).public()


@given(st.text(max_size=40))
def test_any_place_is_a_key_or_a_refusal(place: str) -> None:
    count_refusal()
    for where in (place, f"hsm:{place}", f"hsm://[{place}"):
        with suppress(ConfigError):
            SigningSource(where, lambda: SECRET).public()


# Tokens and key services.


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    with token(tmp_path_factory.mktemp("softhsm"), "alice", PIN) as made:
        made.key(2, "secp256r1")
        made.key(3, "secp384r1")
        yield made


@pytest.mark.parametrize(
    ("number", "scheme"), [(2, "ecdsa-sha2-nistp256"), (3, "ecdsa-sha2-nistp384")]
)
def test_a_token_signs_a_policy(alice: Token, tmp_path: Path, number: int, scheme: str) -> None:
    """The key never leaves it; the commands ask for its PIN."""
    desk = Desk(tmp_path)
    pin = desk.write("pin", PIN)
    new = ("party", "new", "alice-clinic", "--dir", tmp_path / "a", "--passphrase-file",
           desk.pass_file, "--signing-key", f"hsm:{number}?label=alice",
           "--signing-passphrase-file", pin)  # fmt: skip
    desk.run(*new)
    theirs = (WORLD.alice.folder / "party.toml").read_text("utf-8")
    toml = desk.write(
        "s.toml", WORLD.policy_text().replace(theirs, (tmp_path / "a/party.toml").read_text())
    )
    assert LocalParty.load(tmp_path / "a").public.signing_key.scheme == scheme
    sign = ("policy", "sign", toml, "--party", tmp_path / "a", "--state", tmp_path / "state")
    told = desk.json(*sign, "--passphrase-file", pin, *desk.yes(toml))
    assert told["signed"] == ["alice-clinic"]


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("hsm:2?label=alice", "PIN of the token alice (hsm:2?label=alice)"),
        ("hsm:2?label=a%0Ab", "PIN of the token a\\nb (hsm:2?label=a%0Ab)"),
        ("my.key", "passphrase of my.key"),
    ],
)
def test_the_name_of_a_secret(where: str, asked: str) -> None:
    assert SigningSource(where, bytes).secret_name == asked


def test_a_person_is_asked_for_the_pin_of_the_token(
    alice: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token locks itself after three tries: nobody may take its PIN for the other passphrase."""
    found = SigningSource("hsm:2?label=alice", PIN.encode).public()
    assert found is not None
    signing = ("hsm:2?label=alice", found)
    create_party(tmp_path / "a", "alice-clinic", PASSPHRASE, NOW, ("provider",), signing)
    prompts: list[str] = []

    def typed_in(prompt: str) -> str:
        prompts.append(prompt)
        return PIN if "PIN" in prompt else PASSPHRASE.decode()

    monkeypatch.setattr("policy.passphrase.getpass", typed_in)
    monkeypatch.setattr("policy.passphrase._at_terminal", lambda: True)
    local = LocalParty.load(tmp_path / "a", passphrase_source(None))
    assert local.signing.sign("kind", b"payload")
    assert local.operation
    assert prompts == ["PIN of the token alice (hsm:2?label=alice): ", "passphrase: "]


@pytest.mark.parametrize("place", ["hsm:9?label=alice", "hsm:2?label=nobody", "hsm:two"])
def test_a_token_that_is_not_there(alice: Token, place: str) -> None:
    with refused(SigningKeyUnusable):
        SigningSource(place, PIN.encode).public()


def test_a_wrong_pin(alice: Token) -> None:
    source = SigningSource("hsm:2?label=alice", b"0000".strip)
    public = source.public()
    assert public is not None
    with refused(SigningKeyUnusable):
        source.signer(public).sign("kind", b"payload")


def test_a_token_with_another_key_than_the_enrolled_one(alice: Token) -> None:
    """Its signature would be refused by all others; it is refused here, before it is written."""
    enrolled = PublicKey.from_crypto(KEYS["ecdsa-sha2-nistp256"].public_key())
    signer = SigningSource("hsm:2?label=alice", PIN.encode).signer(enrolled)
    with refused(SigningKeyDiffers):
        signer.sign("kind", b"payload")


@pytest.mark.parametrize("scheme", [s for s, tested in SCHEMES.items() if not tested])
def test_a_service_without_its_package_or_login_is_a_refusal(scheme: str) -> None:
    """Nothing here signs with these; what they do without a login must still be one line."""
    enrolled = PublicKey.from_crypto(KEYS["ecdsa-sha2-nistp256"].public_key())
    source = SigningSource(f"{scheme}:a/key/1", b"pin".strip)
    assert source.public() is None
    with refused(SigningKeyUnusable):
        source.signer(enrolled).sign("kind", b"payload")


def test_a_service_needs_the_public_half(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    new = ("party", "new", "a", "--dir", tmp_path / "a", "--passphrase-file", desk.pass_file)
    desk.run(*new, "--signing-key", "awskms:alias/a", status=2)
    desk.run(*new, "--signing-key", "awskms:alias/a", "--signing-public-key",
             desk.write("k.pem", _pem("rsassa-pss-sha256")))  # fmt: skip
    assert (tmp_path / "a/signing.uri").read_text() == "awskms:alias/a\n"


def test_the_page_lists_every_scheme_as_tested_or_not() -> None:
    count_refusal()
    page = (ROOT / "docs" / "agreement.md").read_text("utf-8")
    for scheme, tested in SCHEMES.items():
        (line,) = [line for line in page.split("\n") if line.startswith(f"| `{scheme}:")]
        assert ("| yes" in line) is tested, line
    assert KeySigner.from_private(KEYS["ed25519"]).public.scheme in page
