"""What leaves a provider, and everything that keeps it from leaving."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.admission import MachineNotListed, MeasurementNotListed
from policy.agreement import PolicyExpired
from policy.commit import Commit
from policy.document import digest_text
from policy.errors import KeyPermissions
from policy.journal_chain import JournalCut
from policy.journal_entries import CommittedEntry, RefusedEntry, ReleasedEntry, ReservedEntry
from policy.keys import PassphraseWrong
from policy.party import LocalParty
from policy.receipt import Acknowledgement
from policy.record import Record
from policy.rows import ColumnMissing, ValueNotFinite, ValueNull, schema_digest
from policy.signing import AnchorDiffers
from policy.state import PolicyNotAccepted, PolicyRollback, StateMissing, StudyState
from policy.task import Task, TaskExpired, TaskSignatureInvalid
from provider.budget import UsesExhausted
from provider.errors import AcknowledgementMismatch, SourceUnreadable, TaskBoundToInstance
from provider.exchange import DatasetNotAsked, DatasetNotOwned
from provider.release import check_acknowledgement
from provider.release_state import (
    Attempt,
    ReleaseStateDamaged,
    ReleaseUnderWay,
    TaskAlreadyReleased,
)
from provider.sources.base import SourceEmpty
from provider.sources.parquet import ParquetSource
from ratls.address import Address, PeerUnreachable
from ratls.certificate import EvidenceMissing
from ratls.claims import KeyUnbound, PolicyHashMismatch, ReceiptKeyUnbound, TaskHashMismatch
from ratls.client_call import AnswerMissing
from ratls.client_stream import ClientExchange
from ratls.errors import CallFailed
from ratls.framing import RowDigest, message_digest
from ratls.offline import verify_with_record
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed
from ratls.server_stream import ServerExchange
from tests.provider.desk import CANARY, Desk
from tests.support.documents import contents
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.flight_peers import PlatformAttester
from tests.support.parties import PASSPHRASE, local_party
from tests.support.refusal import refused
from tests.support.relay import Relay
from verifier.errors import Exit, RatlsError
from verifier.files import FileNotWritten
from verifier.modes import SimulationNotAllowed

pytestmark = pytest.mark.slow


def sent(relay: Relay) -> bytes:
    """All that left Alice through the relay."""
    return b"".join(bytes(c.sent) for c in relay.connections)


# The honest way.


def test_rows_arrive_and_the_enclave_acknowledges_them(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    done = alice.push(world.task())
    kinds = [type(entry) for entry in alice.journal]
    assert kinds == [ReservedEntry, CommittedEntry, ReleasedEntry]
    assert (done.commit.rows, done.sent.rows, done.resumed) == (60, 60, False)
    acknowledgement = Acknowledgement.open(done.kept.acknowledgement.read_bytes())
    assert acknowledgement.commit_digest == done.commit.digest
    record = Record.open(done.kept.record.read_bytes(), world.policy)
    record.require_document(acknowledgement.digest)
    assert record.mode == "simulation"
    assert len(relay.connections) == 2  # the probe, and the one exchange


def test_rows_leave_in_many_batches(world: EnclaveWorld, alice: Desk) -> None:
    """Batches cut out of larger ones are views; both sides must digest the same bytes."""
    names = [f"patient-{i}-{'x' * 3000}" for i in range(3000)]
    alice.write(rows(1, 3000, patient=names))
    told: list[tuple[int, int]] = []
    done = alice.push(world.task(), progress=lambda rows, total: told.append((rows, total)))
    assert (done.commit.rows, done.commit.batches) == (3000, len(told))
    assert told[-1] == (3000, 3000)
    assert len(told) > 2


def test_the_network_learns_no_row_and_no_name(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """D12: a full release with packet capture. The state folder holds no cell either (L01)."""
    task = world.task()
    alice.push(task)
    seen = sent(relay) + b"".join(bytes(c.received) for c in relay.connections)
    kept = b"".join(p.read_bytes() for p in alice.state.rglob("*") if p.is_file())
    for secret in (CANARY, "train_party_1", contents(Task, task).id):
        assert secret.encode() not in seen
    assert CANARY.encode() not in kept


def test_the_salt_that_is_kept_opens_the_digest(world: EnclaveWorld, alice: Desk) -> None:
    """Years later the provider, and only the provider, can show which rows it released."""
    done = alice.push(world.task())
    attempt = done.kept.attempt()
    assert attempt is not None
    declared = world.policy.dataset_by_id("train_party_1")
    assert declared is not None
    digest = RowDigest(attempt.salt, schema_digest(declared))
    with ParquetSource.open(alice.path, declared) as source:
        source.scan()
        for seq, batch in enumerate(source.batches()):
            digest.add(seq, batch.num_rows, message_digest(batch.serialize()))
    assert digest.digest() == done.commit.salted_digest


def test_the_commit_carries_the_journals_head(world: EnclaveWorld, alice: Desk) -> None:
    """L06. Whoever puts back an older journal cannot put back what the enclave acknowledged."""
    done = alice.push(world.task())
    lines = (alice.state / "journal.jsonl").read_bytes().splitlines()
    reserved = next(line for line in lines if b'"kind":"reserved"' in line)
    assert done.commit.journal_head == hashlib.sha256(reserved).digest()


# Refused before anybody is connected to.


def other_passphrase(desk: Desk) -> None:
    desk.party = LocalParty.load(desk.party.folder, b"a guess")


def open_permissions(desk: Desk) -> None:
    copy = desk.folder / "keys"
    copy.mkdir()
    for file in desk.party.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / file.name).chmod(0o644)
    desk.party = LocalParty.load(copy, PASSPHRASE)


def change(**columns: Any) -> Callable[[Desk], None]:
    return lambda desk: desk.write(rows(1, **columns))


@pytest.mark.parametrize(
    ("spoil", "leaf"),
    [
        pytest.param(lambda d: d.path.unlink(), SourceUnreadable, id="file-missing"),
        pytest.param(lambda d: d.write(rows(1, 0)), SourceEmpty, id="file-empty"),
        pytest.param(
            lambda d: d.write(rows(1).drop_columns(["bmi"])), ColumnMissing, id="column-missing"
        ),
        pytest.param(change(bmi=[float("nan")] * 60), ValueNotFinite, id="nan"),
        pytest.param(
            lambda d: setattr(d, "dataset", "train_party_2"), DatasetNotOwned, id="bobs-dataset"
        ),
        pytest.param(
            lambda d: setattr(d, "dataset", "../../etc"), DatasetNotAsked, id="no-such-dataset"
        ),
        pytest.param(other_passphrase, PassphraseWrong, id="passphrase-wrong"),
        pytest.param(open_permissions, KeyPermissions, id="keys-readable-by-all"),
        pytest.param(
            lambda d: setattr(d, "party", local_party("alice-clinic", NOW, copy=1)),
            AnchorDiffers,
            id="own-id-with-another-key",
        ),
        pytest.param(
            lambda d: (d.state / "studies").rename(d.folder / "gone"), StateMissing, id="no-state"
        ),
    ],
)
def test_something_is_wrong_at_home(
    world: EnclaveWorld,
    alice: Desk,
    relay: Relay,
    spoil: Callable[[Desk], Any],
    leaf: type[RatlsError],
) -> None:
    """S1: refused before any connection; put right, the same task is released."""
    whole = dataclasses.replace(alice)
    task = world.task()
    spoil(alice)
    with alice.refuses(leaf):
        alice.push(task)
    assert relay.connections == []
    if leaf is StateMissing:
        (alice.folder / "gone").rename(alice.state / "studies")
    whole.write(rows(1))
    assert whole.push(task).commit.rows == 60


def test_a_null_is_found_before_anybody_is_connected_to(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    table = rows(1)
    y = table["y"].to_pylist()
    index = table.schema.get_field_index("y")
    alice.write(table.set_column(index, "y", [[None, *y[1:]]]))
    with alice.refuses(ValueNull):
        alice.push(world.task())
    assert relay.connections == []


def altered(task: bytes) -> bytes:
    """Another number of iterations under the same signature."""
    genuine = contents(Task, task).payload
    assert b":500" in genuine
    return task.replace(b64encode(genuine), b64encode(genuine.replace(b":500", b":400")))


@pytest.mark.parametrize(
    ("make", "leaf"),
    [
        pytest.param(lambda w: w.task(lifetime=timedelta(0)), TaskExpired, id="expired"),
        pytest.param(
            lambda w: altered(w.task()), TaskSignatureInvalid, id="parameters-altered-on-the-way"
        ),
        pytest.param(
            lambda w: EnclaveWorld.create(
                expires=f"{NOW + timedelta(9):%Y-%m-%dT%H:%M:%SZ}"
            ).task(),
            PolicyNotAccepted,
            id="for-another-policy",
        ),
    ],
)
def test_the_task_is_not_to_be_believed(
    world: EnclaveWorld,
    alice: Desk,
    relay: Relay,
    make: Callable[[EnclaveWorld], bytes],
    leaf: type[RatlsError],
) -> None:
    """D02, D04: whoever carries the task can delay or drop it, and nothing else (S16)."""
    with alice.refuses(leaf):
        alice.push(make(world))
    assert relay.connections == []


def test_the_task_expires_while_the_rows_are_checked(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """The enclave's host has a clock too, and may have stopped it: the provider looks again."""

    def clock() -> Any:
        return NOW + timedelta(hours=1 if relay.connections else 0)

    with alice.refuses(TaskExpired):
        alice.push(world.task(), clock=clock)
    assert len(relay.connections) == 1
    assert [type(entry) for entry in alice.journal] == [RefusedEntry]


