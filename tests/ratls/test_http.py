"""HTTP from both ends: two lines for a client, and programs that know nothing of attestation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flask
import httpx
import pytest

from ratls.address import Address, PeerUnreachable
from ratls.claims import RoleMismatch
from ratls.http import HttpSchemeUnattested, HttpTransport, serve_asgi, serve_wsgi
from ratls.identity import EnclaveIdentity
from ratls.listener import Listener
from ratls.log import open_log
from ratls.session import Verifier
from ratls.tls import SocketHandshakeFailed
from tests.ratls.test_probe import KEY, certificate
from tests.ratls.test_sockets import Clock, revoked
from tests.support.channels import Log, client_enclave
from tests.support.flight_peers import LOOPBACK, Study, tls_server
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow


def program() -> flask.Flask:
    made = flask.Flask("program")

    @made.post("/echo")
    def echo() -> Any:
        return flask.Response(flask.request.get_data(), headers={"X-Party": who()})

    @made.get("/parts")
    def parts() -> Any:
        return flask.Response(b"part" for _ in range(1000))

    @made.get("/bug")
    def bug() -> Any:
        raise ValueError("c4n4ry")

    def who() -> str:
        return str(flask.request.environ["ratls.party"])

    return made


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for name in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{name}.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/bug":
        raise ValueError("c4n4ry")
    headers = [(b"x-party", scope["ratls.party"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body"})


@contextmanager
def serving(
    study: Study,
    serve: Callable[..., None],
    application: Any,
    identity: EnclaveIdentity | None = None,
    log: Log | None = None,
) -> Iterator[Address]:
    listener = Listener(Address(LOOPBACK, 0), identity or study.identity(), lambda: study.policy)
    given = open_log(log if log is not None else Log())
    thread = threading.Thread(target=serve, args=[listener, application], kwargs={"log": given})
    thread.start()
    try:
        yield listener.address
    finally:
        listener.close()
        thread.join()


def client(study: Study, verifier: Verifier | None = None) -> httpx.Client:
    judge = verifier or Verifier(lambda: study.expectation)
    return httpx.Client(transport=HttpTransport(study.channel(), judge), timeout=600)


@pytest.mark.parametrize(("serve", "made"), [(serve_wsgi, program()), (serve_asgi, asgi)])
def test_a_request_and_its_answer(study: Study, serve: Any, made: Any) -> None:
    big = bytes(range(256)) * 20_000
    with serving(study, serve, made) as place, client(study) as user:
        for body in (b"question", b"", big):
            answer = user.post(f"https://{place}/echo", content=body)
            assert answer.status_code == 200
            assert answer.content == body
            assert answer.headers["x-party"] == "alice-clinic"
        answer = user.post(f"https://{place}/echo", content=(b"part" for _ in range(100)))
        assert answer.content == b"part" * 100


def test_an_answer_in_parts(study: Study) -> None:
    with serving(study, serve_wsgi, program()) as place, client(study) as user:
        assert user.get(f"https://{place}/parts").content == b"part" * 1000


@pytest.mark.parametrize("made", [(serve_wsgi, program()), (serve_asgi, asgi)])
def test_an_error_of_the_program_leaves_as_an_id(study: Study, made: Any) -> None:
    """F16: its text may hold what another peer sent."""
    count_refusal()
    log = Log()
    with serving(study, *made, log=log) as place, client(study) as user:
        answer = user.get(f"https://{place}/bug")
        assert answer.status_code == 500
        assert "c4n4ry" not in answer.text + log.getvalue()
        assert user.post(f"https://{place}/echo", content=b"x").content == b"x"


def test_a_header_is_no_identity(study: Study) -> None:
    """I07."""
    with serving(study, serve_wsgi, program()) as place, client(study) as user:
        forged = {"X-Party": "bob-hospital", "Ratls.Party": "bob-hospital"}
        answer = user.post(f"https://{place}/echo", content=b"x", headers=forged)
        assert answer.headers["x-party"] == "alice-clinic"


def test_an_address_that_asks_for_plain_http(study: Study) -> None:
    """B21: nothing is sent, not even a connection made."""
    with client(study) as user, refused(HttpSchemeUnattested):
        user.get("http://127.0.0.1:1/")


def test_a_server_of_plain_https(study: Study) -> None:
    """B05."""
    with tls_server([certificate()], KEY) as server, client(study) as user:
        with refused(SocketHandshakeFailed):
            user.post(f"https://{server.address}/", content=b"rows")
        assert server.received == b""


def test_a_proxy_of_the_environment_is_not_asked(
    study: Study, nowhere: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable would otherwise send the request elsewhere, under the usual authorities."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{Address(*nowhere)}")
    with serving(study, serve_wsgi, program()) as place, client(study) as user:
        assert user.post(f"https://{place}/echo", content=b"x").content == b"x"


def test_the_enclave_of_a_client(study: Study) -> None:
    """B17."""
    own = client_enclave(study)
    with (
        serving(study, serve_wsgi, program(), own) as place,
        client(study) as user,
        refused(RoleMismatch),
    ):
        user.get(f"https://{place}/parts")


def test_nobody_listens(study: Study, nowhere: tuple[str, int]) -> None:
    with client(study) as user, refused(PeerUnreachable):
        user.get(f"https://{Address(*nowhere)}/")


def test_a_lost_connection_is_proved_anew(study: Study) -> None:
    """B18: the second connection is one of its own, and a request half sent is not sent again."""
    count_refusal()
    identity = study.identity()
    answer, quotes = identity.answer_challenge, []

    def counted(*given: Any) -> bytes:
        quotes.append(given)
        return answer(*given)

    identity.answer_challenge = counted  # type: ignore[method-assign]
    with (
        serving(study, serve_wsgi, program(), identity) as place,
        Relay((place.host, place.port)) as relay,
        client(study) as user,
    ):
        url = f"https://{relay.address}/echo"
        assert user.post(url, content=b"x").content == b"x"
        assert user.post(url, content=b"y").content == b"y"
        assert len(quotes) == 1
        relay.cut()
        for _ in range(3):
            try:
                assert user.post(url, content=b"z").content == b"z"
                break
            except (RatlsError, httpx.HTTPError):
                pass
        assert len(quotes) == 2


def test_the_lists_turn_against_the_platform(study: Study) -> None:
    clock, held = Clock(), [study.expectation]
    verifier = Verifier(lambda: held[0], seconds=clock)
    with serving(study, serve_wsgi, program()) as place, client(study, verifier) as user:
        assert user.get(f"https://{place}/parts").status_code == 200
        held[0] = revoked(study)
        clock.passed += 61
        with refused(CertificateRevoked):
            [user.get(f"https://{place}/parts") for _ in range(2)]
