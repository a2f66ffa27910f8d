"""Owners train at home and meet in rounds: what they learn, keep and refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from policy.journal import Journal
from policy.journal_chain import JournalCut
from policy.journal_entries import ReservedEntry, UpdatedEntry
from policy.receipt import ReceiptSignatureInvalid
from policy.round_receipt import RoundsMissing
from policy.rounds import RowsNotAsked
from policy.state import StudyState
from policy.task import Task
from provider.agent_config import AgentConfig
from provider.agent_tasks import TaskReleaser
from provider.budget import Asked, left
from provider.errors import TaskBoundToInstance
from provider.full_check import PersonsTooFew
from provider.release_state import ReleaseStateDamaged, ReleaseUnderWay
from provider.round_folder import RoundFolder, Signed
from provider.rounds import ProgramNeeded, RoundAnswerMismatch, TookPart, take_part
from provider.training import ProgramTrainer, TrainingDiverged, read_model
from ratls.cli import build
from ratls.client_rounds import Handed, RoundCall
from ratls.offline import verify_rounds
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.parties import known_digest
from tests.support.refusal import count_refusal, refused
from tests.support.rounds import AT_ONCE, LOGISTIC, OWNERS_OF, Rounds, asked, round_world
from tests.support.waiting import HANG_LIMIT

import pyarrow as pa  # isort: skip - after tests.support.enclave, which prepares the process
import pyarrow.parquet as pq  # isort: skip

pytestmark = pytest.mark.slow


def clinic(seed: int, count: int = 400) -> pa.Table:
    """One owner's patients; each clinic has older or younger ones."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20 + 5 * seed, 70 + 5 * seed, count)
    bmi = rng.normal(27, 6, count).clip(10, 60)
    ill = (age / 10 + bmi / 3 + rng.normal(0, 1.5, count) > 14.5).astype(np.int64)
    names = [f"patient-{seed}-{i:05d}" for i in range(count)]
    table = pa.table({"patient": names, "age": age, "bmi": bmi, "y": ill})
    return table.cast(pa.schema([f.with_nullable(False) for f in table.schema]))


def desk(live: LiveEnclave, folder: Path, dataset: str, table: pa.Table) -> Desk:
    world = live.world
    party = world.consortium.parties[OWNERS_OF[dataset]]
    made = Desk(world, folder / party.party_id, live.address, party, dataset)
    made.folder.mkdir()
    pq.write_table(table, made.path)
    StudyState(made.state).accept(world.complete.agreement, party, NOW)
    return made


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Each in a thread of its own; what they gave, or the first error."""
    found: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        try:
            found[place] = jobs[place]()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_LIMIT)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture(scope="module")
def agreed() -> EnclaveWorld:
    model = LOGISTIC | {"rounds": "12", "epochs": "4", "learning_rate": "0.3"}
    return round_world(**model)


@pytest.fixture
def live(agreed: EnclaveWorld) -> Iterator[LiveEnclave]:
    with agreed.running() as live:
        yield live


def test_three_parties_reach_the_accuracy_of_the_pooled_model(
    live: LiveEnclave, tmp_path: Path
) -> None:
    tables = {name: clinic(number) for number, name in enumerate(OWNERS_OF, 1)}
    desks = [desk(live, tmp_path, name, table) for name, table in tables.items()]
    task = asked(live.world)
    done: list[TookPart] = at_once(
        *(lambda d=d: take_part(d.request(task), d.dataset, d.path) for d in desks)
    )
    assert [d.counted for d in done] == [tuple(range(1, 13))] * 3
    assert len({d.digest for d in done}) == 1
    carol = live.world.consortium.carol
    told = json.loads(live.opened(carol, task, live.collect(carol, task)))["model"]
    pooled = pa.concat_tables(tables.values())
    matrix = np.column_stack([pooled[name].to_numpy() for name in ("age", "bmi")])
    target = pooled["y"].to_numpy()
    ours = (matrix @ np.array(told["coefficients"]) + told["intercept"] > 0) == target
    theirs = LogisticRegression(max_iter=1000).fit(matrix, target).score(matrix, target)
    print(ours.mean(), theirs)
    assert ours.mean() >= theirs - 0.005
    entries = desks[0].journal
    assert [type(e) for e in entries] == [ReservedEntry] + [UpdatedEntry] * 12


# One party, step by step: two others answer from the test.


VECTOR_WORLD = round_world()
ONE = np.ones(5, np.float32)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program takes a second to start; `tests/provider/test_training.py` runs some."""
    first = np.array([1, 0, 0, 0, 0], np.float32)
    monkeypatch.setattr(ProgramTrainer, "train", lambda self, number, model: model + first)


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Steps]:
    with VECTOR_WORLD.running(limits=AT_ONCE) as live:
        yield Steps(live, tmp_path)


