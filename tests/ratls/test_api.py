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
from policy.party import create_party
from policy.signing import AnchorDiffers
from ratls.address import Address
from ratls.api import ReportDataDiffers
from ratls.sockets import AttestedSocket, Listener
from tests.support.flight_peers import LOOPBACK, Study
from tests.support.parties import PASSPHRASE
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from verifier.acceptance import TcbStatusUnaccepted
from verifier.modes import SimulationNotAllowed
from verifier.quote import Quote

ROOT = Path(__file__).parent.parent.parent
NAMES = sorted(ratls.__all__)


# What is there


def test_every_name_is_there_and_nothing_is_loaded_before_it_is_asked_for() -> None:
    assert set(NAMES) <= set(dir(ratls))
    for name in NAMES:
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
    assert sorted(found) == NAMES
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
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert '"verifier.status.TcbStatus"' in done.stdout, done.stdout
    assert 'type is "int"' in done.stdout
    errors = {int(line) for line in re.findall(r"theirs\.py:(\d+): error", done.stdout)}
    assert errors == {4, 5}, done.stdout


def test_what_is_raised_is_caught_by_one_name() -> None:
    """Each class that a docstring of the API says is raised is a refusal with code and fix."""
    assert issubclass(ratls.ReportDataDiffers, ratls.RatlsError)
    for name in ("verify_quote", "connect", "own_end"):
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
    for thing in (
        own,
        verifier,
        verified,
        study.world.collateral(),
        Quote.parse(study.world.quote()),
    ):
        text = repr(thing)
        assert len(text) < 1000, (type(thing), len(text))
        assert "PRIVATE KEY" not in text
