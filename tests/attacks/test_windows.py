"""D15: task, policy, certificate or collateral ends in mid-stream, or a newer policy is accepted.

An upload lasts minutes, and everything was asked before its first row only: rows and the commit
went on leaving after the end. The provider's clock is turned while rows leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.agreement import PolicyExpired
from policy.document import digest_text
from policy.journal_entries import RefusedEntry, ReservedEntry, ReturnedEntry
from policy.state import PolicyRollback, StudyState
from policy.task import TaskExpired
from ratls.address import Address
from ratls.certificate import EnclaveCertificateNotCurrent
from ratls.client_stream import ClientExchange, Kept
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.refusal import refused
from tests.support.relay import Relay
from verifier.collateral import Collateral
from verifier.errors import RatlsError
from verifier.validity import CollateralNotCurrent

pytestmark = pytest.mark.slow

ROWS = 100_000
TWO_HOURS, FOUR_DAYS = timedelta(hours=2), timedelta(days=4)
SOON = NOW + TWO_HOURS


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, world: EnclaveWorld) -> Path:
    """100,000 rows in many batches."""
    with world.running() as live:
        desk = Desk.of("alice", world, tmp_path_factory.mktemp("rows"), live.address)
    names = [f"{number:06d}{'x' * 120}" for number in range(ROWS)]
    desk.write(rows(1, ROWS, patient=names))
    return desk.path


@dataclass
class Turning:
    """A clock that jumps once so many rows have left, and what left before and after."""

    at: int  #                          rows; then `then` happens
    then: Callable[[], timedelta]  #    how far the clock jumps
    now: datetime = NOW
    ended: bool = False
    left: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)

    def clock(self) -> datetime:
        return self.now

    def progress(self, rows: int, total: int) -> None:
        (self.late if self.ended else self.left).append(rows)
        if rows >= self.at and not self.ended:
            self.ended = True
            self.now += self.then()


@dataclass
class Case:
    """A desk whose push is stopped by one thing that ends."""

    desk: Desk
    live: LiveEnclave
    task: bytes
    leaf: type[RatlsError]
    then: Callable[[], timedelta]
    collateral: bytes

    def push(self, turning: Turning) -> None:
        self.desk.push(
            self.task,
            clock=turning.clock,
            progress=turning.progress,
            collateral=Collateral.parse(self.collateral),
        )


Make = Callable[[EnclaveWorld], Case]


@pytest.fixture(params=["task", "policy", "newer-policy", "certificate", "collateral"])
def case(
    request: pytest.FixtureRequest, world: EnclaveWorld, file: Path, relay: Relay, tmp_path: Path
) -> Iterator[Case]:
    ends = {"expires": f"{SOON:%Y-%m-%dT%H:%M:%SZ}"} if request.param == "policy" else {}
    world = replace(world, complete=world.consortium.complete(world.consortium.policy_text(**ends)))
    with world.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        (tmp_path / "desk").mkdir()
        desk = Desk.of("alice", world, tmp_path / "desk", Address.parse(relay.address))
        desk.path.unlink()
        desk.path.symlink_to(file)
        lifetime = TWO_HOURS if request.param == "task" else timedelta(days=20)
        issued = NOW - timedelta(days=30) + TWO_HOURS if request.param == "collateral" else NOW
        made = world.intel.intel

        def accept_a_newer_one() -> timedelta:
            text = world.consortium.policy_text(
                version="2", previous=f'"{digest_text(world.complete.digest)}"'
            )
            newer = world.consortium.agreement(text, before=world.complete)
            StudyState(desk.state).accept(newer, desk.party, NOW)
            return timedelta(seconds=1)

        leaf, then = ENDS[request.param]
        yield Case(
            desk,
            live,
            world.task(lifetime=lifetime),
            leaf,
            then or accept_a_newer_one,
            made.collateral(world.intel.platform, at=issued),
        )


ENDS: dict[str, tuple[type[RatlsError], Callable[[], timedelta] | None]] = {
    "task": (TaskExpired, lambda: TWO_HOURS),
    "policy": (PolicyExpired, lambda: TWO_HOURS),
    "newer-policy": (PolicyRollback, None),
    "certificate": (EnclaveCertificateNotCurrent, lambda: FOUR_DAYS),
    "collateral": (CollateralNotCurrent, lambda: TWO_HOURS),
}


@pytest.mark.parametrize("percent", [30, 90])
def test_it_ends_while_rows_leave(case: Case, percent: int) -> None:
    """Not one batch after the end, and no commit. The record says where it stopped."""
    turning = Turning(ROWS * percent // 100, case.then)
    with case.desk.refuses(case.leaf):
        case.push(turning)
    assert turning.ended
    assert turning.late == []
    assert "committed" not in [line["event"] for line in case.live.log]
    last = case.desk.journal[-1]
    assert isinstance(last, RefusedEntry)
    assert (last.step, last.rows) == ("rows", turning.left[-1])


def test_it_ends_after_the_last_row(case: Case) -> None:
    """All rows are there, and without a commit none of them counts."""
    turning = Turning(ROWS, case.then)
    with case.desk.refuses(case.leaf):
        case.push(turning)
    assert "committed" not in [line["event"] for line in case.live.log]
    last = case.desk.journal[-1]
    assert isinstance(last, RefusedEntry)
    assert (last.step, last.rows) == ("commit", ROWS)


def test_it_ends_a_second_after_the_commit(case: Case) -> None:
    """The twin: one second before the end, everything leaves."""
    second = timedelta(seconds=1)
    just = {TWO_HOURS: TWO_HOURS - second, FOUR_DAYS: timedelta(hours=12) - second}
    if case.leaf is PolicyRollback:
        turning = Turning(1, lambda: second)  # time passes, and no newer policy is accepted
    else:
        turning = Turning(1, lambda: just[case.then()])
    case.push(turning)
    assert turning.late[-1] == ROWS
    assert "committed" in [line["event"] for line in case.live.log]


def test_it_ends_before_the_first_row(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the challenge and the first batch: the reservation is given back (no row left)."""
    turned: list[datetime] = []

    def clock() -> datetime:
        return turned[0] if turned else NOW

    honest = ClientExchange.open

    def late(exchange: ClientExchange, *transcript: Any) -> Kept:
        turned.append(NOW + TWO_HOURS)
        return honest(exchange, *transcript)

    task = world.task(lifetime=TWO_HOURS)
    with monkeypatch.context() as patched:
        patched.setattr(ClientExchange, "open", late)
        with refused(TaskExpired):
            alice.push(task, clock=clock)
    assert [type(e) for e in alice.journal] == [ReservedEntry, ReturnedEntry, RefusedEntry]
    assert alice.push(world.task()).commit.rows == 60
