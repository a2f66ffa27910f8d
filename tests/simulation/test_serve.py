"""The simulated collateral service: Intel's interface to the letter, and for this machine alone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from enclave_app.errors import ListenAddressUnusable
from ratls.address import Address
from ratls.cli_collateral import collateral
from simulation.attester import SimulatedAttester
from simulation.cli import app
from simulation.folder import renew_collateral, write
from simulation.serve import Reply, SimulationNotLoopback, reply_to, serving
from tests.support.intel import AT, World
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import Mode
from verifier.collateral import Collateral
from verifier.document import CollateralMalformed
from verifier.errors import Exit, RatlsError
from verifier.files import FileNotWritten, FileUnreadable
from verifier.pcs import fetch_collateral
from verifier.pcs_requests import Service, tls_trust
from verifier.received import ReceivedQuote

pytestmark = pytest.mark.slow

WORLD = World.create()
PUBLISHED = WORLD.collateral()
PUBLISHED_TDX = WORLD.collateral(tdx=True)
BASE, TDX_BASE = "/sgx/certification/v4", "/tdx/certification/v4"
FREE = Address("127.0.0.1", 0)


def get(
    target: str, published: Collateral = PUBLISHED, tdx: Collateral | None = PUBLISHED_TDX
) -> Reply:
    return reply_to(target, published, tdx)


# What Intel's service says to the same question


@pytest.mark.parametrize(
    ("target", "chain", "member"),
    [
        (f"{BASE}/tcb?fmspc=00606A000000", "TCB-Info-Issuer-Chain", "tcbInfo"),
        (f"{BASE}/tcb?fmspc=00606a000000&update=early", "TCB-Info-Issuer-Chain", "tcbInfo"),
        (f"{BASE}/tcb?fmspc=00606a000000&update=standard", "TCB-Info-Issuer-Chain", "tcbInfo"),
        (
            f"{BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=21",
            "TCB-Info-Issuer-Chain",
            "tcbInfo",
        ),
        (f"{BASE}/qe/identity", "SGX-Enclave-Identity-Issuer-Chain", "enclaveIdentity"),
        (
            f"{BASE}/qe/identity?update=early",
            "SGX-Enclave-Identity-Issuer-Chain",
            "enclaveIdentity",
        ),
        (
            f"{BASE}/qe/identity?tcbEvaluationDataNumber=21",
            "SGX-Enclave-Identity-Issuer-Chain",
            "enclaveIdentity",
        ),
    ],
)
def test_signed_documents(target: str, chain: str, member: str) -> None:
    reply = get(target)
    assert (reply.status, reply.kind) == (200, "application/json")
    assert list(reply.headers) == [chain]
    assert unquote(reply.headers[chain]) == PUBLISHED.tcb_info_issuer_chain
    assert set(reply.headers[chain]) & set("\r\n +/=") == set()
    text = PUBLISHED.tcb_info if member == "tcbInfo" else PUBLISHED.qe_identity
    assert reply.body.startswith(f'{{"{member}":{text},"signature":"'.encode())
    assert list(json.loads(reply.body)) == [member, "signature"]


@pytest.mark.parametrize(
    ("target", "member", "kind"),
    [
        (f"{TDX_BASE}/tcb?fmspc=00606A000000", "tcbInfo", "TDX"),
        (f"{TDX_BASE}/tcb?fmspc=00606a000000&update=early", "tcbInfo", "TDX"),
        (f"{TDX_BASE}/qe/identity", "enclaveIdentity", "TD_QE"),
        (f"{TDX_BASE}/qe/identity?tcbEvaluationDataNumber=21", "enclaveIdentity", "TD_QE"),
    ],
)
def test_signed_documents_for_trust_domains(target: str, member: str, kind: str) -> None:
    """Under a path of their own; the chain's header is the same for both technologies."""
    reply = get(target)
    text = PUBLISHED_TDX.tcb_info if member == "tcbInfo" else PUBLISHED_TDX.qe_identity
    assert reply.status == 200
    assert reply.body.startswith(f'{{"{member}":{text},"signature":"'.encode())
    assert json.loads(reply.body)[member]["id"] == kind
    assert list(reply.headers) == list(get(target.replace(TDX_BASE, BASE)).headers)


@pytest.mark.parametrize("path", ["tcb?fmspc=00606a000000", "qe/identity"])
def test_a_service_that_knows_the_platform_for_enclaves_alone(path: str) -> None:
    count_refusal()
    assert get(f"{TDX_BASE}/{path}", tdx=None).status == 404
    assert get(f"{BASE}/{path}", tdx=None).status == 200


