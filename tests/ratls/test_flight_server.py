"""The server that says no early: before a message is unpacked, and before a handler is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from ratls import flight_server
from ratls.address import Address
from ratls.certificate import ENCLAVE_NAME
from ratls.flight_data import DO_EXCHANGE, SERVICE, FlightData
from ratls.flight_server import Exchange, FlightServer, server_credentials
from ratls.framing import MAX_FRAME, Kind, read_message, write_message
from ratls.identity import EnclaveIdentity
from ratls.pin import ChannelIdentity
from tests.support.flight_peers import LOOPBACK, PlainEnclave, Script, Study, serving
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT, eventually

HELLO = FlightData(
    command=Kind.ATTEST.value,
    metadata=write_message("hello", nonce=b"n" * 32, task=b"", dataset="", release=b""),
).encode()


@pytest.fixture
def server(study: Study) -> Iterator[PlainEnclave]:
    script = Script(study.identity(), study.channel().spki_sha256)
    with serving(script, study.channel()) as running:
        yield running


@contextmanager
def connected(server: PlainEnclave, identity: ChannelIdentity | None) -> Iterator[grpc.Channel]:
    """A client that is not ours, and may send whatever gRPC can."""
    with channel_to(server.address, server.script.identity, identity) as channel:
        yield channel


def channel_to(
    address: Address, enclave: EnclaveIdentity, identity: ChannelIdentity | None
) -> grpc.Channel:
    pair = (identity.key_pem, identity.cert_pem) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(enclave.certificate_pem, *pair)
    named = [("grpc.ssl_target_name_override", ENCLAVE_NAME)]
    return grpc.secure_channel(str(address), credentials, named)


def ended(requests: Any, context: Any, send: Any) -> None:
    send(None)


@contextmanager
def handling(
    study: Study, exchange: Exchange = ended, refuse: Exchange = ended
) -> Iterator[tuple[FlightServer, grpc.Channel]]:
    """A server with these handlers and two threads, and a party's channel to it."""
    identity, party = study.identity(), study.channel()
    made = FlightServer(
        Address(LOOPBACK, 0),
        lambda: identity.pair,
        lambda: party.cert_pem,
        calls=2,
        exchange=exchange,
        refuse=refuse,
    )
    try:
        with channel_to(made.address, identity, party) as channel:
            yield made, channel
    finally:
        made.stop(5)


def exchange(channel: grpc.Channel, *frames: bytes, method: str = DO_EXCHANGE, **how: Any) -> Any:
    return channel.stream_stream(method)(iter(frames), timeout=HANG_LIMIT, **how)


def outcome(call: Any) -> grpc.StatusCode:
    """The status of a call that is refused."""
    count_refusal()
    with pytest.raises(grpc.RpcError):
        list(call)
    code: grpc.StatusCode = call.code()
    return code


def test_a_plain_call_of_a_listed_party_is_served(study: Study, server: PlainEnclave) -> None:
    """The twin of all that follows."""
    with connected(server, study.channel()) as channel:
        (answer,) = exchange(channel, HELLO)
        said = bytes(FlightData.parse(answer).metadata)
        assert read_message(said, "evidence")
    assert server.script.hellos == 1


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_call(study: Study, server: PlainEnclave, algorithm: Any) -> None:
    """F04, F19: 106 kB of gzip were 100 MiB before anything could be asked."""
    large = FlightData(command=Kind.ATTEST.value, metadata=bytes(1 << 20)).encode()
    for frame in (HELLO, large):
        with connected(server, study.channel()) as channel:
            status = outcome(exchange(channel, frame, compression=algorithm))
            assert status is grpc.StatusCode.UNIMPLEMENTED
    assert server.script.hellos == 0


def sized(size: int) -> bytes:
    """A frame of so many bytes, with nothing of use in it."""
    room = size - len(FlightData(metadata=bytes(size)).encode()) + size
    frame = FlightData(metadata=bytes(room)).encode()
    assert len(frame) == size
    return frame


def test_a_frame_larger_than_any_chunk(study: Study, server: PlainEnclave) -> None:
    """F09: not taken; one that is just as large as allowed is read, and refused for what it is."""
    with connected(server, study.channel()) as channel:
        first = outcome(exchange(channel, sized(MAX_FRAME + 1)))
        assert first is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(exchange(channel, sized(MAX_FRAME))) is grpc.StatusCode.UNKNOWN
    eventually(lambda: server.script.refusals)
    assert server.script.refusals[-1] == "message-unexpected"
    assert server.script.hellos == 0


