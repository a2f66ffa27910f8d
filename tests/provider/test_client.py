"""`ratls.Client`: the whole job from Python, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ratls
from policy.admission import EnclaveNotInPolicy
from policy.receipt import Receipt
from policy.task import Task
from provider.client import (
    EnclaveNotChosen,
    ProfileIncomplete,
)
from provider.models import ResultNoModel
from provider.sources import of_table
from tests.provider.agents import configure
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import EnclaveWorld, rows
from tests.support.refusal import refused
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError
from verifier.modes import SimulationNotAllowed


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture
def queue(world: EnclaveWorld, tmp_path: Path) -> Iterator[LiveScheduler]:
    with running_scheduler(tmp_path / "scheduler", [world.complete]) as live:
        yield live


@pytest.fixture
def desks(world: EnclaveWorld, tmp_path: Path, queue: LiveScheduler) -> Iterator[dict[str, Desk]]:
    with world.running() as live:
        made = {w: Desk.of(w, world, tmp_path, live.address) for w in ("alice", "bob", "carol")}
        for desk in made.values():
            (desk.folder / "scheduler.crt").write_bytes(queue.certificate.cert_pem)
            configure(desk, str(queue.address))
        yield made


def client(desk: Desk) -> ratls.Client:
    return ratls.Client(desk.folder / "ratls.toml", allow_simulation=True)


def frame(number: int) -> pd.DataFrame:
    return rows(number).to_pandas()


def test_the_whole_job(desks: dict[str, Desk], queue: LiveScheduler) -> None:
    """Carol runs a training; two providers, who watch the queue, release data frames."""
    alice, bob, carol = (client(desks[who]) for who in ("alice", "bob", "carol"))
    trouble: list[BaseException] = []

    def provide() -> None:
        try:
            watch = queue.client(desks["alice"].party)
            for _ in range(1000):
                if waiting := list(watch.list()):
                    break
                threading.Event().wait(0.02)
            task = waiting[0].envelope
            alice.release(task, train_party_1=frame(1))
            bob.release(task, train_party_2=of_table(rows(2)))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            trouble.append(error)

    thread = threading.Thread(target=provide)
    thread.start()
    try:
        result = carol.run("train", wait=HANG_LIMIT, max_iter=500)
    finally:
        thread.join(HANG_LIMIT)
    assert trouble == []
    assert isinstance(result.receipt, Receipt)
    assert all(path.is_file() for path in (result.files.result, result.files.record))
    model = result.as_sklearn()
    weights = result.values["model_weights"]
    table = pd.concat([frame(1), frame(2)])[weights["features"]]
    scores = table.to_numpy() @ np.array(weights["coefficients"]) + weights["intercept"]
    assert np.allclose(model.decision_function(table), scores)
    assert set(model.predict(table)) <= set(weights["classes"])
    assert repr(result) == "<Result of train: model_weights (simulation)>"


def test_a_task_is_asked_for_by_its_computation(
    desks: dict[str, Desk], world: EnclaveWorld
) -> None:
    task = client(desks["carol"]).ask("train", max_iter=500)
    assert Task.read(task).policy_digest == world.policy.digest
    with pytest.raises(RatlsError):
        client(desks["carol"]).ask("no-such-computation")
    with pytest.raises(RatlsError):
        client(desks["alice"]).ask("train", max_iter=500)  # no submitter


def test_nothing_is_released_unless_something_is_named(desks: dict[str, Desk]) -> None:
    """Silence is no consent: the profile lists a dataset, and that is no release."""
    task = client(desks["carol"]).ask("train", max_iter=500)
    with pytest.raises(TypeError, match="at least one dataset"):
        client(desks["alice"]).release(task)
    done = client(desks["alice"]).release(task, train_party_1=desks["alice"].path)
    assert done["train_party_1"].commit.rows == 60


def test_a_simulation_must_be_allowed_here_too(desks: dict[str, Desk]) -> None:
    """X02: no file switches it on; the caller says so, for each client."""
    task = client(desks["carol"]).ask("train", max_iter=500)
    strict = ratls.Client(desks["alice"].folder / "ratls.toml")
    with refused(SimulationNotAllowed):
        strict.release(task, train_party_1=frame(1))


def test_what_a_profile_does_not_say(desks: dict[str, Desk], tmp_path: Path) -> None:
    desk = desks["alice"]
    task = client(desks["carol"]).ask("train", max_iter=500)
    path = desk.folder / "ratls.toml"
    text = path.read_text()
    path.write_text(text[: text.index("[[enclave]]")])
    with refused(ProfileIncomplete):
        client(desk).release(task, train_party_1=frame(1))
    second = text[text.index("[[enclave]]") : text.index("[[dataset]]")].replace("-1.0", "-1.1")
    path.write_text(text + second)
    with refused(EnclaveNotChosen):
        client(desk).release(task, train_party_1=frame(1))
    with refused(EnclaveNotChosen):
        client(desk).release(task, enclave="another", train_party_1=frame(1))
    with refused(EnclaveNotInPolicy):  # which the profile has
        client(desk).release(task, enclave="joint-training-1.1", train_party_1=frame(1))
    client(desk).release(task, enclave="joint-training-1.0", train_party_1=frame(1))


def test_a_folder_without_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(ProfileIncomplete):
        ratls.Client()


def test_a_result_of_another_kind(desks: dict[str, Desk]) -> None:
    task = client(desks["carol"]).ask("train", max_iter=500)
    client(desks["alice"]).release(task, train_party_1=frame(1))
    client(desks["bob"]).release(task, train_party_2=frame(2))
    result = client(desks["carol"]).result(task, wait=HANG_LIMIT)
    from dataclasses import replace

    other = replace(result, values={"statistics": []})
    with refused(ResultNoModel):
        other.as_sklearn()
    assert result.as_sklearn().n_features_in_ == 2


def test_what_is_shown_of_a_client_is_no_secret(desks: dict[str, Desk]) -> None:
    shown = repr(client(desks["alice"]))
    assert shown.startswith("<Client alice-clinic, ")
    assert CANARY not in shown
