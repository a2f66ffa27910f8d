"""`ratls tunnel`, as it is typed: both commands as processes, and what bad input gets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from policy.document import Policy
from ratls import cli_tunnel
from ratls.address import Address
from ratls.appraise import Expectation
from ratls.cli_tunnel import app
from ratls.identity import EnclaveIdentity
from simulation.folder import write
from simulation.intel import root_name
from simulation.measure import measure
from tests.ratls.test_probe import KEY, certificate
from tests.support.channels import listening
from tests.support.flight_peers import (
    LOOPBACK,
    NOW,
    PlatformAttester,
    Study,
    silent_server,
    tls_server,
)
from tests.support.intel import World
from tests.support.parties import PASSPHRASE, ROOTS, Consortium
from tests.support.refusal import count_refusal
from tests.support.transports import tcp_server
from tests.support.typed import Folder, typed
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow


@dataclass
class Desk(Folder):
    """What a party, or the operator of a guest, has in a folder."""

    study: Study

    @classmethod
    def of(cls, study: Study, folder: Path) -> Desk:
        desk = cls(folder, study)
        text = study.policy.raw.decode()
        desk.file("agreement.json", study.parties.agreement_bytes(text))
        desk.file("unsigned.json", study.parties.agreement(text, signers=["bob-hospital"]).encode())
        desk.file("collateral.json", study.expectation.collateral.raw)
        desk.file("passphrase", PASSPHRASE + b"\n")
        desk.file("wrong", b"wrong horse battery staple\n")
        write(study.world.intel, study.world.platform, folder / "intel")
        return desk

    def words(self, command: str, given: dict[str, Any], changed: dict[str, Any]) -> list[str]:
        line = [command]
        for name, value in (given | changed).items():
            line += [] if value is None else [name] if value is True else [name, str(value)]
        return line

    def client(self, to: object, **changed: Any) -> list[str]:
        given = {
            "--agreement": self.folder / "agreement.json",
            "--collateral": self.folder / "collateral.json",
            "--party": self.study.parties.alice.folder,
            "--passphrase-file": self.folder / "passphrase",
            "--state": self.folder / "state",
            "--timeout": 600,
            "--allow-simulation": True,
        }
        return [*self.words("client", given, _options(changed)), str(to)]

    def server(self, **changed: Any) -> list[str]:
        given = {
            "--agreement": self.folder / "agreement.json",
            "--attester": f"simulation:{self.folder / 'intel' / 'platform'}",
            "--to": "127.0.0.1:1",
            "--allow-simulation": True,
        }
        return self.words("server", given, _options(changed))


def _options(changed: dict[str, Any]) -> dict[str, Any]:
    return {f"--{name.replace('_', '-')}": value for name, value in changed.items()}


@pytest.fixture(scope="module")
def desk(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk.of(study, tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """As `desk`, under a policy for what is installed here, which the simulation measures."""
    world = World.create(NOW)
    parties = Consortium.create(
        NOW,
        root=root_name(world.intel.root),
        mr_enclave=measure().hex(),
        machines=[f"ppid:{world.platform.tcb.ppid.hex()}"],
    )
    text = parties.policy_text().replace("isv_prod_id = 0", "isv_prod_id = 1")
    policy = Policy.parse(text.encode(), known_roots=ROOTS)
    held = Expectation(policy, world.collateral(), world.intel.anchors())
    made = Study(world, parties, policy, held)
    return Desk.of(made, tmp_path_factory.mktemp("measured"))


@contextmanager
def running(words: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of its own, and the line that says that it is ready."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("ratls"), "tunnel", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline().strip()
            assert "ready" in line, child.communicate(timeout=HANG_LIMIT)
            yield child, line
        finally:
            child.kill()


def ended(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    child.send_signal(number)
    output, said = child.communicate(timeout=HANG_LIMIT)
    return child.returncode, output, said


def echo(taken: socket.socket) -> None:
    with taken, suppress(ConnectionError):
        while data := taken.recv(1 << 16):
            taken.sendall(data)


def program(place: Address) -> socket.socket:
    made = socket.create_connection((place.host, place.port))
    made.settimeout(HANG_LIMIT)
    return made


def test_both_commands_carry_a_program(measured: Desk) -> None:
    """One line each when they are ready; Ctrl-C and a service manager's signal end them. A program
    that is cut off is told by a reset, the operators why."""
    count_refusal()
    with ExitStack() as target_runs:
        target = target_runs.enter_context(tcp_server(echo))
        with running(measured.server(to=target)) as (server, told):
            word, _, place = told.partition(" ")
            assert word == "ready"
            with running(measured.client(place, json=True)) as (client, line):
                local = Address.parse(json.loads(line)["ready"])
                for said in (b"question", bytes(300_000)):
                    assert exchanged(local, said) == said
                target_runs.close()
                with program(local) as end, pytest.raises(ConnectionResetError):
                    end.recv(1)
                status, output, log = ended(client, signal.SIGINT)
                assert status == Exit.INTERRUPTED
                assert "SIMULATION" in log
                [cut] = [json.loads(x) for x in output.splitlines()]
                assert cut["cut_off"] == "peer-refused"
                assert "tunnel-target-unreachable" in cut["message"]
                assert cut["fix"]
            status, output, log = ended(server, signal.SIGTERM)
            assert (status, output) == (Exit.YES, "")
            assert "SIMULATION" in log
            assert "Traceback" not in log
            codes = [json.loads(x)["code"] for x in log.splitlines() if x.startswith("{")]
            assert codes == ["tunnel-target-unreachable"]


def exchanged(place: Address, said: bytes) -> bytes:
    """What a program hears that says this, and then that nothing follows."""
    heard = b""
    with program(place) as end:
        end.sendall(said)
        end.shutdown(socket.SHUT_WR)
        while data := end.recv(1 << 16):
            heard += data
    return heard


def test_ctrl_c_while_an_enclave_is_silent(desk: Desk) -> None:
    count_refusal()
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(HANG_LIMIT)
        place = Address(LOOPBACK, listener.getsockname()[1])
        with subprocess.Popen(
            [Path(sys.executable).with_name("ratls"), "tunnel", *desk.client(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            taken, _ = listener.accept()  # it has begun to connect
            with taken:
                status, output, said = ended(child, signal.SIGINT)
    assert (status, output) == (Exit.INTERRUPTED, "")
    assert "Traceback" not in said


# What bad input gets


@pytest.fixture(autouse=True)
def never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not refuse would run until the end of the test run."""
    monkeypatch.setattr(cli_tunnel, "_run", lambda *_: pytest.fail("it started"))


