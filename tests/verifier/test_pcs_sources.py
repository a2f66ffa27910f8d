"""T09, T21: several services in turn, requests made again, both technologies; and where it ends."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.intel import DAY
from simulation.serve import Reply
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT, given_time
from tests.verifier.pcs_peer import (
    CHAINS,
    PCK_CRL,
    PUBLISHED,
    QE,
    ROOT_CRL,
    ROOTS,
    TCB,
    TD_QE,
    TD_TCB,
    Alter,
    W,
    as_der,
    body,
    drip,
    fetch,
    fetch_from,
    peer,
    says,
    with_header,
)
from tests.verifier.world import AT
from verifier import Collateral
from verifier import errors as e
from verifier.backoff import Backoff
from verifier.certificate import RootUntrusted
from verifier.collateral import QeIdentitySignatureInvalid, TcbInfoSignatureInvalid
from verifier.crl import CertificateRevoked, CrlSignatureInvalid
from verifier.kind import PlatformKind
from verifier.pcs import CollateralSourcesExhausted, QuotesOfDifferentPlatforms, require_not_older
from verifier.pcs_requests import (
    PcsAnswerTooLarge,
    PcsCertificateUntrusted,
    PcsRedirects,
    PcsRefused,
    PcsTooSlow,
    PcsUnreachable,
    Retries,
)
from verifier.qe import QeIdentityMismatch, QuoteSignatureInvalid
from verifier.quote import QuoteUnsupported, Tee
from verifier.received import ReceivedQuote
from verifier.responses import PcsAnswerMalformed
from verifier.tcb import TcbInfoMismatch
from verifier.validity import CollateralNotCurrent

pytestmark = pytest.mark.slow

TDX = W.collateral(tdx=True)


# Several services


def folders(parent: Path) -> tuple[Path, Path]:
    found = parent / "first", parent / "second"
    for folder in found:
        folder.mkdir()
    return found


def breaks_off(reply: Reply) -> Iterable[bytes]:
    yield b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n1"
    raise OSError


def endless(reply: Reply) -> Iterable[bytes]:
    yield b"HTTP/1.1 200 X\r\nContent-Length: 1073741824\r\n\r\n"
    while True:
        yield b"0" * 65536


NOT_GIVEN: list[Any] = [
    pytest.param({TCB: says(404)}, PcsRefused, id="unknown"),
    pytest.param({QE: says(502)}, PcsRefused, id="502"),
    pytest.param({TCB: says(302, Location="https://x")}, PcsRedirects, id="elsewhere"),
    pytest.param({QE: breaks_off}, PcsUnreachable, id="breaks-off"),
    pytest.param({TCB: endless}, PcsAnswerTooLarge, id="endless"),
    pytest.param({TCB: with_header(CHAINS[TCB], None)}, PcsAnswerMalformed, id="no-chain"),
    pytest.param({QE: with_header(CHAINS[QE], "x")}, PcsAnswerMalformed, id="chain-of-text"),
    pytest.param({TCB: body(lambda _: b"<html>")}, PcsAnswerMalformed, id="a-web-page"),
    pytest.param({TCB: body(lambda raw: raw[:-9])}, PcsAnswerMalformed, id="cut-off"),
    pytest.param({QE: body(lambda _: b"")}, PcsAnswerMalformed, id="empty"),
    pytest.param({QE: body(lambda raw: b"\xef\xbb\xbf" + raw)}, PcsAnswerMalformed, id="BOM"),
    pytest.param({QE: with_header(CHAINS[QE], "undefined")}, PcsAnswerMalformed, id="undefined"),
    pytest.param({PCK_CRL: body(lambda _: b"<html>")}, PcsAnswerMalformed, id="page-as-CRL"),
    pytest.param({ROOT_CRL: body(lambda _: b"")}, PcsAnswerMalformed, id="an-empty-CRL"),
    pytest.param(
        {PCK_CRL: body(lambda raw: as_der(raw)[:-1])}, PcsAnswerMalformed, id="a-CRL-cut-short"
    ),
    pytest.param(
        {PCK_CRL: body(lambda raw: b64encode(as_der(raw)))}, PcsAnswerMalformed, id="base64-CRL"
    ),
    pytest.param(
        {ROOT_CRL: body(lambda raw: b"0x" + as_der(raw).hex().encode())},
        PcsAnswerMalformed,
        id="0x-CRL",
    ),
]


@pytest.mark.parametrize(("altered", "leaf"), NOT_GIVEN)
def test_the_next_service_is_asked_where_one_gives_no_answer(
    tmp_path: Path, altered: dict[str, Alter], leaf: type[e.RatlsError]
) -> None:
    count_refusal()
    first, second = folders(tmp_path)
    with peer(first, PUBLISHED, altered) as one, peer(second, PUBLISHED) as other:
        found = fetch(one, None, other)
    assert found.collateral == PUBLISHED
    assert found.source == other.origin
    assert [(p.source, type(p.refusal)) for p in found.passed_over] == [(one.origin, leaf)]


def test_the_next_service_is_asked_where_nobody_listens(tmp_path: Path) -> None:
    first, second = folders(tmp_path)
    with peer(first, PUBLISHED) as gone:
        pass
    with peer(second, PUBLISHED) as other:
        assert fetch(gone, None, other).source == other.origin


def test_the_next_service_is_asked_where_somebody_else_listens(tmp_path: Path) -> None:
    """Whoever can stand in the way can also cut the line: stopping there would help nobody."""
    first, second = folders(tmp_path)
    with peer(first, PUBLISHED) as one, peer(second, PUBLISHED) as other:
        one.certificate = Path(certifi.where())
        found = fetch(one, None, other)
    assert found.source == other.origin
    assert one.seen == []
    assert isinstance(found.passed_over[0].refusal, PcsCertificateUntrusted)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "drip"])
def test_a_slow_service_leaves_its_share_to_the_next(tmp_path: Path, silent: bool) -> None:
    """It takes what is its own of the time, and not that of all."""
    first, second = folders(tmp_path)
    altered: dict[str, Alter] = {TCB: lambda _: drip(b"H")}
    with (
        peer(first, PUBLISHED, altered, silent=silent) as one,
        peer(second, PUBLISHED) as other,
    ):
        found = given_time(lambda s: fetch(one, None, other, seconds=s), 4, PcsTooSlow)
    assert found.source == other.origin
    assert isinstance(found.passed_over[0].refusal, PcsTooSlow)


def test_a_resolver_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be cancelled; its service is too slow, and the next one gives."""
    count_refusal()
    released, gave_up = threading.Event(), threading.Event()
    genuine = socket.getaddrinfo

    def hangs(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("pccs.invalid", b"pccs.invalid"):
            released.wait(HANG_LIMIT)
            gave_up.set()
            raise socket.gaierror
        return genuine(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with peer(tmp_path, PUBLISHED) as other:
        nowhere = replace(other, origin="https://pccs.invalid:8081")
        found = given_time(lambda s: fetch(nowhere, None, other, seconds=s), 2, PcsTooSlow)
    assert not gave_up.is_set()
    released.set()
    assert found.source == other.origin
    assert isinstance(found.passed_over[0].refusal, PcsTooSlow)


def test_a_name_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror

    with peer(tmp_path, PUBLISHED) as place:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        nowhere = replace(place, origin="https://pccs.invalid:8081")
        with refused(PcsUnreachable):
            fetch(nowhere)


def test_the_next_service_is_not_asked_where_the_first_gives(tmp_path: Path) -> None:
    first, second = folders(tmp_path)
    with peer(first, PUBLISHED) as one, peer(second, PUBLISHED) as other:
        found = fetch(one, None, other)
    assert (found.source, found.passed_over, other.seen) == (one.origin, (), [])


@pytest.mark.parametrize("days", [-40, 40], ids=["T08-expired", "T08-not-yet"])
def test_the_next_service_is_asked_where_one_is_not_current(tmp_path: Path, days: int) -> None:
    count_refusal()
    first, second = folders(tmp_path)
    stale = W.collateral(at=AT + days * DAY)
    with peer(first, stale) as one, peer(second, PUBLISHED) as other:
        found = fetch(one, None, other)
    assert found.collateral == PUBLISHED
    assert isinstance(found.passed_over[0].refusal, CollateralNotCurrent)


def test_the_next_service_is_asked_where_newer_is_known(tmp_path: Path) -> None:
    """T09: the first replays last week; whoever calls knows of yesterday."""
    count_refusal()
    first, second = folders(tmp_path)
    known = W.collateral(at=AT - DAY)
    with (
        peer(first, W.collateral(at=AT - 7 * DAY)) as one,
        peer(second, PUBLISHED) as other,
    ):
        found = fetch(one, None, other, require=lambda c: require_not_older(c, known, ROOTS))
    assert found.collateral == PUBLISHED
    assert isinstance(found.passed_over[0].refusal, e.CollateralRolledBack)


TWIN = W.intel.twin()
FORGED: list[Any] = [
    pytest.param(
        {TCB: body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate"))},
        TcbInfoSignatureInvalid,
        id="T01-altered",
    ),
    pytest.param(
        {QE: body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate"))},
        QeIdentitySignatureInvalid,
        id="T02-altered",
    ),
    pytest.param(
        {PCK_CRL: body(lambda raw: as_der(raw)[:-1] + bytes([as_der(raw)[-1] ^ 1]))},
        CrlSignatureInvalid,
        id="CRL-altered",
    ),
    pytest.param(
        {ROOT_CRL: body(lambda _: PUBLISHED.pck_crl)}, e.CrlOfAnotherIssuer, id="CRL-of-another"
    ),
    pytest.param(
        {TCB: with_header(CHAINS[TCB], quote(TWIN.tcb_signer.pem + TWIN.root.pem))},
        RootUntrusted,
        id="another-root",
    ),
]


def require_asked_alone(
    tmp_path: Path,
    leaf: type[e.RatlsError],
    published: Collateral = PUBLISHED,
    altered: dict[str, Alter] | None = None,
    quotes: dict[str, bytes] | None = None,
) -> None:
    """The first service's answer is refused, and the second, a genuine one, is not asked."""
    first, second = folders(tmp_path)
    with (
        peer(first, published, altered) as one,
        peer(second, PUBLISHED) as other,
        refused(leaf) as seen,
    ):
        fetch(one, quotes, other)
    assert other.seen == []
    # What is wrong with the documents is said of the service, and the rest of the quote.
    assert seen.error.thing.startswith(one.origin if altered else "q.bin")


@pytest.mark.parametrize(("altered", "leaf"), FORGED)
def test_nobody_else_is_asked_after_a_forgery(
    tmp_path: Path, altered: dict[str, Alter], leaf: type[e.RatlsError]
) -> None:
    """An attack on the first must not be papered over by the second."""
    require_asked_alone(tmp_path, leaf, altered=altered)


def test_nobody_else_is_asked_whether_a_revoked_platform_is_good(tmp_path: Path) -> None:
    """Going on would look for a service that has not heard of it yet."""
    revoked = W.collateral(pck_crl=lambda c: replace(c, revoked=(W.platform.pck.serial,)))
    require_asked_alone(tmp_path, CertificateRevoked, revoked)


def test_nobody_else_is_asked_about_a_forged_quote(tmp_path: Path) -> None:
    forged = W.quote(form=lambda f: replace(f, signature=bytes(64)))
    require_asked_alone(tmp_path, QuoteSignatureInvalid, quotes={"q.bin": forged})


def test_none_of_several_gives(tmp_path: Path) -> None:
    """The refusal names each of them, and why."""
    first, second = folders(tmp_path)
    with (
        peer(first, PUBLISHED, {TCB: says(461)}) as one,
        peer(second, W.collateral(at=AT - 40 * DAY)) as other,
        refused(CollateralSourcesExhausted) as seen,
    ):
        fetch(one, None, other)
    for named in (one.origin, "pcs-refused", other.origin, "collateral-not-current"):
        assert named in seen.error.found
    assert one.origin in seen.error.fix
    assert other.origin in seen.error.fix


# Requests made again


@dataclass
class Waiting:
    """Pauses that are noted instead of made, each as long as it may be."""

    number: int = 3
    pauses: list[float] = field(default_factory=list)
    drawn: float = 1.0

    def retries(self, **options: Any) -> Retries:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        return Retries(self.number, sleep=sleep, random=lambda: self.drawn, **options)


def at_first(alter: Alter, times: int) -> Alter:
    """The altered reply so many times, and then the genuine one."""
    left = [alter] * times

    def altered(reply: Reply) -> Reply | Iterable[bytes]:
        return left.pop()(reply) if left else reply

    return altered


PASSING: list[Any] = [
    pytest.param(says(408), id="408"),
    pytest.param(says(429), id="429"),
    pytest.param(says(500), id="500"),
    pytest.param(says(502), id="502"),
    pytest.param(says(503), id="503"),
    pytest.param(says(504), id="504"),
    pytest.param(breaks_off, id="breaks-off"),
]


@pytest.mark.parametrize("path", [ROOT_CRL, TCB])
@pytest.mark.parametrize("alter", PASSING)
def test_what_passes_is_asked_for_again(tmp_path: Path, path: str, alter: Alter) -> None:
    waiting = Waiting()
    found = fetch_from(tmp_path, {path: at_first(alter, 3)}, retries=waiting.retries())
    assert found.collateral == PUBLISHED
    assert waiting.pauses == [0.5, 1.0, 2.0]
    at_once = Waiting(drawn=0.0)
    fetch_from(tmp_path, {path: at_first(alter, 3)}, retries=at_once.retries())
    assert at_once.pauses == [0.0, 0.0, 0.0]


def test_nobody_listens_however_often_it_is_tried(tmp_path: Path) -> None:
    waiting = Waiting()
    with peer(tmp_path, PUBLISHED) as gone:
        pass
    with refused(PcsUnreachable):
        fetch(gone, retries=waiting.retries())
    assert waiting.pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_it_is_not_asked_for_for_ever(tmp_path: Path, number: int) -> None:
    waiting = Waiting(number)
    with peer(tmp_path, PUBLISHED, {ROOT_CRL: says(503)}) as place, refused(PcsRefused):
        fetch(place, retries=waiting.retries())
    assert place.seen == [ROOT_CRL] * (number + 1)
    assert len(waiting.pauses) == number


@pytest.mark.parametrize(
    ("asked", "pause"),
    [
        ("0", 0.5),
        ("3", 3.5),
        ("999999", 8.5),
        ("9" * 400, 0.5),
        ("-3", 0.5),
        ("1.5", 0.5),
        ("Wed, 25 Nov 2026 12:00:00 GMT", 0.5),  # the present
        ("Wed, 25 Nov 2026 12:00:03 GMT", 3.5),
        ("Wed, 25 Nov 2026 11:59:57 GMT", 0.5),
        ("Thu, 25 Nov 2027 12:00:00 GMT", 8.5),
        ("Tue, 31 Nov 2026 12:00:03 GMT", 0.5),  # no such day
        ("Wednesday, 25-Nov-26 12:00:03 GMT", 0.5),
        ("Wed, 25 Nov 2026 12:00:03 CET", 0.5),
        ("", 0.5),
    ],
)
def test_a_service_asks_for_a_pause(tmp_path: Path, asked: str, pause: float) -> None:
    """It gets one, up to a bound: it must not put us to sleep for a year."""
    waiting = Waiting()
    altered = {QE: at_first(says(429, Retry_After=asked), 1)}
    fetch_from(tmp_path, altered, retries=waiting.retries())
    assert waiting.pauses == [pause]


def test_a_pause_that_would_outlast_the_time_is_not_made(tmp_path: Path) -> None:
    """And the refusal says what was wrong, not that time ran out."""
    waiting = Waiting()
    altered = {QE: says(503, Retry_After=str(2 * int(HANG_LIMIT)))}
    with refused(PcsRefused):
        patient = waiting.retries(backoff=Backoff(0.5, 2 * HANG_LIMIT, 0.0))
        fetch_from(tmp_path, altered, retries=patient)
    assert waiting.pauses == []


NOT_PASSING: list[Any] = [
    *(
        pytest.param(says(s), PcsRefused, id=str(s))
        for s in (400, 401, 403, 404, 405, 409, 410, 460, 461, 462)
    ),
    pytest.param(says(302, Location="https://x"), PcsRedirects, id="302"),
    pytest.param(says(200, Content_Encoding="gzip"), PcsAnswerMalformed, id="packed"),
    pytest.param(endless, PcsAnswerTooLarge, id="endless"),
    pytest.param(body(lambda _: b"<html>"), PcsAnswerMalformed, id="a-web-page"),
    pytest.param(
        body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate")),
        TcbInfoSignatureInvalid,
        id="T01-altered",
    ),
]


@pytest.mark.parametrize(("alter", "leaf"), NOT_PASSING)
def test_what_asking_again_cannot_help(
    tmp_path: Path, alter: Alter, leaf: type[e.RatlsError]
) -> None:
    waiting = Waiting()
    with peer(tmp_path, PUBLISHED, {TCB: alter}) as place, refused(leaf):
        fetch(place, retries=waiting.retries())
    assert waiting.pauses == []
    assert [target.partition("?")[0] for target in place.seen].count(TCB) == 1


def test_a_certificate_that_is_not_believed_is_not_asked_again(tmp_path: Path) -> None:
    waiting = Waiting()
    with peer(tmp_path, PUBLISHED) as place, refused(PcsCertificateUntrusted):
        place.certificate = Path(certifi.where())
        fetch(place, retries=waiting.retries())
    assert waiting.pauses == []


@given(st.integers(0, 2000), st.floats(0, 1e9, allow_nan=False))
def test_pauses_are_bounded(turn: int, asked_for: float) -> None:
    retries = Retries()
    assert 0 <= retries.pause(turn, asked_for) <= 2 * retries.backoff.most


def test_pauses_differ() -> None:
    """Full jitter: a hundred who were turned away together come back apart."""
    assert len({Retries().pause(4, 0) for _ in range(100)}) > 90


STATUSES = [400, 401, 403, 404, 405, 408, 410, 429, 460, 461, 462, 502, 503, 504]


def test_each_status_that_means_something_has_a_fix_of_its_own(tmp_path: Path) -> None:
    fixes = {PcsRefused.default_fix}
    for status in STATUSES:
        with refused(PcsRefused) as seen:
            fetch_from(tmp_path, {TCB: says(status)})
        assert seen.error.found == str(status)
        fixes.add(seen.error.fix)
    assert len(fixes) == len(STATUSES) + 1


# Trust domains


@pytest.mark.parametrize("version", [4, 5])
def test_a_trust_domain_has_paths_of_its_own(tmp_path: Path, version: int) -> None:
    quotes = {"td.bin": W.platform.td_quote(version=version)}
    with peer(tmp_path, PUBLISHED, tdx=TDX) as place:
        found = fetch(place, quotes)
    assert place.seen == [
        ROOT_CRL,
        f"{PCK_CRL}?ca=platform&encoding=der",
        f"{TD_TCB}?fmspc=00606A000000",
        TD_QE,
    ]
    assert found.collateral == TDX
    assert found.contents.tcb_info.tee is Tee.TDX
    assert found.verified[0].tcb.status == "UpToDate"


def test_early_collateral_of_a_trust_domain(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED, tdx=TDX) as place:
        fetch(place, {"td.bin": W.platform.td_quote()}, early=True)
    assert place.seen[2:] == [f"{TD_TCB}?fmspc=00606A000000&update=early", f"{TD_QE}?update=early"]


def test_a_service_that_knows_the_platform_for_enclaves_alone(tmp_path: Path) -> None:
    with refused(PcsRefused):
        fetch_from(tmp_path, {}, quotes={"td.bin": W.platform.td_quote()})


def answered_with(path: str) -> Alter:
    """The genuine reply to another question."""
    genuine = {
        TCB: ("tcbInfo", PUBLISHED.tcb_info, PUBLISHED.tcb_info_signature),
        QE: ("enclaveIdentity", PUBLISHED.qe_identity, PUBLISHED.qe_identity_signature),
    }
    member, text, signature = genuine[path]
    return body(lambda _: f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode())


@pytest.mark.parametrize(
    ("altered", "leaf"),
    [
        pytest.param({TD_TCB: answered_with(TCB)}, TcbInfoMismatch, id="T06-TCB-info"),
        pytest.param({TD_QE: answered_with(QE)}, QeIdentityMismatch, id="T05-QE"),
    ],
)
def test_enclave_collateral_for_a_trust_domain(
    tmp_path: Path, altered: dict[str, Alter], leaf: type[e.RatlsError]
) -> None:
    """Genuine, and it says nothing of TDX module and TD quoting enclave."""
    with peer(tmp_path, PUBLISHED, altered, tdx=TDX) as place, refused(leaf):
        fetch(place, {"td.bin": W.platform.td_quote()})


def test_an_enclave_and_a_trust_domain_of_one_platform(tmp_path: Path) -> None:
    """One bundle is for one technology."""
    quotes = {"a.bin": W.quote(), "td.bin": W.platform.td_quote()}
    with (
        peer(tmp_path, PUBLISHED, tdx=TDX) as place,
        refused(QuotesOfDifferentPlatforms),
    ):
        fetch(place, quotes)
    assert place.seen == []


@pytest.mark.parametrize("version", [4, 5])
def test_newer_quotes_of_enclaves_are_read_where_asked_for(tmp_path: Path, version: int) -> None:
    quotes = {"q.bin": W.platform.quote(version=version)}
    found = fetch_from(tmp_path, {}, quotes=quotes, newer_sgx=True)
    assert found.collateral == PUBLISHED
    with refused(QuoteUnsupported):
        fetch_from(tmp_path, {}, quotes=quotes)


def test_what_a_quote_decides_about_a_request() -> None:
    expected = PlatformKind(Tee.SGX, W.platform.tcb.fmspc, "platform")
    assert ReceivedQuote(W.quote()).kind(ROOTS) == expected
    assert ReceivedQuote(W.platform.td_quote()).kind(ROOTS).tee is Tee.TDX


def test_a_bundle_says_when_it_was_fetched(tmp_path: Path) -> None:
    """A remark: another one, or none, is the same bundle."""
    found = fetch_from(tmp_path, {})
    assert found.collateral.fetched == "2026-11-25T12:00:00Z"
    assert Collateral.parse(found.collateral.raw) == PUBLISHED


def test_a_bundle_judges_the_same_quote_in_ten_years(tmp_path: Path) -> None:
    """With what the file holds and the instant of then, and nothing else."""
    found = fetch_from(tmp_path, {})
    again = W.verify(collateral=Collateral.parse(found.collateral.raw))
    assert (again.tcb, again.window) == (found.verified[0].tcb, found.verified[0].window)


def test_peers_are_each_believed_by_their_own_certificate(tmp_path: Path) -> None:
    """The one of the first says nothing for the second."""
    first, second = folders(tmp_path)
    with peer(first, PUBLISHED, {TCB: says(404)}) as one, peer(second, PUBLISHED) as other:
        honest = other.certificate
        other.certificate = one.certificate
        with refused(CollateralSourcesExhausted):
            fetch(one, None, other)
        other.certificate = honest
        assert isinstance(fetch(one, None, other).source, str)
