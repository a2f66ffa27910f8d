"""T04 to T08 over the wire: answers that are altered, cut, split or somebody else's."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.intel import DAY
from simulation.serve import Reply
from tests.support.refusal import count_refusal, refused
from tests.verifier.pcs_peer import (
    CHAINS,
    PCK_CRL,
    PUBLISHED,
    QE,
    ROOT_CRL,
    TCB,
    Alter,
    W,
    as_der,
    body,
    fetch_from,
    wire,
    with_header,
)
from tests.verifier.world import AT, put
from verifier import Collateral
from verifier import errors as e
from verifier.certificate import (
    CertificateMalformed,
    CertificateNotIssued,
    CertificateRoleWrong,
    RootUntrusted,
)
from verifier.crl import CertificateRevoked, CrlSignatureInvalid
from verifier.document import CollateralMalformed
from verifier.qe import QeIdentityMismatch, QuoteSignatureInvalid
from verifier.responses import Answer, PcsAnswerMalformed
from verifier.tcb import TcbInfoMismatch
from verifier.validity import CollateralNotCurrent
from verifier.verify import QuoteCheck

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", CHAINS)
def test_a_chain_header_is_missing(tmp_path: Path, path: str) -> None:
    with refused(PcsAnswerMalformed):
        fetch_from(tmp_path, {path: with_header(CHAINS[path], None)})


@pytest.mark.parametrize("path", CHAINS)
def test_a_chain_header_comes_twice(tmp_path: Path, path: str) -> None:
    """Which of them counts would depend on who reads; equal ones are refused too."""

    def twice(reply: Reply) -> Iterable[bytes]:
        return [wire(reply, [(CHAINS[path], reply.headers[CHAINS[path]])])]

    with refused(PcsAnswerMalformed):
        fetch_from(tmp_path, {path: twice})


SIGNER, ROOT = W.intel.tcb_signer.pem, W.intel.root.pem
TWIN = W.intel.twin()


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        pytest.param(quote(SIGNER), PcsAnswerMalformed, id="one-certificate"),
        pytest.param(quote(SIGNER + ROOT + ROOT), PcsAnswerMalformed, id="three"),
        pytest.param(quote_plus(SIGNER + ROOT), PcsAnswerMalformed, id="form-encoded"),
        pytest.param(quote(SIGNER + ROOT) + ", x", PcsAnswerMalformed, id="list"),
        pytest.param("", PcsAnswerMalformed, id="empty"),
        pytest.param("undefined", PcsAnswerMalformed, id="undefined"),
        pytest.param("%FF%FE", PcsAnswerMalformed, id="not-UTF-8"),
        pytest.param(quote(ROOT + SIGNER), CertificateRoleWrong, id="reversed"),
        pytest.param(quote(TWIN.tcb_signer.pem + TWIN.root.pem), RootUntrusted, id="another-root"),
        pytest.param(quote(TWIN.tcb_signer.pem + ROOT), CertificateNotIssued, id="another-signer"),
    ],
)
def test_another_chain_in_the_header(tmp_path: Path, text: str, leaf: type[e.RatlsError]) -> None:
    with refused(leaf):
        fetch_from(tmp_path, {TCB: with_header(CHAINS[TCB], text)})


BODIES: list[Any] = [
    pytest.param(lambda raw: b"", id="empty"),
    pytest.param(lambda raw: b"<html>", id="a-web-page"),
    pytest.param(lambda raw: raw + raw, id="T04-twice"),
    pytest.param(lambda raw: raw + b"x", id="T04-trailing"),
    pytest.param(lambda raw: b"\xef\xbb\xbf" + raw, id="T04-BOM"),
    pytest.param(lambda raw: raw.decode().encode("utf-16"), id="T04-UTF-16"),
    pytest.param(lambda raw: raw[:-1] + b',"x":1}', id="unsigned-member"),
    pytest.param(
        lambda raw: raw.replace(b',"signature":', b',"x":{},"signature":'), id="unsigned-between"
    ),
    pytest.param(lambda raw: raw[:-1] + b',"signature":""}', id="T04-member-twice"),
    pytest.param(lambda raw: raw.replace(b'"version":', b'"version":3,"version":', 1), id="inside"),
    pytest.param(lambda raw: raw[:-2] + b'0"}', id="longer-signature"),
    pytest.param(lambda raw: raw[:-4] + b'"}', id="shorter-signature"),
    pytest.param(lambda raw: raw[:-4] + b'zz"}', id="T04-not-hex"),
    pytest.param(
        lambda raw: b'{"signature":"' + raw[-130:-2] + b'",' + raw[1 : raw.rindex(b",")] + b"}",
        id="signature-first",
    ),
    pytest.param(
        lambda raw: raw.replace(b'"tcbInfo"', b'"tcbinfo"', 1).replace(
            b'"enclaveIdentity"', b'"enclaveidentity"', 1
        ),
        id="another-name",
    ),
    pytest.param(lambda raw: b'{"a":' * 100_000, id="N126-depth"),
]


@pytest.mark.parametrize("path", [TCB, QE])
@pytest.mark.parametrize("change", BODIES)
def test_a_document_that_cannot_be_read(
    tmp_path: Path, path: str, change: Callable[[bytes], bytes]
) -> None:
    with refused(PcsAnswerMalformed) as seen:
        fetch_from(tmp_path, {path: body(change)})
    # The service and the document, and never the quote.
    assert seen.error.thing.startswith("https://127.0.0.1:")
    assert path in seen.error.thing
    assert "q.bin" not in str(seen.error)


def answer(raw: bytes) -> Answer:
    return Answer("https://x", (), raw)


SIGNED = b'{"tcbInfo":{"a":"}","b":[1,{}]},"signature":"' + b"aB" * 64 + b'"}'


def test_the_signed_text_is_cut_out_as_it_came() -> None:
    assert answer(SIGNED).signed("tcbInfo") == ('{"a":"}","b":[1,{}]}', "aB" * 64)


def test_a_text_that_imitates_the_end_stays_inside() -> None:
    """The string holds what looks like the second member; the signed text does not end there."""
    inner = b'{"a":"},\\"signature\\":\\"' + b"00" * 64 + b'\\"}"}'
    raw = b'{"tcbInfo":' + inner + b',"signature":"' + b"ab" * 64 + b'"}'
    assert answer(raw).signed("tcbInfo") == (inner.decode(), "ab" * 64)


def test_every_prefix_of_a_document_is_refused() -> None:
    count_refusal()
    for size in range(len(SIGNED)):
        with pytest.raises(CollateralMalformed):
            answer(SIGNED[:size]).signed("tcbInfo")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_for_a_document(raw: bytes) -> None:
    with refused(CollateralMalformed):
        answer(raw).signed("tcbInfo")


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: quote(text).encode()))
def test_any_header_that_is_no_chain_is_a_refusal(value: bytes) -> None:
    count_refusal()
    with pytest.raises((PcsAnswerMalformed, CertificateMalformed)):
        Answer("https://x", ((b"X", value),), b"").chain("x")


@given(st.binary(max_size=80))
def test_escapes_are_those_that_everybody_decodes(inside: bytes) -> None:
    """The chain's own bytes, whichever of them are written as escapes and in either case."""
    pem = PUBLISHED.tcb_info_issuer_chain.encode()
    escaped = b"".join(b"%%%02x" % c if c in inside or c in b"\r\n%" else b"%c" % c for c in pem)
    assert Answer("https://x", ((b"x", escaped),), b"").chain("X") == pem.decode()


