"""HTTP over attested connections: a transport for `httpx`, and the server's end for web programs.

    with httpx.Client(transport=HttpTransport(identity, verifier)) as client:
        client.get("https://enclave.example:8443/health")

Every connection is verified and challenged before a request goes over it, also where an earlier one
was lost. The host in an address says where to connect; who may answer is the policy's word alone.
The server's end: `serve_wsgi` and `serve_asgi`.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from ratls.address import Address
from ratls.attested_socket import AttestedSocket
from ratls.http_server import serve_asgi as serve_asgi
from ratls.http_server import serve_wsgi as serve_wsgi
from ratls.identity import EnclaveIdentity
from ratls.pin import ChannelIdentity
from ratls.session import Verifier
from ratls.sockets import connect
from ratls.tls import Shown
from verifier.errors import ConfigError

_CONNECT_SECONDS = 10.0


class HttpSchemeUnattested(ConfigError):
    """The address does not begin with https, so it asks for a connection that proves nothing."""

    code = "http-scheme-unattested"
    default_fix = "write https:// and the port of the enclave"


class HttpTransport(httpx.HTTPTransport):
    """For `httpx.Client(transport=…)`: attested connections, and no others."""

    def __init__(
        self,
        identity: ChannelIdentity | EnclaveIdentity,
        verifier: Verifier,
        *,
        connections: int = 10,
    ) -> None:
        """Keep up to so many connections; none is made yet."""
        # In place of the parent's own: that one would speak TLS to whoever has a usual certificate.
        self._pool = httpcore.ConnectionPool(
            # Never used, and it trusts nobody. Without one, the authorities of this system would be
            # read for each connection, which takes ten times as long as the connection itself.
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=60.0,
            network_backend=_Backend(Shown.of(identity), verifier),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it. Raises: what `sockets.connect` raises; HttpSchemeUnattested."""
        if request.url.scheme != "https":
            raise HttpSchemeUnattested(
                "address", expected="https", found=ascii(request.url.scheme)[:40]
            )
        return super().handle_request(request)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, shown: Shown, verifier: Verifier) -> None:
        self._shown, self._verifier = shown, verifier

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """An attested connection."""
        seconds = _CONNECT_SECONDS if timeout is None else timeout
        place = Address(host, port)
        return _Stream(connect(place, self._shown, self._verifier, timeout=seconds))


class _Stream(httpcore.NetworkStream):
    def __init__(self, connection: AttestedSocket) -> None:
        self._connection = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come."""
        if timeout is not None:
            self._connection.settimeout(timeout)
        return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it."""
        if timeout is not None:
            self._connection.settimeout(timeout)
        self._connection.sendall(buffer)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """It has begun already; the given context would trust any authority of this system."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Whether an idle connection has something to read, which means that it ended."""
        if info != "is_readable":
            return None
        waiting = select.poll()
        waiting.register(self._connection.fileno(), select.POLLIN)
        return bool(self._connection.pending or waiting.poll(0))
