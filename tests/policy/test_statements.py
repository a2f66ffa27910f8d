"""Tasks, commits, acknowledgements, receipts, records: signed by whom they name, for one policy."""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import envelope as dsse
from policy.commit import Commit, CommitScopeDiffers, CommitSignatureInvalid
from policy.envelope import EnvelopeMalformed, EnvelopeTypeDiffers, SignerUnknown
from policy.errors import PartyNotListed
from policy.keys import EncryptionKey, KeySigner
from policy.receipt import Acknowledgement, Receipt, ReceiptInput, ReceiptSignatureInvalid
from policy.record import Record, RecordScopeDiffers, RecordSignatureInvalid
from policy.seal import ResultNotOpenable, open_result, result_info, seal_result
from policy.statement import DocumentMalformed, PolicyDigestDiffers, StudyDiffers
from policy.task import (
    Task,
    TaskComputationUnknown,
    TaskExpired,
    TaskNotYetValid,
    TaskParameterDenied,
    TaskSignatureInvalid,
    TaskSubmitterDenied,
    open_task,
)
from tests.support.parties import AT, Consortium, TaskWorld, local_party
from tests.support.refusal import refused
from verifier.appraisal import Appraisal, CheckRecord, Outcome
from verifier.errors import RatlsError

WORLD = Consortium.create()
TASKS = TaskWorld(WORLD)
POLICY = WORLD.policy()
SIGNED = TASKS.signed()
ENCLAVE = KeySigner.from_private(ec.generate_private_key(ec.SECP256R1()))


def rewritten(raw: bytes, **fields: Any) -> bytes:
    """The same signature over a payload with other fields."""
    envelope = json.loads(raw)
    payload = json.loads(base64.b64decode(envelope["payload"])) | fields
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return json.dumps(envelope | {"payload": base64.b64encode(text.encode()).decode()}).encode()


def test_carols_task_is_opened() -> None:
    task = Task.open(SIGNED, POLICY, AT)
    assert task == TASKS.task()
    assert task.digest == TASKS.task().digest
    assert task.resolved_parameters(POLICY) == {
        "features": ("age", "bmi"),
        "label": "y",
        "max_iter": 200,
    }


def test_new_task_is_one_that_opens() -> None:
    task = Task.new(POLICY, "train", "carol-lab", at=AT, parameters={"max_iter": 60})
    assert Task.open(task.seal(WORLD.carol.operation), POLICY, AT) == task
    other = Task.new(POLICY, "train", "carol-lab", at=AT, parameters={"max_iter": 60})
    assert other.digest != task.digest  # 16 random bytes: each task is one of its own


def test_a_forged_task_names_its_policy_and_no_more() -> None:
    """Anybody can write what is read before the signature is checked."""
    forged = TASKS.signed(by=WORLD.alice)
    named = Task.read(forged)
    assert (named.policy_digest, named.study) == (POLICY.digest, POLICY.study)
    assert {f.name for f in fields(named)} == {"digest", "policy_digest", "study"}
    with refused(SignerUnknown):
        open_task(forged, lambda named: POLICY, AT)


def test_an_instant_is_left_out_only_on_purpose() -> None:
    """A task that has ended is sorted by its policy, and not acted on."""
    late = AT + timedelta(hours=1)
    assert open_task(SIGNED, lambda named: POLICY, None) == (TASKS.task(), POLICY)
    with refused(TaskExpired):
        open_task(SIGNED, lambda named: POLICY, late)
    with refused(SignerUnknown):
        open_task(TASKS.signed(by=WORLD.alice), lambda named: POLICY, None)


ALTERED = {
    "id": "0e" * 16,
    "computation": "train",
    "parameters": {"max_iter": 201},
    "submitter": "carol-lab",
    "issued_at": "2026-11-25T12:00:01Z",
    "expires": "2026-11-26T12:00:00Z",
}


@pytest.mark.parametrize("field", sorted(set(ALTERED) - {"computation", "submitter"}))
def test_scheduler_alters_a_field(field: str) -> None:
    """D02: every field is under the signature."""
    with refused(TaskSignatureInvalid):
        Task.open(rewritten(SIGNED, **{field: ALTERED[field]}), POLICY, AT)


