"""Looking at a machine: pipes, endless files, dead sockets and silent services hold nobody."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratls.doctor.copy import read_copy
from ratls.doctor.cpuid import ask_processor
from ratls.doctor.deadline import within
from ratls.doctor.examine import examine
from ratls.doctor.finding import Role
from ratls.doctor.gather import look_at
from ratls.doctor.live import ask_aesm, ask_service, live_snapshot, system_trust
from ratls.doctor.snapshot import WANTED, Kind
from ratls.names import COMMANDS
from tests.support.machines import plain_machine
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT, given_time
from tests.verifier.pcs_peer import PUBLISHED, QE, drip, peer
from verifier.pcs_requests import Trust

RELEASE = "/proc/sys/kernel/osrelease"
SHORT = 0.3  # of what never answers


def put(root: Path, path: str) -> Path:
    """Where a path lies in a copy, with the folders above it."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def look(root: Path, path: str = RELEASE) -> tuple[Kind, str | None, str | None]:
    node = look_at(root, seconds=HANG_LIMIT)[path]
    return node.kind, node.excerpt, node.fault


def test_a_file(tmp_path: Path) -> None:
    put(tmp_path, RELEASE).write_text("6.8.0-45-generic\n")
    assert look(tmp_path) == (Kind.FILE, "6.8.0-45-generic\n", None)


def test_nothing(tmp_path: Path) -> None:
    count_refusal()
    assert {node.kind for node in look_at(tmp_path, seconds=HANG_LIMIT).values()} == {Kind.NOTHING}


def test_a_pipe_without_a_writer(tmp_path: Path) -> None:
    """To open it would wait for ever."""
    count_refusal()
    os.mkfifo(put(tmp_path, RELEASE))
    assert look(tmp_path) == (Kind.PIPE, None, None)


def test_a_socket_in_the_place_of_a_file(tmp_path: Path) -> None:
    count_refusal()
    with socket.socket(socket.AF_UNIX) as there:
        here = os.open(put(tmp_path, RELEASE).parent, os.O_RDONLY)
        there.bind(f"/proc/self/fd/{here}/osrelease")
        os.close(here)
        assert look(tmp_path) == (Kind.SOCKET, None, None)


def test_a_file_larger_than_any(tmp_path: Path) -> None:
    """Of a sparse file of a terabyte no more is read than the cap."""
    count_refusal()
    with put(tmp_path, RELEASE).open("wb") as file:
        file.truncate(1 << 40)
    assert look(tmp_path) == (Kind.FILE, None, "more than 65536 bytes")


def test_the_processors_of_a_large_machine(tmp_path: Path) -> None:
    """Of that file the beginning is enough."""
    one = "processor\t: 0\nvendor_id\t: GenuineIntel\nserial\t: 17\nflags\t\t: fpu sgx\n\n"
    put(tmp_path, "/proc/cpuinfo").write_text(one * 5000)
    kind, excerpt, fault = look(tmp_path, "/proc/cpuinfo")
    assert excerpt == "vendor_id\t: GenuineIntel\nflags\t\t: fpu sgx\n"
    assert (kind, fault) == (Kind.FILE, None)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../../../../../etc/passwd"])
def test_a_link_out_of_the_copy(tmp_path: Path, target: str) -> None:
    """It leads where it would on the machine that was copied: not to a file of this one."""
    count_refusal()
    put(tmp_path, RELEASE).symlink_to(target)
    assert look(tmp_path)[0] is Kind.NOTHING
    put(tmp_path, "/etc/passwd").write_text("5.15.0\n")
    assert look(tmp_path) == (Kind.FILE, "5.15.0\n", None)


