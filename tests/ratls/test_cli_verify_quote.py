"""`ratls verify quote` on many files: order, streams, several bundles, and how it ends early."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from simulation.documents import instant
from simulation.intel import root_name
from tests.support.intel import AT, World
from tests.support.parties import Consortium, known_digest
from tests.support.refusal import count_refusal
from tests.support.typed import Folder
from tests.support.waiting import HANG_LIMIT
from tests.verifier.test_responses import folder_of
from verifier.quote import Quote

pytestmark = pytest.mark.slow

W = World.create()
OTHER = W.with_platform(fmspc=b"\1\2\3\4\5\6")
RATLS = str(Path(sys.executable).with_name("ratls"))
WARNING = " SIMULATION  no hardware protects anything here\n"  # on stderr, always


class Desk(Folder):
    """A folder with quotes, and the command as it is typed, in a process of its own."""

    def bundle(self, w: World = W, **altered: Any) -> str:
        name = f"{w.platform.tcb.fmspc.hex()}-{len(altered)}.json"
        return self.file(name, w.intel.collateral(w.platform, **altered))

    def quotes(self, count: int) -> list[str]:
        """As many answers of different length, some of them refusals."""
        genuine = W.quote(isv_prod_id=0)
        contents = (genuine, genuine[:-1], W.quote(bytes(64)), OTHER.quote(), b"")
        return [
            self.file(f"{number:04}.bin", contents[number % len(contents)])
            for number in range(count)
        ]

    def command(self, *arguments: str) -> list[str]:
        common = [RATLS, "verify", "quote", *arguments, "--at", instant(AT), "--allow-simulation"]
        if "--collateral" not in arguments:
            common += ["--collateral", self.bundle()]
        if "--policy" not in arguments:
            common += ["--root", root_name(W.intel.root)]
        return common

    def run(self, *arguments: str, exit_status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=HANG_LIMIT
        )
        if exit_status:
            count_refusal()
        assert "Traceback" not in done.stderr
        assert done.returncode == exit_status, done.stderr
        return done

    def json(self, *arguments: str, exit_status: int = 0) -> list[dict[str, Any]]:
        done = self.run(*arguments, "--json", exit_status=exit_status)
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextmanager
    def stuck(self, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """The command, in a group of its own, waiting for a file that does not come."""
        pipe = self.folder / "never"
        os.mkfifo(pipe)
        files = [*self.quotes(5), str(pipe), *self.quotes(5)]  # few: nobody reads meanwhile
        command = self.command(*files, "--workers", "2", *options)
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as running:
            writer = opened_by_a_worker(pipe, running)
            try:
                yield running, writer
            finally:
                running.kill()


def opened_by_a_worker(pipe: Path, running: subprocess.Popen[str]) -> int:
    """The writing end of a pipe, once a worker waits at the other."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.02)
                pytest.fail(f"ended before its time: {running.communicate()}")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# Order and streams


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_workers_change_nothing_that_is_answered(desk: Desk, option: list[str]) -> None:
    files = [*desk.quotes(70), "/nowhere", str(desk.folder / "0000.bin")]
    one, two, three = (
        desk.run(*files, *option, "--workers", str(count), exit_status=4).stdout
        for count in (1, 2, 3)
    )
    assert one == two == three
    if option:
        assert [json.loads(line)["file"] for line in one.splitlines()] == files
    else:
        assert [line.split(": ")[0] for line in one.splitlines() if line[0] != " "] == files


def test_folder_stands_for_its_files_beside_others(desk: Desk) -> None:
    genuine = W.quote(isv_prod_id=0)
    for name in ("in/b", "in/a"):
        desk.file(name, genuine)
    single = desk.file("single", genuine)
    told = desk.json(single, str(desk.folder / "in"))
    assert [t["file"] for t in told] == [single, *(f"{desk.folder}/in/{n}" for n in "ab")]
    assert {t["verdict"] for t in told} == {"accepted"}


def test_folder_without_files_is_not_silently_nothing(desk: Desk) -> None:
    """An empty answer with status 0 would read as `all accepted`."""
    empty = desk.folder / "empty"
    empty.mkdir()
    (told,) = desk.json(str(empty), exit_status=3)
    assert told["error"]["code"] == "file-unreadable"
    assert "folder" in told["error"]["message"]


