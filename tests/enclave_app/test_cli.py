"""`ratls enclave serve` as it is typed: the ready line, orderly ends, and what bad input gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pyarrow.flight as flight
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from ratls.address import Address
from ratls.cli import build
from ratls.framing import Kind, write_message
from ratls.probe import probe
from simulation.folder import write
from tests.enclave_app.agreed import computation
from tests.support.enclave import EnclaveWorld, LiveEnclave
from tests.support.refusal import count_refusal
from tests.support.waiting import HANG_LIMIT
from verifier.errors import Exit

pytestmark = pytest.mark.slow


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
    section = computation(
        "summary_statistics", 'columns = ["age"]', ["counts"], inputs=["train_party_1"]
    )
    with mock.patch("policy.references.computation_problems", return_value=()):  # an older program
        signed = world.consortium.agreement_bytes(world.consortium.policy_text(computation=section))
    (where / "one-input.json").write_bytes(signed)
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


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """A process of its own that has said `ready`."""
    with subprocess.Popen(
        [Path(sys.executable).with_name("ratls"), *arguments(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        word, address = child.stdout.readline().split()
        assert word == "ready"
        try:
            yield child, Address.parse(address)
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, Exit.YES), (signal.SIGINT, Exit.INTERRUPTED)]
)
def test_serves_until_told_to_stop(folder: Path, number: signal.Signals, status: Exit) -> None:
    with serving(folder) as (child, address):
        assert probe(address, timeout=HANG_LIMIT)
        child.send_signal(number)
        output, log = child.communicate(timeout=HANG_LIMIT)
        assert child.returncode == status
        assert output == "", "one line and nothing else"
        assert "SIMULATION" in log


def test_ends_although_a_client_stays_silent(folder: Path, world: EnclaveWorld) -> None:
    """F10: whoever keeps a stream open and says nothing would hold the process for ever."""
    count_refusal()
    alice = world.consortium.alice
    hello = write_message(
        "hello",
        nonce=bytes(32),
        task=world.task(),
        dataset="train_party_1",
        release=bytes(16),
    )
    with serving(folder) as (child, address):
        certificate = x509.load_der_x509_certificate(probe(address, timeout=HANG_LIMIT))
        client = flight.FlightClient(
            f"grpc+tls://{address}",
            tls_root_certs=certificate.public_bytes(Encoding.PEM),
            override_hostname="enclave.ratls.invalid",
            cert_chain=alice.channel_certificate_pem,
            private_key=alice.channel_key_pem,
        )
        descriptor = flight.FlightDescriptor.for_command(Kind.RELEASE.value)
        writer, reader = client.do_exchange(
            descriptor, flight.FlightCallOptions(timeout=HANG_LIMIT)
        )
        writer.write_metadata(hello)
        assert reader.read_chunk().app_metadata, "the evidence; now silence"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=HANG_LIMIT) == Exit.YES
        reader.cancel()


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"agreement": "no-such-file"}, Exit.UNUSABLE, "file-unreadable"),
        ({"agreement": "{folder}/intel/root.txt"}, Exit.UNUSABLE, "envelope-malformed"),
        ({"agreement": "{folder}/unsigned.json"}, Exit.NOT_ADMITTED, "agreement-incomplete"),
        ({"agreement": "{folder}/damaged.json"}, Exit.NOT_ADMITTED, "signature-invalid"),
        ({"agreement": "{folder}/one-input.json"}, Exit.UNUSABLE, "policy-invalid"),
        ({"listen": "127.0.0.1"}, Exit.UNUSABLE, "address-malformed"),
        ({"listen": "203.0.113.1:0"}, Exit.UNUSABLE, "listen-address-unusable"),
        ({"spill": "no-such-folder"}, Exit.UNUSABLE, "spill-folder-unusable"),
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
