"""Release and collect against a running enclave: what counts, what is refused, what comes out."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from enclave_app import application, gate
from enclave_app.access import CollectNotAuthorized, ReleaseNotAuthorized
from enclave_app.computations.logistic_regression import fit
from enclave_app.errors import AttemptClosed
from enclave_app.gate import Input, ReleaseDenied
from enclave_app.intake import InputEmpty, Intake, RowsNotAsDeclared
from enclave_app.receive import (
    CommitCountMismatch,
    CommitDigestMismatch,
    CommitOfAnotherRelease,
    ExchangeTooLong,
)
from enclave_app.session import AnotherCommitCounts
from policy.commit import Commit, CommitScopeDiffers
from policy.envelope import Envelope, EnvelopeMalformed, EnvelopeTypeDiffers, SignerUnknown
from policy.party import LocalParty
from policy.receipt import Acknowledgement, Receipt
from policy.rows import schema_digest
from policy.seal import ResultNotOpenable, open_result, result_info
from policy.statement import PolicyDigestDiffers, StudyDiffers
from policy.task import (
    Task,
    TaskComputationUnknown,
    TaskExpired,
    TaskNotYetValid,
    TaskParameterDenied,
    TaskSubmitterDenied,
)
from ratls.arrow_header import RowsHeaderMalformed
from ratls.client_stream import ClientExchange, Pending, Result
from ratls.flight_server import ServerFailed
from ratls.framing import (
    ChunkUnexpected,
    Kind,
    MessageOversized,
    MessageUnexpected,
    chunk_frame,
    message_frame,
    rows_frame,
    schema_frame,
    write_message,
)
from ratls.sealing import ChunkHead, ChunkNotOpenable, StreamKeyNotOpenable, Tally, tags_digest
from ratls.server_stream import SequenceBroken, StreamOversized, StreamTruncated
from tests.enclave_app.test_gate import Rule
from tests.support.documents import contents
from tests.support.enclave import (
    NOW,
    EnclaveWorld,
    LiveEnclave,
    NoResult,
    refused_by_enclave,
    rows,
)
from tests.support.parties import TaskWorld, local_party
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"


def released(live: LiveEnclave, task: bytes, **tables: pa.Table) -> tuple[bytes, bytes]:
    """Both inputs, Bob's first: the order of arrival is not the policy's."""
    people = live.world.consortium
    bob = live.release(people.bob, TWO, tables.get("two", rows(2)), task)
    return live.release(people.alice, ONE, tables.get("one", rows(1)), task), bob


def opened(world: EnclaveWorld, task: bytes, result: Result, by: LocalParty) -> dict[str, Any]:
    info = result_info(Task.read(task).digest, world.policy.digest, "carol-lab")
    document: dict[str, Any] = json.loads(open_result(result.ciphertext, by.encryption, info))
    return document


def model_of(*tables: pa.Table) -> Any:
    """The model that these rows give, as it leaves."""
    inputs = [Input(table, "patient") for table in tables]
    made = fit(inputs, features=["age", "bmi"], label="y", max_iter=500, k=20)
    rule = Rule(significant_digits=6)
    document = gate.released({"model_weights": made}, rule, computation="train", run="a")
    return json.loads(document)["model_weights"]


# The job, done.


def test_two_providers_release_and_the_recipient_gets_the_joint_model(
    live: LiveEnclave, world: EnclaveWorld, task: bytes
) -> None:
    carol = world.consortium.carol
    assert live.collect(carol, task) == Pending((ONE, TWO))
    released(live, task)
    result = live.wait(carol, task)
    assert isinstance(result, Result)
    document = opened(world, task, result, carol)
    assert len(bytes.fromhex(document.pop("salt"))) == 32
    expected = model_of(rows(1), rows(2))
    assert document == {
        "schema": "ratls-result/1",
        "computation": "train",
        "run": "logistic_regression",
        "model_weights": expected,
    }


def test_receipt_binds_result_inputs_and_enclave(
    live: LiveEnclave, world: EnclaveWorld, task: bytes
) -> None:
    """R13, R14, S26: what is signed is which result, from which commits, for whom."""
    acknowledged = [Acknowledgement.open(raw) for raw in released(live, task)]
    result = live.wait(world.consortium.carol, task)
    assert isinstance(result, Result)
    receipt = Receipt.open(result.receipt)
    document = opened(world, task, result, world.consortium.carol)
    receipt.require_result(json.dumps(document).encode())
    assert receipt.task_digest == Task.read(task).digest
    assert receipt.policy_digest == world.policy.digest
    assert (receipt.recipient, receipt.mode) == ("carol-lab", "simulation")
    assert [(i.dataset, i.commit_digest) for i in receipt.inputs] == [
        (a.dataset, a.commit_digest) for a in acknowledged
    ]
    assert receipt.receipt_key == live.enclave.identity.receipt_spki == acknowledged[0].receipt_key


def test_result_is_sealed_once_and_the_receipt_is_fresh(
    live: LiveEnclave, world: EnclaveWorld, task: bytes
) -> None:
    """Each collection gets evidence for its own nonce, over the same ciphertext."""
    released(live, task)
    carol = world.consortium.carol
    first, second = live.wait(carol, task), live.wait(carol, task)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.ciphertext == second.ciphertext
    assert Receipt.open(first.receipt).nonce != Receipt.open(second.receipt).nonce


def test_result_is_closed_to_everybody_else(
    live: LiveEnclave, world: EnclaveWorld, task: bytes
) -> None:
    """R12: whoever carries the ciphertext has another key, another task or another name."""
    released(live, task)
    carol = world.consortium.carol
    result = live.wait(carol, task)
    assert isinstance(result, Result)
    with refused(ResultNotOpenable):
        opened(world, task, result, local_party("carol-lab", NOW, copy=1))
    with refused(ResultNotOpenable):
        opened(world, world.task(), result, carol)


def test_acknowledgement_shows_what_arrived(
    live: LiveEnclave, world: EnclaveWorld, task: bytes
) -> None:
    alice = world.consortium.alice
    document = Acknowledgement.open(live.release(alice, ONE, rows(1, 60), task, chunk=25))
    assert (document.rows, document.batches, document.dataset) == (60, 3, ONE)
    assert document.instance == live.enclave.identity.instance


# Who may.


@pytest.mark.parametrize("dataset", [TWO, "no_such_dataset", "", "../" + ONE, ONE + "\0"])
def test_release_of_what_is_not_ones_own(live: LiveEnclave, task: bytes, dataset: str) -> None:
    """I08, F12, F13: the answer is the same whether the dataset exists or not."""
    alice = live.world.consortium.alice
    with (
        refused_by_enclave(ReleaseNotAuthorized),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=dataset),
    ):
        pass


def test_recipient_may_not_release_and_provider_may_not_collect(
    live: LiveEnclave, task: bytes
) -> None:
    """R12: a provider that could collect would have the model it was not promised."""
    people = live.world.consortium
    with (
        refused_by_enclave(ReleaseNotAuthorized),
        live.exchange(Kind.RELEASE, people.carol, task=task, dataset=ONE),
    ):
        pass
    released(live, task)
    with refused_by_enclave(CollectNotAuthorized):
        live.collect(people.bob, task)


def test_every_party_may_attest(live: LiveEnclave) -> None:
    for party in live.world.consortium.parties.values():
        with live.exchange(Kind.ATTEST, party) as exchange:
            assert exchange.fresh.claims.policy_hash == live.world.policy.digest


# Which task.


@contextmanager
def no_quote_is_made(live: LiveEnclave, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An enclave that quotes what it has not verified can be made to vouch for anything."""

    def quote(_report_data: bytes) -> bytes:
        raise AssertionError("a quote was made")

    with monkeypatch.context() as patched:
        patched.setattr(live.world.attester, "quote", quote)
        yield


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"policy_digest": b"p" * 32}, PolicyDigestDiffers),
        ({"study": "another-study"}, StudyDiffers),
        ({"computation": "other"}, TaskComputationUnknown),
        ({"submitter": "alice-clinic"}, TaskSubmitterDenied),
        ({"parameters": {}}, TaskParameterDenied),
        ({"parameters": {"max_iter": 10**6}}, TaskParameterDenied),
        ({"parameters": {"max_iter": 200, "label": "age"}}, TaskParameterDenied),
        ({"issued_at": NOW - timedelta(days=2), "expires": NOW - timedelta(days=1)}, TaskExpired),
        ({"issued_at": NOW + timedelta(days=1)}, TaskNotYetValid),
    ],
)
def test_task_that_the_policy_does_not_allow(
    live: LiveEnclave,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    leaf: type[RatlsError],
) -> None:
    """D02, D04: well signed by Carol, and yet not what was agreed."""
    times = {"issued_at": NOW, "expires": NOW + timedelta(hours=1)}
    raw = TaskWorld(live.world.consortium, live.world.policy).signed(**times | fields)
    alice = live.world.consortium.alice
    with (
        no_quote_is_made(live, monkeypatch),
        refused_by_enclave(leaf),
        live.exchange(Kind.RELEASE, alice, task=raw, dataset=ONE),
    ):
        pass