@pytest.mark.parametrize("path", [ROOT_CRL, PCK_CRL])
@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        pytest.param(lambda raw: b"", PcsAnswerMalformed, id="empty"),
        pytest.param(lambda raw: b"<html>", PcsAnswerMalformed, id="a-web-page"),
        pytest.param(lambda raw: as_der(raw) + b"\0", PcsAnswerMalformed, id="trailing"),
        pytest.param(lambda raw: as_der(raw)[:-1], PcsAnswerMalformed, id="cut"),
        pytest.param(lambda raw: base64.b64encode(as_der(raw)), PcsAnswerMalformed, id="base64"),
        pytest.param(lambda raw: b"0x" + as_der(raw).hex().encode(), PcsAnswerMalformed, id="0x"),
        pytest.param(lambda raw: as_der(raw).hex().encode()[:-2], PcsAnswerMalformed, id="cut-hex"),
        pytest.param(
            lambda raw: as_der(raw)[:-1] + bytes([as_der(raw)[-1] ^ 1]),
            CrlSignatureInvalid,
            id="altered",
        ),
    ],
)
def test_a_revocation_list_that_is_none(
    tmp_path: Path, path: str, change: Callable[[bytes], bytes], leaf: type[e.RatlsError]
) -> None:
    with refused(leaf) as seen:
        fetch_from(tmp_path, {path: body(change)})
    assert seen.error.thing.startswith("https://127.0.0.1:")
    assert "q.bin" not in str(seen.error)


