"""Attested channels against their TLS twins on this machine: rates, connecting, crowds, floods.

    python -m benchmarks.channel [--json] [--pairs 21] [--mebibytes 64]

Each server is a process. A twin does the same without attestation: pyOpenSSL with both
certificates for sockets, gRPC's own TLS, the same HTTP server and httpx on a plain TLS socket, and
a relay between pyOpenSSL and TCP for the tunnel; pyarrow's Flight for rows, where each call of both
has a connection of its own. Pairs are interleaved; figures are medians. The simulated attester's
time is part of an attested connection, and told beside it.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import resource
import select
import socket
import statistics
import struct
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ratls.environment import prepare_process

prepare_process()  # before gRPC is loaded, which reads the environment once

import grpc  # noqa: E402
import httpcore  # noqa: E402
import httpx  # noqa: E402
from OpenSSL import SSL  # noqa: E402

from benchmarks.transfer import own_flight  # noqa: E402
from ratls import flight  # noqa: E402
from ratls.address import Address  # noqa: E402
from ratls.attested_socket import message_frame  # noqa: E402
from ratls.grpc import Attestation, channel  # noqa: E402
from ratls.http import HttpTransport, serve_wsgi  # noqa: E402
from ratls.listener import Limits, Listener  # noqa: E402
from ratls.session import Verifier, write_message  # noqa: E402
from ratls.sockets import connect  # noqa: E402
from ratls.tls import Shown  # noqa: E402
from ratls.tunnel import TunnelClient, TunnelServer  # noqa: E402
from tests.support.flight_peers import Study  # noqa: E402
from tests.support.transports import raw_connection, read_frame  # noqa: E402

HOST = "127.0.0.1"
MIB = 1 << 20
PIECE = bytes(MIB)
_SERVERS = (
    5  # of gRPC, one after the other: each process and connection is a little faster or slower
)


@dataclass
class Plain:
    """A TLS connection without attestation, with the methods of an attested one."""

    tls: SSL.Connection
    address: Address
    raw: socket.socket
    peer: Any = None

    def sendall(self, data: Any) -> None:
        self.tls.sendall(data)

    def recv_into(self, buffer: Any) -> int:
        try:
            return int(self.tls.recv_into(buffer, min(len(buffer), 16384)))
        except SSL.ZeroReturnError:
            return 0

    def recv(self, size: int) -> bytes:
        try:
            return bytes(self.tls.recv(size))
        except SSL.ZeroReturnError:
            return b""

    def end(self) -> None:
        self.tls.shutdown()

    def close(self) -> None:
        self.tls.close()
        self.raw.close()

    def settimeout(self, seconds: float) -> None:
        pass


class Bench:
    def __init__(self, mebibytes: int, pairs: int) -> None:
        self.mebibytes, self.pairs = mebibytes, pairs
        self.study = Study.create()
        self.enclave = self.study.identity()
        self.party = self.study.channel()
        self.verifier = Verifier(lambda: self.study.expectation)
        self.shown = Shown.of(self.party)
        self.server_shown = Shown.of(self.enclave)
        self.children: list[int] = []
        atexit.register(self.end)  # also where a server could not start

    def end(self) -> None:
        """End the servers."""
        while self.children:
            child = self.children.pop()
            os.kill(child, 9)
            os.waitpid(child, 0)

    def fork(self, serve: Callable[[Callable[[int], None]], None]) -> Address:
        """A process that serves; where it listens."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                serve(lambda port: (os.write(write, struct.pack("I", port)), None)[1])
            except BaseException:  # noqa: BLE001 - the benchmark ends with it
                traceback.print_exc()
            finally:
                os._exit(0)
        self.children.append(child)
        os.close(write)
        [port] = struct.unpack("I", os.read(read, 4))
        return Address(HOST, port)

    # Servers

    def listener(self, **limits: int) -> Listener:
        policy = self.study.policy
        most = Limits(connections=4096, connections_per_peer=4096)
        return Listener(Address(HOST, 0), self.enclave, lambda: policy, limits=most)

    def attested(self, handler: Callable[[Any], object]) -> Address:
        def serve(ready: Callable[[int], None]) -> None:
            listener = self.listener()
            ready(listener.address.port)
            listener.serve(handler)

        return self.fork(serve)

    def plain(self, handler: Callable[[Any], object]) -> Address:
        def serve(ready: Callable[[int], None]) -> None:
            accepting = socket.create_server((HOST, 0), backlog=1024)
            ready(accepting.getsockname()[1])
            plain_loop(accepting, self.server_shown, handler)

        return self.fork(serve)

    def plain_connect(self, address: Address) -> Plain:
        raw = socket.create_connection((address.host, address.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = SSL.Connection(plain_context(self.shown, client=True), raw)
        tls.set_connect_state()
        tls.do_handshake()
        return Plain(tls, address, raw)

    def connect(self, address: Address) -> Any:
        return connect(address, self.shown, self.verifier, timeout=60)

    def pairs_of(
        self, ours: Callable[[], float], peer: Callable[[], float]
    ) -> tuple[list[float], list[float]]:
        ours(), peer()
        mine: list[float] = []
        theirs: list[float] = []
        for turn in range(self.pairs):  # whoever comes second finds the machine warmer
            for which in (0, 1) if turn % 2 else (1, 0):
                (mine, theirs)[which].append((ours, peer)[which]())
        return mine, theirs


def plain_context(shown: Shown, *, client: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD if client else SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(shown.certificate)
    context.use_privatekey(shown.key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return context


def plain_loop(accepting: socket.socket, shown: Shown, handler: Callable[[Any], object]) -> None:
    def handle(raw: socket.socket) -> None:
        with raw, suppress(SSL.Error, OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = SSL.Connection(plain_context(shown, client=False), raw)
            tls.set_accept_state()
            tls.do_handshake()
            handler(Plain(tls, Address(HOST, 1), raw))

    while True:
        raw, _ = accepting.accept()
        threading.Thread(target=handle, args=[raw], daemon=True).start()


def take(connection: Any) -> None:
    """One byte back for each MiB-stream, and for each first call."""
    buffer = bytearray(1 << 18)
    while size := connection.recv_into(buffer):
        if buffer[size - 1]:
            connection.sendall(b"k")


def upload(connection: Any, mebibytes: int) -> float:
    begun = time.perf_counter()
    for _ in range(mebibytes - 1):
        connection.sendall(PIECE)
    connection.sendall(PIECE[:-1] + b"\1")
    assert connection.recv(1) == b"k"
    return mebibytes / (time.perf_counter() - begun)


def application(environ: dict[str, Any], start: Any) -> Any:
    size = int(environ["PATH_INFO"][1:])
    start("200 OK", [("Content-Length", str(size * MIB))])
    return (PIECE for _ in range(size))


class PlainBackend(httpcore.NetworkBackend):
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Any:
        connection = self.bench.plain_connect(Address(host, port))

        class Stream(httpcore.NetworkStream):
            def read(self, size: int, timeout: float | None = None) -> bytes:
                return connection.recv(size)

            def write(self, data: bytes, timeout: float | None = None) -> None:
                connection.sendall(data)

            def close(self) -> None:
                connection.close()

            def start_tls(self, *_: Any, **__: Any) -> Any:
                return self

            def get_extra_info(self, info: str) -> Any:
                return False if info == "is_readable" else None

        return Stream()


class PlainListener:
    """What `serve_wsgi` asks of a listener."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.accepting = bench, socket.create_server((HOST, 0), backlog=1024)
        self.address = Address(HOST, self.accepting.getsockname()[1])

    def serve(self, handler: Callable[[Any], object]) -> None:
        class Peer:
            party = None

        def known(connection: Plain) -> None:
            connection.peer = Peer
            handler(connection)

        plain_loop(self.accepting, self.bench.server_shown, known)


def grpc_server(bench: Bench, ready: Callable[[int], None], *, attested: bool) -> None:
    def collect(requests: Any, context: Any) -> bytes:
        return b"%d" % sum(len(r) for r in requests)

    attestation = Attestation(bench.enclave, lambda: bench.study.policy)
    server = grpc.server(
        ThreadPoolExecutor(16), interceptors=[attestation.interceptor] if attested else []
    )
    attestation.add_to(server)
    made = {"In": grpc.stream_unary_rpc_method_handler(collect)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.B", made),))
    port = server.add_secure_port(f"{HOST}:0", attestation.credentials())
    server.start()
    ready(port)
    server.wait_for_termination()


def tcp_sink(ready: Callable[[int], None]) -> None:
    accepting = socket.create_server((HOST, 0))
    ready(accepting.getsockname()[1])

    def sink(raw: socket.socket) -> None:
        with raw:
            take(raw)

    while True:
        raw, _ = accepting.accept()
        threading.Thread(target=sink, args=[raw], daemon=True).start()


def relay_server(bench: Bench, target: Address, ready: Callable[[int], None]) -> None:
    accepting = socket.create_server((HOST, 0))
    ready(accepting.getsockname()[1])

    def lead(tls: Any) -> None:
        with reach(target) as sink:
            relay(tls, sink)

    plain_loop(accepting, bench.server_shown, lead)


def relay_client(bench: Bench, target: Address, ready: Callable[[int], None]) -> None:
    accepting = socket.create_server((HOST, 0))
    ready(accepting.getsockname()[1])

    def lead(raw: socket.socket) -> None:
        with raw, closing(bench.plain_connect(target)) as tls:
            relay(raw, tls)

    while True:
        raw, _ = accepting.accept()
        threading.Thread(target=lead, args=[raw], daemon=True).start()


def relay(source: Any, sink: Any) -> None:
    """Much one way, then a byte back: one thread is enough, and the library takes one at a time."""
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    while size := source.recv_into(buffer):
        sink.sendall(view[:size])
        if buffer[size - 1]:
            source.sendall(sink.recv(1))


def reach(place: Address) -> socket.socket:
    return socket.create_connection((place.host, place.port))


def tunnel_ends(bench: Bench, sink: Address) -> Address:
    def server(ready: Callable[[int], None]) -> None:
        listener = bench.listener()
        ready(listener.address.port)
        TunnelServer(listener, sink).serve()

    far = bench.fork(server)

    def client(ready: Callable[[int], None]) -> None:
        tunnel = TunnelClient(Address(HOST, 0), lambda: bench.connect(far))
        ready(tunnel.address.port)
        tunnel.serve()

    return bench.fork(client)


class RawUpload:
    def __init__(self, raw: socket.socket) -> None:
        self.sendall, self.recv = raw.sendall, raw.recv


def run(mebibytes: int, pairs: int) -> dict[str, dict[str, Any]]:
    bench = Bench(mebibytes, pairs)
    ours_at, plain_at = bench.attested(take), bench.plain(take)

    def web(ready: Callable[[int], None]) -> None:
        listener = bench.listener()
        ready(listener.address.port)
        serve_wsgi(listener, application)

    def plain_web(ready: Callable[[int], None]) -> None:
        listener: Any = PlainListener(bench)
        ready(listener.address.port)
        serve_wsgi(listener, application)

    web_at, plain_web_at = bench.fork(web), bench.fork(plain_web)
    sink = bench.fork(tcp_sink)
    tunnel_at = tunnel_ends(bench, sink)
    relay_far = bench.fork(lambda ready: relay_server(bench, sink, ready))
    relay_at = bench.fork(lambda ready: relay_client(bench, relay_far, ready))
    found: dict[str, dict[str, Any]] = {}

    def rate(name: str, ours: Callable[[], float], peer: Callable[[], float], goal: float) -> None:
        told(name, *bench.pairs_of(ours, peer), goal)

    def told(name: str, mine: list[float], theirs: list[float], goal: float) -> None:
        a, b = statistics.median(mine), statistics.median(theirs)
        found[name] = {"ours": a, "peer": b, "ratio": a / b, "goal": goal, "unit": "MiB/s"}

    try:
        with (
            closing(bench.connect(ours_at)) as mine,
            closing(bench.plain_connect(plain_at)) as twin,
        ):
            rate("sockets", lambda: upload(mine, mebibytes), lambda: upload(twin, mebibytes), 0.95)

        transport = HttpTransport(bench.party, bench.verifier)
        plain_transport = HttpTransport(bench.party, bench.verifier)
        plain_transport._pool = httpcore.ConnectionPool(network_backend=PlainBackend(bench))

        def download(client: httpx.Client, place: Address) -> float:
            begun, size = time.perf_counter(), 0
            with client.stream("GET", f"https://{place}/{mebibytes}") as answer:
                for piece in answer.iter_raw():
                    size += len(piece)
            assert size == mebibytes * MIB
            return mebibytes / (time.perf_counter() - begun)

        with httpx.Client(transport=transport) as a, httpx.Client(transport=plain_transport) as b:
            rate("http", lambda: download(a, web_at), lambda: download(b, plain_web_at), 0.95)

        def stream(made: grpc.Channel) -> float:
            begun = time.perf_counter()
            call: Any = made.stream_unary("/bench.B/In")
            assert int(call(PIECE for _ in range(mebibytes))) == mebibytes * MIB
            return mebibytes / (time.perf_counter() - begun)

        mine: list[float] = []
        theirs: list[float] = []
        for turn in range(_SERVERS):
            at: dict[bool, Address] = {}
            for kind in (True, False) if turn % 2 else (False, True):
                at[kind] = bench.fork(partial(grpc_server, bench, attested=kind))
            with (
                channel(at[True], bench.party, bench.verifier) as c,
                grpc.secure_channel(
                    str(at[False]),
                    grpc.ssl_channel_credentials(
                        bench.enclave.certificate_pem, bench.party.key_pem, bench.party.cert_pem
                    ),
                    [("grpc.ssl_target_name_override", "enclave.ratls.invalid")],
                ) as d,
            ):
                a_side, b_side = partial(stream, c), partial(stream, d)
                for rates, more in zip((mine, theirs), bench.pairs_of(a_side, b_side), strict=True):
                    rates += more
        told("grpc", mine, theirs, 0.95)

        with reach(tunnel_at) as through, reach(relay_at) as beside:
            a, b = RawUpload(through), RawUpload(beside)
            rate("tunnel", lambda: upload(a, mebibytes), lambda: upload(b, mebibytes), 0.7)

        rows_at = bench.fork(lambda ready: own_flight.attested_rows(bench, ready))
        arrow_at = bench.fork(lambda ready: own_flight.plain_rows(bench, ready))
        own = flight.Client(rows_at, bench.party, bench.verifier)
        other, table = own_flight.PlainClient(bench, arrow_at), own_flight.rows_of(mebibytes)
        taking, giving = own_flight.get, own_flight.put
        rate("flight get", lambda: taking(own, mebibytes), lambda: taking(other, mebibytes), 0.95)
        rate(
            "flight put",
            lambda: giving(own, table, mebibytes),
            lambda: giving(other, table, mebibytes),
            0.95,
        )

        connecting(bench, found, ours_at, plain_at)
    finally:
        bench.end()
    crowd(bench, found)
    again(bench, found)
    return found


def connecting(
    bench: Bench, found: dict[str, dict[str, Any]], ours_at: Address, plain_at: Address
) -> None:
    quoted = statistics.median(_timed(lambda: _quote(bench)) for _ in range(30))

    def first_call(connection: Any) -> None:
        connection.sendall(b"\1")
        assert connection.recv(1) == b"k"
        connection.close()

    def attested() -> float:
        return statistics.median(
            _timed(lambda: first_call(bench.connect(ours_at))) for _ in range(20)
        )

    def twin() -> float:
        return statistics.median(
            _timed(lambda: first_call(bench.plain_connect(plain_at))) for _ in range(20)
        )

    a, b = map(statistics.median, bench.pairs_of(attested, twin))
    a -= quoted
    found["connect and first call"] = {
        "ours": a * 1e3,
        "peer": b * 1e3,
        "ratio": b / a,
        "goal": 1 / 2.5,
        "unit": "ms",
        "quote": quoted * 1e3,
    }


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _quote(bench: Bench) -> object:
    nonce: Any = os.urandom(32)
    none: Any = bytes(32)
    return bench.enclave.answer_challenge(nonce, bytes(32), none, b"", bytes(32))


def crowd(bench: Bench, found: dict[str, dict[str, Any]]) -> None:
    """64 clients at once; memory of a connection; a flood of strangers. One process for the server
    and this one for all clients."""
    counted, told = os.pipe()
    attester: Any = bench.enclave._attester
    quote = attester.quote

    def counting(report_data: bytes) -> bytes:
        os.write(told, b"q")
        return bytes(quote(report_data))

    attester.quote = counting
    os.set_blocking(counted, False)
    place = bench.attested(take)
    child = bench.children[-1]
    try:
        bench.connect(place).close()
        before, kept = _rss(child), []
        begun = time.perf_counter()
        with ThreadPoolExecutor(64) as pool:
            kept = list(pool.map(lambda _: bench.connect(place), range(256)))
        seconds = time.perf_counter() - begun
        found["handshakes with 64 clients"] = {"ours": 256 / seconds, "unit": "1/s"}
        grown = (_rss(child) - before) / len(kept) / 1024
        found["memory of a connection"] = {"ours": grown, "unit": "KiB"}
        for connection in kept:
            connection.close()
        while os.read(counted, 1 << 16) if _readable(counted) else b"":
            pass
        begun, strangers = time.perf_counter(), 0
        while time.perf_counter() - begun < 3:
            raw = socket.create_connection((place.host, place.port))
            tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
            tls.set_connect_state()
            with suppress(SSL.Error):
                tls.do_handshake()
                tls.send(b"\1\0\0\1x")
            raw.close()
            strangers += 1
        made = len(os.read(counted, 1 << 16)) if _readable(counted) else 0
        found["quotes under a flood"] = {
            "ours": made / 3,
            "unit": "1/s",
            "strangers": strangers / 3,
        }
    finally:
        attester.quote = quote
        bench.end()


def again(bench: Bench, found: dict[str, dict[str, Any]]) -> None:
    """A party connects again and again, with 16 threads, where a quote takes 10 ms: how many it
    gets, and how long another party's connections take meanwhile."""
    attester: Any = bench.enclave._attester
    quote, never, over = attester.quote, threading.Event(), threading.Event()
    attester.quote = lambda report_data: never.wait(0.01) or bytes(quote(report_data))
    place, other = bench.attested(take), bench.study.channel("bob-hospital")
    begun, made = float("inf"), [0] * 16

    def crowd(thread: int) -> None:
        while not over.is_set():
            with suppress(SSL.Error, OSError), raw_connection(place, bench.shown) as tls:
                tls.sendall(message_frame(write_message("hello", nonce=bytes(32))))
                evidence = len(read_frame(tls)[1]) > 1024  # else it is a refusal
                made[thread] += evidence and time.perf_counter() > begun

    def waited() -> float:
        return _timed(lambda: connect(place, other, bench.verifier).close())

    try:
        alone = statistics.median(waited() for _ in range(20))
        with ThreadPoolExecutor(16) as pool:
            pool.map(crowd, range(16))
            time.sleep(12)  # until it has used up its burst
            begun = time.perf_counter()
            among = sorted(waited() for _ in range(20))
            while time.perf_counter() - begun < 5:
                time.sleep(0.1)
            rate = sum(made) / (time.perf_counter() - begun)
            over.set()
        found["quotes of who connects again and again"] = {"ours": rate, "unit": "1/s"}
        found["another party connects meanwhile"] = {
            "ours": among[10] * 1e3,
            "peer": alone * 1e3,  # the same with nobody else there
            "most": among[-1] * 1e3,
            "unit": "ms",
        }
    finally:
        attester.quote = quote
        over.set()
        bench.end()


def _readable(end: int) -> bool:
    return bool(select.select([end], [], [], 0)[0])


def _rss(process: int) -> int:
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--mebibytes", type=int, default=64)
    given = parser.parse_args()
    found = run(given.mebibytes, given.pairs)
    if given.json:
        print(json.dumps(found))
        return
    for name, case in found.items():
        print(
            f"{name:28}",
            "  ".join(
                f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in case.items()
            ),
        )


if __name__ == "__main__":
    main()
