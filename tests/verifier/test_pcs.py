"""T20, T21: whom we ask for collateral, what can be made of the question, and who answers."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import certifi
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from simulation.serve import Reply, reply_to
from tests.support.refusal import count_refusal, refused
from tests.verifier.pcs_peer import (
    CHAINS,
    PATHS,
    PCK_CRL,
    PUBLISHED,
    QE,
    ROOT_CRL,
    TCB,
    Alter,
    W,
    as_der,
    body,
    drip,
    fetch,
    fetch_from,
    peer,
    proxy,
    says,
    wire,
    with_header,
)
from tests.verifier.world import World, processor_world
from verifier import Collateral, TrustAnchors, pcs, strip_file_padding
from verifier import errors as e
from verifier.certificate import RootUntrusted
from verifier.files import FileUnreadable
from verifier.kind import PlatformKind
from verifier.pcs import EvaluationNumberNotGiven, QuotesOfDifferentPlatforms
from verifier.pcs_requests import (
    CaFileUnusable,
    PcsAddressMalformed,
    PcsAnswerTooLarge,
    PcsCertificateExpired,
    PcsCertificateOfAnotherHost,
    PcsCertificateUntrusted,
    PcsProxyFailed,
    PcsRedirects,
    PcsRefused,
    PcsTooSlow,
    PcsUnreachable,
    ProxyAddressMalformed,
    Question,
    Service,
    parse_proxy,
    tls_trust,
)
from verifier.quote import QuoteMalformed, QuoteUnsupported, Tee
from verifier.responses import Answers, PcsAnswerMalformed
from verifier.tcb import TcbInfoMismatch

pytestmark = pytest.mark.slow

# The genuine service


@pytest.mark.parametrize("w", [W, processor_world()], ids=["platform", "processor"])
def test_a_bundle_comes_back_as_it_was_published(tmp_path: Path, w: World) -> None:
    with peer(tmp_path, w.collateral()) as place:
        found = fetch(place, {"q.bin": w.quote()}, roots=w.intel.anchors())
    assert found.collateral == w.collateral()
    assert found.verified[0].tcb.status == "UpToDate"
    assert found.contents.tcb_info.fmspc == w.platform.tcb.fmspc


def test_requests_are_those_of_the_interface(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        fetch(place)
    assert place.seen == [
        ROOT_CRL,
        f"{PCK_CRL}?ca=platform&encoding=der",
        f"{TCB}?fmspc=00606A000000",
        QE,
    ]


def test_early_is_asked_for_both_documents(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        fetch(place, early=True)
    assert place.seen[2:] == [f"{TCB}?fmspc=00606A000000&update=early", f"{QE}?update=early"]


def test_several_quotes_of_one_kind_share_a_bundle(tmp_path: Path) -> None:
    sister = W.intel.platform().quote()
    found = fetch_from(tmp_path, {}, quotes={"a.bin": W.quote(), "b.bin": sister})
    assert len(found.verified) == 2


def as_pem(raw: bytes) -> bytes:
    return x509.load_der_x509_crl(as_der(raw)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("path", [ROOT_CRL, PCK_CRL])
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(as_der, id="DER"),
        pytest.param(as_pem, id="PEM"),
        pytest.param(lambda raw: as_der(raw).hex().encode(), id="hex"),
        pytest.param(lambda raw: as_der(raw).hex().upper().encode() + b"\n", id="HEX-line"),
    ],
)
def test_revocation_lists_in_each_form_that_services_use(
    tmp_path: Path, path: str, write: Callable[[bytes], bytes]
) -> None:
    assert fetch_from(tmp_path, {path: body(write)}).collateral == PUBLISHED


@pytest.mark.parametrize("path", CHAINS)
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda pem: quote(pem, safe="+"), id="bare-plus"),
        pytest.param(lambda pem: quote(pem, safe="+/="), id="bare-base64"),
    ],
)
def test_a_chain_whose_base64_a_proxy_left_bare(
    tmp_path: Path, path: str, write: Callable[[str], str]
) -> None:
    """Form decoding, which others use, makes a space of each plus sign."""
    pem = PUBLISHED.tcb_info_issuer_chain if path != PCK_CRL else PUBLISHED.pck_crl_issuer_chain
    assert "+" in pem
    altered = {path: with_header(CHAINS[path], write(pem))}
    assert fetch_from(tmp_path, altered).collateral == PUBLISHED


def test_header_names_of_another_case(tmp_path: Path) -> None:
    def lower(reply: Reply) -> Reply:
        return replace(reply, headers={k.lower(): v for k, v in reply.headers.items()})

    found = fetch_from(tmp_path, dict.fromkeys(PATHS, lower))
    assert found.collateral == PUBLISHED


@pytest.mark.parametrize("path", [TCB, QE])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: b" " + raw + b"\r\n", id="white-space-around"),
        pytest.param(
            lambda raw: raw.replace(b',"signature":', b' ,\n"signature" : '), id="between"
        ),
        pytest.param(lambda raw: raw[:-130] + raw[-130:].upper(), id="upper-case-signature"),
    ],
)
def test_what_is_outside_the_signed_text_may_be_spaced(
    tmp_path: Path, path: str, change: Callable[[bytes], bytes]
) -> None:
    assert fetch_from(tmp_path, {path: body(change)}).collateral == PUBLISHED


def test_genuine_collateral_from_a_service_on_loopback(tmp_path: Path, vectors: Path) -> None:
    """Intel's own documents, carried as its service carries them, under its own root."""
    index = json.loads((vectors / "index.json").read_text("utf-8"))
    case, file = next(
        (case, quoted["file"])
        for quoted in index["quotes"]
        for case in quoted["cases"]
        if "sgx-00606a000000-platform-2026" in (case.get("collateral") or "")
        and case["expected"]["outcome"] == "verified"
    )
    raw = strip_file_padding((vectors / file).read_bytes())
    published = Collateral.parse((vectors / case["collateral"]).read_bytes())
    at = datetime.fromtimestamp(case["time"], UTC)
    with peer(tmp_path, published) as place:
        found = fetch(place, {file: raw}, at=at, roots=TrustAnchors.intel())
    assert found.collateral == published
    assert found.contents.window.earliest_expiration > at


