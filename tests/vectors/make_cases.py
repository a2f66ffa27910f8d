"""Write the cases of dcap.md section 5: `python -m tests.vectors.make_cases`.

`cases.json` says how the files are read, which lines there are, and which tests cover what no
file of bytes can say; `cases-5.1.json` and the others hold the cases of one section each.
Nothing here is random: the same sources write the same cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.vectors import (
    cases_certificates,
    cases_documents,
    cases_quote,
    cases_tcb,
    cases_td_documents,
    cases_td_levels,
    cases_td_quote,
)
from tests.vectors.casebook import Book
from tests.vectors.reference import LINES

FOLDER = Path(__file__).parent
SECTIONS: dict[str, list[Callable[[Book], None]]] = {
    "5.1": [cases_quote.framing, cases_td_quote.framing],
    "5.2": [cases_quote.signature_data, cases_td_quote.signature_data],
    "5.3": [cases_quote.signatures, cases_td_quote.signatures],
    "5.4": [
        cases_certificates.certificates,
        cases_certificates.extensions,
        cases_certificates.lists,
    ],
    "5.5": [cases_documents.tcb_info, cases_td_documents.tcb_info],
    "5.6": [cases_documents.identity, cases_td_documents.identity],
    "5.7": [cases_td_levels.specifics],
    "5.8": [cases_tcb.evaluation, cases_td_levels.evaluation],
    "5.9": [cases_tcb.policy, cases_td_levels.policy],
}
ABOUT = """\
Each case is one question to a verifier: quote, collateral, root, instant; and its answer.
parts: base64 of zlib of bytes, by the first 16 hex digits of their SHA-256.
A list of part names stands for the concatenation of those parts.
quote: the bytes as received. each "prefix": every proper prefix of it ends as the case says; \
each "bit": every flip of one of the bits before byte `to` is refused, with whatever code.
collateral: nine members, strings in UTF-8 (a revocation list may be DER). like: the collateral \
of that name, but for the members given here; null: that member is absent. bundle: a whole \
bundle instead, as one JSON object of nine strings.
root: the one root key that is believed. roots: SHA-256 of its SPKI. root_certificates: one of \
its certificates, for verifiers that start from such.
newer_sgx: SGX quotes of versions 4 and 5 are read too (default: not). padded_file: the quote is \
a file, whose zero bytes at the end are dropped (default: they are not).
accept_statuses (default: UpToDate alone), accept_advisories (default: those of UpToDate), \
accept_out_of_date_since (default: no day): OutOfDate is accepted of levels from this day on.
expected: verdict accepted, refused or undecided; code of ratls; class of docs/dcap.md 4.11; \
tcb_status and advisory_ids where the quote is genuine, whether accepted or not.
differs: why the answer is not the one in the column of docs/dcap.md 5.
"""
# Lines, or parts of them, that speak of more than one verdict on some bytes.
ELSEWHERE: dict[str, list[str]] = {
    "N174": ["tests/verifier/test_td.py::test_domain_with_an_attribute_that_is_not_allowed"],
    "N175": ["tests/verifier/test_td.py::test_domain_with_an_attribute_that_is_not_allowed"],
    "N177": [
        "tests/policy/test_admission.py::test_genuine_machine_that_runs_something_else",
        "tests/ratls/test_evidence.py::test_quote_over_something_else",
    ],
    "N211": ["tests/verifier/test_tcb.py::test_caller_asks_to_accept_revoked_or_nothing"],
    "N213": [
        "tests/policy/test_admission.py::test_genuine_evidence_that_is_not_what_was_agreed",
        "tests/policy/test_admission.py::test_genuine_machine_that_runs_something_else",
    ],
    "N214": ["tests/ratls/test_evidence.py::test_quote_over_something_else"],
    "N217": ["tests/verifier/test_validity.py::test_caller_gives_no_real_instant"],
    "N218": [
        "tests/policy/test_admission.py::test_genuine_evidence_that_is_not_what_was_agreed",
        "tests/verifier/test_collateral.py::"
        "test_evaluation_numbers_may_differ_and_the_smaller_counts",
    ],
    "N220": ["tests/verifier/test_contents.py::test_a_cache_replays_what_was_current_before"],
    "N222": ["tests/verifier/test_cases.py::test_caller_changes_its_buffers_between_two_verdicts"],
    "N223": [
        "tests/verifier/test_quote.py::test_garbage_is_a_typed_refusal_or_a_value",
        "tests/verifier/test_pck_chain.py::test_garbage_extension_is_a_typed_refusal",
        "tests/verifier/test_pck_chain.py::"
        "test_one_changed_character_of_the_chain_is_a_typed_refusal",
        "tests/verifier/test_collateral.py::test_garbage_for_a_document_is_a_typed_refusal",
        "tests/verifier/test_crl.py::test_garbage_for_a_list_is_a_typed_refusal",
        "tests/verifier/test_td.py::test_garbage_in_a_quote_of_a_domain_is_a_typed_refusal",
        "tests/verifier/test_td.py::test_signed_garbage_about_a_module_is_a_typed_refusal",
    ],
}


def books() -> dict[str, Book]:
    """Every section, by the name of its file."""
    made = {}
    for section, writers in SECTIONS.items():
        book = Book(section)
        for write in writers:
            write(book)
        book.cases.sort(key=lambda case: case["id"].split("-")[0])
        made[f"cases-{section}.json"] = book
    return made


def index(files: list[str]) -> bytes:
    """`cases.json`."""
    lines = {name: {"section": at.section, "expect": at.expect} for name, at in LINES.items()}
    document = {
        "format": 1,
        "about": ABOUT.splitlines(),
        "files": files,
        "lines": lines,
        "covered_elsewhere": ELSEWHERE,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def main() -> None:
    made = books()
    for name, book in made.items():
        (FOLDER / name).write_bytes(book.encode())
    (FOLDER / "cases.json").write_bytes(index(list(made)))
    count = sum(len(book.cases) for book in made.values())
    print(f"{count} cases in {len(made)} sections")


if __name__ == "__main__":
    main()