def test_links_to_folders_and_of_devices(tmp_path: Path) -> None:
    (tmp_path / "run" / "aesmd").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("/run")
    (tmp_path / "run" / "aesmd" / "aesm.socket").write_text("")
    put(tmp_path, "/dev/sgx_enclave").write_text("")
    put(tmp_path, "/dev/sgx/enclave").symlink_to("../sgx_enclave")
    found = look_at(tmp_path, seconds=HANG_LIMIT)
    assert found["/var/run/aesmd/aesm.socket"].kind is Kind.FILE
    assert found["/var/run/aesmd/aesm.socket"].target is None
    assert found["/dev/sgx/enclave"].target == "../sgx_enclave"


def test_links_in_a_circle(tmp_path: Path) -> None:
    count_refusal()
    put(tmp_path, RELEASE).symlink_to("osrelease")
    assert look(tmp_path)[0] is Kind.UNREADABLE


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kubelet's folder for anybody but root. Unknown, and not absent."""
    count_refusal()
    path = "/var/lib/kubelet/device-plugins"
    place, lstat = str(put(tmp_path, path)), os.lstat

    def refuse(name: str) -> os.stat_result:
        if name == place:
            raise PermissionError(13, "Permission denied")
        return lstat(name)

    monkeypatch.setattr(os, "lstat", refuse)
    found = look_at(tmp_path, seconds=HANG_LIMIT)
    assert found[path].kind is Kind.DENIED
    assert found[path].undecided