def refused(words: list[str], code: str, status: int) -> dict[str, Any]:
    result = typed(app, [*words, "--json"], status)
    told: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    assert told["error"]["code"] == code
    assert "ready" not in told
    return told


FILES: dict[str, tuple[dict[str, Any], str, int]] = {
    "no-agreement": ({"agreement": "/nowhere"}, "file-unreadable", Exit.UNUSABLE),
    "no-collateral": ({"collateral": "/nowhere"}, "file-unreadable", Exit.UNUSABLE),
    "unsigned": ({"agreement": "unsigned.json"}, "agreement-incomplete", Exit.NOT_ADMITTED),
    "not-allowed": ({"allow_simulation": None}, "simulation-not-allowed", Exit.NOT_ADMITTED),
    "passphrase": ({"passphrase_file": "wrong"}, "passphrase-wrong", Exit.UNUSABLE),
    "no-party": ({"party": "/nowhere"}, "file-unreadable", Exit.UNUSABLE),
    "no-address": ({"to": "127.0.0.1"}, "address-malformed", Exit.UNUSABLE),
    "no-enclave": ({"enclave": "another"}, "enclave-not-in-policy", Exit.UNUSABLE),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_do_not_fit(desk: Desk, nowhere: tuple[str, int], case: str) -> None:
    """Told at once, before anything listens or is connected to."""
    changed, code, status = FILES[case]
    given = dict(changed)
    to = given.pop("to", Address(*nowhere))
    for name in ("agreement", "passphrase_file"):
        if name in given and not str(given[name]).startswith("/"):
            given[name] = desk.folder / given[name]
    refused(desk.client(to, **given), code, status)


def test_nobody_listens(desk: Desk, nowhere: tuple[str, int]) -> None:
    refused(desk.client(Address(*nowhere)), "peer-unreachable", Exit.PEER)


def test_a_server_of_plain_tls(desk: Desk) -> None:
    """B05."""
    with tls_server([certificate()], KEY) as server:
        refused(desk.client(server.address), "socket-handshake-failed", Exit.PEER)
        assert server.received == b""


def test_a_silent_server(desk: Desk) -> None:
    with silent_server() as place:
        refused(desk.client(place, timeout=0.1), "deadline-exceeded", Exit.PEER)


def test_an_enclave_of_another_machine(desk: Desk, study: Study) -> None:
    """B09: what is verified at the start is what each connection needs."""
    elsewhere = study.world.with_platform()
    attester = PlatformAttester(elsewhere.platform)
    identity = EnclaveIdentity.create(attester, study.policy.digest, at=NOW)
    lists = desk.file("other-collateral.json", elsewhere.collateral().raw)
    with listening(study, identity=identity) as listener:
        told = refused(
            desk.client(listener.address, collateral=lists), "machine-not-listed", Exit.NOT_ADMITTED
        )
        assert told["error"]["fix"]


def test_a_local_port_that_is_taken(desk: Desk, study: Study, nowhere: tuple[str, int]) -> None:
    with listening(study) as listener:
        words = desk.client(listener.address, listen=Address(*nowhere))
        refused(words, "listener-unusable", Exit.UNUSABLE)


SERVER: dict[str, tuple[dict[str, Any], str, int]] = {
    "no-agreement": ({"agreement": "/nowhere"}, "file-unreadable", Exit.UNUSABLE),
    "unsigned": ({"agreement": "unsigned.json"}, "agreement-incomplete", Exit.NOT_ADMITTED),
    "not-allowed": ({"allow_simulation": None}, "simulation-not-allowed", Exit.NOT_ADMITTED),
    "no-guest": ({"attester": "tdx"}, "tdx-absent", Exit.UNUSABLE),
    "no-attester": ({"attester": "nonsense"}, "attester-unknown", Exit.UNUSABLE),
    "no-folder": (
        {"attester": "simulation:/nowhere"},
        "simulation-folder-unusable",
        Exit.UNUSABLE,
    ),
    "no-target": ({"to": "nonsense"}, "address-malformed", Exit.UNUSABLE),
    "no-listener": ({"listen": "nonsense"}, "address-malformed", Exit.UNUSABLE),
}


@pytest.mark.parametrize("case", SERVER)
def test_a_server_that_does_not_start(desk: Desk, case: str) -> None:
    changed, code, status = SERVER[case]
    given = dict(changed)
    if given.get("agreement") == "unsigned.json":
        given["agreement"] = desk.folder / "unsigned.json"
    refused(desk.server(**given), code, status)


def test_a_port_of_the_guest_that_is_taken(desk: Desk, nowhere: tuple[str, int]) -> None:
    refused(desk.server(listen=Address(*nowhere)), "listener-unusable", Exit.UNUSABLE)


@pytest.mark.parametrize(
    "words", [["client"], ["server"], ["client", "x:1"], ["server", "--to", "x:1"], ["neither"]]
)
def test_words_that_are_missing(words: list[str]) -> None:
    typed(app, words, Exit.USAGE)


def test_the_examples_name_what_exists() -> None:
    """`--help` of each has an example whose options are its own."""
    for command in ("client", "server"):
        help_text = typed(app, [command, "--help"]).output
        example = help_text.partition("Example:")[2]
        assert f"ratls tunnel {command}" in " ".join(example.split())
