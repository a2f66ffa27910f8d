"""DSSE envelopes, read strictly: exact fields, no duplicates, one base64, caps before crypto.

    envelope = Envelope.parse(raw)       # no signature is verified yet
    envelope.require_type(TASK)
    envelope.signers([key], leaf)        # which of these keys signed; every signature is valid

The pre-authentication encoding is `securesystemslib`'s; its `Envelope.verify` is not called:
it counts key ids, stops at the threshold and drops unknown fields.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from policy.errors import (
    PolicyFormatError,
    PolicySignatureError,
    PolicyThresholdError,
    ResourceLimitError,
    ResultSignatureError,
    TicketSignatureError,
)
from policy.keys import KeySigner, PublicKey, pre_authentication_encoding
from verifier.strict_json import members_once

POLICY = "application/vnd.ratls.policy.v1+toml"
TASK = "application/vnd.ratls.task.v1+json"
COMMIT = "application/vnd.ratls.commit.v1+json"
ACKNOWLEDGEMENT = "application/vnd.ratls.acknowledgement.v1+json"
RECEIPT = "application/vnd.ratls.receipt.v1+json"
RECORD = "application/vnd.ratls.record.v1+json"
WITHDRAWAL = "application/vnd.ratls.withdrawal.v1+json"
ENDED = "application/vnd.ratls.ended.v1+json"
UPDATE = "application/vnd.ratls.update.v1+json"
ROUND = "application/vnd.ratls.round.v1+json"

PAYLOAD_CAP = 1 << 20
SIGNATURES_CAP = 64
_SIGNATURE_CAP = 1024  # bytes; RSA-8192 has 1024
_ENVELOPE_CAP = 2 * PAYLOAD_CAP

_KEYID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)

SignatureLeaf = type[PolicySignatureError] | type[TicketSignatureError] | type[ResultSignatureError]


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature, and the id of the key that should have made it (a hint)."""

    keyid: str  # 64 hex
    sig: bytes


class EnvelopeTooLarge(ResourceLimitError):
    """An envelope with too many bytes or signatures."""

    code = "envelope-too-large"
    default_fix = "ask its sender for the right file"


class EnvelopeMalformed(PolicyFormatError):
    """Not a DSSE envelope in the one form that is read."""

    code = "envelope-malformed"
    default_fix = "ask its sender for the file again; it must arrive byte for byte"

    def sentence(self) -> str:
        return super().sentence() if self.found else f"{self.thing} is not {self.expected}"


class SignatureRepeated(PolicyThresholdError):
    """Two signatures name one key, which would be counted twice."""

    code = "signature-repeated"
    default_fix = "remove the second signature of that key"


class EnvelopeTypeDiffers(PolicySignatureError):
    """A signed document of another kind than expected."""

    code = "envelope-type-differs"
    default_fix = "name the right file"