@pytest.mark.parametrize("ca", ["platform", "processor"])
def test_revocation_list_of_the_pck_authority(ca: str) -> None:
    world = World.create(processor=ca == "processor")
    published = world.collateral()
    der = get(f"{BASE}/pckcrl?ca={ca}&encoding=der", published)
    assert der.body.hex().encode() == published.pck_crl
    assert unquote(der.headers["SGX-PCK-CRL-Issuer-Chain"]) == published.pck_crl_issuer_chain
    for target in (f"{BASE}/pckcrl?ca={ca}", f"{BASE}/pckcrl?ca={ca}&encoding=pem"):
        reply = get(target, published)
        assert reply.body.startswith(b"-----BEGIN X509 CRL-----")
        assert x509.load_pem_x509_crl(reply.body) == x509.load_der_x509_crl(der.body)


def test_revocation_list_of_the_root_in_both_forms() -> None:
    der, text = get("/IntelSGXRootCA.der"), get(f"{BASE}/rootcacrl")
    assert der.body.hex().encode() == text.body == PUBLISHED.root_ca_crl


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("", 404),
        (f"{BASE}/", 404),
        (f"{BASE}/tcb/", 404),
        ("/sgx/certification/v3/tcb?fmspc=00606a000000", 404),
        ("/tdx/certification/v3/tcb?fmspc=00606a000000", 404),
        (f"{TDX_BASE}/tcb", 400),
        (f"{TDX_BASE}/tcb?fmspc=00906ed50000", 404),
        (f"{TDX_BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=20", 410),
        (f"{TDX_BASE}/qe/identity?update=late", 400),
        (f"{TDX_BASE}/pckcrl?ca=platform", 404),
        (f"{TDX_BASE}/rootcacrl", 404),
        (f"{BASE}/../v4/qe/identity", 404),
        (f"{BASE}/qve/identity", 404),
        (f"{BASE}/pckcert", 404),
        (f"{BASE}/tcb", 400),
        (f"{BASE}/tcb?fmspc=", 400),
        (f"{BASE}/tcb?fmspc=00606a00000", 400),
        (f"{BASE}/tcb?fmspc=00606a0000000", 400),
        (f"{BASE}/tcb?fmspc=00606a00000g", 400),
        (f"{BASE}/tcb?fmspc=../../../../", 400),
        (f"{BASE}/tcb?fmspc=00906ed50000", 404),
        (f"{BASE}/tcb?fmspc=00606a000000&fmspc=00606a000000", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&x=1", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&update=late", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&update=early&tcbEvaluationDataNumber=21", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=-1", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=", 400),
        (f"{BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=22", 404),
        (f"{BASE}/tcb?fmspc=00606a000000&tcbEvaluationDataNumber=20", 410),
        (f"{BASE}/tcb?garbage", 400),
        (f"{BASE}/qe/identity?update=late", 400),
        (f"{BASE}/qe/identity?tcbEvaluationDataNumber=22", 404),
        (f"{BASE}/qe/identity?tcbEvaluationDataNumber=1", 410),
        (f"{BASE}/qe/identity?x=1", 400),
        (f"{BASE}/pckcrl", 400),
        (f"{BASE}/pckcrl?ca=root", 400),
        (f"{BASE}/pckcrl?ca=platform&encoding=hex", 400),
        (f"{BASE}/pckcrl?ca=processor", 404),
        (f"{BASE}/rootcacrl?x=1", 400),
        ("/IntelSGXRootCA.der?x=1", 400),
        ("//[::1", 400),
    ],
)
def test_a_question_that_intels_service_refuses(target: str, status: int) -> None:
    """A client that is tried here must not learn habits that fail there."""
    count_refusal()
    reply = get(target)
    assert (reply.status, reply.body) == (status, b"")
    assert {"Error-Code", "Error-Message"} == set(reply.headers)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda t: f"{BASE}/tcb?{t}"))
def test_any_question_has_an_answer(target: str) -> None:
    count_refusal()
    reply = get(target)
    assert reply.status in {400, 404, 410}
    assert all(text.isascii() and text.isprintable() for text in reply.headers.values())


# On a socket


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("serve") / "intel"
    write(WORLD.intel, WORLD.platform, found)
    return found


@pytest.fixture
def origin(folder: Path) -> Iterator[str]:
    with serving(folder, FREE) as ready:
        yield ready


