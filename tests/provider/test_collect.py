"""A recipient gets its result, with a receipt that holds; whoever is no recipient gets nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.admission import MeasurementNotListed
from policy.journal_entries import CollectedEntry
from policy.receipt import Receipt
from policy.record import Record
from policy.task import TaskExpired
from provider.collect import (
    ReceiptMismatch,
    RecipientNotListed,
    ResultDenied,
    ResultPending,
    check_receipt,
)
from provider.exchange import CheckedTask
from ratls.claims import KeyUnbound, ReceiptKeyUnbound
from ratls.client_stream import Result
from ratls.framing import Kind
from ratls.offline import verify_with_record
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import MR_ENCLAVE, EnclaveWorld, LiveEnclave
from tests.support.flight_peers import PlatformAttester
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit
from verifier.files import FileNotWritten


def test_both_release_and_carol_collects(
    world: EnclaveWorld, alice: Desk, bob: Desk, carol: Desk
) -> None:
    task = world.task()
    bob.push(task)
    alice.push(task)
    done = carol.fetch(task, wait=HANG_LIMIT)
    result = json.loads(carol.outputs.result.read_bytes())
    assert set(result["model_weights"]["features"]) == {"age", "bmi"}
    assert isinstance(carol.journal[-1], CollectedEntry)
    assert {p.stat().st_mode & 0o777 for p in dataclasses.astuple(carol.outputs)} == {0o600}
    kept = b"".join(p.read_bytes() for p in carol.folder.rglob("*") if p.is_file())
    assert CANARY.encode() not in kept
    assert [i.dataset for i in done.receipt.inputs] == ["train_party_1", "train_party_2"]


def test_what_was_stored_convinces_an_auditor_offline(
    world: EnclaveWorld, alice: Desk, bob: Desk, carol: Desk
) -> None:
    """Alice's acknowledgement and Carol's receipt, each with its record; the enclave is gone."""
    task = world.task()
    bob.push(task)
    kept = alice.push(task).kept
    done = carol.fetch(task, wait=HANG_LIMIT)
    roots = world.expectation.roots
    for document, record in (
        (kept.acknowledgement, kept.record),
        (carol.outputs.receipt, carol.outputs.record),
    ):
        signed = record.read_bytes()
        verify_with_record(document.read_bytes(), signed, world.policy, roots)
        assert Record.open(signed, world.policy).collateral == world.collateral
    assert done.receipt.digest == Receipt.open(carol.outputs.receipt.read_bytes()).digest


def test_a_result_that_waits_for_bob(
    world: EnclaveWorld, alice: Desk, bob: Desk, carol: Desk
) -> None:
    """Without --wait that is an answer, not a failure of anybody; with it, Carol asks again."""
    task = world.task()
    alice.push(task)
    with carol.refuses(ResultPending) as seen:
        carol.fetch(task)
    assert seen.error.exit_status is Exit.UNDECIDED
    assert "train_party_2" in str(seen.error)
    assert not carol.outputs.result.exists()

    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        if not slept:
            bob.push(task)
        slept += seconds

    carol.fetch(task, wait=100, seconds=lambda: slept, sleep=sleep)
    assert carol.outputs.result.exists()


def test_waiting_ends(world: EnclaveWorld, carol: Desk) -> None:
    slept: list[float] = []
    with carol.refuses(ResultPending):
        carol.fetch(world.task(), wait=3, seconds=lambda: sum(slept), sleep=slept.append)
    assert sum(slept) == 3


def test_the_release_rule_is_not_met(tmp_path: Path, world: EnclaveWorld) -> None:
    """Computed, and not let out: Carol learns that waiting will not help, and not why."""
    strict = world.consortium.policy_text(
        replace=[("min_subjects_per_input = 20", "min_subjects_per_input = 1000")]
    )
    other = dataclasses.replace(world, complete=world.consortium.complete(strict))
    with other.running() as live:
        desks = {w: Desk.of(w, other, tmp_path, live.address) for w in ("alice", "bob", "carol")}
        task = other.task()
        desks["alice"].push(task)
        desks["bob"].push(task)
        with desks["carol"].refuses(ResultDenied) as seen:
            desks["carol"].fetch(task, wait=HANG_LIMIT)
    assert seen.error.found == "release-denied"
    assert seen.error.exit_status is Exit.PEER


def test_a_provider_is_no_recipient(world: EnclaveWorld, alice: Desk, live: LiveEnclave) -> None:
    """Refused at home, before the enclave would refuse it too."""
    with alice.refuses(RecipientNotListed):
        alice.fetch(world.task())
    assert live.log == []


@pytest.mark.parametrize("name", ["result", "receipt", "record"])
def test_nothing_is_overwritten(
    world: EnclaveWorld, carol: Desk, live: LiveEnclave, name: str
) -> None:
    path: Path = getattr(carol.outputs, name)
    path.write_text("mine")
    with carol.refuses(FileNotWritten):
        carol.fetch(world.task())
    assert path.read_text() == "mine"
    assert live.log == []


def test_a_folder_that_does_not_exist(carol: Desk) -> None:
    outputs = dataclasses.replace(carol.outputs, result=carol.folder / "no" / "result.json")
    with refused(FileNotWritten):
        outputs.require_new()


def test_an_expired_task(world: EnclaveWorld, carol: Desk) -> None:
    with carol.refuses(TaskExpired):
        carol.fetch(world.task(lifetime=timedelta(0)))


def test_the_result_comes_from_other_code(world: EnclaveWorld, tmp_path: Path) -> None:
    """Carol too has the enclave prove itself: a model may come from anybody."""
    attester = PlatformAttester(world.intel.platform, mr_enclave=MR_ENCLAVE[::-1], isv_prod_id=0)
    with dataclasses.replace(world, attester=attester).running() as spy:
        carol = Desk.of("carol", world, tmp_path, spy.address)
        with carol.refuses(MeasurementNotListed, check="measurement"):
            carol.fetch(world.task())


# What the receipt says.


@dataclasses.dataclass(frozen=True)
class Genuine:
    """A result as it was received, and all that its receipt is held against."""

    world: EnclaveWorld
    carol: Desk
    task: bytes
    result: Result
    fresh: Any
    identity: Any

    def check(self, result: Result) -> Receipt:
        job = self.carol.request(self.task).check_task()
        computation = self.world.policy.computation_by_id("train")
        assert computation is not None
        return check_receipt(result, job, computation, self.fresh, "carol-lab")

    def forged(self, **fields: Any) -> Result:
        """Signed by the enclave's own receipt key, with other fields."""
        receipt = Receipt(**dict(Receipt.open(self.result.receipt)) | fields)
        return dataclasses.replace(self.result, receipt=receipt.seal(self.identity.receipt_signer))