def test_task_that_carol_did_not_sign(live: LiveEnclave, monkeypatch: pytest.MonkeyPatch) -> None:
    """D05, D09: the scheduler writes what it likes; only Carol's key makes it a task."""
    people = live.world.consortium
    forged = contents(Task, live.world.task()).seal(people.bob.operation)
    with (
        no_quote_is_made(live, monkeypatch),
        refused_by_enclave(SignerUnknown),
        live.exchange(Kind.COLLECT, people.carol, task=forged),
    ):
        pass


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00" * 100, b"[" * 50_000])
def test_task_that_is_none(live: LiveEnclave, raw: bytes) -> None:
    with (
        refused_by_enclave(EnvelopeMalformed),
        live.exchange(Kind.RELEASE, live.world.consortium.alice, task=raw, dataset=ONE),
    ):
        pass


def test_a_commit_offered_as_a_task(live: LiveEnclave) -> None:
    """P07: signed, by the right kind of key, as something else."""
    alice = live.world.consortium.alice
    commit = TaskWorld(live.world.consortium, live.world.policy).commit().seal(alice.operation)
    with (
        refused_by_enclave(EnvelopeTypeDiffers),
        live.exchange(Kind.RELEASE, alice, task=commit, dataset=ONE),
    ):
        pass


# What counts.


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"task_digest": b"t" * 32}, CommitOfAnotherRelease),
        ({"instance": b"i" * 16}, CommitOfAnotherRelease),
        ({"nonce": b"n" * 32}, CommitOfAnotherRelease),
        ({"schema_digest": b"s" * 32}, CommitOfAnotherRelease),
        ({"policy_digest": b"p" * 32}, PolicyDigestDiffers),
        ({"dataset": TWO}, CommitScopeDiffers),
        ({"provider": "bob-hospital"}, CommitScopeDiffers),
        ({"provider": "bob-hospital", "dataset": TWO}, SignerUnknown),
        ({"rows": 59}, CommitCountMismatch),
        ({"batches": 4}, CommitCountMismatch),
        ({"tags_digest": b"d" * 32}, CommitDigestMismatch),
    ],
)
def test_commit_about_something_else(
    live: LiveEnclave, task: bytes, fields: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """S22: each field of an honest commit, changed alone, and signed by Alice all the same."""
    people = live.world.consortium
    with refused_by_enclave(leaf):
        live.release(people.alice, ONE, rows(1), task, **fields)
    assert live.collect(people.carol, task) == Pending((ONE, TWO))
    live.release(people.alice, ONE, rows(1), task)
    assert live.collect(people.carol, task) == Pending((TWO,))


def test_the_providers_own_digest_is_not_the_enclaves_to_judge(
    live: LiveEnclave, task: bytes
) -> None:
    """Its salt never leaves the provider with a commit: it answers questions of later days."""
    live.release(live.world.consortium.alice, ONE, rows(1), task, salted_digest=b"d" * 32)


def test_commit_signed_by_another_party(live: LiveEnclave, task: bytes) -> None:
    """I08: Alice's channel, Alice's rows, Bob's signature."""
    people = live.world.consortium
    with (
        refused_by_enclave(SignerUnknown),
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        sent = live.send(exchange, people.alice, ONE, rows(1).to_batches(), task)
        honest = live.commit(exchange, people.alice, ONE, sent, task)
        exchange.commit(contents(Commit, honest).seal(people.bob.operation))


def test_commit_over_the_same_rows_of_another_release(live: LiveEnclave, task: bytes) -> None:
    """F15: the same rows, sealed with another key, have other tags: a commit is about these."""
    alice, parts = live.world.consortium.alice, rows(1).to_batches()
    with (
        suppress(KeyboardInterrupt),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as before,
    ):
        live.send(before, alice, ONE, parts, task)
        foreign = tags_digest([before.sealed()])
        raise KeyboardInterrupt
    with refused_by_enclave(CommitDigestMismatch):
        live.release(alice, ONE, rows(1), task, chunk=60, tags_digest=foreign)


class Recorded(Tally):
    """A tally that can be counted again, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[bytes, int]] = []

    def add(self, tag: memoryview | bytes, rows: int) -> None:
        self.added.append((bytes(tag), rows))
        super().add(tag, rows)


def test_rows_in_another_order_than_committed(live: LiveEnclave, task: bytes) -> None:
    """F15: same rows, same count; only the digest knows."""
    alice = live.world.consortium.alice
    with (
        refused_by_enclave(CommitDigestMismatch),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.tally = Recorded()
        sent = live.send(exchange, alice, ONE, rows(1).to_batches(max_chunksize=30), task)
        exchange.sealed()
        reversed_ = Tally()
        for tag, count in reversed(exchange.tally.added):
            reversed_.add(tag, count)
        digest = tags_digest([reversed_])
        exchange.commit(live.commit(exchange, alice, ONE, sent, task, tags_digest=digest))


def sealed_chunk(
    exchange: ClientExchange, part: pa.RecordBatch, number: int, *, last: bool = False
) -> bytes:
    """A chunk sealed for its place, as a frame."""
    key, head = exchange._key, ChunkHead(number, last)
    assert key is not None
    return chunk_frame(head, key.seal(part.serialize(), head, exchange._about))


@contextmanager
def opened_stream(live: LiveEnclave, task: bytes) -> Iterator[ClientExchange]:
    """Alice's stream of one release, its key agreed."""
    alice = live.world.consortium.alice
    with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange:
        live.open(exchange, alice, ONE, task)
        yield exchange


def hear(exchange: ClientExchange) -> None:
    """What the enclave has to say."""
    assert exchange._call.hear() is None


@pytest.mark.parametrize(
    ("numbers", "leaf"),
    [
        ((0, 0), SequenceBroken),
        ((1,), SequenceBroken),
        ((0, 2), SequenceBroken),
        ((0, 1, 0), SequenceBroken),
        ((0, (1 << 24) - 1), SequenceBroken),
        ((0, 1 << 24), ChunkUnexpected),
    ],
)
def test_chunks_doubled_dropped_or_reordered(
    live: LiveEnclave, task: bytes, numbers: tuple[int, ...], leaf: type[RatlsError]
) -> None:
    """F15: its number gives a chunk away, before any commit."""
    part = rows(1).to_batches()[0]
    with refused_by_enclave(leaf), opened_stream(live, task) as exchange:
        for number in numbers:
            head = ChunkHead(number, last=False)
            key = exchange._key
            assert key is not None
            honest = ChunkHead(min(number, 5), last=False)
            sealed = key.seal(part.serialize(), honest, exchange._about)
            exchange._call.send(chunk_frame(head, sealed))
        hear(exchange)


def test_chunk_after_the_last(live: LiveEnclave, task: bytes) -> None:
    """F15: the end is sealed, too."""
    part = rows(1).to_batches()[0]
    with refused_by_enclave(SequenceBroken), opened_stream(live, task) as exchange:
        exchange._call.send(sealed_chunk(exchange, part, 0, last=True))
        exchange._call.send(sealed_chunk(exchange, part, 1, last=True))
        hear(exchange)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
        lambda raw: raw[:-16] + bytes(16),
    ],
    ids=["tag", "text", "no-tag"],
)
def test_chunk_that_was_altered(
    live: LiveEnclave, task: bytes, change: Callable[[bytes], bytes]
) -> None:
    """B08: whoever holds the TLS key can alter what is in it, and gains a refusal."""
    frame = None
    with refused_by_enclave(ChunkNotOpenable), opened_stream(live, task) as exchange:
        frame = sealed_chunk(exchange, rows(1).to_batches()[0], 0, last=True)
        exchange._call.send(change(frame))
        hear(exchange)