def client(folder: Path) -> httpx.Client:
    return httpx.Client(verify=tls_trust(folder / "pcs.crt"), trust_env=False, timeout=HANG_LIMIT)


def test_what_is_served_vouches_for_the_platform(folder: Path, origin: str) -> None:
    raw = SimulatedAttester(folder / "platform", b"\x77" * 32).quote(bytes(64))
    found = fetch_collateral(
        {"q.bin": ReceivedQuote(raw)},
        Service.parse(origin),
        roots=WORLD.intel.anchors(),
        trust=tls_trust(folder / "pcs.crt"),
        clock=lambda: AT,
    )
    assert found.collateral == PUBLISHED
    assert found.verified[0].mode is Mode.SIMULATION


def test_replies_carry_their_headers(folder: Path, origin: str) -> None:
    with client(folder) as asking:
        good, bad = asking.get(f"{origin}{BASE}/qe/identity"), asking.get(f"{origin}/nothing")
        again = asking.get(f"{origin}{BASE}/qe/identity")  # on the same connection
    assert len(good.headers["Request-ID"]) == 32
    assert good.headers["Request-ID"] != again.headers["Request-ID"]
    assert (bad.status_code, bad.headers["Error-Code"]) == (404, "NotFound")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_only_get_is_answered(folder: Path, origin: str, method: str) -> None:
    count_refusal()
    with client(folder) as asking:
        assert asking.request(method, f"{origin}{BASE}/qe/identity").status_code == 501


def test_renewed_collateral_is_served_at_once(tmp_path: Path) -> None:
    write(WORLD.intel, WORLD.platform, tmp_path)
    with serving(tmp_path, FREE) as origin, client(tmp_path) as asking:
        before = asking.get(f"{origin}{BASE}/qe/identity").content
        renew_collateral(tmp_path, AT + timedelta(days=1))
        assert asking.get(f"{origin}{BASE}/qe/identity").content != before


def test_trust_domains_are_served_from_the_folder(folder: Path, origin: str) -> None:
    with client(folder) as asking:
        reply = asking.get(f"{origin}{TDX_BASE}/tcb", params={"fmspc": "00606a000000"})
    assert reply.content == get(f"{TDX_BASE}/tcb?fmspc=00606a000000").body


def test_a_folder_without_collateral_for_trust_domains(tmp_path: Path) -> None:
    """One of an earlier version has none until it is renewed."""
    count_refusal()
    write(WORLD.intel, WORLD.platform, tmp_path)
    (tmp_path / "collateral.tdx.json").unlink()
    with serving(tmp_path, FREE) as origin, client(tmp_path) as asking:
        assert asking.get(f"{origin}{TDX_BASE}/qe/identity").status_code == 404
        renew_collateral(tmp_path, AT)
        assert asking.get(f"{origin}{TDX_BASE}/qe/identity").status_code == 200


@pytest.mark.parametrize("name", ["collateral.json", "collateral.tdx.json"])
def test_a_bundle_that_is_damaged_meanwhile(tmp_path: Path, name: str) -> None:
    count_refusal()
    write(WORLD.intel, WORLD.platform, tmp_path)
    with serving(tmp_path, FREE) as origin, client(tmp_path) as asking:
        (tmp_path / name).write_text("{}", "utf-8")
        assert asking.get(f"{origin}{BASE}/qe/identity").status_code == 500


def test_a_silent_client_stops_nobody(folder: Path, origin: str) -> None:
    """Handshakes happen apart: one that never says hello would else hold the door."""
    port = int(origin.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)), client(folder) as asking:
        assert asking.get(f"{origin}{BASE}/qe/identity").status_code == 200


def test_who_does_not_know_the_certificate_goes_away(origin: str) -> None:
    count_refusal()
    asking = httpx.Client(verify=tls_trust(), trust_env=False)
    with asking, pytest.raises(httpx.ConnectError):
        asking.get(f"{origin}{BASE}/qe/identity")


def test_each_start_has_its_own_key_which_is_not_kept(folder: Path) -> None:
    """Whoever finds the folder later finds nothing to pose as the service with."""
    before = {path for path in folder.rglob("*") if path.name != "pcs.crt"}
    seen = []
    for _ in range(2):
        with serving(folder, FREE):
            seen.append((folder / "pcs.crt").read_bytes())
    assert seen[0] != seen[1]
    assert {path for path in folder.rglob("*") if path.name != "pcs.crt"} == before
    (one,) = x509.load_pem_x509_certificates(seen[0])
    assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104  refused
