"""What the environment may not do, and what gRPC is left with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ratls.environment import EnvironmentUnsafe, prepare_process
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_a_log_of_keys_or_traffic_is_switched_on(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """L03: one variable, and every session key stands in a file."""
    prepare_process()
    monkeypatch.setenv(name, "")
    with refused(EnvironmentUnsafe):
        prepare_process()


def test_tls_12_is_off_for_servers_and_clients_of_grpc() -> None:
    """B10: gRPC offers TLS 1.2 by default and takes its ciphers from the environment alone."""
    count_refusal()
    code = """
import socket, ssl, sys
from ratls.flight_server import FlightServer
from ratls.address import Address
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from ratls.certificate import build_certificate
from tests.support.flight_peers import key_pem, NOW
key = ec.generate_private_key(ec.SECP256R1())
cert = build_certificate(key, bytes(200), bytes(16), 1, NOW).public_bytes(Encoding.PEM)
nobody = lambda requests, context, send: send(None)
server = FlightServer(
    Address("127.0.0.1", 0), lambda: (cert, key_pem(key)), lambda: cert, calls=2,
    exchange=nobody, refuse=nobody
)
for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(("127.0.0.1", server.address.port)) as raw:
            print(context.wrap_socket(raw).version())
    except (ssl.SSLError, OSError):
        print("refused")
server.stop(5)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}
    assert run(code, environment) == ["TLSv1.3", "refused"]


@pytest.mark.parametrize(
    ("first", "refuses"), [("import ratls, grpc", False), ("import grpc, ratls", True)]
)
def test_a_program_loads_grpc_before_us(first: str, refuses: bool) -> None:
    """B10: gRPC has read its environment by then, and would offer TLS 1.2."""
    code = f"""
{first}
from ratls.environment import EnvironmentUnsafe, prepare_process
try:
    prepare_process()
    print("ready")
except EnvironmentUnsafe as refusal:
    print(refusal.code)
"""
    names = ("GRPC_SSL_CIPHER_SUITES", "GRPC_VERBOSITY")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    done = run(code, environment)
    assert done == [EnvironmentUnsafe.code if refuses else "ready"]
    if refuses:
        count_refusal()
        chosen = environment | {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384"}
        assert run(code, chosen) == ["ready"]


def run(code: str, environment: dict[str, str]) -> list[str]:
    """The words that a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=HANG_LIMIT,
    )
    return done.stdout.split()
