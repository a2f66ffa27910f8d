"""ECDSA over P-256 with SHA-256, in the raw form of quotes and collateral: r || s, x || y."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()


@lru_cache(maxsize=1024)  # pure: a platform signs all its quotes with one attestation key
def public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """The key whose point is x || y, 64 bytes. ValueError when it is not on the curve.

    With 0x04 before it, it is an uncompressed point as in RFC 5480, section 2.2.
    """
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x04" + point)


def signed_raw(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Did `key` sign `message`? `signature` is r || s, 64 bytes, big-endian.

    (r, n - s) verifies too, so neither a signature nor a quote identifies anything.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    # FIPS 186-5, section 6.4.2, asks for this range first. CVE-2022-21449: a library that forgot
    # it accepted r = s = 0 for every message.
    if len(signature) != 64 or not (0 < r < ORDER and 0 < s < ORDER):
        return False
    return signed_der(key, encode_dss_signature(r, s), message)


def signed_der(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Did `key` sign `message`? `signature` is in DER, as in RFC 3279, section 2.2.3."""
    try:
        key.verify(signature, message, _ALGORITHM)
    except InvalidSignature:
        return False
    return True
