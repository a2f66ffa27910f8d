"""R20: a provider hears why nothing was released, and with it something about another's rows.

"Not because of your input" says that it was because of Bob's. So a reason is about one input as
if there were no other, whatever the outcome: what its owner could compute from its own rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from enclave_app.access import ReasonNotAgreed, ReleaseNotAuthorized
from enclave_app.computations.groups import ColumnConstant, ValueTooRare
from enclave_app.gate import TooFewSubjects
from enclave_app.limits import Limits
from policy.party import LocalParty
from provider.cli_provider import provider
from provider.collect import ResultPending
from provider.exchange import DatasetNotOwned
from provider.reason import ReasonsNotAgreed, ask_reason
from ratls.client_stream import Pending
from ratls.framing import Kind, write_message
from ratls.server_stream import REASON_SIZE
from tests.enclave_app.agreed import computation
from tests.provider.desk import Desk
from tests.provider.test_cli import Terminal
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import refused

ONE, TWO = "train_party_1", "train_party_2"
SECTION = computation("summary_statistics", 'columns = ["y"]', ["statistics"], minimum=5)
HALF = [1] * 30 + [0] * 30


def study(*, reasons: bool) -> EnclaveWorld:
    section = SECTION.replace("release = {", 'release = { reasons = "own input",')
    return EnclaveWorld.create(computation=section if reasons else SECTION)


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return study(reasons=True)


@pytest.fixture
def live(world: EnclaveWorld) -> Iterator[LiveEnclave]:
    with world.running() as running:
        running.compute_at_once()
        yield running


def ask(live: LiveEnclave, who: LocalParty, dataset: str, task: bytes) -> str | Pending:
    with live.exchange(Kind.REASON, who, task=task, dataset=dataset) as exchange:
        return exchange.reason()


def told(live: LiveEnclave, one: pa.Table, two: pa.Table) -> tuple[str | Pending, str | Pending]:
    """What Alice and Bob hear about these inputs."""
    people, task = live.world.consortium, live.world.task(parameters={})
    live.release(people.bob, TWO, two, task)
    live.release(people.alice, ONE, one, task)
    live.wait(people.carol, task)
    return ask(live, people.alice, ONE, task), ask(live, people.bob, TWO, task)


GOOD = {"y": HALF}
BAD: list[tuple[dict[str, Any], type[Any]]] = [
    ({"y": [1] * 60}, ColumnConstant),
    ({"y": [1] * 2 + [0] * 58}, ValueTooRare),
    ({"y": HALF, "patient": ["one", "two"] * 30}, TooFewSubjects),
]


@pytest.mark.parametrize(("column", "leaf"), BAD)
def test_each_provider_hears_of_its_own_input_alone(
    live: LiveEnclave, column: dict[str, Any], leaf: type[Any]
) -> None:
    """Alice's answer is one and the same whatever Bob's rows are, and Bob's whatever Alice's."""
    good = told(live, rows(1, **GOOD), rows(2, **GOOD))
    assert good == ("", "")
    assert told(live, rows(1, **column), rows(2, **GOOD)) == (leaf.code, "")
    assert told(live, rows(1, **GOOD), rows(2, **column)) == ("", leaf.code)
    assert told(live, rows(1, **column), rows(2, **column)) == (leaf.code, leaf.code)


def test_every_reason_has_one_length() -> None:
    """The host carries the answer."""
    lengths = {
        len(write_message("reason", code=code.ljust(REASON_SIZE)))
        for code in ("", *(leaf.code for _, leaf in BAD), "x" * REASON_SIZE)
    }
    assert len(lengths) == 1


def test_a_reason_comes_at_the_time_of_a_result(world: EnclaveWorld) -> None:
    now = 0.0
    with world.running(limits=Limits(), seconds=lambda: now) as live:
        live.compute_at_once()
        people, task = world.consortium, world.task(parameters={})
        assert ask(live, people.alice, ONE, task) == Pending((ONE, TWO))
        live.release(people.bob, TWO, rows(2, **GOOD), task)
        live.release(people.alice, ONE, rows(1, **GOOD), task)
        now = 0.999
        assert ask(live, people.alice, ONE, task) == Pending(())
        now = 1.0
        assert ask(live, people.alice, ONE, task) == ""


@pytest.mark.parametrize(
    ("who", "dataset"), [("bob", ONE), ("alice", TWO), ("carol", ONE), ("alice", "none")]
)
def test_nobody_asks_about_another_ones_input(live: LiveEnclave, who: str, dataset: str) -> None:
    people, task = live.world.consortium, live.world.task(parameters={})
    with refused_by_enclave(ReleaseNotAuthorized):
        ask(live, getattr(people, who), dataset, task)


def test_a_policy_that_does_not_say_so_gives_no_reasons() -> None:
    """Absence never means any."""
    silent = study(reasons=False)
    with silent.running() as live, refused_by_enclave(ReasonNotAgreed):
        ask(live, silent.consortium.alice, ONE, silent.task(parameters={}))


# The command.


@pytest.fixture
def alice(world: EnclaveWorld, live: LiveEnclave, tmp_path: Any) -> Desk:
    desk = Desk.of("alice", world, tmp_path, live.address)
    desk.write(rows(1, y=[1] * 60))
    return desk


@pytest.fixture
def bob(world: EnclaveWorld, live: LiveEnclave, tmp_path: Any) -> Desk:
    desk = Desk.of("bob", world, tmp_path, live.address)
    desk.write(rows(2, **GOOD))
    return desk


def test_the_command_says_what_the_own_input_breaks(
    world: EnclaveWorld, alice: Desk, bob: Desk
) -> None:
    task = world.task(parameters={})
    alice.push(task)
    with refused(ResultPending):
        ask_reason(alice.request(task), ONE)
    bob.push(task)
    for desk, code in ((alice, ColumnConstant.code), (bob, None)):
        at_desk = Terminal(desk, task)
        options = {"dataset": desk.dataset} | at_desk.enclave
        asked = at_desk._type(provider, "reason", ("--json",), options, {})
        assert asked.exit_code == 0, asked.output
        assert json.loads(asked.stdout)["reason"] == code
    with refused(DatasetNotOwned):
        ask_reason(alice.request(task), TWO)


def test_the_command_refuses_where_no_reasons_were_agreed(tmp_path: Any) -> None:
    """At home, before the task is shown to anybody."""
    silent = study(reasons=False)
    with silent.running() as live:
        desk = Desk.of("alice", silent, tmp_path, live.address)
        with refused(ReasonsNotAgreed):
            ask_reason(desk.request(silent.task(parameters={})), ONE)
        assert live.log == []
