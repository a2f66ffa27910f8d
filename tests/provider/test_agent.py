"""An agent alone at night: what it is offered, what breaks, and what it does about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.admission import MeasurementNotListed
from policy.errors import PartyNotListed
from policy.journal import JournalNotWritten
from policy.journal_chain import JournalCut
from policy.journal_entries import CommittedEntry, RefusedEntry, ReleasedEntry, ReservedEntry
from policy.keys import PassphraseWrong
from policy.rows import ValueNotFinite
from policy.signing import AnchorDiffers
from policy.state import StateMissing, StudyState
from policy.task import Task, TaskExpired
from provider.agent import may_try_again
from provider.agent_config import AgentConfig
from provider.agent_tasks import AgentRunning, TaskReleaser
from provider.errors import TaskBoundToInstance
from provider.release_state import ReleaseUnderWay
from provider.sending import may_mend
from provider.sources.sql import SourceUnreachable
from ratls.address import PeerUnreachable
from ratls.client_call import AnswerMissing
from ratls.client_stream import ClientExchange
from ratls.errors import CallFailed, DeadlineExceeded
from ratls.peer_refusal import PeerRefused
from ratls.probe import HandshakeFailed
from scheduler.client import SchedulerBusy, SchedulerRefused, SchedulerUnreachable
from scheduler.queued_task import State
from tests.provider.agents import ENCLAVE, configure, offer, stationed
from tests.provider.desk import CANARY, Desk
from tests.provider.test_release import serving
from tests.support.documents import contents
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.parties import local_party
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT
from verifier.backoff import Backoff
from verifier.errors import Exit, RatlsError
from verifier.modes import SimulationNotAllowed
from verifier.validity import CollateralNotCurrent

pytestmark = pytest.mark.slow


def test_a_task_is_released_to_and_reported(world: EnclaveWorld, alice: Desk) -> None:
    task = world.task()
    with stationed(alice) as agent:
        agent.take(task)
    assert agent.said == ["released"]
    assert agent.reports == [(Task.read(task).digest, "train_party_1", State.RELEASED, "")]
    assert agent.agent.worst is Exit.YES
    assert [type(e) for e in alice.journal] == [ReservedEntry, CommittedEntry, ReleasedEntry]


def test_a_line_for_machines_and_one_for_people(world: EnclaveWorld, alice: Desk) -> None:
    with stationed(alice) as agent:
        agent.take(world.task())
    (line,) = agent.lines
    told = line.as_json()
    assert (told["event"], told["rows"], told["mode"]) == ("released", 60, "simulation")
    assert Path(told["acknowledgement"]).is_file()
    assert "\n" not in line.text()
    assert f"60 rows to {ENCLAVE}" in line.text()
    assert CANARY not in line.text() + str(told)


# Offered again and again, forged, or for somebody else.


def test_a_task_is_offered_a_hundred_times(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """D03. A scheduler repeats itself, invents states and digests: rows leave once."""
    task = world.task()
    with stationed(alice) as agent:
        agent.take(task)
        connections = len(relay.connections)
        for n in range(100):
            states = {
                "train_party_1": [(State.WAITING, ""), (State.REFUSED, "task-expired")][n % 2]
            }
            agent.agent.offer(offer(task, digest=bytes([n]) * 32, **states))
        agent.work()
    assert len(relay.connections) == connections
    assert agent.said == ["released"]
    assert agent.verdicts == ["released"]  # once: a report that wakes us must not loop


@pytest.mark.parametrize("state", [(State.RELEASED, ""), (State.REFUSED, "task-expired")])
def test_a_scheduler_says_that_it_was_done(
    world: EnclaveWorld, alice: Desk, state: tuple[State, str]
) -> None:
    """D09. Its word about a task neither releases rows nor keeps them."""
    with stationed(alice) as agent:
        agent.agent.offer(offer(world.task(), train_party_1=state))
        agent.work()
    assert agent.said == ["released"]


def test_a_task_is_offered_to_the_next_process(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """D03. The journal remembers; the report that was lost is made again."""
    task = world.task()
    with stationed(alice) as agent:
        agent.take(task)
        before = len(alice.journal), len(relay.connections)
        again = agent.start().take(task)
    assert (len(alice.journal), len(relay.connections)) == before
    assert again.said == ["released"]
    assert again.verdicts == ["released", "released"]


def test_the_same_task_comes_in_a_second_envelope(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """Other bytes around the same payload: the digest of the task counts, not of the envelope."""
    task = world.task()
    with stationed(alice) as agent:
        agent.agent.offer(offer(task))
        agent.agent.offer(offer(task.replace(b'":"', b'": "', 1)))
        agent.work()
    assert agent.said[0] == "released"
    assert sum(isinstance(e, ReleasedEntry) for e in alice.journal) == 1
    assert "released" in agent.verdicts


def expired(world: EnclaveWorld) -> bytes:
    return world.task(at=NOW - timedelta(hours=3))


def from_tomorrow(world: EnclaveWorld) -> bytes:
    return world.task(at=NOW + timedelta(hours=1))


def signed_by_alice(world: EnclaveWorld) -> bytes:
    return contents(Task, world.task()).seal(world.consortium.alice.operation)


def of_another_policy(world: EnclaveWorld) -> bytes:
    task = contents(Task, world.task()).model_copy(update={"policy_digest": bytes(32)})
    return Task(**task.model_dump()).seal(world.consortium.carol.operation)


def altered(world: EnclaveWorld) -> bytes:
    """D02: another number of iterations under the same signature."""
    from base64 import b64encode

    raw, task = world.task(), contents(Task, world.task())
    other = Task(**task.model_dump() | {"parameters": {"max_iter": 5000}})
    payload = b64encode(contents(Task, raw).payload)
    assert payload in raw
    return raw.replace(payload, b64encode(other.payload))


@pytest.mark.parametrize(
    ("made", "code", "journalled"),
    [
        pytest.param(signed_by_alice, "signer-unknown", False, id="not-by-its-submitter"),
        pytest.param(altered, "task-signature-invalid", False, id="altered"),
        pytest.param(of_another_policy, "policy-not-accepted", False, id="policy-never-accepted"),
        pytest.param(expired, "task-expired", True, id="expired"),
        pytest.param(from_tomorrow, "task-not-yet-valid", True, id="issued-in-an-hour"),
    ],
)
def test_a_task_that_is_not_to_be_believed(
    world: EnclaveWorld,
    alice: Desk,
    relay: Relay,
    made: Callable[[EnclaveWorld], bytes],
    code: str,
    journalled: bool,
) -> None:
    """Refused without a connection. What a party of ours signed is journalled; a stranger who
    runs the scheduler must not be able to fill the disk."""
    count_refusal()
    with stationed(alice) as agent:
        agent.take(made(world))
        assert agent.said == [f"refused {code}"]
        assert agent.verdicts == [f"refused {code}"]
        assert agent.agent.worst is Exit.NOT_ADMITTED
        assert relay.connections == []
        assert [e.code for e in alice.journal if isinstance(e, RefusedEntry)] == [code] * journalled
        agent.take(world.task())
    assert agent.said[1:] == ["released"]


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00" * 100, b'{"payload":1}', b"[" * 9999])
def test_something_that_is_no_task(world: EnclaveWorld, alice: Desk, raw: bytes) -> None:
    """Said once, reported to nobody, kept nowhere; the next task is served."""
    count_refusal()
    with stationed(alice) as agent:
        agent.agent.offer(offer(raw, digest=b"d" * 32))
        agent.agent.offer(offer(raw, digest=b"e" * 32))
        agent.take(world.task())
    assert [x.event.value for x in agent.lines] == ["refused", "released"]
    assert agent.verdicts == ["released"]


def test_a_flood_of_forged_tasks(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """D11, at the agent: nothing of it reaches the disk, and the honest task is served."""
    count_refusal()
    signed = contents(Task, world.task())
    forged = [
        Task(**signed.model_dump() | {"id": f"{n:032x}"}).seal(world.consortium.bob.operation)
        for n in range(200)
    ]
    with stationed(alice) as agent:
        agent.take(*forged[:100], world.task(), *forged[100:])
    assert agent.said.count("released") == 1
    assert agent.said.count("refused signer-unknown") == 200
    assert [type(e) for e in alice.journal] == [ReservedEntry, CommittedEntry, ReleasedEntry]


def test_more_tasks_than_are_remembered(
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D11, D03. Memory is bounded; the journal is what keeps a forgotten task from a second run."""
    monkeypatch.setattr("provider.agent._REMEMBERED", 2)
    tasks = [world.task() for _ in range(4)]
    with stationed(alice) as agent:
        agent.take(*tasks)
        connections = len(relay.connections)
        agent.take(*tasks)
    assert agent.said == ["released"] * 4
    assert len(relay.connections) == connections