def test_chunk_that_claims_another_place(live: LiveEnclave, task: bytes) -> None:
    """F14, F15: number and end are sealed with the rows: neither can be said by another."""
    part = rows(1).to_batches()[0]
    for sealed_for, said in (
        (ChunkHead(1, last=False), ChunkHead(0, last=False)),
        (ChunkHead(0, last=False), ChunkHead(0, last=True)),
    ):
        with refused_by_enclave(ChunkNotOpenable), opened_stream(live, task) as exchange:
            key = exchange._key
            assert key is not None
            sealed = key.seal(part.serialize(), sealed_for, exchange._about)
            exchange._call.send(chunk_frame(said, sealed))
            hear(exchange)


def test_chunk_sealed_with_another_schema(live: LiveEnclave, task: bytes) -> None:
    """F07: names and their order do not travel; the digest of them is sealed with every chunk."""
    other = live.world.policy.dataset_by_id(ONE)
    assert other is not None
    columns = {("weight" if name == "bmi" else name): c for name, c in other.columns.items()}
    about = schema_digest(other.model_copy(update={"columns": columns}))
    with refused_by_enclave(ChunkNotOpenable), opened_stream(live, task) as exchange:
        exchange._about = about
        exchange._call.send(sealed_chunk(exchange, rows(1).to_batches()[0], 0, last=True))
        hear(exchange)


