"""The Flight shell: every method, every kind of peer, every way of going wrong."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from OpenSSL import SSL

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.errors import ListenAddressUnusable
from enclave_app.limits import Limits
from enclave_app.server import MethodNotOffered, start_server
from enclave_app.session import TasksExhausted
from policy.party import LocalParty
from ratls.address import Address, AddressMalformed
from ratls.certificate import ENCLAVE_NAME
from ratls.claims import ChallengeClaims
from ratls.environment import EnvironmentUnsafe
from ratls.errors import CallFailed
from ratls.evidence import Evidence
from ratls.flight_data import FlightDataMalformed
from ratls.flight_server import ExchangesExhausted
from ratls.framing import Kind, MessageUnexpected, read_message, write_message
from ratls.server_stream import StreamTruncated
from ratls.serving import listen_address
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

ONE = "train_party_1"
Call = Callable[[flight.FlightClient, str], Any]


@contextmanager
def stock_client(live: LiveEnclave, party: LocalParty) -> Iterator[flight.FlightClient]:
    """Arrow's own client, as other programs have it, with the right certificates."""
    channel = live.world.channel(party)
    client = flight.FlightClient(
        f"grpc+tls://{live.address}",
        tls_root_certs=live.enclave.identity.certificate_pem,
        cert_chain=channel.cert_pem,
        private_key=channel.key_pem,
        override_hostname=ENCLAVE_NAME,
    )
    with client:
        yield client


def code_told(error: BaseException) -> str:
    """What such a client reads: a code and an id, and nothing else of ours."""
    told = str(error)
    assert "Traceback" not in told
    assert ".py" not in told
    (code,) = set(re.findall(r"refused: ([a-z-]+) \([0-9a-f]{16}\)", told))
    return code


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
    with (
        stock_client(live, live.world.consortium.alice) as client,
        # The client side of `get_schema` makes an OSError of any refusal.
        pytest.raises((flight.FlightUnauthorizedError, OSError)) as seen,
    ):
        METHODS[method](client, name)
    assert code_told(seen.value) == MethodNotOffered.code
    assert name not in str(seen.value)


def hello(task: bytes) -> bytes:
    return write_message("hello", nonce=bytes(32), task=task, dataset=ONE, release=b"r" * 16)


def test_a_stock_flight_client_is_served(live: LiveEnclave, task: bytes) -> None:
    """It is Flight's protocol, whoever speaks it: the same answers, and the same evidence."""
    with stock_client(live, live.world.consortium.alice) as client:
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(
            descriptor, flight.FlightCallOptions(timeout=HANG_LIMIT)
        )
        writer.write_metadata(hello(task))
        answer = reader.read_chunk().app_metadata.to_pybytes()
        _, members = read_message(answer, "evidence")
        claims = ChallengeClaims.parse(Evidence.parse(members["evidence"]).claims)
        assert claims.nonce == bytes(32)
        assert claims.sealing_key_hash == sha256(members["sealing_key"]).digest()
        writer.done_writing()
        with pytest.raises(flight.FlightServerError) as seen:
            reader.read_chunk()
        assert code_told(seen.value) == StreamTruncated.code


def test_rows_of_a_stock_flight_client(live: LiveEnclave, task: bytes) -> None:
    """B08, F17: such a client sends columns and rows in the open; they are refused unread."""
    count_refusal()
    noted = rows(1).replace_schema_metadata({"note": "CANARY"})
    with stock_client(live, live.world.consortium.alice) as client:
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(
            descriptor, flight.FlightCallOptions(timeout=HANG_LIMIT)
        )
        writer.write_metadata(hello(task))
        reader.read_chunk()
        writer.begin(noted.schema)
        with pytest.raises(flight.FlightServerError) as seen:
            reader.read_chunk()
        assert code_told(seen.value) == MessageUnexpected.code
    assert "CANARY" not in live.stream.getvalue()


@pytest.mark.parametrize(
    ("descriptor", "leaf"),
    [
        (by_path("ratls/1 release"), FlightDataMalformed),
        (flight.FlightDescriptor.for_command(b"ratls/2 release"), MessageUnexpected),
        (flight.FlightDescriptor.for_command(b""), MessageUnexpected),
        (flight.FlightDescriptor.for_command(b"ratls/1 release\x00"), MessageUnexpected),
    ],
)
def test_exchange_that_is_none_of_the_four(
    live: LiveEnclave, descriptor: Any, leaf: type[RatlsError]
) -> None:
    """F13: a command is compared, never interpreted."""
    count_refusal()
    with stock_client(live, live.world.consortium.alice) as client:
        _, reader = client.do_exchange(descriptor, flight.FlightCallOptions(timeout=HANG_LIMIT))
        with pytest.raises(flight.FlightServerError) as seen:
            reader.read_chunk()
        assert code_told(seen.value) == leaf.code
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
    """I06, I07: Bob, who says that he is Alice, is Bob, whatever tokens he brings."""
    count_refusal()
    claims = [
        (b"x-forwarded-client-cert", b"URI=urn:ratls:party:alice-clinic"),
        (b"authorization", b"Bearer alice-clinic"),
    ]
    with stock_client(live, live.world.consortium.bob) as client:
        options = flight.FlightCallOptions(timeout=HANG_LIMIT, headers=claims)
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(descriptor, options)
        writer.write_metadata(hello(task))
        with pytest.raises(flight.FlightUnauthorizedError) as seen:
            reader.read_chunk()
        assert code_told(seen.value) == ReleaseNotAuthorized.code
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
    """flight.md 3.3: a client that stays silent would hold an orderly end for ever."""
    count_refusal()
    with world.running() as live:
        with (
            suppress(KeyboardInterrupt),
            live.exchange(Kind.RELEASE, world.consortium.alice, task=world.task(), dataset=ONE),
        ):
            assert not live.server.stop(0.1)
            raise KeyboardInterrupt
        assert live.server.stop()