def test_other_machines_cannot_be_served(folder: Path, host: str) -> None:
    """Whoever found it in a network might take it for the real one."""
    with refused(SimulationNotLoopback), serving(folder, Address(host, 0)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_this_machine_can_be(folder: Path, host: str) -> None:
    with serving(folder, Address(host, 0)) as origin, client(folder) as asking:
        assert asking.get(f"{origin}{BASE}/rootcacrl").status_code == 200


def test_a_port_in_use(folder: Path, origin: str) -> None:
    port = int(origin.rpartition(":")[2])
    with refused(ListenAddressUnusable), serving(folder, Address("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("content", "leaf"), [(None, FileUnreadable), (b"", CollateralMalformed)], ids=["none", "empty"]
)
def test_a_folder_without_a_simulation(
    tmp_path: Path, content: bytes | None, leaf: type[RatlsError]
) -> None:
    if content is not None:
        (tmp_path / "collateral.json").write_bytes(content)
    with refused(leaf), serving(tmp_path, FREE):
        pass


def test_a_folder_that_takes_no_certificate(tmp_path: Path) -> None:
    write(WORLD.intel, WORLD.platform, tmp_path)
    (tmp_path / "pcs.crt").mkdir()
    with refused(FileNotWritten), serving(tmp_path, FREE):
        pass


# The command


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, Exit.YES), (signal.SIGINT, Exit.INTERRUPTED)]
)
def test_serve_prints_ready_serves_a_fetch_and_stops(
    tmp_path: Path, number: signal.Signals, status: Exit
) -> None:
    assert ratls_simulation("new", tmp_path / "intel").exit_code == Exit.YES
    code = "from simulation.cli import app; app()"
    command = [sys.executable, "-c", code, "serve", str(tmp_path / "intel")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            word, origin = server.stdout.readline().decode().split()
            assert (word, origin.startswith("https://127.0.0.1:")) == ("ready", True)
            assert fetch(tmp_path / "intel", origin).exit_code == Exit.YES
        finally:
            server.send_signal(number)
        out, err = server.communicate(timeout=HANG_LIMIT)
    assert (server.returncode, out) == (status, b"")
    assert b"SIMULATION" in err
    assert b"Traceback" not in err


def fetch(folder: Path, origin: str) -> Result:
    quoted = folder / "quote.bin"
    quoted.write_bytes(SimulatedAttester(folder / "platform", b"\x77" * 32).quote(bytes(64)))
    arguments = [
        "fetch", str(quoted), "-o", str(folder / "fetched.json"), "--from", origin,
        "--ca", str(folder / "pcs.crt"), "--allow-simulation",
        "--cache", str(folder / "cache"), "--state", str(folder / "state"),
        "--root", (folder / "root.txt").read_text("utf-8").strip(),
    ]  # fmt: skip
    return CliRunner().invoke(collateral, arguments)


def ratls_simulation(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        pytest.param([], Exit.USAGE, id="no-folder"),
        pytest.param(["{folder}", "--listen", "0.0.0.0:0"], Exit.UNUSABLE, id="every-address"),
        pytest.param(["{folder}", "--listen", "127.0.0.1"], Exit.UNUSABLE, id="no-port"),
        pytest.param(["{folder}/platform"], Exit.UNUSABLE, id="no-simulation"),
    ],
)
def test_serve_is_called_wrongly(folder: Path, arguments: list[str], status: Exit) -> None:
    count_refusal()
    filled = [argument.format(folder=folder) for argument in arguments]
    assert ratls_simulation("serve", *filled).exit_code == status


def test_help_has_an_example() -> None:
    assert "ratls simulation serve" in ratls_simulation("serve", "--help").stdout


def test_bug_of_a_handler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """L01: a traceback would show what stood in the handler's hands."""
    count_refusal()

    def broken(*_: object) -> None:
        raise KeyError("a text of the bug")

    write(WORLD.intel, WORLD.platform, tmp_path / "intel")
    with serving(tmp_path / "intel", Address("127.0.0.1", 0)) as origin:
        trust = tls_trust(tmp_path / "intel" / "pcs.crt")
        assert (
            httpx.get(f"{origin}/sgx/certification/v4/rootcacrl", verify=trust).status_code == 200
        )
        monkeypatch.setattr("simulation.serve.reply_to", broken)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{origin}/sgx/certification/v4/rootcacrl", verify=trust)
    told = capfd.readouterr().err
    assert "KeyError at " in told
    assert "a text of the bug" not in told