def test_a_task_of_another_study_is_not_ours(world: EnclaveWorld, alice: Desk) -> None:
    """Another agent's business, though its dataset has the same name: not a line, not a row."""
    text = world.consortium.policy_text(study='"another-study"')
    other = world.consortium.complete(text)
    StudyState(alice.state).accept(other.agreement, alice.party, NOW)
    task = dataclasses.replace(world, complete=other).task()
    with stationed(alice) as agent:
        agent.take(task)
    assert (agent.said, agent.reports, alice.journal) == ([], [], [])


def test_an_agent_of_a_party_without_rows(world: EnclaveWorld, carol: Desk) -> None:
    with stationed(carol) as agent:
        agent.take(world.task())
    assert (agent.said, agent.reports) == ([], [])


# Something is wrong at home.


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('id = "train_party_1"', 'id = "train_party_9"', "dataset-not-configured"),
        (f'name = "{ENCLAVE}"', 'name = "another"', "enclave-not-configured"),
        ('collateral = "collateral.json"', 'collateral = "none.json"', "file-unreadable"),
        ('collateral = "collateral.json"', 'collateral = "ratls.toml"', "collateral-malformed"),
        ('path = "rows.parquet"', 'path = "none.parquet"', "source-unreadable"),
    ],
)
def test_a_configuration_that_leads_nowhere(
    world: EnclaveWorld, alice: Desk, relay: Relay, old: str, new: str, code: str
) -> None:
    """Unusable here, so refused here: journalled, reported, never tried again by this process."""
    count_refusal()
    task = world.task()
    with stationed(alice, replace=((old, new),)) as agent:
        agent.take(task, task)
        assert agent.agent.due_in() is None
    assert agent.said == [f"refused {code}"]
    assert agent.verdicts == [f"refused {code}"]
    assert agent.agent.worst is Exit.UNUSABLE
    assert relay.connections == []
    (entry,) = alice.journal
    assert isinstance(entry, RefusedEntry)
    assert (entry.code, entry.dataset) == (code, "train_party_1")
    with stationed(alice) as agent:
        assert agent.take(task).said == ["released"]


