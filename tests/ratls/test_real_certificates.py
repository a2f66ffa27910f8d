"""Certificates of other projects, as published: read where the format is shared, never admitted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ratls.certificate import (
    EVIDENCE_OID,
    EnclaveCertificateMalformed,
    EnclaveCertificateUsageWrong,
    EvidenceMissing,
    check_certificate,
)
from ratls.claims import CertificateClaims, ClaimMissing, parse_claim_map, require_key
from ratls.evidence import Evidence
from tests.support.refusal import refused
from verifier import der as read
from verifier.errors import RatlsError
from verifier.quote import Quote

# Read by another library (asn1crypto) once; here the shared format only.
INTEROPERABLE = ("03dbbf0f64", "8bb1fda02e")
REFUSALS: dict[str, type[RatlsError]] = {
    "39aab7e083": EvidenceMissing,
    "4173fc6aa5": EvidenceMissing,
    "8c25c6f1cc": EnclaveCertificateMalformed,
    "03dbbf0f64": EnclaveCertificateMalformed,
    "8bb1fda02e": EnclaveCertificateUsageWrong,
    "1b0b918dc8": EvidenceMissing,
    "e2ceeb3181": EvidenceMissing,
    "f6c2bee138": EnclaveCertificateMalformed,
    "f7c1d45cae": EnclaveCertificateMalformed,
    "7359c788aa": EvidenceMissing,
}


@pytest.fixture(scope="module")
def published(vectors: Path) -> dict[str, Any]:
    index = json.loads((vectors / "index.json").read_text("utf-8"))
    return {entry["id"]: entry for entry in index["ratls_certs"]}


def test_every_published_certificate_is_listed_here(published: dict[str, Any]) -> None:
    assert published.keys() == REFUSALS.keys()


def evidence_in(der: bytes) -> bytes:
    """Content of the evidence extension, from a certificate that strict libraries refuse."""
    last = read.children(read.children(der)[0])[-1]
    (sequence,) = read.children(last, last[0])
    for extension in read.children(sequence):
        oid, *_, value = read.children(extension)
        if oid == bytes.fromhex("0606678105050409"):
            return read.content(value, read.OCTET_STRING)
    raise AssertionError(f"no {EVIDENCE_OID}")


@pytest.mark.parametrize("number", INTEROPERABLE)
def test_interoperable_evidence_of_others_is_read_and_bound(
    vectors: Path, published: dict[str, Any], number: str
) -> None:
    der = (vectors / published[number]["file"]).read_bytes()
    assert published[number]["expected"]["key_bound_to_quote"]
    evidence = Evidence.parse(evidence_in(der))
    evidence.require_bound()
    Quote.parse(evidence.quote)
    spki = read.children(read.children(der)[0])[6]
    require_key(parse_claim_map(evidence.claims)["pubkey-hash"], spki)


@pytest.mark.parametrize("number", INTEROPERABLE)
def test_their_claims_say_too_little_to_rely_on(
    vectors: Path, published: dict[str, Any], number: str
) -> None:
    """Neither policy nor purpose nor role: evidence for anything is evidence for nothing."""
    der = (vectors / published[number]["file"]).read_bytes()
    with refused(ClaimMissing):
        CertificateClaims.parse(Evidence.parse(evidence_in(der)).claims)


@pytest.mark.parametrize("number", REFUSALS)
def test_no_published_certificate_fits_the_profile(
    vectors: Path, published: dict[str, Any], number: str
) -> None:
    entry = published[number]
    at = entry["facts"].get("not_before", "2024-01-01")[:10]
    with refused(REFUSALS[number]):
        check_certificate(
            (vectors / entry["file"]).read_bytes(),
            datetime.fromisoformat(at).replace(hour=23, minute=59, tzinfo=UTC),
        )


def test_a_pck_certificate_is_no_evidence(vectors: Path) -> None:
    """Its SGX extension has the number of an old evidence format (channel.md 2.1)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    quote = Quote.parse(next((vectors / "quotes").glob("sgx*v3*.bin")).read_bytes())
    leaf = x509.load_pem_x509_certificates(quote.auth.require_pck_chain())[0]
    with refused(EvidenceMissing):
        check_certificate(leaf.public_bytes(Encoding.DER), datetime.now(UTC))
