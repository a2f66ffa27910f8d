"""What the scheduler decides: who brings, who sees, who reports. Each refusal beside its twin."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.agreement import CompleteAgreement
from policy.envelope import EnvelopeMalformed, SignerUnknown
from policy.party import LocalParty
from policy.task import (
    TaskComputationUnknown,
    TaskExpired,
    TaskNotYetValid,
    TaskParameterDenied,
    TaskSignatureInvalid,
    TaskSubmitterDenied,
)
from scheduler.database import queue_file
from scheduler.limits import Limits, OpenTasksExhausted
from scheduler.messages import TaskOversized
from scheduler.queued_task import Cursor, State
from scheduler.service import (
    PeerNotServed,
    PolicyNotServed,
    ReportNotAuthorized,
    Roster,
    Service,
    StudyGivenTwice,
    SubmitterDiffers,
)
from scheduler.store import Store, TaskNotQueued
from tests.support.parties import Consortium, TaskWorld, local_party
from tests.support.refusal import refused
from tests.support.scheduler import NOW
from verifier.errors import RatlsError

DAY = timedelta(days=1)
TWO_SUBMITTERS = [
    (
        'id = "bob-hospital"\nroles = ["provider"]',
        'id = "bob-hospital"\nroles = ["provider", "submitter"]',
    ),
    ('submitters = ["carol-lab"]', 'submitters = ["carol-lab", "bob-hospital"]'),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(queue_file(tmp_path / "queue.sqlite"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def complete(world: Consortium) -> CompleteAgreement:
    return world.complete()


@pytest.fixture
def service(store: Store, complete: CompleteAgreement) -> Service:
    return Service(Roster([complete]), store, Limits())


def peer(party: LocalParty) -> bytes:
    return party.channel_spki_sha256


def another_study(world: Consortium) -> Consortium:
    """The same parties, but for Alice, who there has other keys under her name."""
    parties = dict(world.parties) | {"alice-clinic": local_party("alice-clinic", NOW, copy=1)}
    other = Consortium(parties, world.at, world.root, world.mr_enclave, world.machines)
    other.extra = {"study": 'study = "another-study"\n'}
    return other


def test_every_party_of_the_policy_is_offered_the_exact_bytes(
    service: Service, world: Consortium, tasks: TaskWorld
) -> None:
    raw = tasks.signed()
    digest = service.submit(peer(world.carol), raw, NOW)
    assert digest == tasks.task().digest
    for party in (world.alice, world.bob, world.carol):
        (task,) = service.page(peer(party), b"", NOW).tasks
        assert (task.digest, task.envelope) == (digest, raw)
    assert [d.dataset for d in task.datasets] == ["train_party_1", "train_party_2"]


def test_the_same_task_again_gets_the_same_answer(
    service: Service, world: Consortium, tasks: TaskWorld
) -> None:
    first = service.submit(peer(world.carol), tasks.signed(), NOW)
    assert service.submit(peer(world.carol), tasks.signed(), NOW + DAY / 48) == first
    assert len(service.page(peer(world.alice), b"", NOW).tasks) == 1


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        ({"computation": "drop_table"}, TaskComputationUnknown),
        ({"computation": "os.system"}, TaskComputationUnknown),
        ({"parameters": {"max_iter": 1}}, TaskParameterDenied),
        ({"parameters": {"label": "patient"}}, TaskParameterDenied),
        ({"submitter": "alice-clinic"}, TaskSubmitterDenied),
        ({"policy_digest": b"x" * 32}, PolicyNotServed),
        ({"expires": NOW}, TaskExpired),
        ({"issued_at": NOW + timedelta(hours=1)}, TaskNotYetValid),
    ],
)
def test_a_task_that_no_one_may_run(
    service: Service, world: Consortium, tasks: TaskWorld,
    change: dict[str, Any], leaf: type[RatlsError],
) -> None:  # fmt: skip
    """D02, D10: it would wake everybody, and everybody would refuse it."""
    with refused(leaf):
        service.submit(peer(world.carol), tasks.signed(**change), NOW)
    assert service.page(peer(world.alice), b"", NOW).tasks == ()
    assert service.submit(peer(world.carol), tasks.signed(), NOW)


@pytest.mark.parametrize(
    ("old", "new", "leaf"),
    [
        (b'"payload":"eyJ', b'"payload":"eyK', EnvelopeMalformed),
        (b'"sig":"', b'"sig":"AAAA', TaskSignatureInvalid),
        (b'{"payload"', b'{ "payload', EnvelopeMalformed),
    ],
)
def test_altered_bytes(
    service: Service, world: Consortium, tasks: TaskWorld,
    old: bytes, new: bytes, leaf: type[RatlsError],
) -> None:  # fmt: skip
    with refused(leaf):
        service.submit(peer(world.carol), tasks.signed().replace(old, new, 1), NOW)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"max_iter":200', b'"max_iter":201'), (b'"id":"0d', b'"id":"0e'), (b"T", b"T")],
)
def test_altered_fields(
    service: Service, world: Consortium, tasks: TaskWorld, old: bytes, new: bytes
) -> None:
    """D02: whoever stands in between changes what is asked for and keeps the signature."""
    envelope = json.loads(tasks.signed())
    payload = base64.b64decode(envelope["payload"]).replace(old, new)
    envelope["payload"] = base64.b64encode(payload).decode()
    raw = json.dumps(envelope).encode()
    if old == new:
        service.submit(peer(world.carol), raw, NOW)
        return
    with refused(TaskSignatureInvalid):
        service.submit(peer(world.carol), raw, NOW)


def test_a_task_signed_by_another(service: Service, world: Consortium, tasks: TaskWorld) -> None:
    with refused(SignerUnknown):
        service.submit(peer(world.carol), tasks.signed(by=world.bob), NOW)


def test_a_copy_brought_by_another_party(
    service: Service, world: Consortium, tasks: TaskWorld
) -> None:
    """D11: who was offered a task could spend its submitter's quota, or its own, on copies."""
    with refused(SubmitterDiffers):
        service.submit(peer(world.alice), tasks.signed(), NOW)
    service.submit(peer(world.carol), tasks.signed(), NOW)


