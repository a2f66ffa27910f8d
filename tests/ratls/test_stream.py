"""One exchange from end to end over real connections: what arrives, and what a cheat achieves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import pytest

from ratls import errors
from ratls.address import Address
from ratls.claims import (
    KeyUnbound,
    NonceMismatch,
    PeerHashMismatch,
    TaskHashMismatch,
)
from ratls.client_call import AnswerMissing
from ratls.client_stream import Pending, Result
from ratls.errors import CallFailed
from ratls.evidence import (
    EvidenceMalformed,
)
from ratls.framing import Kind, MessageUnexpected
from ratls.identity import EnclaveIdentity
from ratls.peer_refusal import PeerRefused
from ratls.plain_rows import Caps, PlainExchange
from tests.support.flight_peers import (
    LOOPBACK,
    PlainEnclave,
    Script,
    Study,
    serving,
    silent_server,
)
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ROWS = pa.record_batch({"patient": ["p1", "p2", "p3"], "age": [40, 50, 60]})
BIG = pa.record_batch({"x": pa.array([0.5] * (1 << 17))})  # 1 MiB


@contextmanager
def enclave(study: Study, **script: object) -> Iterator[PlainEnclave]:
    """The agreed enclave, serving Alice; keyword arguments replace parts of its script."""
    made = Script(study.identity(), study.channel().spki_sha256, **script)  # type: ignore[arg-type]
    with serving(made, study.channel()) as server:
        yield server


def release(study: Study, server: PlainEnclave, *batches: pa.RecordBatch) -> bytes:
    admitted = study.admitted(server.script.identity)
    with study.exchange(Kind.RELEASE, server.address, admitted, task=b"task") as exchange:
        exchange.begin(batches[0].schema)
        for batch in batches:
            exchange.send(batch)
        return exchange.commit(b"commit")


def test_rows_that_are_not_sealed_arrive_without_metadata(study: Study) -> None:
    """F17: metadata of a schema is sent even with no rows, and may hold anything."""
    marked = ROWS.schema.with_metadata({"canary": "c4n4ry"})
    received: list[pa.RecordBatch] = []

    def take(exchange: PlainExchange) -> None:
        received.extend(batch for _, batch in exchange.batches(Caps(100, 1 << 20)))
        assert (
            {batch.schema.metadata for batch in received} == {exchange.schema().metadata} == {None}
        )
        assert exchange.committed is not None
        exchange.acknowledge(b"ack of " + exchange.committed)

    with (
        enclave(study, after_evidence=take) as server,
        Relay((LOOPBACK, server.address.port)) as relay,
    ):
        address = Address.parse(relay.address)
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.RELEASE, address, admitted, task=b"task") as exchange:
            assert exchange.fresh.claims.instance == server.script.identity.instance
            exchange.begin(marked)
            for batch in (ROWS, ROWS.slice(1, 2)):
                exchange.send(batch.replace_schema_metadata({"canary": "c4n4ry"}))
            assert exchange.commit(b"commit") == b"ack of commit"
        assert [batch.to_pylist() for batch in received] == [
            ROWS.to_pylist(),
            ROWS.slice(1, 2).to_pylist(),
        ]
        assert len(relay.connections) == 1


def test_many_rows_at_once_arrive_in_messages_of_a_mebibyte(study: Study) -> None:
    many = pa.RecordBatch.from_pydict({"n": range(400_000), "flag": [True, None] * 200_000})
    received: list[pa.RecordBatch] = []

    def take(exchange: PlainExchange) -> None:
        received.extend(batch for _, batch in exchange.batches(Caps(10**6, 1 << 24)))
        exchange.acknowledge(b"all")

    with (
        enclave(study, after_evidence=take) as server,
        study.exchange(
            Kind.RELEASE, server.address, study.admitted(server.script.identity), task=b"task"
        ) as exchange,
    ):
        exchange.begin(many.schema)
        exchange.send(many.slice(3))  # flags begin within a byte
        exchange.send(many.slice(0, 0))
        exchange.commit(b"commit")
    assert pa.Table.from_batches(received) == pa.Table.from_batches([many.slice(3)])
    assert [batch.nbytes <= 1 << 20 for batch in received] == [True] * 4


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda e: e.result(b"r", b"c"), Result(b"r", b"c")),
        (lambda e: e.result(b"r", bytes(1 << 22)), Result(b"r", bytes(1 << 22))),
        (lambda e: e.pending(["train_party_1"]), Pending(("train_party_1",))),
        (lambda e: e.pending(["Train.2026"]), Pending(("Train.2026",))),
        # What a peer writes is printed by commands: an escape sequence must not get through.
        (lambda e: e.pending(["a\nb"]), Pending(("unreadable",))),
    ],
)
def test_collecting(study: Study, answer: Callable[[PlainExchange], None], found: object) -> None:
    with enclave(study, after_evidence=answer) as server:
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.COLLECT, server.address, admitted, task=b"t") as exchange:
            assert exchange.collect() == found


def test_a_bare_check_sends_no_task(study: Study) -> None:
    with enclave(study) as server:
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.ATTEST, server.address, admitted) as exchange:
            assert exchange.fresh.claims.task_hash == bytes(32)


def test_a_commit_that_arrived_is_acknowledged_again_and_one_that_did_not_goes_on(
    study: Study,
) -> None:
    with enclave(study, known_commits={b"known": b"the ack"}) as server:
        admitted = study.admitted(server.script.identity)
        with study.exchange(Kind.RELEASE, server.address, admitted, task=b"t") as exchange:
            assert exchange.resume(b"known") == b"the ack"
        with study.exchange(Kind.RELEASE, server.address, admitted, task=b"t") as exchange:
            assert exchange.resume(b"other") is None
            exchange.begin(ROWS.schema)
            exchange.send(ROWS)
            assert exchange.commit(b"commit")
        assert [rows for rows, _ in server.script.uploads] == [3]


# An enclave that cheats in its evidence gets no row.


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (lambda i, n, t: i.answer_challenge(b"o" * 32, PEER[0], t), NonceMismatch),
        (lambda i, n, t: i.answer_challenge(n, b"m" * 32, t), PeerHashMismatch),
        (lambda i, n, t: i.answer_challenge(n, PEER[0], b"o" * 32), TaskHashMismatch),
        (lambda i, n, t: b'{"verified": true}', EvidenceMalformed),  #          B20
        (lambda i, n, t: OTHER[0].answer_challenge(n, PEER[0], t), KeyUnbound),  # B18
    ],
)
def test_evidence_that_is_not_of_this_exchange(
    study: Study,
    answer: Callable[[EnclaveIdentity, bytes, bytes], bytes],
    leaf: type[RatlsError],
) -> None:
    """B06, B07: the server holds the pinned key, and answers with what it was once given."""
    PEER[:] = [study.channel().spki_sha256]
    OTHER[:] = [study.identity()]
    with enclave(study, answer=answer) as server:
        with refused(leaf):
            release(study, server, ROWS)
        eventually(lambda: server.script.refusals)
        assert server.script.uploads == []
        assert server.script.refusals == ["stream-truncated"]


PEER: list[bytes] = []
OTHER: list[EnclaveIdentity] = []


# A server that stops, stalls or refuses is noticed at once, and says why.


def fail(leaf: type[RatlsError]) -> Callable[[PlainExchange], None]:
    def act(exchange: PlainExchange) -> None:
        raise leaf("dataset", expected="one of yours", found="another")

    return act


def fail_after_a_batch(exchange: PlainExchange) -> None:
    next(exchange.batches(Caps(10**9, 10**12)))
    raise TaskHashMismatch("rows", expected="1", found="canary-c4n4ry")


@pytest.mark.parametrize("when", ["before_evidence", "after_evidence"])
def test_refusal_of_the_enclave_reaches_the_user_as_a_code(study: Study, when: str) -> None:
    """S28: class and number, nothing of the message."""
    with (
        enclave(study, **{when: fail(TaskHashMismatch)}) as server,
        refused(PeerRefused) as seen,
    ):
        release(study, server, ROWS)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "task-hash-mismatch"
    assert seen.error.correlation_id == "0001"
    assert "one of yours" not in str(seen.error)


def test_refusal_in_the_middle_of_an_upload(study: Study) -> None:
    """A write fails with another exception than the refusal, which is then still to be read."""
    with (
        enclave(study, after_evidence=fail_after_a_batch) as server,
        refused(PeerRefused) as seen,
    ):
        release(study, server, *[BIG] * 64)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "task-hash-mismatch"
    assert "c4n4ry" not in str(seen.error)


def silent(exchange: PlainExchange) -> None:
    """A handler that returns early: Flight tells the client OK."""


@pytest.mark.parametrize("when", ["before_evidence", "after_evidence"])
def test_server_that_ends_the_call_without_an_answer(study: Study, when: str) -> None:
    """flight.md 2.2: without reading the answer, the upload would look complete."""
    with enclave(study, **{when: silent}) as server, refused(AnswerMissing):
        release(study, server, ROWS)


def test_server_that_ends_the_call_in_the_middle_of_an_upload(study: Study) -> None:
    with enclave(study, after_evidence=silent) as server, refused(AnswerMissing):
        release(study, server, *[BIG] * 64)


def test_another_message_than_the_one_that_is_due(study: Study) -> None:
    with (
        enclave(study, before_evidence=lambda e: e.acknowledge(b"fine")) as server,
        refused(MessageUnexpected),
    ):
        release(study, server, ROWS)


def test_message_after_the_last(study: Study) -> None:
    def twice(exchange: PlainExchange) -> None:
        exchange.result(b"r", b"c")
        exchange.result(b"r", b"another")

    with enclave(study, after_evidence=twice) as server:
        admitted = study.admitted(server.script.identity)
        with (
            refused(MessageUnexpected),
            study.exchange(Kind.COLLECT, server.address, admitted, task=b"t") as exchange,
        ):
            exchange.collect()


@pytest.mark.parametrize("batches", [1, 64])
@pytest.mark.parametrize("when", ["before_evidence", "after_evidence"])
def test_server_that_stalls_is_left_at_the_deadline(study: Study, when: str, batches: int) -> None:
    """flight.md 2.3: a call without a deadline waits for ever, reading or writing."""
    over = threading.Event()
    with enclave(study, **{when: lambda _: over.wait(HANG_LIMIT) and None}) as server:
        admitted = study.admitted(server.script.identity)
        try:
            with (
                refused(errors.DeadlineExceeded),
                study.exchange(
                    Kind.RELEASE, server.address, admitted, task=b"t", timeout=0.4
                ) as exchange,
            ):
                exchange.begin(BIG.schema)
                for _ in range(batches):
                    exchange.send(BIG)
                exchange.commit(b"commit")
        finally:
            over.set()


def test_host_that_accepts_and_never_answers(study: Study) -> None:
    admitted = study.admitted(study.identity())
    with (
        silent_server() as address,
        refused(errors.DeadlineExceeded),
        study.exchange(Kind.ATTEST, address, admitted, timeout=0.4),
    ):
        pass


def test_nobody_listens(study: Study) -> None:
    admitted = study.admitted(study.identity())
    with silent_server() as address:
        gone = address
    with refused(CallFailed), study.exchange(Kind.ATTEST, gone, admitted, timeout=HANG_LIMIT):
        pass


# A client that dies, gives up or is no party leaves nothing behind.


def test_upload_given_up_half_way_does_not_look_complete(study: Study) -> None:
    """flight.md 2.1: an exception in the sender ends the stream like a complete upload."""
    with enclave(study) as server:
        admitted = study.admitted(server.script.identity)
        with (
            suppress(KeyError),
            study.exchange(Kind.RELEASE, server.address, admitted, task=b"t") as exchange,
        ):
            exchange.begin(ROWS.schema)
            exchange.send(ROWS)
            raise KeyError("the source broke off")
        eventually(lambda: server.script.refusals)
        assert (server.script.uploads, server.script.refusals) == ([], ["stream-truncated"])


def test_connection_cut_in_the_middle_of_an_upload(study: Study) -> None:
    """F14: nothing counts, the client knows, and the same enclave serves the next attempt."""
    with enclave(study) as server, Relay((LOOPBACK, server.address.port)) as relay:
        address = Address.parse(relay.address)
        admitted = study.admitted(server.script.identity)
        with (
            refused(CallFailed),
            study.exchange(Kind.RELEASE, address, admitted, task=b"t") as exchange,
        ):
            exchange.begin(BIG.schema)
            exchange.send(BIG)
            relay.cut()
            for _ in range(64):
                exchange.send(BIG)
            exchange.commit(b"commit")
        eventually(lambda: server.script.refusals)
        assert (server.script.uploads, server.script.refusals) == ([], ["stream-truncated"])
        assert release(study, server, ROWS)


def test_party_whose_certificate_is_not_listed(study: Study) -> None:
    """I01, I03: refused in the handshake; the handler is never entered."""
    with enclave(study) as server:
        admitted = study.admitted(server.script.identity)
        with (
            refused(CallFailed),
            study.exchange(Kind.ATTEST, server.address, admitted, party="bob-hospital"),
        ):
            pass
        assert server.script.hellos == 0
