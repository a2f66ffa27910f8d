"""Flight of one's own: what arrives, when nothing is asked or given, and what ends a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from policy.document import Policy
from policy.rows import RowsMalformed
from ratls import flight
from ratls.address import Address
from ratls.claims import InstanceChanged, NonceMismatch, PeerHashMismatch, TaskHashMismatch
from ratls.errors import CallFailed
from ratls.evidence import EvidenceMalformed
from ratls.flight_rows import ColumnTypeNotCarried, pieces
from ratls.flight_server import ExchangesExhausted, ServerFailed
from ratls.flight_service import (
    WINDOW,
    FlightPeerUnknown,
    Service,
    ServiceMethodNotOffered,
    _Stream,
)
from ratls.framing import Kind, MessageOversized, MessageUnexpected
from ratls.identity import EnclaveIdentity
from ratls.listener import ListenerUnusable
from ratls.log import open_log
from ratls.peer_refusal import PeerRefused
from ratls.pin import ChannelIdentity
from ratls.probe import HandshakeFailed
from ratls.server_stream import SequenceBroken, ServerExchange, StreamOversized, StreamTruncated
from ratls.session import Verifier
from tests.ratls.test_sockets import Clock, _past, revoked
from tests.support.channels import Log
from tests.support.flight_peers import LOOPBACK, NOW, Study
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.crl import CertificateRevoked
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

QUARTER = 15 * 60 + 1
TABLE = pa.table(
    {
        "name": pa.array(["a", None, "ccc"]),
        "n": pa.array([1, 2, 3], pa.int32()),
        "x": pa.array([0.5, float("nan"), None]),
        "yes": pa.array([True, None, False]),
        "day": pa.array([1, 2, None], pa.date32()),
        "at": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
    }
)
MIB = pa.table({"x": pa.array([0.5] * (1 << 17))})  # one message


class Visits(Service):
    """Gives what a test has put there, and notes what it is asked and given."""

    def __init__(self) -> None:
        self.given: Any = TABLE
        self.asked: list[flight.Call] = []
        self.taken: list[pa.RecordBatch] = []
        self.errors: list[BaseException] = []
        self.whole = False

    def get(self, call: flight.Call) -> Any:
        self.asked.append(call)
        return self.given

    def put(self, call: flight.Call, rows: pa.RecordBatchReader) -> bytes:
        self.asked.append(call)
        try:
            self.taken.extend(rows)
        except BaseException as error:
            self.errors.append(error)
            raise
        self.whole = True
        return b"taken: %d" % sum(batch.num_rows for batch in self.taken)

    def exchange(self, call: flight.Call, rows: pa.RecordBatchReader) -> Any:
        self.asked.append(call)
        return rows.read_all().slice(1)


@contextmanager
def serving(
    study: Study,
    service: Service,
    identity: EnclaveIdentity | None = None,
    policy: Callable[[], Policy] | None = None,
    log: Log | None = None,
    **limits: Any,
) -> Iterator[flight.Server]:
    server = flight.Server(
        Address(LOOPBACK, 0),
        identity or study.identity(),
        policy or (lambda: study.policy),
        service,
        limits=flight.Limits(**limits),
        log=open_log(log if log is not None else Log()),
    )
    with server:
        yield server


def client(
    study: Study,
    address: Address,
    verifier: Verifier | None = None,
    own: ChannelIdentity | None = None,
    **options: Any,
) -> flight.Client:
    judge = verifier or Verifier(lambda: study.expectation)
    return flight.Client(address, own or study.channel(), judge, timeout=HANG_LIMIT, **options)


@pytest.fixture
def service() -> Visits:
    return Visits()


@contextmanager
def told(leaf: type[RatlsError]) -> Iterator[None]:
    """The enclave refuses, with this code."""
    count_refusal()
    with pytest.raises(PeerRefused) as caught:
        yield
    assert caught.value.peer_code == leaf.code


# What arrives.


def test_rows_by_ticket_and_by_descriptor(study: Study, service: Visits) -> None:
    with serving(study, service) as server:
        alice = client(study, server.address)
        assert alice.get(b"2026").to_pydict().keys() == TABLE.to_pydict().keys()
        assert alice.get(b"2026").equals(TABLE) or str(alice.get(b"2026")) == str(TABLE)
        assert alice.put(b"visits", TABLE) == b"taken: 3"
        assert pa.Table.from_batches(service.taken).drop(["x"]).equals(TABLE.drop(["x"]))
        assert alice.exchange(b"back", TABLE.drop(["x"])).equals(TABLE.drop(["x"]).slice(1))
    assert {call.party for call in service.asked} == {"alice-clinic"}
    assert [call.about for call in service.asked] == [b"2026"] * 2 + [b"visits", b"back"] or len(
        service.asked
    ) == 5


def test_no_rows_and_a_batch_and_a_reader(study: Study, service: Visits) -> None:
    """F17: nothing of a schema's metadata travels."""
    marked = TABLE.schema.with_metadata({"canary": "c4n4ry"})
    service.given = marked.empty_table()
    with serving(study, service) as server:
        alice = client(study, server.address)
        found = alice.get(b"")
        assert (found.num_rows, found.schema, found.schema.metadata) == (0, TABLE.schema, None)
        service.given = TABLE.to_batches()[0]
        assert alice.get(b"").num_rows == 3
        service.given = pa.RecordBatchReader.from_batches(TABLE.schema, iter(TABLE.to_batches()))
        assert alice.get(b"").num_rows == 3
        assert alice.put(b"", TABLE.schema.empty_table()) == b"taken: 0"
        assert alice.put(b"", TABLE.to_reader()) == b"taken: 3"


