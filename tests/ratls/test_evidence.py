"""Evidence: worked examples, strict shape, and the binding of claims to quote."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.claims import key_hash
from ratls.errors import AttesterMixedUp
from ratls.evidence import (
    TAG_QUOTE,
    Evidence,
    EvidenceMalformed,
    ReportDataUnbound,
    make_evidence,
    report_data,
)
from tests.ratls.test_claims import CERTIFICATE, SPKI
from tests.support.flight_peers import PlatformAttester
from tests.support.intel import World
from tests.support.refusal import refused
from verifier.quote import QuoteMalformed, QuoteUnsupported

CLAIMS = cbor2.dumps({"pubkey-hash": key_hash(SPKI)})


def test_worked_example_with_a_stand_in_quote() -> None:
    """channel.md 4: 74 bytes, spelt out."""
    raw = Evidence(bytes(range(16)), CLAIMS).encode()
    assert raw.hex() == (
        "d9ea608250000102030405060708090a0b0c0d0e0f5833a16b7075626b65792d686173685824820158202"
        "9f8fe74f38c49d49810cec736a26732a30bff2e64827b709a1c63340d4f7181"
    )
    assert Evidence.parse(raw) == Evidence(bytes(range(16)), CLAIMS)


def test_worked_example_with_a_dummy_quote() -> None:
    """channel.md 4: 512 bytes, by digest."""
    header = bytes.fromhex("0300020000000000") + bytes(4)
    header += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
    body = bytearray(384)
    body[48:56], body[56:64] = (5).to_bytes(8, "little"), (0xE7).to_bytes(8, "little")
    body[64:96], body[128:160] = b"\xaa" * 32, b"\xbb" * 32
    body[320:384] = report_data(CLAIMS)
    quote = header + bytes(body) + (16).to_bytes(4, "little") + b"\xcc" * 16
    assert hashlib.sha256(quote).hexdigest() == (
        "746606f5381677676bc0e6c87b417a93012f3d7c92696e2542c917267961d87e"
    )
    raw = Evidence(quote, CLAIMS).encode()
    assert hashlib.sha256(raw).hexdigest() == (
        "5471314cacaac420541e8bf67e205959fa8de915c6309a1b3263742c1e9d009c"
    )
    assert (len(raw), raw[:8].hex(), raw[459:461].hex()) == (512, "d9ea60825901c403", "5833")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        *(cbor2.dumps(cbor2.CBORTag(t, [b"q", b"c"])) for t in (60001, 60002, 0, 6000)),
        cbor2.dumps([b"q", b"c"]),
        cbor2.dumps(cbor2.CBORTag(TAG_QUOTE, [b"q"])),
        cbor2.dumps(cbor2.CBORTag(TAG_QUOTE, [b"q", b"c", b"x"])),
        cbor2.dumps(cbor2.CBORTag(TAG_QUOTE, [b"q", "c"])),
        cbor2.dumps(cbor2.CBORTag(TAG_QUOTE, {"q": b"c"})),
        cbor2.dumps(cbor2.CBORTag(TAG_QUOTE, cbor2.CBORTag(TAG_QUOTE, [b"q", b"c"]))),
        Evidence(b"q", b"c").encode() + b"\0",
        Evidence(bytes(8192), b"c").encode(),
        b"\xda\x00\x00\xea\x60" + Evidence(b"q", b"c").encode()[3:],  # the tag in five bytes
        b"\xd9\xea\x60\x9f" + Evidence(b"q", b"c").encode()[4:] + b"\xff",
        b'{"verified": true}',  # B20: a verdict in place of evidence
    ],
)
def test_another_shape_is_malformed(raw: bytes) -> None:
    with refused(EvidenceMalformed):
        Evidence.parse(raw)


@given(st.binary(max_size=100))
def test_garbage_is_evidence_or_a_refusal(raw: bytes) -> None:
    with suppress(EvidenceMalformed):
        assert len(Evidence.parse(raw).encode()) == len(raw)


def test_evidence_made_here_is_bound(world: World) -> None:
    evidence = Evidence.parse(make_evidence(PlatformAttester(world.platform), CERTIFICATE))
    evidence.require_bound()
    assert evidence.claims == CERTIFICATE.encode()


@pytest.mark.parametrize(
    "data",
    [
        bytes(64),  #                                                           B02
        report_data(CERTIFICATE.encode())[:32] + b"\1" + bytes(31),  #          B03
        report_data(CERTIFICATE.encode())[:32] + bytes(31) + b"\1",  #          B03, last byte
        bytes(32) + report_data(CERTIFICATE.encode())[:32],
        bytes([report_data(CERTIFICATE.encode())[0] ^ 1]) + report_data(CERTIFICATE.encode())[1:],
        hashlib.sha512(CERTIFICATE.encode()).digest(),
    ],
)
def test_quote_over_something_else(world: World, data: bytes) -> None:
    """B01 to B04: all 64 bytes count; most verifiers look at half of them."""
    with refused(ReportDataUnbound):
        Evidence(world.quote(data), CERTIFICATE.encode()).require_bound()


def test_quote_cut_at_structural_boundaries(world: World) -> None:
    quote = world.quote(report_data(CERTIFICATE.encode()))
    for end in (1020, 1500, len(quote) - 1):
        with refused(QuoteMalformed):
            Evidence(quote[:end], CERTIFICATE.encode()).require_bound()


def test_sgx_quote_of_a_version_that_needs_to_be_asked_for(world: World) -> None:
    quote = b"\4\0" + world.quote()[2:]
    with refused(QuoteUnsupported):
        Evidence(quote, CERTIFICATE.encode()).require_bound()


def test_attester_that_mixes_up_two_callers_is_noticed(world: World) -> None:
    """B19: Gramine's report-data file is one per process; two threads get each other's quotes."""
    attester = PlatformAttester(world.platform)
    attester.instead = bytes(64)
    with refused(AttesterMixedUp):
        make_evidence(attester, CERTIFICATE)
