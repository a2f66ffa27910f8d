"""Where a party's signing key is: an encrypted file, a PKCS#11 token, or a key service.

    source = SigningSource("hsm:2?label=alice", secret)     # or the path of a file
    source.public()                       # a file or token says its public key
    source.signer(party.public.signing_key)

Files are PEM of OpenSSL (PKCS#8) or of OpenSSH, always encrypted. Tokens and services are reached
by `securesystemslib`; what it signs is checked with the enrolled key before anybody else sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import (  # type: ignore[attr-defined]
    HSMSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SSlibKey,
)

from policy.errors import KeyPermissions
from policy.keys import (
    KeyFileMalformed,
    KeySigner,
    PassphraseWrong,
    PublicKey,
    load_private_key,
    spki_der,
)
from verifier.errors import ConfigError
from verifier.files import read_secret
from verifier.text import printable

_FILE_CAP = 64 * 1024
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_HSM = "hsm"
# Name of the scheme, and whether the tests of this repository sign with it.
SCHEMES = {
    _HSM: True,  #       PKCS#11: a smart card, a YubiKey, an HSM; with SoftHSM2
    "awskms": False,
    "gcpkms": False,
    "azurekms": False,
    "hv": False,  #      HashiCorp Vault, transit
}

_FIXES = {
    _HSM: "check that the token is there, its PIN, and PYKCS11LIB, the path of its PKCS#11 "
    "library; the package is installed by pip install 'ratls[hsm]'"
}
_LOGIN = (
    "log in to the service as its own client does, and install what securesystemslib needs for "
    "it: pip install 'securesystemslib[awskms]', or gcpkms, azurekms, vault"
)


class SigningKeyUnusable(ConfigError):
    """A token or key service does not give the key, or does not sign with it."""

    code = "signing-key-unusable"
    default_fix = "check that the token or service is there, and that you may use the key"


class SigningKeyDiffers(ConfigError):
    """The key at that place is not the one in party.toml."""

    code = "signing-key-differs"
    default_fix = "name the key that party.toml has, or enrol this one with all parties"


@dataclass(frozen=True, slots=True)
class SigningSource:
    """A place, and who is asked for its passphrase or PIN when it is first needed."""

    where: str
    secret: Callable[[], bytes]

    @property
    def service(self) -> str | None:
        """The scheme of a token or key service; None for a file."""
        scheme, colon, _ = self.where.partition(":")
        return scheme if colon and scheme in SCHEMES else None

    @property
    def secret_name(self) -> str:
        """What a person is asked for: the PIN of a token by its name, or a file's passphrase."""
        if self.service == _HSM:
            label = parse_qs(urlparse(self.where).query).get("label", ["without a name"])[0]
            return f"PIN of the token {printable(label)} ({printable(self.where)})"
        return f"passphrase of {printable(self.where)}"

    @property
    def absolute(self) -> str:
        """The same place for a reader in any folder."""
        return self.where if self.service else str(Path(self.where).resolve())

    def public(self) -> PublicKey | None:
        """The public key there; None for a service, which is not asked.

        Raises: as `private`; SigningKeyUnusable, KeyTypeUnsupported.
        """
        if self.service is None:
            return PublicKey.from_crypto(self._private().public_key())
        if self.service != _HSM:
            return None
        with _translated(self.where):
            parsed = urlparse(self.where)
            number = int(parsed.path) if parsed.path else None
            label = parse_qs(parsed.query).get("label", [None])[0]
            _, key = HSMSigner.import_(number, label, self._pin)
            pem = key.keyval["public"]
        return PublicKey.from_crypto(serialization.load_pem_public_key(pem.encode("ascii")))

    def signer(self, public: PublicKey) -> KeySigner:
        """Signs with that key, which must be this one.

        Raises: as `private`; SigningKeyDiffers. Its `sign` raises SigningKeyUnusable.
        """
        if self.service is not None:
            return KeySigner(_Service(self, public), public)
        private = self._private()
        if spki_der(private.public_key()) != public.spki:
            raise SigningKeyDiffers(
                self.where, expected=f"the key {public.keyid[:16]} of party.toml", found="another"
            )
        return KeySigner.from_private(private)

    def _private(self) -> PrivateKeyTypes:
        """Raises: FileUnreadable, KeyPermissions, PassphraseWrong, KeyFileMalformed."""
        path = Path(self.where)
        content = read_secret(path, cap=_FILE_CAP, exposed=KeyPermissions)
        if not content.startswith(_OPENSSH):
            return load_private_key(path, self.secret())
        if _opens_without(content):
            raise KeyFileMalformed(
                self.where,
                expected="an encrypted key",
                found="one without a passphrase",
                fix=f"give it one: ssh-keygen -p -f {self.where}",
            )
        try:
            return serialization.load_ssh_private_key(content, self.secret())
        except (ValueError, TypeError) as error:
            raise PassphraseWrong(
                self.where,
                expected="the passphrase of this key",
                found="another one, or a damaged key file",
            ) from error
        except UnsupportedAlgorithm as error:
            raise KeyFileMalformed(self.where, expected="a supported key", found="other") from error

    def _pin(self, _: str) -> str:
        return self.secret().decode("utf-8")


class _Service(Signer):
    """Signs by `securesystemslib`; the signature must be one by the enrolled key."""

    def __init__(self, source: SigningSource, public: PublicKey) -> None:
        self._source, self._enrolled = source, public

    @property
    def public_key(self) -> Key:
        crypto = serialization.load_der_public_key(self._enrolled.spki)
        return SSlibKey.from_crypto(crypto, self._enrolled.keyid, self._enrolled.scheme)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        raise NotImplementedError  # made by SigningSource alone

    def sign(self, payload: bytes) -> Signature:
        where = self._source.where
        with _translated(where):
            signer = Signer.from_priv_key_uri(where, self.public_key, self._source._pin)
            made = signer.sign(payload)
        if not self._enrolled.holds(payload, bytes.fromhex(made.signature)):
            raise SigningKeyDiffers(
                where,
                expected=f"a signature of the key {self._enrolled.keyid[:16]} of party.toml",
                found="one by another key",
            )
        return made


def _opens_without(content: bytes) -> bool:
    try:
        serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Drivers and clients of key services raise whatever they like."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        found = type(error).__name__ + (f": {ascii(str(error))[:120]}" if str(error) else "")
        scheme = where.partition(":")[0]
        raise SigningKeyUnusable(
            where, expected="a key that signs", found=found, fix=_FIXES.get(scheme, _LOGIN)
        ) from error
