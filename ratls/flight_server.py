"""A gRPC server that offers Flight's DoExchange over mutual TLS, to the holders of listed
certificates.

    server = FlightServer(address, identity, roots, calls=80, exchange=serve, refuse=refuse)
    server.address.port
    server.stop(5.0)

gRPC refuses what is larger than a frame, or compressed, before anything is unpacked (F04), and has
one thread for each call, of a fixed number. What a call may do is decided by who gives `exchange`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from ratls.address import Address
from ratls.environment import prepare_process
from ratls.flight_data import DO_EXCHANGE, SERVICE
from ratls.framing import MAX_FRAME

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server could share the port unnoticed
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 8 * 1024),
    # Compressed messages are refused: a small one could become very large (F04).
    ("grpc.compression_enabled_algorithms_bitset", 1),  # bit 0: as it is
    ("grpc.per_message_decompression", 0),
    ("grpc.max_concurrent_streams", 32),  # of one connection
    # A stranger that connects and sends nothing is disconnected soon, as is an idle connection.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # Notices a dead connection, which would keep a thread: RFC 9113, section 6.7.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
_WAITING = 1024  # one party's burst of calls, each to be refused by its code, shuts nobody out
Send = Callable[[bytes | None], None]  # a frame, or None for the end of the call
# Frames that come, gRPC's context of the call, and the way to send.
Exchange = Callable[[Iterator[bytes], Any, Send], None]
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class FlightServer:
    """Listens from its making until `stop`."""

    def __init__(
        self,
        address: Address,
        certificate: tuple[bytes, bytes],
        roots: bytes,
        *,
        calls: int,
        exchange: Exchange,
        refuse: Exchange,
    ) -> None:
        """Listen.

        Args:
            address: Port 0 takes a free one.
            certificate: PEM of the server's certificate and of its key.
            roots: PEM of the certificates that may connect, and no others.
            calls: At once; each has a thread. Some more wait for one; gRPC refuses the rest.
            exchange: Serves DoExchange; ends with `send(None)`.
            refuse: The same for every other method.

        Raises:
            RuntimeError: The address cannot be listened on.
        """
        prepare_process()
        pem, key = certificate
        if not roots.strip():
            raise AssertionError("without roots gRPC would ask for no certificate")
        self._server = grpc.server(
            ThreadPoolExecutor(calls, thread_name_prefix="exchange"),
            handlers=[_Handlers(exchange, refuse)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=calls + _WAITING,
        )
        credentials = grpc.ssl_server_credentials(
            [(key, pem)],
            root_certificates=roots,
            require_client_auth=True,  # False by default, also with roots (I02)
        )
        self.address = Address(
            address.host, self._server.add_secure_port(str(address), credentials)
        )
        self._server.start()

    def stop(self, seconds: float) -> bool:
        """Stop listening and wait a while for running calls; False if some still ran then.

        They are cut off.
        """
        # A longer grace: with the same, gRPC cuts calls off at the moment at which we look.
        orderly = self._server.stop(2 * seconds + 60).wait(seconds)
        if not orderly:
            self._server.stop(0).wait(seconds)
        return orderly


class _Handlers(grpc.GenericRpcHandler):
    """Calls by name: DoExchange, and a refusal for every other method of Flight."""

    def __init__(self, exchange: Exchange, refuse: Exchange) -> None:
        self._exchange, self._refuse = _pushing(exchange), _pushing(refuse)

    def service(self, handler_call_details: Any) -> _Handler | None:
        """Called by gRPC for each call. None: there is no such service."""
        method = handler_call_details.method
        if not method.startswith(f"/{SERVICE}/"):
            return None
        return self._exchange if method == DO_EXCHANGE else self._refuse


def _pushing(exchange: Exchange) -> _Handler:
    """A handler that is given a function to send with, and says itself when the call ends.

    gRPC otherwise pulls answers out of a generator; here the order of steps stands in the code.
    """

    def serve(requests: Iterator[bytes], context: Any, send_response_callback: Send) -> None:
        exchange(requests, context, send_response_callback)

    serve.experimental_non_blocking = True  # type: ignore[attr-defined]
    return grpc.stream_stream_rpc_method_handler(serve)
