"""Claims: worked examples, and each way to abuse the map (channel.md 3.5, 4 and 6)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.claims import (
    CertificateClaims,
    ChallengeClaims,
    ClaimMissing,
    ClaimOfAnotherPurpose,
    ClaimsMalformed,
    ConnectionUnbound,
    ContextMismatch,
    InstanceChanged,
    KeyUnbound,
    ModeClaimMismatch,
    NonceMismatch,
    PeerHashMismatch,
    PolicyHashMismatch,
    ReceiptKeyUnbound,
    RoleMismatch,
    SealingKeyUnbound,
    TaskHashMismatch,
    key_hash,
    parse_claim_map,
    require_equal,
    require_key,
)
from tests.support.refusal import refused
from verifier.errors import RatlsError

# channel.md 4: P-384, private scalar 1.
SPKI = bytes.fromhex(
    "3076301006072a8648ce3d020106052b8104002203620004aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba7"
    "9b9859f741e082542a385502f25dbf55296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd"
    "289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
)
BASE: dict[str, Any] = {
    "pubkey_hash": key_hash(SPKI),
    "role": b"server",
    "mode": b"simulation",
    "policy_hash": b"p" * 32,
    "instance": b"i" * 16,
    "receipt_key_hash": b"r" * 32,
}
CERTIFICATE = CertificateClaims(context=CertificateClaims.CONTEXT, **BASE)
CHALLENGE = ChallengeClaims(
    context=ChallengeClaims.CONTEXT,
    peer_hash=b"c" * 32,
    task_hash=b"t" * 32,
    nonce=b"n" * 32,
    sealing_key_hash=b"k" * 32,
    binder=b"b" * 32,
    **BASE,
)
NOT_SEALED = replace(CHALLENGE, sealing_key_hash=b"")  # an exchange without rows names no key


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        (1, "4b4cdc38f0a69ee2fb707c45d570e1f266f21948eebec65e115d292480c75705"),
        (7, "92a810350ca7bb9559a8d399c65c9b9d052fb4db44ea0511f4d974ac74cea271"),
        (8, "d26aa765a74397912d78070c909e9bef21278a7aea2c5216397760db0e00488e"),
    ],
)
def test_worked_examples_of_the_interoperable_profile(algorithm: int, digest: str) -> None:
    raw = cbor2.dumps({"pubkey-hash": key_hash(SPKI, algorithm)})
    assert hashlib.sha256(raw).hexdigest() == digest
    require_key(parse_claim_map(raw)["pubkey-hash"], SPKI)


@pytest.mark.parametrize(
    ("pairs", "digest"),
    [
        (
            ["pubkey-hash", "nonce"],
            "2132d0d2d35d5815b90bf5d3d065e8670d058595464dbf6c81ffc1a8cd1e3607",
        ),
        (
            ["nonce", "pubkey-hash"],
            "d3b808041cedd1ce50a148f2da32950ec39a43de47bdb1376bd340ffb8c8fd96",
        ),
    ],
)
def test_either_order_of_keys_is_read(pairs: list[str], digest: str) -> None:
    values = {"pubkey-hash": key_hash(SPKI), "nonce": bytes(range(32))}
    raw = cbor2.dumps({name: values[name] for name in pairs})
    assert hashlib.sha256(raw).hexdigest() == digest
    assert parse_claim_map(raw) == values


@pytest.mark.parametrize("claims", [CERTIFICATE, CHALLENGE, NOT_SEALED])
def test_claims_are_written_in_deterministic_order_and_read_back(claims: CertificateClaims) -> None:
    raw = claims.encode()
    there = {name: value for name, value in claims.as_map().items() if value}
    assert raw == cbor2.dumps(there, canonical=True)
    assert type(claims).parse(raw) == claims


def entry(*items: object) -> bytes:
    return cbor2.dumps(list(items))


GOOD = key_hash(SPKI)
# A map of two whose keys are the same: no library writes it, so it is spelt out.
PAIR = cbor2.dumps("pubkey-hash") + cbor2.dumps(GOOD)
OTHER_PAIR = cbor2.dumps("pubkey-hash") + cbor2.dumps(key_hash(b"another"))


@pytest.mark.parametrize(
    "raw",
    [
        cbor2.dumps({}),
        cbor2.dumps({"pubkey": GOOD}),  #  Intel compared over the received key's length
        cbor2.dumps({"p": GOOD}),
        cbor2.dumps({"nonce": bytes(32)}),
        cbor2.dumps({"pubkey-hash": "text"}),
        cbor2.dumps([GOOD]),
        *(cbor2.dumps({"pubkey-hash": entry(a, bytes(32))}) for a in (0, 2, 6)),
        *(cbor2.dumps({"pubkey-hash": entry(1, bytes(n))}) for n in (0, 31, 33)),
        cbor2.dumps({"pubkey-hash": entry(7, bytes(32))}),
        cbor2.dumps({"pubkey-hash": entry(1)}),
        cbor2.dumps({"pubkey-hash": entry(1, bytes(32), 0)}),
        cbor2.dumps({"pubkey-hash": GOOD + b"\0"}),
        cbor2.dumps({"pubkey-hash": b"\x82\x18\x01" + GOOD[2:]}),  # an over-long 1
        cbor2.dumps({"pubkey-hash": b"\x9f" + GOOD[1:] + b"\xff"}),
        b"\xa2" + PAIR + OTHER_PAIR,
        b"\xa2" + OTHER_PAIR + PAIR,
        b"\xbf" + PAIR + b"\xff",
        b"\xa1" + PAIR + b"\0",
        cbor2.dumps({"pubkey-hash": GOOD, "x": bytes(5000)}),
    ],
)
def test_abused_claims_are_malformed(raw: bytes) -> None:
    """B15: several verifiers accept some of these, since a general CBOR reader does."""
    with refused(ClaimsMalformed):
        parse_claim_map(raw)


@given(st.binary(max_size=120))
def test_garbage_is_claims_or_a_refusal(raw: bytes) -> None:
    for parse in (CertificateClaims.parse, ChallengeClaims.parse):
        with suppress(ClaimsMalformed, ClaimMissing):
            assert parse(raw).encode()


@pytest.mark.parametrize("claims", [CERTIFICATE, CHALLENGE])
def test_no_prefix_of_claims_is_read(claims: CertificateClaims) -> None:
    raw = claims.encode()
    for end in range(len(raw)):
        with refused(ClaimsMalformed):
            type(claims).parse(raw[:end])


@pytest.mark.parametrize(
    "name", sorted(set(ChallengeClaims.names()) - {"pubkey-hash", "sealing-key-hash", "binder"})
)
def test_a_claim_left_out_is_a_refusal(name: str) -> None:
    """Whoever compares a claim only where it is present is satisfied by its absence."""
    with refused(ClaimMissing):
        ChallengeClaims.parse(
            cbor2.dumps({k: v for k, v in CHALLENGE.as_map().items() if k != name})
        )


def test_the_sealing_key_is_left_out_where_rows_will_be_sealed() -> None:
    """B08: a key that no evidence names could be anybody's."""
    unnamed = ChallengeClaims.parse(NOT_SEALED.encode())
    with refused(SealingKeyUnbound):
        require_equal(unnamed, OWN, SPKI)
    require_equal(unnamed, OWN | {"sealing-key-hash": b""}, SPKI)