# Who decides where to ask


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://pccs.example", "https://pccs.example"),
        ("https://pccs.example/", "https://pccs.example"),
        ("https://PCCS.example:8081", "https://pccs.example:8081"),
        ("https://127.0.0.1:1", "https://127.0.0.1:1"),
        ("https://[::1]:65535", "https://[::1]:65535"),
    ],
)
def test_an_address(text: str, origin: str) -> None:
    service = Service.parse(text)
    assert service == Service(origin, f"{origin}{ROOT_CRL}")


def test_intels_own_service_has_the_root_list_elsewhere() -> None:
    service = Service.parse("https://api.trustedservices.intel.com")
    assert service.root_crl == ("https://certificates.trustedservices.intel.com/IntelSGXRootCA.der")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pccs.example",
        "http://pccs.example",
        "HTTPS://pccs.example",
        "ftp://pccs.example",
        "file:///etc/passwd",
        "https://",
        "https://user:word@pccs.example",
        "https://pccs.example@other.example",
        "https://pccs.example:0",
        "https://pccs.example:65536",
        "https://pccs.example:",
        "https://pccs.example:8081/sgx/certification/v4/",
        "https://pccs.example?x=1",
        "https://pccs.example#x",
        "https://pccs.example\n",
        "https://pccs.example:8081\r\nHost: x",
        "https://pcc\u0455.example",
        "https://[::1",
        "https://pccs.example//",
        " https://pccs.example",
    ],
)
def test_not_an_address(text: str) -> None:
    """T21: a path or a user in it would end up in requests; plain HTTP is read by everybody."""
    with refused(PcsAddressMalformed):
        Service.parse(text)


@given(st.text(max_size=40).map(lambda tail: "https://" + tail) | st.text(max_size=40))
def test_any_text_is_an_address_or_a_refusal(text: str) -> None:
    count_refusal()
    try:
        service = Service.parse(text)
    except PcsAddressMalformed:
        return
    assert httpx.URL(service.origin).host


def test_a_quote_cannot_say_whom_to_ask(tmp_path: Path) -> None:
    """T20: its certificates name addresses of revocation lists; nobody ever goes there."""
    count_refusal()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        there = f"https://127.0.0.1:{listener.getsockname()[1]}/crl"
        address = x509.UniformResourceIdentifier(there)
        point = x509.DistributionPoint([address], None, None, None)
        w = World.create(pck=lambda c: c.extended(x509.CRLDistributionPoints([point])))
        assert there.encode() in x509.load_der_x509_certificate(w.platform.pck.der).public_bytes(
            Encoding.DER
        )
        with peer(tmp_path, w.collateral()) as place:
            fetch(place, {"q.bin": w.quote()}, roots=w.intel.anchors())
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("fmspc", [b"../../", b"%2e%2e", b"?a=b&c", b"\r\n\r\nGE", bytes(6)])
def test_path_tricks_in_an_fmspc_stay_hexadecimal(tmp_path: Path, fmspc: bytes) -> None:
    """T21: six bytes that somebody may have chosen are twelve digits and nothing else."""
    count_refusal()
    w = World.create(fmspc=fmspc)
    with peer(tmp_path, w.collateral()) as place:
        fetch(place, {"q.bin": w.quote()}, roots=w.intel.anchors())
    assert place.seen[2] == f"{TCB}?fmspc={fmspc.hex().upper()}"