def test_rows_that_the_policy_does_not_allow(world: EnclaveWorld, alice: Desk) -> None:
    """The next process tries again: somebody may have put the file right meanwhile."""
    count_refusal()
    task = world.task()
    alice.write(rows(1, bmi=[float("nan")] * 60))
    with stationed(alice) as agent:
        assert agent.take(task).said == [f"refused {ValueNotFinite.code}"]
        alice.write(rows(1))
        assert agent.take(task).said == [f"refused {ValueNotFinite.code}"]
        assert agent.start().take(task).said[1:] == ["released"]
    assert agent.verdicts == [f"refused {ValueNotFinite.code}", "released"]


def starting(desk: Desk, **options: Any) -> None:
    config = AgentConfig.read(configure(desk))
    settings: dict[str, Any] = {
        "allow_simulation": True,
        "timeout": HANG_LIMIT,
        "clock": lambda: NOW,
    } | options
    with TaskReleaser.open(config, **settings):
        return


def test_two_agents(world: EnclaveWorld, alice: Desk) -> None:
    """Both would decide about each task; the second says so instead of racing."""
    with stationed(alice), refused(AgentRunning) as seen:
        starting(alice)
    assert seen.error.exit_status is Exit.UNUSABLE
    starting(alice)


@pytest.mark.parametrize(
    ("spoil", "leaf"),
    [
        pytest.param(
            lambda d: (d.state / "studies").rename(d.folder / "gone"), StateMissing, id="no-state"
        ),
        pytest.param(
            lambda d: setattr(d, "party", local_party("alice-clinic", NOW, copy=1)),
            AnchorDiffers,
            id="own-id-with-another-key",
        ),
        pytest.param(
            lambda d: setattr(d, "party", local_party("mallory", NOW)),
            PartyNotListed,
            id="party-outside-the-policy",
        ),
    ],
)
def test_an_agent_that_cannot_start(
    alice: Desk, spoil: Callable[[Desk], object], leaf: type[RatlsError]
) -> None:
    """D07 among them: somebody who is no party. Said at once, not with the first task at night."""
    starting(alice)
    spoil(alice)
    with refused(leaf):
        starting(alice)