class Steps:
    """Alice takes part with a program; Bob and Dora send ones whenever she has sent hers."""

    def __init__(self, live: LiveEnclave, folder: Path) -> None:
        self.live, self.rounds = live, Rounds(live, asked(live.world))
        self.alice = desk(live, folder, "train_party_1", clinic(1, 40))

    def others(self) -> None:
        for name in ("bob-hospital", "dora-clinic"):
            self.rounds.bring(name, self.rounds.ask(name).open, ONE)

    def killed(self) -> None:
        """Her process ends right after her first update was counted."""

        class Killed(Exception):
            pass

        def kill(seconds: float) -> None:
            raise Killed

        with pytest.raises(Killed):
            self.take_part(pause=kill)

    def take_part(self, **changed: Any) -> TookPart:
        """While she waits for the others, they come."""
        pauses = {"pause": lambda seconds: self.others()} | changed
        return take_part(
            self.alice.request(self.rounds.task, **pauses),
            "train_party_1",
            self.alice.path,
            program=Path("unused"),
        )


def test_every_receipt_is_kept_and_judged_offline(steps: Steps) -> None:
    """And the chain is judged offline, with what the party recorded that day."""
    done = steps.take_part()
    assert done.counted == (1, 2)
    np.testing.assert_allclose(done.model, [2, 4 / 3, 4 / 3, 4 / 3, 4 / 3], rtol=1e-5)
    folder, policy = done.kept.folder, steps.live.world.policy
    files = [
        (path.read_bytes(), path.with_name(path.name.replace("receipt", "record")).read_bytes())
        for path in sorted(folder.glob("*.receipt.json"))
    ]
    judged = verify_rounds(files, policy, steps.live.world.intel.intel.anchors())
    assert [d.document.round for d, _ in judged] == [1, 2]
    with refused(RoundsMissing):
        verify_rounds(files[1:], policy, steps.live.world.intel.intel.anchors())
    with refused(ReceiptSignatureInvalid):
        envelope = json.loads(files[0][0])
        other = json.loads(files[1][0])["signatures"]
        envelope["signatures"] = other
        raw = json.dumps(envelope).encode()
        verify_rounds([(raw, files[0][1])], policy, steps.live.world.intel.intel.anchors())
    assert read_model(steps.rounds.series, done.kept.model.read_bytes()).tolist() == [
        *done.model.tolist()
    ]


def test_a_party_that_ended_in_the_middle_goes_on(steps: Steps) -> None:
    """Killed after its update was counted: the next run sends nothing for that round again."""
    steps.killed()
    steps.others()
    done = steps.take_part()
    assert done.counted == (1, 2)
    updated = [e.round for e in steps.alice.journal if isinstance(e, UpdatedEntry)]
    assert updated == [1, 2]
    assert sum(isinstance(e, ReservedEntry) for e in steps.alice.journal) == 1


def test_a_party_that_was_away_gets_the_receipts_that_it_missed(tmp_path: Path) -> None:
    """At its deadline the round closed without it; it goes on from the model of the others."""
    world = round_world(4, rounds="3")
    now = [0.0]
    with world.running(limits=AT_ONCE, seconds=lambda: now[0]) as live:
        steps = Steps(live, tmp_path)
        others = ("bob-hospital", "dora-clinic", "emil-clinic")

        def bring() -> None:
            for name in others:
                steps.rounds.bring(name, steps.rounds.ask(name).open, ONE)

        bring()
        now[0] += 60
        done = steps.take_part(pause=lambda seconds: bring())
        assert done.counted == (2, 3)
        receipts = sorted(path.name for path in done.kept.folder.glob("*.receipt.json"))
        assert receipts == [f"round-000{n}.receipt.json" for n in (1, 2, 3)]


