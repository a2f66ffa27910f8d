"""The Flight shell: every method, every kind of peer, every way of going wrong."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from OpenSSL import SSL

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.errors import ListenAddressUnusable
from enclave_app.limits import ExchangesExhausted, Limits
from enclave_app.server import start_server
from enclave_app.session import TasksExhausted
from ratls.address import Address, AddressMalformed
from ratls.environment import EnvironmentUnsafe
from ratls.errors import CallFailed
from ratls.framing import Kind, write_message
from ratls.pin import pinned_channel
from ratls.serving import listen_address
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

ONE = "train_party_1"
Call = Callable[[flight.FlightClient, str], Any]


def by_path(name: str) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_path(name)


def put(client: flight.FlightClient, name: str) -> None:
    writer, reader = client.do_put(by_path(name), rows(1).schema)
    with writer:
        writer.write_table(rows(1))
        writer.done_writing()
        reader.read()


METHODS: dict[str, Call] = {
    "list_flights": lambda c, n: list(c.list_flights(n.encode())),
    "get_flight_info": lambda c, n: c.get_flight_info(by_path(n)),
    "get_schema": lambda c, n: c.get_schema(by_path(n)),
    "do_get": lambda c, n: c.do_get(flight.Ticket(n.encode())).read_all(),
    "do_put": put,
    "do_action": lambda c, n: list(c.do_action(flight.Action(n, b""))),
    "list_actions": lambda c, n: c.list_actions(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [ONE, "no-such-name", "../../etc/passwd"])
def test_every_other_method_is_refused_alike(live: LiveEnclave, method: str, name: str) -> None:
    """F12, F13, F16: nothing about what exists can be learned, and no traceback comes along,
    which from `get_schema` it would even with an error of Flight's own."""
    count_refusal()
    channel = live.world.channel(live.world.consortium.alice)
    with (
        pinned_channel(live.address, live.admitted, channel) as client,
        # The client side of `get_schema` makes an OSError of any refusal.
        pytest.raises((flight.FlightUnauthorizedError, OSError)) as seen,
    ):
        METHODS[method](client, name)
    told = re.sub(r"\([0-9a-f]{16}\)", "(ID)", str(seen.value))
    assert told.startswith("refused: method-not-offered (ID). Detail: Unauthorized")
    assert "Traceback" not in told
    assert name not in told


@pytest.mark.parametrize(
    "descriptor",
    [
        by_path("ratls/1 release"),
        flight.FlightDescriptor.for_command(b"ratls/2 release"),
        flight.FlightDescriptor.for_command(b""),
        flight.FlightDescriptor.for_command(b"ratls/1 release\x00"),
    ],
)
def test_exchange_that_is_none_of_the_three(live: LiveEnclave, descriptor: Any) -> None:
    """F13: a command is compared, never interpreted."""
    count_refusal()
    channel = live.world.channel(live.world.consortium.alice)
    with pinned_channel(live.address, live.admitted, channel) as client:
        _, reader = client.do_exchange(descriptor, flight.FlightCallOptions(timeout=HANG_LIMIT))
        with pytest.raises(flight.FlightServerError) as seen:
            reader.read_chunk()
        assert json.loads(seen.value.extra_info)["code"] == "message-unexpected"
        reader.cancel()


# Who connects.


def test_listed_party_connects(live: LiveEnclave) -> None:
    with live.exchange(Kind.ATTEST, live.world.consortium.alice):
        pass


def test_party_of_the_same_name_with_another_key(live: LiveEnclave) -> None:
    """I03, I05: the name is only a label of the pinned certificate."""
    impostor = local_party("alice-clinic", NOW, copy=1)
    with refused(CallFailed), live.exchange(Kind.ATTEST, impostor):
        pass


def test_stranger(live: LiveEnclave) -> None:
    """I03: a certificate that no policy lists, and no system store is asked about."""
    with refused(CallFailed), live.exchange(Kind.ATTEST, local_party("dora-lab", NOW)):
        pass


def test_no_certificate_at_all(live: LiveEnclave) -> None:
    """I01: the handshake ends before any handler is entered."""
    count_refusal()
    before = len(live.log)
    client = flight.FlightClient(
        f"grpc+tls://{live.address}",
        tls_root_certs=live.enclave.identity.certificate_pem,
        override_hostname="enclave.ratls.invalid",
    )
    with client, pytest.raises((flight.FlightError, pa.ArrowException, OSError)):
        list(client.list_flights(options=flight.FlightCallOptions(timeout=HANG_LIMIT)))
    assert len(live.log) == before


def test_plaintext(live: LiveEnclave) -> None:
    """B05: there is no port without TLS."""
    count_refusal()
    with (
        flight.FlightClient(f"grpc://{live.address}") as client,
        pytest.raises((flight.FlightError, pa.ArrowException, OSError)),
    ):
        list(client.list_flights(options=flight.FlightCallOptions(timeout=HANG_LIMIT)))