def test_a_wrong_passphrase_is_found_at_the_start(alice: Desk) -> None:
    config = AgentConfig.read(configure(alice))
    config.passphrase_file.write_text("a guess")
    with (
        refused(PassphraseWrong),
        TaskReleaser.open(config, allow_simulation=True, timeout=HANG_LIMIT, clock=lambda: NOW),
    ):
        pass


def test_nobody_allowed_a_simulation(alice: Desk) -> None:
    """The third lock is on the command line, and no file opens it."""
    with refused(SimulationNotAllowed):
        starting(alice, allow_simulation=False)
    starting(alice)


# What may be tried again, and what not.


def test_the_enclave_is_away_and_comes_back(
    world: EnclaveWorld, alice: Desk, relay: Relay, live: LiveEnclave, nowhere: tuple[str, int]
) -> None:
    """Later and later, with one line each; nothing is reported before something is decided."""
    count_refusal()
    port = live.server.port
    relay.point_at(nowhere)
    with stationed(alice) as agent:
        agent.take(world.task())
        waits = []
        for _ in range(5):
            waits.append(agent.wait())
            agent.work()
        assert waits == sorted(waits)
        assert waits[-1] > 8 * waits[0]
        assert {x.event.value for x in agent.lines} == {"later"}
        assert agent.reports == []
        relay.point_at(("127.0.0.1", port))
        agent.wait()
        agent.work()
    assert agent.said[-1] == "released"
    assert agent.verdicts == ["released"]


def test_an_enclave_that_is_away_is_asked_once_for_all_tasks(
    world: EnclaveWorld, alice: Desk, relay: Relay, live: LiveEnclave, nowhere: tuple[str, int]
) -> None:
    """Else each of a thousand tasks would read all rows again, each time, in vain."""
    count_refusal()
    port = live.server.port
    relay.point_at(nowhere)
    with stationed(alice) as agent:
        agent.take(*(world.task() for _ in range(5)))
        assert len(relay.connections) == 1
        agent.wait()
        agent.work()
        assert len(relay.connections) == 2
        relay.point_at(("127.0.0.1", port))
        while agent.agent.due_in() is not None:
            agent.wait()
            agent.work()
    assert agent.said.count("released") == 5


def test_a_link_that_breaks_among_the_rows(
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try reserved the instance; the second goes there and nowhere else."""
    monkeypatch.setattr("provider.sending.WAITS", (0.0, None))
    with stationed(alice) as agent, cut_links(relay, 2):
        agent.take(world.task())
        agent.wait()
        agent.work()
    assert [x.event.value for x in agent.lines] == ["later", "released"]


def test_a_link_that_breaks_once_among_the_rows(
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same release goes on, and nobody has to come back later."""
    monkeypatch.setattr("provider.sending.WAITS", (0.0, None))
    with stationed(alice) as agent, cut_links(relay, 1):
        agent.take(world.task())
    assert [x.event.value for x in agent.lines] == ["released"]


@contextmanager
def cut_links(relay: Relay, times: int) -> Iterator[None]:
    """The link breaks before each of so many chunks."""
    send, left = ClientExchange.send_sealed, [times]

    def cutting(exchange: ClientExchange, *chunk: Any, **said: Any) -> None:
        if left[0]:
            left[0] -= 1
            relay.cut()
        send(exchange, *chunk, **said)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ClientExchange, "send_sealed", cutting)
        yield


