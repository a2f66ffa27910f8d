"""The server's end of HTTP over attested connections: runs a WSGI or an ASGI program.

    serve_wsgi(listener, application)      # until `listener.close()`

The program finds the peer in `environ["ratls.party"]` (ASGI: `scope["ratls.party"]`), the name of
the party as the policy has it; no header says who a peer is. HTTP/1.1 (RFC 9112,
section 2) as `h11` reads it.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

import h11

from ratls.attested_socket import AttestedSocket
from ratls.errors import StreamIntegrityError
from ratls.listener import Listener
from ratls.log import Log, place_of
from verifier.errors import RatlsError

_PIECE = 256 * 1024
_HEAD = 64 * 1024  # bytes of a request's line and headers
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Asgi = Callable[[dict[str, Any], Callable[..., Any], Callable[..., Any]], Any]


class HttpMalformed(StreamIntegrityError):
    """What came is no HTTP/1.1."""

    code = "http-malformed"
    default_fix = "speak HTTP/1.1 over this connection"


class _Exchange:
    """HTTP/1.1 on one connection: requests in, responses out, one after another."""

    def __init__(self, connection: AttestedSocket) -> None:
        self.connection = connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)

    def event(self) -> Any:
        """The next event that the client causes. Raises: HttpMalformed."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(self.connection.recv(_PIECE))
        except h11.RemoteProtocolError as error:
            raise HttpMalformed("request", expected="HTTP/1.1", found="another form") from error
        return event

    def send(self, event: Any) -> None:
        """Send an event."""
        for part in self._http.send_with_data_passthrough(event) or ():
            self.connection.sendall(part)

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of a response."""
        self.send(h11.Response(status_code=status, headers=headers))

    def read_over(self) -> None:
        """The rest of a request that nobody read."""
        while self._http.their_state is h11.SEND_BODY:
            self.event()

    @property
    def unanswered(self) -> bool:
        """May a response still be begun?"""
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def next(self) -> bool:
        """Ready for the next request; False where this was the last one."""
        self.read_over()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def _serve(
    listener: Listener, answer: Callable[[_Exchange, h11.Request], None], log: Log | None
) -> None:
    def handle(connection: AttestedSocket) -> None:
        exchange = _Exchange(connection)
        while isinstance(request := exchange.event(), h11.Request):
            try:
                answer(exchange, request)
            except RatlsError:
                raise  # of the connection itself
            except Exception as bug:  # noqa: BLE001 - its text may hold what a peer sent
                number = secrets.token_hex(8)
                if log is not None:
                    log.error("internal", id=number, bug=place_of(bug))
                if not exchange.unanswered:
                    return  # cut off: it must not look complete
                text = f"internal ({number})\n".encode()
                exchange.begin(500, [(b"content-length", str(len(text)).encode())])
                exchange.send(h11.Data(data=text))
                exchange.send(h11.EndOfMessage())
            if not exchange.next():
                break
        connection.end()

    listener.serve(handle)


def _split(target: bytes) -> tuple[bytes, bytes]:
    path, _, query = target.partition(b"?")
    return path, query


class _Body(io.RawIOBase):
    """The body of one request, as a file."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange, self._left, self._ended = exchange, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            event = self._exchange.event()
            self._ended = not isinstance(event, h11.Data)
            self._left = b"" if self._ended else bytes(event.data)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def serve_wsgi(listener: Listener, application: Wsgi, *, log: Log | None = None) -> None:
    """Answer requests by a WSGI program (PEP 3333), each connection in a thread, until `close`."""

    def answer(exchange: _Exchange, request: h11.Request) -> None:
        began: list[tuple[int, list[tuple[bytes, bytes]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[..., Any]:
            pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers]
            began[:] = [(int(status.split()[0]), pairs)]
            return write

        sent = False

        def write(data: bytes) -> None:
            nonlocal sent
            if not sent:
                sent = True
                exchange.begin(*began[0])
            if data:
                exchange.send(h11.Data(data=data))

        found = application(_environ(exchange, request, listener), start)
        try:
            for data in found:
                write(data)
            write(b"")
            exchange.send(h11.EndOfMessage())
        finally:
            if hasattr(found, "close"):
                found.close()

    _serve(listener, answer, log)


def _environ(exchange: _Exchange, request: h11.Request, listener: Listener) -> dict[str, Any]:
    path, query = _split(request.target)
    peer = exchange.connection.peer
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "SERVER_NAME": listener.address.host,
        "SERVER_PORT": str(listener.address.port),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version.decode('ascii')}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BufferedReader(_Body(exchange), _PIECE),
        "wsgi.input_terminated": True,  # also where no length was announced
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "ratls.party": peer.party,
        "ratls.peer": peer,
    }
    for raw_name, raw_value in request.headers:
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        value = raw_value.decode("latin-1")
        if name not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            name = f"HTTP_{name}"
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


