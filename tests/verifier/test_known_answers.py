"""Values computed by independent code (dcap.md section 8): parsing, signatures, level choice.

They stand in `tests/vectors/known_answers.json`, for other implementations too. That the builders
of the simulation give the same bytes is the question of `tests/simulation/test_known_answers.py`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from simulation import documents
from simulation.certificates import public_point
from tests.support.pages import Page
from tests.support.refusal import refused
from verifier import ecdsa
from verifier.pck import PckExtension, PlatformTcb
from verifier.qe import (
    QeIdentity,
    QuoteSignatureInvalid,
    verify_attestation_key_binding,
    verify_qe_report_signature,
    verify_quote_signature,
)
from verifier.quote import MrEnclave, MrSigner, Quote, QuoteUnsupported, Tee
from verifier.tcb import TcbInfo, TcbLevelUnmatched
from verifier.td import TdReport

ANSWERS = json.loads(
    (Path(__file__).parent.parent / "vectors" / "known_answers.json").read_text("utf-8")
)
QUOTES = {quote["case"]: quote for quote in ANSWERS["quotes"]}
KEYS = {
    name: ec.derive_private_key(int(known["private"], 16), ec.SECP256R1())
    for name, known in ANSWERS["keys"].items()
}
DATE = datetime(2025, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", KEYS)
def test_key_is_read_as_quotes_write_it(name: str) -> None:
    """dcap.md 8.1: x || y, big-endian, without a prefix."""
    raw = bytes.fromhex(ANSWERS["keys"][name]["public"])
    assert public_point(KEYS[name]) == raw
    assert ecdsa.public_key(raw).public_numbers() == KEYS[name].public_key().public_numbers()


@pytest.mark.parametrize("case", QUOTES)
def test_quote_is_measured_out_as_known(case: str) -> None:
    """dcap.md 8.2: sizes and digests, of the whole and of what is signed."""
    known = QUOTES[case]
    raw = bytes.fromhex(known["raw"])
    quote = Quote.parse(raw)
    assert sha256(raw).hexdigest() == known["sha256"]
    assert sha256(quote.signed).hexdigest() == known["signed_sha256"]
    assert sha256(quote.auth.qe_report.raw).hexdigest() == known["qe_report_sha256"]
    sizes = (len(quote.signed), len(raw) - len(quote.signed) - 4, len(raw))
    assert sizes == (known["signed_size"], known["signature_data_size"], known["size"])
    assert (quote.header.version, quote.tee) == (known["version"], Tee(known["tee"]))


@pytest.mark.parametrize("case", QUOTES)
def test_every_field_of_the_body_is_read_from_its_place(case: str) -> None:
    """dcap.md 8.2: each field has a value of its own, so that no two can change places."""
    report = Quote.parse(bytes.fromhex(QUOTES[case]["raw"])).report
    for name, expected in QUOTES[case]["report"].items():
        found = getattr(report, name)
        if isinstance(found, MrEnclave | MrSigner):
            found = found.value
        assert (found.hex() if isinstance(found, bytes) else found) == expected, name
    if isinstance(report, TdReport) and case != "C":
        assert (report.tee_tcb_svn_2, report.mr_service_td) == (None, None)


@pytest.mark.parametrize("case", QUOTES)
def test_signatures_of_a_quote_hold(case: str) -> None:
    """dcap.md 8.2: both of them, the binding between them, and of no other bytes."""
    known = QUOTES[case]
    raw = bytes.fromhex(known["raw"])
    quote = Quote.parse(raw)
    assert quote.auth.signature.hex() == known["signature"]
    assert quote.auth.qe_report_signature.hex() == known["qe_report_signature"]
    assert quote.auth.attestation_key.hex() == ANSWERS["keys"]["attestation"]["public"]
    verify_quote_signature(quote)
    verify_attestation_key_binding(quote.auth)
    verify_qe_report_signature(quote.auth, KEYS["pck"].public_key())
    last = quote.signed[-1] ^ 1  # of the body
    end = len(quote.signed)
    with refused(QuoteSignatureInvalid):
        verify_quote_signature(Quote.parse(raw[: end - 1] + bytes([last]) + raw[end:]))


@pytest.mark.parametrize("case", QUOTES)
def test_quote_of_type_1_has_no_chain_to_verify(case: str) -> None:
    """N030: it names its platform; certificates would have to come from elsewhere."""
    with refused(QuoteUnsupported):
        Quote.parse(bytes.fromhex(QUOTES[case]["raw"])).auth.require_pck_chain()


def test_identity_text_is_signed_as_it_stands() -> None:
    """dcap.md 8.3: one more space, and it is another text."""
    known = ANSWERS["qe_identity"]
    text, signature = known["text"].encode(), bytes.fromhex(known["signature"])
    assert (len(text), sha256(text).hexdigest()) == (known["size"], known["sha256"])
    key = KEYS["tcb_signer"].public_key()
    assert ecdsa.signed_raw(key, signature, text)
    assert not ecdsa.signed_raw(key, signature, text.replace(b'":', b'": '))
    identity = QeIdentity.parse(known["text"])
    assert identity.evaluation_data_number == known["evaluation_data_number"]
    levels = [[level.isv_svn, str(level.status)] for level in identity.levels]
    assert levels == known["levels"]
    identity.require_described(
        Quote.parse(bytes.fromhex(QUOTES["A"]["raw"])).auth.qe_report, Tee.SGX
    )


SELECTION = ANSWERS["tcb_selection"]


def filled(components: list[int]) -> list[int]:
    return components + [0] * (16 - len(components))


def listed(*, backwards: bool) -> TcbInfo:
    """The real list of this FMSPC, each level with its name for an advisory."""
    levels = [
        documents.tcb_level(
            filled(level["components"]),
            level["pcesvn"],
            date=DATE,
            status=level["status"],
            advisories=[level["name"]],
        )
        for level in SELECTION["levels"]
    ]
    document = documents.tcb_info(
        fmspc=bytes.fromhex(SELECTION["fmspc"]),
        pce_id=bytes(2),
        issue=DATE,
        next_update=datetime(2025, 7, 1, tzinfo=UTC),
        levels=levels[::-1] if backwards else levels,
    )
    return TcbInfo.parse(documents.compact(document))


@pytest.mark.parametrize("backwards", [False, True], ids=["as-served", "backwards"])
@pytest.mark.parametrize("platform", SELECTION["platforms"], ids=lambda p: str(p["level"]))
def test_level_is_matched_component_by_component(platform: dict[str, Any], backwards: bool) -> None:
    """dcap.md 8.4, N187: comparing vectors as numbers picks a level too high."""
    tcb = PlatformTcb(tuple(filled(platform["components"])), platform["pcesvn"], bytes(16))
    info = listed(backwards=backwards)
    if platform["level"] is None:
        with refused(TcbLevelUnmatched):
            info.level_of(tcb)
        return
    level = info.level_of(tcb)
    (expected,) = (k for k in SELECTION["levels"] if k["name"] == platform["level"])
    assert (level.advisory_ids, level.status) == ((expected["name"],), expected["status"])


@pytest.mark.parametrize("known", ANSWERS["sgx_extensions"], ids=lambda k: str(k["form"]))
def test_extension_of_either_authority_is_read(known: dict[str, Any]) -> None:
    """dcap.md 8.5: every value from its own element."""
    raw = bytes.fromhex(known["der"])
    assert (len(raw), sha256(raw).hexdigest()) == (known["size"], known["sha256"])
    read = PckExtension.parse(raw)
    for name, expected in known["values"].items():
        part = read.tcb if hasattr(read.tcb, name) else read.platform
        found = getattr(part, name)
        if isinstance(found, bytes):
            found = found.hex()
        assert (list(found) if isinstance(found, tuple) else found) == expected, name


def test_answers_are_those_of_the_page() -> None:
    """dcap.md 8: every digest, key and signature here stands there."""
    there = Page.read("dcap").text
    numbers = [known["public"] for known in ANSWERS["keys"].values()]
    for known in (*QUOTES.values(), ANSWERS["qe_identity"], *ANSWERS["sgx_extensions"]):
        numbers += [v for k, v in known.items() if k.endswith(("sha256", "signature"))]
    assert [number for number in numbers if number not in there] == []
    assert ANSWERS["qe_identity"]["text"] in there
    assert all(known["der"] in there for known in ANSWERS["sgx_extensions"])
    assert len(re.findall(r"^\| [A-D], v[345] ", there, re.MULTILINE)) == len(QUOTES)
