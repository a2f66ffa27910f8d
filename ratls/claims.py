"""What an enclave says about a connection, in the bytes that its quote commits to.

A claims buffer is a CBOR map of text to byte strings (interoperable RA-TLS); the claims beyond
`pubkey-hash` and `nonce` are this project's, and docs/channel.md 3.3 lists them. Parsing checks
names and sizes; `require_equal` holds every claim against the verifier's own value.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Self

from policy.errors import PolicyConflictError
from policy.trust_domain import MAX_EVENTS
from policy.values import Digest, Instance, Nonce
from ratls import cbor
from ratls.errors import BindingError, EvidenceFormatError, FreshnessError
from verifier.errors import Exit, ModeMismatchError, RatlsError

ROLE_SERVER, ROLE_CLIENT = b"server", b"client"
NONCE_SIZE = 32
INSTANCE_SIZE = 16
NO_TASK = Digest(bytes(32))  # `task-hash` of a bare check
MAX_CLAIMS = 4096

# Named Information hash ids (IANA); truncated variants are not among them.
_HASHES = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}
# Fixed sizes in bytes. Text-like claims are compared as a whole and need none.
_SIZES = {
    "policy-hash": 32,
    "instance": INSTANCE_SIZE,
    "receipt-key-hash": 32,
    "nonce": NONCE_SIZE,
    "peer-hash": 32,
    "task-hash": 32,
    "sealing-key-hash": 32,
    "binder": 32,
}
# Only releases have the first one, and only connections with an exporter the second one.
_OPTIONAL = ("sealing-key-hash", "binder")
EVENTS, EVENT_SIZE = "rtmr3-events", 48
_UNCOMPARED = ("events", "unknown")


def key_hash(spki: bytes, algorithm: int = 1) -> bytes:
    """The value of `pubkey-hash`: a CBOR array of hash id and digest of the SPKI's DER.

    The hash entry of RFC 9393, section 2.9.1.
    """
    return cbor.encode([algorithm, _HASHES[algorithm](spki).digest()])


class ClaimsMalformed(EvidenceFormatError):
    """The claims are not a strict CBOR map of text to byte strings of the right sizes."""

    code = "claims-malformed"
    exit_status = Exit.NOT_GENUINE  # unreadable evidence is none
    default_fix = "check the address, and that both sides run the same version"


class ClaimMissing(BindingError):
    """The evidence does not commit to something that it must commit to."""

    code = "claim-missing"
    default_fix = "check the address: an enclave of this project makes all claims"


class ClaimOfAnotherPurpose(BindingError):
    """Evidence for a certificate carries claims of a challenge."""

    code = "claim-of-another-purpose"
    default_fix = "do not connect: the evidence was made for another exchange"
    says = "these claims do not belong in a certificate: {found}"


def _events(raw: bytes | None) -> tuple[bytes, ...] | None:
    if raw is None:
        return None
    if len(raw) % EVENT_SIZE or len(raw) > MAX_EVENTS * EVENT_SIZE:
        raise ClaimsMalformed(
            f"claim {EVENTS}",
            expected=f"up to {MAX_EVENTS} digests of {EVENT_SIZE} bytes",
            found=f"{len(raw)} bytes",
        )
    return tuple(raw[at : at + EVENT_SIZE] for at in range(0, len(raw), EVENT_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateClaims:
    """Claims of the evidence in a certificate. Parsed, not yet compared with anything."""

    CONTEXT: ClassVar[bytes] = b"ratls/1 certificate"

    pubkey_hash: bytes  #       hash-entry over the SPKI
    context: bytes  #           purpose and protocol version
    role: bytes  #              `server` or `client`
    mode: bytes  #              `production` or `simulation`
    policy_hash: Digest  #      32, digest of the policy that the enclave obeys
    instance: Instance  #       16, of this start
    receipt_key_hash: bytes  #  32, SHA-256 of the SPKI of the key that signs receipts
    # Of a trust domain: digests of what extended RTMR3, 48 bytes each; None: it does not say.
    # Nothing to compare: the policy judges whether they are listed and add up to the register.
    events: tuple[bytes, ...] | None = None
    unknown: tuple[str, ...] = ()  # names of further claims: ignored, but shown

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """The claims, in the order in which they are compared."""
        return tuple(f.name.replace("_", "-") for f in fields(cls) if f.name not in _UNCOMPARED)

    def __post_init__(self) -> None:
        for name, value in self.as_map().items():
            size = _SIZES.get(name, len(value))
            if len(value) != size and (value or name not in _OPTIONAL):
                raise ClaimsMalformed(
                    f"claim {name}", expected=f"{size} bytes", found=str(len(value))
                )

    def as_map(self) -> dict[str, bytes]:
        """Claim name to value."""
        return {name: getattr(self, name.replace("-", "_")) for name in self.names()}

    def encode(self) -> bytes:
        """The claims buffer: deterministic CBOR."""
        events = {} if self.events is None else {EVENTS: b"".join(self.events)}
        claims = {n: v for n, v in self.as_map().items() if v or n not in _OPTIONAL}
        return cbor.encode({**claims, **events})

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a claims buffer, keys in any order.

        Raises:
            ClaimsMalformed: Not the strict form, a wrong size, or no `pubkey-hash`.
            ClaimMissing: A claim that this purpose demands is not there.
            ClaimOfAnotherPurpose: A certificate's evidence carries a challenge's claims.
        """
        found = parse_claim_map(raw)
        for name in cls.names():
            if name not in found and name not in _OPTIONAL:
                raise ClaimMissing("claims", expected=f"the claim {name}", found="none")
        others = sorted(found.keys() - {*cls.names(), EVENTS})
        # Otherwise evidence made for one challenge could serve as a certificate's for days.
        if foreign := [name for name in others if name in ChallengeClaims.names()]:
            raise ClaimOfAnotherPurpose(
                "claims", expected="those of a certificate alone", found=", ".join(foreign)
            )
        for name in _OPTIONAL:
            if found.get(name) == b"":  # absence has one spelling
                raise ClaimsMalformed(f"claim {name}", expected="32 bytes", found="0")
        known: dict[str, Any] = {n.replace("-", "_"): found[n] for n in cls.names() if n in found}
        return cls(**known, events=_events(found.get(EVENTS)), unknown=tuple(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeClaims(CertificateClaims):
    """Claims of the evidence that answers a challenge: freshness by a nonce, as in RFC 9334,
    section 10.2.
    """

    CONTEXT: ClassVar[bytes] = b"ratls/1 challenge"

    peer_hash: bytes  #  32, SHA-256 of the SPKI of the authenticated peer's channel certificate
    task_hash: Digest  # 32, digest of a task that the enclave has verified; zero without one
    nonce: Nonce  #      32, from the verifier
    # SHA-256 of the key that this exchange seals to, made for it (B08); empty: the claim is absent.
    sealing_key_hash: bytes = b""
    # Value of the connection's TLS exporter for this end (B08); empty: the claim is absent.
    binder: bytes = b""


def parse_claim_map(raw: bytes) -> dict[str, bytes]:
    """Any interoperable claims buffer: text to byte strings, with a valid `pubkey-hash`.

    Raises:
        ClaimsMalformed: Not the strict form, or `pubkey-hash` is missing or no hash-entry.
    """
    try:
        if len(raw) > MAX_CLAIMS:
            raise cbor.NotStrict(f"{len(raw)} bytes, more than {MAX_CLAIMS}")
        found = cbor.decode(raw)
        if not isinstance(found, dict):
            raise cbor.NotStrict("not a map")
        claims = {name: value for name, value in found.items() if isinstance(value, bytes)}
        if len(claims) != len(found):
            raise cbor.NotStrict("a value is not a byte string")
        # Verifiers that compare the key only *when* the claim is there accept its absence.
        if "pubkey-hash" not in claims:
            raise cbor.NotStrict("pubkey-hash is missing")
        _check_hash_entry(claims["pubkey-hash"])
    except cbor.NotStrict as error:
        raise ClaimsMalformed("claims", expected="strict CBOR claims", found=str(error)) from error
    return claims


def _check_hash_entry(raw: bytes) -> None:
    entry = cbor.decode(raw)
    if not isinstance(entry, list) or len(entry) != 2:
        raise cbor.NotStrict("pubkey-hash is not an array of two")
    algorithm, digest = entry
    if not isinstance(algorithm, int) or algorithm not in _HASHES:
        raise cbor.NotStrict("pubkey-hash names an unknown hash")
    if not isinstance(digest, bytes) or len(digest) != _HASHES[algorithm]().digest_size:
        raise cbor.NotStrict("pubkey-hash has a digest of another size")


class KeyUnbound(BindingError):
    """The evidence is about another TLS key than that of the connection."""

    code = "key-unbound"
    default_fix = "do not connect: the peer shows the evidence of another server"


def require_key(claim: bytes, spki: bytes) -> None:
    """`pubkey-hash` must name exactly this key, by any of the three hash algorithms.

    Raises:
        KeyUnbound: It names another key.
    """
    entry = cbor.decode(claim)
    algorithm = entry[0] if isinstance(entry, list) and isinstance(entry[0], int) else 1
    if not hmac.compare_digest(claim, key_hash(spki, algorithm)):
        raise KeyUnbound(
            "claim pubkey-hash", expected="the key of this connection", found="another key"
        )


class ContextMismatch(BindingError):
    """The evidence was made for another purpose or protocol version."""

    code = "context-mismatch"
    default_fix = "do not connect: the evidence was made for another exchange"


class RoleMismatch(BindingError):
    """The evidence was made for the other role, or is this side's own, sent back."""

    code = "role-mismatch"
    default_fix = "do not connect: the evidence was made for another role"


class ModeClaimMismatch(ModeMismatchError):
    """The evidence says simulation where production is demanded, or the reverse."""

    code = "mode-claim-mismatch"
    default_fix = "check the address and the policy's root: one is real, the other simulated"


class PolicyHashMismatch(PolicyConflictError):
    """The enclave serves another policy."""

    code = "policy-hash-mismatch"
    default_fix = "compare `ratls policy show` on both sides: the enclave serves another policy"


class InstanceChanged(BindingError):
    """The enclave has restarted since its certificate was verified, or is another one."""

    code = "instance-changed"
    default_fix = "verify the enclave again; release to it under a new task"


class ReceiptKeyUnbound(BindingError):
    """The evidence does not name the key that signed the receipt."""

    code = "receipt-key-unbound"
    default_fix = "do not rely on this receipt"


class PeerHashMismatch(BindingError):
    """The evidence was made for another party."""

    code = "peer-hash-mismatch"
    default_fix = (
        "compare your channel certificate with the one that the policy lists for you; if they are "
        "the same, do not connect: the peer forwards another party's challenge"
    )


class TaskHashMismatch(BindingError):
    """The evidence was made for another task."""

    code = "task-hash-mismatch"
    default_fix = "do not connect: the peer forwards the evidence of another task"


class SealingKeyUnbound(BindingError):
    """The evidence names another sealing key than the one that was sent beside it."""

    code = "sealing-key-unbound"
    default_fix = "do not connect: rows would be sealed to a key that the enclave did not make"


class ConnectionUnbound(BindingError):
    """The evidence was made for another connection, or for the other end of this one."""

    code = "connection-unbound"
    default_fix = "do not connect: the peer forwards evidence that was made for another connection"


class NonceMismatch(FreshnessError):
    """The evidence answers another nonce: it is a replay."""

    code = "nonce-mismatch"
    exit_status = Exit.NOT_GENUINE  # the peer did answer, with evidence of another moment
    default_fix = "do not connect: old evidence is being replayed"
    says = "the evidence answers another nonce than the one that was sent"


# Compared in this order. The nonce comes last: evidence of another party or task is a relay;
# only where all else is equal is it a replay.
_MISMATCHES: dict[str, type[RatlsError]] = {
    "context": ContextMismatch,
    "role": RoleMismatch,
    "mode": ModeClaimMismatch,
    "policy-hash": PolicyHashMismatch,
    "instance": InstanceChanged,
    "receipt-key-hash": ReceiptKeyUnbound,
    "peer-hash": PeerHashMismatch,
    "task-hash": TaskHashMismatch,
    "sealing-key-hash": SealingKeyUnbound,
    "binder": ConnectionUnbound,
    "nonce": NonceMismatch,
}


def require_equal(found: CertificateClaims, own: dict[str, bytes], spki: bytes) -> None:
    """Compare the key, then every other claim with the verifier's own value.

    `own` maps each claim that this verifier knows to its value.

    Raises:
        BindingError, PolicyConflictError, ModeMismatchError, FreshnessError: The leaf of the
            first claim that differs.
    """
    require_key(found.pubkey_hash, spki)
    values = found.as_map()
    for name, leaf in _MISMATCHES.items():
        if name in own and not hmac.compare_digest(values[name], own[name]):
            raise leaf(f"claim {name}", expected=_shown(name, own), found=_shown(name, values))


def _shown(name: str, values: dict[str, bytes]) -> str:
    """A claim as messages show it: text as text, digests in hex, nonce and exporter never."""
    if name in ("nonce", "binder"):
        return "32 bytes, not shown"
    return (
        values[name].hex()
        if name in _SIZES
        else ascii(values[name][:40].decode("utf-8", "backslashreplace"))
    )