def serve_asgi(listener: Listener, application: Asgi, *, log: Log | None = None) -> None:
    """Answer requests by an ASGI program, on one event loop, until `close`.

    Its start-up and shut-down events are sent where it takes them.
    """
    loop = asyncio.new_event_loop()
    # Each connection waits for its peer in threads of its own, one for each direction. In the few
    # that a loop has by itself, one party's silent requests would make all others wait.
    loop.set_default_executor(ThreadPoolExecutor(2 * listener.limits.connections, "asgi"))
    thread = threading.Thread(target=loop.run_forever, name="asgi", daemon=True)
    thread.start()
    lifespan = _Lifespan(application)
    try:
        asyncio.run_coroutine_threadsafe(lifespan.start(), loop).result()

        def answer(exchange: _Exchange, request: h11.Request) -> None:
            coroutine = _asgi(application, exchange, request, listener)
            done: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, loop)
            done.result()

        _serve(listener, answer, log)
        asyncio.run_coroutine_threadsafe(lifespan.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _asgi(
    application: Asgi, exchange: _Exchange, request: h11.Request, listener: Listener
) -> None:
    path, query = _split(request.target)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "https",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(bytes(n), bytes(v)) for n, v in request.headers],
        "client": None,
        "server": (listener.address.host, listener.address.port),
        "ratls.party": exchange.connection.peer.party,
        "ratls.peer": exchange.connection.peer,
    }
    ended = False

    async def receive() -> dict[str, Any]:
        nonlocal ended
        if ended:
            return {"type": "http.disconnect"}
        event = await asyncio.to_thread(exchange.event)
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        ended = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.to_thread(_send, exchange, message)

    await application(scope, receive, send)
    if exchange.unanswered:
        raise RuntimeError("the program sent no response")


def _send(exchange: _Exchange, message: dict[str, Any]) -> None:
    if message["type"] == "http.response.start":
        exchange.begin(message["status"], list(message.get("headers", [])))
        return
    if message.get("body"):
        exchange.send(h11.Data(data=message["body"]))
    if not message.get("more_body", False):
        exchange.send(h11.EndOfMessage())


class _Lifespan:
    """The start-up and shut-down events of ASGI; a program that raises at them takes none."""

    def __init__(self, application: Asgi) -> None:
        self._application = application
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())
        await self._step("startup")

    async def _run(self) -> None:
        async def send(message: dict[str, str]) -> None:
            await self._told.put(message["type"])

        try:
            scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
            await self._application(scope, self._asked.get, send)
        except Exception:  # noqa: BLE001 - the standard's way to say "not supported"
            await self._told.put("unsupported")

    async def _step(self, name: str) -> None:
        await self._asked.put({"type": f"lifespan.{name}"})
        heard = asyncio.ensure_future(self._told.get())
        assert self._task is not None
        await asyncio.wait({heard, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if heard.done() and heard.result() == f"lifespan.{name}.failed":
            raise RuntimeError(f"the program failed at {name}")
        heard.cancel()

    async def stop(self) -> None:
        if self._task is not None and not self._task.done():
            await self._step("shutdown")
            self._task.cancel()