FORGED: list[Any] = [
    pytest.param(W.intel.twin().platform().quote(), RootUntrusted, id="another-root"),
    pytest.param(b"", QuoteMalformed, id="empty"),
    pytest.param(W.quote()[:-1], QuoteMalformed, id="cut"),
    pytest.param(
        W.quote(header=lambda h: replace(h, version=4)), QuoteUnsupported, id="another-version"
    ),
]


@pytest.mark.parametrize(("raw", "leaf"), FORGED)
def test_a_forged_quote_makes_nobody_ask(
    tmp_path: Path, raw: bytes, leaf: type[e.RatlsError]
) -> None:
    with peer(tmp_path, PUBLISHED) as place, refused(leaf):
        fetch(place, {"a.bin": W.quote(), "b.bin": raw})
    assert place.seen == []


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"processor": True}, id="another-authority"),
        pytest.param({"fmspc": bytes(6)}, id="another-FMSPC"),
    ],
)
def test_one_bundle_is_for_one_kind_of_platform(tmp_path: Path, other: dict[str, Any]) -> None:
    quotes = {"a.bin": W.quote(), "b.bin": W.intel.platform(**other).quote()}
    with peer(tmp_path, PUBLISHED) as place, refused(QuotesOfDifferentPlatforms):
        fetch(place, quotes)
    assert place.seen == []


def test_no_quote_at_all(tmp_path: Path) -> None:
    with refused(QuotesOfDifferentPlatforms):
        fetch_from(tmp_path, {}, quotes={})


# TLS, and who answers


def test_a_certificate_that_nobody_named(tmp_path: Path) -> None:
    """T21: without --ca the public authorities count, and none of them knows this one."""
    with peer(tmp_path, PUBLISHED) as place:
        place.certificate = Path(certifi.where())
        with refused(PcsCertificateUntrusted):
            fetch(place)
    assert place.seen == []


def test_the_certificate_of_another_host(tmp_path: Path) -> None:
    """T21: believed, but for another address."""
    with peer(tmp_path, PUBLISHED, host="127.0.0.2") as place, refused(PcsCertificateOfAnotherHost):
        fetch(place)
    assert place.seen == []


@pytest.mark.parametrize("days", [-800, 30], ids=["expired", "not-yet-valid"])
def test_a_certificate_outside_its_time(tmp_path: Path, days: int) -> None:
    """T21: believed once; the remedy is another than for an unknown authority."""
    since = datetime.now(UTC) + timedelta(days=days)
    with peer(tmp_path, PUBLISHED, since=since) as place, refused(PcsCertificateExpired):
        fetch(place)
    assert place.seen == []


def test_each_fault_of_a_certificate_has_a_remedy_of_its_own() -> None:
    leaves = PcsCertificateUntrusted, PcsCertificateOfAnotherHost, PcsCertificateExpired
    assert len({leaf.default_fix for leaf in leaves}) == 3


# A proxy


def test_a_proxy_that_was_named(tmp_path: Path) -> None:
    """It sees where we go, and nothing of what is said: TLS goes through it."""
    with peer(tmp_path, PUBLISHED) as place, proxy() as (address, seen):
        found = fetch(place, proxy=parse_proxy(address))
    assert found.collateral == PUBLISHED
    assert set(seen) == {f"CONNECT {place.origin.removeprefix('https://')}"}


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses(tmp_path: Path, status: int) -> None:
    with (
        peer(tmp_path, PUBLISHED) as place,
        proxy(status) as (address, _),
        refused(PcsProxyFailed),
    ):
        fetch(place, proxy=parse_proxy(address))
    assert place.seen == []


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    with proxy() as (address, _):
        pass
    with peer(tmp_path, PUBLISHED) as place, refused(PcsProxyFailed):
        fetch(place, proxy=address)
    assert place.seen == []


def test_behind_a_proxy_the_certificate_counts_as_ever(tmp_path: Path) -> None:
    """T21: a proxy that answers itself has no certificate for the service."""
    with peer(tmp_path, PUBLISHED) as place, proxy() as (address, _):
        place.certificate = Path(certifi.where())
        with refused(PcsCertificateUntrusted):
            fetch(place, proxy=address)
    assert place.seen == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy.example:3128",
        "https://proxy.example:3128",
        "http://proxy.example",
        "http://user:word@proxy.example:3128",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "http://proxy.example:3128/x",
        "http://proxy.example:3128\n",
    ],
)
def test_not_the_address_of_a_proxy(text: str) -> None:
    with refused(ProxyAddressMalformed):
        parse_proxy(text)


