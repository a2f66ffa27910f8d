"""A folder of what `curl` left: the same bundle as over the wire, or a refusal by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from simulation.serve import reply_to
from tests.support.refusal import count_refusal, refused
from tests.verifier.pcs_peer import PCK_CRL, PUBLISHED, QE, ROOT_CRL, TCB, TD_QE, TD_TCB, W, wire
from verifier import Collateral, TrustAnchors, VerifiedQuote, strip_file_padding, verify_quote
from verifier import errors as e
from verifier.bundles import read_collateral
from verifier.certificate import CertificateMalformed
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.crl import CrlMalformed, crl_der
from verifier.document import CollateralMalformed
from verifier.files import FileUnreadable
from verifier.responses import (
    MAX_FILES,
    ResponseFileMissing,
    ResponseFileUnexpected,
    ResponseHeadersMalformed,
    parse_headers,
    read_folder,
)

TDX = W.collateral(tdx=True)


def folder_of(published: Collateral, *, tdx: bool = False) -> dict[str, bytes]:
    """What `curl -D PART.headers -o PART` leaves of a service that has this bundle."""
    ca = "processor" if "Processor" in _authority(published) else "platform"
    fmspc = json.loads(published.tcb_info)["fmspc"]
    tcb, identity = (TD_TCB, TD_QE) if tdx else (TCB, QE)
    asked = {
        "rootcacrl": ROOT_CRL,
        "pckcrl": f"{PCK_CRL}?ca={ca}&encoding=der",
        "tcb": f"{tcb}?fmspc={fmspc}",
        "identity": identity,
    }
    found = {}
    for name, target in asked.items():
        reply = reply_to(target, published, published if tdx else None)
        found[name] = reply.body
        found[f"{name}.headers"] = wire(replace(reply, body=b""))
    return found


def _authority(published: Collateral) -> str:
    pem = published.pck_crl_issuer_chain.encode()
    return x509.load_pem_x509_certificates(pem)[0].subject.rfc4514_string()


FOLDER = folder_of(PUBLISHED)


def renamed(old: str, new: str) -> dict[str, bytes]:
    return {new if name == old else name: raw for name, raw in FOLDER.items()}


def without(*names: str) -> dict[str, bytes]:
    return {name: raw for name, raw in FOLDER.items() if name not in names}


def changed(name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    return {**FOLDER, name: change(FOLDER[name])}


# What is read


def test_a_folder_is_the_bundle_that_was_served() -> None:
    assert read_folder(FOLDER) == PUBLISHED


def test_a_folder_for_trust_domains() -> None:
    found = read_folder(folder_of(TDX, tdx=True))
    assert found == TDX
    assert W.verify(quote=W.platform.td_quote(), collateral=found).tcb.status == "UpToDate"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rootcacrl", "IntelSGXRootCA.der"),
        ("pckcrl", "pckcrl.der"),
        ("pckcrl", "pckcrl.crl"),
        ("pckcrl.headers", "pckcrl.der.headers"),
        ("tcb", "tcb.json"),
        ("tcb.headers", "tcb.json.headers"),
        ("identity", "identity.json"),
    ],
)
def test_a_body_may_be_named_after_its_form(old: str, new: str) -> None:
    assert read_folder(renamed(old, new)) == PUBLISHED


def test_the_root_list_needs_no_headers() -> None:
    assert read_folder(without("rootcacrl.headers")) == PUBLISHED


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: raw.replace(b"\r\n", b"\n"), id="LF"),
        pytest.param(lambda raw: raw.rstrip(b"\r\n"), id="no-end"),
        pytest.param(lambda raw: raw.partition(b"\r\n")[2], id="no-status-line"),
        pytest.param(lambda raw: raw.replace(b"HTTP/1.1 200 X", b"HTTP/2 200"), id="HTTP/2"),
        pytest.param(
            lambda raw: raw.replace(b"TCB-Info-Issuer", b"tcb-info-ISSUER"), id="names-in-any-case"
        ),
        pytest.param(lambda raw: raw.replace(b"%2B", b"%2b"), id="escapes-in-any-case"),
        pytest.param(
            lambda raw: b"HTTP/1.1 200 Connection established\r\n\r\n" + raw, id="through-a-proxy"
        ),
        pytest.param(lambda raw: b"HTTP/1.1 503 Busy\r\nX: y\r\n\r\n" + raw, id="tried-again"),
        pytest.param(lambda raw: raw.replace(b"%2B", b"+"), id="bare-plus"),
    ],
)
def test_headers_as_they_are_kept(change: Callable[[bytes], bytes]) -> None:
    assert change(FOLDER["tcb.headers"]) != FOLDER["tcb.headers"]
    assert read_folder(changed("tcb.headers", change)) == PUBLISHED


# The forms of revocation lists


def der_of(stored: bytes) -> bytes:
    return crl_der(stored, "CRL")


def pem_of(stored: bytes) -> bytes:
    return x509.load_der_x509_crl(der_of(stored)).public_bytes(Encoding.PEM)


FORMS: list[Any] = [
    pytest.param(der_of, id="DER"),
    pytest.param(pem_of, id="PEM"),
    pytest.param(lambda raw: b"\r\n " + pem_of(raw).replace(b"\n", b"\r\n"), id="PEM-CRLF"),
    pytest.param(lambda raw: der_of(raw).hex().encode(), id="hex"),
    pytest.param(lambda raw: der_of(raw).hex().upper().encode(), id="HEX"),
    pytest.param(lambda raw: b" \t\r\n" + der_of(raw).hex().encode() + b"\n\0", id="hex-spaced"),
]


def same(found: VerifiedQuote) -> tuple[Any, ...]:
    return found.tcb, found.window, found.platform, found.appraisal.records


@pytest.mark.parametrize("name", ["rootcacrl", "pckcrl"])
@pytest.mark.parametrize("write", FORMS)
def test_n093_each_form_of_a_list_gives_the_identical_verdict(
    name: str, write: Callable[[bytes], bytes]
) -> None:
    found = read_folder(changed(name, write))
    assert same(W.verify(collateral=found)) == same(W.verify(collateral=PUBLISHED))


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
@pytest.mark.parametrize("write", FORMS[1:])  # JSON has no place for DER
def test_n093_the_same_in_a_bundle(name: str, write: Callable[[bytes], bytes]) -> None:
    members = json.loads(PUBLISHED.raw)
    members[name] = write(members[name].encode()).decode("ascii")
    found = Collateral.parse(json.dumps(members).encode())
    assert same(W.verify(collateral=found)) == same(W.verify(collateral=PUBLISHED))


@pytest.mark.parametrize("name", ["rootcacrl", "pckcrl"])
@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda raw: b"", e.CrlMissing, id="empty"),
        pytest.param(lambda raw: b" \n", e.CrlMissing, id="white-space"),
        pytest.param(lambda raw: b"abc", CrlMalformed, id="half-a-byte"),
        pytest.param(lambda raw: b"\\x30", CrlMalformed, id="escaped"),
        pytest.param(lambda raw: pem_of(raw)[:-3], CrlMalformed, id="PEM-cut"),
        pytest.param(lambda raw: b"<html>", CrlMalformed, id="a-web-page"),
    ],
)
def test_a_list_in_no_form(
    name: str, change: Callable[[bytes], bytes], leaf: type[e.RatlsError]
) -> None:
    with refused(leaf):
        read_folder(changed(name, change))


# What is refused


@pytest.mark.parametrize(
    "name",
    ["notes", "tcb.bak", "tcb.json.gz", ".headers", ".json", "", "tcb\n", "..", "qve", "\u0442cb"],
)
def test_a_file_that_is_no_part(name: str) -> None:
    """A name that we do not know may be the one that its owner relies on."""
    with refused(ResponseFileUnexpected):
        read_folder({**FOLDER, name: b"x"})


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("tcb", "tcb.json"),
        ("identity", "identity.json"),
        ("rootcacrl", "IntelSGXRootCA.der"),
        ("pckcrl", "pckcrl.pem"),
        ("tcb.headers", "tcb.json.headers"),
    ],
)
def test_a_part_that_is_there_twice(name: str, also: str) -> None:
    """Equal ones too: with the next renewal, one of them stays behind."""
    with refused(ResponseFileUnexpected):
        read_folder({**FOLDER, also: FOLDER[name]})


@pytest.mark.parametrize("name", [n for n in FOLDER if n != "rootcacrl.headers"])
def test_a_part_that_is_missing(name: str) -> None:
    with refused(ResponseFileMissing):
        read_folder(without(name))


HEADERS: list[Any] = [
    pytest.param(lambda raw: b"", id="empty"),
    pytest.param(lambda raw: raw.replace(b" 200 ", b" 404 "), id="404"),
    pytest.param(lambda raw: raw + b"HTTP/1.1 404 X\r\nA: b\r\n\r\n", id="404-at-last"),
    pytest.param(lambda raw: b"HTTP/1.1 200 X\r\nA: b\r\n\r\n", id="no-chain"),
    pytest.param(lambda raw: raw.replace(b"-Issuer-", b"-Issuer_"), id="another-name"),
    pytest.param(lambda raw: raw.replace(b"Content-Length", b"Content Length"), id="no-header"),
    pytest.param(lambda raw: raw.replace(b"\r\nContent", b"\r\n Content"), id="folded"),
    pytest.param(lambda raw: b"<html>", id="a-web-page"),
    pytest.param(lambda raw: raw.rstrip() + b"\r\n" + raw.split(b"\r\n")[1], id="twice"),
    pytest.param(lambda raw: raw.replace(b"%0A", b"%FF", 1), id="not-ASCII"),
]


@pytest.mark.parametrize("name", ["pckcrl.headers", "tcb.headers", "identity.headers"])
@pytest.mark.parametrize("change", HEADERS)
def test_headers_that_are_none(name: str, change: Callable[[bytes], bytes]) -> None:
    assert change(FOLDER[name]) != FOLDER[name]
    with refused(ResponseHeadersMalformed):
        read_folder(changed(name, change))


@pytest.mark.parametrize("name", ["pckcrl.headers", "tcb.headers", "identity.headers"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: raw.replace(b"%20", b"+"), id="form-encoded"),
        pytest.param(lambda raw: raw.replace(b"%0A", b"%0", 1), id="half-an-escape"),
        pytest.param(lambda raw: raw[: len(raw) // 2], id="cut"),
    ],
)
def test_a_chain_that_is_none(name: str, change: Callable[[bytes], bytes]) -> None:
    with refused(CertificateMalformed):
        read_folder(changed(name, change))


@pytest.mark.parametrize("name", ["tcb", "identity"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: raw[:-1] + b',"x":1}', id="unsigned-member"),
        pytest.param(
            lambda raw: raw.replace(b',"signature":', b',"x":{},"signature":'),
            id="unsigned-between",
        ),
        pytest.param(lambda raw: raw + b"x", id="trailing"),
    ],
)
def test_a_document_that_is_none(name: str, change: Callable[[bytes], bytes]) -> None:
    with refused(CollateralMalformed):
        read_folder(changed(name, change))


def test_documents_that_changed_places() -> None:
    with refused(CollateralMalformed):
        read_folder({**FOLDER, "tcb": FOLDER["identity"], "identity": FOLDER["tcb"]})


def test_a_folder_is_believed_no_more_than_a_bundle() -> None:
    """T01: it is read without complaint, and refused where signatures are looked at."""
    found = read_folder(changed("tcb", lambda raw: raw.replace(b"OutOfDate", b"UpToDate")))
    with refused(TcbInfoSignatureInvalid):
        W.verify(collateral=found)


@pytest.mark.parametrize("end", [b"", b"\0"])
def test_a_header_of_blanks_alone_costs_no_more_than_its_length(end: bytes) -> None:
    """Three patterns that all take blanks would try every way to share 60,000 of them: for days."""
    raw = b"SGX-TCB-Info:" + b" " * 60_000 + end
    if end:
        with refused(ResponseHeadersMalformed):
            parse_headers("tcb.headers", raw)
    else:
        assert parse_headers("tcb.headers", raw) == ((b"SGX-TCB-Info", b""),)


@given(st.binary(max_size=300))
def test_any_bytes_are_headers_or_a_refusal(raw: bytes) -> None:
    count_refusal()
    try:
        found = parse_headers("tcb.headers", raw)
    except ResponseHeadersMalformed:
        return
    for name, value in found:
        assert b":" not in name
        assert not {b"\r"[0], b"\n"[0]} & {*name, *value}


@given(
    st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(FOLDER)), st.binary(), max_size=9)
)
def test_any_files_are_a_bundle_or_a_refusal(files: Mapping[str, bytes]) -> None:
    count_refusal()
    with pytest.raises(e.RatlsError):
        read_folder(files)


# From the disk


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def test_a_folder_and_a_bundle_are_both_read(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(PUBLISHED.raw)
    assert read_collateral(tmp_path / "b.json") == PUBLISHED
    assert read_collateral(write(tmp_path / "pcs", FOLDER)) == PUBLISHED


def test_nothing_is_there(tmp_path: Path) -> None:
    with refused(FileUnreadable):
        read_collateral(tmp_path / "none")


def test_an_empty_folder(tmp_path: Path) -> None:
    with refused(ResponseFileMissing):
        read_collateral(write(tmp_path / "pcs", {}))


def test_a_folder_in_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "pcs", without("rootcacrl.headers"))
    (folder / "more").mkdir()
    with refused(FileUnreadable):
        read_collateral(folder)


def test_a_folder_of_a_million_files(tmp_path: Path) -> None:
    """Nobody reads them all before saying so."""
    many = {f"tcb{n}": b"" for n in range(MAX_FILES + 1)}
    with refused(FileUnreadable):
        read_collateral(write(tmp_path / "pcs", many))


def test_an_answer_of_a_gigabyte(tmp_path: Path) -> None:
    folder = write(tmp_path / "pcs", without("tcb"))
    with (folder / "tcb").open("wb") as file:
        file.truncate(1 << 30)
    with refused(FileUnreadable):
        read_collateral(folder)


def test_genuine_collateral_as_a_folder(vectors: Path) -> None:
    """Intel's own documents, laid out as its service carries them, give the verdict they gave."""
    index, seen = json.loads((vectors / "index.json").read_text("utf-8")), set()
    for quoted in index["quotes"]:
        for case in quoted["cases"]:
            name = case.get("collateral")
            if not name or name in seen or case["expected"]["outcome"] != "verified":
                continue
            seen.add(name)
            raw = strip_file_padding((vectors / quoted["file"]).read_bytes())
            published = Collateral.parse((vectors / name).read_bytes())
            tdx = json.loads(published.tcb_info)["id"] == "TDX"
            at = datetime.fromtimestamp(case["time"], UTC)
            verdicts = [
                verify_quote(raw, found, roots=TrustAnchors.intel(), at=at)
                for found in (published, read_folder(folder_of(published, tdx=tdx)))
            ]
            assert same(verdicts[0]) == same(verdicts[1])
    assert len(seen) >= 10
