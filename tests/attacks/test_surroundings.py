"""A process takes its surroundings as they are: streams, locks, a home, limits, signals.

What they do not give is a refusal with its exit status: never a traceback, and never status 1,
which says that ratls has a bug. A host chooses all of these.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from policy.errors import PassphraseMissing
from policy.journal import Journal, JournalNotWritten, Reading
from policy.passphrase import new_passphrase, passphrase_source
from policy.state import StudyState
from provider.agent_tasks import AgentRunning, _only_one
from provider.release_state import ReleaseFolder, ReleaseUnderWay
from ratls.environment import EnvironmentUnsafe, prepare_process
from ratls.serving import on_stop, stop_signals
from tests.attacks.test_links import accept, certify, keep, mark, record, release
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.surroundings import leaves
from tests.support.waiting import HANG_LIMIT
from verifier import errors as e
from verifier.files import (
    FileNotWritten,
    FileUnreadable,
    LockHeld,
    LocksMissing,
    locked,
    read_file,
)
from verifier.user_folder import UserFolderUnknown, user_folder

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent.parent


# Commands that nonsense does not stop: they take no input, or find what there is.
FINE = ["config show", "policy computations", "policy state show", "simulation measure"]


def after(first: str, command: list[str]) -> list[str]:
    """The command, once a shell has done this. No code of this process, which has threads, runs
    between fork and exec.
    """
    return ["bash", "-c", f'{first} && exec "$@"', "bash", *command]


def survey(kind: str, folder: Path, first: str = ":", **options: Any) -> dict[str, int]:
    """The status of every command, run like this; none showed a traceback."""
    done = subprocess.run(
        after(first, [sys.executable, "-m", "tests.support.surroundings", kind, str(folder)]),
        cwd=REPOSITORY,
        check=False,
        timeout=HANG_LIMIT,
        stdin=subprocess.DEVNULL,
        **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options),
    )
    assert done.returncode == 0
    seen = [json.loads(line) for line in (folder / "report").read_text().splitlines()]
    assert [line["command"] for line in seen if line["traceback"]] == []
    statuses = {line["command"]: line["status"] for line in seen}
    assert len(statuses) > 25
    return statuses


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The status of each command that is given nonsense, where nothing else is odd."""
    found = survey("wrong", tmp_path_factory.mktemp("usual"))
    assert set(found.values()) <= {0, 2, 3, 4, 5, 6, 7}
    fine = [name for name, status in found.items() if status == 0]
    assert fine == FINE
    return found


def gone() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_stdout_that_is_full(tmp_path: Path, usual: dict[str, int]) -> None:
    """A verdict stays what it is; an answer that nobody gets is a refusal, and never a success."""
    count_refusal()
    with open("/dev/full", "wb") as full:
        assert set(survey("help", tmp_path, stdout=full).values()) == {e.Exit.UNUSABLE}
        wrong = survey("wrong", tmp_path, stdout=full)
    assert wrong == {name: was or e.Exit.UNUSABLE for name, was in usual.items()}


def test_stdout_whose_reader_has_enough(tmp_path: Path) -> None:
    """`| head`: the status of any program, and not a word."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert set(survey("help", tmp_path, stdout=writing).values()) == {e.Exit.BROKEN_PIPE}
    finally:
        os.close(writing)


def test_streams_that_are_closed_and_few_files_to_open(
    tmp_path: Path, usual: dict[str, int]
) -> None:
    """`<&- >&- 2>&-`: the next files opened would have these numbers, and take what libraries
    print. The helper gives each command a stderr of its own; the others stay closed.
    """
    count_refusal()
    found = survey("wrong", tmp_path, "ulimit -n 24 && exec <&- >&- 2>&-")
    assert found == {name: was or e.Exit.UNUSABLE for name, was in usual.items()}


def test_environment_without_characters_or_home(tmp_path: Path, usual: dict[str, int]) -> None:
    """Without `--state` there is no folder to take; a command that needs none works as ever."""
    count_refusal()
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment |= {"HOME": "", "XDG_STATE_HOME": "", "XDG_CACHE_HOME": ""}
    assert set(survey("help", tmp_path, env=environment).values()) == {0}
    found = survey("wrong", tmp_path, env=environment)
    assert found.pop("policy state show") == e.Exit.UNUSABLE  # the one that looks there
    assert found == {name: usual[name] for name in found}


def test_all_commands_are_in_the_survey(usual: dict[str, int]) -> None:
    import typer.main

    from ratls.cli import build

    assert set(usual) == {" ".join(name) for name, _ in leaves(typer.main.get_command(build()))}


RUN = "import sys; from ratls.cli import main; main()"


def ratls(*line: object, first: str = ":", **options: Any) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True} | options
    command = after(first, [sys.executable, "-c", RUN, *map(str, line)])
    return subprocess.run(command, cwd=REPOSITORY, check=False, timeout=HANG_LIMIT, **given)


def test_disk_that_takes_no_byte(tmp_path: Path) -> None:
    """ulimit -f 0: keys are not half written, and the refusal says which file it was."""
    count_refusal()
    (tmp_path / "passphrase").write_bytes(b"a passphrase\n")
    line = ["party", "new", "dora", "--dir", tmp_path / "dora", "--passphrase-file"]
    done = ratls(*line, tmp_path / "passphrase", first="ulimit -f 0")
    assert done.returncode == e.Exit.UNUSABLE, done.stderr
    assert b"[file-not-written]" in done.stderr
    assert b"Traceback" not in done.stderr


def test_name_that_the_output_cannot_encode() -> None:
    """A clinic's column name on a terminal of another age: shown escaped, and nothing fails."""
    code = (
        "from verifier.shell import refusals_as_exit_status as run\n"
        "with run() as shell:\n    shell.answer({}, 'column \\u4f53\\u91cd')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=HANG_LIMIT,
    )
    assert done.stdout == rb"column \u4f53\u91cd" + b"\n"