def test_the_address_of_a_proxy() -> None:
    assert parse_proxy("http://Proxy.example:3128/") == "http://proxy.example:3128"
    assert parse_proxy("http://[::1]:1") == "http://[::1]:1"


# Which edition, and for which platforms


KIND = PlatformKind(Tee.SGX, W.platform.tcb.fmspc, "platform")
NUMBER = json.loads(PUBLISHED.tcb_info)["tcbEvaluationDataNumber"]


def test_an_edition_is_asked_for_by_its_number(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        found = fetch(place, number=NUMBER)
    wanted = f"tcbEvaluationDataNumber={NUMBER}"
    assert place.seen[2:] == [f"{TCB}?fmspc=00606A000000&{wanted}", f"{QE}?{wanted}"]
    assert found.contents.evaluation_data_number == NUMBER


@pytest.mark.parametrize(("number", "status"), [(NUMBER + 1, "404"), (NUMBER - 1, "410")])
def test_an_edition_that_the_service_does_not_have(
    tmp_path: Path, number: int, status: str
) -> None:
    with peer(tmp_path, PUBLISHED) as place, refused(PcsRefused) as seen:
        fetch(place, number=number)
    assert seen.error.found == status
    assert "evaluation data number" in seen.error.fix


def test_a_service_that_gives_another_edition_than_was_asked(tmp_path: Path) -> None:
    """It knows no numbers, and hands out what it has."""

    def whatever(reply: Reply) -> Reply:
        text, signature = PUBLISHED.tcb_info, PUBLISHED.tcb_info_signature.hex()
        answer = f'{{"tcbInfo":{text},"signature":"{signature}"}}'
        chains = {CHAINS[TCB]: quote(PUBLISHED.tcb_info_issuer_chain)}
        return Reply(200, answer.encode(), headers=chains)

    def identity(reply: Reply) -> Reply:
        text, signature = PUBLISHED.qe_identity, PUBLISHED.qe_identity_signature.hex()
        answer = f'{{"enclaveIdentity":{text},"signature":"{signature}"}}'
        chains = {CHAINS[QE]: quote(PUBLISHED.qe_identity_issuer_chain)}
        return Reply(200, answer.encode(), headers=chains)

    with refused(EvaluationNumberNotGiven):
        fetch_from(tmp_path, {TCB: whatever, QE: identity}, number=NUMBER - 1)


def test_collateral_without_a_quote(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        found = fetch(place, kind=KIND)
    assert (found.collateral, found.verified) == (PUBLISHED, ())
    assert place.seen[1:3] == [f"{PCK_CRL}?ca=platform&encoding=der", f"{TCB}?fmspc=00606A000000"]


@pytest.mark.parametrize(
    ("kind", "leaf"),
    [
        pytest.param(replace(KIND, fmspc=bytes(6)), TcbInfoMismatch, id="FMSPC"),
        pytest.param(replace(KIND, tee=Tee.TDX), TcbInfoMismatch, id="TEE"),
        pytest.param(replace(KIND, ca="processor"), e.CrlOfAnotherIssuer, id="authority"),
    ],
)
def test_genuine_collateral_of_other_platforms_than_asked_for(
    tmp_path: Path, kind: PlatformKind, leaf: type[e.RatlsError]
) -> None:
    """T05, T06: with no quote to hold against it, the question itself is what it must fit."""
    asked: dict[str, Alter] = {}
    genuine = {
        PCK_CRL: f"{PCK_CRL}?ca=platform&encoding=der",
        TCB: f"{TCB}?fmspc=00606A000000",
        QE: QE,
    }
    for path, target in genuine.items():
        asked[path] = lambda _, target=target: reply_to(target, PUBLISHED)  # type: ignore[misc]
        asked[path.replace("/sgx/", "/tdx/")] = asked[path]
    with refused(leaf):
        fetch_from(tmp_path, asked, kind=kind)


def test_a_quote_of_other_platforms_than_were_named(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place, refused(QuotesOfDifferentPlatforms):
        fetch(place, {"q.bin": W.quote()}, kind=replace(KIND, fmspc=bytes(6)))
    assert place.seen == []


def test_somebody_speaks_http_where_tls_should_be(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED, plain=True) as place, refused(PcsUnreachable):
        fetch(place)


def test_nobody_listens(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        pass
    with refused(PcsUnreachable):
        fetch(place)


def test_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy or a store of roots named there would read along; a key log would let others."""
    count_refusal()
    log = tmp_path / "keys.log"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "peer.crt"))
    with peer(tmp_path, PUBLISHED) as place:
        fetch(place)
        place.certificate = Path(certifi.where())
        with refused(PcsCertificateUntrusted):
            fetch(place)
    assert not log.exists()


@pytest.mark.parametrize("content", [b"", b"no PEM", b"\xff\xfe", W.intel.root.der])
def test_a_file_of_authorities_without_any(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    with refused(CaFileUnusable):
        tls_trust(file)


def test_a_file_of_authorities_that_is_missing(tmp_path: Path) -> None:
    with refused(FileUnreadable):
        tls_trust(tmp_path / "ca.pem")


def test_public_authorities_are_there_without_a_file() -> None:
    context = tls_trust()
    assert context.cert_store_stats()["x509_ca"] > 50
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


# How it answers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_not_followed(tmp_path: Path, path: str, status: int) -> None:
    """T21: to another host, which would learn what we ask and answer in its place."""
    (tmp_path / "other").mkdir()
    with peer(tmp_path / "other", PUBLISHED) as other:
        altered = {path: says(status, Location=f"{other.origin}{path}")}
        with refused(PcsRedirects):
            fetch_from(tmp_path, altered)
    assert other.seen == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [204, 206, 400, 401, 404, 410, 460, 461, 500, 502, 503])
def test_the_service_declines(tmp_path: Path, path: str, status: int) -> None:
    """A body comes with it, a genuine one even; only 200 says that it is the answer."""
    with refused(PcsRefused):
        fetch_from(tmp_path, {path: says(status)})


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_of_a_gigabyte(tmp_path: Path, path: str) -> None:
    """T21: announced in its length, and sent until we go."""
    endless = wire(Reply(200, b"")).replace(b"Content-Length: 0", b"Content-Length: 1073741824")

    def flood(reply: Reply) -> Iterable[bytes]:
        yield endless
        while True:
            yield b"0" * 65536

    with peer(tmp_path, PUBLISHED, {path: flood}) as place, refused(PcsAnswerTooLarge):
        fetch(place)
    assert place.sent < 32 << 20  # what the sockets' buffers take, and not the gigabyte


def test_an_answer_that_unpacks_to_a_gigabyte(tmp_path: Path) -> None:
    with refused(PcsAnswerMalformed):
        fetch_from(tmp_path, {TCB: says(200, Content_Encoding="gzip")})


SLOW: list[Any] = [
    pytest.param(lambda reply: drip(b"H"), id="status-line"),
    pytest.param(lambda reply: chain([b"HTTP/1.1 200 X\r\n"], drip(b"A: b\r\n")), id="headers"),
    pytest.param(
        lambda reply: chain([wire(reply).split(b"\r\n\r\n")[0] + b"\r\n\r\n"], drip(b" ")),
        id="body",
    ),
]


@pytest.mark.parametrize("script", SLOW)
def test_a_drip_feed_ends(tmp_path: Path, script: Alter) -> None:
    """T21: each byte comes in time, the last one never; a limit for each read would not end it."""
    with refused(PcsTooSlow):
        fetch_from(tmp_path, {TCB: script}, seconds=0.4)


def test_somebody_accepts_and_says_nothing(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED, silent=True) as place, refused(PcsTooSlow):
        fetch(place, seconds=0.3)


def test_a_process_that_was_held_up_in_a_handshake_closes_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both limits are over when the loop goes on. A socket that is left open would be found by
    the garbage collector, in the middle of another test."""
    real = pcs.ask

    async def held_up(service: Service, question: Question, seconds: float) -> Answers:
        loop = asyncio.get_running_loop()
        end = loop.time() + 1.2 * seconds

        def hold() -> None:
            while loop.time() < end:
                pass

        loop.call_later(0.7 * seconds, hold)
        return await real(service, question, seconds)

    monkeypatch.setattr(pcs, "ask", held_up)
    with peer(tmp_path, PUBLISHED, silent=True) as place, refused(PcsTooSlow):
        fetch(place, seconds=0.3)
    gc.collect()  # pytest reports what was left open


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 30_000 + b"\r\n",
    ],
    ids=["nothing", "garbage", "cut", "two-lengths", "headers"],
)
def test_the_connection_breaks(tmp_path: Path, said: bytes) -> None:
    def script(reply: Reply) -> Iterable[bytes]:
        yield said
        raise OSError  # hangs up

    with refused(PcsUnreachable):
        fetch_from(tmp_path, {TCB: script})