def many(count: int, made: list[int]) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(count):
            made.append(number)
            yield MIB.to_batches()[0]

    return pa.RecordBatchReader.from_batches(MIB.schema, batches())


def test_more_rows_than_are_on_their_way_at_once(study: Study, service: Visits) -> None:
    service.given = many(3 * WINDOW, [])
    with serving(study, service) as server:
        alice = client(study, server.address)
        found = alice.get(b"")
        assert found.num_rows == 3 * WINDOW * MIB.num_rows
        assert alice.put(b"", many(3 * WINDOW, [])) == b"taken: %d" % found.num_rows


def test_a_reader_that_is_not_read_on(study: Study, service: Visits) -> None:
    """F10: no more rows are made than were asked for, and the call ends with the reader."""
    made: list[int] = []
    service.given = many(1000, made)
    with serving(study, service, served_per_party=1) as server:
        alice = client(study, server.address)
        with alice.reader(b"") as reader:
            reader.read_next_batch()
            assert len(made) <= 2 * WINDOW
        assert len(made) <= 2 * WINDOW
        eventually(lambda: not server._guard.running)
        service.given = TABLE
        assert alice.get(b"").num_rows == 3


def test_rows_of_very_different_sizes() -> None:
    long = pa.record_batch({"t": ["x" * (5 << 20), "", "x" * (5 << 20), *[""] * 1000]})
    assert pa.Table.from_batches(pieces(long)).equals(pa.Table.from_batches([long]))
    with refused(MessageOversized):
        list(pieces(pa.record_batch({"t": ["x" * (9 << 20)]})))


# When nothing is asked or given.


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (lambda i, n, p, t: i(b"o" * 32, p, t), NonceMismatch),
        (lambda i, n, p, t: i(n, b"m" * 32, t), PeerHashMismatch),
        (lambda i, n, p, t: i(n, p, b"o" * 32), TaskHashMismatch),
        (lambda i, n, p, t: b'{"verified": true}', EvidenceMalformed),
    ],
)
def test_evidence_of_another_moment_party_or_purpose(
    study: Study,
    service: Visits,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[..., bytes],
    leaf: type[RatlsError],
) -> None:
    """B06, B07, B20: the service is told nothing, and no row leaves."""
    genuine = EnclaveIdentity.answer_challenge
    monkeypatch.setattr(
        EnclaveIdentity,
        "answer_challenge",
        lambda self, n, p, t: answer(lambda *given: genuine(self, *given), n, p, t),
    )
    with serving(study, service) as server:
        with refused(leaf):
            client(study, server.address).put(b"c4n4ry", TABLE)
        monkeypatch.undo()
        assert service.asked == []
        assert client(study, server.address).put(b"visits", TABLE)


def test_a_party_that_the_policy_does_not_list(study: Study, service: Visits) -> None:
    """I03: its certificate says alice-clinic, and its key is another."""
    stranger = ChannelIdentity.of(local_party("alice-clinic", NOW, copy=1))
    with serving(study, service) as server:
        with refused(CallFailed):
            client(study, server.address, own=stranger).get(b"")
        assert service.asked == []
        assert client(study, server.address).get(b"")


