"""Keys: public ones as policies list them, private ones from encrypted files.

    key = PublicKey.from_pem(text)          # .spki .keyid .scheme
    key.holds(message, signature)           # securesystemslib, one key at a time
    signer = KeySigner.from_private(private) # .public .sign(payload_type, payload)

The scheme comes from the enrolled key and never from a message. `EncryptionKey` is X25519.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from securesystemslib.dsse import Envelope as _Dsse
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError

# Its package re-exports these for users, but not in the form that type checkers ask for.
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey  # type: ignore[attr-defined]

from policy.errors import KeyPermissions
from verifier.errors import ConfigError
from verifier.files import read_secret

_KEY_FILE_CAP = 64 * 1024
_RSA_BITS = range(3072, 8193)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures."""

    spki: bytes  #   DER SubjectPublicKeyInfo, in its one standard form
    keyid: str  #    SHA-256 of `spki`, 64 hex
    scheme: str  #   ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, rsassa-pss-sha256

    @classmethod
    def from_crypto(cls, key: PublicKeyTypes) -> Self:
        """Raises: KeyTypeUnsupported."""
        scheme = _scheme(key)
        spki = spki_der(key)
        return cls(spki, hashlib.sha256(spki).hexdigest(), scheme)

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """One PEM block in its standard form, nothing around it but line ends.

        Raises: KeyTypeUnsupported, KeyFileMalformed.
        """
        return cls.from_crypto(_load_pem(text))

    @classmethod
    def from_spki(cls, spki: bytes) -> Self:
        """Raises: KeyTypeUnsupported, KeyFileMalformed."""
        return cls.from_crypto(_load_spki(spki))

    @property
    def pem(self) -> str:
        return spki_pem(_load_spki(self.spki))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the SPKI, 32 bytes."""
        return bytes.fromhex(self.keyid)

    def holds(self, message: bytes, signature: bytes) -> bool:
        """Is this a signature by this key over exactly this message?"""
        key: Key = SSlibKey.from_crypto(_load_spki(self.spki), self.keyid, self.scheme)
        try:
            key.verify_signature(Signature(self.keyid, signature.hex()), message)
        except (UnverifiedSignatureError, VerificationError):
            return False
        return True


# Keys of one form for different documents, as types that mypy tells apart.
SigningKey = NewType("SigningKey", PublicKey)  #      policies and withdrawals
OperationKey = NewType("OperationKey", PublicKey)  #  tasks, commits, records
ReceiptKey = NewType("ReceiptKey", PublicKey)  #      an enclave's: acknowledgements, receipts


class KeyTypeUnsupported(ConfigError):
    """A kind of key that is not accepted for signatures."""

    code = "key-type-unsupported"
    default_fix = "use Ed25519, ECDSA P-256 or P-384, or RSA of at least 3072 bits"


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A recipient's X25519 key; results are sealed to it (`policy.seal`)."""

    spki: bytes
    keyid: str  # SHA-256 of `spki`, 64 hex

    @classmethod
    def from_crypto(cls, key: PublicKeyTypes) -> Self:
        """Raises: KeyTypeUnsupported."""
        if not isinstance(key, x25519.X25519PublicKey):
            raise KeyTypeUnsupported(
                "encryption key", expected="X25519", found=type(key).__name__, fix="use X25519"
            )
        spki = spki_der(key)
        return cls(spki, hashlib.sha256(spki).hexdigest())

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """Raises: KeyTypeUnsupported, KeyFileMalformed."""
        return cls.from_crypto(_load_pem(text))

    @property
    def crypto(self) -> x25519.X25519PublicKey:
        key = _load_spki(self.spki)
        assert isinstance(key, x25519.X25519PublicKey)
        return key

    @property
    def pem(self) -> str:
        return spki_pem(self.crypto)


