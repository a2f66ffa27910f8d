"""The cases of dcap.md section 5, as any implementation could run them.

`tests/vectors/cases.json` says how to read them; `python -m tests.vectors.make_cases` writes them.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from datetime import date, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.refusal import count_refusal
from tests.vectors import make_cases
from tests.vectors.casebook import MEMBERS, unpacked
from tests.vectors.reference import LINES
from verifier import Collateral, TrustAnchors, accept, strip_file_padding, verify_quote
from verifier.anchors import Mode
from verifier.errors import RatlsError
from verifier.tcb import TcbStatus
from verifier.verify import VerifiedQuote

TESTS = Path(__file__).parent.parent
VECTORS = TESTS / "vectors"
INDEX = json.loads((VECTORS / "cases.json").read_text("utf-8"))
FILES = {name: json.loads((VECTORS / name).read_text("utf-8")) for name in INDEX["files"]}
CASES = {case["id"]: (name, case) for name, file in FILES.items() for case in file["cases"]}
CODES = json.loads((VECTORS / "codes.json").read_text("utf-8"))
# Where a refusal of each class may come from: no earlier check gets the credit. None: while the
# bundle is read.
STOPS: dict[str, set[str | None]] = {
    "QUOTE_FORMAT": {"quote-format"},
    "QUOTE_UNSUPPORTED": {"quote-format"},
    "PCK_CHAIN": {"pck-chain"},
    "PCK_EXTENSION": {"pck-chain"},
    "CRL": {"root-crl", "pck-crl", None},
    "CERT_REVOKED": {"root-crl", "pck-crl", "tcb-info", "qe-identity"},
    "COLLATERAL_FORMAT": {"tcb-info", "qe-identity", None},
    "COLLATERAL_CHAIN": {"tcb-info", "qe-identity"},
    "COLLATERAL_SIGNATURE": {"tcb-info", "qe-identity"},
    "COLLATERAL_MISMATCH": {"tcb-info", "qe-identity", "platform-match", "qe-match"},
    "TDX_MODULE": {"platform-match", "tcb-level"},
    "QE_SIGNATURE": {"qe-report-signature"},
    "QE_BINDING": {"key-binding"},
    "QE_IDENTITY": {"qe-match"},
    "QUOTE_SIGNATURE": {"quote-signature"},
    "TCB_NOT_SUPPORTED": {"qe-level", "tcb-level"},
    "TCB_REVOKED": {"tcb-status"},
    "TCB_STATUS": {"tcb-status"},
    "EXPIRED": {"validity", "tcb-info"},
    "POLICY": {"attributes", "advisories"},
}


@cache
def part(file: str, name: str) -> bytes:
    return unpacked(FILES[file]["parts"][name])


def joined(file: str, names: list[str]) -> bytes:
    return b"".join(part(file, name) for name in names)


def quote_of(file: str, case: dict[str, Any]) -> bytes:
    raw = joined(file, case["quote"])
    return strip_file_padding(raw) if case.get("padded_file") else raw


def collateral_of(file: str, given: dict[str, Any]) -> Collateral:
    """Read a bundle of these members; a list in DER is put in afterwards."""
    if "bundle" in given:
        return Collateral.parse(joined(file, given["bundle"]))
    named = {**FILES[file]["collaterals"].get(given.get("like"), {}), **given}
    named.pop("like", None)
    members = {name: joined(file, value) for name, value in named.items() if value is not None}
    binary = {n: v for n, v in members.items() if n.endswith("crl") and v.startswith(b"\x30\x82")}
    text = {n: "00" if n in binary else v.decode("utf-8") for n, v in members.items()}
    return replace(Collateral.parse(json.dumps(text).encode()), **binary)  # type: ignore[arg-type]


def roots_of(file: str, case: dict[str, Any]) -> TrustAnchors:
    spki = FILES[file]["roots"][case["root"]]
    return TrustAnchors(Mode.SIMULATION, bytes.fromhex(spki), f"simulation:sha256:{spki}")


def verify(file: str, case: dict[str, Any], quote: bytes) -> VerifiedQuote:
    return verify_quote(
        quote,
        collateral_of(file, case["collateral"]),
        roots=roots_of(file, case),
        at=datetime.fromisoformat(case["at"]),
        newer_sgx=case.get("newer_sgx", False),
    )


@pytest.mark.parametrize("name", [name for name, (_, c) in CASES.items() if "each" not in c])
def test_case_ends_as_the_page_says(name: str) -> None:
    file, case = CASES[name]
    expected = case["expected"]
    verified, refusal = None, None
    try:
        verified = verify(file, case, quote_of(file, case))
        listed, day = case.get("accept_advisories"), case.get("accept_out_of_date_since")
        accept(
            verified,
            statuses=frozenset(map(TcbStatus, case.get("accept_statuses", ["UpToDate"]))),
            advisories=None if listed is None else frozenset(listed),
            out_of_date_since=None if day is None else date.fromisoformat(day),
        )
    except RatlsError as error:
        refusal = error
        count_refusal()
    assert (refusal.code if refusal else None) == expected["code"], f"{case['does']}: {refusal}"
    assert (verified.tcb.status if verified else None) == expected["tcb_status"]
    if verified:
        assert list(verified.tcb.advisory_ids) == expected["advisory_ids"]
    exit_status = str(int(refusal.exit_status)) if refusal else "0"
    assert expected["verdict"] == {"0": "accepted", "5": "undecided"}.get(exit_status, "refused")
    if refusal:
        assert refusal.check in STOPS[expected["class"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, c) in CASES.items() if "each" in c])
def test_each_prefix_or_bit_is_refused(name: str) -> None:
    """N003, N040: at no offset does a cut or a flipped bit go unseen."""
    count_refusal()
    file, case = CASES[name]
    genuine, collateral = quote_of(file, case), collateral_of(file, case["collateral"])
    roots, at = roots_of(file, case), datetime.fromisoformat(case["at"])
    verify_quote(genuine, collateral, roots=roots, at=at)

    def refuse(raw: bytes) -> str:
        with pytest.raises(RatlsError) as refusal:
            verify_quote(raw, collateral, roots=roots, at=at)
        assert refusal.value.check is not None
        return refusal.value.code

    if case["each"] == "prefix":
        for size in range(len(genuine)):
            assert refuse(genuine[:size]) == case["expected"]["code"]
        return
    for bit in range(8 * case["to"]):
        flipped = bytearray(genuine)
        flipped[bit // 8] ^= 1 << bit % 8
        refuse(bytes(flipped))


def test_every_line_is_a_case_or_names_the_tests_that_cover_it() -> None:
    lines = {name: {"section": at.section, "expect": at.expect} for name, at in LINES.items()}
    assert INDEX["lines"] == lines
    covered = {name.split("-")[0] for name in CASES} | INDEX["covered_elsewhere"].keys()
    assert covered == LINES.keys()
    assert len(CASES) == sum(len(file["cases"]) for file in FILES.values())
    for tests in INDEX["covered_elsewhere"].values():
        for test in tests:
            path, _, name = test.partition("::")
            tree = ast.parse((TESTS.parent / path).read_text("utf-8"))
            assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, test


@pytest.mark.parametrize("file", FILES)
def test_cases_say_what_another_implementation_needs(file: str) -> None:
    """A class that the column of dcap.md 5 does not name needs a reason."""
    for case in FILES[file]["cases"]:
        name, expected = case["id"].split("-")[0], case["expected"]
        line = LINES[name]
        assert file == f"cases-{line.section}.json"
        assert case["rule"] == f"dcap.md {line.section} {name}"
        assert case["does"]
        assert case.get("differs") != ""
        members = {k: v for k, v in case["collateral"].items() if k not in ("like", "bundle")}
        assert members.keys() <= set(MEMBERS)
        if expected["code"] is None:
            continue
        assert expected["code"] in CODES["dcap"][expected["class"]], case["id"]
        if line.classes and expected["class"] not in line.classes:
            assert case["differs"], case["id"]


def test_every_code_of_a_verdict_is_the_answer_to_some_case() -> None:
    answers = {(c["expected"]["class"], c["expected"]["code"]) for _, c in CASES.values()}
    codes = {(name, code) for name, fitting in CODES["dcap"].items() for code in fitting}
    assert codes <= answers
    assert answers - codes == {(None, None)}


@pytest.mark.parametrize("file", FILES)
def test_file_holds_exactly_the_parts_that_its_cases_name(file: str) -> None:
    content = FILES[file]
    named = set()
    for entry in (*content["cases"], {"collateral": {}, "quote": []}):
        lists = [entry["quote"], *entry["collateral"].values()]
        named |= {name for names in lists if isinstance(names, list) for name in names}
    named |= {name for names in content["root_certificates"].values() for name in names}
    for members in content["collaterals"].values():
        named |= {name for names in members.values() for name in names}
    assert named == content["parts"].keys()
    for name in named:
        assert sha256(part(file, name)).hexdigest().startswith(name)


def test_files_are_what_the_sources_write() -> None:
    """Compared by content: another zlib may pack the same bytes otherwise."""
    made = make_cases.books()
    assert json.loads(make_cases.index(list(made))) == INDEX
    for name, book in made.items():
        assert FILES[name]["cases"] == book.cases, name
        assert FILES[name]["roots"] == book.roots
        assert FILES[name]["root_certificates"] == book.root_certificates
        assert FILES[name]["collaterals"] == book.collaterals
        assert {n: part(name, n) for n in FILES[name]["parts"]} == book.parts


def test_caller_changes_its_buffers_between_two_verdicts() -> None:
    """N222: what was parsed stays what was read."""
    file, case = CASES["N018-1"]
    given = FILES[file]["collaterals"][case["collateral"]["like"]]
    members = {name: joined(file, value).decode() for name, value in given.items()}
    quote = bytearray(quote_of(file, case))
    bundle = bytearray(json.dumps(members).encode())
    roots, at = roots_of(file, case), datetime.fromisoformat(case["at"])
    collateral = Collateral.parse(bundle)  # type: ignore[arg-type]
    first = verify_quote(quote, collateral, roots=roots, at=at)  # type: ignore[arg-type]
    digest = sha256(first.quote.signed).digest()
    genuine = bytes(quote)
    bundle[:] = bytes(len(bundle))
    quote[:] = bytes(len(quote))
    assert sha256(first.quote.signed).digest() == digest
    second = verify_quote(genuine, collateral, roots=roots, at=at)
    assert (second.tcb, second.window, second.quote) == (first.tcb, first.window, first.quote)