@pytest.mark.parametrize(
    ("version", "works"), [(SSL.TLS1_3_VERSION, True), (SSL.TLS1_2_VERSION, False)]
)
def test_only_tls_1_3(live: LiveEnclave, version: int, works: bool) -> None:
    """B10: 1.2 is on by default in gRPC."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    with socket.create_connection(("127.0.0.1", live.address.port), timeout=HANG_LIMIT) as raw:
        raw.settimeout(None)
        tls = SSL.Connection(context, raw)
        tls.set_connect_state()
        if works:
            tls.do_handshake()
            return
        count_refusal()
        with pytest.raises(SSL.Error):
            tls.do_handshake()


def test_identity_in_a_header(live: LiveEnclave, task: bytes) -> None:
    """I07: Bob, who says that he is Alice, is Bob."""
    count_refusal()
    channel = live.world.channel(live.world.consortium.bob)
    claims = [
        (b"x-forwarded-client-cert", b"URI=urn:ratls:party:alice-clinic"),
        (b"authorization", b"Bearer alice-clinic"),
    ]
    with pinned_channel(live.address, live.admitted, channel) as client:
        options = flight.FlightCallOptions(timeout=HANG_LIMIT, headers=claims)
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(descriptor, options)
        writer.write_metadata(write_message("hello", nonce=bytes(32), task=task, dataset=ONE))
        with pytest.raises(flight.FlightUnauthorizedError) as seen:
            reader.read_chunk()
        assert json.loads(seen.value.extra_info)["code"] == ReleaseNotAuthorized.code
        reader.cancel()


# How many.


def test_more_exchanges_at_once_than_a_party_may_have(world: EnclaveWorld) -> None:
    """F10: a party that stays silent spends its own share; the others are served."""
    people = world.consortium
    with (
        world.running(limits=Limits(exchanges_per_party=1)) as live,
        suppress(KeyboardInterrupt),
        live.exchange(Kind.RELEASE, people.alice, task=world.task(), dataset=ONE),
    ):
        with refused_by_enclave(ExchangesExhausted), live.exchange(Kind.ATTEST, people.alice):
            pass
        with live.exchange(Kind.ATTEST, people.bob):
            pass
        raise KeyboardInterrupt


def test_flood_of_tasks(world: EnclaveWorld) -> None:
    """D11: a task costs a submitter nothing; an open one costs the enclave memory."""
    alice = world.consortium.alice
    with world.running(limits=Limits(tasks_per_submitter=2)) as live:
        first = world.task()
        live.release(alice, ONE, rows(1), first)
        live.release(alice, ONE, rows(1), world.task())
        with refused_by_enclave(TasksExhausted):
            live.release(alice, ONE, rows(1), world.task())
        live.release(world.consortium.bob, "train_party_2", rows(2), first)
        live.wait(world.consortium.carol, first)


def test_concurrent_challenges_get_their_own_answers(live: LiveEnclave) -> None:
    """B19: one attester, many nonces; an answer to another nonce would be refused by the client."""
    errors: list[RatlsError] = []

    def attest() -> None:
        try:
            for party in live.world.consortium.parties.values():
                with live.exchange(Kind.ATTEST, party):
                    pass
        except RatlsError as error:
            errors.append(error)

    threads = [threading.Thread(target=attest) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# Where it listens, and how it ends.


def test_port_in_use(live: LiveEnclave) -> None:
    with refused(ListenAddressUnusable):
        start_server(live.enclave, live.address, live.server._log)


def test_environment_that_would_log_keys(
    live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L03: whoever starts the process chooses its environment."""
    monkeypatch.setenv("SSLKEYLOGFILE", "keys.txt")
    with refused(EnvironmentUnsafe):
        start_server(live.enclave, Address("127.0.0.1", 0), live.server._log)


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:00", ":0", "grpc://127.0.0.1:0", "a b:0"])
def test_address_that_is_none(text: str) -> None:
    with refused(AddressMalformed):
        listen_address(text)


def test_addresses() -> None:
    assert listen_address("127.0.0.1:0") == Address("127.0.0.1", 0)
    assert listen_address("[::1]:0") == Address("::1", 0)
    assert listen_address("127.0.0.1:7443") == Address("127.0.0.1", 7443)


def test_stopping_does_not_wait_for_a_silent_client(world: EnclaveWorld) -> None:
    """A client that stays silent holds Flight's own shutdown for ever."""
    count_refusal()
    with world.running() as live:
        with (
            suppress(KeyboardInterrupt),
            live.exchange(Kind.RELEASE, world.consortium.alice, task=world.task(), dataset=ONE),
        ):
            assert not live.server.stop(0.1)
            raise KeyboardInterrupt
        assert live.server.stop()