@pytest.mark.parametrize(
    "fields",
    [
        {"task_digest": b"t" * 32},
        {"policy_digest": b"p" * 32},
        {"nonce": b"n" * 32},
        {"instance": b"i" * 16},
        {"dataset": TWO},
        {"provider": "bob-hospital"},
        {"release": b"r" * 16},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_key_sealed_for_something_else(
    live: LiveEnclave, task: bytes, fields: dict[str, Any]
) -> None:
    """B08, B07: a key of another exchange, as a relay would have one."""
    alice = live.world.consortium.alice
    with (
        refused_by_enclave(StreamKeyNotOpenable),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        made = {"dataset": ONE} | fields
        live.releases.setdefault(TWO, live.releases[ONE])
        live.open(exchange, alice, ONE, task, **made)


def test_release_without_a_name(live: LiveEnclave, task: bytes) -> None:
    """Another party's, or yesterday's, could otherwise be gone on with."""
    for name in (b"", b"r" * 15, b"r" * 17):
        with (
            refused_by_enclave(MessageUnexpected),
            live.exchange(
                Kind.RELEASE, live.world.consortium.alice, task=task, dataset=ONE, release=name
            ),
        ):
            pass


def test_provider_that_dies_in_mid_stream(live: LiveEnclave, task: bytes) -> None:
    """F14: to the server a dead client looks like a complete upload. Nothing counts, and the
    next try works."""
    count_refusal()
    people = live.world.consortium
    with (
        suppress(KeyboardInterrupt),
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        live.send(exchange, people.alice, ONE, rows(1).to_batches(), task)
        raise KeyboardInterrupt
    assert live.collect(people.carol, task) == Pending((ONE, TWO))
    live.release(people.alice, ONE, rows(1), task)
    assert live.collect(people.carol, task) == Pending((TWO,))


def test_stream_that_ends_without_commit(world: EnclaveWorld, task: bytes) -> None:
    """F14: an orderly end is no commit either, and its rows stay in memory for a while only."""
    alice, time = world.consortium.alice, [0.0]
    with world.running(seconds=lambda: time[0]) as live:
        with (
            refused_by_enclave(StreamTruncated),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
        ):
            live.send(exchange, alice, ONE, rows(1).to_batches(), task)
            exchange.sealed()
            exchange._call.finish()
        assert live.server.stop(), "every handler has ended"
        assert live.enclave.budgets.memory.free < live.enclave.limits.held_bytes
        time[0] = live.enclave.limits.kept_seconds
        live.enclave.sweep()
        assert live.enclave.budgets.memory.free == live.enclave.limits.held_bytes
        assert [e["code"] for e in live.log if e["event"] == "refused"] == ["stream-truncated"]


def test_commit_without_rows(live: LiveEnclave, task: bytes) -> None:
    alice = live.world.consortium.alice
    with refused_by_enclave(InputEmpty), opened_stream(live, task) as exchange:
        exchange.commit(live.commit(exchange, alice, ONE, [], task))


def test_batch_without_rows(live: LiveEnclave, task: bytes) -> None:
    empty = rows(1).to_batches()[0].slice(0, 0)
    with refused_by_enclave(RowsHeaderMalformed), opened_stream(live, task) as exchange:
        exchange.send_sealed(empty.serialize(), 0, last=True)
        hear(exchange)


# Once.


def test_lost_acknowledgement_can_be_asked_for_again(live: LiveEnclave, task: bytes) -> None:
    """The same commit gets the same bytes; before it arrived, the answer is that it did not."""
    alice, table = live.world.consortium.alice, rows(1)
    with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange:
        early = live.commit(exchange, alice, ONE, table.to_batches(), task)
        assert exchange.resume(early) is None
        sent = live.send(exchange, alice, ONE, table.to_batches(), task)
        envelope = live.commit(exchange, alice, ONE, sent, task)
        first = exchange.commit(envelope)
    with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange:
        assert exchange.resume(envelope) == first


def test_dataset_committed_twice(live: LiveEnclave, task: bytes) -> None:
    """D03: other rows, or the same rows again: the first commit stands."""
    people = live.world.consortium
    live.release(people.alice, ONE, rows(1), task)
    for table in (rows(1), rows(7)):
        with refused_by_enclave(AnotherCommitCounts):
            live.release(people.alice, ONE, table, task)
    with (
        refused_by_enclave(AnotherCommitCounts),
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.resume(live.commit(exchange, people.alice, ONE, rows(7).to_batches(), task))


def test_two_streams_of_one_dataset(live: LiveEnclave, task: bytes) -> None:
    """A cut-off stream looks alive to the server; the retry must not wait for it, nor may both
    count. An old one that comes to life again is refused."""
    alice, table = live.world.consortium.alice, rows(1)
    with (
        refused_by_enclave(AttemptClosed),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as old,
    ):
        sent = live.send(old, alice, ONE, table.to_batches(), task)
        with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as retry:
            again = live.send(retry, alice, ONE, table.to_batches(), task)
            retry.commit(live.commit(retry, alice, ONE, again, task))
        old.commit(live.commit(old, alice, ONE, sent, task))


def test_resume_after_the_enclave_restarted(world: EnclaveWorld, task: bytes) -> None:
    """Another start has none of the rows; it must not take an old commit for one of its own."""
    alice, table = world.consortium.alice, rows(1)
    with (
        world.running() as before,
        before.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        sent = before.send(exchange, alice, ONE, table.to_batches(), task)
        envelope = before.commit(exchange, alice, ONE, sent, task)
        exchange.commit(envelope)
    with (
        world.running() as after,
        refused_by_enclave(CommitOfAnotherRelease),
        after.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.resume(envelope)


# How much, and of what.


@pytest.mark.parametrize(
    ("table", "leaf"),
    [
        (rows(1).drop_columns(["bmi"]), RowsHeaderMalformed),
        (rows(1).replace_schema_metadata({"note": "CANARY"}), None),
        (rows(1, bmi=[float("nan")] * 60), RowsNotAsDeclared),
    ],
)
def test_rows_that_the_policy_does_not_declare(
    live: LiveEnclave, task: bytes, table: pa.Table, leaf: type[RatlsError] | None
) -> None:
    """F07, F08; an honest client strips metadata, so that twin passes."""
    alice = live.world.consortium.alice
    if leaf is None:
        live.release(alice, ONE, table, task)
        return
    with refused_by_enclave(leaf):
        live.release(alice, ONE, table, task)


def test_rows_that_are_not_sealed(live: LiveEnclave, task: bytes) -> None:
    """B08, F17: nobody sends rows in the open, nor columns with texts beside them."""
    part = rows(1).replace_schema_metadata({"note": "CANARY"}).to_batches()[0]
    for frames in (
        [schema_frame(part.schema)],
        [rows_frame(part, 0)],
        [schema_frame(part.schema), rows_frame(part, 0)],
    ):
        with (
            refused_by_enclave(MessageUnexpected),
            live.exchange(
                Kind.RELEASE, live.world.consortium.alice, task=task, dataset=ONE
            ) as exchange,
        ):
            for frame in frames:
                exchange._call.send(frame)
            hear(exchange)
    with refused_by_enclave(MessageUnexpected), opened_stream(live, task) as exchange:
        exchange._call.send(rows_frame(part, 0))
        hear(exchange)
    assert "CANARY" not in live.stream.getvalue()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_batch_that_explodes(live: LiveEnclave, task: bytes, codec: str) -> None:
    """F04: few bytes on the wire, many in memory. Its header says that it is compressed."""
    part = rows(1, 60_000, bmi=[25.0] * 60_000).to_batches()[0]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, part.schema, options=options) as writer:
        writer.write_batch(part)
    _, message = pa.ipc.MessageReader.open_stream(sink.getvalue())
    with refused_by_enclave(RowsHeaderMalformed), opened_stream(live, task) as exchange:
        exchange.send_sealed(message.serialize(), part.num_rows, last=True)
        hear(exchange)


def test_null_column_of_a_hundred_million_rows(live: LiveEnclave, task: bytes) -> None:
    """F05: 268 million rows fit in 224 bytes."""
    columns = {name: pa.nulls(100_000_000) for name in rows(1).column_names}
    part = pa.RecordBatch.from_pydict(columns)
    with refused_by_enclave(RowsHeaderMalformed), opened_stream(live, task) as exchange:
        exchange.send_sealed(part.serialize(), part.num_rows, last=True)
        hear(exchange)


def test_more_rows_than_the_policy_allows(live: LiveEnclave, task: bytes) -> None:
    """F05, S21: max_rows of the dataset is 100 000."""
    with refused_by_enclave(StreamOversized):
        live.release(live.world.consortium.alice, ONE, rows(1, 100_001), task, chunk=50_000)


def test_release_that_takes_too_long(world: EnclaveWorld, task: bytes) -> None:
    """F10: a drip of rows ends at the limit, whatever the client's own patience."""
    ticks = iter(range(0, 10**9, 3000))
    with (
        world.running(seconds=lambda: float(next(ticks))) as live,
        refused_by_enclave(ExchangeTooLong),
    ):
        live.release(world.consortium.alice, ONE, rows(1), task)


@pytest.mark.parametrize(
    ("message", "leaf"),
    [
        (b"\xa0", MessageUnexpected),
        (b"\x80\x04K\x01.", MessageUnexpected),
        (write_message("absent"), MessageUnexpected),
        (write_message("pending", missing=[]), MessageUnexpected),
        (b"\x9f" * 100_000, MessageUnexpected),
        (b"\x00" * 300_000, MessageOversized),
        (b"\xa2" + b"\x00" * 300_000, MessageOversized),
        (b"", StreamTruncated),
    ],
)
def test_message_that_is_not_due(
    live: LiveEnclave, task: bytes, message: bytes, leaf: type[RatlsError]
) -> None:
    """F13, R02: a pickle, a bomb, a server's message; none is more than bytes of the wrong form."""
    with (
        refused_by_enclave(leaf),
        live.exchange(
            Kind.RELEASE, live.world.consortium.alice, task=task, dataset=ONE
        ) as exchange,
    ):
        exchange._call.send(message_frame(message))
        hear(exchange)


# What becomes of it.


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        ({"patient": ["one-person"] * 60}, ReleaseDenied),
        ({"age": [50] * 60}, ReleaseDenied),
        ({"age": [50] * 20 + [60] * 20 + [70] * 20}, None),
    ],
)
def test_input_that_may_not_be_computed_with(
    live: LiveEnclave, task: bytes, change: dict[str, Any], leaf: type[RatlsError] | None
) -> None:
    """R05, R06: sixty rows of one person are one person. What one input has in common is told
    to whoever sent the other, though the column varies over both."""
    released(live, task, one=rows(1, **change))
    outcome = live.wait(live.world.consortium.carol, task)
    if leaf is None:
        assert isinstance(outcome, Result)
        return
    count_refusal()
    assert outcome == NoResult(leaf.code)


def test_feature_that_never_varies(live: LiveEnclave, task: bytes) -> None:
    """Dividing by its deviation would give infinities, or noise as a coefficient."""
    count_refusal()
    released(live, task, one=rows(1, age=[50] * 60), two=rows(2, age=[50] * 60))
    assert live.wait(live.world.consortium.carol, task) == NoResult(ReleaseDenied.code)


def test_computation_that_breaks(
    live: LiveEnclave, task: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S27, L01: nothing is released, the text with the cell value stays here, and the next task
    is computed."""
    count_refusal()
    with monkeypatch.context() as patched:
        patched.setattr(application, "compute", _break)
        released(live, task)
        assert live.wait(live.world.consortium.carol, task) == NoResult(ReleaseDenied.code)
    assert "CANARY" not in live.stream.getvalue()
    following = live.world.task()
    released(live, following)
    assert isinstance(live.wait(live.world.consortium.carol, following), Result)


def _break(*_: Any) -> Any:
    raise ValueError("CANARY: patient 17 is 45")


def test_no_acknowledgement_waits_for_a_training(
    live: LiveEnclave, task: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider's proof is there while the computation runs; the recipient hears that it does."""
    may_go_on = threading.Event()
    honest = application.compute

    def slow(*arguments: Any) -> Any:
        assert may_go_on.wait(HANG_LIMIT)
        return honest(*arguments)

    monkeypatch.setattr(application, "compute", slow)
    carol = live.world.consortium.carol
    try:
        for raw in released(live, task):
            Acknowledgement.open(raw)
        assert live.collect(carol, task) == Pending(())
    finally:
        may_go_on.set()
    assert isinstance(live.wait(carol, task), Result)


def test_salt_is_forgotten_with_its_stream(world: EnclaveWorld) -> None:
    """Commits travel in receipts: with the salt, whoever has one could try out rows."""
    task = world.task()
    with world.running() as live:
        acknowledged = released(live, task)
        result = live.wait(world.consortium.carol, task)
    assert isinstance(result, Result)
    for document in (*acknowledged, result.receipt):
        assert live.salt not in Envelope.parse(document).payload

    def kept() -> list[str]:
        gc.collect()
        # What came over the wire is another object than what this test sent.
        return [
            type(holder).__name__
            for holder in gc.get_objects()
            for held in bytes_in(holder)
            if held == live.salt and held is not live.salt
        ]

    # The server has stopped; its threads end a moment later.
    eventually(lambda: not kept())


def bytes_in(holder: object) -> Iterator[bytes]:
    """What an object holds itself, or in a container of plain values, which `gc` does not list."""
    for held in gc.get_referents(holder):
        if type(held) is bytes:
            yield held
        elif not gc.is_tracked(held):
            yield from bytes_in(held)


def test_handler_that_breaks(
    live: LiveEnclave, task: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: pyarrow sends an escaping exception with text, paths and traceback to the peer."""
    monkeypatch.setattr(Intake, "add", _break)
    with refused_by_enclave(ServerFailed):
        live.release(live.world.consortium.alice, ONE, rows(1), task)
    assert "CANARY" not in live.stream.getvalue()
    (entry,) = [e for e in live.log if e["event"] == "internal"][-1:]
    assert entry["bug"].startswith("ValueError at ")


def test_state_of_one_task_is_not_that_of_another(live: LiveEnclave) -> None:
    """R16: the same parties, other rows; each result is that of its own rows alone."""
    carol, world = live.world.consortium.carol, live.world
    tasks = [world.task(), world.task()]
    for number, task in enumerate(tasks):
        released(live, task, one=rows(10 + number), two=rows(20 + number))
    for number, task in enumerate(tasks):
        result = live.wait(carol, task)
        assert isinstance(result, Result)
        alone = model_of(rows(10 + number), rows(20 + number))
        assert opened(world, task, result, carol)["model_weights"] == alone


def test_rows_are_forgotten_once_computed(world: EnclaveWorld, task: bytes) -> None:
    """What is no longer held cannot leak."""
    with world.running() as live:
        released(live, task)
        live.wait(world.consortium.carol, task)
        assert live.enclave.budgets.memory.free == live.enclave.limits.held_bytes
