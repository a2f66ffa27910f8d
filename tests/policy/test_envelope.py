"""DSSE envelopes: one form, caps before crypto, the scheme from the key, each signature holds."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import envelope as dsse
from policy.agreement import SignatureInvalid
from policy.envelope import (
    Envelope,
    EnvelopeMalformed,
    EnvelopeSignature,
    EnvelopeTooLarge,
    EnvelopeTypeDiffers,
    SignatureRepeated,
    SignerUnknown,
)
from policy.keys import (
    KeyFileMalformed,
    KeySigner,
    KeyTypeUnsupported,
    PublicKey,
    pre_authentication_encoding,
)
from tests.support.refusal import refused
from verifier.errors import RatlsError

KEYS: dict[str, PrivateKeyTypes] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()),
    "rsassa-pss-sha256": rsa.generate_private_key(65537, 3072),
}
SIGNER = KeySigner.from_private(KEYS["ed25519"])
P256 = KeySigner.from_private(KEYS["ecdsa-sha2-nistp256"])
PAYLOAD = b"two parties agree"
UNSIGNED = Envelope(dsse.POLICY, PAYLOAD, ())
SEALED = UNSIGNED.signed_by(SIGNER).encode()


def signed(raw: bytes, *keys: PublicKey) -> tuple[PublicKey, ...]:
    return Envelope.parse(raw).signers(keys or (SIGNER.public,), SignatureInvalid)


def with_field(name: str, value: Any) -> bytes:
    return json.dumps(json.loads(SEALED) | {name: value}).encode()


@pytest.mark.parametrize("scheme", KEYS)
def test_each_accepted_kind_of_key_signs_and_verifies(scheme: str) -> None:
    signer = KeySigner.from_private(KEYS[scheme])
    assert signer.public.scheme == scheme
    assert signed(UNSIGNED.signed_by(signer).encode(), signer.public) == (signer.public,)
    assert PublicKey.from_pem(signer.public.pem) == signer.public


WEAK = [
    ec.generate_private_key(ec.SECP521R1()),
    ec.generate_private_key(ec.SECP256K1()),
    rsa.generate_private_key(65537, 2048),
    rsa.generate_private_key(3, 3072),
    x25519.X25519PrivateKey.generate(),
]


@pytest.mark.parametrize("key", WEAK, ids=["P-521", "K-256", "RSA-2048", "RSA e=3", "X25519"])
def test_key_of_another_kind_is_refused(key: PrivateKeyTypes) -> None:
    """P09: a closed list, so that no weak scheme can be talked into use."""
    with refused(KeyTypeUnsupported):
        PublicKey.from_crypto(key.public_key())


def test_key_in_another_encoding_is_refused() -> None:
    """B14: a compressed point is the same key with another digest, so another "distinct" voter."""
    spki = P256.public.spki
    point = spki[-64:]
    compressed = bytes([2 + (point[-1] & 1)]) + point[:32]
    algorithm = spki[2:23]
    other = bytes([0x30, len(algorithm) + 36]) + algorithm + bytes([0x03, 34, 0]) + compressed
    with refused(KeyFileMalformed):
        PublicKey.from_spki(other)
    assert PublicKey.from_spki(spki) == P256.public


def test_signature_of_one_kind_of_document_is_offered_as_another() -> None:
    """P07, CVE-2022-35929: same bytes, same key; only the kind differs, and it is signed too."""
    as_task = with_field("payloadType", dsse.TASK)
    with refused(SignatureInvalid):
        signed(as_task)
    with refused(EnvelopeTypeDiffers):
        Envelope.parse(SEALED).require_type(dsse.TASK)
    Envelope.parse(SEALED).require_type(dsse.POLICY)


def test_attacker_flips_a_byte_of_the_payload() -> None:
    with refused(SignatureInvalid):
        signed(with_field("payload", base64.b64encode(b"Two parties agree").decode()))


@pytest.mark.parametrize("raw", [b"[NaN]", b"[-Infinity]", b"[1e999]", b'{"a":1,"a":1}'])
def test_json_that_has_no_one_meaning(raw: bytes) -> None:
    """P08: what one reader calls infinite, another calls null, and a third the last of two."""
    with refused(EnvelopeMalformed):
        dsse.strict_json(raw, "test")
    assert dsse.strict_json(b'[1e9, {"a": 1}]', "test") == [1e9, {"a": 1}]


def test_unknown_signer_is_not_ignored() -> None:
    """An envelope carries nothing that was not checked."""
    both = Envelope.parse(SEALED).signed_by(P256).encode()
    with refused(SignerUnknown):
        signed(both)
    assert signed(both, SIGNER.public, P256.public) == (SIGNER.public, P256.public)


def test_attacker_puts_the_keyid_of_another_on_a_signature() -> None:
    """The key id is a hint, never an identity."""
    forged = Envelope(dsse.POLICY, PAYLOAD, (EnvelopeSignature(SIGNER.public.keyid, bytes(64)),))
    with refused(SignatureInvalid):
        signed(forged.encode())


def test_malleated_copy_is_not_a_second_signature() -> None:
    """P02, P04: (r, n-s) verifies as well; distinct keys are counted, never signatures."""
    one = UNSIGNED.signed_by(P256).encode()
    entry = json.loads(one)["signatures"][0]
    r, s = decode_dss_signature(base64.b64decode(entry["sig"]))
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    twin = encode_dss_signature(r, n - s)
    assert P256.public.holds(pre_authentication_encoding(dsse.POLICY, PAYLOAD), twin)
    copied = json.loads(one)
    copied["signatures"].append(entry | {"sig": base64.b64encode(twin).decode()})
    with refused(SignatureRepeated):
        Envelope.parse(json.dumps(copied).encode())


SIG = json.loads(SEALED)["signatures"][0]
MALFORMED = {
    "second payload": SEALED[:-1] + b',"payload":""}',
    "unknown field": with_field("alg", "none"),
    "no payload type": json.dumps({"payload": "", "signatures": []}).encode(),
    "unknown field in signature": with_field("signatures", [SIG | {"alg": "none"}]),
    "no keyid": with_field("signatures", [{"sig": SIG["sig"]}]),
    "upper-case keyid": with_field("signatures", [SIG | {"keyid": SIG["keyid"].upper()}]),
    "signatures no list": with_field("signatures", {}),
    "base64 whitespace": with_field("payload", "AAAA\n"),
    "base64 url alphabet": with_field("payload", "-_-_"),
    "base64 pad bits": with_field("payload", "AAB="),  # P11: decodes to the bytes of AAA=
    "base64 without pad": with_field("payload", "AAA"),
    "base64 full-width": with_field("payload", "\uff21AAA"),
    "payload no text": with_field("payload", 1),
    "byte order mark": b"\xef\xbb\xbf" + SEALED,
    "UTF-16": SEALED.decode().encode("utf-16"),
    "trailing data": SEALED + b"{}",
    "NaN": SEALED[:-1] + b',"x":NaN}',
    "infinite": SEALED[:-1] + b',"x":1e999}',
    "huge integer": SEALED[:-1] + b',"x":' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "empty": b"",
    "a list": b"[]",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_envelope_in_another_form(name: str) -> None:
    """P08, P10, P11: what is read leniently can be signed as one thing and read as another."""
    with refused(EnvelopeMalformed):
        Envelope.parse(MALFORMED[name])


@pytest.mark.parametrize(
    "raw",
    [
        b" " * (3 << 20),
        with_field("signatures", [SIG] * 65),
        with_field("payload", "A" * 1_400_000),
        with_field("signatures", [SIG | {"sig": "AAAA" * 400}]),
    ],
    ids=["bytes", "signatures", "payload", "one signature"],
)
def test_endless_data_before_any_crypto(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """P20: a million signatures must not cost a million verifications."""
    calls: list[bytes] = []
    monkeypatch.setattr(PublicKey, "holds", lambda *a: calls.append(b""))
    with refused(EnvelopeTooLarge):
        signed(raw)
    assert calls == []


def test_signing_twice_changes_nothing() -> None:
    envelope = Envelope.parse(SEALED)
    assert envelope.signed_by(SIGNER) == envelope
    assert Envelope.parse(envelope.encode()) == envelope


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=100),
        st.integers(0, len(SEALED)).map(lambda n: SEALED[:n]),
        st.tuples(st.integers(0, len(SEALED) - 1), st.integers(0, 255)).map(
            lambda t: SEALED[: t[0]] + bytes([t[1]]) + SEALED[t[0] + 1 :]
        ),
    )
)
def test_any_bytes_give_the_signed_payload_or_a_refusal(raw: bytes) -> None:
    """Whatever is changed, nothing but the signed bytes comes out."""
    try:
        signers = signed(raw)
        payload = Envelope.parse(raw).payload
    except RatlsError:
        return  # of whichever leaf; anything else is a crash
    assert not signers or payload == PAYLOAD