def test_a_clone_answers_the_second_try(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """D06. Two clones of one enclave, and a link that breaks: the second gets no row."""
    count_refusal()
    task = world.task()
    with stationed(alice) as agent, pytest.MonkeyPatch.context() as patched:
        patched.setattr(ClientExchange, "send_sealed", broken)
        patched.setattr("provider.sending.WAITS", (0.0, None))
        agent.take(task)
        patched.undo()
        with serving(world, relay):
            agent.wait()
            agent.work()
    assert agent.said == ["later call-failed", f"refused {TaskBoundToInstance.code}"]
    assert agent.verdicts == [f"refused {TaskBoundToInstance.code}"]
    assert CANARY.encode() not in b"".join(bytes(c.sent) for c in relay.connections)


def broken(*_: object, **said: object) -> None:
    raise CallFailed("stream", expected="a link", found="none")


def test_another_enclave_is_refused_and_not_tried_again(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    count_refusal()
    with serving(world, relay, mr_enclave=bytes(31) + b"\x01"), stationed(alice) as agent:
        agent.take(world.task())
        assert agent.agent.due_in() is None
    assert agent.said == [f"refused {MeasurementNotListed.code}"]
    assert "to do:" in agent.lines[0].text()
    assert agent.agent.worst is Exit.NOT_ADMITTED


def test_a_task_expires_while_the_enclave_is_away(
    world: EnclaveWorld, alice: Desk, relay: Relay, nowhere: tuple[str, int]
) -> None:
    count_refusal()
    relay.point_at(nowhere)
    now = [NOW]
    with stationed(alice, clock=lambda: now[0]) as agent:
        agent.take(world.task())
        now[0] += timedelta(hours=2)
        agent.wait()
        agent.work()
        assert agent.agent.due_in() is None
    assert agent.said[1:] == [f"refused {TaskExpired.code}"]


@pytest.mark.parametrize("hours", [-25, -2, 2, 24 * 40])
def test_a_clock_that_is_wrong(world: EnclaveWorld, alice: Desk, relay: Relay, hours: int) -> None:
    """Nothing is believed by a clock outside the windows, and the line says which way to look."""
    count_refusal()
    task = world.task()
    with stationed(alice, clock=lambda: NOW + timedelta(hours=hours)) as agent:
        agent.take(task)
    wrong = {-25: "policy-not-yet-valid", -2: "task-not-yet-valid", 2: "task-expired"}
    assert agent.said == [f"refused {wrong.get(hours, 'policy-expired')}"]
    assert relay.connections == []
    with stationed(alice) as agent:
        assert agent.take(task).said == ["released"]


def plain(leaf: type[RatlsError]) -> RatlsError:
    return leaf("thing", expected="one", found="another")


@pytest.mark.parametrize(
    "refusal",
    [
        *map(plain, (PeerUnreachable, HandshakeFailed, CallFailed, DeadlineExceeded)),
        *map(plain, (AnswerMissing, CollateralNotCurrent, ReleaseUnderWay, SourceUnreachable)),
        PeerRefused(peer_code="memory-exhausted", correlation_id="0" * 16),
    ],
    ids=lambda refusal: refusal.code,
)
def test_what_is_undecided_may_be_tried_again(refusal: RatlsError) -> None:
    assert may_try_again(refusal)


@pytest.mark.parametrize(
    "refusal",
    [
        *map(plain, (MeasurementNotListed, TaskBoundToInstance, TaskExpired, ValueNotFinite)),
        *map(plain, (JournalCut, StateMissing, PassphraseWrong)),
        PeerRefused(peer_code="task-expired", correlation_id="0" * 16),
        PeerRefused(peer_code="internal", correlation_id="0" * 16),
    ],
    ids=lambda refusal: refusal.code,
)
def test_what_is_decided_is_not_tried_again(refusal: RatlsError) -> None:
    """A second try of a refusal would only give whoever caused it a second chance."""
    count_refusal()
    assert not may_try_again(refusal)


def test_waits_double_up_to_a_limit_and_never_agree() -> None:
    """Providers that start together must not come back together."""
    backoff = Backoff(first=1, most=300)
    assert [backoff.seconds(n, lambda: 1.0) for n in (0, 1, 2, 3)] == [1, 2, 4, 8]
    assert backoff.seconds(0, lambda: 0.0) == 0.5
    assert backoff.seconds(10_000, lambda: 1.0) == 300


# `--once`.


def test_once_gives_each_task_one_try(
    world: EnclaveWorld, alice: Desk, relay: Relay, live: LiveEnclave, nowhere: tuple[str, int]
) -> None:
    """For cron, which comes again: what was not decided is not reported either."""
    count_refusal()
    task = world.task()
    relay.point_at(nowhere)
    with stationed(alice, persistent=False) as agent:
        agent.take(task)
        assert agent.agent.due_in() is None
        assert [x.event.value for x in agent.lines] == ["later"]
        assert (agent.reports, agent.agent.worst) == ([], Exit.PEER)
        relay.point_at(("127.0.0.1", live.server.port))
        assert agent.start(persistent=False).take(task).said[1:] == ["released"]
        assert agent.agent.worst is Exit.YES


def test_the_worst_status_of_several_tasks(
    world: EnclaveWorld, alice: Desk, relay: Relay, nowhere: tuple[str, int]
) -> None:
    """Not admitted outranks a peer that is away, whichever came last."""
    count_refusal()
    relay.point_at(nowhere)
    with stationed(alice, persistent=False) as agent:
        agent.take(world.task())
        seen = [agent.agent.worst]
        for task in (expired(world), world.task()):
            agent.take(task)
            seen.append(agent.agent.worst)
    assert seen == [Exit.PEER, Exit.NOT_ADMITTED, Exit.NOT_ADMITTED]


# The journal and the scheduler fail.


def test_a_disk_that_is_full(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be recorded does not happen, and the agent ends rather than guess."""

    def full(*_: object) -> None:
        raise JournalNotWritten("journal", expected="room", found="none")

    task = world.task()
    with stationed(alice) as agent:
        with monkeypatch.context() as patched, refused(JournalNotWritten):
            patched.setattr("policy.journal._append_durably", full)
            agent.take(task)
        assert (agent.said, agent.reports) == ([], [])
        assert agent.start().take(task).said == ["released"]


def test_a_journal_without_its_end(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """L06: not a refusal of this task, but the end of all decisions."""
    with stationed(alice) as agent:
        agent.take(world.task())
        journal = alice.state / "journal.jsonl"
        kept = journal.read_bytes()
        journal.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
        before = len(relay.connections)
        with refused(JournalCut):
            agent.take(world.task())
        assert len(relay.connections) == before
        journal.write_bytes(kept)
        assert agent.start().take(world.task()).said == ["released", "released"]


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(plain(SchedulerUnreachable), 3), (plain(SchedulerBusy), 3), (plain(DeadlineExceeded), 3),
     (SchedulerRefused(peer_code="task-not-queued", correlation_id="0" * 16), 1)],
    ids=lambda value: getattr(value, "code", ""),
)  # fmt: skip
def test_a_report_that_does_not_arrive(
    world: EnclaveWorld, alice: Desk, failure: RatlsError, tries: int
) -> None:
    """The rows have left or not, whoever knows of it: the report waits, the decision stands."""
    count_refusal()
    told: list[State] = []

    def report(digest: bytes, dataset: str, state: State, code: str, instance: bytes) -> None:
        told.append(state)
        if len(told) < 3:
            raise failure

    with stationed(alice, report=report) as agent:
        agent.take(world.task())
        while agent.agent.due_in() is not None:
            agent.wait()
            agent.work()
    assert told == [State.RELEASED] * tries
    assert agent.said[0] == "released"
    assert {x.event.value for x in agent.lines[1:]} == {"not-reported"}


def test_a_scheduler_that_forgot_what_it_was_told(world: EnclaveWorld, alice: Desk) -> None:
    """A refusal that it does not show is said again by the next process; a release stands."""
    count_refusal()
    task = expired(world)
    refusal = (State.REFUSED, "task-expired")
    with stationed(alice) as agent:
        agent.take(task)
        agent.agent.offer(offer(task, train_party_1=refusal))
        agent.agent.offer(offer(task, train_party_1=(State.RELEASED, "")))
        agent.work()
    assert agent.verdicts == ["refused task-expired"]


@pytest.mark.parametrize("code", ["too-many-challenges", "exchanges-exhausted"])
def test_what_was_too_much_at_once_is_tried_again(code: str) -> None:
    count_refusal()
    told = PeerRefused(peer_code=code, correlation_id="0" * 16)
    assert may_mend(told)
    assert may_try_again(told)
    told = PeerRefused(peer_code="party-withdrew", correlation_id="0" * 16)
    assert not may_mend(told)
    assert not may_try_again(told)