@pytest.mark.parametrize(
    ("said", "own"), [(b"", b"b" * 32), (b"b" * 32, b""), (b"x" * 32, b"y" * 32)]
)
def test_evidence_of_another_connection(said: bytes, own: bytes) -> None:
    """B08: forwarded from a connection with another exporter value, or from one without any."""
    found = ChallengeClaims.parse(replace(CHALLENGE, binder=said).encode())
    with refused(ConnectionUnbound):
        require_equal(found, OWN | {"binder": own}, SPKI)
    require_equal(found, OWN | {"binder": said}, SPKI)


def test_evidence_names_a_sealing_key_that_did_not_come() -> None:
    with refused(SealingKeyUnbound):
        require_equal(CHALLENGE, OWN | {"sealing-key-hash": b""}, SPKI)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sealing-key-hash", 0),
        ("sealing-key-hash", 31),
        ("binder", 0),
        ("binder", 31),
        ("nonce", 31),
        ("nonce", 33),
        ("nonce", 0),
        ("peer-hash", 31),
        ("instance", 17),
    ],
)
def test_a_claim_of_another_size_is_a_refusal(name: str, size: int) -> None:
    """A prefix of the nonce would be easier to collide with."""
    with refused(ClaimsMalformed):
        ChallengeClaims.parse(cbor2.dumps(CHALLENGE.as_map() | {name: bytes(size)}))