def test_a_party_that_is_too_late_for_a_round_trains_from_the_next_model(
    tmp_path: Path,
) -> None:
    """Its program took longer than the round: what it trained is not sent for another one."""
    world = round_world(4, rounds="2")
    now = [0.0]
    with world.running(limits=AT_ONCE, seconds=lambda: now[0]) as live:
        steps = Steps(live, tmp_path)
        slow = ProgramTrainer.train
        others = ("bob-hospital", "dora-clinic", "emil-clinic")

        def bring() -> None:
            for name in others:
                steps.rounds.bring(name, steps.rounds.ask(name).open, ONE)

        def train(self: ProgramTrainer, number: int, model: Any) -> Any:
            if number == 1:
                bring()
                now[0] += 60
            return slow(self, number, model)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ProgramTrainer, "train", train)
            done = steps.take_part(pause=lambda seconds: bring())
        assert done.counted == (2,)


def tampered(change: Callable[[Handed], Handed]) -> Callable[[RoundCall], Handed | None]:
    honest = RoundCall.answer

    def answer(self: RoundCall) -> Handed | None:
        handed = honest(self)
        return handed if handed is None or not handed.number else change(handed)

    return answer


@pytest.mark.parametrize(
    "change",
    [
        lambda h: replace(h, plaintext=h.plaintext[:-1] + b"\x41"),
        lambda h: replace(h, plaintext=bytes(32) + h.plaintext[32:]),
        lambda h: replace(h, number=h.number + 1),
        lambda h: replace(h, receipts=()),
        lambda h: replace(h, receipts=h.receipts * 2),
    ],
    ids=["numbers", "salt", "number", "no-receipt", "twice"],
)
def test_a_model_that_is_not_the_one_of_its_receipt(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, change: Callable[[Handed], Handed]
) -> None:
    """An enclave that is not the agreed one could hand each party a model of its own."""
    monkeypatch.setattr(RoundCall, "answer", tampered(change))
    with steps.alice.refuses(RoundAnswerMismatch):
        steps.take_part()


