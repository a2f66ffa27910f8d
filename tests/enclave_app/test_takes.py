"""What a computation may take, as it is declared, and what becomes of one that takes more."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from enclave_app import application
from enclave_app.compute import ComputationTooLarge, required
from enclave_app.limits import Limits, declared
from policy.computations import DECLARED
from policy.document import digest_text
from policy.show_computations import facts
from policy.task import Task
from ratls.client_stream import Result
from tests.support.enclave import NOW, EnclaveWorld, NoResult, rows
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT, eventually


@pytest.mark.parametrize("run", [name for name, said in DECLARED.items() if said.memory])
def test_what_is_shown_is_what_the_enclave_asks_for(run: str) -> None:
    """`ratls policy computations` has the figures that a task is judged by."""
    shown, asked = facts(run), declared(run, features=3, mebibytes=64)
    memory = shown["memory"]
    assert asked.per_row == memory["per_row"] + 3 * memory["per_feature"]
    assert asked.copies == memory["copies"]
    assert (asked.fixed > 0) == memory["engine"]
    assert 0 < shown["seconds"] <= Limits().compute_seconds


def test_task_for_which_there_is_no_room(world: EnclaveWorld) -> None:
    """It is refused when it is opened, before any row is asked for."""
    task = Task.new(world.policy, "train", "carol-lab", at=NOW, parameters={"max_iter": 100})
    with refused(ComputationTooLarge):
        required(world.policy, task, 1 << 20)
    assert required(world.policy, task, 1 << 33).per_row == 96 + 2 * 48


def test_computation_that_takes_longer_than_declared(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R04: it ends, without a result, and the next task runs."""
    now = [0.0]
    run = world.policy.computation[0].run
    short = {**DECLARED, run: dataclasses.replace(DECLARED[run], seconds=5)}
    people = world.consortium

    def slow(policy: Any, task: Any, tables: Any, check: Any) -> Any:
        check()
        now[0] += 6.0
        check()

    with world.running(seconds=lambda: now[0]) as live:
        live.compute_at_once()
        for patched in (True, False):
            with monkeypatch.context() as hidden:
                if patched:
                    hidden.setattr(application, "DECLARED", short)
                    hidden.setattr(application, "compute", slow)
                task = world.task()
                live.release(people.alice, "train_party_1", rows(1), task)
                live.release(people.bob, "train_party_2", rows(2), task)
            now[0] += 100.0
            found = live.wait(people.carol, task)
            assert isinstance(found, NoResult if patched else Result)


def test_end_while_a_task_is_computed(world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log names the task that ends with the process, and not the one whose result was there."""
    entered, go_on = threading.Event(), threading.Event()
    honest, people = application.compute, world.consortium

    def held(*arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(HANG_LIMIT)
        return honest(*arguments)

    with world.running() as live:
        done, cut = world.task(), world.task()
        live.release(people.alice, "train_party_1", rows(1), done)
        live.release(people.bob, "train_party_2", rows(2), done)
        assert isinstance(live.wait(people.carol, done), Result)
        eventually(lambda: any(line["event"] == "computed" for line in live.log))
        monkeypatch.setattr(application, "compute", held)
        live.release(people.alice, "train_party_1", rows(1), cut)
        live.release(people.bob, "train_party_2", rows(2), cut)
        assert entered.wait(HANG_LIMIT)
        live.server.stop()
        live.enclave.end_in_order()
        go_on.set()
        ended = [line["task_digest"] for line in live.log if line["event"] == "ended"]
        assert ended == [digest_text(Task.read(cut).digest)]
        assert live.enclave.budgets.memory.free >= 0
