"""Certificates of other projects: each is read as the format that is named, and as no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from ratls.appraise import appraise_certificate
from ratls.certificate import (
    EnclaveCertificateKeyUnsuitable,
    EnclaveCertificateMalformed,
    EnclaveCertificateNotCurrent,
    EnclaveCertificateNotSelfSigned,
    EnclaveCertificateOversized,
    EvidenceAmbiguous,
    EvidenceCritical,
    EvidenceMissing,
)
from ratls.claims import ClaimsMalformed, KeyUnbound
from ratls.cli_verify import app
from ratls.evidence import EvidenceMalformed, ReportDataUnbound
from ratls.foreign_certificate import (
    EvidenceOfAnotherFormat,
    ForeignCertificate,
    ForeignCheck,
    appraise_foreign,
    foreign_der,
    foreign_quote,
)
from ratls.foreign_formats import FORMATS, Format
from tests.support.flight_peers import Study, tls_server
from tests.support.foreign_certificates import OTHER_KEY, foreign, reads_like
from tests.support.intel import World
from tests.support.refusal import refused
from tests.support.typed import typed
from verifier.acceptance import AcceptanceCheck, EnclaveDebuggable, accept
from verifier.anchors import TrustAnchors
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.quote import QuoteMalformed
from verifier.tcb import TcbLevelUnmatched, TcbStatus

W = World.create()
OLD = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE})
CERTIFICATE, EVIDENCE, KEY = (check.value for check in ForeignCheck)


def collateral_for(format: Format) -> Collateral:
    return W.collateral(tdx=True) if format.name in ("dstack", "intel-sdk-tdx") else W.collateral()


def judge(der: bytes, format: Format, at: datetime = W.at) -> ForeignCertificate:
    roots = W.intel.anchors()
    return appraise_foreign(der, format, collateral_for(format), accept, roots=roots, at=at)


# Certificates as published. Those of debug enclaves get as far as their attributes.


@pytest.fixture(scope="module")
def published(vectors: Path) -> dict[str, Any]:
    index = json.loads((vectors / "index.json").read_text("utf-8"))
    cases = {quote["file"]: quote["cases"] for quote in index["quotes"]}
    found = {}
    for entry in index["ratls_certs"]:
        quotes = [q for e in entry["facts"].get("extensions", ()) for q in e["quotes"]]
        found[entry["id"]] = entry | {"cases": [cases[q["quote_file"]][0] for q in quotes]}
    return found


REAL: list[tuple[str, str, type[RatlsError] | None, str | None]] = [
    ("03dbbf0f64", "gramine", EnclaveDebuggable, AcceptanceCheck.ATTRIBUTES),
    ("03dbbf0f64", "gramine-legacy", EnclaveDebuggable, AcceptanceCheck.ATTRIBUTES),
    ("8bb1fda02e", "rats-tls", EnclaveDebuggable, AcceptanceCheck.ATTRIBUTES),
    ("7359c788aa", "rats-tls-legacy", None, None),
    ("f6c2bee138", "open-enclave", EnclaveDebuggable, AcceptanceCheck.ATTRIBUTES),
    ("f7c1d45cae", "open-enclave", EnclaveDebuggable, AcceptanceCheck.ATTRIBUTES),
    ("4173fc6aa5", "dstack", TcbLevelUnmatched, "tcb-level"),
    ("39aab7e083", "dstack", KeyUnbound, KEY),
    ("1b0b918dc8", "azure-attestation", EnclaveCertificateKeyUnsuitable, CERTIFICATE),
    ("e2ceeb3181", "azure-attestation", EnclaveCertificateKeyUnsuitable, CERTIFICATE),
    ("8c25c6f1cc", "gramine", EnclaveCertificateMalformed, CERTIFICATE),
]


def judge_real(vectors: Path, entry: dict[str, Any], format: Format) -> ForeignCertificate:
    der = (vectors / entry["file"]).read_bytes()
    case = entry["cases"][0] if entry["cases"] else None
    raw = (vectors / case["collateral"]).read_bytes() if case else W.collateral().raw
    at = datetime.fromtimestamp(case["time"], UTC) if case else W.at
    return appraise_foreign(
        der,
        format,
        Collateral.parse(raw),
        lambda verified: accept(verified, statuses=OLD, advisories=frozenset(ADVISORIES)),
        roots=TrustAnchors.intel(),
        at=at,
    )


ADVISORIES = [f"INTEL-SA-{number:05d}" for number in range(100, 1500)]


@pytest.mark.parametrize(("number", "name", "leaf", "check"), REAL)
def test_a_published_certificate_as_its_own_format(
    vectors: Path,
    published: dict[str, Any],
    number: str,
    name: str,
    leaf: type[RatlsError] | None,
    check: str | None,
) -> None:
    """What the vectors expect of its key binding, then what they expect of its quote."""
    entry = published[number]
    if leaf is None:
        assert entry["expected"]["key_bound_to_quote"]
        found = judge_real(vectors, entry, FORMATS[name])
        assert found.verified.tcb.status == entry["cases"][0]["expected"]["tcb_status"]
        return
    with refused(leaf, check=check) as seen:
        judge_real(vectors, entry, FORMATS[name])
    passed = {r.check for r in seen.error.appraisal.records if r.outcome == "passed"}  # type: ignore[union-attr]
    weak = leaf is EnclaveCertificateKeyUnsuitable  # bound, and to a key of 1024 bits
    assert (KEY in passed or weak) == entry["expected"]["key_bound_to_quote"]


def test_a_published_certificate_reads_as_no_other_format(
    vectors: Path, published: dict[str, Any]
) -> None:
    """Never a fallback: each other name stops before the quote is judged."""
    own = {(number, name) for number, name, *_ in REAL}
    for number, entry in published.items():
        for name, format in FORMATS.items():
            if (number, name) not in own:
                with pytest.raises(RatlsError) as caught:
                    judge_real(vectors, entry, format)
                assert caught.value.check in (CERTIFICATE, EVIDENCE, KEY), (number, name)


def test_every_published_certificate_is_tried(published: dict[str, Any]) -> None:
    assert {number for number, *_ in REAL} == published.keys()


def test_pem_of_any_label_is_read_once(vectors: Path, published: dict[str, Any]) -> None:
    """The strict library cannot read this one, and its tool writes TRUSTED CERTIFICATE."""
    entry = published["03dbbf0f64"]
    text = (vectors / entry["pem_file"]).read_bytes()
    der = (vectors / entry["file"]).read_bytes()
    assert foreign_der(text, FORMATS["gramine"]) == der
    assert foreign_der(der, FORMATS["gramine"]) == der
    with refused(EnclaveCertificateMalformed):
        foreign_der(text + text, FORMATS["gramine"])
    with refused(EnclaveCertificateMalformed):
        foreign_der(b"-----BEGIN CERTIFICATE-----\nMIIB\n", FORMATS["ego"])


# The same, made here: one valid certificate of each format, and one thing changed.


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_each_format_is_read(format: Format) -> None:
    found = judge(foreign(W, format).der, format)
    assert found.appraisal.stopped_at is None
    assert len(foreign_quote(foreign(W, format).der, format)) > 1000


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_no_format_is_read_as_another(format: Format) -> None:
    der = foreign(W, format, claims={"x": b"y"} if format.name == "rats-tls" else None).der
    for other in FORMATS.values():
        if other.name not in reads_like(format) or format.name == "rats-tls" != other.name:
            with pytest.raises(RatlsError) as caught:
                judge(der, other)
            assert caught.value.check in (CERTIFICATE, EVIDENCE, KEY), other.name


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_an_attackers_key_with_the_quote_of_another(format: Format) -> None:
    """B01: the quote is genuine, and about the key of somebody else's server."""
    another = None if format.name == "rats-tls-legacy" else OTHER_KEY
    another = another or rsa.generate_private_key(65537, 2048)
    with refused(KeyUnbound, check=KEY):
        judge(foreign(W, format, bound_key=another).der, format)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_report_data_that_is_right_in_its_first_half_alone(format: Format) -> None:
    """B03: these projects' own verifiers ignore the second half."""
    honest = foreign(W, format)
    from verifier.quote import Quote

    whole = Quote.parse(foreign_quote(honest.der, format)).report.report_data
    spoilt = foreign(W, format, key=honest.key, report_data=whole[:63] + bytes([whole[63] ^ 1]))
    leaf = ReportDataUnbound if format.digest is None else KeyUnbound
    with refused(leaf, check=KEY):
        judge(spoilt.der, format)
    judge(foreign(W, format, key=honest.key, report_data=whole).der, format)


