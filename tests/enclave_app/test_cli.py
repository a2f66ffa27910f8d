"""`ratls enclave serve` as it is typed: the ready line, orderly ends, and what bad input gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratls.address import Address
from ratls.cli import build
from ratls.probe import probe
from simulation.folder import write
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.refusal import count_refusal
from verifier.errors import Exit


@pytest.fixture(scope="module")
def folder(world: EnclaveWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an operator has: the agreement, and the platform of a simulated Intel."""
    where = tmp_path_factory.mktemp("operator")
    write(world.intel.intel, world.intel.platform, where / "intel")
    agreement = world.complete.agreement
    (where / "policy.agreement.json").write_bytes(agreement.encode())
    (where / "unsigned.json").write_bytes(
        world.consortium.agreement(signers=["alice-clinic"]).encode()
    )
    (where / "damaged.json").write_bytes(agreement.encode().replace(b'"sig": "', b'"sig": "AAAA'))
    return where


def arguments(folder: Path, **changed: str | None) -> list[str]:
    given: dict[str, str | None] = {
        "--agreement": str(folder / "policy.agreement.json"),
        "--listen": "127.0.0.1:0",
        "--attester": f"simulation:{folder / 'intel' / 'platform'}",
        "--allow-simulation": "",
    }
    given |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    line = ["enclave", "serve"]
    for option, value in given.items():
        line += [] if value is None else [option, value] if value else [option]
    return line


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, Exit.YES), (signal.SIGINT, Exit.INTERRUPTED)]
)
def test_serves_until_told_to_stop(folder: Path, number: signal.Signals, status: Exit) -> None:
    with subprocess.Popen(
        [Path(sys.executable).with_name("ratls"), *arguments(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        line = child.stdout.readline()
        word, address = line.split()
        assert word == "ready"
        assert probe(Address.parse(address), timeout=10)
        child.send_signal(number)
        assert child.wait(timeout=20) == status
        assert child.stdout.read() == "", "one line and nothing else"
        assert "SIMULATION" in child.stderr.read()


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"agreement": "no-such-file"}, Exit.UNUSABLE, "file-unreadable"),
        ({"agreement": "{folder}/intel/root.txt"}, Exit.UNUSABLE, "envelope-malformed"),
        ({"agreement": "{folder}/unsigned.json"}, Exit.NOT_ADMITTED, "agreement-incomplete"),
        ({"agreement": "{folder}/damaged.json"}, Exit.NOT_ADMITTED, "signature-invalid"),
        ({"listen": "127.0.0.1"}, Exit.UNUSABLE, "address-malformed"),
        ({"listen": "203.0.113.1:0"}, Exit.UNUSABLE, "listen-address-unusable"),
        ({"attester": "sgx"}, Exit.UNUSABLE, "attester-unknown"),
        ({"attester": "simulation:no-such-folder"}, Exit.UNUSABLE, "simulation-folder-unusable"),
        ({"allow_simulation": None}, Exit.NOT_ADMITTED, "simulation-not-allowed"),
    ],
)
def test_bad_input(folder: Path, changed: dict[str, str | None], status: Exit, code: str) -> None:
    """One line that names the thing and what to do, an exit status, never a traceback."""
    count_refusal()
    given = {k: v.format(folder=folder) if v else v for k, v in changed.items()}
    outcome = CliRunner().invoke(build(), arguments(folder, json="", **given))
    assert outcome.exit_code == status, outcome.output
    error = json.loads(outcome.stdout.splitlines()[-1])["error"]
    assert error["code"] == code
    assert error["fix"]


def test_port_in_use(folder: Path, live: LiveEnclave) -> None:
    count_refusal()
    outcome = CliRunner().invoke(build(), arguments(folder, json="", listen=str(live.address)))
    assert outcome.exit_code == Exit.UNUSABLE
    assert json.loads(outcome.stdout.splitlines()[-1])["error"]["code"] == "listen-address-unusable"


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE", "GRPC_VERBOSITY"])
def test_environment_that_would_write_keys_or_rows(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L03: the host chooses the environment."""
    count_refusal()
    monkeypatch.setenv(name, "all")
    outcome = CliRunner().invoke(build(), arguments(folder, json=""))
    assert outcome.exit_code == Exit.UNUSABLE
    assert json.loads(outcome.stdout)["error"]["code"] == "environment-unsafe"
