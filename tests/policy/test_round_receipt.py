"""What is signed in a round, and how receipts of all rounds are held against each other."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policy.document import Policy
from policy.keys import KeySigner, ReceiptSigner, spki_der
from policy.round_receipt import (
    Participant,
    RoundChainBroken,
    RoundParticipantsUnfit,
    RoundReceipt,
    RoundsMissing,
    RoundsOfAnotherSeries,
    Update,
    UpdateScopeDiffers,
    UpdateSignatureInvalid,
    require_chain,
)
from policy.statement import PolicyDigestDiffers
from policy.values import Digest
from tests.support.parties import AT, ROOTS
from tests.support.refusal import refused
from tests.support.rounds import OWNERS_OF, computation, consortium

WORLD = consortium(3, AT)
TEXT = WORLD.policy_text(computation=computation(rounds="5", quorum="2", reason='"two, in tests"'))
POLICY = Policy.parse(TEXT.encode(), known_roots=ROOTS)
KEY = ec.generate_private_key(ec.SECP256R1())


def update(**changed: Any) -> bytes:
    made: dict[str, Any] = {
        "policy_digest": POLICY.digest,
        "task_digest": b"t" * 32,
        "instance": b"i" * 16,
        "nonce": b"n" * 32,
        "dataset": "train_party_1",
        "provider": "alice-clinic",
        "round": 1,
        "previous": b"p" * 32,
        "tags_digest": b"g" * 32,
        "journal_head": bytes(32),
    }
    return Update(**made | changed).seal(WORLD.alice.operation)


def altered(raw: bytes, **changed: Any) -> bytes:
    """The envelope with other fields, under the signature that it had."""
    envelope = json.loads(raw)
    fields = json.loads(b64decode(envelope["payload"])) | changed
    payload = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps(envelope | {"payload": b64encode(payload).decode()}).encode()


def test_an_update_is_its_owners_word_for_one_round() -> None:
    opened = Update.open(update(), POLICY)
    assert (opened.round, opened.dataset) == (1, "train_party_1")
    with refused(UpdateSignatureInvalid):
        Update.open(altered(update(), round=2), POLICY)
    with refused(UpdateScopeDiffers):
        Update.open(update(dataset="train_party_2"), POLICY)
    with refused(PolicyDigestDiffers):
        Update.open(update(policy_digest=b"o" * 32), POLICY)


def model(number: int) -> Digest:
    return Digest(bytes([number]) * 32)


def who(*numbers: int) -> tuple[Participant, ...]:
    names = [f"train_party_{number}" for number in numbers]
    return tuple(
        Participant(dataset=n, provider=OWNERS_OF[n], update_digest=Digest(b"u" * 32))
        for n in names
    )


def receipt(number: int, **changed: Any) -> RoundReceipt:
    made: dict[str, Any] = {
        "policy_digest": POLICY.digest,
        "task_digest": b"t" * 32,
        "instance": b"i" * 16,
        "nonce": bytes([number]) * 32,
        "evidence": b"evidence",
        "tls_spki": b"spki",
        "receipt_key": spki_der(KEY.public_key()),
        "computation": "train",
        "recipient": "alice-clinic",
        "round": number,
        "previous": model(number - 1),
        "model": model(number),
        "participants": who(1, 2, 3),
        "sealing_key_hash": b"s" * 32,
        "mode": "simulation",
    }
    raw = RoundReceipt(**made | changed).seal(ReceiptSigner(KeySigner.from_private(KEY)))
    return RoundReceipt.open(raw)


def test_the_rounds_of_a_series_are_a_chain() -> None:
    """With a party that dropped out of one of them."""
    require_chain([receipt(1)], POLICY)
    require_chain([receipt(1), receipt(2, participants=who(1, 3)), receipt(3)], POLICY)


@pytest.mark.parametrize("numbers", [(), (2,), (1, 3), (1, 1), (2, 1), (1, 2, 2)])
def test_a_receipt_that_is_missing_doubled_or_out_of_order(numbers: tuple[int, ...]) -> None:
    with refused(RoundsMissing):
        require_chain([receipt(number) for number in numbers], POLICY)


def test_a_round_that_did_not_begin_where_the_one_before_ended() -> None:
    """The enclave's host cannot put a model of its own between two rounds."""
    with refused(RoundChainBroken):
        require_chain([receipt(1), receipt(2, previous=model(9))], POLICY)
    with refused(RoundChainBroken):
        require_chain([receipt(1), receipt(2, previous=model(0))], POLICY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_digest", b"o" * 32),
        ("policy_digest", b"o" * 32),
        ("instance", b"o" * 16),
        ("recipient", "bob-hospital"),
        ("mode", "production"),
    ],
)
def test_a_receipt_of_another_series(field: str, value: object) -> None:
    """Rounds of two tasks, or of two starts of the enclave, are never taken for one model's."""
    with refused(RoundsOfAnotherSeries):
        require_chain([receipt(1), receipt(2, **{field: value})], POLICY)


@pytest.mark.parametrize(
    "changed",
    [
        {"participants": who(1)},  # below the quorum
        {"participants": who(2, 1)},  # another order
        {"participants": who(1, 1)},
        {"participants": (*who(1, 2), who(3)[0].model_copy(update={"provider": "bob-hospital"}))},
        {"participants": (*who(1, 2), who(3)[0].model_copy(update={"dataset": "other"}))},
        {"computation": "other"},
    ],
)
def test_a_round_of_others_than_the_agreed_parties(changed: dict[str, Any]) -> None:
    """However well it is signed: an enclave that counts one party twice is not the agreed one."""
    with refused(RoundParticipantsUnfit):
        require_chain([receipt(1, **changed)], POLICY)


def test_more_rounds_than_agreed() -> None:
    series = [receipt(number) for number in range(1, 7)]
    require_chain(series[:5], POLICY)
    with refused(RoundParticipantsUnfit):
        require_chain(series, POLICY)
