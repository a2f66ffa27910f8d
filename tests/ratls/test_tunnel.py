"""The tunnel from both ends: programs that know nothing of it, and what cuts them off."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy

from ratls.address import Address
from ratls.attested_socket import AttestedSocket
from ratls.listener import Limits
from ratls.peer_refusal import PeerRefused
from ratls.session import Verifier
from ratls.tunnel import TunnelClient, TunnelServer
from tests.ratls.test_sockets import Clock, revoked
from tests.support import postgresql
from tests.support.channels import connect_to, listening
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.refusal import count_refusal
from tests.support.relay import Relay
from tests.support.transports import tcp_server
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow


@contextmanager
def tunnel(
    study: Study,
    target: Address,
    *,
    verifier: Verifier | None = None,
    limits: Limits | None = None,
    through: Callable[[Address], Address] = lambda place: place,
) -> Iterator[tuple[Address, list[RatlsError]]]:
    """Both ends; the address for local programs, and what was reported."""
    reported: list[RatlsError] = []

    def lead(attested: AttestedSocket) -> None:
        TunnelServer(listener, target)._lead(attested)

    with listening(study, lead) as listener:
        client = TunnelClient(
            Address(LOOPBACK, 0),
            lambda: connect_to(study, through(listener.address), verifier=verifier),
            limits=limits,
            report=reported.append,
        )
        thread = threading.Thread(target=client.serve)
        thread.start()
        try:
            yield client.address, reported
        finally:
            client.close()
            thread.join()


def echo(taken: socket.socket) -> None:
    with taken, suppress(ConnectionError):  # a program that is cut off
        while data := taken.recv(1 << 16):
            taken.sendall(data)


def program(place: Address) -> socket.socket:
    made = socket.create_connection((place.host, place.port))
    made.settimeout(HANG_LIMIT)
    return made


def test_a_download_by_http(study: Study, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "file.bin").write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with (
            tunnel(study, Address(LOOPBACK, server.server_port)) as (place, _),
            urllib.request.urlopen(f"http://{place}/file.bin") as answer,
        ):
            assert answer.read() == content
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def unix_to_tcp(path: str) -> Iterator[Address]:
    """The test's database listens on a socket file; the tunnel leads to a port."""

    def lead(taken: socket.socket) -> None:
        with taken, socket.socket(socket.AF_UNIX) as end:
            end.connect(path)
            threading.Thread(target=copy, args=[end, taken], daemon=True).start()
            copy(taken, end)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    with tcp_server(lead) as place:
        yield place


def test_postgresql(study: Study) -> None:
    with postgresql.cluster() as url:
        folder = url.partition("host=")[2]
        with (
            unix_to_tcp(f"{folder}/.s.PGSQL.5432") as database,
            tunnel(study, database) as (place, reported),
        ):
            engine = sqlalchemy.create_engine(
                f"postgresql+psycopg://postgres@{place}/postgres", poolclass=sqlalchemy.NullPool
            )
            with engine.begin() as connection:
                connection.execute(
                    sqlalchemy.text("create table t as select generate_series(1, 50000) n")
                )
                assert connection.scalar(sqlalchemy.text("select sum(n) from t")) == 1_250_025_000
                found = connection.execute(sqlalchemy.text("select n from t order by n")).all()
            assert [n for (n,) in found] == list(range(1, 50001))
            engine.dispose()
            assert reported == []


def test_a_program_that_says_that_nothing_follows_hears_the_answer(study: Study) -> None:
    def count(taken: socket.socket) -> None:
        with taken:
            size = 0
            while data := taken.recv(1 << 16):
                size += len(data)
            taken.sendall(b"%d" % size)

    with tcp_server(count) as target, tunnel(study, target) as (place, _), program(place) as end:
        end.sendall(bytes(3_000_000))
        end.shutdown(socket.SHUT_WR)
        assert end.recv(100) == b"3000000"
        assert end.recv(100) == b""


def test_nothing_listens_where_the_tunnel_ends(study: Study, nowhere: tuple[str, int]) -> None:
    """The program is cut off, and the operator told why."""
    count_refusal()
    with tunnel(study, Address(*nowhere)) as (place, reported), program(place) as end:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
        eventually(lambda: reported)
        assert isinstance(reported[0], PeerRefused)
        assert reported[0].peer_code == "tunnel-target-unreachable"


def test_a_cut_is_a_reset_for_the_program_and_the_next_connection_is_verified_anew(
    study: Study,
) -> None:
    """B18, F14: nothing goes on over another connection."""
    count_refusal()
    relays: list[Relay] = []

    def through(place: Address) -> Address:
        if not relays:
            relays.append(Relay((place.host, place.port)).__enter__())
        return Address.parse(relays[0].address)

    with tcp_server(echo) as target, tunnel(study, target, through=through) as (place, reported):
        with program(place) as end:
            end.sendall(b"x")
            assert end.recv(1) == b"x"
            relays[0].cut()
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        eventually(lambda: reported)
        with program(place) as end:
            end.sendall(b"y")
            assert end.recv(1) == b"y"
        assert len(relays[0].connections) == 2
        relays[0].__exit__()


def test_the_tunnel_ends_when_the_lists_turn_against_the_platform(study: Study) -> None:
    count_refusal()
    clock, held = Clock(), [study.expectation]
    verifier = Verifier(lambda: held[0], seconds=clock)
    with tcp_server(echo) as target, tunnel(study, target, verifier=verifier) as (place, reported):
        with program(place) as end:
            end.sendall(b"x")
            assert end.recv(1) == b"x"
            held[0] = revoked(study)
            clock.passed += 61
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        eventually(lambda: reported)
        assert type(reported[0]) is CertificateRevoked


def test_programs_beyond_the_share_wait(study: Study) -> None:
    limits = Limits(connections_per_peer=1)
    with (
        tcp_server(echo) as target,
        tunnel(study, target, limits=limits) as (place, _),
        program(place) as first,
        program(place) as second,
    ):
        first.sendall(b"1")
        second.sendall(b"2")
        assert first.recv(1) == b"1"
        first.close()
        assert second.recv(1) == b"2"