SCOPES: list[tuple[dict[str, Any], type[RatlsError]]] = [
    ({"study": "another-study"}, StudyDiffers),  # P18
    ({"policy_digest": bytes(32)}, PolicyDigestDiffers),  # P15
    ({"computation": "dump"}, TaskComputationUnknown),
    ({"computation": "os.system"}, TaskComputationUnknown),  # D10
    ({"submitter": "alice-clinic"}, TaskSubmitterDenied),
    ({"submitter": "mallory"}, TaskSubmitterDenied),
    ({"parameters": {}}, TaskParameterDenied),
    ({"parameters": {"max_iter": 49}}, TaskParameterDenied),
    ({"parameters": {"max_iter": 5001}}, TaskParameterDenied),
    ({"parameters": {"max_iter": True}}, TaskParameterDenied),
    ({"parameters": {"max_iter": 200.0}}, TaskParameterDenied),
    ({"parameters": {"max_iter": "200"}}, TaskParameterDenied),
    ({"parameters": {"max_iter": 200, "label": "y"}}, TaskParameterDenied),  # fixed by the policy
    ({"parameters": {"max_iter": 200, "C": 9}}, TaskParameterDenied),
]


@pytest.mark.parametrize(("fields", "leaf"), SCOPES, ids=[str(s[0])[:40] for s in SCOPES])
def test_submitter_asks_for_more_than_was_agreed(
    fields: dict[str, Any], leaf: type[RatlsError]
) -> None:
    """D04, D05: well signed, and still not what the policy gives."""
    with refused(leaf):
        Task.open(TASKS.signed(**fields), POLICY, AT)


def test_submitter_of_another_computation() -> None:
    """Dora may submit, but not this: the list of the computation counts, not the role."""
    parties = WORLD.parties | {"dora-clinic": local_party("dora-clinic")}
    world = Consortium(parties, AT, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    dora = world.sections()["dora-clinic"]
    policy = world.policy(
        **{"dora-clinic": dora.replace('roles = ["provider"]', 'roles = ["submitter"]')}
    )
    tasks = TaskWorld(world, policy)
    with refused(TaskSubmitterDenied):
        Task.open(tasks.signed(by=parties["dora-clinic"], submitter="dora-clinic"), policy, AT)
    Task.open(tasks.signed(), policy, AT)


@pytest.mark.parametrize(
    ("chosen", "allowed"),
    [(100, True), (150, False), (100.0, False), (True, False), ([100], False)],
)
def test_task_chooses_from_a_list(chosen: Any, allowed: bool) -> None:
    text = WORLD.policy_text([("{ min = 50, max = 5000 }", "{ choose = [100, 200, 1] }")])
    policy = WORLD.policy(replace=[("{ min = 50, max = 5000 }", "{ choose = [100, 200, 1] }")])
    assert policy.raw == text.encode()
    raw = TaskWorld(WORLD, policy).signed(parameters={"max_iter": chosen})
    if allowed:
        assert Task.open(raw, policy, AT).resolved_parameters(policy)["max_iter"] == chosen
        return
    with refused(TaskParameterDenied):
        Task.open(raw, policy, AT)


def test_another_party_signs_carols_task() -> None:
    with refused(SignerUnknown):
        Task.open(TASKS.signed(by=WORLD.alice), POLICY, AT)


def test_signing_key_does_not_sign_tasks() -> None:
    """Keys have one purpose each."""
    with refused(SignerUnknown):
        Task.open(TASKS.task().seal(WORLD.carol.signing), POLICY, AT)


@pytest.mark.parametrize(
    ("seconds", "leaf"), [(3600, TaskExpired), (10**6, TaskExpired), (-301, TaskNotYetValid)]
)
def test_task_outside_its_window(seconds: int, leaf: type[RatlsError]) -> None:
    with refused(leaf):
        Task.open(SIGNED, POLICY, AT + timedelta(seconds=seconds))
    Task.open(SIGNED, POLICY, AT + timedelta(seconds=3599))
    Task.open(SIGNED, POLICY, AT - timedelta(seconds=299))


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 1},
        {"id": "0D" * 16},
        {"id": "0d" * 15},
        {"expires": "2026-11-25 13:00:00Z"},
        {"expires": "2026-02-30T13:00:00Z"},
        {"expires": 1},
        {"policy_digest": "0" * 64},
        {"policy_digest": "sha256:" + "A" * 64},
        {"parameters": []},
        {"parameters": {"max_iter": {"$ref": 1}}},
        {"parameters": {"../x": 1}},
        {"study": "Breast"},
    ],
    ids=str,
)
def test_task_in_another_form(fields: dict[str, Any]) -> None:
    """P08, P10, P11: refused while it is read."""
    with refused(DocumentMalformed):
        Task.open(rewritten(SIGNED, **fields), POLICY, AT)


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text.replace(",", ", "),
        lambda text: text.replace('"submitter":"c', '"submitter":"\\u0063'),
        lambda text: text + "\n",
    ],
)
def test_task_in_another_spelling(respell: Any) -> None:
    """Two spellings of one task would be two digests, and one replay."""
    payload = respell(TASKS.task().payload.decode()).encode()
    with refused(DocumentMalformed):
        Task.open(
            dsse.Envelope(dsse.TASK, payload, ()).signed_by(WORLD.carol.operation).encode(),
            POLICY,
            AT,
        )


