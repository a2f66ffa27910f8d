"""Release and collect against a running enclave: what counts, what is refused, what comes out."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
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
from enclave_app.limits import Limits
from enclave_app.receive import (
    CommitCountMismatch,
    CommitDigestMismatch,
    CommitOfAnotherRelease,
    ExchangeTooLong,
)
from enclave_app.server import ServerFailed
from enclave_app.session import AnotherCommitCounts
from policy.commit import Commit, CommitScopeDiffers
from policy.envelope import Envelope, EnvelopeMalformed, EnvelopeTypeDiffers, SignerUnknown
from policy.party import LocalParty
from policy.receipt import Acknowledgement, Receipt
from policy.rows import ColumnMissing, ColumnOrderDiffers, ColumnTypeDiffers
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
from ratls.client_stream import Pending, Result
from ratls.framing import Kind, MessageOversized, MessageUnexpected, write_message
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
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

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
        ({"salted_digest": b"d" * 32}, CommitDigestMismatch),
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


def test_commit_signed_by_another_party(live: LiveEnclave, task: bytes) -> None:
    """I08: Alice's channel, Alice's rows, Bob's signature."""
    people = live.world.consortium
    table = rows(1)
    with (
        refused_by_enclave(SignerUnknown),
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(table.schema)
        sent = [exchange.send(b) for b in table.to_batches()]
        honest = live.commit(exchange, people.alice, ONE, sent, task)
        exchange.commit(contents(Commit, honest).seal(people.bob.operation), live.salt)


def test_commit_with_a_salt_that_was_not_used(live: LiveEnclave, task: bytes) -> None:
    alice, table = live.world.consortium.alice, rows(1)
    with (
        refused_by_enclave(CommitDigestMismatch),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(table.schema)
        sent = [exchange.send(b) for b in table.to_batches()]
        exchange.commit(live.commit(exchange, alice, ONE, sent, task), bytes(32))


def test_rows_in_another_order_than_committed(live: LiveEnclave, task: bytes) -> None:
    """F15: same rows, same count; only the digest knows."""
    alice = live.world.consortium.alice
    parts = rows(1).to_batches(max_chunksize=30)
    with (
        refused_by_enclave(CommitDigestMismatch),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(parts[0].schema)
        sent = [exchange.send(b) for b in reversed(parts)]
        exchange.commit(live.commit(exchange, alice, ONE, sent[::-1], task), live.salt)


def test_batch_that_is_sent_twice(live: LiveEnclave, task: bytes) -> None:
    """F15: its number gives it away, before any commit."""
    alice, part = live.world.consortium.alice, rows(1).to_batches()[0]
    with (
        refused_by_enclave(SequenceBroken),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(part.schema)
        exchange.send(part)
        exchange._wire.send(part, 0)
        exchange.commit(live.commit(exchange, alice, ONE, [part, part], task), live.salt)


def test_provider_that_dies_in_mid_stream(live: LiveEnclave, task: bytes) -> None:
    """F14: to the server a dead client looks like a complete upload. Nothing counts, and the
    next try works."""
    count_refusal()
    people = live.world.consortium
    with (
        suppress(KeyboardInterrupt),
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(rows(1).schema)
        exchange.send(rows(1).to_batches()[0])
        raise KeyboardInterrupt
    assert live.collect(people.carol, task) == Pending((ONE, TWO))
    live.release(people.alice, ONE, rows(1), task)
    assert live.collect(people.carol, task) == Pending((TWO,))


def test_stream_that_ends_without_commit(world: EnclaveWorld, task: bytes) -> None:
    """F14: an orderly end is no commit either, and its rows do not stay in memory."""
    alice = world.consortium.alice
    with world.running() as live:
        with (
            refused_by_enclave(StreamTruncated),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
        ):
            exchange.begin(rows(1).schema)
            exchange.send(rows(1).to_batches()[0])
        assert live.server.stop(), "every handler has ended"
        assert live.enclave.memory.free == live.enclave.limits.held_bytes
        assert [e["code"] for e in live.log if e["event"] == "refused"] == ["stream-truncated"]


def test_commit_without_rows(live: LiveEnclave, task: bytes) -> None:
    alice, empty = live.world.consortium.alice, rows(1).to_batches()[0].slice(0, 0)
    with (
        refused_by_enclave(InputEmpty),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(empty.schema)
        sent = [exchange.send(empty)]
        exchange.commit(live.commit(exchange, alice, ONE, sent, task), live.salt)


# Once.


def test_lost_acknowledgement_can_be_asked_for_again(live: LiveEnclave, task: bytes) -> None:
    """The same commit gets the same bytes; before it arrived, the answer is that it did not."""
    alice, table = live.world.consortium.alice, rows(1)
    with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange:
        early = live.commit(exchange, alice, ONE, table.to_batches(), task)
        assert exchange.resume(early) is None
        exchange.begin(table.schema)
        sent = [exchange.send(b) for b in table.to_batches()]
        envelope = live.commit(exchange, alice, ONE, sent, task)
        first = exchange.commit(envelope, live.salt)
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
        old.begin(table.schema)
        sent = [old.send(b) for b in table.to_batches()]
        with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as retry:
            retry.begin(table.schema)
            again = [retry.send(b) for b in table.to_batches()]
            retry.commit(live.commit(retry, alice, ONE, again, task), live.salt)
        old.commit(live.commit(old, alice, ONE, sent, task), live.salt)


def test_resume_after_the_enclave_restarted(world: EnclaveWorld, task: bytes) -> None:
    """Another start has none of the rows; it must not take an old commit for one of its own."""
    alice, table = world.consortium.alice, rows(1)
    with (
        world.running() as before,
        before.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        exchange.begin(table.schema)
        sent = [exchange.send(b) for b in table.to_batches()]
        envelope = before.commit(exchange, alice, ONE, sent, task)
        exchange.commit(envelope, before.salt)
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
        (rows(1).drop_columns(["bmi"]), ColumnMissing),
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


def test_metadata_in_the_schema(live: LiveEnclave, task: bytes) -> None:
    """F17: a client that does not strip it; it travels even with no rows."""
    part = rows(1).replace_schema_metadata({"note": "CANARY"}).to_batches()[0]
    with (
        refused_by_enclave(ColumnOrderDiffers),
        live.exchange(
            Kind.RELEASE, live.world.consortium.alice, task=task, dataset=ONE
        ) as exchange,
    ):
        exchange._wire.begin(part.schema)
        exchange._wire.send(part, 0)
        exchange._wire.hear("acknowledgement")
    assert "CANARY" not in live.stream.getvalue()


def test_compressed_batch_that_explodes(world: EnclaveWorld, task: bytes) -> None:
    """F04: few bytes on the wire, many in memory. Arrow unpacks it before the handler is asked;
    the cap ends it there."""
    part = rows(1, 60_000, bmi=[25.0] * 60_000).to_batches()[0]
    with (
        world.running(limits=Limits(batch_bytes=1 << 20)) as live,
        refused_by_enclave(MessageOversized),
        live.exchange(Kind.RELEASE, world.consortium.alice, task=task, dataset=ONE) as exchange,
    ):
        exchange._wire._writer.begin(part.schema, pa.ipc.IpcWriteOptions(compression="zstd"))
        exchange._wire.send(part, 0)
        exchange._wire.hear("acknowledgement")


def test_null_column_of_a_hundred_million_rows(live: LiveEnclave, task: bytes) -> None:
    """F05: 268 million rows fit in 224 bytes."""
    columns = {name: pa.nulls(100_000_000) for name in rows(1).column_names}
    part = pa.RecordBatch.from_pydict(columns)
    with (
        refused_by_enclave(ColumnTypeDiffers),
        live.exchange(
            Kind.RELEASE, live.world.consortium.alice, task=task, dataset=ONE
        ) as exchange,
    ):
        exchange.begin(part.schema)
        exchange.send(part)
        exchange._wire.hear("acknowledgement")


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
        exchange._wire.say(message)
        exchange._wire.hear("acknowledgement")


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
    gc.collect()  # the server has stopped: what still holds it would hold it for good
    # What came over the wire is another object than what this test sent.
    kept = [
        type(holder).__name__
        for holder in gc.get_objects()
        for held in bytes_in(holder)
        if held == live.salt and held is not live.salt
    ]
    assert kept == []


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
        assert live.enclave.memory.free == live.enclave.limits.held_bytes