@pytest.mark.parametrize("party", ["bob-hospital", None])
def test_a_certificate_that_is_not_listed_or_absent(
    study: Study, server: PlainEnclave, party: str | None
) -> None:
    """I01, I02."""
    identity = study.channel(party) if party else None
    with connected(server, identity) as channel:
        assert outcome(exchange(channel, HELLO)) is grpc.StatusCode.UNAVAILABLE
    assert server.script.hellos == 0


def test_a_server_without_a_list_of_clients_is_not_made(study: Study) -> None:
    """flight.md 1.3: gRPC would ask for no certificate."""
    count_refusal()
    identity = study.identity()
    for roots in (b"", b" \n"):
        with pytest.raises(AssertionError):
            server_credentials(lambda: identity.pair, lambda listed=roots: listed)  # type: ignore[misc]


def test_a_second_server_on_the_same_port(study: Study, server: PlainEnclave) -> None:
    """Else the system would give it every other connection, unnoticed."""
    count_refusal()
    identity = study.identity()
    with pytest.raises(RuntimeError):
        FlightServer(
            server.address,
            lambda: identity.pair,
            lambda: study.channel().cert_pem,
            calls=1,
            exchange=ended,
            refuse=ended,
        )


@pytest.mark.parametrize("method", ["DoPut", "DoGet", "Handshake", "ListFlights", "Nothing"])
def test_other_methods_of_flight_reach_the_refusal(study: Study, method: str) -> None:
    """F12: whatever its name is, one answer."""
    asked: list[str] = []

    def refuse(requests: Any, context: Any, send: Any) -> None:
        asked.append("refused")
        context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        send(None)

    with handling(study, refuse=refuse) as (_, channel):
        called = exchange(channel, HELLO, method=f"/{SERVICE}/{method}")
        assert outcome(called) is grpc.StatusCode.PERMISSION_DENIED
        elsewhere = exchange(channel, HELLO, method=f"/another.Service/{method}")
        assert outcome(elsewhere) is grpc.StatusCode.UNIMPLEMENTED
        assert list(exchange(channel, HELLO)) == []
    assert asked == ["refused"]


def test_more_calls_than_there_are_threads(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """F18: some wait, and gRPC refuses the rest; none of them starts a thread."""
    monkeypatch.setattr(flight_server, "_WAITING", 1)
    over, inside = threading.Event(), threading.Semaphore(0)

    def wait(requests: Any, context: Any, send: Any) -> None:
        inside.release()
        over.wait(HANG_LIMIT)
        send(None)

    with handling(study, wait) as (_, channel):
        running = [exchange(channel, HELLO) for _ in range(2)]
        for _ in running:
            assert inside.acquire(timeout=HANG_LIMIT)
        calls = [exchange(channel, HELLO) for _ in range(4)]  # one of them waits for a thread
        eventually(lambda: sum(call.done() for call in calls) == 3)
        refusals = [call for call in calls if call.done()]
        assert {outcome(call) for call in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert not inside.acquire(blocking=False)
        over.set()
        (waited,) = (call for call in calls if call not in refusals)
        assert [list(call) for call in (*running, waited)] == [[], [], []]
        assert list(exchange(channel, HELLO)) == []


def test_large_headers_of_a_call(study: Study, server: PlainEnclave) -> None:
    """F11."""
    with connected(server, study.channel()) as channel:
        call = exchange(channel, HELLO, metadata=[("x-large", "x" * (64 * 1024))])
        assert outcome(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(list(exchange(channel, HELLO, metadata=[("x-small", "x" * 1024)]))) == 1
    assert server.script.hellos == 1


def test_stopping_cuts_off_what_still_runs(study: Study) -> None:
    """flight.md 3.3: a call that never ends does not keep the server."""
    over, inside = threading.Event(), threading.Event()

    def wait(requests: Any, context: Any, send: Any) -> None:
        inside.set()
        over.wait(HANG_LIMIT)

    with handling(study, wait) as (busy, channel):
        call = exchange(channel, HELLO)
        assert inside.wait(HANG_LIMIT)
        assert busy.stop(0.1) is False
        over.set()
        # The call, or its connection, is what ends first.
        assert outcome(call) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    with handling(study) as (idle, _):
        assert idle.stop(HANG_LIMIT) is True