Change = Callable[[Format], tuple[bytes, type[RatlsError], str]]
G = FORMATS["gramine"]


def _without(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    return der.replace(old, new)


CHANGES: dict[str, tuple[Callable[[], tuple[bytes, Format]], type[RatlsError], str]] = {
    "evidence stripped": (
        lambda: (foreign(W, G, oid="1.3.6.1.5.5.7.1.99").der, G),
        EvidenceMissing,
        EVIDENCE,
    ),
    "a weaker format offered": (
        lambda: (foreign(W, FORMATS["gramine-legacy"]).der, G),
        EvidenceMissing,
        EVIDENCE,
    ),
    "a second piece of evidence": (
        lambda: (foreign(W, G, further=("1.3.6.1.4.1.311.105.1",)).der, G),
        EvidenceAmbiguous,
        EVIDENCE,
    ),
    "marked critical": (lambda: (foreign(W, G, critical=True).der, G), EvidenceCritical, EVIDENCE),
    "signed by another key": (
        lambda: (foreign(W, G, signer=OTHER_KEY).der, G),
        EnclaveCertificateNotSelfSigned,
        CERTIFICATE,
    ),
    "a key of another curve": (
        lambda: (foreign(W, G, key=ec.generate_private_key(ec.SECP521R1())).der, G),
        EnclaveCertificateKeyUnsuitable,
        CERTIFICATE,
    ),
    "a short RSA key": (
        lambda: (
            foreign(W, FORMATS["ego"], key=rsa.generate_private_key(65537, 1024)).der,  # noqa: S505
            FORMATS["ego"],
        ),
        EnclaveCertificateKeyUnsuitable,
        CERTIFICATE,
    ),
    "expired": (
        lambda: (foreign(W, G, at=W.at - timedelta(days=400)).der, G),
        EnclaveCertificateNotCurrent,
        CERTIFICATE,
    ),
    "claims beside the key's": (
        lambda: (foreign(W, G, claims={"nonce": bytes(32)}).der, G),
        EvidenceOfAnotherFormat,
        KEY,
    ),
    "no report inside": (
        lambda: (foreign(W, FORMATS["ego"], cut=900).der, FORMATS["ego"]),
        EvidenceOfAnotherFormat,
        EVIDENCE,
    ),
    "a cut piece of evidence": (
        lambda: (foreign(W, G, cut=900).der, G),
        EvidenceMalformed,
        EVIDENCE,
    ),
    "a cut quote": (
        lambda: (foreign(W, FORMATS["gramine-legacy"], cut=900).der, FORMATS["gramine-legacy"]),
        QuoteMalformed,
        KEY,
    ),
    "trailing bytes": (
        lambda: (foreign(W, G).der + b"\0", G),
        EnclaveCertificateMalformed,
        CERTIFICATE,
    ),
    "far too large": (lambda: (bytes(1 << 17), G), EnclaveCertificateOversized, CERTIFICATE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_thing_is_wrong(change: str) -> None:
    """B05, B12: stripped, doubled, downgraded or altered."""
    make, leaf, check = CHANGES[change]
    der, format = make()
    with refused(leaf, check=check):
        judge(der, format)


def test_what_gramine_writes_beside_its_evidence_is_left_aside() -> None:
    """Its certificates carry the older extension too; no check rests on it."""
    found = judge(foreign(W, G, further=("0.6.9.42.840.113741.1337.6",)).der, G)
    details = {r.check: r.detail for r in found.appraisal.records}
    assert "not judged: Gramine's legacy quote" in details[EVIDENCE]


def test_a_null_in_the_algorithm_is_read_and_nothing_else_is_forgiven() -> None:
    """Old mbedTLS writes one, which the strict library refuses; the signature must still hold."""
    from cryptography.hazmat.primitives import hashes

    from simulation import der as write
    from verifier import der as read

    shown = foreign(W, G)
    tbs, algorithm, signature = read.children(shown.der)
    with_null = write.tlv(0x30, read.content(algorithm, 0x30) + b"\x05\0")
    altered = write.tlv(0x30, read.content(tbs, 0x30).replace(algorithm, with_null, 1))
    signed = write.tlv(3, b"\0" + shown.key.sign(altered, ec.ECDSA(hashes.SHA256())))
    judge(write.tlv(0x30, altered + with_null + signed), G)
    with refused(EnclaveCertificateNotSelfSigned, check=CERTIFICATE):
        judge(write.tlv(0x30, altered + with_null + signature), G)
    with refused(EnclaveCertificateNotSelfSigned, check=CERTIFICATE):  # two algorithms
        judge(write.tlv(0x30, altered + algorithm + signed), G)


def test_it_is_never_fresh_and_never_pinned(study: Study) -> None:
    """No exchange takes it: what may be pinned is made by `appraise_certificate` alone."""
    for format in FORMATS.values():
        assert format.binds == {
            "key": True,
            **dict.fromkeys(("nonce", "role", "policy", "instance"), False),
        }
        assert {s.split(":")[0] for s in format.unbound} >= {"nonce", "role", "policy", "instance"}
    with refused(EvidenceMissing):
        der = foreign(study.world, FORMATS["gramine-legacy"]).der
        appraise_certificate(der, study.expectation, at=study.world.at)
    with pytest.raises(TypeError):
        replace(judge(foreign(W, G).der, G), seal=None)  # type: ignore[call-arg]


SEED = foreign(W, FORMATS["open-enclave"]).der


@given(st.binary(max_size=300) | st.integers(0, len(SEED) - 1).map(lambda n: SEED[:n]))
def test_any_bytes_are_a_certificate_or_a_refusal(raw: bytes) -> None:
    for format in FORMATS.values():
        with suppress(RatlsError):
            judge(raw, format)


@given(st.integers(0, len(SEED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_a_certificate_or_a_refusal(place: int, change: int) -> None:
    raw = SEED[:place] + bytes([SEED[place] ^ change]) + SEED[place + 1 :]
    with suppress(RatlsError):
        judge(raw, FORMATS["open-enclave"])


def test_thousands_of_extensions_and_deep_ones() -> None:
    """B16: the time is that of the length, and no nesting ends the process."""
    from simulation import der as write
    from verifier import der as read

    tbs, algorithm, signature = read.children(foreign(W, G).der)
    *parts, _ = read.children(tbs)
    many = [
        write.sequence(write.oid(f"1.3.6.1.4.1.{n}"), write.octet_string(b"")) for n in range(4000)
    ]
    deep = b"\x05\0"
    for _ in range(2000):
        deep = write.sequence(deep)
    for extensions in (many, [write.sequence(write.oid("2.5.29.17"), write.octet_string(deep))]):
        body = write.sequence(*parts, write.tlv(0xA3, write.sequence(*extensions)))
        with pytest.raises(RatlsError):
            judge(write.sequence(body, algorithm, signature), G)


# As it is typed.


def bundle(study: Study, folder: Path, format: Format) -> str:
    tdx = format.name in ("dstack", "intel-sdk-tdx")
    path = folder / "bundle.json"
    path.write_bytes(study.world.intel.collateral(study.world.platform, tdx=tdx))
    return str(path)


def root_of(study: Study) -> list[str]:
    return ["--root", study.policy.platform.root, "--allow-simulation"]


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_server_of_each_project(study: Study, tmp_path: Path, format: Format) -> None:
    """Undecided, unless a certificate that may be an old copy is enough."""
    shown = foreign(study.world, format)
    name = ["--profile", format.name, "--collateral", bundle(study, tmp_path, format)]
    with tls_server([shown.certificate], shown.key) as server:
        asked = ["server", server.address, *name, *root_of(study), "--json"]
        told = json.loads(typed(app, asked, 5).stdout.splitlines()[-1])
        assert (told["verdict"], told["fresh"]) == ("undecided", False)
        assert told["error"]["code"] == "profile-never-fresh"
        told = json.loads(typed(app, [*asked, "--certificate-only"]).stdout.splitlines()[-1])
        assert (told["verdict"], told["fresh"]) == ("accepted", False)
        assert told["binds"]["nonce"] is False
        assert any(line.startswith("policy:") for line in told["unbound"])
        assert server.received == b""


def test_a_saved_certificate_says_what_it_leaves_open(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "server.der"
    path.write_bytes(foreign(study.world, G).der)
    asked = ["cert", path, "--format", "gramine", "--collateral", bundle(study, tmp_path, G)]
    told = typed(app, [*asked, *root_of(study)]).output
    for word in ("not fresh", "nonce:", "role:", "policy:", "mr_enclave", "SIMULATION"):
        assert word in told
    as_another = [*asked[:3], "open-enclave", *asked[4:], *root_of(study), "--json"]
    told = json.loads(typed(app, as_another, 4).stdout.splitlines()[-1])
    assert told["error"]["code"] == "evidence-missing"
    typed(app, [*asked[:3], "whatever", *asked[4:]], 2)
    typed(app, [*asked, *root_of(study), "--accept-status", "OutOfDate"])
    typed(app, [*asked[:2], *asked[4:], "--agreement", "a", "--accept-status", "OutOfDate"], 2)
    typed(app, asked[:2] + asked[4:], 2)  # neither an agreement nor a format


def test_an_agreement_says_which_enclave_it_must_be(study: Study, tmp_path: Path) -> None:
    """The policy's own admission, for a server that knows nothing of policies."""
    from policy.document import digest_text

    path, agreement = tmp_path / "server.der", tmp_path / "agreed.json"
    agreement.write_bytes(study.parties.agreement_bytes(study.policy.raw.decode()))
    asked = ["cert", path, "--format", "gramine", "--collateral", bundle(study, tmp_path, G)]
    asked += ["--agreement", agreement, "--digest", digest_text(study.policy.digest)]
    path.write_bytes(foreign(study.world, G, isv_prod_id=0).der)
    told = json.loads(typed(app, [*asked, "--allow-simulation", "--json"]).stdout.splitlines()[-1])
    assert (told["verdict"], told["fresh"]) == ("accepted", False)
    path.write_bytes(foreign(study.world, G, isv_prod_id=1).der)
    told = json.loads(
        typed(app, [*asked, "--allow-simulation", "--json"], 6).stdout.splitlines()[-1]
    )
    assert told["error"]["code"] == "product-differs"


def test_claims_are_read_as_strictly_as_our_own() -> None:
    """B15: trailing bytes behind the claims, which lenient readers drop."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from ratls import cbor
    from ratls.claims import key_hash

    honest = foreign(W, G)
    spki = honest.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims = cbor.encode({"pubkey-hash": key_hash(spki)})
    longer = claims + b"\0"
    data = hashlib.sha256(longer).digest() + bytes(32)
    value = cbor.encode(cbor.Tagged(60000, [W.quote(data), longer]))
    with refused(ClaimsMalformed, check=KEY):
        judge(_with_evidence(honest, value), G)
    value = cbor.encode(
        cbor.Tagged(60000, [W.quote(hashlib.sha256(claims).digest() + bytes(32)), claims])
    )
    judge(_with_evidence(honest, value), G)


def _with_evidence(shown: Any, value: bytes) -> bytes:
    """The same certificate, signed again, with other evidence."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    old = shown.certificate
    builder = x509.CertificateBuilder(
        old.issuer,
        old.subject,
        shown.key.public_key(),
        1,
        old.not_valid_before_utc,
        old.not_valid_after_utc,
    ).add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.9"), value), critical=False
    )
    return builder.sign(shown.key, hashes.SHA256()).public_bytes(Encoding.DER)
