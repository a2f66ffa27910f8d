"""`import ratls`, as a stranger uses it: what is there, what it loads, what it refuses."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import ratls
from policy.admission import EnclaveNotInPolicy
from policy.agreement import AgreementIncomplete
from policy.party import create_party
from policy.signing import AnchorDiffers
from ratls.address import Address
from ratls.api import ReportDataDiffers
from ratls.sockets import AttestedSocket, Listener
from simulation.folder import write
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.parties import PASSPHRASE
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from verifier.acceptance import TcbStatusUnaccepted
from verifier.files import FileUnreadable
from verifier.modes import SimulationNotAllowed
from verifier.quote import Quote

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(ratls.__all__)
TRANSPORTS = ("flight", "grpc", "http", "sockets", "tunnel")


# What is there


def test_every_name_is_there_and_nothing_is_loaded_before_it_is_asked_for() -> None:
    assert {name for name in dir(ratls) if name[0] != "_"} == {*NAMES, *TRANSPORTS}
    for name in (*NAMES, *TRANSPORTS):
        assert getattr(ratls, name) is not None
    with pytest.raises(AttributeError):
        _ = ratls.no_such_name  # type: ignore[attr-defined]
    heavy = ["grpc", "pyarrow", "numpy", "OpenSSL", "cryptography", "pydantic", "ratls.api"]
    code = f"import sys, ratls; dir(ratls); print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_quote_is_judged_without_the_libraries_of_a_channel() -> None:
    heavy = ["grpc", "pyarrow", "numpy", "OpenSSL"]
    code = (
        f"import sys, ratls; ratls.verify_quote; print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_types_and_code_name_the_same_things() -> None:
    """The types are in a file of their own: no code of `ratls` imports to the right."""
    stub = ast.parse((ROOT / "ratls" / "__init__.pyi").read_text("utf-8"))
    found = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(found) == sorted([*NAMES, *TRANSPORTS])
    for name, (module, original) in found.items():
        thing = getattr(ratls, name)
        assert getattr(sys.modules[module], original) is thing, name
    to_the_right = {name for name, (module, _) in found.items() if module.startswith("provider")}
    assert to_the_right == {"Client", "Result"}


def test_a_stranger_has_the_types(tmp_path: Path) -> None:
    """`py.typed` is found in an editable install, from any folder."""
    (tmp_path / "theirs.py").write_text(
        "import ratls\n"
        "reveal_type(ratls.verify_quote(b'', 'c.json', report_data=None).tcb.status)\n"
        "reveal_type(ratls.Client().release(b'', visits=1)['visits'].commit.rows)\n"
        "ratls.verify_quote(b'', 'c.json')  # WRONG\n"
        "ratls.nothing  # WRONG\n"
        "mine = ratls.enclave_end(policy='p', attester='tdx', collateral='c', client=True)\n"
        "place = ratls.Address('127.0.0.1', 0)\n"
        "with ratls.Listener(place, mine.identity, mine.policy, enclaves=mine.verifier) as there:\n"
        "    reveal_type(ratls.sockets.connect(there.address, mine.identity, mine.verifier))\n"
        "class Rows(ratls.flight.Service): ...\n"
        "ratls.flight.Server(place, mine.identity, mine.policy, Rows()).close()\n"
        "ratls.grpc.channel('127.0.0.1:1', mine.identity, mine.verifier)  # WRONG\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert '"verifier.status.TcbStatus"' in done.stdout, done.stdout
    assert 'type is "int"' in done.stdout
    assert '"ratls.attested_socket.AttestedSocket"' in done.stdout
    errors = {int(line) for line in re.findall(r"theirs\.py:(\d+): error", done.stdout)}
    assert errors == {4, 5, 12}, done.stdout


def test_what_is_raised_is_caught_by_one_name() -> None:
    """Each class that a docstring of the API says is raised is a refusal with code and fix."""
    assert issubclass(ratls.ReportDataDiffers, ratls.RatlsError)
    for name in ("verify_quote", "connect", "enclave_end", "own_end"):
        assert "RatlsError" in (inspect.getdoc(getattr(ratls, name)) or "")


# A quote


def test_a_quote_about_my_bytes(study: Study) -> None:
    world, mine = study.world, bytes(range(64))
    held = {"at": world.at, "roots": world.intel.anchors()}
    raw, bundle = world.quote(mine), world.collateral()
    verified = ratls.verify_quote(raw, bundle, report_data=mine, **held)
    assert verified.quote.report.report_data == mine
    assert ratls.verify_quote(raw, bundle.raw, report_data=None, **held).tcb == verified.tcb
    with refused(ReportDataDiffers):
        ratls.verify_quote(raw, bundle, report_data=bytes(64), **held)
    with refused(ReportDataDiffers):  # a prefix is not enough
        ratls.verify_quote(raw, bundle, report_data=mine[:32], **held)
    with pytest.raises(TypeError):
        ratls.verify_quote(raw, bundle)  # type: ignore[call-arg]


def test_a_platform_that_is_out_of_date(study: Study) -> None:
    def aged(info: dict[str, Any]) -> dict[str, Any]:
        levels = [level | {"tcbStatus": "OutOfDate"} for level in info["tcbLevels"]]
        return info | {"tcbLevels": levels}

    world, bundle = study.world, study.world.collateral(tcb_info=aged)
    held: dict[str, Any] = {"at": world.at, "roots": world.intel.anchors(), "report_data": None}
    with refused(TcbStatusUnaccepted) as seen:
        ratls.verify_quote(world.quote(), bundle, **held)
    assert seen.error.fix
    old = {"statuses": ["UpToDate", "OutOfDate"], "advisories": ADVISORIES}
    assert ratls.verify_quote(world.quote(), bundle, **held, **old).tcb.status == "OutOfDate"


ADVISORIES = [f"INTEL-SA-{number:05d}" for number in range(1500)]


# A connection


@pytest.fixture
def listening(study: Study) -> Iterator[Address]:
    """An enclave that answers each question with the same in capitals."""

    def answer(connection: AttestedSocket) -> None:
        connection.sendall(connection.recv(100).upper())

    with Listener(Address(LOOPBACK, 0), study.identity(), lambda: study.policy) as listener:
        thread = threading.Thread(target=listener.serve, args=[answer], daemon=True)
        thread.start()
        yield listener.address
    thread.join(HANG_LIMIT)


@pytest.fixture
def mine(study: Study, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "agreed.json").write_bytes(study.parties.agreement_bytes(study.policy.raw.decode()))
    (tmp_path / "collateral.json").write_bytes(study.expectation.collateral.raw)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    return {
        "policy": tmp_path / "agreed.json",
        "party": study.parties.alice.folder,
        "collateral": tmp_path / "collateral.json",
        "passphrase_file": tmp_path / "passphrase",
        "allow_simulation": True,
    }


def test_an_enclave_that_proved_itself_answers(listening: Address, mine: dict[str, Any]) -> None:
    with closing(ratls.connect(str(listening), **mine)) as connection:
        assert connection.fresh is not None
        connection.sendall(b"question")
        assert connection.recv(100) == b"QUESTION"


def test_nobody_is_connected_to_without_the_third_lock(
    listening: Address, mine: dict[str, Any]
) -> None:
    """X01: the agreement names a simulated root, and the caller did not allow one."""
    with refused(SimulationNotAllowed):
        ratls.connect(str(listening), **mine | {"allow_simulation": False})


def test_an_agreement_that_this_party_did_not_sign(
    study: Study, mine: dict[str, Any], tmp_path: Path
) -> None:
    """The file names the enclave that rows go to: this party's own signature must be on it."""
    create_party(tmp_path / "another", "alice-clinic", PASSPHRASE, study.world.at)
    with refused(AnchorDiffers):
        ratls.own_end(**mine | {"party": tmp_path / "another"})
    assert ratls.own_end(**mine)


