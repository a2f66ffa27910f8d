"""Three locks stand between a simulated root and belief: distribution, policy, command."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ratls.attester_option import resolve_attester
from simulation.folder import write
from simulation.intel import Intel, root_name
from tests.support.intel import AT, World
from tests.support.refusal import count_refusal, refused
from verifier import errors, modes
from verifier.anchors import Mode, TrustAnchors
from verifier.certificate import RootUntrusted
from verifier.modes import SimulationNotAllowed, SimulationNotInstalled
from verifier.verify import QuoteCheck

ROOT = Path(__file__).parent.parent.parent
SWITCHES = (
    "RATLS_SIMULATION",
    "RATLS_ALLOW_SIMULATION",
    "RATLS_MODE",
    "RATLS_ROOT",
    "RATLS_TRUST_ANCHORS",
    "RATLS_INSECURE",
    "RATLS_DEBUG",
    "SGX_MODE",
    "SGX_DEBUG",
    "SIMULATION",
    "ALLOW_SIMULATION",
    "RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE",
    "RA_TLS_ALLOW_OUTDATED_TCB_INSECURE",
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the ratls-simulation distribution."""
    monkeypatch.setattr(modes, "entry_points", lambda **_: EntryPoints())


def test_all_three_locks_open_gives_the_simulated_root(world: World) -> None:
    """The accepted twin: installed, named, allowed; and the verdict says what it is worth."""
    roots = modes.anchors_for(root_name(world.intel.root), allow_simulation=True)
    verified = world.verify(roots=roots)
    assert verified.mode is roots.mode is Mode.SIMULATION


def test_simulated_quote_is_shown_to_a_production_verifier(world: World) -> None:
    """X01: every byte has Intel's form, every signature holds; only the root is another."""
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        world.verify(roots=TrustAnchors.intel())


@pytest.mark.usefixtures("production")
def test_first_lock_without_the_distribution_nothing_names_another_root(world: World) -> None:
    """X03: policy and command ask for it, but what could answer is not installed."""
    assert modes.known_roots() == {"intel"}
    with refused(SimulationNotInstalled):
        modes.anchors_for(root_name(world.intel.root), allow_simulation=True)


def test_second_lock_the_policy_names_another_simulated_root(world: World) -> None:
    """A simulation of one's own must not pass for the one that all parties agreed on."""
    agreed = modes.anchors_for(root_name(Intel.create(AT).root), allow_simulation=True)
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        world.verify(roots=agreed)


def test_second_lock_the_policy_says_intel(world: World) -> None:
    """`--allow-simulation` permits what a policy names; it never replaces it."""
    roots = modes.anchors_for("intel", allow_simulation=True)
    assert roots == TrustAnchors.intel()
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        world.verify(roots=roots)


def test_third_lock_the_command_does_not_allow_it(world: World) -> None:
    with refused(SimulationNotAllowed):
        modes.anchors_for(root_name(world.intel.root), allow_simulation=False)


@pytest.mark.parametrize("value", ["1", "true", "simulation"])
def test_no_environment_variable_changes_a_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """X02: whoever controls the host controls the environment."""
    for name in SWITCHES:
        monkeypatch.setenv(name, value)
    with refused(SimulationNotAllowed):
        modes.anchors_for(root_name(world.intel.root), allow_simulation=False)
    with refused(RootUntrusted, check=QuoteCheck.PCK_CHAIN):
        world.verify(roots=modes.anchors_for("intel", allow_simulation=False))


@pytest.fixture
def platform_folder(world: World, tmp_path: Path) -> str:
    write(world.intel, world.platform, tmp_path)
    return f"simulation:{tmp_path / 'platform'}"


def test_an_enclave_that_may_simulate_gets_its_attester(platform_folder: str) -> None:
    """The accepted twin of the next two."""
    assert resolve_attester(platform_folder, allow_simulation=True).mode is Mode.SIMULATION


def test_an_enclave_simulates_without_being_told(platform_folder: str) -> None:
    """A production entry point that is given a simulated platform must not start with it."""
    with refused(SimulationNotAllowed):
        resolve_attester(platform_folder, allow_simulation=False)


@pytest.mark.usefixtures("production")
def test_an_enclave_simulates_without_the_distribution(platform_folder: str) -> None:
    with refused(SimulationNotInstalled):
        resolve_attester(platform_folder, allow_simulation=True)


@pytest.mark.parametrize("path", sorted((ROOT / "simulation").glob("*.py")), ids=lambda p: p.stem)
def test_nothing_that_simulates_reads_the_environment(path: Path) -> None:
    """X02: no variable can bring a simulation about. A stage passes its own on to children."""
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert path.stem in {"demo", "stage"} or not names & {"environ", "environb", "getenv"}


def command() -> typer.Typer:
    app = typer.Typer()

    def show(allow_simulation: bool) -> None:
        typer.echo(f"allowed: {allow_simulation}")

    app.command()(modes.with_simulation_option(show))
    return app


def test_the_option_exists_with_the_distribution_and_is_off() -> None:
    runner = CliRunner()
    assert runner.invoke(command(), []).output == "allowed: False\n"
    assert runner.invoke(command(), ["--allow-simulation"]).output == "allowed: True\n"


@pytest.mark.usefixtures("production")
def test_the_option_does_not_exist_in_production() -> None:
    count_refusal()
    runner = CliRunner()
    assert runner.invoke(command(), []).output == "allowed: False\n"
    assert runner.invoke(command(), ["--allow-simulation"]).exit_code == errors.Exit.USAGE
