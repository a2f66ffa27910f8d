"""D01 to D07: a scheduler that writes, moves and repeats tasks, and sends providers elsewhere.

It has no key. Each attack changes one thing about a task of Carol's; a provider refuses with one
class before anybody is connected to, or the enclave does; the universal oracle judges the rest.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enclave_app.access import ReleaseNotAuthorized
from policy.envelope import SignerUnknown
from policy.journal_entries import ReleasedEntry
from policy.state import PolicyNotAccepted
from policy.statement import StudyDiffers
from policy.task import Task, TaskSignatureInvalid, TaskSubmitterDenied
from provider.errors import TaskBoundToInstance
from provider.exchange import DatasetNotOwned
from provider.release_state import ReleaseUnderWay, TaskAlreadyReleased
from ratls.certificate import EvidenceMissing
from ratls.client_stream import Pending
from ratls.errors import CallFailed
from ratls.framing import Kind
from ratls.server_stream import StreamTruncated
from tests.attacks.seat.test_downgrade import KEY, certificate
from tests.provider.desk import Desk
from tests.provider.test_release import serving as another_enclave
from tests.support.documents import contents
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.flight_peers import tls_server
from tests.support.oracle import Leaves, Scene, universal_oracle
from tests.support.parties import TaskWorld, local_party
from tests.support.refusal import refused
from tests.support.relay import Relay
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"


def test_a_provider_is_sent_to_another_server(scene: Scene, alice: Desk, relay: Relay) -> None:
    """D01: TLS is all that this server has."""
    with universal_oracle(scene, alice=EvidenceMissing), tls_server([certificate()], KEY) as decoy:
        relay.point_at((decoy.address.host, decoy.address.port))
        with alice.refuses(EvidenceMissing):
            alice.push(alice.world.task())
        assert decoy.received == b""


FIELDS = {
    "id": "ab" * 16,
    "study": "another-study",
    "policy_digest": "sha256:" + "ab" * 32,
    "computation": "evaluate",
    "parameters": {"max_iter": 400},
    "submitter": "bob-hospital",
    "issued_at": "2020-01-01T00:00:00Z",
    "expires": "2040-01-01T00:00:00Z",
}
# Whose field is looked at before the signature, since it says by whose rules that is judged.
BEFORE: dict[str, type[RatlsError]] = {
    "study": StudyDiffers,
    "policy_digest": PolicyNotAccepted,
    "submitter": TaskSubmitterDenied,
}


def test_fields_are_those_of_a_task(world: EnclaveWorld) -> None:
    assert FIELDS.keys() <= _payload(world.task()).keys()
    assert _payload(world.task()).keys() - FIELDS.keys() <= {"schema"}


def _payload(task: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(Task, task).payload)
    return found


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_changed_under_the_signature(
    scene: Scene, alice: Desk, relay: Relay, field: str
) -> None:
    """D02: function, parameters, whose it is, and when: each is covered."""
    task = alice.world.task()
    genuine = contents(Task, task).payload
    changed = json.dumps(_payload(task) | {field: FIELDS[field]}, separators=(",", ":"))
    forged = task.replace(b64encode(genuine), b64encode(changed.encode()))
    assert forged != task
    leaf = BEFORE.get(field, TaskSignatureInvalid)
    with universal_oracle(scene, alice=leaf):
        with alice.refuses(leaf):
            alice.push(forged)
        assert relay.connections == []


def test_a_used_task_is_shown_again(scene: Scene, alice: Desk, relay: Relay) -> None:
    """D03: sequentially, and while its rows are leaving."""
    task = alice.world.task()

    def again(_: int, __: int | None) -> None:
        with refused(ReleaseUnderWay):
            alice.push(task)

    with universal_oracle(scene, alice=(ReleaseUnderWay, TaskAlreadyReleased)):
        assert alice.push(task, progress=again).commit.rows == 60
        before = len(relay.connections)
        with alice.refuses(TaskAlreadyReleased):
            alice.push(task)
        assert len(relay.connections) == before
        assert [type(entry) for entry in alice.journal].count(ReleasedEntry) == 1


def test_a_task_of_another_agreement(scene: Scene, alice: Desk, relay: Relay) -> None:
    """D04: well signed by Carol, for parties and an enclave that Alice has not agreed on."""
    other = EnclaveWorld.create(expires=f"{NOW + timedelta(9):%Y-%m-%dT%H:%M:%SZ}")
    with universal_oracle(scene, alice=PolicyNotAccepted):
        with alice.refuses(PolicyNotAccepted):
            alice.push(other.task())
        assert relay.connections == []


def test_a_task_for_a_dataset_of_another_provider(scene: Scene, alice: Desk, relay: Relay) -> None:
    """D04."""
    with universal_oracle(scene, alice=DatasetNotOwned):
        with alice.refuses(DatasetNotOwned):
            alice.push(alice.world.task(), dataset=TWO)
        assert relay.connections == []


def test_a_task_for_the_attacker_as_recipient(scene: Scene, alice: Desk, relay: Relay) -> None:
    """D05: recipients stand in the policy; a task has no field for one, and a key of one's own
    signs none."""
    task = alice.world.task()
    assert not [name for name in _payload(task) if "recipient" in name]
    times = {"issued_at": NOW, "expires": NOW + timedelta(hours=1), "id": os.urandom(16).hex()}
    signed = TaskWorld(alice.world.consortium, alice.world.policy).signed
    with universal_oracle(scene, alice=(SignerUnknown, TaskSubmitterDenied)):
        with alice.refuses(SignerUnknown):
            alice.push(contents(Task, task).seal(local_party("dora-lab", NOW).operation))
        with alice.refuses(TaskSubmitterDenied):
            alice.push(signed(alice.world.consortium.bob, submitter="bob-hospital", **times))
        assert relay.connections == []


def test_two_enclaves_on_one_task(
    scene: Scene, alice: Desk, world: EnclaveWorld, relay: Relay
) -> None:
    """D06: same code, same machine, another start; the first got nothing but the beginning."""
    task = world.task()
    with universal_oracle(scene, alice=TaskBoundToInstance, enclave=StreamTruncated):
        with suppress(KeyboardInterrupt):
            alice.push(task, progress=_die)
        with another_enclave(world, relay) as clone:
            with alice.refuses(TaskBoundToInstance):
                alice.push(task)
            assert "committed" not in [line["event"] for line in clone.log]


def _die(_: int, __: int | None) -> None:
    raise KeyboardInterrupt


Attempt = Callable[[LiveEnclave, bytes], None]


def as_a_stranger(live: LiveEnclave, task: bytes) -> None:
    with (
        refused(CallFailed),
        live.exchange(Kind.RELEASE, local_party("dora-lab", NOW), task=task, dataset=TWO),
    ):
        pass


def as_a_namesake(live: LiveEnclave, task: bytes) -> None:
    namesake = local_party("bob-hospital", NOW, copy=1)
    with refused(CallFailed), live.exchange(Kind.RELEASE, namesake, task=task, dataset=TWO):
        pass


def as_the_victim(live: LiveEnclave, task: bytes) -> None:
    alice = live.world.consortium.alice
    with (
        refused_by_enclave(ReleaseNotAuthorized),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=TWO),
    ):
        pass


@pytest.mark.parametrize(
    ("attempt", "recorded"),
    [(as_a_stranger, ()), (as_a_namesake, ()), (as_the_victim, ReleaseNotAuthorized)],
)
def test_the_other_seats_are_filled(
    scene: Scene,
    alice: Desk,
    world: EnclaveWorld,
    live: LiveEnclave,
    attempt: Attempt,
    recorded: Leaves,
) -> None:
    """D07: nobody but Bob fills Bob's place, and without him nothing is computed."""
    task = world.task()
    with universal_oracle(scene, enclave=recorded):
        assert alice.push(task).commit.rows == 60
        attempt(live, task)
        assert live.collect(world.consortium.carol, task) == Pending((TWO,))
        assert "computed" not in [line["event"] for line in live.log]
        live.release(world.consortium.bob, TWO, rows(2), task)
        live.wait(world.consortium.carol, task)


def test_every_row_is_staged() -> None:
    text = Path(__file__).read_text("utf-8").split('"""', 2)[2]
    assert not [n for n in range(1, 8) if f"D{n:02d}" not in text]
