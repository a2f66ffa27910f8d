"""L08: whoever read the log is gone, its disk is full, or it has stopped reading.

A report that raised would break what it reports on: an acknowledged commit whose computation is
never queued, an agent that dies after a release, and an internal error whose text, with the cell
that caused it, goes to the peer in the place of the report. Each long-running command runs here
as a process whose streams fail; an honest request must succeed afterwards.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from policy.journal import Journal
from policy.journal_entries import ReleasedEntry
from policy.task import Task
from provider.mailbox import Inbox
from ratls.address import Address
from ratls.appraise import AdmittedCertificate, appraise_certificate
from ratls.flight_server import ServerFailed
from ratls.framing import Kind
from ratls.log import bind, bound, open_log
from ratls.peer_refusal import PeerRefused
from ratls.probe import probe
from ratls.serving import errors_logged
from scheduler.client import SchedulerClient, SchedulerRefused
from scheduler.queued_task import State
from scheduler.server import SchedulerFailed
from scheduler.service import Service
from simulation.folder import write
from simulation.intel import Intel
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import count_refusal, refused
from tests.support.scheduler import LiveScheduler, channel, running_scheduler
from tests.support.waiting import HANG_LIMIT, eventually
from verifier.errors import RatlsError
from verifier.output import Lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CANARY = "CANARY-cell-4711"
MAIN = "from ratls.cli import main; main()"


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


# Streams that fail


@contextmanager
def closed_pipe() -> Iterator[int]:
    """A collector that ended."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@contextmanager
def full_disk() -> Iterator[int]:
    with open("/dev/full", "wb") as file:
        yield file.fileno()


@contextmanager
def stalled_pipe() -> Iterator[int]:
    """A collector that lives and reads no more; a write would wait for ever."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


Sink = Callable[[], Any]
STREAMS = [
    pytest.param(closed_pipe, full_disk, id="stdout-closed-stderr-full"),
    pytest.param(full_disk, closed_pipe, id="stdout-full-stderr-closed"),
]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def started(
    code: str, *arguments: object, out: Sink, err: Sink
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these streams; it must still run at the end, and stop when it is told."""
    with ExitStack() as held:
        stdout, stderr = held.enter_context(out()), held.enter_context(err())
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield child
            assert child.poll() is None, f"ended with {child.returncode}"
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=HANG_LIMIT) == 0
        finally:
            child.kill()
            child.wait()


def patiently(attempt: Callable[[], Any], child: subprocess.Popen[bytes]) -> Any:
    """What `attempt` gives once the process listens: nobody can read its `ready`."""

    def once() -> Any:
        assert child.poll() is None, f"ended with {child.returncode}"
        return attempt()

    return eventually(once, RatlsError, OSError)


# The enclave

ENCLAVE = """
import sys
from pathlib import Path
from tests.support.enclave import MR_ENCLAVE, NOW
from tests.support.flight_peers import PlatformAttester
from enclave_app import receive, serving
from simulation.folder import read
from verifier.shell import refusals_as_exit_status
folder, listen = Path(sys.argv[1]), sys.argv[2]
_, platform = read(folder / "intel", NOW)
honest, calls = receive.Intake.add, []
def add(self, place, stream, message, *rest):
    calls.append(message)
    if len(calls) == 1:
        raise ValueError(f"cannot use {message.to_pybytes()}")
    return honest(self, place, stream, message, *rest)
receive.Intake.add = add
with refusals_as_exit_status() as shell:
    serving.serve(
        agreement=folder / "agreement.json",
        listen=listen,
        attester=lambda: PlatformAttester(platform, mr_enclave=MR_ENCLAVE, isv_prod_id=0),
        roots=frozenset({"simulation"}),
        ready=lambda fields: shell.announce(fields, f"ready {fields['ready']}"),
    )
"""


class Remote(LiveEnclave):
    """An enclave in a process of its own."""

    def __init__(self, world: EnclaveWorld, address: Address, certificate: bytes) -> None:
        self.world, self.salt, self.releases = world, bytes(32), {}
        self._address, self._certificate = address, certificate

    @property
    def address(self) -> Address:
        return self._address

    @property
    def admitted(self) -> AdmittedCertificate:
        return appraise_certificate(self._certificate, self.world.expectation, at=NOW)


def told(error: BaseException | None) -> str:
    """All that an exception and those behind it say."""
    texts = []
    while error is not None:
        texts.append(f"{error} {error.args!r} {getattr(error, 'extra_info', '')!r}")
        error = error.__cause__ or error.__context__
    return " ".join(texts)