def test_a_task_as_large_as_a_dataset(service: Service, world: Consortium) -> None:
    with refused(TaskOversized):
        service.submit(peer(world.carol), b"{" + b" " * 65536, NOW)


@pytest.mark.parametrize("stranger", [bytes(32), b"", b"x" * 32])
def test_a_peer_that_no_policy_lists(service: Service, tasks: TaskWorld, stranger: bytes) -> None:
    for call in (
        lambda: service.submit(stranger, tasks.signed(), NOW),
        lambda: service.page(stranger, b"", NOW),
        lambda: service.report(
            stranger, tasks.task().digest, "train_party_1", State.RELEASED, "", NOW
        ),
    ):
        with refused(PeerNotServed):
            call()


def test_a_party_that_only_operates_has_no_part_in_tasks(store: Store) -> None:
    world = Consortium.create(NOW, operator=True)
    service = Service(Roster([world.complete()]), store, Limits())
    with refused(PeerNotServed):
        service.page(peer(world.operator), b"", NOW)
    assert service.page(peer(world.alice), b"", NOW).tasks == ()
    listed = {c.party_id for c in Roster([world.complete()]).certificates}
    assert listed == {"alice-clinic", "bob-hospital", "carol-lab"}


def test_the_tasks_of_a_study_are_nobody_elses(
    store: Store, world: Consortium, tasks: TaskWorld
) -> None:
    """One mailbox, two studies: the other Alice must not even see that there is a task."""
    other = another_study(world)
    theirs = other.parties["alice-clinic"]
    service = Service(Roster([world.complete(), other.complete()]), store, Limits())
    digest = service.submit(peer(world.carol), tasks.signed(), NOW)
    assert service.page(peer(theirs), b"", NOW).tasks == ()
    with refused(PolicyNotServed):
        service.page(peer(theirs), b"", NOW, policy_digest=world.policy().digest)
    with refused(TaskNotQueued):
        service.report(peer(theirs), digest, "train_party_1", State.RELEASED, "", NOW)
    with refused(PolicyNotServed):
        service.page(peer(world.alice), b"", NOW, policy_digest=other.policy().digest)
    mine = service.page(peer(world.alice), b"", NOW, policy_digest=world.policy().digest)
    assert [t.digest for t in mine.tasks] == [digest]
    both = TaskWorld(other)
    service.submit(peer(world.carol), both.signed(), NOW)
    assert len(service.page(peer(world.carol), b"", NOW).tasks) == 2, "Carol is in both"


def test_two_agreements_on_one_study(complete: CompleteAgreement) -> None:
    """Which one holds would be a matter of their order."""
    with refused(StudyGivenTwice):
        Roster([complete, complete])


def test_a_policy_outside_its_window(service: Service, world: Consortium, tasks: TaskWorld) -> None:
    service.submit(peer(world.carol), tasks.signed(), NOW)
    for at in (NOW + 31 * DAY, NOW - 2 * DAY):
        with refused(PeerNotServed):
            service.page(peer(world.alice), b"", at)


def test_a_new_version_comes_into_force_by_itself(store: Store, world: Consortium) -> None:
    """Tasks under the old one are then refused by everybody: they are no longer offered."""
    first = world.complete()
    second = world.complete(
        world.policy_text(
            version="2",
            previous=f'"sha256:{first.digest.hex()}"',
            not_before=(NOW + DAY / 48).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ),
        before=first,
    )
    service = Service(Roster([second]), store, Limits())
    old, new = TaskWorld(world, first.policy), TaskWorld(world, second.policy)
    service.submit(peer(world.carol), old.signed(), NOW)
    with refused(PolicyNotServed):
        service.submit(peer(world.carol), new.signed(), NOW)
    later = NOW + DAY / 48
    assert service.page(peer(world.alice), b"", later).tasks == ()
    with refused(PolicyNotServed):
        service.submit(peer(world.carol), old.signed(), later)
    assert service.submit(peer(world.carol), new.signed(), later)


