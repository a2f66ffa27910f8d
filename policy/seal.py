"""Results are encrypted to the recipient's key, bound to task, policy and recipient (HPKE).

X25519, HKDF-SHA256, AES-256-GCM from `cryptography`. The `info` is part of the key schedule:
a ciphertext made for another task or recipient does not open (R12).
"""

from __future__ import annotations

import json

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from policy.errors import ResultBindingError
from policy.keys import EncryptionKey
from policy.values import Digest

DENIAL_SCHEMA = "ratls-denial/1"
_LABEL = b"ratls/1 result"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def result_info(task_digest: Digest, policy_digest: Digest, recipient: str) -> bytes:
    """Label and three values, each after its length (u16, big-endian): no two tuples collide."""
    parts = (task_digest, policy_digest, recipient.encode("ascii"))
    return _LABEL + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def seal_result(plaintext: bytes, recipient_key: EncryptionKey, info: bytes) -> bytes:
    """Encapsulated key and ciphertext in one; only the holder of the private key opens it."""
    return _SUITE.encrypt(plaintext, recipient_key.crypto, info=info)


class ResultNotOpenable(ResultBindingError):
    """The result is encrypted for another recipient, task or policy, or was altered."""

    code = "result-not-openable"
    default_fix = "fetch it again, with --party of the recipient and the same task"


def open_result(ciphertext: bytes, key: X25519PrivateKey, info: bytes) -> bytes:
    """Raises: ResultNotOpenable."""
    try:
        return _SUITE.decrypt(ciphertext, key, info=info)
    except (InvalidTag, ValueError) as error:
        raise ResultNotOpenable(
            "result", expected="one sealed for this recipient and task", found="another"
        ) from error


def is_denial(plaintext: bytes) -> bool:
    """Does an opened outcome say that nothing was released? A result never has this schema."""
    try:
        document = json.loads(plaintext)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == DENIAL_SCHEMA