def test_the_policy_ran_out(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    with alice.refuses(PolicyExpired):
        alice.push(world.task(), clock=lambda: NOW + timedelta(days=31))
    assert relay.connections == []


def test_a_provider_that_accepted_a_newer_policy_releases_under_no_older_one(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """A host withholds the newer version from its enclave; what counts is Alice's own state."""
    first = world.complete
    assert alice.push(world.task()).commit.rows == 60
    before = len(relay.connections)
    text = world.consortium.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    second = world.consortium.complete(text, before=first)
    StudyState(alice.state).accept(second.agreement, alice.party, NOW)
    with alice.refuses(PolicyRollback):
        alice.push(world.task())
    assert len(relay.connections) == before


def test_nobody_allowed_a_simulation(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    with alice.refuses(SimulationNotAllowed):
        alice.push(world.task(), allow_simulation=False)
    assert relay.connections == []


def test_a_journal_without_its_end_stops_every_release(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """L06. Cut the reservation off, and the same task could be released to a clone."""
    alice.push(world.task())
    path = alice.state / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    before = len(relay.connections)
    with refused(JournalCut):
        alice.push(world.task())
    assert len(relay.connections) == before


# Refused because of who answers.


@contextmanager
def serving(world: EnclaveWorld, relay: Relay, **quote: Any) -> Iterator[LiveEnclave]:
    """The relay leads to another enclave of the same Intel; `quote` alters its evidence."""
    made: dict[str, Any] = {"mr_enclave": MR_ENCLAVE, "isv_prod_id": 0} | quote
    platform = made.pop("platform", world.intel.platform)
    other = dataclasses.replace(world, attester=PlatformAttester(platform, **made))
    with other.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        yield live


def test_an_enclave_with_other_code(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """The probe is all that it sees: no task, no name, no row; no use of the task is counted."""
    task = world.task()
    with serving(world, relay, mr_enclave=bytes(31) + b"\x01"):
        with alice.refuses(MeasurementNotListed, check="measurement"):
            alice.push(task)
        assert len(relay.connections) == 1
        assert all(type(entry) is RefusedEntry for entry in alice.journal)
    with serving(world, relay):
        assert alice.push(task).commit.rows == 60


def test_the_agreed_code_on_another_machine(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    other = world.intel.with_platform(ppid=b"\x99" * 16).platform
    with serving(world, relay, platform=other), alice.refuses(MachineNotListed, check="machine"):
        alice.push(world.task())
    assert len(relay.connections) == 1


def test_an_enclave_that_serves_another_policy(alice: Desk, relay: Relay) -> None:
    """Same code, same machine, other rules: `policy-hash` is in all its evidence."""
    world = alice.world
    other = world.consortium.complete(
        world.consortium.policy_text(
            replace=[("min_subjects_per_input = 20", "min_subjects_per_input = 21")]
        )
    )
    with (
        serving(dataclasses.replace(world, complete=other), relay),
        alice.refuses(PolicyHashMismatch, check="certificate-claims"),
    ):
        alice.push(world.task())
    assert len(relay.connections) == 1


def test_nobody_listens(world: EnclaveWorld, alice: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with alice.refuses(PeerUnreachable) as seen:
        alice.push(world.task(), address=Address("127.0.0.1", port))
    assert seen.error.exit_status is Exit.PEER


def test_a_port_that_talks_plain_tcp(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example ready\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        relay.point_at(server.getsockname())
        with alice.refuses(HandshakeFailed):
            alice.push(world.task())


def test_a_plain_tls_decoy(world: EnclaveWorld, alice: Desk, relay: Relay, tmp_path: Path) -> None:
    """D01: a task that leads to a rogue endpoint. Its certificate is fine, it proves nothing."""
    party = world.consortium.bob
    (tmp_path / "decoy.pem").write_bytes(party.channel_certificate_pem + party.channel_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "decoy.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with context.wrap_socket(connection, server_side=True) as tls:
                assert tls.recv(1) == b""  # no application byte ever comes

        thread = threading.Thread(target=answer)
        thread.start()
        relay.point_at(server.getsockname())
        with alice.refuses(EvidenceMissing):
            alice.push(world.task())
        thread.join()


def test_the_enclave_restarts_between_probe_and_challenge(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """The network reroutes the next connection to a clone: the pin is on the one certificate."""
    task = world.task()
    with world.running() as other:

        def clock_that_reroutes() -> Any:
            if relay.connections:
                relay.point_at(("127.0.0.1", other.server.port))
            return NOW

        with alice.refuses(CallFailed):
            alice.push(task, clock=clock_that_reroutes)
        assert CANARY.encode() not in sent(relay)
        assert alice.push(task).commit.rows == 60  # nothing was reserved: the clone may have it


# Once.


def test_a_task_is_released_once(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """D03, sequentially; a new task is another matter."""
    task = world.task()
    alice.push(task)
    before = len(relay.connections)
    with alice.refuses(TaskAlreadyReleased):
        alice.push(task)
    assert len(relay.connections) == before
    assert alice.push(world.task()).commit.rows == 60


def test_a_task_is_released_once_at_a_time(world: EnclaveWorld, alice: Desk) -> None:
    """D03, in parallel: a second run begins while rows of the first are leaving."""
    task = world.task()

    def push_again(rows: int, total: int) -> None:
        with refused(ReleaseUnderWay):
            alice.push(task)

    assert alice.push(task, progress=push_again).commit.rows == 60


class Killed(BaseException):
    """Stands for the death of the process: nobody handles it."""


def die(rows: int, total: int) -> None:
    raise Killed


def test_the_provider_dies_in_mid_stream(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """F14: an upload that ended looks complete. Nothing counts, and the next try works."""
    task = world.task()
    with pytest.raises(Killed):
        alice.push(task, progress=die)
    assert "committed" not in [line["event"] for line in live.log]
    assert alice.push(task).commit.rows == 60
    assert [type(e) for e in alice.journal] == [ReservedEntry, CommittedEntry, ReleasedEntry]


CHILD = """
import sys
from pathlib import Path
from ratls.address import Address
from provider.exchange import EnclaveRequest
from provider.release import release
from policy.party import LocalParty
from tests.support.waiting import HANG_LIMIT
from tests.support.parties import PASSPHRASE
from verifier.collateral import Collateral
from verifier.shell import now

task, collateral, party, state, source, address = sys.argv[1:]

def hold(rows, total):
    print("rows are leaving", flush=True)
    sys.stdin.readline()

release(
    EnclaveRequest(
        task=Path(task).read_bytes(), address=Address.parse(address), state=Path(state),
        collateral=Collateral.parse(Path(collateral).read_bytes()),
        party=LocalParty.load(Path(party), PASSPHRASE), allow_simulation=True, timeout=HANG_LIMIT,
        clock=now,
    ),
    "train_party_1", Path(source), progress=hold,
)
"""


def test_the_provider_is_killed_in_mid_stream(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave, tmp_path: Path
) -> None:
    """SIGKILL of a real process: its locks and rows are gone with it, and the next run works."""
    task = world.task()
    (tmp_path / "task").write_bytes(task)
    (tmp_path / "collateral").write_bytes(world.collateral)
    paths = (
        tmp_path / "task",
        tmp_path / "collateral",
        alice.party.folder,
        alice.state,
        alice.path,
    )
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, paths), str(alice.address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "rows are leaving\n"
    child.kill()
    child.communicate()
    assert "committed" not in [line["event"] for line in live.log]
    assert alice.push(task).commit.rows == 60


def test_what_an_earlier_run_left_is_damaged(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """Sent again with another salt, the rows would be refused anyway: better before they leave."""
    task = world.task()
    with pytest.raises(Killed):
        alice.push(task, progress=die)
    before = len(relay.connections)
    spot = alice.state / "releases" / Task.read(task).digest.hex() / "train_party_1"
    for content in (b"", b"{}", b"[]", b'{"commit":"","salt":"","evidence":""}', b'{"commit":1}'):
        (spot / "attempt.json").write_bytes(content)
        with alice.refuses(ReleaseStateDamaged):
            alice.push(task)
    assert len(relay.connections) == before


def test_the_link_is_cut_in_mid_stream(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    task = world.task()
    with alice.refuses(CallFailed):
        alice.push(task, progress=lambda rows, total: relay.cut())
    assert alice.push(task).commit.rows == 60


def test_the_enclave_dies_in_mid_stream(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """D06. The next start, or a clone, is another instance: it must not get this task's rows."""
    task = world.task()
    with pytest.raises(Killed):
        alice.push(task, progress=die)
    with serving(world, relay):
        before = len(relay.connections)
        with alice.refuses(TaskBoundToInstance) as seen:
            alice.push(task)
        assert "new task" in seen.error.fix
        # Under the old certificate, then to see the new one: not even the task was shown.
        assert max(len(one.sent) for one in relay.connections[before:]) < 2048
        assert alice.push(world.task()).commit.rows == 60


def test_the_acknowledgement_is_lost(world: EnclaveWorld, alice: Desk) -> None:
    """The commit counted, and the disk was full when its acknowledgement came: ask again."""
    task = world.task()
    spot = alice.state / "releases" / Task.read(task).digest.hex() / "train_party_1"
    (spot / "acknowledgement.json").mkdir(parents=True)
    with alice.refuses(FileNotWritten):
        alice.push(task)
    (spot / "acknowledgement.json").rmdir()
    done = alice.push(task)
    assert (done.resumed, done.sent.rows) == (True, 0)
    assert isinstance(alice.journal[-1], ReleasedEntry)
    # The record of today's appraisal proves the acknowledgement of yesterday's stream.
    document, record = done.kept.acknowledgement.read_bytes(), done.kept.record.read_bytes()
    verify_with_record(document, record, world.policy, world.expectation.roots)


def test_the_commit_was_kept_and_never_sent(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The enclave does not know the kept commit: its rows, which it kept, get a new one."""
    task = world.task()
    with monkeypatch.context() as patched:
        patched.setattr(ClientExchange, "commit", lambda *_: die(0, 0))
        with pytest.raises(Killed):
            alice.push(task)
    done = alice.push(task)
    assert (done.resumed, done.sent.rows, done.sent.kept) == (False, 0, 60)
    assert [type(e) for e in alice.journal] == [
        ReservedEntry,
        CommittedEntry,
        CommittedEntry,
        ReleasedEntry,
    ]


def test_the_enclave_ends_the_stream_without_an_answer(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a client that does not read its answer, the end of a stream looks like success."""
    task = world.task()
    with monkeypatch.context() as patched, alice.refuses(AnswerMissing):
        patched.setattr(ServerExchange, "acknowledge", lambda self, document: None)
        alice.push(task)
    done = alice.push(task)
    assert (done.resumed, done.commit.rows) == (True, 60)


def test_a_restored_backup_releases_again(world: EnclaveWorld, alice: Desk) -> None:
    """Journal and head from before the release: the enclave still holds the first commit."""
    task = world.task()
    files = [alice.state / "journal.jsonl", alice.state / "journal.head"]
    before = [file.read_bytes() for file in files]
    alice.push(task)
    for file, content in zip(files, before, strict=True):
        file.write_bytes(content)
    (alice.state / "releases").rename(alice.folder / "forgotten")
    with alice.refuses(PeerRefused) as seen:
        alice.push(task)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "another-commit-counts"


def test_the_uses_of_a_computation_run_out(alice: Desk, relay: Relay) -> None:
    """A task counts once its rows may have left, whatever came of it."""
    world = alice.world
    fewer = world.consortium.policy_text(replace=[("uses = 10", "uses = 1")])
    alice.world = other = dataclasses.replace(world, complete=world.consortium.complete(fewer))
    alice.state.rename(alice.folder / "before")
    StudyState(alice.state).accept(other.complete.agreement, alice.party, NOW)
    with other.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        task = other.task()
        with pytest.raises(Killed):
            alice.push(task, progress=die)
        before = len(relay.connections)
        with alice.refuses(UsesExhausted):
            alice.push(other.task())
        assert len(relay.connections) == before
        assert alice.push(task).commit.rows == 60  # the same task is not another use


@pytest.mark.parametrize(
    ("features", "counted"),
    [
        pytest.param('["age", "bmi"]', True, id="the-same"),
        pytest.param('["bmi", "age"]', True, id="in-another-order"),
        pytest.param('["age"]', False, id="other-columns"),
    ],
)
def test_a_second_name_brings_no_new_uses(
    alice: Desk, relay: Relay, features: str, counted: bool
) -> None:
    """R07: the same computation once more in the policy, under another id."""
    world = alice.world
    one = world.consortium.sections()["computation"].replace("uses = 10", "uses = 1")
    one = one.replace(f"features = {world.consortium.features}", 'features = ["age", "bmi"]')
    second = one.replace('id = "train"', 'id = "train_again"')
    second = second.replace('features = ["age", "bmi"]', f"features = {features}")
    text = world.consortium.policy_text(computation=f"{one}\n{second}")
    alice.world = other = dataclasses.replace(world, complete=world.consortium.complete(text))
    alice.state.rename(alice.folder / "before")
    StudyState(alice.state).accept(other.complete.agreement, alice.party, NOW)
    again = Task.new(
        other.policy, "train_again", "carol-lab", at=NOW, parameters={"max_iter": 500}
    ).seal(world.consortium.carol.operation)
    with other.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        assert alice.push(other.task()).commit.rows == 60
        if counted:
            with alice.refuses(UsesExhausted):
                alice.push(again)
        else:
            assert alice.push(again).commit.rows == 60


# What the enclave says about it.


@pytest.fixture(scope="module")
def genuine(world: EnclaveWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A release, and the parts that its acknowledgement is held against."""
    with world.running() as live:
        desk = Desk.of("alice", world, tmp_path_factory.mktemp("genuine"), live.address)
        done = desk.push(world.task())
        attempt = done.kept.attempt()
        assert attempt is not None
        raw = done.kept.acknowledgement.read_bytes()
        yield raw, done.commit, attempt, done.fresh, live.enclave.identity


Genuine = tuple[bytes, Commit, Attempt, Any, Any]


def test_a_genuine_acknowledgement_is_believed(genuine: Genuine) -> None:
    raw, commit, attempt, fresh, _ = genuine
    assert check_acknowledgement(raw, commit, attempt, fresh).rows == commit.rows


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_digest", bytes(32)),
        ("policy_digest", bytes(32)),
        ("instance", bytes(16)),
        ("dataset", "train_party_2"),
        ("provider", "bob-hospital"),
        ("commit_digest", bytes(32)),
        ("rows", 59),
        ("batches", 2),
        ("nonce", bytes(32)),
        ("evidence", b"other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_enclave_acknowledges_something_else(
    genuine: Genuine, field: str, value: object
) -> None:
    """ "OK" for seven batches sent and five read: each field is compared with the own value."""
    raw, commit, attempt, fresh, identity = genuine
    fields = Acknowledgement.open(raw).model_dump() | {field: value}
    forged = Acknowledgement(**fields).seal(identity.receipt_signer)
    with refused(AcknowledgementMismatch):
        check_acknowledgement(forged, commit, attempt, fresh)


def test_somebody_else_signs_the_acknowledgement(genuine: Genuine, world: EnclaveWorld) -> None:
    """The signature holds under the key inside; no evidence vouches for that key."""
    raw, commit, attempt, fresh, _ = genuine
    signer = world.consortium.bob.operation
    fields = Acknowledgement.open(raw).model_dump() | {"receipt_key": signer.public.spki}
    with refused(ReceiptKeyUnbound):
        check_acknowledgement(Acknowledgement(**fields).seal(signer), commit, attempt, fresh)


def test_the_acknowledgement_names_another_connection(genuine: Genuine) -> None:
    raw, commit, attempt, fresh, identity = genuine
    fields = Acknowledgement.open(raw).model_dump() | {"tls_spki": identity.receipt_spki}
    with refused(KeyUnbound):
        check_acknowledgement(
            Acknowledgement(**fields).seal(identity.receipt_signer), commit, attempt, fresh
        )


def test_a_known_certificate_excuses_no_proof(
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence of the first release, shown once to the second. Nothing is tried in silence."""
    kept: list[tuple[bytes, bytes]] = []
    genuine = ServerExchange.send_evidence

    def send(exchange: ServerExchange, evidence: bytes, key: bytes = b"") -> None:
        kept.append((evidence, key))
        genuine(exchange, *(kept[0] if len(kept) == 2 else kept[-1]))

    monkeypatch.setattr(ServerExchange, "send_evidence", send)
    assert alice.push(world.task()).commit.rows == 60
    before = len(relay.connections)
    with alice.refuses(TaskHashMismatch, check="challenge-claims"):
        alice.push(world.task())
    assert len(relay.connections) == before + 1
    assert alice.push(world.task()).commit.rows == 60