@pytest.fixture(scope="module")
def genuine(world: EnclaveWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Genuine]:
    folder = tmp_path_factory.mktemp("genuine")
    with world.running() as live:
        desks = {w: Desk.of(w, world, folder, live.address) for w in ("alice", "bob", "carol")}
        task = world.task()
        desks["alice"].push(task)
        desks["bob"].push(task)
        live.wait(desks["carol"].party, task)
        with live.exchange(Kind.COLLECT, desks["carol"].party, task=task) as exchange:
            result = exchange.collect()
            assert isinstance(result, Result)
            yield Genuine(
                world, desks["carol"], task, result, exchange.fresh, live.enclave.identity
            )


def test_a_genuine_receipt_is_believed(genuine: Genuine) -> None:
    assert genuine.check(genuine.result).recipient == "carol-lab"
    assert genuine.check(genuine.forged()).recipient == "carol-lab"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_digest", bytes(32)),
        ("policy_digest", bytes(32)),
        ("instance", bytes(16)),
        ("computation", "another"),
        ("run", "another"),
        ("recipient", "bob-hospital"),
        ("mode", "production"),
        ("nonce", bytes(32)),
        ("evidence", b"other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_receipt_is_about_something_else(genuine: Genuine, field: str, value: object) -> None:
    with refused(ReceiptMismatch):
        genuine.check(genuine.forged(**{field: value}))


@pytest.mark.parametrize("cut", [lambda i: i[:1], lambda i: i[::-1]], ids=["one", "swapped"])
def test_the_receipt_names_other_inputs(genuine: Genuine, cut: Callable[[Any], Any]) -> None:
    """S18: a result over fewer inputs is not the agreed one."""
    inputs = Receipt.open(genuine.result.receipt).inputs
    with refused(ReceiptMismatch):
        genuine.check(genuine.forged(inputs=cut(inputs)))


def test_somebody_else_signs_the_receipt(genuine: Genuine) -> None:
    signer = genuine.world.consortium.bob.operation
    fields = dict(Receipt.open(genuine.result.receipt)) | {"receipt_key": signer.public.spki}
    with refused(ReceiptKeyUnbound):
        genuine.check(dataclasses.replace(genuine.result, receipt=Receipt(**fields).seal(signer)))


def test_the_receipt_names_another_connection(genuine: Genuine) -> None:
    with refused(KeyUnbound):
        genuine.check(genuine.forged(tls_spki=genuine.identity.receipt_spki))


def test_a_checked_task_cannot_be_made_without_its_checks(genuine: Genuine) -> None:
    checked = genuine.carol.request(genuine.task).check_task()
    with pytest.raises(TypeError):
        CheckedTask(checked.task, checked.policy, checked.expectation, object())