def test_answers_are_on_stdout_and_talk_on_stderr(desk: Desk) -> None:
    genuine = desk.file("genuine.bin", W.quote(isv_prod_id=0))
    foreign = desk.file("foreign.bin", OTHER.quote())
    bundles = ["--collateral", desk.bundle(), "--collateral", desk.bundle(tdx=True)]
    files = [genuine] * 8 + [foreign, genuine[:-1]]
    done = desk.run(*files, *bundles, exit_status=5)
    assert done.stderr.startswith(f"{WARNING}10 quotes: 8 accepted, 1 refused, 1 undecided in ")
    assert "quotes:" not in done.stdout
    done = desk.run(*files, *bundles, "--json", exit_status=5)
    assert done.stderr == WARNING
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 10
    assert desk.run(genuine).stderr == WARNING  # one file needs no summary


def test_name_that_would_move_the_cursor(desk: Desk) -> None:
    """A quote file named by somebody else must not be able to overwrite the verdict before it."""
    forged = desk.file("\x1b[1A\x1b[2Kgenuine.bin: accepted", b"")
    for file in (forged, f"{forged}-missing"):
        assert "\x1b" not in desk.run(file, exit_status=3).stdout


def through_terminal(desk: Desk, stdout: int, *arguments: str) -> str:
    """What the command writes to stderr, which is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(desk.command(*arguments), stdout=stdout, stderr=theirs) as running:
        os.close(theirs)
        if running.stdout is not None:
            running.stdout.read()
        seen = b""
        while True:
            try:
                found = os.read(ours, 1 << 16)
            except OSError:  # the terminal's other side is closed
                break
            seen += found
    os.close(ours)
    return seen.decode()


def test_progress_bar_only_where_it_cannot_stand_among_answers(desk: Desk) -> None:
    """Through a pipe, whoever reads the answers may write to the same terminal."""
    files = [*desk.quotes(60), "--json", "--workers", "2"]
    with (desk.folder / "answers.json").open("wb") as answers:
        assert "60/60" in through_terminal(desk, answers.fileno(), *files)
    lines = (desk.folder / "answers.json").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 60
    assert "/60" not in through_terminal(desk, subprocess.PIPE, *files)
    with (desk.folder / "few.json").open("wb") as answers:
        assert "/3" not in through_terminal(desk, answers.fileno(), *files[:3], "--json")


# Options


def test_each_quote_is_judged_with_the_bundle_for_its_platform(desk: Desk) -> None:
    files = [
        desk.file("sgx.bin", W.quote(isv_prod_id=0)),
        desk.file("other.bin", OTHER.quote(isv_prod_id=0)),
        desk.file("tdx.bin", W.platform.td_quote(bytes(64))),
        desk.file("other-tdx.bin", OTHER.platform.td_quote(bytes(64))),
    ]
    bundles = [desk.bundle(), desk.bundle(OTHER), desk.bundle(tdx=True)]
    options = [part for bundle in bundles for part in ("--collateral", bundle)]
    *fitting, none = desk.json(*files, *options, exit_status=5)
    assert [told["verdict"] for told in fitting] == ["accepted"] * 3
    assert [told["tee"] for told in fitting] == ["sgx", "sgx", "tdx"]
    assert (none["verdict"], none["authentic"]) == ("undecided", None)
    assert (none["tee"], none["quote_version"]) == ("tdx", 4)
    assert none["error"]["code"] == "collateral-of-other-platforms"
    assert "010203040506" in none["error"]["fix"]
    text = desk.run(files[3], *options, exit_status=5).stdout
    assert text.startswith(f"{files[3]}: undecided  mode=simulation\n")
    # With the bundle that was missing: the same quote passes.
    assert desk.json(files[3], *options, "--collateral", desk.bundle(OTHER, tdx=True))


def test_folder_of_a_services_answers_serves_as_a_bundle(desk: Desk) -> None:
    genuine = desk.file("genuine.bin", W.quote(isv_prod_id=0))
    for name, content in folder_of(W.collateral()).items():
        desk.file(f"pcs/{name}", content)
    (told,) = desk.json(genuine, "--collateral", str(desk.folder / "pcs"))
    assert told["verdict"] == "accepted"


def test_newer_enclave_quotes_only_when_asked_for(desk: Desk) -> None:
    newer = desk.file("newer.bin", W.quote(isv_prod_id=0, version=4))
    (told,) = desk.json(newer, exit_status=3)
    assert told["error"]["code"] == "quote-unsupported"
    (told,) = desk.json(newer, "--newer-sgx")
    assert (told["verdict"], told["quote_version"]) == ("accepted", 4)


def test_workers_judge_under_a_policy_too(desk: Desk) -> None:
    genuine = W.quote(isv_prod_id=0)
    report = Quote.parse(genuine).report
    parties = Consortium.create(
        AT,
        root=root_name(W.intel.root),
        mr_enclave=str(report.mr_enclave),  # type: ignore[union-attr]
        machines=[f"ppid:{W.platform.tcb.ppid.hex()}"],
    )
    agreed = desk.file("agreed.json", parties.complete().agreement.encode())
    files = [desk.file(f"{n}.bin", genuine) for n in range(10)]
    other = desk.file("other.bin", W.quote(mr_enclave=b"\xa2" * 32))
    options = ["--policy", agreed, "--digest", known_digest(agreed), "--workers", "2"]
    assert {told["verdict"] for told in desk.json(*files, *options)} == {"accepted"}
    *_, last = desk.json(*files, other, *options, exit_status=6)
    assert last["error"]["check"] == "measurement"


def test_status_that_is_never_accepted_is_told_by_the_command_itself(desk: Desk) -> None:
    """With the answer left to a worker, the refusal would be lost with it."""
    files = [desk.file(f"{n}.bin", W.quote()) for n in range(10)]
    for workers in ("1", "2"):
        *_, told = desk.json(
            *files, "--accept-status", "Revoked", "--workers", workers, exit_status=3
        )
        assert told["error"]["code"] == "status-never-acceptable"


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_number_of_workers_that_is_none(desk: Desk, workers: str) -> None:
    desk.run(desk.file("q.bin", W.quote()), "--workers", workers, exit_status=2)


# Early ends


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_ctrl_c_ends_all_of_it_quietly(desk: Desk, option: list[str]) -> None:
    with desk.stuck(*option) as (running, _):
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        _, said = running.communicate(
            timeout=HANG_LIMIT
        )  # ends when every process has closed its side
        assert running.returncode == 130
        assert said in (WARNING, f"{WARNING}interrupted\n")
        with pytest.raises(ProcessLookupError):
            os.killpg(running.pid, 0)


def workers_of(process: int) -> list[int]:
    listed = subprocess.run(
        ["/usr/bin/env", "ps", "-o", "pid=", "--ppid", str(process)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(pid) for pid in listed.stdout.split()]


def test_killed_worker_is_said_and_never_a_missing_answer(desk: Desk) -> None:
    count_refusal()
    with desk.stuck("--json") as (running, writer):
        for worker in workers_of(running.pid):
            with suppress(ProcessLookupError):  # the command itself has ended it by now
                os.kill(worker, signal.SIGKILL)
        told, said = running.communicate(timeout=HANG_LIMIT)
        os.close(writer)
    assert running.returncode == 1
    assert "a worker process ended (-9): no answer on" in said
    assert "Traceback" not in said
    assert len(told.splitlines()) < 11


def test_workers_do_not_outlive_a_command_that_was_killed(desk: Desk) -> None:
    with desk.stuck() as (running, writer):
        running.kill()
        os.close(writer)  # the worker that waited goes on, and finds nobody to tell
        running.communicate(timeout=HANG_LIMIT)  # ends when every process has closed its side


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reader_that_has_seen_enough(desk: Desk, workers: str) -> None:
    """`ratls verify quote … | head -1`: not a word, and no status that says `accepted`."""
    files = [desk.file(f"{n}.bin", W.quote(isv_prod_id=0)) for n in range(200)]
    command = desk.command(*files, "--workers", workers)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(f"{files[0]}: accepted")
        running.stdout.close()
        assert running.stderr.read() == WARNING
    assert running.returncode == 141
