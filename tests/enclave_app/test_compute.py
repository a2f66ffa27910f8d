"""What an enclave refuses before anybody releases a row: policies and tasks it cannot serve."""

from __future__ import annotations

import dataclasses
import io
from datetime import timedelta
from typing import Any

import pytest

from enclave_app.application import AttesterModeMismatch, Enclave
from enclave_app.computations import COMPUTATIONS
from enclave_app.compute import compute
from enclave_app.gate import Inputs
from enclave_app.session import Denied, Released
from policy.agreement import AgreementIncomplete, PolicyExpired, PolicyNotYetValid
from policy.task import Task
from ratls.log import open_log
from tests.support.enclave import NOW, EnclaveWorld, rows
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from verifier.anchors import Mode


def started(world: EnclaveWorld, **options: Any) -> Enclave:
    return Enclave.start(world.complete, world.attester, log=open_log(io.StringIO()), **options)


def test_an_enclave_starts_with_what_was_agreed(world: EnclaveWorld) -> None:
    enclave = started(world)
    assert enclave.policy.digest == world.policy.digest
    assert enclave.mode is Mode.SIMULATION


def test_agreement_below_its_threshold(world: EnclaveWorld) -> None:
    """P01: an enclave that served a policy without Bob's signature would serve Alice's wishes."""
    with refused(AgreementIncomplete):
        world.consortium.agreement(signers=["alice-clinic", "carol-lab"]).require_complete()


@pytest.mark.parametrize(("days", "leaf"), [(40, PolicyExpired), (-40, PolicyNotYetValid)])
def test_policy_that_does_not_hold_now(
    world: EnclaveWorld, days: int, leaf: type[PolicyExpired]
) -> None:
    """P13."""
    with refused(leaf):
        started(world, clock=lambda: NOW + timedelta(days=days))


def test_simulation_where_hardware_was_agreed_on() -> None:
    """X01, X05: nobody would believe its evidence, and nobody should have to find that out."""
    world = EnclaveWorld.create()
    complete = Consortium.create(NOW, root="intel").complete()
    with refused(AttesterModeMismatch):
        Enclave.start(complete, world.attester, log=open_log(io.StringIO()))


def test_parameters_that_fit(world: EnclaveWorld) -> None:
    task = Task.new(world.policy, "train", "carol-lab", at=NOW, parameters={"max_iter": 100})
    assert task.resolved_parameters(world.policy)["features"] == ("age", "bmi")
    assert isinstance(compute(world.policy, task, [rows(1), rows(2)]), Released)


def test_solver_that_needs_more_than_the_task_allows() -> None:
    """An unfinished model looks like any other; its code is all that leaves."""
    count_refusal()
    world = EnclaveWorld.create(replace=[("{ min = 50, max", "{ min = 1, max")])
    task = Task.new(world.policy, "train", "carol-lab", at=NOW, parameters={"max_iter": 1})
    assert compute(world.policy, task, [rows(1), rows(2)]) == Denied("solver-not-converged")


def test_a_computation_gets_the_columns_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dataset has for other computations is not in reach of this one."""
    world = EnclaveWorld.create(replace=[('features = ["age", "bmi"]', 'features = ["age"]')])
    got: list[list[str]] = []
    code = COMPUTATIONS["logistic_regression"]

    def seen(inputs: Inputs, *about: Any) -> dict[str, Any]:
        got.extend(input.table.column_names for input in inputs.values())
        return code.run(inputs, *about)

    spied = {**COMPUTATIONS, "logistic_regression": dataclasses.replace(code, run=seen)}
    monkeypatch.setattr("enclave_app.compute.COMPUTATIONS", spied)
    task = Task.new(world.policy, "train", "carol-lab", at=NOW, parameters={"max_iter": 100})
    assert isinstance(compute(world.policy, task, [rows(1), rows(2)]), Released)
    assert got == [["patient", "age", "y"]] * 2
