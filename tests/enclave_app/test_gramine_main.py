"""The production entry point: nothing to choose, and no way around SGX or Intel's root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enclave_app import gramine_main, room
from enclave_app.application import AgreementOfAnotherEnclave, AttesterModeMismatch
from enclave_app.gramine_main import ArgumentsUnexpected
from policy.agreement import AgreementIncomplete, SignatureInvalid
from policy.document import PolicyInvalid
from policy.envelope import EnvelopeMalformed
from ratls.address import Address
from ratls.appraise import Expectation, appraise_certificate
from ratls.certificate import check_certificate
from ratls.claims import CertificateClaims
from ratls.evidence import Evidence
from ratls.gramine import GramineAttester, RemoteAttestationOff, SgxAbsent
from ratls.probe import probe
from simulation.folder import write
from tests.support.enclave import MR_ENCLAVE, NOW, EnclaveWorld
from tests.support.gramine import StandInDevice
from tests.support.parties import Consortium
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier.anchors import TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.collateral import Collateral
from verifier.errors import Exit, RatlsError
from verifier.files import FileUnreadable
from verifier.verify import QuoteCheck

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
ENTRY = [sys.executable, "-I", "-B", "-m", "enclave_app.gramine_main"]


@pytest.fixture(scope="module")
def production(world: EnclaveWorld) -> Consortium:
    """The parties, under a policy that demands hardware."""
    return Consortium.create(
        NOW,
        root="intel",
        mr_enclave=MR_ENCLAVE.hex(),
        machines=[f"ppid:{world.intel.platform.tcb.ppid.hex()}"],
    )


@pytest.fixture
def agreement(production: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's file, at a place of the test instead of the constant one."""
    path = tmp_path / "agreement.json"
    path.write_bytes(production.agreement_bytes())
    monkeypatch.setattr(gramine_main, "AGREEMENT", path)
    # A machine that tests may have less memory than an enclave must.
    monkeypatch.setattr(room, "require_memory", lambda limits: None)
    return path


@pytest.fixture
def device(world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch) -> StandInDevice:
    """What the host offers in the place of `/dev/attestation`."""
    stand_in = StandInDevice(world.intel.platform, mr_enclave=MR_ENCLAVE)
    # Should an agreement be accepted that is not, the test ends instead of serving.
    monkeypatch.setattr(gramine_main, "LISTEN", "203.0.113.1:1")
    monkeypatch.setattr(gramine_main, "GramineAttester", lambda: GramineAttester(stand_in.files))
    return stand_in