@pytest.mark.parametrize("name", ["nonce", "peer-hash", "task-hash", "sealing-key-hash", "binder"])
def test_evidence_of_a_challenge_worn_as_a_certificate(name: str) -> None:
    """B04: made for one moment, it would then be shown for days."""
    raw = cbor2.dumps(CERTIFICATE.as_map() | {name: bytes(32)})
    with refused(ClaimOfAnotherPurpose):
        CertificateClaims.parse(raw)


def test_unknown_claims_are_ignored_and_named() -> None:
    raw = cbor2.dumps(CERTIFICATE.as_map() | {"verdict": b"true", "colour": b"x"})
    assert CertificateClaims.parse(raw) == replace(CERTIFICATE, unknown=("colour", "verdict"))


EVENTS = (b"1" * 48, b"2" * 48)


@pytest.mark.parametrize("events", [None, (), EVENTS, EVENTS * 16])
def test_events_of_a_trust_domain_are_read_back(events: tuple[bytes, ...] | None) -> None:
    """M08: an empty list says that there were none, and its absence says nothing."""
    for claims in (CERTIFICATE, CHALLENGE):
        stated = replace(claims, events=events)
        assert type(claims).parse(stated.encode()) == stated


@pytest.mark.parametrize("size", [1, 47, 49, 33 * 48])
def test_events_that_are_no_list_of_digests(size: int) -> None:
    """M08: half a digest, or more than the evidence may carry."""
    with refused(ClaimsMalformed):
        CertificateClaims.parse(cbor2.dumps(CERTIFICATE.as_map() | {"rtmr3-events": bytes(size)}))


OWN = {k: v for k, v in CHALLENGE.as_map().items() if k != "pubkey-hash"}


def test_claims_that_are_ours_pass() -> None:
    require_equal(CHALLENGE, OWN, SPKI)


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("context", ContextMismatch),
        ("role", RoleMismatch),
        ("mode", ModeClaimMismatch),
        ("policy_hash", PolicyHashMismatch),
        ("instance", InstanceChanged),
        ("receipt_key_hash", ReceiptKeyUnbound),
        ("peer_hash", PeerHashMismatch),
        ("task_hash", TaskHashMismatch),
        ("sealing_key_hash", SealingKeyUnbound),
        ("binder", ConnectionUnbound),
        ("nonce", NonceMismatch),
    ],
)
def test_each_claim_is_held_against_the_verifiers_own_value(
    name: str, leaf: type[RatlsError]
) -> None:
    """B04, B06, B07, B17: one claim is another's; everything else is genuine."""
    value: Any = bytes(reversed(getattr(CHALLENGE, name)[:-1] + b"!"))
    with refused(leaf) as seen:
        require_equal(replace(CHALLENGE, **{name: value}), OWN, SPKI)
    if name == "nonce":
        assert CHALLENGE.nonce.hex() not in str(seen.error)


def test_the_key_is_another() -> None:
    """B01: a genuine quote beside the attacker's key."""
    with refused(KeyUnbound):
        require_equal(CHALLENGE, OWN, SPKI[:-1] + b"!")


def test_a_challenge_forwarded_for_another_party_is_named_as_such_not_as_a_replay() -> None:
    """B07: nonce and party both differ; the relay is what the reader must hear of."""
    with refused(PeerHashMismatch):
        require_equal(replace(CHALLENGE, peer_hash=b"x" * 32, nonce=b"x" * 32), OWN, SPKI)