def test_task_with_two_signatures() -> None:
    envelope = dsse.Envelope.parse(SIGNED).signed_by(WORLD.alice.operation)
    with refused(EnvelopeMalformed):
        Task.open(envelope.encode(), POLICY, AT)


def test_commit_is_read_as_a_task() -> None:
    """P07."""
    with refused(EnvelopeTypeDiffers):
        Task.open(TASKS.commit().seal(WORLD.alice.operation), POLICY, AT)


def test_alices_commit_is_opened() -> None:
    commit = TASKS.commit()
    assert Commit.open(commit.seal(WORLD.alice.operation), POLICY) == commit


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"dataset": "train_party_2"}, CommitScopeDiffers),  # I08: Alice commits Bob's dataset
        ({"dataset": "unknown"}, CommitScopeDiffers),
        ({"provider": "bob-hospital"}, CommitScopeDiffers),
        ({"policy_digest": bytes(32)}, PolicyDigestDiffers),
    ],
)
def test_commit_of_what_is_not_ones_own(fields: dict[str, Any], leaf: type[RatlsError]) -> None:
    with refused(leaf):
        Commit.open(TASKS.commit(**fields).seal(WORLD.alice.operation), POLICY)


def test_commit_signed_by_another() -> None:
    with refused(SignerUnknown):
        Commit.open(TASKS.commit().seal(WORLD.bob.operation), POLICY)


@pytest.mark.parametrize("field", ["rows", "batches"])
def test_commit_altered_after_signing(field: str) -> None:
    with refused(CommitSignatureInvalid):
        Commit.open(rewritten(TASKS.commit().seal(WORLD.alice.operation), **{field: 1_000}), POLICY)


ATTESTED: dict[str, Any] = {
    "task_digest": TASKS.task().digest,
    "policy_digest": POLICY.digest,
    "instance": b"i" * 16,
    "nonce": b"n" * 32,
    "evidence": b"tagged cbor",
    "tls_spki": b"spki",
    "receipt_key": ENCLAVE.public.spki,
}
ACKNOWLEDGEMENT = Acknowledgement(
    dataset="train_party_1",
    provider="alice-clinic",
    commit_digest=TASKS.commit().digest,
    tags_digest=TASKS.commit().tags_digest,
    sealing_key_hash=b"k" * 32,
    rows=284,
    batches=1,
    **ATTESTED,
)
RECEIPT = Receipt(
    computation="train",
    run="logistic_regression",
    recipient="carol-lab",
    inputs=(ReceiptInput(dataset="train_party_1", commit_digest=bytes(32)),),
    result_digest=bytes(32),
    mode="simulation",
    **ATTESTED,
)


def test_acknowledgement_and_receipt_are_opened() -> None:
    assert Acknowledgement.open(ACKNOWLEDGEMENT.seal(ENCLAVE)) == ACKNOWLEDGEMENT
    assert Receipt.open(RECEIPT.seal(ENCLAVE)) == RECEIPT


@pytest.mark.parametrize(
    "raw",
    [
        rewritten(ACKNOWLEDGEMENT.seal(ENCLAVE), rows=285),
        rewritten(ACKNOWLEDGEMENT.seal(ENCLAVE), nonce=base64.b64encode(bytes(32)).decode()),
    ],
)
def test_acknowledgement_edited(raw: bytes) -> None:
    """R14: one digit more."""
    with refused(ReceiptSignatureInvalid):
        Acknowledgement.open(raw)