@pytest.mark.parametrize("arguments", [["--attester", "simulation:x"], ["--help"], [""]])
def test_arguments(arguments: list[str]) -> None:
    """X08: the process takes nothing from whoever starts it, outside the manifest."""
    count_refusal()
    done = subprocess.run([*ENTRY, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == Exit.USAGE
    assert f"[{ArgumentsUnexpected.code}]" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("variables", [{}, {"RATLS_SIMULATION": "1", "PYTHONPATH": "/tmp"}])
def test_started_outside_sgx(variables: dict[str, str]) -> None:
    """X07, X02: what `python`, or gramine-direct, starts has no evidence, and serves nothing."""
    count_refusal()
    environment = os.environ | variables
    done = subprocess.run(ENTRY, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == Exit.UNUSABLE
    assert f"[{SgxAbsent.code}]" in done.stderr
    assert done.stdout == "", "nobody is told to connect"


@pytest.mark.parametrize("name", ["SSLKEYLOGFILE", "GRPC_TRACE"])
def test_environment_that_would_write_keys_or_rows(name: str) -> None:
    """L03: should a manifest ever pass it on."""
    count_refusal()
    environment = os.environ | {name: "all"}
    done = subprocess.run(ENTRY, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == Exit.UNUSABLE
    assert "[environment-unsafe]" in done.stderr


def test_nothing_of_simulation_or_of_a_party_is_loaded() -> None:
    """X04: what is imported here is measured, and a manifest may leave out the rest."""
    code = (
        "import sys, enclave_app.gramine_main, ratls.environment as e; e.prepare_process();"
        "import enclave_app.server, enclave_app.application;"
        "print({m.split('.')[0] for m in sys.modules} & {'simulation', 'provider', 'scheduler'})"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "set()\n"


CHILD = """
import sys
from pathlib import Path
from enclave_app import gramine_main, room
from ratls.gramine import AttestationDevice, GramineAttester
from simulation.attester import SimulatedAttester
from tests.support.enclave import MR_ENCLAVE
from tests.support.gramine import StandInDevice
folder = Path(sys.argv[1])
quote = SimulatedAttester(folder / "intel" / "platform", MR_ENCLAVE).quote
device = StandInDevice(None, mr_enclave=MR_ENCLAVE, answer=quote)
room.require_memory = lambda limits: None
gramine_main.AGREEMENT = folder / "agreement.json"
gramine_main.LISTEN = "127.0.0.1:0"
gramine_main.GramineAttester = lambda: GramineAttester(device.files)
sys.exit(gramine_main.main([]))
"""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """The entry point in a process of its own that has said `ready`, on a stand-in device."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            assert line.startswith("ready "), child.stderr and child.stderr.read()
            yield child, Address.parse(line.split()[1])
        finally:
            child.kill()


def test_serves_as_production_and_stops_when_told(
    world: EnclaveWorld, production: Consortium, agreement: Path
) -> None:
    """X01: all of the path is production's; that the platform is simulated, its root betrays."""
    write(world.intel.intel, world.intel.platform, agreement.parent / "intel")
    policy = production.complete().policy
    with serving(agreement.parent) as (child, address):
        certificate = probe(address, timeout=HANG_LIMIT)
        child.send_signal(signal.SIGTERM)
        output, log = child.communicate(timeout=HANG_LIMIT)
    assert (child.returncode, output) == (Exit.YES, "")
    assert "SIMULATION" not in log
    evidence = Evidence.parse(check_certificate(certificate, NOW).evidence)
    evidence.require_bound()
    claims = CertificateClaims.parse(evidence.claims)
    assert (claims.mode, claims.policy_hash) == (b"production", policy.digest)
    expectation = Expectation(policy, Collateral.parse(world.collateral), TrustAnchors.intel())
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        appraise_certificate(certificate, expectation, at=NOW)


Spoil = Callable[[EnclaveWorld, Consortium], bytes]


@pytest.mark.parametrize(
    ("spoil", "leaf"),
    [
        # X05, M09: complete and well signed, yet another root, which this process cannot name
        (lambda w, p: w.complete.agreement.encode(), PolicyInvalid),
        (lambda w, p: p.agreement_bytes(signers=["alice-clinic"]), AgreementIncomplete),
        (lambda w, p: p.agreement_bytes().replace(b'"sig": "', b'"sig": "AAAA'), SignatureInvalid),
        (lambda w, p: p.agreement_bytes()[:-9], EnvelopeMalformed),
        (lambda w, p: b"", EnvelopeMalformed),
        (lambda w, p: bytes(17 << 20), FileUnreadable),
    ],
)
@pytest.mark.usefixtures("device")
def test_agreement_that_the_host_wrote(
    world: EnclaveWorld,
    production: Consortium,
    agreement: Path,
    spoil: Spoil,
    leaf: type[RatlsError],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """M09: the one file that is not measured is as trusted as what comes over the network."""
    count_refusal()
    agreement.write_bytes(spoil(world, production))
    assert gramine_main.main([]) == leaf.exit_status
    assert f"[{leaf.code}]" in capsys.readouterr().err


@pytest.mark.usefixtures("device")
def test_no_agreement(agreement: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count_refusal()
    agreement.unlink()
    assert gramine_main.main([]) == Exit.UNUSABLE
    assert f"[{FileUnreadable.code}]" in capsys.readouterr().err


@pytest.mark.usefixtures("agreement")
def test_manifest_that_asks_for_no_quotes(
    device: StandInDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    """X07: inside SGX, and still nothing that anyone could verify."""
    count_refusal()
    device.kind = "none"
    assert gramine_main.main([]) == Exit.UNUSABLE
    assert f"[{RemoteAttestationOff.code}]" in capsys.readouterr().err


@pytest.mark.usefixtures("agreement")
def test_agreement_for_another_manifest(
    world: EnclaveWorld, device: StandInDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known at the start, and not when the first provider refuses. A twin of those above: with the
    right measurement it is the address that cannot be listened on."""
    assert gramine_main.main([]) == Exit.UNUSABLE
    assert "[listen-address-unusable]" in capsys.readouterr().err
    count_refusal()
    device.mr_enclave = bytes(32)
    assert gramine_main.main([]) == Exit.NOT_ADMITTED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"[{AgreementOfAnotherEnclave.code}] MRENCLAVE of this enclave: " in said[0]


@pytest.mark.usefixtures("agreement", "device")
def test_manifest_with_too_small_sizes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line at the start, where a full house would otherwise end the process."""
    count_refusal()

    def refuse() -> None:
        raise room.EnclaveThreadsTooFew("threads", expected="105", found="60")

    monkeypatch.setattr(room, "require_threads", refuse)
    assert gramine_main.main([]) == Exit.UNUSABLE
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"unusable [{room.EnclaveThreadsTooFew.code}] ")


@pytest.mark.usefixtures("agreement")
def test_attester_that_simulates(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """X05: even if one were put in the place of the constant one."""
    count_refusal()
    monkeypatch.setattr(gramine_main, "GramineAttester", lambda: world.attester)
    assert gramine_main.main([]) == Exit.NOT_ADMITTED
    assert f"[{AttesterModeMismatch.code}]" in capsys.readouterr().err