@pytest.mark.parametrize(("out", "err"), STREAMS)
def test_enclave_computes_and_keeps_cells_to_itself(
    world: EnclaveWorld, tmp_path: Path, out: Sink, err: Sink
) -> None:
    """An internal error first, whose text holds a row; then the honest job, to its end."""
    write(world.intel.intel, world.intel.platform, tmp_path / "intel")
    (tmp_path / "agreement.json").write_bytes(world.complete.agreement.encode())
    address = Address("127.0.0.1", free_port())
    task, people = world.task(), world.consortium
    planted = rows(1, patient=[f"{CANARY}-{n}" for n in range(60)])
    with started(ENCLAVE, tmp_path, address, out=out, err=err) as child:
        live = Remote(world, address, patiently(lambda: probe(address, timeout=HANG_LIMIT), child))
        with refused(PeerRefused) as seen:
            live.release(people.alice, "train_party_1", planted, task)
        assert cast(PeerRefused, seen.error).peer_code == ServerFailed.code
        assert CANARY not in told(seen.error)
        live.release(people.alice, "train_party_1", rows(1), task)
        live.release(people.bob, "train_party_2", rows(2), task)
        assert type(live.wait(people.carol, task)).__name__ == "Result"


def test_a_commit_asked_about_again_is_computed_too(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ended the first exchange after its commit: the inputs are complete, and wait."""
    task, people = world.task(), world.consortium
    with world.running() as live:
        live.release(people.alice, "train_party_1", rows(1), task)
        honest = live.enclave.compute_when_complete
        monkeypatch.setattr(live.enclave, "compute_when_complete", raises(RuntimeError(CANARY)))
        with (
            refused_by_enclave(ServerFailed),
            live.exchange(Kind.RELEASE, people.bob, task=task, dataset="train_party_2") as first,
        ):
            batches = rows(2).to_batches()
            sent = live.send(first, people.bob, "train_party_2", batches, task)
            envelope = live.commit(first, people.bob, "train_party_2", sent, task)
            first.commit(envelope)
        monkeypatch.setattr(live.enclave, "compute_when_complete", honest)
        with live.exchange(Kind.RELEASE, people.bob, task=task, dataset="train_party_2") as again:
            assert again.resume(envelope) is not None
        assert type(live.wait(people.carol, task)).__name__ == "Result"


# The scheduler


@pytest.mark.parametrize(("out", "err"), STREAMS)
def test_scheduler_refuses_and_serves(
    world: EnclaveWorld, tmp_path: Path, out: Sink, err: Sink
) -> None:
    agreement, state = tmp_path / "agreement.json", tmp_path / "state"
    agreement.write_bytes(world.complete.agreement.encode())
    address = Address("127.0.0.1", free_port())
    arguments = ["--agreement", agreement, "--state", state, "--listen", address]
    code = "import sys; sys.argv[1:1] = ['scheduler', 'serve'];" + MAIN
    with started(code, *arguments, out=out, err=err) as child:

        def connected() -> SchedulerClient:
            made = SchedulerClient(
                address,
                (state / "scheduler.crt").read_bytes(),
                channel(world.consortium.carol),
                timeout=HANG_LIMIT,
            )
            try:
                made.list()
            except RatlsError:
                made.close()
                raise
            return made

        with patiently(connected, child) as carol:
            with refused(SchedulerRefused) as seen:
                carol.submit(b"no task")
            assert cast(SchedulerRefused, seen.error).peer_code == "envelope-malformed"
            carol.submit(world.task())
            assert len(carol.list()) == 1


# The agent


@pytest.mark.parametrize(("out", "err"), STREAMS)
def test_agent_releases_also_after_its_mailbox_was_away(
    world: EnclaveWorld, tmp_path: Path, out: Sink, err: Sink
) -> None:
    """Its lines go nowhere; that the scheduler is away is told from the watcher's own thread."""
    queue, folder = tmp_path / "scheduler", tmp_path / "desk"
    folder.mkdir()
    tasks = [world.task(), world.task()]
    with world.running() as live:
        alice = Desk.of("alice", world, folder, live.address)
        with running_scheduler(queue, [world.complete]) as first:
            port = first.address.port
            (tmp_path / "scheduler.crt").write_bytes(first.certificate.cert_pem)
            first.client(world.consortium.carol).submit(tasks[0])
            config = configure(alice, str(first.address), tmp_path / "scheduler.crt")
            arguments = ["provider", "agent", "--config", config, "--allow-simulation"]
            code = f"import sys; sys.argv[1:] = {list(map(str, arguments))!r};" + MAIN
            with ExitStack() as running:
                child = running.enter_context(started(code, out=out, err=err))
                shown(first, world, tasks[0], child)
                first.server.stop()
                with running_scheduler(queue, [world.complete], port=port) as second:
                    second.client(world.consortium.carol).submit(tasks[1])
                    shown(second, world, tasks[1], child)
                    running.close()
        with Journal.open(alice.state) as journal:
            released = [r.entry for r in journal.records if isinstance(r.entry, ReleasedEntry)]
    assert {entry.task for entry in released} == {named(raw) for raw in tasks}
    assert len(released) == 2


def named(raw: bytes) -> str:
    return f"sha256:{Task.read(raw).digest.hex()}"


def shown(
    queue: LiveScheduler, world: EnclaveWorld, raw: bytes, child: subprocess.Popen[bytes]
) -> None:
    """Until the scheduler shows that Alice has released."""
    digest = Task.read(raw).digest
    for queued in queue.client(world.consortium.carol).watch(seconds=HANG_LIMIT):
        if queued.digest == digest and queued.datasets[0].state is State.RELEASED:
            return
        assert child.poll() is None, f"ended with {child.returncode}"
    raise AssertionError("not released")


# The simulated collateral service


@pytest.mark.parametrize(("out", "err"), STREAMS)
def test_collateral_service_answers(tmp_path: Path, out: Sink, err: Sink) -> None:
    intel = Intel.create(NOW)
    write(intel, intel.platform(), tmp_path)
    address = Address("127.0.0.1", free_port())
    code = "import sys; sys.argv[1:1] = ['simulation', 'serve'];" + MAIN

    def ask() -> bytes:
        trust = ssl.create_default_context(cafile=str(tmp_path / "pcs.crt"))
        url = f"https://{address}/sgx/certification/v4/rootcacrl"
        with urllib.request.urlopen(url, context=trust, timeout=HANG_LIMIT) as answer:
            return bytes(answer.read())

    with started(code, tmp_path, "--listen", address, out=out, err=err) as child:
        assert len(patiently(ask, child)) > 100


# The kind: no report raises, waits for a reader, or is lost without a word


@pytest.mark.parametrize("sink", [closed_pipe, full_disk, stalled_pipe])
def test_no_line_raises_or_waits(sink: Sink) -> None:
    with sink() as handle, open(handle, "w", closefd=False) as stream:
        log = open_log(stream)
        for _ in range(3):
            log.warning("refused", code="x")


def test_what_was_dropped_is_counted_and_said() -> None:
    """The next line that can be written says so, and is whole although one before it was torn."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as out, open(writing, "w") as stream:
        log = open_log(stream)
        log.info("first")
        while select.select([], [writing], [], 0)[1]:
            os.write(writing, b"x" * 4095 + b"\n")
        log.info("second")
        log.info("third")
        out.read(1 << 20)
        log.info("fourth")
        (line,) = out.read(1 << 20).splitlines()
    fields = json.loads(line)
    assert (fields["event"], fields["dropped"]) == ("fourth", 2)


def test_a_line_that_was_torn_spoils_no_other() -> None:
    """A disk takes half a line, is full, and has room again."""

    class Half(io.StringIO):
        room = 5

        def fileno(self) -> int:
            return 99

    stream, taken = Half(), bytearray()

    def write(handle: int, data: bytes) -> int:
        if stream.room == 0:
            raise OSError(28, "No space left on device")
        part = bytes(data)[: stream.room]
        stream.room -= len(part)
        taken.extend(part)
        return len(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(Lines, "_await_reader", lambda self, handle: None)
        lines = Lines(stream)
        lines.put(lambda lost: "0123456789")
        stream.room = 100
        lines.put(lambda lost: f"next, {lost} lost")
    assert taken.decode().splitlines() == ["01234", "next, 1 lost"]


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError(CANARY)


def test_what_cannot_be_rendered_is_named_by_its_kind() -> None:
    """L01: a repr may hold a row, and may raise."""
    stream = io.StringIO()
    open_log(stream).info("odd", what=Unspeakable())
    assert json.loads(stream.getvalue())["what"] == "Unspeakable"


def test_every_line_names_party_and_task() -> None:
    """Null where the line is about none; and nothing stays from the call before."""
    stream = io.StringIO()
    log = open_log(stream)
    with bound(party="alice-clinic"):
        bind(task_digest="sha256:00")
        log.info("committed")
    log.info("purged")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["party"], first["task_digest"]) == ("alice-clinic", "sha256:00")
    assert (second["party"], second["task_digest"]) == (None, None)


def test_enclave_names_party_and_task_of_a_refusal(world: EnclaveWorld) -> None:
    task, people = world.task(), world.consortium
    with world.running() as live:
        with refused(PeerRefused):
            live.release(people.bob, "train_party_1", rows(1), task)
        live.release(people.alice, "train_party_1", rows(1), task)
        said = [(line["event"], line["party"], line["task_digest"]) for line in live.log]
    assert said == [
        ("refused", "bob-hospital", named(task)),
        ("committed", "alice-clinic", named(task)),
    ]


# Paths beside the request: threads, destructors, callbacks, warnings, and what is no `Exception`


class Panic(BaseException):
    """As a library in Rust raises it."""


def raises(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


class Destroyed:
    def __del__(self) -> None:
        raise ValueError(CANARY)


def drop() -> None:
    Destroyed()
    gc.collect()


def in_thread() -> None:
    thread = threading.Thread(target=raises(ValueError(CANARY)))
    thread.start()
    thread.join()


def by_a_library() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("grpc").exception("Exception calling application: %s", CANARY)


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(
    ("slip", "event"),
    [
        (drop, "internal"),
        (in_thread, "internal"),
        (by_a_library, "library"),
        (lambda: warnings.warn(CANARY, RuntimeWarning, stacklevel=1), "warning"),
    ],
    ids=["destructor", "thread", "library", "warning"],
)
def test_what_escapes_beside_a_request_is_one_line_without_its_text(
    slip: Callable[[], None], event: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """L01: Python writes the texts of these to stderr, which is the host's to read."""
    stream = io.StringIO()
    with errors_logged(open_log(stream)):
        slip()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == event
    assert CANARY not in line + "".join(capfd.readouterr())


def test_what_escapes_the_command_itself_is_a_bug_without_its_text(
    capfd: pytest.CaptureFixture[str],
) -> None:
    count_refusal()
    stream = io.StringIO()
    with pytest.raises(SystemExit) as end, errors_logged(open_log(stream)):
        raise ValueError(CANARY)
    assert end.value.code == 1
    assert json.loads(stream.getvalue())["bug"].startswith("ValueError at ")
    assert CANARY not in stream.getvalue() + "".join(capfd.readouterr())


def test_hooks_are_given_back() -> None:
    def hooks() -> list[object]:
        return [sys.unraisablehook, threading.excepthook, warnings.showwarning]

    before = hooks()
    with errors_logged(open_log(io.StringIO())):
        assert all(now is not then for now, then in zip(hooks(), before, strict=True))
    assert hooks() == before


@pytest.mark.parametrize("bug", [ValueError(CANARY), Panic(CANARY), SystemExit(CANARY)])
def test_enclave_answers_whatever_is_raised(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch, bug: BaseException
) -> None:
    """S28: what is no `Exception` left the handler, and its text and traceback went to the peer."""
    task, alice = world.task(), world.consortium.alice
    with world.running() as live:
        monkeypatch.setattr("enclave_app.receive.Intake.add", raises(bug))
        with refused(PeerRefused) as seen:
            live.release(alice, "train_party_1", rows(1), task)
        assert cast(PeerRefused, seen.error).peer_code == ServerFailed.code
        assert CANARY not in told(seen.error)
        monkeypatch.undo()
        live.release(alice, "train_party_1", rows(1), task)
    assert CANARY not in live.stream.getvalue()


@pytest.mark.parametrize("bug", [ValueError(CANARY), Panic(CANARY), SystemExit(CANARY)])
def test_scheduler_answers_whatever_is_raised(
    world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: BaseException
) -> None:
    with running_scheduler(tmp_path, [world.complete]) as live:
        carol = live.client(world.consortium.carol)
        monkeypatch.setattr(Service, "submit", raises(bug))
        with refused(SchedulerRefused) as seen:
            carol.submit(world.task())
        assert cast(SchedulerRefused, seen.error).peer_code == SchedulerFailed.code
        assert CANARY not in told(seen.error)
        monkeypatch.undo()
        carol.submit(world.task())
    assert CANARY not in live.log


def test_the_mailbox_thread_hands_over_whatever_ended_it(
    world: EnclaveWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that died in silence would leave an agent that waits for ever."""
    count_refusal()
    with running_scheduler(tmp_path, [world.complete]) as live:
        client = live.client(world.consortium.alice)
        monkeypatch.setattr(SchedulerClient, "watch", raises(Panic()))
        with Inbox(client, lambda refusal, again: None) as inbox, pytest.raises(Panic):
            inbox.next(HANG_LIMIT)