def test_a_start_that_is_not_zero(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RoundCall.answer
    monkeypatch.setattr(
        RoundCall,
        "answer",
        lambda self: replace(h := honest(self), plaintext=h.plaintext[:32] + ONE.tobytes()),
    )
    with steps.alice.refuses(RoundAnswerMismatch):
        steps.take_part()


def test_a_receipt_of_an_update_that_was_never_signed(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The enclave, or who has its key, says that something else of this party counted."""

    def forget(handed: Handed) -> Handed:
        folder = next((steps.alice.state / "rounds").glob("*/*"))
        RoundFolder(folder).keep_signed(Signed(1, ()))
        return handed

    monkeypatch.setattr(RoundCall, "answer", tampered(forget))
    with steps.alice.refuses(RoundAnswerMismatch):
        steps.take_part()


def test_two_processes_for_one_dataset(steps: Steps) -> None:
    """They could sign two updates for one round."""
    task = Task.read(steps.rounds.task).digest
    with (
        RoundFolder.open(steps.alice.state, task, "train_party_1"),
        steps.alice.refuses(ReleaseUnderWay),
    ):
        steps.take_part()
    assert steps.take_part().counted == (1, 2)


def test_a_damaged_note_of_what_was_signed(steps: Steps) -> None:
    done = steps.take_part()
    (done.kept.folder / "signed.json").write_text('{"round": 1}')
    with steps.alice.refuses(ReleaseStateDamaged):
        steps.take_part()


def test_rows_are_never_released_for_it(steps: Steps) -> None:
    """Neither by hand nor by an agent that sees the task in the mailbox."""
    with steps.alice.refuses(RowsNotAsked):
        steps.alice.push(steps.rounds.task)
    assert not any(isinstance(e, ReservedEntry) for e in steps.alice.journal)


def test_uses_count_series_and_not_rounds(steps: Steps) -> None:
    """R07: one task is one use, however many rounds it has; another task is another."""
    steps.take_part()
    steps.take_part()  # all is over: nothing more is sent
    policy = steps.live.world.policy
    with Journal.open(steps.alice.state) as journal:
        found = left(journal.records, Asked.of(policy, "train", "train_party_1"))
    assert (found.used, found.uses) == (1, 10)


def test_fewer_persons_than_agreed(steps: Steps) -> None:
    """The enclave cannot count them; the owner does, before it connects."""
    pq.write_table(clinic(1, 19), steps.alice.path)
    with steps.alice.refuses(PersonsTooFew):
        steps.take_part()
    pq.write_table(clinic(1, 20), steps.alice.path)
    assert steps.take_part().counted == (1, 2)


def test_a_vector_needs_a_program(steps: Steps) -> None:
    with steps.alice.refuses(ProgramNeeded):
        take_part(steps.alice.request(steps.rounds.task), "train_party_1", steps.alice.path)


def test_training_that_diverges_is_not_sent(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.array([1, 0, np.nan, 0, 0], np.float32)
    monkeypatch.setattr(ProgramTrainer, "train", lambda self, number, model: model + wrong)
    with steps.alice.refuses(TrainingDiverged):
        steps.take_part()
    assert not any(isinstance(e, UpdatedEntry) for e in steps.alice.journal)


def test_an_agent_leaves_the_task_to_its_owner(steps: Steps) -> None:
    """It neither sends rows nor refuses for good: there is nothing for it to do."""
    config = AgentConfig.read(configure(steps.alice))
    with TaskReleaser.open(
        config, allow_simulation=True, timeout=HANG_LIMIT, clock=lambda: NOW
    ) as releaser:
        found = releaser.sift(steps.rounds.task)
    assert found is not None
    assert found.datasets == ()


def test_the_commands_from_training_to_the_chain(steps: Steps, tmp_path: Path) -> None:
    """As an owner types them; and a folder from which a round is missing is refused."""
    done = steps.take_part()
    world = steps.live.world
    agreement = tmp_path / "policy.agreement.json"
    agreement.write_bytes(world.complete.agreement.encode())
    known = known_digest(agreement)
    app = build()

    def typed(*more: str) -> tuple[int, dict[str, Any]]:
        words = ["verify", "receipt", "--rounds", str(done.kept.folder), "--agreement",
                 str(agreement), "--digest", known, "--allow-simulation", "--json"]  # fmt: skip
        ran = CliRunner().invoke(app, [*words, *more])
        return ran.exit_code, json.loads(ran.stdout.splitlines()[-1])

    status, told = typed()
    assert (status, told["verdict"]) == (0, "accepted")
    assert [one["round"] for one in told["rounds"]] == [1, 2]
    assert told["rounds"][1]["previous"] == told["rounds"][0]["model"]
    count_refusal()
    done.kept.receipt(1).unlink()
    status, told = typed()
    assert (status, told["error"]["code"]) == (RoundsMissing.exit_status, RoundsMissing.code)


def test_an_older_journal_that_knows_of_no_update(steps: Steps) -> None:
    """D14: put back with its head, it would count uses anew and let the task go to a clone."""
    names = ("journal.jsonl", "journal.head")
    before = {name: (steps.alice.state / name).read_bytes() for name in names}
    steps.take_part()
    for name, content in before.items():
        (steps.alice.state / name).write_bytes(content)
    with refused(JournalCut):
        steps.take_part()


def test_another_start_of_the_enclave(steps: Steps) -> None:
    """A series belongs to the start of the enclave that it began with: a clone gets no update."""
    steps.killed()
    with VECTOR_WORLD.running(limits=AT_ONCE) as clone:
        request = steps.alice.request(steps.rounds.task, address=clone.address)
        with steps.alice.refuses(TaskBoundToInstance):
            take_part(request, "train_party_1", steps.alice.path, program=Path("unused"))
    steps.others()
    assert steps.take_part().counted == (1, 2)