class KeySigner:
    """Signs documents with one key. Takes any `securesystemslib` Signer: file, token, cloud."""

    def __init__(self, signer: Signer, public: PublicKey) -> None:
        self._signer, self.public = signer, public

    @classmethod
    def from_private(cls, key: PrivateKeyTypes) -> Self:
        """Raises: KeyTypeUnsupported."""
        public = PublicKey.from_crypto(key.public_key())
        enrolled = SSlibKey.from_crypto(key.public_key(), public.keyid, public.scheme)
        return cls(CryptoSigner(key, enrolled), public)

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Signature over DSSE's pre-authentication encoding: the kind is inside what is signed."""
        message = pre_authentication_encoding(payload_type, payload)
        return bytes.fromhex(self._signer.sign(message).signature)


SigningSigner = NewType("SigningSigner", KeySigner)
OperationSigner = NewType("OperationSigner", KeySigner)
ReceiptSigner = NewType("ReceiptSigner", KeySigner)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: kind and payload, each with its length."""
    return _Dsse(payload, payload_type, {}).pae()


class KeyFileMalformed(ConfigError):
    """The file is not an encrypted PEM of a supported key."""

    code = "key-file-malformed"
    default_fix = "restore the file from a backup, or make new keys with `ratls party new`"


class PassphraseWrong(ConfigError):
    """The passphrase does not decrypt the key file."""

    code = "passphrase-wrong"
    default_fix = "give the right passphrase; only a trailing newline is removed from its file"


def load_private_key(path: Path, passphrase: bytes) -> PrivateKeyTypes:
    """A private key from an encrypted PEM that only its owner may read.

    Raises: FileUnreadable, KeyPermissions, PassphraseWrong, KeyFileMalformed.
    """
    content = read_secret(path, cap=_KEY_FILE_CAP, exposed=KeyPermissions)
    if b"ENCRYPTED PRIVATE KEY" not in content:
        raise KeyFileMalformed(str(path), expected="an encrypted PKCS#8 PEM", found="another")
    try:
        return serialization.load_pem_private_key(content, passphrase)
    except (ValueError, TypeError) as error:
        # The library tells a wrong passphrase and a damaged body apart only by its text.
        raise PassphraseWrong(
            str(path),
            expected="the passphrase of this key",
            found="another one, or a damaged key file",
        ) from error
    except UnsupportedAlgorithm as error:
        raise KeyFileMalformed(str(path), expected="a supported key", found="another") from error


def private_pem(
    key: PrivateKeyTypes, encryption: serialization.KeySerializationEncryption
) -> bytes:
    """PKCS#8; encrypted, it is the form that `load_private_key` reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _scheme(key: PublicKeyTypes) -> str:
    match key:
        case ed25519.Ed25519PublicKey():
            return "ed25519"
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return "ecdsa-sha2-nistp256"
        case ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            return "ecdsa-sha2-nistp384"
        case rsa.RSAPublicKey() if key.key_size in _RSA_BITS and key.public_numbers().e == 65537:
            return "rsassa-pss-sha256"
    raise KeyTypeUnsupported(
        "signing key", expected="Ed25519, ECDSA P-256/P-384, RSA 3072..8192", found=_kind(key)
    )


def _kind(key: PublicKeyTypes) -> str:
    size = getattr(key, "key_size", None)
    return type(key).__name__ + (f" of {size} bits" if size else "")


def spki_der(key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo, RFC 5280, section 4.1.2.7."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def spki_pem(key: PublicKeyTypes) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")


def _load_spki(spki: bytes) -> PublicKeyTypes:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileMalformed("public key", expected="a DER public key", found="other") from error
    # B14: another encoding of the same key would have another digest.
    if spki_der(key) != spki:
        raise KeyFileMalformed("public key", expected="its standard encoding", found="another")
    return key


def _load_pem(text: str) -> PublicKeyTypes:
    try:
        key = serialization.load_pem_public_key(text.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileMalformed(
            "public key", expected="a PEM PUBLIC KEY block", found="something else"
        ) from error
    if spki_pem(key).strip("\n") != text.strip("\n"):
        raise KeyFileMalformed(
            "public key", expected="one PEM block in its standard form", found="another form"
        )
    return key
