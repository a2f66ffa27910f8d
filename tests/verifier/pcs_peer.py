"""A collateral service on loopback that says what a test wants it to say, over TLS or not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from simulation.serve import Reply, reply_to, throwaway_tls
from tests.support.waiting import HANG_LIMIT
from tests.verifier.world import AT, world
from verifier import Collateral, TrustAnchors
from verifier.pcs import Fetched, fetch_collateral
from verifier.pcs_requests import Retries, Service, tls_trust
from verifier.received import ReceivedQuote

ROOT_CRL, PCK_CRL = "/sgx/certification/v4/rootcacrl", "/sgx/certification/v4/pckcrl"
TCB, QE = "/sgx/certification/v4/tcb", "/sgx/certification/v4/qe/identity"
PATHS = (ROOT_CRL, PCK_CRL, TCB, QE)
TD_TCB, TD_QE = "/tdx/certification/v4/tcb", "/tdx/certification/v4/qe/identity"

CHAINS = {
    PCK_CRL: "SGX-PCK-CRL-Issuer-Chain",
    TCB: "TCB-Info-Issuer-Chain",
    QE: "SGX-Enclave-Identity-Issuer-Chain",
}
W = world()
ROOTS = W.intel.anchors()
PUBLISHED = W.collateral()

Alter: TypeAlias = Callable[[Reply], "Reply | Iterable[bytes]"]


@dataclass
class Peer:
    """Where it listens, what it believes its certificate to be, and what it was asked."""

    origin: str
    certificate: Path
    seen: list[str] = field(default_factory=list)
    sent: int = 0


def wire(reply: Reply, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """A reply as bytes; `extra` headers may repeat others."""
    headers = [*reply.headers.items(), *extra, ("Content-Length", str(len(reply.body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode("latin-1") + reply.body


def with_header(name: str, value: str | None) -> Alter:
    """The reply with one header altered, or without it."""

    def alter(reply: Reply) -> Reply:
        others = {k: v for k, v in reply.headers.items() if k != name}
        return replace(reply, headers=others if value is None else others | {name: value})

    return alter


@contextmanager
def peer(
    folder: Path,
    published: Collateral,
    altered: Mapping[str, Alter] | None = None,
    *,
    tdx: Collateral | None = None,
    host: str = "127.0.0.1",
    plain: bool = False,
    silent: bool = False,
    since: datetime | None = None,
) -> Iterator[Peer]:
    """Serve a bundle; `altered` maps a path to what becomes of the genuine reply.

    Args:
        tdx: The bundle for trust domains.
        host: What the certificate is for; it always listens on 127.0.0.1.
        plain: Speak HTTP without TLS: complain about what the client says.
        silent: Accept, and never say a word, not even in the handshake.
        since: When its certificate, of one year, began; None: now.
    """
    tls = throwaway_tls(host, folder / "peer.crt", since)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Peer(f"https://127.0.0.1:{listener.getsockname()[1]}", folder / "peer.crt")

        def answer(connection: socket.socket) -> None:
            with connection:
                if silent:
                    stop.wait()
                    return
                connection.settimeout(HANG_LIMIT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if plain:
                    connection.recv(1)
                    connection.sendall(wire(Reply(400, b"")))
                    return
                with tls.wrap_socket(connection, server_side=True) as stream:
                    while target := _target(stream):
                        found.seen.append(target)
                        for piece in _pieces(target, published, tdx, altered or {}):
                            if stop.is_set():
                                return
                            stream.sendall(piece)
                            found.sent += len(piece)

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=_quiet, args=(answer, connection)))
                threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield found
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@contextmanager
def proxy(status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A proxy on loopback that answers CONNECT with this status; its address, and what it saw."""
    seen: list[str] = []
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(HANG_LIMIT)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(1) or b"\r\n\r\n"
            words = request.split()
            seen.append(b" ".join(words[:2]).decode())
            connection.sendall(b"HTTP/1.1 %d X\r\n\r\n" % status)
            if status != 200:
                return
            host, _, port = words[1].decode().rpartition(":")
            with socket.create_connection((host, int(port)), HANG_LIMIT) as onward:
                back = threading.Thread(target=pump, args=(onward, connection))
                back.start()
                pump(connection, onward)
                back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=serve, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join()


def drip(piece: bytes) -> Iterator[bytes]:
    """The same again and again, with pauses, for as long as somebody listens."""
    pause = threading.Event()
    while True:
        yield piece
        pause.wait(0.02)


def _quiet(answer: Callable[[socket.socket], None], connection: socket.socket) -> None:
    try:
        answer(connection)
    except (OSError, ssl.SSLError):
        connection.close()  # the client went away, which is what most tests want it to do


def _target(stream: socket.socket) -> str:
    request = b""
    while b"\r\n\r\n" not in request:
        got = stream.recv(65536)
        if not got:
            return ""
        request += got
    return request.split(b" ")[1].decode("ascii")


def _pieces(
    target: str,
    published: Collateral,
    tdx: Collateral | None,
    altered: Mapping[str, Alter],
) -> Iterable[bytes]:
    reply = reply_to(target, published, tdx)
    path = target.partition("?")[0]
    said = altered[path](reply) if path in altered else reply
    return [wire(said)] if isinstance(said, Reply) else said


ONCE = Retries(number=0)


def fetch(
    place: Peer,
    quotes: dict[str, bytes] | None = None,
    *others: Peer,
    at: datetime = AT,
    roots: TrustAnchors = ROOTS,
    **options: Any,
) -> Fetched:
    """What these peers give, asked in turn; each is believed by its own certificate."""
    services = [Service.parse(p.origin, tls_trust(p.certificate)) for p in (place, *others)]
    nothing = {} if "kind" in options else {"q.bin": W.quote()}
    given: dict[str, bytes] = nothing if quotes is None else quotes
    newer_sgx = options.pop("newer_sgx", False)
    return fetch_collateral(
        {name: ReceivedQuote(raw, newer_sgx) for name, raw in given.items()},
        *services,
        roots=roots,
        trust=tls_trust(),
        clock=lambda: at,
        **{"seconds": HANG_LIMIT, "retries": ONCE, **options},
    )


def fetch_from(folder: Path, altered: dict[str, Alter], **options: Any) -> Fetched:
    with peer(folder, options.pop("published", PUBLISHED), altered) as place:
        return fetch(place, **options)


def body(change: Callable[[bytes], bytes]) -> Alter:
    return lambda reply: replace(reply, body=change(reply.body))


def says(status: int, **headers: str) -> Alter:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: replace(reply, status=status, headers=reply.headers | named)


def as_der(raw: bytes) -> bytes:
    """A list as the genuine service of these tests sends it: hexadecimal text or DER."""
    return raw if raw.startswith(b"0\x82") else bytes.fromhex(raw.decode())