def test_receipt_edited() -> None:
    """D09, R14: another recipient."""
    with refused(ReceiptSignatureInvalid):
        Receipt.open(rewritten(RECEIPT.seal(ENCLAVE), recipient="bob-hospital"))


def test_receipt_signed_by_another_key_than_it_names() -> None:
    with refused(SignerUnknown):
        Receipt.open(RECEIPT.seal(WORLD.alice.operation))


@pytest.mark.parametrize("key", [b"", b"no key"])
def test_receipt_key_that_is_no_key(key: bytes) -> None:
    raw = rewritten(RECEIPT.seal(ENCLAVE), receipt_key=base64.b64encode(key).decode())
    with refused(DocumentMalformed):
        Receipt.open(raw)


RECORD = Record(
    holder="alice-clinic",
    document_digest=ACKNOWLEDGEMENT.digest,
    collateral=b"{}",
    appraisal=Record.checks(Appraisal((CheckRecord("pck-chain", Outcome.PASSED, "x"),))),
    at=AT,
    mode="simulation",
)


def test_record_is_opened_by_policy_and_by_key() -> None:
    raw = RECORD.seal(WORLD.alice.operation)
    for by in (POLICY, WORLD.alice.public.operation_key):
        opened = Record.open(raw, by)
        assert opened == RECORD
        opened.require_document(ACKNOWLEDGEMENT.digest)


def test_record_with_a_better_instant() -> None:
    """Whose clock it was is what the record is for."""
    raw = rewritten(RECORD.seal(WORLD.alice.operation), at="2027-01-01T00:00:00Z")
    with refused(RecordSignatureInvalid):
        Record.open(raw, POLICY)


def test_record_of_another_document() -> None:
    with refused(RecordScopeDiffers):
        RECORD.require_document(RECEIPT.digest)


def test_record_of_a_holder_that_nobody_knows() -> None:
    record = RECORD.model_copy(update={"holder": "mallory"})
    fields = {name: getattr(record, name) for name in Record.model_fields}
    with refused(PartyNotListed):
        Record.open(Record(**fields).seal(WORLD.alice.operation), POLICY)


INFO = result_info(TASKS.task().digest, POLICY.digest, "carol-lab")


def _carol() -> EncryptionKey:
    key = WORLD.carol.public.encryption_key
    assert key is not None
    return key


def test_carol_opens_her_result() -> None:
    sealed = seal_result(b"model", _carol(), INFO)
    assert b"model" not in sealed
    assert open_result(sealed, WORLD.carol.encryption, INFO) == b"model"


@pytest.mark.parametrize(
    "info",
    [
        result_info(bytes(32), POLICY.digest, "carol-lab"),
        result_info(TASKS.task().digest, bytes(32), "carol-lab"),
        result_info(TASKS.task().digest, POLICY.digest, "bob-hospital"),
    ],
    ids=["task", "policy", "recipient"],
)
def test_result_sealed_for_something_else(info: bytes) -> None:
    """R12, R13: an old result for a new task."""
    with refused(ResultNotOpenable):
        open_result(seal_result(b"model", _carol(), info), WORLD.carol.encryption, INFO)


@pytest.mark.parametrize("cut", [0, 10, 32, 40])
def test_result_cut_or_flipped(cut: int) -> None:
    sealed = seal_result(b"model", _carol(), INFO)
    with refused(ResultNotOpenable):
        open_result(sealed[:cut], WORLD.carol.encryption, INFO)
    with refused(ResultNotOpenable):
        open_result(sealed[:-1] + bytes([sealed[-1] ^ 1]), WORLD.carol.encryption, INFO)


def test_result_for_another_key() -> None:
    other = local_party("carol-lab", copy=1)
    with refused(ResultNotOpenable):
        open_result(seal_result(b"model", _carol(), INFO), other.encryption, INFO)


@settings(max_examples=100)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.integers(0, len(SIGNED) - 1).map(lambda n: SIGNED[:n]),
        st.tuples(st.integers(0, len(SIGNED) - 1), st.integers(0, 255)).map(
            lambda t: SIGNED[: t[0]] + bytes([t[1]]) + SIGNED[t[0] + 1 :]
        ),
    )
)
def test_any_bytes_give_carols_task_or_a_refusal(raw: bytes) -> None:
    try:
        task = Task.open(raw, POLICY, AT)
    except RatlsError:
        return  # of whichever leaf; anything else is a crash
    assert task == TASKS.task()