def test_the_revocation_list_of_the_other_authority(tmp_path: Path) -> None:
    """Genuine, complete, and silent about this platform (dcap.md 3.8)."""
    sister = Collateral.parse(W.intel.collateral(W.intel.platform(processor=True)))
    raw = bytes.fromhex(sister.pck_crl.decode())
    with refused(e.CrlOfAnotherIssuer, check=QuoteCheck.PCK_CRL):
        fetch_from(tmp_path, {PCK_CRL: body(lambda _: raw)})


def documents_of(published: Collateral) -> dict[str, Alter]:
    """What makes a service answer with these documents and lists, whatever is asked for."""

    def signed(member: str, text: str, signature: bytes) -> Alter:
        raw = f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()
        return body(lambda _: raw)

    return {
        ROOT_CRL: body(lambda _: published.root_ca_crl),
        PCK_CRL: body(lambda _: published.pck_crl),
        TCB: signed("tcbInfo", published.tcb_info, published.tcb_info_signature),
        QE: signed("enclaveIdentity", published.qe_identity, published.qe_identity_signature),
    }


WRONG: list[Any] = [
    pytest.param({"tcb_info": put(fmspc="00906ED50000")}, TcbInfoMismatch, id="T06-another-FMSPC"),
    pytest.param({"tcb_info": put(pceId="0001")}, TcbInfoMismatch, id="T07-another-PCE"),
    pytest.param({"qe_identity": put(id="TD_QE")}, QeIdentityMismatch, id="T05-TD-QE"),
    pytest.param({"at": AT - 40 * DAY}, CollateralNotCurrent, id="T08-expired"),
    pytest.param({"at": AT + 40 * DAY}, CollateralNotCurrent, id="T08-not-yet"),
    pytest.param(
        {"pck_crl": lambda c: replace(c, revoked=(W.platform.pck.serial,))},
        CertificateRevoked,
        id="revoked",
    ),
]


@pytest.mark.parametrize(("altered", "leaf"), WRONG)
def test_genuine_collateral_that_does_not_vouch(
    tmp_path: Path, altered: dict[str, Any], leaf: type[e.RatlsError]
) -> None:
    """Signed by Intel, and no ground to believe this quote now: nothing to be kept.

    Answered whatever was asked for: a genuine service would not have it under that name.
    """
    published = W.collateral(**altered)
    document = documents_of(published)
    with refused(leaf):
        fetch_from(tmp_path, document, published=PUBLISHED)


def test_an_outdated_platform_is_no_reason_not_to_keep_it(tmp_path: Path) -> None:
    """Whether that is acceptable is another question, asked with this very bundle."""
    old = W.intel.platform(pce_svn=7)
    found = fetch_from(tmp_path, {}, quotes={"q.bin": old.quote()})
    assert found.verified[0].tcb.status == "OutOfDate"


@pytest.mark.parametrize("place", [0, 1])
def test_one_of_several_quotes_is_forged(tmp_path: Path, place: int) -> None:
    quotes = [W.quote(), W.quote()]
    quotes[place] = W.quote(form=lambda f: replace(f, signature=bytes(64)))
    with refused(QuoteSignatureInvalid, check=QuoteCheck.QUOTE_SIGNATURE):
        fetch_from(tmp_path, {}, quotes={"a.bin": quotes[0], "b.bin": quotes[1]})