def test_a_file_system_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network file system without its server: its probe is left behind, the others answer."""
    count_refusal()
    put(tmp_path, RELEASE).write_text("6.8.0\n")
    put(tmp_path, "/etc/group").write_text("sgx_prv:x:998:aesmd\n")
    never, read = threading.Event(), os.read

    def hang(handle: int, size: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("osrelease"):
            never.wait()
        return read(handle, size)

    monkeypatch.setattr(os, "read", hang)

    def attempt(seconds: float) -> bool:
        found = look_at(tmp_path, seconds=seconds)
        assert found[RELEASE].kind is Kind.SLOW
        if found["/etc/group"].excerpt is None:
            raise TimeoutError  # the machine is busy
        return True

    assert given_time(attempt, SHORT, TimeoutError)
    never.set()


def test_probes_that_raise_or_wait_have_no_answer() -> None:
    never = threading.Event()

    def fails() -> int:
        raise ValueError

    found = within(HANG_LIMIT, {"a": lambda: 1, "b": fails})
    assert found == {"a": 1}
    assert within(0.0, {"a": lambda: never.wait()}) == {}
    never.set()


# AESM.


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "aesm.socket")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(path)
        yield there, path


def test_aesm_answers(listener: tuple[socket.socket, str]) -> None:
    there, path = listener
    there.listen()
    assert ask_aesm((f"{path}.none", path), HANG_LIMIT) == "answers"


def test_aesm_is_dead(listener: tuple[socket.socket, str]) -> None:
    """The socket outlives a daemon that was killed."""
    count_refusal()
    assert "refused" in ask_aesm((listener[1],), HANG_LIMIT)


def test_aesm_takes_nobody_more(listener: tuple[socket.socket, str]) -> None:
    """A daemon that hangs accepts nobody; one that connects would wait for ever."""
    count_refusal()
    there, path = listener
    there.listen(0)
    waiting = []
    for _ in range(8):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        if client.connect_ex(path):
            break
    said = ask_aesm((path,), SHORT)
    assert said not in ("answers", "no socket")
    for client in waiting:
        client.close()


def test_there_is_no_aesm(tmp_path: Path) -> None:
    count_refusal()
    nobody = f"\0{tmp_path}"  # an abstract socket that nobody has
    assert ask_aesm((nobody, str(tmp_path / "aesm.socket")), HANG_LIMIT) == "no socket"


# The collateral service.


@pytest.fixture(scope="module")
def trust() -> Trust:
    return system_trust(None)


def test_a_service_answers(tmp_path: Path) -> None:
    with peer(tmp_path, PUBLISHED) as place:
        answer = ask_service(place.origin, system_trust(place.certificate), HANG_LIMIT)
        assert answer.fault is None
        assert answer.issued < answer.next_update
        longer = f"{place.origin}/sgx/certification/v4/"
        assert ask_service(longer, system_trust(place.certificate), HANG_LIMIT) == answer
        assert place.seen == [QE, QE]


def test_a_service_is_not_trusted(tmp_path: Path, trust: Trust) -> None:
    count_refusal()
    with peer(tmp_path, PUBLISHED) as place:
        answer = ask_service(place.origin, trust, HANG_LIMIT)
        assert "not trusted" in (answer.fault or "")
        assert place.seen == []


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/other", b"", "status 404"),
        ("", b"<html>", "something else"),
        ("", b'{"enclaveIdentity":{"version":1}}', "another version"),
        ("", b'{"enclaveIdentity":{"version":2,"issueDate":1,"nextUpdate":2}}', "something else"),
        ("", b'{"enclaveIdentity":[]}', "something else"),
    ],
)
def test_a_service_says_something_else(tmp_path: Path, path: str, body: bytes, says: str) -> None:
    count_refusal()
    altered = {QE: lambda reply: replace(reply, body=body)}
    with peer(tmp_path, PUBLISHED, altered) as place:
        answer = ask_service(place.origin + path, system_trust(place.certificate), HANG_LIMIT)
        assert says in (answer.fault or "")


def test_a_service_that_speaks_no_tls(tmp_path: Path, trust: Trust) -> None:
    count_refusal()
    with peer(tmp_path, PUBLISHED, plain=True) as place:
        assert ask_service(place.origin, trust, HANG_LIMIT).fault
    assert ask_service("http://127.0.0.1:1/sgx/certification/v4/", trust, 1).fault == "not https"


def test_nobody_listens(nowhere: tuple[str, int], trust: Trust) -> None:
    count_refusal()
    assert "no answer" in (ask_service(f"https://127.0.0.1:{nowhere[1]}", trust, 60).fault or "")


@pytest.mark.parametrize("silent", [True, False])
def test_a_service_that_never_ends(tmp_path: Path, silent: bool) -> None:
    """Not a word, or a byte now and then: a limit for each read alone would wait for ever."""
    count_refusal()
    altered = {QE: lambda reply: drip(b" ")}
    with peer(tmp_path, PUBLISHED, altered, silent=silent) as place:
        snapshot = live_snapshot(
            services=[place.origin],
            trust=system_trust(place.certificate),
            seconds=SHORT,
            configured=False,
            root=tmp_path,
            sockets=(),
        )
    assert snapshot.facts.services[place.origin].fault


# All of it.


def test_this_machine_is_looked_at_and_left_alone(tmp_path: Path, trust: Trust) -> None:
    """Without root, and without a trace: a copy that is examined has no other byte afterwards."""
    machine = plain_machine(tmp_path)
    before = {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*")
    }
    snapshot = live_snapshot(
        services=[], trust=trust, seconds=60, configured=True, root=machine.folder, sockets=()
    )
    assert before == {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in tmp_path.rglob("*")
    }
    assert snapshot.nodes.keys() == WANTED.keys()
    assert snapshot.facts.packages == dict.fromkeys(COMMANDS, "")
    assert snapshot.facts.libraries is not None
    assert all(snapshot.facts.libraries.values())
    assert {f.check for f in examine(snapshot, Role.VERIFIER)} >= {"packages", "clock"}


def test_the_processor_is_asked_in_a_process_of_its_own() -> None:
    """On another processor than x86 it has nothing to say."""
    leaves = ask_processor()
    assert not leaves or {"0.0", "7.0"} <= leaves.keys()


def test_a_root_that_is_mounted_somewhere_is_no_copy(tmp_path: Path) -> None:
    """A host's root in a container, without `doctor.json`: what is in no file is unknown."""
    put(tmp_path, RELEASE).write_text("6.8.0\n")
    found = {f.check: f for f in examine(read_copy(tmp_path, seconds=HANG_LIMIT), Role.ENCLAVE)}
    assert found["kernel"].outcome.value == "ready"
    assert {found[name].outcome.value for name in ("packages", "clock", "python")} == {"unknown"}