def test_columns_that_are_not_carried(study: Study, service: Visits) -> None:
    """Said at once, and to nobody else."""
    for kind in (pa.large_string(), pa.list_(pa.int64()), pa.dictionary(pa.int8(), pa.string())):
        table = pa.schema([("x", kind)]).empty_table()
        with refused(ColumnTypeNotCarried):
            client(study, Address(LOOPBACK, 1)).put(b"", table)
    service.given = table
    with serving(study, service) as server:
        with told(ColumnTypeNotCarried):
            client(study, server.address).get(b"")
        service.given = TABLE
        assert client(study, server.address).get(b"")


def test_a_service_that_only_gives(study: Study) -> None:
    class Only(Service):
        def get(self, call: flight.Call) -> Any:
            return TABLE

    with serving(study, Only()) as server:
        alice = client(study, server.address)
        for asked in (alice.put, alice.exchange):
            with told(ServiceMethodNotOffered):
                asked(b"", TABLE)
        assert alice.get(b"")


def test_an_error_of_the_service_leaves_as_a_code(study: Study) -> None:
    """L01: its text may hold a row."""

    class Failing(Service):
        def get(self, call: flight.Call) -> Any:
            raise ValueError("c4n4ry")

        def put(self, call: flight.Call, rows: pa.RecordBatchReader) -> bytes:
            rows.read_all()
            raise FlightPeerUnknown("row", expected="another", found="c4n4ry")

    log = Log()
    with serving(study, Failing(), log=log) as server:
        alice = client(study, server.address)
        with Relay((LOOPBACK, server.address.port)), told(ServerFailed):
            alice.get(b"")
        with told(FlightPeerUnknown):
            alice.put(b"", TABLE)
    assert "c4n4ry" not in log.getvalue()
    assert log.codes == [FlightPeerUnknown.code]


def test_an_exchange_of_another_protocol(study: Study, service: Visits) -> None:
    """B18: the evidence is for a task that this service knows nothing of."""
    with serving(study, service) as server:
        admitted = study.admitted(server.identities.current)
        with (
            told(MessageUnexpected),
            study.exchange(Kind.RELEASE, server.address, admitted, task=b"task"),
        ):
            pass
        assert client(study, server.address).get(b"")


def test_a_server_without_tls(study: Study) -> None:
    """B21: nothing falls back."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    try:
        with refused(HandshakeFailed):
            client(study, Address(LOOPBACK, port)).put(b"", TABLE)
    finally:
        server.stop(None).wait()


def test_the_port_is_taken(study: Study, service: Visits) -> None:
    with serving(study, service) as server:
        with refused(ListenerUnusable):
            flight.Server(server.address, study.identity(), lambda: study.policy, service)
        assert client(study, server.address).get(b"")


# What ends a call.


class Later:
    """Rows that change the world between the first and the second."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then

    def reader(self, count: int = 4) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            yield MIB.to_batches()[0]
            self._then()
            for _ in range(count - 1):
                yield MIB.to_batches()[0]

        return pa.RecordBatchReader.from_batches(MIB.schema, batches())


def test_an_enclave_that_turns_into_another_gets_nothing_more(
    study: Study, service: Visits
) -> None:
    """State drift: challenged again in the stream that carries the rows, and before the next."""
    clock = Clock()
    with serving(study, service) as server:
        identity = server.identities.current
        claims = identity._claims

        def drift() -> None:
            identity._claims = replace(claims, instance=b"o" * 16)  # type: ignore[arg-type]
            clock.passed += QUARTER

        judge = Verifier(lambda: study.expectation, seconds=clock)
        with refused(InstanceChanged):
            client(study, server.address, judge).put(b"", Later(drift).reader())
        identity._claims = claims
        eventually(lambda: service.errors)
        assert len(service.taken) <= 1
        assert not service.whole
        assert client(study, server.address).put(b"", MIB)


def test_an_enclave_that_turns_into_another_gives_nothing_more(
    study: Study, service: Visits
) -> None:
    clock, taken = Clock(), []
    service.given = many(10, [])
    with serving(study, service) as server:
        identity = server.identities.current
        claims = identity._claims
        judge = Verifier(lambda: study.expectation, seconds=clock)
        with (
            refused(InstanceChanged),
            client(study, server.address, judge).reader(b"") as reader,
        ):
            taken.append(reader.read_next_batch())
            identity._claims = replace(claims, instance=b"o" * 16)  # type: ignore[arg-type]
            clock.passed += QUARTER
            taken.append(reader.read_next_batch())
        assert len(taken) == 1
        identity._claims = claims
        service.given = TABLE
        assert client(study, server.address).get(b"")


