"""SIGSTRUCT: genuine ones of many years, our own, and what a forger would try."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import vectors_folder
from tests.gramine.test_measurement import _vectors
from tests.gramine.world import ABSENT, change, document, key, signed
from tests.support.refusal import refused
from verifier.gramine.sigstruct import (
    SIZE,
    SignedValueInvalid,
    SigningKeyUnsuited,
    Sigstruct,
    SigstructMalformed,
    SigstructSignatureInvalid,
    parse_day,
    sign,
    unsigned,
)
from verifier.quote import MrEnclave


def made(day: date | None = None, **changed: Any) -> Sigstruct:
    manifest = document()
    for name, value in changed.items():
        manifest = change(manifest, f"sgx.{name}", value)
    return sign(unsigned(signed(manifest), MrEnclave(bytes(range(32))), day), key())


def _genuine() -> list[Any]:
    folder = vectors_folder()
    if folder is None:
        return [pytest.param(None, id="absent")]
    index = json.loads((folder / "index.json").read_text("utf-8"))
    return [pytest.param(entry, id=entry["id"]) for entry in index["sigstruct"]]


@pytest.mark.parametrize("entry", _genuine())
def test_genuine_ones(vectors: Path, entry: dict[str, Any]) -> None:
    """Of Gramine, Intel's launch enclave and others, from 2015 on."""
    expected = entry["expected"]
    found = Sigstruct.parse((vectors / entry["file"]).read_bytes())
    found.verify()
    assert str(found.mr_enclave) == expected["mr_enclave"]
    assert str(found.mr_signer) == expected["mr_signer"]
    assert (found.isv_prod_id, found.isv_svn) == (expected["isv_prod_id"], expected["isv_svn"])
    assert (found.debug, found.sw_defined) == (expected["debug"], expected["swdefined"])
    assert found.raw[928:944].hex() == expected["attributes"]
    assert found.raw[944:960].hex() == expected["attributes_mask"]
    assert found.date_text.replace("-", "") == expected["date"]


@pytest.mark.parametrize(("folder", "vector"), _vectors())
def test_what_gramine_signs_is_what_we_would_sign(
    vectors: Path, folder: Path, vector: dict[str, Any]
) -> None:
    """All bytes but those of a key that we do not have."""
    found = Sigstruct.parse((folder / vector["sigstruct"]).read_bytes())
    found.verify()
    manifest = signed_from(folder / vector["manifest_sgx"])
    ours = unsigned(manifest, found.mr_enclave, found.day)
    assert ours[:128] == found.raw[:128]
    assert ours[900:1040] == found.raw[900:1040]


def signed_from(path: Path) -> Any:
    from verifier.gramine.signed import SignedManifest

    return SignedManifest.parse(path.read_bytes())


def test_our_own_is_read_back_and_verified() -> None:
    found = made(date(2026, 1, 2), isvsvn=258, isvprodid=65535)
    assert (found.isv_svn, found.isv_prod_id, found.debug) == (258, 65535, False)
    assert (found.flags, found.xfrm, found.misc_select) == (0x4, 0x3, 0)
    assert found.date_text == "2026-01-02"
    assert found.raw[20:24] == bytes.fromhex("02012620")
    Sigstruct.parse(found.raw).verify()


def test_signing_again_gives_the_same_bytes() -> None:
    assert made().raw == made().raw
    assert made().day is None


@pytest.mark.parametrize(
    ("name", "word", "xfrm", "mask"),
    [
        ("avx", "required", 0x7, 0xFFFFFFFFFFF9FF1F),
        ("avx512", "required", 0xE7, 0xFFFFFFFFFFF9FFFF),
        ("amx", "disabled", 0x3, 0xFFFFFFFFFFFFFF1B),
        ("pkru", "required", 0x203, 0xFFFFFFFFFFF9FF1B),
        ("mpx", "required", 0x1B, 0xFFFFFFFFFFF9FF1B),
    ],
)
def test_features_of_the_processor(name: str, word: str, xfrm: int, mask: int) -> None:
    found = made(**{f"cpu_features.{name}": word})
    assert (found.xfrm, found.xfrm_mask) == (xfrm, mask)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("debug", 0),
        ("debug", ABSENT),
        ("use_exinfo", "false"),
        ("isvsvn", 65536),
        ("isvsvn", True),
        ("isvprodid", -1),
        ("isvprodid", ABSENT),
        ("cpu_features.avx", "maybe"),
        ("cpu_features.mpx", "unspecified"),
        ("cpu_features.pkru", ABSENT),
    ],
)
def test_a_value_that_cannot_be_signed(name: str, value: Any) -> None:
    with refused(SignedValueInvalid):
        made(**{name: value})


@pytest.mark.parametrize("text", ["2026-1-2", "20260102", "2026-02-30", "today", ""])
def test_no_day(text: str) -> None:
    with refused(SignedValueInvalid):
        parse_day(text)
    assert parse_day("0000-00-00") is None
    assert parse_day("2026-01-02") == date(2026, 1, 2)


@pytest.mark.parametrize(
    "at",
    [0, 7, 18, 24, 44, 127, 512, 513, 908, 911, 992, 1007, 1028, 1039],
)
def test_headers_and_reserved_bytes(at: int) -> None:
    raw = bytearray(made().raw)
    raw[at] ^= 1
    with refused(SigstructMalformed):
        Sigstruct.parse(bytes(raw))


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1])
def test_another_size(size: int) -> None:
    with refused(SigstructMalformed):
        Sigstruct.parse(made().raw.ljust(size, b"\0")[:size])


def test_a_modulus_that_is_even_or_short() -> None:
    for at, mask in ((128, 0xFE), (511, 0x7F)):
        raw = bytearray(made().raw)
        raw[at] &= mask
        with refused(SigstructMalformed):
            Sigstruct.parse(bytes(raw))


@pytest.mark.parametrize("at", [20, 40, 130, 516, 900, 904, 928, 944, 960, 1024, 1026, 1040, 1424])
def test_anything_changed_after_it_was_signed(at: int) -> None:
    """M01, M06, M07: debug, product, version and attributes stand under the signature."""
    raw = bytearray(made().raw)
    raw[at] ^= 2
    with refused(SigstructSignatureInvalid):
        Sigstruct.parse(bytes(raw)).verify()


def test_numbers_that_wrap_around_the_modulus() -> None:
    raw = bytearray(made().raw)
    raw[516:900] = b"\xff" * 384
    with refused(SigstructSignatureInvalid):
        Sigstruct.parse(bytes(raw)).verify()


@pytest.mark.parametrize("other", [(65537, 3072), (3, 2048)])
def test_a_key_that_the_processor_does_not_take(other: tuple[int, int]) -> None:
    with refused(SigningKeyUnsuited):
        sign(bytes(SIZE), rsa.generate_private_key(*other))


@given(raw=st.binary(max_size=64), at=st.integers(0, SIZE - 1), byte=st.integers(0, 255))
def test_a_sigstruct_or_a_refusal(raw: bytes, at: int, byte: int) -> None:
    """Any bytes, and a genuine one with one byte altered: only the genuine one verifies."""
    genuine = GENUINE.raw
    for data in (raw, raw.ljust(SIZE, b"\0"), genuine[:at] + bytes((byte,)) + genuine[at + 1 :]):
        try:
            Sigstruct.parse(data).verify()
        except (SigstructMalformed, SigstructSignatureInvalid):
            assert data != genuine
        else:
            # Vendor and the signer's own word are not checked, but they are signed.
            assert data == genuine


GENUINE = made()