@pytest.mark.parametrize(
    ("party", "dataset"),
    [
        ("bob-hospital", "train_party_1"),
        ("carol-lab", "train_party_1"),
        ("alice-clinic", "train_party_2"),
        ("alice-clinic", "no-such-dataset"),
        ("alice-clinic", ""),
    ],
)
def test_a_report_on_what_is_not_ones_own(
    service: Service, world: Consortium, tasks: TaskWorld, party: str, dataset: str
) -> None:
    """D09: a forged `released` would let everybody wait for a result that cannot come."""
    digest = service.submit(peer(world.carol), tasks.signed(), NOW)
    with refused(ReportNotAuthorized):
        service.report(peer(world.parties[party]), digest, dataset, State.RELEASED, "", NOW)
    (task,) = service.page(peer(world.carol), b"", NOW).tasks
    assert {d.state for d in task.datasets} == {State.WAITING}
    done = service.report(peer(world.alice), digest, "train_party_1", State.RELEASED, "", NOW)
    assert done.state is State.RELEASED


def test_a_database_row_makes_nobody_an_owner(
    service: Service, store: Store, world: Consortium, tasks: TaskWorld
) -> None:
    """Whoever writes to the database could otherwise say who reports for whom."""
    digest = service.submit(peer(world.carol), tasks.signed(), NOW)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ratls_status SET owner = 'bob-hospital'")
    with refused(ReportNotAuthorized):
        service.report(peer(world.bob), digest, "train_party_1", State.RELEASED, "", NOW)
    service.report(peer(world.alice), digest, "train_party_1", State.RELEASED, "", NOW)


def test_a_dataset_that_is_no_input_of_the_task(store: Store, world: Consortium) -> None:
    text = world.policy_text(
        replace=[('inputs = ["train_party_1", "train_party_2"]', 'inputs = ["train_party_2"]')]
    )
    complete = world.complete(text)
    service = Service(Roster([complete]), store, Limits())
    raw = TaskWorld(world, complete.policy).signed()
    digest = service.submit(peer(world.carol), raw, NOW)
    with refused(ReportNotAuthorized):
        service.report(peer(world.alice), digest, "train_party_1", State.RELEASED, "", NOW)
    service.report(peer(world.bob), digest, "train_party_2", State.REFUSED, "task-expired", NOW)


def test_a_report_on_a_task_that_was_never_there(service: Service, world: Consortium) -> None:
    with refused(TaskNotQueued):
        service.report(peer(world.alice), bytes(32), "train_party_1", State.RELEASED, "", NOW)


def test_an_agent_that_was_away_gets_what_it_missed(
    service: Service, world: Consortium, tasks: TaskWorld
) -> None:
    alice, carol = peer(world.alice), peer(world.carol)
    service.submit(carol, tasks.signed(), NOW)
    (first,) = service.page(alice, b"", NOW).tasks
    for number in range(3):
        service.submit(carol, tasks.signed(id=f"{number:032x}"), NOW)
    missed = service.page(alice, first.cursor, NOW)
    assert len(missed.tasks) == 3
    assert first.digest not in {t.digest for t in missed.tasks}
    assert service.page(alice, missed.tasks[-1].cursor, NOW).tasks == ()


@pytest.mark.parametrize(
    "cursor",
    [b"", b"x", bytes(24), b"\xff" * 24, Cursor(b"s" * 16, 1).encode(), b"\xff" * 4096],
)
def test_a_cursor_of_another_queue_is_the_beginning(
    service: Service, world: Consortium, tasks: TaskWorld, cursor: bytes
) -> None:
    """A database that was lost starts to count again: what is new there must not be skipped."""
    service.submit(peer(world.carol), tasks.signed(), NOW)
    assert len(service.page(peer(world.alice), cursor, NOW).tasks) == 1


def test_a_queue_restored_from_an_old_copy_is_shown_from_its_beginning(
    service: Service, store: Store, world: Consortium, tasks: TaskWorld
) -> None:
    service.submit(peer(world.carol), tasks.signed(), NOW)
    ahead = Cursor(store.id, store.newest() + 1).encode()
    assert len(service.page(peer(world.alice), ahead, NOW).tasks) == 1
    level = Cursor(store.id, store.newest()).encode()
    assert service.page(peer(world.alice), level, NOW).tasks == ()


def test_the_honest_job_of_another_is_served_during_a_flood(store: Store) -> None:
    """D11, S34: the quota is per submitter, and checked before anything is kept."""
    world = Consortium.create(NOW)
    complete = world.complete(world.policy_text(replace=TWO_SUBMITTERS))
    service = Service(Roster([complete]), store, Limits(open_tasks=5))
    signed = TaskWorld(world, complete.policy).signed
    for number in range(5):
        service.submit(peer(world.carol), signed(id=f"{number:032x}"), NOW)
    for number in range(5, 25):
        with refused(OpenTasksExhausted):
            service.submit(peer(world.carol), signed(id=f"{number:032x}"), NOW)
    honest = signed(by=world.bob, submitter="bob-hospital", id="b0" * 16)
    digest = service.submit(peer(world.bob), honest, NOW)
    assert digest in {t.digest for t in service.page(peer(world.alice), b"", NOW).tasks}