def test_it_proves_itself_again_by_time_and_by_bytes(
    study: Study, service: Visits, quotes: list[Any]
) -> None:
    clock = Clock()
    judge = Verifier(lambda: study.expectation, seconds=clock)

    def later() -> None:
        clock.passed += QUARTER

    with serving(study, service) as server:
        alice = client(study, server.address, judge)
        alice.put(b"", Later(later).reader())
        assert len(quotes) == 2
        with alice.reader(b"") as reader:
            clock.passed += QUARTER
            assert reader.read_all().num_rows == 3
        assert len(quotes) == 4
        service.given = many(20, [])
        with alice.reader(b"") as reader:
            reader.read_next_batch()
            clock.passed += QUARTER
            assert reader.read_all().num_rows == 19 * MIB.num_rows
        assert len(quotes) == 6
    often = Study.create(transport="\n[transport]\nchallenge_mebibytes = 4\n")
    with serving(often, service) as server:
        alice, before = client(often, server.address), len(quotes)
        alice.put(b"", many(9, []))
        assert len(quotes) == before + 3
        service.given = many(9, [])
        assert alice.get(b"").num_rows == 9 * MIB.num_rows
        assert len(quotes) == before + 6


@pytest.mark.parametrize("way", ["get", "put"])
def test_the_lists_turn_against_the_platform(study: Study, service: Visits, way: str) -> None:
    clock, held = Clock(), [study.expectation]
    judge = Verifier(lambda: held[0], seconds=clock)

    def turn() -> None:
        held[0] = revoked(study)
        clock.passed += 61

    with serving(study, service) as server:
        alice = client(study, server.address, judge)
        with refused(CertificateRevoked):
            if way == "put":
                alice.put(b"", Later(turn).reader())
            else:
                service.given = many(10, [])
                with alice.reader(b"") as reader:
                    reader.read_next_batch()
                    turn()
                    reader.read_all()
        assert not service.whole


def test_the_policy_ends(study: Study, service: Visits) -> None:
    """A party that the policy lists no more is cut off within a second, in the middle of a call."""
    held = [study.policy]
    with serving(study, service, policy=lambda: held[0]) as server:

        def end() -> None:
            eventually(lambda: service.asked)
            held[0] = study.parties.policy(expires=_past(study))
            eventually(lambda: service.errors)

        with refused(CallFailed):
            client(study, server.address).put(b"", Later(end).reader())
        assert not service.whole
        with told_any("policy-expired"):
            client(study, server.address).get(b"")
        held[0] = study.policy
        assert client(study, server.address).get(b"")


@contextmanager
def told_any(code: str) -> Iterator[None]:
    count_refusal()
    with pytest.raises(PeerRefused) as caught:
        yield
    assert caught.value.peer_code == code


def test_a_cut_is_no_end_for_either(study: Study, service: Visits) -> None:
    """F14: a reader ends by itself only where all rows came; so does that of the service."""
    service.given = many(1000, [])
    with (
        serving(study, service) as server,
        Relay((LOOPBACK, server.address.port)) as relay,
    ):
        alice = client(study, Address.parse(relay.address))
        with refused(CallFailed), alice.reader(b"") as reader:
            reader.read_next_batch()
            relay.cut()
            reader.read_all()
        with refused(CallFailed):
            alice.put(b"", Later(lambda: (eventually(lambda: service.taken), relay.cut())).reader())
        eventually(lambda: service.errors)
        assert isinstance(service.errors[0], StreamTruncated)
        assert not service.whole
        service.given = TABLE
        assert alice.get(b"")


def test_a_client_that_fails_in_the_middle(study: Study, service: Visits) -> None:
    """F14: what it sent before is not the whole."""

    def fail() -> None:
        eventually(lambda: service.taken)
        raise ZeroDivisionError

    with serving(study, service) as server:
        count_refusal()
        with pytest.raises(ZeroDivisionError):
            client(study, server.address).put(b"", Later(fail).reader())
        eventually(lambda: service.errors)
        assert isinstance(service.errors[0], StreamTruncated)
        assert client(study, server.address).put(b"", MIB)