def test_what_is_shown_of_things_is_short_and_no_secret(study: Study, mine: dict[str, Any]) -> None:
    own, verifier = ratls.own_end(**mine)
    verified = study.world.verify(quote=study.world.quote())
    identity = study.identity()
    nobody = Address(LOOPBACK, 1)
    with (
        Listener(Address(LOOPBACK, 0), identity, lambda: study.policy) as listener,
        closing(ratls.sockets.connect(listener.address, own, verifier)) as connection,
    ):
        for thing in (
            own,
            verifier,
            verifier.expect(),
            study.policy,
            verified,
            study.world.collateral(),
            Quote.parse(study.world.quote()),
            identity,
            listener,
            connection,
            connection.peer,
            connection.fresh,
            ratls.flight.Client(nobody, own, verifier),
            ratls.HttpTransport(own, verifier),
            ratls.EnclaveEnd(identity, lambda: study.policy, verifier),
        ):
            text = repr(thing)
            assert len(text) < 1000, (type(thing), len(text))
            assert "PRIVATE KEY" not in text


# The enclave's end


@pytest.fixture
def guest(study: Study, mine: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What the operator of a guest has, under an agreement for what is simulated there."""
    write(study.world.intel, study.world.platform, tmp_path / "intel")
    attester = f"simulation:{tmp_path / 'intel' / 'platform'}"
    return {"policy": mine["policy"], "attester": attester, "allow_simulation": True}


def test_the_end_of_an_enclave(study: Study, guest: dict[str, Any], mine: dict[str, Any]) -> None:
    made = ratls.enclave_end(**guest)
    assert made.policy().digest == study.policy.digest
    with pytest.raises(TypeError):  # a fault of the caller's program
        _ = made.verifier
    other = ratls.enclave_end(**guest, client=True, collateral=mine["collateral"])
    assert other.verifier.expect().policy.digest == study.policy.digest
    assert "client" in repr(other)


def test_an_end_of_an_enclave_that_was_not_agreed_on(
    study: Study, guest: dict[str, Any], tmp_path: Path
) -> None:
    text = study.policy.raw.decode()
    signed = study.parties.agreement(text, signers=["bob-hospital"]).encode()
    (tmp_path / "unsigned.json").write_bytes(signed)
    with refused(AgreementIncomplete):
        ratls.enclave_end(**guest | {"policy": tmp_path / "unsigned.json"})
    with refused(SimulationNotAllowed):
        ratls.enclave_end(**guest | {"allow_simulation": False})
    with refused(FileUnreadable):  # told now, and not to the first enclave that connects
        ratls.enclave_end(**guest, collateral=tmp_path / "nowhere")


def test_one_enclave_of_the_agreement(
    study: Study, listening: Address, mine: dict[str, Any]
) -> None:
    agreed = study.policy.enclave[0].name
    with closing(ratls.connect(str(listening), **mine, enclave=agreed)) as connection:
        assert connection.fresh is not None
    with refused(EnclaveNotInPolicy):
        ratls.connect(str(listening), **mine, enclave="another")