def test_what_the_system_refuses_is_no_bug() -> None:
    """An error that no module translates: out of descriptors, memory, space."""
    count_refusal()
    for error in ("OSError(24, 'Too many open files', '/a/file')", "MemoryError()"):
        code = (
            "from verifier.shell import refusals_as_exit_status as run\n"
            f"with run():\n    raise {error}\n"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, check=False, timeout=HANG_LIMIT
        )
        assert b"[system-refused]" in done.stderr


# Locks


def open_journal(folder: Path) -> None:
    with Journal.open(folder):
        pass


def read_journal(folder: Path) -> None:
    Reading.of(folder)


def be_the_agent(folder: Path) -> None:
    class Config:
        state, study = folder, "study"

    with _only_one(Config):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize(
    "act", [mark, accept, certify, release, record, open_journal, read_journal, be_the_agent]
)
def test_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], number: int
) -> None:
    """Some network file systems have none: two writers would both believe to be alone."""
    record(tmp_path)
    act(tmp_path)  # the twin: with locks it works

    def flock(handle: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with refused(LocksMissing):
        act(tmp_path)


def test_cache_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with refused(FileNotWritten):
        keep(tmp_path)


def test_every_lock_is_taken_in_one_place() -> None:
    """The kind: a lock taken elsewhere would wait without limit, or follow a link."""
    packages = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app", "simulation")
    found = [
        path.relative_to(REPOSITORY).as_posix()
        for package in packages
        for path in (REPOSITORY / package).rglob("*.py")
        if "fcntl.flock" in path.read_text("utf-8") or "lockf(" in path.read_text("utf-8")
    ]
    assert found == ["verifier/files.py"]


def test_lock_that_is_never_given_back(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        refused(LockHeld),
        locked(tmp_path / "lock", wait=0.05),
    ):
        pass
    with locked(tmp_path / "lock", wait=0):
        pass


def test_the_second_agent_and_the_second_release(tmp_path: Path) -> None:
    """What does not wait at all says what it is that runs already."""
    with locked(tmp_path / "agent-study.lock"), refused(AgentRunning):
        be_the_agent(tmp_path)
    with ReleaseFolder.open(tmp_path, bytes(32), "rows"), refused(ReleaseUnderWay):
        release(tmp_path)


def test_journal_is_read_beside_another_reader(tmp_path: Path) -> None:
    record(tmp_path)
    with locked(tmp_path / "journal.jsonl", reading=True):
        assert len(Reading.of(tmp_path).records) == 2


# Pipes in the place of files, and Ctrl-C


def test_pipe_that_nobody_fills(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.toml")
    with refused(FileUnreadable):
        read_file(tmp_path / "policy.toml", seconds=0.05)


def test_pipe_that_somebody_fills(tmp_path: Path) -> None:
    """`--policy <(…)`: a pipe is a file, if its bytes come."""
    os.mkfifo(tmp_path / "pipe")
    content = bytes(range(256)) * 1024
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert read_file(tmp_path / "pipe", seconds=HANG_LIMIT) == content
    writer.join()


def test_pipe_that_brings_too_much(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def fill() -> None:
        with suppress(BrokenPipeError):  # the reader had enough
            (tmp_path / "pipe").write_bytes(bytes(1 << 20))

    writer = threading.Thread(target=fill)
    writer.start()
    with refused(FileUnreadable):
        read_file(tmp_path / "pipe", cap=1000, seconds=HANG_LIMIT)
    writer.join()


WAITING = {
    "pipe": "read_file(folder / 'pipe')",
    "lock": "stack.enter_context(locked(folder / 'lock'))",
}


@pytest.mark.parametrize("what", sorted(WAITING))
def test_ctrl_c_ends_what_waits(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = f"""
from contextlib import ExitStack
from pathlib import Path
import typer
from verifier.files import locked, read_file
from verifier.shell import refusals_as_exit_status
def wait(folder: Path) -> None:
    with ExitStack() as stack, refusals_as_exit_status():
        print("waiting", flush=True)
        {WAITING[what]}
typer.run(wait)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with (
        locked(tmp_path / "lock"),
        subprocess.Popen(command, cwd=REPOSITORY, stdout=-1, stderr=-1) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"waiting\n"
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=HANG_LIMIT)  # the waits themselves last a minute
    assert child.returncode == 130
    assert b"Traceback" not in told


# A home


@pytest.mark.parametrize("kind", ["state", "cache"])
@pytest.mark.parametrize("home", ["", "/", "somewhere"])
def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch, kind: Any, home: str) -> None:
    """A folder called `~` wherever the command was started would be a first use each time."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    with refused(UserFolderUnknown):
        user_folder(kind)


def test_user_that_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as any number."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with refused(UserFolderUnknown):
        user_folder("state")


def test_user_with_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("state").is_relative_to(tmp_path)
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "named"))
    assert user_folder("state").is_relative_to(tmp_path / "named")


def test_disk_that_is_mounted_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    Consortium.create()  # makes folders of its own, once for all tests
    monkeypatch.setattr(os, "mkdir", refuse)
    for act, leaf in (
        (mark, FileNotWritten),
        (accept, JournalNotWritten),
        (release, FileNotWritten),
    ):
        with refused(leaf):
            act(tmp_path / "new")
    assert StudyState(tmp_path / "new").studies() == []


# Signals


@contextmanager
def set_to(number: signal.Signals, handler: Any) -> Iterator[None]:
    """What the parent of this process left there must not decide a test."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_terminal_that_is_closed_stops_in_order() -> None:
    with set_to(signal.SIGHUP, signal.SIG_DFL), stop_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop() == e.Exit.YES


def test_server_in_the_background_hears_ctrl_c() -> None:
    """A shell has SIGINT ignored in what it starts with `&`; a server would never end by it."""
    with set_to(signal.SIGINT, signal.SIG_IGN):
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop() == e.Exit.INTERRUPTED
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_nohup_goes_on() -> None:
    """Whoever had SIGHUP ignored wants the command to outlive the terminal."""
    with set_to(signal.SIGHUP, signal.SIG_IGN):
        came: list[int] = []
        with on_stop(lambda number, frame: came.append(number)):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# Passphrases and variables


@pytest.mark.parametrize(
    "source", [passphrase_source(Path("-")), lambda: new_passphrase(Path("-"))]
)
def test_passphrase_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, source: Callable[[], bytes]
) -> None:
    monkeypatch.setattr("policy.passphrase.read_stdin", lambda cap: b"correct horse\n")
    monkeypatch.setattr("sys.stdin", None)  # as under a service manager
    assert source() == b"correct horse"


def test_standard_input_that_is_empty() -> None:
    code = "from pathlib import Path; from policy.passphrase import passphrase_source as p; "
    code += "from verifier.shell import refusals_as_exit_status as run\n"
    code += "with run():\n    print(p(Path('-'))())"
    for given, found in ((b"", b"[passphrase-missing]"), (b"open sesame\n", b"open sesame")):
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            input=given,
            capture_output=True,
            check=False,
            timeout=HANG_LIMIT,
        )
        assert found in done.stdout + done.stderr


def test_no_terminal_and_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with refused(PassphraseMissing):
        passphrase_source(None)()


@pytest.mark.parametrize("value", ["NONE", "ERROR", "error"])
def test_verbosity_that_shows_no_key(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Many set it for other programs; gRPC then says errors alone, and here not even those."""
    monkeypatch.setenv("GRPC_VERBOSITY", value)
    prepare_process()
    assert os.environ["GRPC_VERBOSITY"] == "NONE"


@pytest.mark.parametrize("value", ["DEBUG", "debug", "INFO", "", "all"])
def test_verbosity_that_shows_what_passes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", value)
    with refused(EnvironmentUnsafe):
        prepare_process()
