"""`ratls scheduler serve` as an operator runs it, and as a machine that fails stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratls.address import Address
from ratls.errors import DeadlineExceeded
from scheduler.cli import app
from scheduler.client import SchedulerClient, SchedulerUnreachable
from scheduler.database import queue_file
from scheduler.store import Store
from tests.support.parties import Consortium, TaskWorld, instant
from tests.support.refusal import count_refusal
from tests.support.scheduler import NOW, channel, running_scheduler
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CODE = "from scheduler.cli import app; app()"


@pytest.fixture(scope="module")
def simulated() -> Consortium:
    return Consortium.create(NOW)


@pytest.fixture
def folder(tmp_path: Path, simulated: Consortium) -> Path:
    """Agreements on disk: good, unsigned, expired."""
    (tmp_path / "good.json").write_bytes(simulated.agreement_bytes())
    (tmp_path / "unsigned.json").write_bytes(simulated.agreement_bytes(signers=["carol-lab"]))
    past = simulated.policy_text(
        not_before=instant(NOW.replace(year=2020)), expires=instant(NOW.replace(year=2021))
    )
    (tmp_path / "expired.json").write_bytes(simulated.agreement_bytes(past))
    return tmp_path


@contextmanager
def serving(
    folder: Path, listen: str = "127.0.0.1:0"
) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """The command as a process of its own."""
    with subprocess.Popen(
        [
            sys.executable, "-c", CODE, "serve", "--agreement", str(folder / "good.json"),
            "--listen", listen, "--state", str(folder / "state"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()
        try:
            assert line.startswith("ready "), child.communicate()
            yield child, Address.parse(line.split()[1])
        finally:
            child.kill()


def client(folder: Path, address: Address, world: Consortium) -> SchedulerClient:
    pin = (folder / "state" / "scheduler.crt").read_bytes()
    return SchedulerClient(address, pin, channel(world.carol), timeout=HANG_LIMIT)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, Exit.YES), (signal.SIGINT, Exit.INTERRUPTED)]
)
def test_serves_until_told_to_stop(
    folder: Path, simulated: Consortium, number: signal.Signals, status: Exit
) -> None:
    with serving(folder) as (child, address):
        with client(folder, address, simulated) as carol:
            carol.submit(TaskWorld(simulated).signed())
            watch = carol.watch()
            next(iter(watch))
            child.send_signal(number)
            output, _ = child.communicate(timeout=HANG_LIMIT)
        assert child.returncode == status
        assert output == "", "one line and nothing else"
    assert list((folder / "state").glob("queue.sqlite*")) == [folder / "state" / "queue.sqlite"]


def test_killed_while_tasks_come_in(folder: Path, simulated: Consortium) -> None:
    """Started again it has every task that it acknowledged, once, under the same certificate."""
    signed = TaskWorld(simulated).signed
    tasks = [signed(id=f"{number:032x}") for number in range(100)]
    answered: list[bytes] = []
    with serving(folder) as (child, address), client(folder, address, simulated) as carol:
        enough = threading.Event()

        def kill() -> None:
            enough.wait(HANG_LIMIT)
            child.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            for task in tasks:
                answered.append(carol.submit(task))
                if len(answered) == 30:
                    enough.set()
        except (SchedulerUnreachable, DeadlineExceeded):
            count_refusal()
        killer.join()
        assert child.wait(HANG_LIMIT) == -signal.SIGKILL
    assert 30 <= len(answered) <= 100
    with serving(folder, str(address)) as (_, again), client(folder, again, simulated) as carol:
        listed = [task.digest for task in carol.list()]
        assert len(listed) == len(set(listed))
        assert set(answered) <= set(listed)
        assert len(listed) - len(answered) in (0, 1), "at most the one whose answer was cut off"
        for task in tasks:
            carol.submit(task)
        assert len(carol.list()) == 100


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"agreement": "no-such-file"}, Exit.UNUSABLE, "file-unreadable"),
        ({"agreement": "{folder}/state"}, Exit.UNUSABLE, "file-unreadable"),
        ({"agreement": "{folder}/garbage"}, Exit.UNUSABLE, "envelope-malformed"),
        ({"agreement": "{folder}/unsigned.json"}, Exit.NOT_ADMITTED, "agreement-incomplete"),
        ({"agreement": "{folder}/expired.json"}, Exit.NOT_ADMITTED, "policy-expired"),
        ({"listen": "127.0.0.1"}, Exit.UNUSABLE, "address-malformed"),
        ({"listen": "203.0.113.1:0"}, Exit.UNUSABLE, "scheduler-address-unusable"),
        ({"state": "{folder}/garbage"}, Exit.UNUSABLE, "file-not-written"),
        ({"database": "no url"}, Exit.UNUSABLE, "database-url-unusable"),
        ({"database": "sqlite:////no/such/folder/q"}, Exit.UNUSABLE, "store-unavailable"),
        (
            {"database": "postgresql+psycopg://u:secret@h/d"},
            Exit.UNUSABLE,
            "database-password-shown",
        ),
    ],
)
def test_bad_input(folder: Path, changed: dict[str, str], status: Exit, code: str) -> None:
    """One line that names the thing and what to do, an exit status, never a traceback."""
    count_refusal()
    (folder / "garbage").write_bytes(b"garbage")
    (folder / "state").mkdir()
    given = {"agreement": "{folder}/good.json", "state": "{folder}/state"} | changed
    options = [part for k, v in given.items() for part in (f"--{k}", v.format(folder=folder))]
    outcome = CliRunner().invoke(app, ["serve", *options, "--json"])
    assert outcome.exit_code == status, outcome.output
    error = json.loads(outcome.stdout.splitlines()[-1])["error"]
    assert error["code"] == code
    assert error["fix"]
    assert "secret" not in outcome.output


def test_port_in_use(folder: Path, simulated: Consortium, tmp_path: Path) -> None:
    count_refusal()
    with running_scheduler(tmp_path / "other", [simulated.complete()]) as live:
        outcome = CliRunner().invoke(
            app,
            ["serve", "--agreement", str(folder / "good.json"), "--json",
             "--state", str(folder / "state"), "--listen", str(live.address)],
        )  # fmt: skip
    assert outcome.exit_code == Exit.UNUSABLE
    error = json.loads(outcome.stdout.splitlines()[-1])["error"]
    assert error["code"] == "scheduler-address-unusable"


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_environment_that_would_write_keys(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_refusal()
    monkeypatch.setenv(name, "all")
    outcome = CliRunner().invoke(
        app, ["serve", "--agreement", "a", "--state", str(folder), "--json"]
    )
    assert outcome.exit_code == Exit.UNUSABLE
    assert json.loads(outcome.stdout)["error"]["code"] == "environment-unsafe"


def test_the_queue_holds_no_key(folder: Path, simulated: Consortium) -> None:
    """What the scheduler writes: signed tasks, digests, names and states."""
    with serving(folder) as (_, address), client(folder, address, simulated) as carol:
        carol.submit(TaskWorld(simulated).signed())
    store = Store.open(queue_file(folder / "state" / "queue.sqlite"))
    store.close()
    for file in (folder / "state").iterdir():
        if file.name != "scheduler.key":
            assert b"PRIVATE KEY" not in file.read_bytes()


def test_help_shows_how() -> None:
    outcome = CliRunner().invoke(app, ["serve", "--help"])
    assert outcome.exit_code == 0
    assert "Example: ratls scheduler serve" in outcome.stdout