class Odd(Visits):
    """A service whose end of the stream lies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
        super().__init__()
        say = ServerExchange._say

        def lying(stream: ServerExchange, name: str, **members: Any) -> None:
            if name == "complete":
                members[lie] += 1
            say(stream, name, **members)

        monkeypatch.setattr(_Stream, "_say", lying)


@pytest.mark.parametrize("lie", ["batches", "rows"])
def test_other_rows_than_the_enclave_says(
    study: Study, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    odd = Odd(monkeypatch, lie)
    with serving(study, odd) as server:
        with refused(flight.RowsIncomplete):
            client(study, server.address).get(b"")
        monkeypatch.undo()
        assert client(study, server.address).get(b"")


def test_a_batch_that_is_left_out(
    study: Study, service: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ratls.flight_service as home

    frame = home.rows_frame
    monkeypatch.setattr(home, "rows_frame", lambda batch, number: frame(batch, number + 1))
    with serving(study, service) as server, refused(SequenceBroken):
        client(study, server.address).get(b"")


def test_more_rows_than_a_caller_takes(study: Study, service: Visits) -> None:
    """F01: a hostile enclave costs so much memory, and no more."""
    service.given = many(1000, [])
    with serving(study, service) as server:
        for most in (flight.Caps(rows=1000, bytes=1 << 30), flight.Caps(rows=1 << 30, bytes=1000)):
            with refused(StreamOversized):
                client(study, server.address, most=most).get(b"")


def test_more_rows_than_a_service_takes(study: Study, service: Visits) -> None:
    with serving(study, service, rows=flight.Caps(rows=2, bytes=1 << 20)) as server:
        with told(StreamOversized):
            client(study, server.address).put(b"", TABLE)
        assert client(study, server.address).put(b"", TABLE.slice(1))


def test_texts_that_are_none(
    study: Study, service: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F05: Arrow trusts its sender; what is inconsistent is refused at both ends."""
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    table = pa.table({"t": bad})
    with serving(study, service) as server:
        with told(RowsMalformed):
            client(study, server.address).put(b"", table)
        service.given = table
        with refused(RowsMalformed):
            client(study, server.address).get(b"")


def test_a_party_has_a_share_of_the_calls(study: Study, service: Visits) -> None:
    """F10: it cannot make the others wait."""
    held, go = threading.Event(), threading.Event()

    class Waiting(Visits):
        def get(self, call: flight.Call) -> Any:
            if call.about == b"wait":
                held.set()
                go.wait(HANG_LIMIT)
            return TABLE

    with serving(study, Waiting(), served_per_party=1) as server:
        alice = client(study, server.address)
        waiting = threading.Thread(target=alice.get, args=[b"wait"])
        waiting.start()
        try:
            assert held.wait(HANG_LIMIT)
            with told(ExchangesExhausted):
                alice.get(b"")
            carol = study.channel("carol-lab")
            assert client(study, server.address, own=carol).get(b"")
        finally:
            go.set()
            waiting.join()
        assert eventually(lambda: alice.get(b""), PeerRefused)


def test_a_silent_client_and_a_slow_service(study: Study, service: Visits) -> None:
    """F10, F18: who is waited for is cut off; a service that computes is not."""
    clock, go, held = Clock(), threading.Event(), threading.Event()

    class Slow(Visits):
        def get(self, call: flight.Call) -> Any:
            held.set()
            go.wait(HANG_LIMIT)
            return TABLE

    slow = Slow()
    with serving(study, slow) as server:
        server._guard.seconds = clock
        alice = client(study, server.address)
        found: list[pa.Table] = []
        waiting = threading.Thread(target=lambda: found.append(alice.get(b"")))
        waiting.start()
        assert held.wait(HANG_LIMIT)
        clock.passed += 121
        server.cut()
        go.set()
        waiting.join()
        assert found[0].num_rows == 3

        def wait() -> None:
            eventually(lambda: slow.asked and slow.taken)
            clock.passed += 121
            server.cut()
            eventually(lambda: slow.errors)

        with refused(CallFailed):
            alice.put(b"", Later(wait).reader())
        assert not slow.whole


def test_the_next_certificate(study: Study, service: Visits) -> None:
    """A call goes on under the certificate that it began with; the next one is verified anew."""
    with serving(study, service) as server:
        before = server.identities.current
        judge = Verifier(lambda: study.expectation, seconds=(clock := Clock()))

        def renew() -> None:
            server.identities._next = NOW
            assert server.identities.renew_if_due(NOW)
            clock.passed += QUARTER

        alice = client(study, server.address, judge)
        assert alice.put(b"", Later(renew).reader())
        assert server.identities.current is not before
        assert alice.put(b"", MIB)
        assert service.whole
