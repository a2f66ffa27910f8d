"""X09: a foreign package opens the simulation's lock, or adds commands to `ratls`.

With an entry point `ratls.simulation` whose anchors said PRODUCTION, a simulated quote was
`accepted, mode=production`. Each test installs a distribution as pip would leave it behind, and
looks whether a line of its code ran.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratls.attester_option import resolve_attester
from ratls.cli import build
from simulation.folder import write
from simulation.intel import root_name
from simulation.lock import Lock
from tests.support.intel import World
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from verifier import modes
from verifier.anchors import Mode, TrustAnchors
from verifier.errors import Exit
from verifier.modes import ForeignEntryPoint

pytestmark = pytest.mark.slow

RATLS = str(Path(sys.executable).with_name("ratls"))
FOREIGN = '''
import pathlib
pathlib.Path(__file__).with_name("ran").touch()

class Lock:
    def anchors(self, digest):
        from verifier.anchors import Mode, TrustAnchors
        return TrustAnchors(Mode.PRODUCTION, digest, "Intel SGX Root CA")

    def attester(self, argument):
        return self

LOCK = Lock()

def command() -> None:
    """Anything."""
'''


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], Path]:
    """Make a distribution `name` with one entry point; its folder, which stands on the path."""

    def installed(name: str, group: str, entry: str) -> Path:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        (tmp_path / "foreign_code.py").write_text(FOREIGN)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return installed


Install = Callable[[str, str, str], Path]


@pytest.mark.parametrize("name", ["handy-tools", "ratls-simulations", "ratls", "simulation"])
def test_a_foreign_lock_hands_out_production_anchors(
    world: World, install: Install, name: str
) -> None:
    """Also one whose name looks like ours: only ratls-simulation is the simulation."""
    folder = install(name, "ratls.simulation", "lock = foreign_code:LOCK")
    with refused(ForeignEntryPoint):
        modes.anchors_for(root_name(world.intel.root), allow_simulation=True)
    with refused(ForeignEntryPoint):
        resolve_attester("simulation:anything", allow_simulation=True)
    assert not (folder / "ran").exists()
    # Who believes Intel alone is not kept from it.
    assert modes.anchors_for("intel", allow_simulation=True) == TrustAnchors.intel()


def test_a_foreign_lock_without_the_simulation_opens_nothing(
    world: World, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A production installation stays one: no option, no other root in a policy."""
    folder = install("handy-tools", "ratls.simulation", "lock = foreign_code:LOCK")
    real = modes.entry_points

    def others(**group: str) -> list[Any]:
        return [e for e in real(**group) if e.dist is None or e.dist.name != "ratls-simulation"]

    monkeypatch.setattr(modes, "entry_points", others)
    assert not modes.simulation_installed()
    assert modes.known_roots() == {"intel"}
    with refused(ForeignEntryPoint):
        modes.anchors_for(root_name(world.intel.root), allow_simulation=True)
    assert not (folder / "ran").exists()


def test_whatever_our_own_lock_returns_is_a_simulation(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind: the mode is decided on this side, for anchors and for attesters."""
    write(world.intel, world.platform, tmp_path)
    honest = resolve_attester(f"simulation:{tmp_path / 'platform'}", allow_simulation=True)
    report = bytes(64)
    quote = honest.quote(report)

    class Liar:
        mode = Mode.PRODUCTION

        def __init__(self, argument: str) -> None: ...

        def quote(self, report_data: bytes) -> bytes:
            return quote

    def anchors(self: object, digest: bytes) -> TrustAnchors:
        return TrustAnchors(Mode.PRODUCTION, digest, "Intel SGX Root CA")

    monkeypatch.setattr(Lock, "attester", lambda self, argument: Liar(argument))
    monkeypatch.setattr(Lock, "anchors", anchors, raising=False)
    roots = modes.anchors_for(root_name(world.intel.root), allow_simulation=True)
    assert (roots.mode, roots.name) == (Mode.SIMULATION, root_name(world.intel.root))
    lying = resolve_attester("simulation:x", allow_simulation=True)
    assert (lying.mode, lying.quote(report)) == (Mode.SIMULATION, quote)


@pytest.mark.parametrize("entry", ["verify", "innocent"])
def test_a_foreign_package_adds_a_command(install: Install, entry: str) -> None:
    """In the place of one of ours, or beside them: none of its lines runs in our process."""
    folder = install("handy-tools", "ratls.commands", f"{entry} = foreign_code:command")
    with refused(ForeignEntryPoint):
        build()
    count_refusal()
    done = subprocess.run(
        [RATLS, "verify", "--help"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
    )
    assert done.returncode == Exit.UNUSABLE, done.stderr
    assert ForeignEntryPoint.code in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "ran").exists()


def test_a_foreign_package_with_other_entry_points_is_nobodys_business(install: Install) -> None:
    """The twin: what does not reach for our groups stays."""
    install("handy-tools", "console_scripts", "handy = foreign_code:command")
    assert build() is not None


def test_our_own_distributions_are_found_however_they_are_installed() -> None:
    """The twin: this very environment, where both are installed editable."""
    names = {entry.name for entry in modes.own_entry_points("ratls.commands")}
    assert {"verify", "policy", "demo"} <= names
    assert [e.name for e in modes.own_entry_points("ratls.simulation")] == ["lock"]


@pytest.mark.parametrize("name", ["Ratls_Simulation", "ratls.simulation"])
def test_names_are_compared_as_indexes_compare_them(install: Install, name: str) -> None:
    """One distribution in another spelling is ours; a second beside it is one too many."""
    install(name, "ratls.simulation", "lock = simulation.lock:LOCK")
    assert modes.simulation_installed()
    assert {modes._distribution(e) for e in modes.own_entry_points("ratls.simulation")} == {
        "ratls-simulation"
    }
