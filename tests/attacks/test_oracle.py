"""The oracle that judges every attack finds each thing that it is there to find.

The world is honest, but for one slip: a cell in a log, a file, an argument of an error or on the
wire, in any spelling; a record too many, too few or of another code; nobody served afterwards.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enclave_app.intake import RowsNotAsDeclared
from policy.task import TaskExpired
from ratls.errors import CallFailed
from ratls.log import open_log
from tests.provider.desk import CANARY, Desk
from tests.support.enclave import LiveEnclave
from tests.support.oracle import Leaves, Scene, forms, universal_oracle
from tests.support.refusal import refused
from tests.support.relay import Relay
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

CELL = f"{CANARY}-00007"


@dataclass
class Small(Scene):
    """No enclave and no desk: one keeper of records, and somebody who is served."""

    kept: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records["keeper"] = lambda: list(self.kept)
        self.honest = lambda: True

    def judge(self, *written: type[RatlsError], **wanted: Leaves) -> None:
        """An attack that leaves these records."""
        with universal_oracle(self, **wanted):
            self.kept += [leaf.code for leaf in written]


@pytest.fixture
def small(tmp_path: Path, watch: Callable[[Scene], None]) -> Small:
    small = Small((CANARY.encode(),), tmp_path)
    watch(small)
    return small


def refuse(text: str) -> None:
    with refused(TaskExpired):
        raise TaskExpired("task", expected="one in force", found="another") from ValueError(text)


def tell_logger(_: Scene, text: str) -> None:
    logging.getLogger("some.library").debug("seen: %s", text)


def leave_a_file(scene: Scene, text: str) -> None:
    (scene.folder / "state").mkdir()
    (scene.folder / "state" / "note.json").write_text(text)


def leave_a_name(scene: Scene, text: str) -> None:
    (scene.folder / text.replace("/", "_")).touch()


def leave_a_temporary_file(_: Scene, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)


def send(scene: Scene, text: str) -> None:
    scene.places["the wire"] = lambda: b"GET /" + text.encode() + b" HTTP/1.1"


SLIPS: dict[str, Callable[[Scene, str], object]] = {
    "stdout": lambda _, text: print(text),
    "stderr": lambda _, text: print(text, file=sys.stderr),
    "below-python": lambda _, text: os.write(2, text.encode()),
    "logger": tell_logger,
    "file": leave_a_file,
    "name": leave_a_name,
    "temporary": leave_a_temporary_file,
    "wire": send,
    "cause": lambda _, text: refuse(text),
}
SPELT: dict[str, Callable[[str], str]] = {
    "as-it-is": str,
    "hex": lambda cell: cell.encode().hex(),
    "base64": lambda cell: b64encode(cell.encode()).decode(),
    "base64-within": lambda cell: b64encode(b"{" + cell.encode() + b"}").decode(),
    "escaped": lambda cell: repr(cell.encode() + b"\xff\n"),
    "number": lambda cell: str(int.from_bytes(CANARY.encode())),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_cell_in_any_place(small: Small, slip: str) -> None:
    with pytest.raises(AssertionError, match="a secret is in"), universal_oracle(small):
        SLIPS[slip](small, CELL)


@pytest.mark.parametrize("spelling", SPELT)
def test_a_cell_in_any_spelling(small: Small, spelling: str) -> None:
    with pytest.raises(AssertionError, match="a secret is in"), universal_oracle(small):
        leave_a_file(small, SPELT[spelling](CELL))


@pytest.mark.parametrize("slip", SLIPS)
def test_other_words_in_each_place(small: Small, slip: str) -> None:
    """The twin: there is nothing to find."""
    with universal_oracle(small):
        SLIPS[slip](small, "nothing-of-a-row")


def test_the_rows_themselves_may_stay(small: Small) -> None:
    rows = small.folder / "rows.csv"
    small.own.add(rows)
    with universal_oracle(small):
        rows.write_text(CELL)


def test_a_spelling_in_other_bytes() -> None:
    """Base64 in front of and behind which there is something."""
    for before in range(4):
        for after in range(4):
            text = b64encode(b"x" * before + CANARY.encode() + b"y" * after)
            assert any(form in text for form in forms(CANARY.encode()))
    assert all(len(form) >= len(CANARY) for form in forms(CANARY.encode()))


RECORDED: dict[str, tuple[list[type[RatlsError]], Leaves]] = {
    "two": ([TaskExpired, TaskExpired], TaskExpired),
    "another": ([CallFailed], TaskExpired),
    "none": ([], TaskExpired),
    "one-that-nobody-expects": ([TaskExpired], ()),
    "in-another-order": ([CallFailed, TaskExpired], (TaskExpired, CallFailed)),
}


@pytest.mark.parametrize("case", RECORDED)
def test_records_that_are_not_those_of_the_refusal(
    small: Small, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("tests.support.waiting.HANG_LIMIT", 0.05)
    written, wanted = RECORDED[case]
    with pytest.raises(AssertionError, match=r"keeper had|never came to that"):
        small.judge(*written, keeper=wanted)


def test_a_second_record_that_comes_late(small: Small) -> None:
    """While the honest one is served."""

    def honest() -> bool:
        small.kept.append(TaskExpired.code)
        return True

    small.honest = honest
    with pytest.raises(AssertionError, match="after the honest request keeper"):
        small.judge(TaskExpired, keeper=TaskExpired)


def test_one_record_of_the_refusal(small: Small) -> None:
    small.kept.append(CallFailed.code)  # before the attack
    small.judge(TaskExpired, keeper=TaskExpired)


def test_a_keeper_that_there_is_not(small: Small) -> None:
    with pytest.raises(AssertionError, match="nobody of that name"):
        small.judge(journal=TaskExpired)


def test_nobody_is_served_afterwards(small: Small) -> None:
    small.honest = lambda: 0
    with pytest.raises(AssertionError, match="no honest request"):
        small.judge()


def test_the_honest_one_is_refused(small: Small) -> None:
    def honest() -> bool:
        raise CallFailed("enclave", expected="an answer", found="none")

    small.honest = honest
    with pytest.raises(CallFailed):
        small.judge()


def test_a_scene_without_an_honest_request(small: Small) -> None:
    small.honest = Scene.honest
    with pytest.raises(AssertionError, match="no honest request"):
        small.judge()


# The same on a whole desk, whose places are those that matter.


def log_a_cell(_: Desk, live: LiveEnclave, __: Relay) -> None:
    open_log(live.stream).info("seen", row=CELL)


def keep_a_cell(alice: Desk, _: LiveEnclave, __: Relay) -> None:
    (alice.state / "dump").write_text(CELL)


def send_a_cell(_: Desk, __: LiveEnclave, relay: Relay) -> None:
    host, _, port = relay.address.partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(CELL.encode())
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(1 << 16):
            pass


def log_twice(_: Desk, live: LiveEnclave, __: Relay) -> None:
    open_log(live.stream).warning("refused", code=RowsNotAsDeclared.code)


def stop(_: Desk, live: LiveEnclave, __: Relay) -> None:
    live.server.stop()


DESK: dict[str, tuple[Callable[[Desk, LiveEnclave, Relay], None], type[BaseException]]] = {
    "log": (log_a_cell, AssertionError),
    "state": (keep_a_cell, AssertionError),
    "wire": (send_a_cell, AssertionError),
    "record": (log_twice, AssertionError),
    "stopped": (stop, RatlsError),
}


@pytest.mark.parametrize("slip", DESK)
def test_a_slip_at_a_desk(
    scene: Scene, alice: Desk, live: LiveEnclave, relay: Relay, slip: str
) -> None:
    make, found = DESK[slip]
    with pytest.raises(found), universal_oracle(scene):
        make(alice, live, relay)


def test_an_honest_desk(scene: Scene, alice: Desk) -> None:
    with universal_oracle(scene):
        assert alice.push(alice.world.task()).commit.rows == 60
