"""I02, X03, X04, X06 to X08: a careless operator, or a host that switches things on.

Each starts something that would believe, or be, less than was agreed. It does not start, or the
party's own end refuses; the universal oracle judges the rest.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import pytest

from enclave_app import server
from enclave_app.access import ServerWouldNotAuthenticate
from enclave_app.gramine_main import ArgumentsUnexpected
from policy.document import Policy, PolicyInvalid
from policy.state import StateCorrupt
from provider.exchange import _study_state
from ratls.address import Address
from ratls.attester_option import resolve_attester
from ratls.certificate import EvidenceMissing
from ratls.gramine import GramineAttester, RemoteAttestationOff, SgxAbsent
from ratls.identity import EnclaveIdentity
from tests.attacks.seat.test_downgrade import KEY, certificate
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.flight_peers import tls_server
from tests.support.gramine import StandInDevice
from tests.support.oracle import Scene, universal_oracle
from tests.support.parties import ROOTS
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from verifier import modes
from verifier.errors import Exit
from verifier.modes import SimulationNotInstalled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = ("verifier", "policy", "ratls", "scheduler", "provider", "enclave_app")


def test_a_server_that_would_ask_for_no_certificate(
    scene: Scene, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I02: without a list of clients Flight serves anybody; so this one does not start."""
    with (
        universal_oracle(scene),
        monkeypatch.context() as changed,
        refused(ServerWouldNotAuthenticate),
    ):
        changed.setattr(Policy, "voters", property(lambda _: ()))
        server.start_server(live.enclave, Address("127.0.0.1", 0), live.enclave._log)


@contextmanager
def production(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An installation without the simulation's distribution, and what else is changed in it."""
    with monkeypatch.context() as changed:
        changed.setattr(modes, "entry_points", lambda **_: EntryPoints())
        yield changed
    _study_state.cache_clear()  # it is kept for a folder, with what is installed


def test_a_root_that_is_added(
    scene: Scene, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """X03: to each place where other programs look for one; a policy that names it, and a caller
    who allows it, change nothing."""
    pem = alice.world.intel.intel.root.pem
    for name in ("intel.pem", "ca-certificates.crt", "root.pem"):
        (tmp_path / name).write_text(pem)
    with universal_oracle(scene, alice=StateCorrupt), production(monkeypatch) as changed:
        for name in ("SSL_CERT_FILE", "RATLS_ROOT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
            changed.setenv(name, str(tmp_path / "root.pem"))
        for name in ("SSL_CERT_DIR", "RATLS_ROOTS", "RATLS_TRUST_ANCHORS"):
            changed.setenv(name, str(tmp_path))
        with refused(SimulationNotInstalled):
            modes.anchors_for(alice.world.policy.platform.root, allow_simulation=True)
        with alice.refuses(StateCorrupt):  # nor can the policy be read
            alice.push(alice.world.task())
        assert relay.connections == []


def test_the_simulation_in_what_is_shipped() -> None:
    """X04: it is in no list of shipped files, and without it nothing simulates."""
    count_refusal()
    listed = (ROOT / "tests" / "vectors" / "wheels.txt").read_text("utf-8").split("# ")[1]
    assert listed.startswith("ratls\n")
    measured = (ROOT / "enclave_app" / "measured.txt").read_text("utf-8").split()
    assert len(measured) > 50
    assert not [name for name in measured if "simulation" in name]
    assert "simulation" not in listed
    imports = [name for path in _shipped() for name in _imported(path)]
    assert not [name for name in imports if name.split(".")[0] == "simulation"]


def _shipped() -> Iterator[Path]:
    for package in SHIPPED:
        yield from (p for p in (ROOT / package).rglob("*.py") if "_pb2" not in p.name)  # made


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_an_attester_that_simulates(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """X04, X02: the operator's end, where the distribution is absent."""
    with (
        universal_oracle(scene),
        production(monkeypatch),
        refused(SimulationNotInstalled),
    ):
        resolve_attester("simulation:anything", allow_simulation=True)


DEBUG = 'attributes = { flags = "0700000000000000" }'
CHANCE = 'attributes = { flags_mask = "0500000000000000" }'  # DEBUG may be either


@pytest.mark.parametrize("changed", [DEBUG, CHANCE, "root"])
def test_a_policy_that_lets_debug_or_simulation_in(scene: Scene, alice: Desk, changed: str) -> None:
    """X06: it is refused while it is read, so nobody can accept or sign it."""
    text = alice.world.policy.raw.decode()
    roots = ROOTS
    if changed == "root":
        roots = frozenset({"intel"})
    else:
        assert "min_isv_svn = 0" in text
        text = text.replace("min_isv_svn = 0", f"min_isv_svn = 0\n{changed}")
    with universal_oracle(scene), refused(PolicyInvalid) as seen:
        Policy.parse(text.encode(), known_roots=roots)
    assert isinstance(seen.error, PolicyInvalid)
    [problem] = seen.error.problems
    assert problem.path in ("platform.root", "enclave[0].attributes.flags")
    assert Policy.parse(alice.world.policy.raw, known_roots=ROOTS)


@pytest.mark.parametrize(("kind", "leaf"), [("none", RemoteAttestationOff), (None, SgxAbsent)])
def test_a_start_without_evidence(
    world: EnclaveWorld, scene: Scene, kind: str | None, leaf: Any
) -> None:
    """X07, at the enclave: before it has a key, and so before it listens."""
    device = StandInDevice(world.intel.platform, kind=kind)
    with universal_oracle(scene), refused(leaf):
        attester = GramineAttester(device.files)
        EnclaveIdentity.create(attester, world.policy.digest, at=NOW)
    assert device.made == 0


def test_a_server_that_started_without_evidence(scene: Scene, alice: Desk, relay: Relay) -> None:
    """X07, at the peer: no plain TLS, whoever listens."""
    with universal_oracle(scene, alice=EvidenceMissing), tls_server([certificate()], KEY) as plain:
        relay.point_at((plain.address.host, plain.address.port))
        with alice.refuses(EvidenceMissing):
            alice.push(alice.world.task())
        assert plain.received == b""


_KEYS = re.compile(r"BEGIN (?:EC |RSA |ENCRYPTED )?PRIVATE KEY")
_HOOKS = re.compile(
    r"insecure|unsafe|dangerous|no_?verify|skip_?(?:check|verif)|override_?(?:check|verdict|root)"
    r"|trust_?all|fixed_?seed|test_?(?:key|mode|hook)|debug"
)


def test_keys_and_hooks_of_tests() -> None:
    """X08: no key stands in a shipped file, and no function takes an argument that would switch a
    check off."""
    count_refusal()
    hooks = []
    for path in _shipped():
        text = path.read_text("utf-8")
        assert not _KEYS.search(text), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
                hooks += [(path.name, a.arg) for a in given if _HOOKS.search(a.arg)]
    assert hooks == []


def test_arguments_for_the_production_enclave(scene: Scene) -> None:
    """X08: whoever starts it cannot tell it anything."""
    count_refusal()
    entry = [sys.executable, "-I", "-B", "-m", "enclave_app.gramine_main", "--test-key"]
    with universal_oracle(scene):
        done = subprocess.run(entry, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.USAGE
    assert f"[{ArgumentsUnexpected.code}]" in done.stderr
    assert done.stdout == ""


def test_every_row_is_staged() -> None:
    text = Path(__file__).read_text("utf-8").split('"""', 2)[2]
    assert not [row for row in ("I02", "X03", "X04", "X06", "X07", "X08") if row not in text]