class SignerUnknown(PolicySignatureError):
    """A signature by a key that the policy does not list for this purpose."""

    code = "signer-unknown"
    default_fix = "ask its sender who signed it, and compare the key with the policy"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its kind and signatures. Parsed; the signatures are not verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: EnvelopeTooLarge, EnvelopeMalformed, SignatureRepeated."""
        if len(raw) > _ENVELOPE_CAP:
            raise EnvelopeTooLarge(
                "envelope", expected=f"at most {_ENVELOPE_CAP} bytes", found="more"
            )
        return cls.from_json(strict_json(raw, "envelope"))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The parsed JSON of one envelope. Raises as `parse`."""
        fields = _exactly(value, ("payload", "payloadType", "signatures"), "envelope")
        payload = strict_base64(fields["payload"], "envelope.payload", cap=PAYLOAD_CAP)
        kind = fields["payloadType"]
        if not isinstance(kind, str) or not kind.isascii() or not 1 <= len(kind) <= 128:
            raise EnvelopeMalformed("envelope.payloadType", expected="ASCII text", found="other")
        listed = fields["signatures"]
        if not isinstance(listed, list):
            raise EnvelopeMalformed("envelope.signatures", expected="a list", found="other")
        if len(listed) > SIGNATURES_CAP:
            raise EnvelopeTooLarge(
                "envelope.signatures", expected=f"at most {SIGNATURES_CAP}", found=str(len(listed))
            )
        signatures = tuple(_signature(entry, i) for i, entry in enumerate(listed))
        keyids = [signature.keyid for signature in signatures]
        for keyid in keyids:
            # P02, P04: a copy, or (r, n-s), by one key must never count as a second vote.
            if keyids.count(keyid) > 1:
                raise SignatureRepeated(
                    "envelope.signatures", expected="each key once", found=keyid
                )
        return cls(kind, payload, signatures)

    def as_json(self) -> dict[str, Any]:
        return {
            "payload": base64_text(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": s.keyid, "sig": base64_text(s.sig)} for s in self.signatures],
        }

    def encode(self) -> bytes:
        return json.dumps(self.as_json(), separators=(",", ":")).encode("ascii")

    def require_type(self, payload_type: str) -> None:
        """P07: what was signed as one kind is not read as another. Raises: EnvelopeTypeDiffers."""
        if self.payload_type != payload_type:
            raise EnvelopeTypeDiffers(
                "signed document", expected=payload_type, found=repr(self.payload_type)
            )

    def signers(self, keys: Sequence[PublicKey], leaf: SignatureLeaf) -> tuple[PublicKey, ...]:
        """The keys that signed, in the envelope's order; every signature must be valid.

        Raises: SignerUnknown for a key not in `keys`; `leaf` for an invalid signature.
        """
        known = {key.keyid: key for key in keys}
        message = pre_authentication_encoding(self.payload_type, self.payload)
        for signature in self.signatures:
            if signature.keyid not in known:
                raise SignerUnknown(
                    "signature", expected="a key that the policy lists", found=signature.keyid
                )
        for signature in self.signatures:
            if not known[signature.keyid].holds(message, signature.sig):
                raise leaf(
                    f"signature of key {signature.keyid[:16]}",
                    expected="a valid signature of these bytes",
                    found="an invalid one",
                )
        return tuple(known[s.keyid] for s in self.signatures)

    def signed_by(self, signer: KeySigner) -> Envelope:
        """The same payload with one more signature; an existing one of that key stays."""
        if any(s.keyid == signer.public.keyid for s in self.signatures):
            return self
        sig = signer.sign(self.payload_type, self.payload)
        added = EnvelopeSignature(signer.public.keyid, sig)
        return Envelope(self.payload_type, self.payload, (*self.signatures, added))


def strict_json(raw: bytes, thing: str) -> Any:
    """JSON in UTF-8 without byte order mark, duplicate names, NaN or deep nesting.

    Raises: EnvelopeMalformed. (`json.loads(bytes)` would guess UTF-16 and keep the last duplicate.)
    """
    try:
        return json.loads(
            raw.decode("utf-8", "strict"),
            object_pairs_hook=members_once,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        why = "nesting too deep" if deep else ascii(str(error))[:120]
        raise EnvelopeMalformed(thing, expected="strict JSON", found=why) from error


def base64_text(raw: bytes) -> str:
    """Standard base64 with padding: what `strict_base64` reads."""
    return base64.b64encode(raw).decode("ascii")


def strict_base64(text: Any, thing: str, *, cap: int) -> bytes:
    """Standard base64 with padding, in the one form of its bytes (pad bits zero).

    Raises: EnvelopeMalformed, EnvelopeTooLarge.
    """
    if not isinstance(text, str) or not _BASE64.fullmatch(text):
        raise EnvelopeMalformed(thing, expected="standard base64", found="something else")
    if len(text) > cap // 3 * 4 + 4:
        raise EnvelopeTooLarge(thing, expected=f"at most {cap} bytes", found="more")
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise EnvelopeMalformed(thing, expected="base64 with padding", found="other") from error
    # P11: the decoder ignores non-zero pad bits, so two texts would give one signature.
    if base64_text(decoded) != text:
        raise EnvelopeMalformed(thing, expected="base64 with zero pad bits", found="other")
    if len(decoded) > cap:
        raise EnvelopeTooLarge(thing, expected=f"at most {cap} bytes", found=str(len(decoded)))
    return decoded


def _signature(entry: Any, index: int) -> EnvelopeSignature:
    thing = f"envelope.signatures[{index}]"
    fields = _exactly(entry, ("keyid", "sig"), thing)
    keyid = fields["keyid"]
    if not isinstance(keyid, str) or not _KEYID.fullmatch(keyid):
        raise EnvelopeMalformed(f"{thing}.keyid", expected="64 lower-case hex", found="other")
    return EnvelopeSignature(
        keyid, strict_base64(fields["sig"], f"{thing}.sig", cap=_SIGNATURE_CAP)
    )


def _exactly(value: Any, names: tuple[str, ...], thing: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        found = ", ".join(sorted(map(ascii, value)))[:200] if isinstance(value, dict) else "other"
        raise EnvelopeMalformed(thing, expected="exactly " + ", ".join(names), found=found)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"the number {name}")


def _bounded_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number of more than 20 digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:  # 1e999
        raise ValueError("an infinite number")
    return number
